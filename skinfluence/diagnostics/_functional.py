"""A number computed from all queries, without each of the training rows."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.batching import batches
from skinfluence._utils.validation import check_queries, check_weights, reads_raw_data
from skinfluence.metrics._model_functional import ModelFunctional, find_functional


def functional_without_each(influence, functional, X, y=None, *, sample_weight=None):
    """Change of a number computed from all queries when each training row is left out.

    The outputs of all queries move as they do in a refit without the row, by the steps of
    `leave_one_out_effect`, and the number is computed again from them. To first order this is
    ``-weight / N`` times `influence_on`, which needs one solve and no refits, and falls short for
    rows of large influence. The outputs of a network are taken as linear in its parameters. The
    functional's gradient is not used, so it may be a count, such
    as an accuracy.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.
    functional : str or object
        As for ``influence_on``; an object of one's own needs ``value(outputs, y)`` alone.
    X : {array-like, sparse matrix} of shape (n_queries, n_features)
        Queries.
    y : array-like of shape (n_queries,), default=None
        Their targets, for functionals that need them.
    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries, handed to the functional as ``sample_weight``.

    Returns
    -------
    ndarray of shape (n_train,)
        Changes of the number; **positive: it is larger without the row**. NaN where a row
        leaves no model, or takes the last row of a class with it.

    Warns
    -----
    NumericalWarning
        Names the rows without which there is no refit, as `leave_one_out_effect` does.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import functional_without_each
    >>> X, y = load_wine(return_X_y=True)
    >>> model = LogisticRegression(solver="newton-cholesky")
    >>> influence = ExactInfluence(model).fit(X[::2], y[::2])
    >>> functional_without_each(influence, "brier", X[1::2], y[1::2]).shape
    (89,)
    """
    check_is_fitted(influence)
    fit = influence.linearisation_
    fit.fitted_model.check_unchanged()
    features = fit.read(check_queries(influence, X, numeric=not reads_raw_data(influence)))
    weight = sample_weight
    if weight is not None:
        weight = check_weights(sample_weight, np.empty((features.shape[0], 1)))
    targets = None if y is None else fit.targets(features, y)
    functional = find_functional(functional, methods=("value",))
    ours = ModelFunctional(functional, fit.objective.loss, targets, weight)
    return _changes(fit, fit.without_each(), features, ours)


def _changes(fit, removed, features, functional):
    outputs = fit.objective.outputs(features)
    before = functional.value(outputs)
    jacobian = fit.space.project_queries(fit.objective.jacobian_rows(features))
    lost = removed.refused | ~removed.removals.keeps_loss
    change = np.full(len(lost), np.nan)
    for part in removed.parts():
        delta = removed.parameter_changes(part)
        for batch in batches(len(delta), 8 * 3 * outputs.size):
            moves = jacobian @ np.ascontiguousarray(delta[batch].T)
            for place, move in zip(range(batch.start, batch.stop), moves.T, strict=True):
                row = part.start + place
                if not lost[row]:
                    change[row] = functional.value(outputs + move.reshape(outputs.shape)) - before
    return change
