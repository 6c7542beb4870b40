"""What all influence estimators share: the straight line from data to scores.

    X, y    -- gradient rows of the fitted model -->  rows
    rows    -- projection                        -->  the rows that curvature and scores see
    rows    -- curvature                         -->  solved rows, for the queries only
    scores  =  -curvature.solve(queries) @ training rows'
"""

import warnings
from abc import ABC, abstractmethod
from numbers import Integral, Real

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
    is_classifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_array, check_consistent_length, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    has_fit_parameter,
    validate_data,
)

from skinfluence._batching import batches
from skinfluence._compat import (
    Interval,
    StrOptions,
    _check_feature_names,
    _check_n_features,
    _fit_context,
)
from skinfluence.models import fit_arguments, objective, unwrap
from skinfluence.rows import DenseRows

# A relative gradient norm above this is more than the solvers of scikit-learn leave at their
# default tolerances.
STATIONARITY_TOLERANCE = 1e-3
