"""How an objective changes without training rows, or with others in their place.

A removal takes rows out of an objective. Rows that only lose or gain weight, or change their
label, leave in the same way, and come back at once with their new weight and target.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinfluence.models import Objective, Weighting

# Positions that a message lists.
MAX_NAMED = 10


@dataclass
class Removals:
    """Several removals, each of a set of training rows that change together.

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
    new_weight : ndarray of shape (n_dropped,), default=None
        Sample weights with which the rows come back; None where they do not.
    targets : ndarray of shape (n_samples, t), default=None
        Targets of all rows after a removal, the only one; by default those of the objective.
    weighting : Weighting, default=None
        Weighting with these targets; by default that of the objective.
    """

    objective: Objective
    rows: np.ndarray
    removal: np.ndarray
    class_weight: np.ndarray
    penalty_factor: np.ndarray
    noun: str
    new_weight: np.ndarray | None = None
    targets: np.ndarray | None = None
    weighting: Weighting | None = None

    def __post_init__(self):
        if self.weighting is None:
            self.weighting = self.objective.weighting
        self.emptied = _emptied_classes(self)
        # Losses of the refits with fewer classes, by removal; None where there is no refit.
        self.other_losses = {}
        for removal, codes in self.emptied.items():
            loss = self.objective.loss_without(codes)
            if loss is not self.objective.loss:
                # A class without weight is still one that scikit-learn fits, to no end.
                self.other_losses[removal] = None if self.only_reweigh else loss

    def __len__(self):
        return len(self.penalty_factor)

    # How the objective changes.

    @property
    def leave(self):
        """Whether the rows leave for good."""
        return self.new_weight is None

    @property
    def only_reweigh(self):
        """Whether all rows stay under their old labels, with other weights."""
        return not self.leave and self.targets is None

    @property
    def reweighting(self):
        """``c' - f c``, class weights and penalty factor as one, (n_removals, n_groups).

        At the minimum, the gradient of the penalty is minus the gradient of the losses, so a
        penalty with the factor f adds ``-f`` times the gradients of all rows.
        """
        group_weight = self.objective.weighting.group_weight
        return self.class_weight - self.penalty_factor[:, None] * group_weight

    @property
    def row_weight(self):
        """Weight of every dropped row in each output, had it stayed with the new class weights.

        Of shape (n_dropped, 1) where all outputs share it.
        """
        weighting = self.objective.weighting
        return self._weight_in(weighting.groups, weighting.sample_weight[self.rows])

    @property
    def new_row_weight(self):
        """The same of the rows that come back, with their new weights and classes."""
        return self._weight_in(self.weighting.groups, self.new_weight)

    def _weight_in(self, groups, sample_weight):
        class_weight = self.class_weight[self.removal]
        by_class = np.take_along_axis(class_weight, groups[self.rows], axis=1)
        return sample_weight[:, None] * by_class

    @cached_property
    def keep_class_weights(self):
        """Whether the rows that stay keep their weights."""
        return bool((self.class_weight == self.objective.weighting.group_weight).all())

    def weights(self, chosen):
        """Weights of the rows (m, n_samples, k or 1) and penalty factors (m,) after removals."""
        kept, weight = self.kept(chosen), self.sample_weights(chosen)
        return self.weighting.of_subsets(kept | (not self.leave), weight)

    def sample_weights(self, chosen):
        """Sample weights of all rows after removals, (len(chosen), n_samples)."""
        weight = self.kept(chosen) * self.weighting.sample_weight
        if not self.leave:
            place, dropped = self._places(chosen)
            weight[place, self.rows[dropped]] = self.new_weight[dropped]
        return weight

    def kept(self, chosen):
        """Mask of the training rows that stay as they are, bool (len(chosen), n_samples)."""
        kept = np.ones((len(chosen), len(self.weighting.codes)), dtype=bool)
        place, dropped = self._places(chosen)
        kept[place, self.rows[dropped]] = False
        return kept

    def _places(self, chosen):
        """Positions among chosen removals of the rows that these drop, and which rows."""
        place = np.full(len(self), -1)
        place[chosen] = np.arange(len(chosen))
        dropped = np.flatnonzero(place[self.removal] >= 0)
        return place[self.removal[dropped]], dropped

    # What becomes of the model.

    @cached_property
    def leaves_nothing(self):
        """Whether no row with a positive weight is left, (n_removals,)."""
        weighted = self.objective.weighting.sample_weight > 0
        lost = np.bincount(self.removal, weighted[self.rows], minlength=len(self))
        left = np.count_nonzero(weighted) - lost
        if not self.leave:
            left += np.bincount(self.removal, self.new_weight > 0, minlength=len(self))
        return left == 0

    @cached_property
    def keeps_loss(self):
        """Whether the remaining rows have the loss of the fitted model, (n_removals,)."""
        known = ~self.leaves_nothing
        known[list(self.other_losses)] = False
        return known

    @cached_property
    def are_single_rows(self):
        """Whether every removal is of one row, the i-th of ``rows[i]``."""
        return len(self.rows) == len(self) and (np.diff(self.removal) == 1).all()

    @cached_property
    def sizes(self):
        """Number of rows of each removal, (n_removals,)."""
        return np.bincount(self.removal, minlength=len(self))

    def blocks(self, chosen):
        """Blocks of removals with equally many rows: slices of removals and of dropped rows.

        Removals of single rows are one block if there are no others. Any other removal, if
        ``chosen`` (bool), is a block of its own, since it needs a matrix of its rows by its rows.
        """
        if self.are_single_rows:
            return [(slice(0, len(self)), slice(0, len(self)))]
        ends = np.cumsum(self.sizes)
        blocks = zip(ends - self.sizes, ends, chosen, strict=True)
        return [
            (slice(i, i + 1), slice(start, end))
            for i, (start, end, wanted) in enumerate(blocks)
            if wanted and end > start
        ]

    # Words.

    @property
    def without(self):
        """How messages begin to tell which removals they mean."""
        if self.leave:
            return "without"
        return "with the new weights of" if self.targets is None else "with the new labels of"

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


def new_weights(objective, weights):
    """Changes of the sample weights to others, ndarray of shape (n_changes, n_samples)."""
    removal, rows = np.nonzero(weights != objective.weighting.sample_weight)
    kept = np.ones(weights.shape, dtype=bool)
    class_weight, factor = objective.weighting.class_weight_of(kept, weights)
    return Removals(
        objective, rows, removal, class_weight, factor, "set(s)", new_weight=weights[removal, rows]
    )


def new_labels(objective, rows, targets, codes):
    """The change of the labels of some rows.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    rows : ndarray of int of shape (n_rows,)
        Training rows.
    targets : ndarray of shape (n_rows, t)
        Their new targets, as the objective has them.
    codes : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        Their new classes.

    Returns
    -------
    Removals
    """
    weighting = objective.weighting.relabelled(rows, codes)
    kept = np.ones((1, len(weighting.codes)), dtype=bool)
    class_weight, factor = weighting.class_weight_of(kept)
    every = objective.targets.copy()
    every[rows] = targets
    return Removals(
        objective,
        rows,
        np.zeros(len(rows), dtype=int),
        class_weight,
        factor,
        "set(s)",
        new_weight=weighting.sample_weight[rows],
        targets=every,
        weighting=weighting,
    )


def _emptied_classes(removals):
    """Positions of the classes that each removal empties."""
    old, new = removals.objective.weighting.classes_of_rows, removals.weighting.classes_of_rows
    if removals.objective.classes is None or old is None or new is None:
        return {}
    n_classes = len(removals.objective.classes)
    if removals.leave:
        return _emptied_by_removal(removals, old)
    if removals.only_reweigh:
        weights = removals.objective.weighting.sample_weight
        after = removals.sample_weights(np.arange(len(removals)))
        member = old[:, None] == np.arange(n_classes)
        empty = ((weights > 0) @ member > 0) & ((after > 0) @ member == 0)
    else:
        before, after = (np.bincount(codes, minlength=n_classes) for codes in (old, new))
        empty = ((before > 0) & (after == 0))[None]
    return {int(i): np.flatnonzero(empty[i]) for i in np.flatnonzero(empty.any(axis=1))}


def _emptied_by_removal(removals, codes):
    n_classes = codes.max() + 1
    pairs = removals.removal * n_classes + codes[removals.rows]
    pairs, dropped = np.unique(pairs, return_counts=True)
    pairs = pairs[dropped == np.bincount(codes)[pairs % n_classes]]
    removal, code = np.divmod(pairs, n_classes)
    return {int(i): code[removal == i] for i in np.unique(removal)}
