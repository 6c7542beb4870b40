"""Writing parameters into fitted models, and models that read raw scores in place of features.

What scikit-learn makes of the scores of a linear model (labels, probabilities, means) is left to
its own methods: with an identity for its weights, a model predicts from the scores themselves.
"""

from copy import copy
from functools import singledispatch

import numpy as np
from scipy.sparse import issparse
from sklearn.linear_model import HuberRegressor
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

_COMPOSED = (OneVsRestClassifier, OneVsOneClassifier, MultiOutputClassifier, MultiOutputRegressor)


@singledispatch
def add_to_parameters(model, change):
    """Add to the parameters of a fitted model, in place.

    Register a function for a class of models with ``add_to_parameters.register(cls)``.

    Parameters
    ----------
    model : estimator
        A fitted model, no wrapper.
    change : ndarray of shape (n_params,)
        Changes of the parameters in the model's own layout: ``coef_`` row by row, then
        ``intercept_`` if it is fitted.

    Raises
    ------
    TypeError
        If it is not known where the model keeps its parameters.
    """
    if not (hasattr(model, "coef_") and hasattr(model, "intercept_")):
        raise TypeError(
            f"It is not known where a {type(model).__name__} keeps its parameters. Expected a "
            "linear model or a perceptron of scikit-learn; register a function for another class "
            "with skinfluence.models.add_to_parameters.register."
        )
    coef = _dense(model.coef_)
    intercept = np.zeros(np.atleast_2d(coef).shape[0]) + model.intercept_
    if len(change) > coef.size:
        intercept = intercept + change[coef.size :]
    _write(model, np.atleast_2d(coef) + change[: coef.size].reshape(-1, coef.shape[-1]), intercept)


@add_to_parameters.register
def _(model: HuberRegressor, change):
    n_weights = model.coef_.size + bool(model.fit_intercept)
    add_to_parameters.dispatch(object)(model, change[:n_weights])
    model.scale_ = model.scale_ + change[n_weights]


@add_to_parameters.register(MLPClassifier)
@add_to_parameters.register(MLPRegressor)
def _(model, change):
    arrays = [*model.coefs_, *model.intercepts_]
    edges = np.cumsum([array.size for array in arrays])
    parts = np.split(change, edges[:-1])
    moved = [array + part.reshape(array.shape) for array, part in zip(arrays, parts, strict=True)]
    n_layers = len(model.coefs_)
    model.coefs_, model.intercepts_ = moved[:n_layers], moved[n_layers:]


def _add_to_members(model, change):
    """Parameters are the weights of all members in their order, then their intercepts."""
    sizes = [member.coef_.size for member in model.estimators_]
    edges = np.cumsum(sizes)
    intercepts = change[edges[-1] :]
    for i, (member, end, size) in enumerate(zip(model.estimators_, edges, sizes, strict=True)):
        own = change[end - size : end]
        add_to_parameters(member, np.append(own, intercepts[i : i + 1]))


for _cls in _COMPOSED:
    add_to_parameters.register(_cls, _add_to_members)


def _dense(coef):
    return coef.toarray() if issparse(coef) else np.asarray(coef)


def _write(model, coef, intercept):
    """Put weights (c, d) and intercepts (c,) where the model has its own, in their shape."""
    scalar = np.ndim(model.intercept_) == 0 and len(coef) == 1
    model.coef_ = coef.reshape(-1) if np.ndim(model.coef_) == 1 else coef
    model.intercept_ = float(intercept[0]) if scalar else np.asarray(intercept, dtype=float)


# Models that read scores.


@singledispatch
def reader_of_scores(model, n_scores):
    """The same model with raw scores for its features.

    Parameters
    ----------
    model : estimator
        A fitted model, no wrapper.
    n_scores : int
        Number of scores.

    Returns
    -------
    estimator
        A fitted copy that predicts from scores (n, n_scores) what the model predicts from
        features with these scores, by any of its methods.

    Raises
    ------
    TypeError
        If the model is not linear, and no perceptron of scikit-learn.
    """
    if not hasattr(model, "coef_"):
        raise TypeError(
            f"It is not known how a {type(model).__name__} makes its predictions of raw outputs. "
            "Expected a linear model or a perceptron of scikit-learn."
        )
    return _reading(model, np.eye(n_scores))


def _reading(model, coef):
    reader = _without_names(model, coef.shape[1])
    _write(reader, coef, np.zeros(len(coef)))
    return reader


def _without_names(model, n_features):
    reader = copy(model)
    reader.__dict__.pop("feature_names_in_", None)
    reader.n_features_in_ = n_features
    return reader


@reader_of_scores.register(MLPClassifier)
@reader_of_scores.register(MLPRegressor)
def _(model, n_scores):
    reader = _without_names(model, n_scores)
    reader.coefs_, reader.intercepts_ = [np.eye(n_scores)], [np.zeros(n_scores)]
    reader.n_layers_ = 2
    return reader


def _members_that_read(model, n_scores):
    reader = copy(model)
    reader.__dict__.pop("feature_names_in_", None)
    if "n_features_in_" in reader.__dict__:
        reader.n_features_in_ = n_scores
    reader.estimators_ = [
        _reading(member, row[None])
        for member, row in zip(model.estimators_, np.eye(n_scores), strict=True)
    ]
    return reader


for _cls in _COMPOSED:
    reader_of_scores.register(_cls, _members_that_read)
