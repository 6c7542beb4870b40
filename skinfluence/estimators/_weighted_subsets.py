"""Random subsets of weighted rows that stand for all of them.

Every row has a permanent random number, and the rows are taken in the order of these numbers:
a larger subset holds the smaller ones, and what follows a subset is a second, disjoint one.
"""

import numpy as np
from sklearn.utils import check_random_state


class SamplingOrder:
    """Rows in a random order whose every part is a sample of all rows.

    Parameters
    ----------
    weight : ndarray of shape (n_samples,)
        Weights of the rows in the sum that a subset estimates. Rows of weight 0 are never
        taken.
    strata : ndarray of int of shape (n_samples,), default=None
        Groups that every part holds in proportion.
    scores : ndarray of shape (n_samples,), default=None
        Positive numbers; the chance of a row to be taken is proportional to its own. All 1 by
        default.
    random_state : int, RandomState or None, default=None
        Draws the order.
    """

    def __init__(self, weight, *, strata=None, scores=None, random_state=None):
        self.weight = weight
        self.strata = np.zeros(len(weight), dtype=int) if strata is None else strata
        self.scores = np.ones(len(weight)) if scores is None else scores / scores.mean()
        # NumPy sorts short integers in linear time.
        self.strata = self.strata.astype(np.min_scalar_type(self.strata.max(initial=0)))
        number = _permanent_numbers(weight, self.strata, check_random_state(random_state))
        # Sequential Poisson sampling: the m smallest of u / p hold row i with a chance of
        # nearly p_i t, t the threshold that lets m rows pass.
        self.keys = number / self.scores
        self.order = np.argsort(self.keys, kind="stable")[: np.count_nonzero(weight)]

        self._full = np.bincount(self.strata, weight)

    def __len__(self):
        return len(self.order)

    @property
    def n_strata(self):
        """Number of strata that have rows; the first rows of the order are one of each."""
        return np.count_nonzero(self._full)

    def _threshold(self, size):
        """What the chances of rows to be among the first ``size`` are proportional to."""
        if size == 0:
            return 0.0
        if size >= len(self):
            return np.inf
        return self.keys[self.order[size - 1 : size + 1]].mean()

    def weights(self, start, stop):
        """Weights with which the rows of a part of the order stand for all rows.

        Rows that were certain to come before the part, and rows of strata that have none in
        it, are taken along: nothing else can stand for them.

        Parameters
        ----------
        start, stop : int
            First position, and the one after the last.

        Returns
        -------
        ndarray of shape (n_samples,)
            0 for rows that are left out; adds up to the weights of all rows, stratum by
            stratum.
        """
        earlier, part = self.order[:start], self.order[start:stop]
        before = np.minimum(1.0, self.scores[self.order[:stop]] * self._threshold(start))
        after = np.minimum(1.0, self.scores[part] * self._threshold(stop))
        present = np.bincount(self.strata[part], minlength=len(self._full)) > 0
        along = (before[:start] == 1) | ~present[self.strata[earlier]]
        rows = np.concatenate([part, earlier[along]])
        shares = np.concatenate([after - before[start:], before[:start][along]])
        own = self.weight[rows] / shares
        weight = np.zeros(len(self.weight))
        weight[rows] = own * self._correction(rows, own)
        return weight

    def _correction(self, rows, own):
        """What makes the weights of every stratum add up to those of all its rows."""
        full, strata = self._full, self.strata[rows]
        sums = np.bincount(strata, own, minlength=len(full))
        ratio = np.divide(full, sums, out=np.zeros_like(full), where=sums > 0)
        return ratio[strata] * full.sum() / full[sums > 0].sum()


def _permanent_numbers(weight, strata, random_state):
    """Numbers in [0, 1), evenly spaced in every stratum, whose first row has 0."""
    number = np.full(len(weight), np.inf)
    kept = random_state.permutation(np.flatnonzero(weight))
    kept = kept[np.argsort(strata[kept], kind="stable")]
    counts = np.bincount(strata[kept])
    rank = np.arange(len(kept)) - np.repeat(np.cumsum(counts) - counts, counts)
    size = np.repeat(counts, counts)
    # Strata of one size would otherwise take turns in the same order for ever.
    offset = random_state.uniform(size=len(kept))
    number[kept] = np.where(rank > 0, (rank + offset) / size, 0.0)
    return number
