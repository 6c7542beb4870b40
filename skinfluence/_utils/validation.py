"""Checks of models and data that users pass."""

import inspect
from numbers import Integral

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from skinfluence._utils.sklearn_private import _check_feature_names, _check_n_features

# Sums of squares of such values are still finite.
LARGEST = 1e151

ALL_ZERO = (
    "All sample weights are zero, so there is nothing to fit. Expected at least one positive "
    "weight."
)

# Rows stay in their dtype, and each batch is cast to float64 by itself. Samples may have several
# axes, which networks read; other models refuse such data in their own fit.
_ARRAY = {"accept_sparse": "csr", "dtype": [np.float64, np.float32], "allow_nd": True}


def check_model(estimator):
    """Check that an influence estimator wraps a model, and return the model.

    Raises
    ------
    TypeError
        If it is no instance of an estimator.
    """
    if inspect.isclass(estimator):
        raise TypeError(
            f"estimator is the class {estimator.__name__}. Expected an instance: "
            f"{estimator.__name__}()."
        )
    if not hasattr(estimator, "fit") and hasattr(estimator, "named_parameters"):
        raise TypeError(
            f"estimator is a bare module of torch, {type(estimator).__name__}, whose loss is not "
            "known. Wrap it: skinfluence.models.torch.TorchModel(module, loss='cross_entropy')."
        )
    if not hasattr(estimator, "fit"):
        raise TypeError(
            f"estimator is {estimator!r}. Expected an estimator of scikit-learn, such as "
            "LogisticRegression(), or one with its interface."
        )
    return estimator


def check_training_data(estimator, X, y, *, classifier):
    """Check training rows and targets, with the error messages of scikit-learn.

    A featurizer itself checks data that only it can read (strings, categories).
    """
    X = packed(estimator, X)
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the "
            "target y is None."
        )
    _check_target_axes(y)
    if reads_raw_data(estimator):
        check_consistent_length(X, y)
        X, y = validate_data(estimator, X, y, skip_check_array=True)
        _check_two_rows(y)
        return X, np.asarray(y)
    settings = {"multi_output": True, "y_numeric": not classifier, **_ARRAY}
    X, y = validate_data(estimator, X, y, **settings)
    _check_two_rows(y)
    check_size(X)
    return X, y


class ChunkCheck:
    """Checks the parts of training rows in pieces, one after the other.

    Parameters
    ----------
    estimator : influence estimator
        Learns the number and the names of the features.
    classifier : bool
        Whether targets are labels.
    """

    def __init__(self, estimator, *, classifier):
        self.estimator = estimator
        self.settings = {"multi_output": True, "y_numeric": not classifier, **_ARRAY}
        self.first = None

    def __call__(self, X, y, sample_weight):
        """Raise a ValueError if a part is unfit, or unlike the first."""
        settings = {"skip_check_array": True} if reads_raw_data(self.estimator) else self.settings
        validate_data(self.estimator, X, y, reset=self.first is None, **settings)
        has_weight = sample_weight is not None
        if has_weight:
            # Those of one part may all be 0.
            _check_not_negative(sample_weight, len(y))
        found = has_weight, sp.issparse(X), np.shape(y)[1:]
        self.first = found if self.first is None else self.first
        if found != self.first:
            kinds = [
                f"sample weights: {given}, sparse: {sparse}, columns of y: {columns or 'one'}"
                for given, sparse, columns in (self.first, found)
            ]
            raise ValueError(f"expected what the first part has ({kinds[0]}). Got {kinds[1]}.")

    def check_all(self, n_samples, total_weight):
        """Raise a ValueError if all parts together leave nothing to compare."""
        if n_samples < 2:
            _check_two_rows([None])
        if not total_weight > 0:
            raise ValueError(ALL_ZERO)


def _check_not_negative(sample_weight, n_samples):
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64)
    if weight.shape != (n_samples,) or weight.min() < 0:
        raise ValueError(
            f"expected a non-negative weight for each of the {n_samples} rows. Got an array of "
            f"shape {weight.shape} with a minimum of {weight.min():g}."
        )


def packed(estimator, X):
    """Samples as one array, where the wrapped model packs several inputs into one."""
    pack = getattr(estimator.estimator, "pack", None)
    if pack is not None:
        return pack(X)
    if isinstance(X, dict):
        raise TypeError(
            f"X is a dict of {', '.join(map(repr, X))}. Expected one array; a module of several "
            "inputs is wrapped by skinfluence.models.torch.TorchModel(module, inputs=X)."
        )
    return X


def _check_target_axes(y):
    n_axes = getattr(y, "ndim", 1)
    if n_axes > 2:
        raise ValueError(
            f"y has {n_axes} axes. Expected targets (n_samples,) or (n_samples, t): flatten "
            "those of a sample, y.reshape(len(y), -1), in the order of the outputs."
        )


def _check_two_rows(y):
    if len(y) < 2:
        raise ValueError(
            "Found 1 sample. Influence compares training rows, and nothing is left of the model "
            "without its only one. Expected at least 2."
        )


def check_size(X):
    """Raise a ValueError if squares of the entries leave the range of floats."""
    values = X.data if sp.issparse(X) else X
    if values.dtype == np.float32 or not values.size:
        return
    largest = max(abs(float(values.max())), abs(float(values.min())))
    if largest > LARGEST:
        raise ValueError(
            f"X holds values as large as {largest:.3g}, and their squares leave the range of "
            f"floats. Expected values up to {LARGEST:.0e}; scale the features, with "
            "StandardScaler or by their unit."
        )


def reads_raw_data(estimator):
    """Whether the wrapped model is a pipeline, which may read more than numbers."""
    inner = estimator.estimator
    while hasattr(inner, "estimator"):
        inner = inner.estimator
    return hasattr(inner, "steps")


