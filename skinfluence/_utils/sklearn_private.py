"""The private parts of scikit-learn that the package uses.

A rename in scikit-learn breaks this file and no other.
"""

from sklearn.base import _fit_context
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    RealNotInt,
    StrOptions,
    validate_params,
)
from sklearn.utils.metadata_routing import _routing_enabled
from sklearn.utils.validation import (
    _check_feature_names,
    _check_method_params,
    _check_n_features,
    _is_fitted,
    _num_samples,
)

__all__ = [
    "BaseSearchCV",
    "HasMethods",
    "Interval",
    "Options",
    "RealNotInt",
    "StrOptions",
    "_check_feature_names",
    "_check_method_params",
    "_check_n_features",
    "_fit_context",
    "_is_fitted",
    "_num_samples",
    "_routing_enabled",
    "check_parameters",
    "validate_params",
]


def check_parameters(estimator):
    """Raise an InvalidParameterError if a parameter of an estimator is out of its range."""
    estimator._validate_params()
