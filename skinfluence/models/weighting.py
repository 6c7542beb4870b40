"""Weights of the training rows in an objective, and how they move when rows are dropped."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Weighting:
    """Weights ``w_i = s_i c_(y_i)`` of the losses, and the scale of the penalty.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,)
        The user's weights ``s``.
    codes : ndarray of shape (n_samples,), default=None
        Class of each row, for models with class weights.
    class_weight : {None, ndarray of shape (n_classes,), "balanced", "balanced_counts"}
        Class weights: none, given, or balanced from the sums of ``sample_weight`` or from the
        numbers of rows.
    kind : {"sum", "mean", "count"}
        Whether the penalty is constant, or grows with the sum of the weights or with the
        number of rows, because the objective divides its losses by that.
    """

    sample_weight: np.ndarray
    codes: np.ndarray | None = None
    class_weight: np.ndarray | str | None = None
    kind: str = "sum"

    def __post_init__(self):
        if self.codes is None:
            self.codes = np.zeros(len(self.sample_weight), dtype=int)
        self.n_groups = int(self.codes.max()) + 1
        if isinstance(self.class_weight, np.ndarray):
            self.n_groups = len(self.class_weight)
        self._onehot = self.codes[:, None] == np.arange(self.n_groups)

    @property
    def weight(self):
        """Weights of the rows in the fitted objective, (n_samples,)."""
        return self.of_subsets(np.ones((1, len(self.codes)), dtype=bool))[0][0]

    @property
    def group_sums(self):
        """Matrix (n_groups, n_samples) that sums the user's weights times rows by class."""
        return (self._onehot * self.sample_weight[:, None]).T

    @property
    def _totals(self):
        counted = self.class_weight == "balanced_counts" if self._balanced else False
        size = np.ones_like(self.sample_weight) if counted else self.sample_weight
        return self._onehot * size[:, None]

    @property
    def _balanced(self):
        return isinstance(self.class_weight, str)

    def _class_weights(self, totals):
        if self._balanced:
            sums = totals.sum(axis=1, keepdims=True)
            # A class that is gone has no rows to weigh, and does not count.
            n_classes = np.count_nonzero(totals, axis=1)[:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                balanced = sums / (n_classes * totals)
            return np.where(totals > 0, balanced, 0.0)
        given = np.ones(self.n_groups) if self.class_weight is None else self.class_weight
        return np.broadcast_to(given, totals.shape)

    def _penalty_factor(self, weights, counts):
        size = {"sum": np.ones_like(weights), "mean": weights, "count": counts}[self.kind]
        full = {"sum": 1.0, "mean": self.sample_weight.sum(), "count": len(self.codes)}[self.kind]
        return size / full

    def of_subsets(self, kept):
        """Weights and penalty factors when only some rows are kept.

        Parameters
        ----------
        kept : ndarray of bool of shape (n_subsets, n_samples)
            Rows that each subset keeps.

        Returns
        -------
        weight : ndarray of shape (n_subsets, n_samples)
            Weights of the rows, 0 for those that are dropped.
        factor : ndarray of shape (n_subsets,)
            What the penalty is multiplied by.
        """
        class_weight, factor = self.class_weight_of(kept)
        return kept * self.sample_weight * class_weight[:, self.codes], factor

    def class_weight_of(self, kept):
        """Class weights (n_subsets, n_groups) and penalty factors of subsets."""
        weight = kept * self.sample_weight
        factor = self._penalty_factor(weight.sum(axis=1), kept.sum(axis=1))
        return self._class_weights(kept @ self._totals), factor

    def without_each(self):
        """Class weights and penalty factors when one row is dropped, for every row.

        Returns
        -------
        class_weight : ndarray of shape (n_samples, n_groups)
            Class weights without row i.
        factor : ndarray of shape (n_samples,)
            What the penalty is multiplied by without row i.
        """
        class_weight = self._class_weights(_sums_without_each(self._totals))
        weights = _sums_without_each(self.sample_weight)
        counts = np.full_like(weights, len(weights) - 1)
        return class_weight, self._penalty_factor(weights, counts)

    @property
    def group_weight(self):
        """Class weights in the fitted objective, (n_groups,)."""
        return self._class_weights(self._totals.sum(axis=0, keepdims=True))[0]


def _sums_without_each(terms):
    """Sum over the first axis without each of its terms, which are not negative."""
    sums = np.zeros_like(terms)
    # Sums of the others, not differences: a term may outweigh them by any number of digits.
    sums[1:] = np.cumsum(terms[:-1], axis=0)
    sums[:-1] += np.cumsum(terms[:0:-1], axis=0)[::-1]
    return sums