def check_queries(estimator, X, *, numeric):
    """Queries as an array with the features of the training rows."""
    check_is_fitted(estimator)
    X = packed(estimator, X)
    if numeric:
        return validate_data(estimator, X, reset=False, **_ARRAY)
    _check_feature_names(estimator, X, reset=False)
    _check_n_features(estimator, X, reset=False)
    return X


def check_model_features(X):
    """Features as the model sees them: float rows, dense or CSR, not copied where possible."""
    features = check_array(X, **_ARRAY)
    check_size(features)
    return features


def check_weights(sample_weight, X):
    """Weights of the rows in float64, all 1 by default.

    Raises
    ------
    ValueError
        If weights are negative, or all 0, or of the wrong shape.
    """
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError(ALL_ZERO)
    return weight


def check_indices(indices, n_samples):
    """Positions of training rows as an array, all of them by default.

    Raises
    ------
    ValueError
        If a position is no integer, out of range or named twice.
    """
    if indices is None:
        return np.arange(n_samples)
    try:
        indices = np.atleast_1d(np.asarray(indices))
    except ValueError as error:
        raise ValueError(
            "indices must be a 1-d array of positions of training rows. Got lists of several "
            "lengths instead: hand over one set of rows at a time."
        ) from error
    if indices.dtype == bool and indices.shape == (n_samples,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or not (len(indices) == 0 or indices.dtype.kind in "iu"):
        raise ValueError(
            f"indices must be a 1-d array of positions of training rows. Got an array of shape "
            f"{indices.shape} and dtype {indices.dtype} instead."
        )
    if len(indices) and not (-n_samples <= indices.min() and indices.max() < n_samples):
        raise ValueError(
            f"indices must lie between 0 and {n_samples - 1}, the last training row. Got "
            f"{indices.min()} to {indices.max()} instead."
        )
    indices = indices.astype(np.intp) % n_samples
    if len(np.unique(indices)) < len(indices):
        raise ValueError("indices names a training row twice. Name every row once.")
    return indices


def check_sets(indices, n_samples):
    """Sets of training rows, and whether there are several.

    Parameters
    ----------
    indices : array-like of int of shape (n_rows,), or list of such arrays
        Positions of training rows.
    n_samples : int
        Number of training rows.

    Returns
    -------
    sets : list of ndarray
        Positions of each set.
    are_several : bool
        Whether ``indices`` is a list of sets, if only of one.
    """
    inner = indices if isinstance(indices, list | tuple) else np.asarray(indices)
    if np.ndim(inner[0] if len(inner) else 0) == 0:
        return [check_indices(inner, n_samples)], False
    return [check_indices(rows, n_samples) for rows in inner], True


def check_new_weights(weights, n_samples):
    """Sample weights (n_sets, n_samples) in float64, and whether there are several sets."""
    given = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="weights")
    if given.ndim not in (1, 2) or given.shape[-1] != n_samples:
        raise ValueError(
            f"weights must hold a weight for each of the {n_samples} training rows, of shape "
            f"({n_samples},) or (n_sets, {n_samples}). Got an array of shape {given.shape} "
            "instead."
        )
    if given.min() < 0:
        raise ValueError(
            f"weights must not be negative. Got {given.min():g}; a weight of 0 takes a row out."
        )
    return np.atleast_2d(given), given.ndim == 2


def check_ranking(by, k, n_samples):
    """Check how training rows are ranked, and how many of them are wanted.

    Raises
    ------
    ValueError
        If ``k`` exceeds the number of training rows, or ``by`` is unknown.
    """
    if by not in ("harmful", "helpful", "absolute"):
        raise ValueError(f"by must be 'harmful', 'helpful' or 'absolute'. Got {by!r} instead.")
    if not isinstance(k, Integral) or not 1 <= k <= n_samples:
        raise ValueError(
            f"k must be an integer from 1 to the number of training rows, {n_samples}. Got "
            f"{k!r} instead."
        )


def check_reduce(reduce):
    """How to reduce over queries, or a ValueError."""
    if reduce not in (None, "mean", "sum"):
        raise ValueError(f"reduce must be None, 'mean' or 'sum'. Got {reduce!r} instead.")
    return reduce


def check_dtype(dtype):
    """Precision of scores, double by default, or a ValueError."""
    if dtype is None:
        return np.dtype(np.float64)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be np.float32, np.float64 or None. Got {dtype!r} instead.")
    return np.dtype(dtype)


def check_out(out, shape, dtype):
    """Array that takes a result: the given one, checked, or a new one.

    Raises
    ------
    ValueError
        If it is no array of that shape and type that can be written to.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        came = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(
            f"out must be an array of {np.dtype(dtype)} of shape {shape}, got {came}. Make one by "
            f"np.empty({shape}, np.{np.dtype(dtype)}) or np.lib.format.open_memmap."
        )
    if not out.flags.writeable or not out.flags.c_contiguous:
        raise ValueError(
            "out must be writeable and in C order. Open a memory map with mode='r+' or 'w+'."
        )
    return out


def column_or_2d(y):
    """Targets as columns, (n, t) in float64."""
    y = np.asarray(y, dtype=np.float64)
    # Not -1, which is undefined where there are no rows.
    return y.reshape(len(y), int(np.prod(y.shape[1:])))


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


def check_refine(refine):
    """How many removals to refine, or a ValueError."""
    if isinstance(refine, bool) or refine == "auto":
        return refine
    if not isinstance(refine, Integral) or refine < 0:
        raise ValueError(
            f"refine must be 'auto', True, False or a number of rows. Got {refine!r} instead."
        )
    return int(refine)
