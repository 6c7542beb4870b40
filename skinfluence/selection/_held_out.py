"""Judging training rows: whether more weight on them harms held-out rows.

Held-out labels may be as wrong as training labels, and then the mean loss is no judge: at the
minimum, few wrong labels with large gradients balance the many right ones. So a held-out row
counts with the bounded loss ``1 - exp(-l)``, which for a log loss ``l`` is the probability of an
error. Its gradient is ``exp(-l)`` times the gradient of ``l``, almost 0 where the model is sure
that the label is wrong.
"""

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing

from skinfluence.estimators._memorization import sign_bounds
from skinfluence.rows import DenseRows

# Median of half the square of a standard normal variable. A median loss over it is a variance.
MEDIAN_LOSS = 0.2274682


class HeldOutScores:
    """Scores of training rows by held-out rows, averaged over the folds that train on them.

    Attributes
    ----------
    values : ndarray of shape (n_train,)
        Influence on the held-out loss.
    memorization, bounds : ndarray of shape (n_train,)
        Memorization, and its lower bounds where ``values`` is not 0.
    thresholds : tuple of float
        The smallest D+ and the smallest D- of the folds.
    """

    def __init__(self, n_samples):
        self.counts = np.zeros(n_samples)
        self.values = np.zeros(n_samples)
        self.memorization = np.zeros(n_samples)
        self.bounds = np.zeros(n_samples)
        self.thresholds = (np.inf, np.inf)

    def add(self, train, influence, X, y):
        """Add the scores, by held-out rows, of the rows ``train`` that ``influence`` has seen."""
        linearisation = influence.linearisation_.in_model_coordinates()
        query = bounded_loss_row(linearisation, X, y)
        memorized, values, bounds, thresholds = sign_bounds(linearisation, query)
        self.counts[train] += 1
        self.values[train] += values
        self.bounds[train] += bounds
        self.memorization[train] += memorized
        self.thresholds = tuple(np.minimum(self.thresholds, thresholds).tolist())

    def averaged(self):
        """Sums over folds divided by their number; rows that no fold trains on stay at 0."""
        for total in (self.values, self.memorization, self.bounds):
            total /= np.maximum(self.counts, 1)
        return self


def scores_by_set(influence, X, y):
    """Scores by a validation set of the rows that ``influence`` was fitted on."""
    scores = HeldOutScores(influence.n_samples_)
    scores.add(slice(None), influence, X, y)
    return scores.averaged()


def scores_by_folds(influence, X, y, sample_weight, cv):
    """Scores by each fold of the rows outside it, with refitted clones of ``influence``."""
    scores = HeldOutScores(influence.n_samples_)
    for train, held_out in check_cv(cv, y, classifier=hasattr(influence, "classes_")).split(X, y):
        weight = None if sample_weight is None else sample_weight[train]
        fold = clone(influence)
        fold.fit(_safe_indexing(X, train), _safe_indexing(y, train), sample_weight=weight)
        if hasattr(fold, "classes_"):
            # A label that the model of the fold has never seen has no loss.
            held_out = held_out[np.isin(_safe_indexing(y, held_out), fold.classes_)]
        scores.add(train, fold, _safe_indexing(X, held_out), _safe_indexing(y, held_out))
    return scores.averaged()


def bounded_loss_row(linearisation, X, y):
    """Gradient of the mean bounded loss of held-out rows, as one row.

    The loss of a regression is first divided by the variance of its noise, which the median of
    the losses estimates.
    """
    features = linearisation.read(X)
    objective = linearisation.objective
    losses = objective.losses(features, linearisation.targets(features, y))
    if objective.classes is None:
        losses = losses / max(np.median(losses) / MEDIAN_LOSS, np.finfo(float).tiny)
    weight = np.exp(-losses) / len(losses)
    return DenseRows(weight[None] @ linearisation.query_rows(features, y))
