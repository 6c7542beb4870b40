"""Input checks, and the private parts of scikit-learn that the package leans on.

A rename in scikit-learn breaks this file and no other.
"""

import numpy as np
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
    _num_samples,
    column_or_1d,
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
    "_num_samples",
    "_routing_enabled",
    "column_or_2d",
    "encode_labels",
    "validate_params",
]


def column_or_2d(y):
    """Targets as columns, (n, t) in float64."""
    y = np.asarray(y, dtype=np.float64)
    return y.reshape(len(y), -1)


def encode_labels(y, classes):
    """Position of every label in ``classes``; labels are only names.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    classes : ndarray of shape (n_classes,)
        Sorted labels that the model knows.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If a label is not among the classes.
    """
    y = column_or_1d(y)
    unseen = np.setdiff1d(y, classes)
    if len(unseen):
        raise ValueError(
            f"y contains labels that the model was not fitted on: {unseen.tolist()[:10]}. "
            f"Expected labels among {classes.tolist()[:20]}; leave such rows out, or omit y "
            "to get the influence on the prediction."
        )
    return np.searchsorted(classes, y)
