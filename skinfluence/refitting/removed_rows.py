"""How an objective changes without training rows, before anything is fitted again."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinfluence.models import Objective

# Positions that a message lists.
MAX_NAMED = 10


@dataclass
class Removals:
    """Several removals, each of a set of training rows that leave together.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    rows : ndarray of int of shape (n_dropped,)
        Training rows that leave, one removal after the other.
    removal : ndarray of int of shape (n_dropped,)
        Removal of each of these rows, ascending.
    class_weight : ndarray of shape (n_removals, n_groups)
        Class weights of the rows that stay.
    penalty_factor : ndarray of shape (n_removals,)
        Factor of the penalty.
    noun : str
        What messages call a removal.
    """

    objective: Objective
    rows: np.ndarray
    removal: np.ndarray
    class_weight: np.ndarray
    penalty_factor: np.ndarray
    noun: str

    def __post_init__(self):
        self.emptied = _emptied_classes(self)
        # Losses of the refits with fewer classes, by removal; None where there is no refit.
        self.other_losses = {}
        for removal, codes in self.emptied.items():
            loss = self.objective.loss_without(codes)
            if loss is not self.objective.loss:
                self.other_losses[removal] = loss

    def __len__(self):
        return len(self.penalty_factor)

    @property
    def reweighting(self):
        """``c' - f c``, class weights and penalty factor as one, (n_removals, n_groups).

        0 for removals without a Newton step.

        At the minimum, the gradient of the penalty is minus the gradient of the losses, so a
        penalty with the factor f adds ``-f`` times the gradients of all rows.
        """
        group_weight = self.objective.weighting.group_weight
        change = self.class_weight - self.penalty_factor[:, None] * group_weight
        return np.where(self.has_newton_step[:, None], change, 0.0)

    @property
    def row_weight(self):
        """Weight of every dropped row in each output, had it stayed with the new class weights.

        Of shape (n_dropped, 1) where all outputs share it.
        """
        weighting = self.objective.weighting
        groups = weighting.groups[self.rows]
        by_class = np.take_along_axis(self.class_weight[self.removal], groups, axis=1)
        return weighting.sample_weight[self.rows, None] * by_class

    @cached_property
    def keep_class_weights(self):
        """Whether the rows that stay keep their weights."""
        return bool((self.class_weight == self.objective.weighting.group_weight).all())

    @cached_property
    def leaves_nothing(self):
        """Whether no row with a positive weight is left, (n_removals,)."""
        weighted = self.objective.weighting.sample_weight > 0
        lost = np.bincount(self.removal, weighted[self.rows], minlength=len(self))
        return lost == np.count_nonzero(weighted)

    @cached_property
    def has_newton_step(self):
        """Whether the remaining rows have the loss of the fitted model, (n_removals,)."""
        known = ~self.leaves_nothing
        known[list(self.other_losses)] = False
        return known

    @cached_property
    def are_single_rows(self):
        """Whether every removal is of one row, the i-th of ``rows[i]``."""
        return len(self.rows) == len(self) and (np.diff(self.removal) == 1).all()

    def kept(self, chosen):
        """Mask of the remaining training rows, bool of shape (len(chosen), n_samples)."""
        place = np.full(len(self), -1)
        place[chosen] = np.arange(len(chosen))
        dropped = place[self.removal] >= 0
        kept = np.ones((len(chosen), len(self.objective.weighting.codes)), dtype=bool)
        kept[place[self.removal[dropped]], self.rows[dropped]] = False
        return kept

    def blocks(self):
        """Blocks of removals with equally many rows: slices of removals and of dropped rows.

        Removals of single rows are one block if there are no others. Any other removal is a
        block of its own, since it needs a matrix of its rows by its rows.
        """
        if self.are_single_rows:
            return [(slice(0, len(self)), slice(0, len(self)))]
        sizes = np.bincount(self.removal, minlength=len(self))
        ends = np.cumsum(sizes)
        blocks = zip(ends - sizes, ends, strict=True)
        return [
            (slice(i, i + 1), slice(start, end))
            for i, (start, end) in enumerate(blocks)
            if end > start
        ]

    def named(self, positions):
        """Names of removals for messages, with the classes that they empty."""
        if len(self) == 1:
            return f"these {len(self.rows)} training row(s){self._classes(0)}"
        names = [f"{position}{self._classes(position)}" for position in positions[:MAX_NAMED]]
        more = [f"and {len(positions) - MAX_NAMED} more"] if len(positions) > MAX_NAMED else []
        return f"{self.noun} {', '.join(names + more)}"

    def _classes(self, position):
        codes = self.emptied.get(position)
        if codes is None:
            return ""
        return f" (all of class {', '.join(map(str, self.objective.classes[codes]))})"


def each_row(objective):
    """Removals of every single training row."""
    n_samples = len(objective.weighting.codes)
    class_weight, factor = objective.weighting.without_each()
    rows = np.arange(n_samples)
    return Removals(objective, rows, rows, class_weight, factor, "training row(s)")


def sets_of_rows(objective, sets):
    """Removals of sets of training rows, each an ndarray of positions."""
    sizes = [len(rows) for rows in sets]
    removal = np.repeat(np.arange(len(sets)), sizes)
    rows = np.concatenate(sets)
    kept = np.ones((len(sets), len(objective.weighting.codes)), dtype=bool)
    kept[removal, rows] = False
    class_weight, factor = objective.weighting.class_weight_of(kept)
    return Removals(objective, rows, removal, class_weight, factor, "set(s)")


def _emptied_classes(removals):
    """Positions of the classes that each removal empties."""
    codes = removals.objective.weighting.classes_of_rows
    if removals.objective.classes is None or codes is None:
        return {}
    n_classes = codes.max() + 1
    pairs = removals.removal * n_classes + codes[removals.rows]
    pairs, dropped = np.unique(pairs, return_counts=True)
    pairs = pairs[dropped == np.bincount(codes)[pairs % n_classes]]
    removal, code = np.divmod(pairs, n_classes)
    return {int(i): code[removal == i] for i in np.unique(removal)}
