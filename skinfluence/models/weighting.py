"""Weights of the training rows in an objective, and their changes when rows are dropped.

Conventions
-----------
A group is a set of losses that share a class weight. In most models a class is a group, and a
row has one weight for all outputs. Where each output is its own problem, a group is a class of
one problem, and a row has a weight for each output.
"""

import math
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from skinfluence._utils.stored_once import StoredOnce


@dataclass
class Weighting(StoredOnce):
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
        number of rows, because the objective divides its losses by that number.
    n_classes : int, default=None
        Number of classes; by default as many as the codes or the class weights tell.
    """

    sample_weight: np.ndarray
    codes: np.ndarray | None = None
    class_weight: np.ndarray | str | None = None
    kind: str = "sum"
    n_classes: int | None = None

    # Sizes of the groups in all rows, where these are a piece of them; see `of_piece`.
    sizes_of_all = None

    def __post_init__(self):
        if self.codes is None:
            self.codes = np.zeros(len(self.sample_weight), dtype=np.int8)
        self._set_groups(self._count_classes())

    def _count_classes(self):
        if isinstance(self.class_weight, np.ndarray):
            return self.class_weight.shape[-1]
        return self.n_classes or int(self.codes.max()) + 1

    def _set_groups(self, n_classes):
        """Group of every row in every problem, from its class there."""
        self._problems = self._columns_of_codes.shape[1], n_classes
        self.n_groups = math.prod(self._problems)
        # One byte for each row is enough for most, and -1 stands for none.
        smallest = np.min_scalar_type(-1 - self.n_groups)
        self.codes = self.codes.astype(smallest, copy=False)
        first = n_classes * np.arange(self._problems[0], dtype=smallest)
        self.groups = first + self._columns_of_codes

    @property
    def _columns_of_codes(self):
        return self.codes.reshape(len(self.codes), math.prod(self.codes.shape[1:]))

    @property
    def _member(self):
        """Whether each row belongs to each group, (n_samples, n_groups)."""
        member = self._columns_of_codes[:, :, None] == np.arange(self._problems[1])
        return member.reshape(len(self.codes), self.n_groups)

    # Whether all outputs share one weight of each row.
    is_shared = True

    @property
    def classes_of_rows(self):
        """Class of every row, (n_samples,); None where outputs have classes of their own."""
        return self.codes

    # Weights in the fitted objective.

    @property
    def weight(self):
        """Weights of the rows in the fitted objective, (n_samples,)."""
        group_weight = self.group_weight
        if (group_weight == 1).all():
            return self.sample_weight
        return self.sample_weight * group_weight[self.groups[:, 0]]

    @property
    def group_weight(self):
        """Class weights in the fitted objective, (n_groups,)."""
        return self._class_weights(
            *(self.sizes if self.sizes_of_all is None else self.sizes_of_all)
        )

    @property
    def sizes(self):
        """Sizes and numbers of rows of the groups, (2, n_groups), which add up over pieces.

        0 where no class weight follows from them.
        """
        if not self.is_balanced:
            return np.zeros((2, self.n_groups))
        return np.stack([self._totals.sum(axis=0), self._member.sum(axis=0)])

    def of_piece(self, sizes):
        """The same weights for a piece of the rows.

        Parameters
        ----------
        sizes : ndarray of shape (2, n_groups)
            Sum of the `sizes` of all pieces.

        Returns
        -------
        Weighting
        """
        piece = copy(self)
        piece.sizes_of_all = sizes
        return piece

    @staticmethod
    def of_all(pieces):
        """Weights of the rows of all pieces, by the same rules.

        Parameters
        ----------
        pieces : list of Weighting
            Weights of consecutive rows.

        Returns
        -------
        Weighting
        """
        sample_weight = np.concatenate([piece.sample_weight for piece in pieces])
        codes = np.concatenate([piece.codes for piece in pieces])
        return replace(pieces[0], sample_weight=sample_weight, codes=codes)

    def penalty_of_all(self, n_samples, total):
        """Factor of the penalty of one row with the weight 1, for so many rows of this weight."""
        return {"sum": 1.0, "mean": total, "count": n_samples}[self.kind]

    def weigh(self, targets):
        """Targets of the training rows, times the weights that differ between outputs."""
        return targets

    def relabelled(self, rows, codes):
        """The same rules for the same rows, some of them in other classes.

        Parameters
        ----------
        rows : ndarray of int of shape (n_rows,)
            Rows with other labels.
        codes : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Their new classes.

        Returns
        -------
        Weighting
        """
        other = copy(self)
        other.codes = self.codes.copy()
        other.codes[rows] = codes
        other._set_groups(self._problems[1])
        return other

    # Weights without some rows, or with others.

    def of_subsets(self, kept, sample_weight=None):
        """Weights and penalty factors when only some rows are kept.

        Parameters
        ----------
        kept : ndarray of bool of shape (n_subsets, n_samples)
            Rows that each subset keeps.
        sample_weight : ndarray of shape (n_subsets, n_samples), default=None
            Weights of the rows in each subset; by default those of the fit, 0 for dropped rows.

        Returns
        -------
        weight : ndarray of shape (n_subsets, n_samples, 1) or (n_subsets, n_samples, n_outputs)
            Weights of the rows, or of their losses in each output; 0 for dropped rows.
        factor : ndarray of shape (n_subsets,)
            Factors of the penalty.
        """
        weight = kept * self.sample_weight if sample_weight is None else sample_weight
        class_weight, factor = self.class_weight_of(kept, weight)
        return weight[:, :, None] * class_weight[:, self.groups], factor

    def class_weight_of(self, kept, sample_weight=None):
        """Class weights (n_subsets, n_groups) and penalty factors; see `of_subsets`."""
        weight = kept * self.sample_weight if sample_weight is None else sample_weight
        factor = self._penalty_factor(weight.sum(axis=1), kept.sum(axis=1))
        if not self.is_balanced:
            return self._class_weights(*np.zeros((2, len(kept), self.n_groups))), factor
        size, member = 1.0 * kept if self._balances_counts else weight, self._member
        return self._class_weights(size @ member, kept @ member), factor

    def without_each(self):
        """Class weights and penalty factors when one row is dropped, for every row.

        Returns
        -------
        class_weight : ndarray of shape (n_samples, n_groups)
            Class weights without row i.
        factor : ndarray of shape (n_samples,)
            Factors of the penalty without row i.
        """
        totals = _sums_without_each(self._totals)
        member = self._member
        class_weight = self._class_weights(totals, member.sum(axis=0) - member)
        weights = _sums_without_each(self.sample_weight)
        counts = np.full_like(weights, len(weights) - 1)
        return class_weight, self._penalty_factor(weights, counts)

    def group_gradients(self, training_rows, pull):
        """Gradients of the groups, without their class weights.

        Parameters
        ----------
        training_rows : Rows
            Gradients ``g_i`` of the losses of the training rows.
        pull : callable
            Maps factors of the losses in each output, (n_samples, n_outputs), to such rows.

        Returns
        -------
        ndarray of shape (n_groups, n_coordinates)
            ``sum s_i g_i`` over the losses of each group.
        """
        del pull
        return (self._member * self.sample_weight[:, None]).T @ training_rows

    @property
    def _totals(self):
        """Contribution of each row to the size of each group, (n_samples, n_groups)."""
        counted = self._balances_counts
        size = np.ones_like(self.sample_weight) if counted else self.sample_weight
        return self._member * size[:, None]

    @property
    def _balances_counts(self):
        return self.is_balanced and self.class_weight == "balanced_counts"

    @property
    def is_balanced(self):
        """Whether class weights follow from the rows."""
        return isinstance(self.class_weight, str)

    def _class_weights(self, totals, counts):
        """Class weights (..., n_groups) of groups with these sizes and numbers of rows."""
        shape = (*totals.shape[:-1], *self._problems)
        if self.is_balanced:
            class_weight = balanced(totals.reshape(shape), counts.reshape(shape))
        else:
            given = 1.0 if self.class_weight is None else self.class_weight
            class_weight = np.broadcast_to(given, shape)
        return class_weight.reshape(totals.shape)

    def _penalty_factor(self, weights, counts):
        size = {"sum": np.ones_like(weights), "mean": weights, "count": counts}[self.kind]
        full = {"sum": 1.0, "mean": self.sample_weight.sum(), "count": len(self.codes)}[self.kind]
        return size / full


class OutputWeighting(Weighting):
    """Weights ``s_i c_k(y_ik)`` of problems that share only their rows, one for each output.

    The targets of the loss are multiplied by the class weights of the fitted objective (see
    `OneVsRest`). Class weights here are relative to these: 1 where all rows are kept.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,)
        The user's weights ``s``.
    codes : ndarray of shape (n_samples, n_outputs)
        Class of each row in each problem, 0 or 1; -1 for rows outside the problem.
    class_weight : {None, ndarray of shape (n_outputs, 2), "balanced", "balanced_counts"}
        Class weights of the problems: none, given, or balanced.
    kind : {"sum", "mean", "count"}
        How the penalty scales, as in `Weighting`.
    """

    is_shared = False

    @property
    def classes_of_rows(self):
        positive = self.codes == 1
        return positive.argmax(axis=1) if (positive.sum(axis=1) == 1).all() else None

    def __post_init__(self):
        self._set_groups(2)
        kept = np.ones((1, len(self.codes)))
        self._fitted = self._absolute(kept @ self._totals, kept @ self._member)[0]

    def of_piece(self, sizes):
        piece = super().of_piece(sizes)
        piece._fitted = piece._absolute(*sizes)
        return piece

    def weigh(self, targets):
        """Signs (n_samples, n_outputs) times the class weights in the fitted objective."""
        return targets * np.where(self.codes >= 0, self._fitted[self.groups], 0.0)

    def group_gradients(self, training_rows, pull):
        """Gradients of the groups; see `Weighting.group_gradients`."""
        del training_rows
        masks = (1.0 * (self.groups == group) for group in range(self.n_groups))
        return np.concatenate([self.sample_weight[None] @ pull(mask) for mask in masks])

    def _absolute(self, totals, counts):
        return super()._class_weights(totals, counts)

    def _class_weights(self, totals, counts):
        absolute = self._absolute(totals, counts)
        fitted = np.broadcast_to(self._fitted, absolute.shape)
        # Where the fitted weight is 0, the targets are 0 and any number may stand here.
        return np.divide(absolute, fitted, out=np.ones_like(absolute), where=fitted > 0)


class OneVsRestWeighting(OutputWeighting):
    """Weights of one problem for each class, whose class weights apply to its own rows only.

    Liblinear and SGDClassifier weigh the rows of the class, never the rest.

    Parameters
    ----------
    sample_weight, codes, kind
        As in `OutputWeighting`; the code of a row is 1 in the problem of its class.
    class_weight : {None, ndarray of shape (n_outputs,), "balanced", "balanced_counts"}
        Class weights.
    """

    def _absolute(self, totals, counts):
        own, own_counts = totals[..., 1::2], counts[..., 1::2]
        class_weight = balanced(own, own_counts) if self.is_balanced else self.class_weight
        both = np.ones((*own.shape, 2))
        both[..., 1] = class_weight
        return both.reshape(totals.shape)


def _sums_without_each(terms):
    """Sums over the first axis without each of the terms, which are not negative."""
    sums = np.zeros_like(terms)
    # Sums of the other terms, not differences: one term may outweigh the others by any number of
    # digits.
    sums[1:] = np.cumsum(terms[:-1], axis=0)
    sums[:-1] += np.cumsum(terms[:0:-1], axis=0)[::-1]
    return sums


def balanced(totals, counts):
    """Class weights that give every class the same total.

    Parameters
    ----------
    totals : ndarray of shape (..., n_classes)
        Sizes of the classes.
    counts : ndarray of shape (..., n_classes)
        Numbers of rows of the classes.

    Returns
    -------
    ndarray of shape (..., n_classes)
        ``sum / (n_classes_left * total)``, 0 for a class of size 0.
    """
    n_left = np.maximum((counts > 0).sum(axis=-1, keepdims=True), 1)
    share = totals.sum(axis=-1, keepdims=True) / n_left
    return np.divide(share, totals, out=np.zeros(totals.shape), where=totals > 0)
