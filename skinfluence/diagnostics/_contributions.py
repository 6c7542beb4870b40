"""Influence on a query, taken apart by the columns of the training rows."""

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.batching import batches
from skinfluence._utils.validation import check_indices, check_queries, reads_raw_data


def column_contributions(influence, X, y=None, indices=None):
    """Parts that the columns of training rows have in their influence on one query.

    A linear model has the gradients ``r_p (x_p, 1)`` with the residuals r of its outputs, so that
    the influence ``-g_t' H^{-1} g_p`` is a sum over the columns of ``x_p``: ``-(r_p' S_j) x_pj``,
    where S is ``H^{-1} g_t`` as a matrix of outputs and columns. The intercept (and
    the scale of a HuberRegressor) has the rest.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator of a linear model.
    X : {array-like, sparse matrix} of shape (1, n_features)
        The query.
    y : array-like of shape (1,), default=None
        Its target. None means influence on the prediction.
    indices : array-like of int of shape (n_rows,), default=None
        Training rows; all of them by default.

    Returns
    -------
    {ndarray, csr_array} of shape (n_rows, n_columns)
        Parts of the columns as the final model sees them (words, behind a vectorizer); sparse
        where these are. Positive: the column makes the row harmful, or raises the prediction.

    Raises
    ------
    TypeError
        If the outputs of the model are not linear in its columns.
    ValueError
        If there is not one query.

    Examples
    --------
    The parts of all columns and of the intercept add up to the influence:

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import column_contributions
    >>> X, y = load_diabetes(return_X_y=True)
    >>> influence = ExactInfluence(Ridge(fit_intercept=False)).fit(X, y)
    >>> parts = column_contributions(influence, X[:1], y[:1])
    >>> bool(abs(parts.sum(axis=1) - influence.influence(X[:1], y[:1])[0]).max() < 1e-6)
    True
    """
    check_is_fitted(influence)
    fit = influence.linearisation_
    fit.fitted_model.check_unchanged()
    objective = fit.objective
    if not objective.is_linear:
        raise TypeError(
            f"The outputs of {type(fit.fitted_model.model).__name__} are not linear in its "
            "columns. Expected a linear model, or a ClassifierHeadInfluence."
        )
    features = fit.read(check_queries(influence, X, numeric=not reads_raw_data(influence)))
    if features.shape[0] != 1:
        raise ValueError(f"Expected one query, got {features.shape[0]}. Pass X[[i]] and y[[i]].")
    indices = check_indices(indices, fit.n_samples)
    solved = fit.solve(fit.query_rows(features, y)).toarray()
    step = objective.to_parameters(fit.space.lift(solved))[0]
    rows = objective.original.features[indices]
    residuals, matrix = _residuals(objective)[indices], _matrix(objective, step, rows.shape[1])
    if not issparse(rows):
        return -(residuals @ matrix) * rows
    # Words that a text does not have have no part: only those that it has are multiplied.
    parts = csr_array(rows, dtype=float, copy=True)
    for batch in batches(len(indices), 8 * 3 * len(matrix) * rows.shape[1]):
        held = slice(parts.indptr[batch.start], parts.indptr[batch.stop])
        row = np.repeat(np.arange(batch.start, batch.stop), np.diff(parts.indptr)[batch])
        weights = np.einsum("kc,ck->k", residuals[row], matrix[:, parts.indices[held]])
        parts.data[held] *= -weights
    return parts


def _residuals(objective):
    """Residuals of the training rows, for the outputs of the model's own layout."""
    residual = objective.loss.residual(objective.training_outputs, objective.targets)
    n_raw = len(objective.weights)
    residual = residual[:, :n_raw]
    return residual if objective.expand is None else residual @ np.linalg.pinv(objective.expand)


def _matrix(objective, step, n_columns):
    """The coefficients of a step of parameters, (n_outputs, n_columns)."""
    n_outputs = len(objective.weights if objective.expand is None else objective.expand)
    return step[: n_outputs * n_columns].reshape(n_outputs, n_columns)
