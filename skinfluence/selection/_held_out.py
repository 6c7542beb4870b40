"""Judging training rows: whether more of them would harm held-out rows.

Held-out labels may be as wrong as the training ones. Their mean loss cannot tell: at the minimum
wrong labels, few but with large gradients, balance the right ones. So a held-out row counts by
the loss ``1 - exp(-l)``, which for a log-likelihood ``l`` is the chance of an error; it is bounded
and forgives what the model is sure of. Its gradient is ``exp(-l)`` times that of ``l``.
"""

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing

from skinfluence.estimators._memorization import sign_bounds
from skinfluence.rows import DenseRows

# Median of half the square of a standard normal deviate: turns a median loss into a variance.
MEDIAN_LOSS = 0.2274682


class HeldOutScores:
    """What held-out rows say of training rows, averaged over the folds that train on them.

    Attributes
    ----------
    values : ndarray of shape (n_train,)
        Influence on the held-out loss.
    memorization, bounds : ndarray of shape (n_train,)
        Memorization, and what it exceeds where ``values`` is not 0.
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
        """Add what held-out rows say of the rows ``train``, on which ``influence`` was fitted."""
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
    """Verdict of a validation set on the rows that ``influence`` was fitted on."""
    scores = HeldOutScores(influence.n_samples_)
    scores.add(slice(None), influence, X, y)
    return scores.averaged()


def scores_by_folds(influence, X, y, sample_weight, cv):
    """Verdict of each fold on the rows outside it, by refitted clones of ``influence``."""
    scores = HeldOutScores(influence.n_samples_)
    for train, held_out in check_cv(cv, y, classifier=hasattr(influence, "classes_")).split(X, y):
        weight = None if sample_weight is None else sample_weight[train]
        fold = clone(influence)
        fold.fit(_safe_indexing(X, train), _safe_indexing(y, train), sample_weight=weight)
        if hasattr(fold, "classes_"):
            # The loss of a label that the fold has never seen is not defined.
            held_out = held_out[np.isin(_safe_indexing(y, held_out), fold.classes_)]
        scores.add(train, fold, _safe_indexing(X, held_out), _safe_indexing(y, held_out))
    return scores.averaged()


def bounded_loss_row(linearisation, X, y):
    """Gradient of the mean bounded loss of held-out rows, as one row.

    The loss of a regression is first divided by the variance of its noise, as the median of
    the losses tells it.
    """
    features = linearisation.read(X)
    objective = linearisation.objective
    losses = objective.losses(features, linearisation.targets(features, y))
    if objective.classes is None:
        losses = losses / max(np.median(losses) / MEDIAN_LOSS, np.finfo(float).tiny)
    weight = np.exp(-losses) / len(losses)
    return DenseRows(weight[None] @ linearisation.query_rows(features, y))
