"""Random subsets of weighted rows that represent all rows, and the size that they need.

Every row has a permanent random number, and the rows are taken in the order of these numbers:
a larger subset contains the smaller ones, and the rows after a subset make a second, disjoint one.
"""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from skinfluence.curvature import choose_solver, contrast_norms, make_curvature
from skinfluence.refitting.random_subsets import shuffled_by_stratum

# Rows of the first subset: enough to compare, and too few to cost anything beside all rows.
FIRST_SIZE, FIRST_SHARE = 256, 0.01

# The three pairs of halves that four quarters make.
HALVES = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])

# Growth of a subset in one step: what few rows predict is unsure, and few new rows tell little.
LEAST_GROWTH, LARGEST_GROWTH = 1.1, 1.75

# Share of the rows above which all of them are taken.
WORTHWHILE = 0.75


class SamplingOrder:
    """Rows in a random order, every part of which is a sample of all rows.

    Parameters
    ----------
    weight : ndarray of shape (n_samples,)
        Weights of the rows in the sum that a subset estimates. Rows of weight 0 are never
        taken.
    strata : ndarray of int of shape (n_samples,), default=None
        Groups that every part contains in proportion.
    random_state : int, RandomState or None, default=None
        Draws the order.
    """

    def __init__(self, weight, *, strata=None, random_state=None):
        self.weight = weight
        self.strata = np.zeros(len(weight), dtype=int) if strata is None else strata
        # NumPy sorts short integers in linear time.
        self.strata = self.strata.astype(np.min_scalar_type(self.strata.max(initial=0)))
        number = _permanent_numbers(weight, self.strata, check_random_state(random_state))
        self.keys = number
        self.order = np.argsort(number, kind="stable")[: np.count_nonzero(weight)]
        self._full = np.bincount(self.strata, weight)

    def __len__(self):
        return len(self.order)

    @property
    def n_strata(self):
        """Number of strata that have rows; the first rows of the order are one of each."""
        return np.count_nonzero(self._full)

    def _threshold(self, size):
        """Number to which the chances of rows to be among the first ``size`` are relative."""
        if size == 0:
            return 0.0
        if size >= len(self):
            return np.inf
        return self.keys[self.order[size - 1 : size + 1]].mean()

    def weights(self, start, stop):
        """Weights with which the rows of a part of the order represent all rows.

        Earlier rows of strata that are absent from the part are always included, since no
        sampled row can represent them.

        Parameters
        ----------
        start, stop : int
            First position, and the one after the last.

        Returns
        -------
        ndarray of shape (n_samples,)
            0 for rows that are left out. The weights of every stratum have the same sum as in
            all rows.
        """
        earlier, part = self.order[:start], self.order[start:stop]
        before, after = (min(1.0, self._threshold(size)) for size in (start, stop))
        present = np.bincount(self.strata[part], minlength=len(self._full)) > 0
        along = earlier[~present[self.strata[earlier]]]
        rows = np.concatenate([part, along])
        shares = np.repeat([after - before, before], [len(part), len(along)])
        own = self.weight[rows] / shares
        weight = np.zeros(len(self.weight))
        weight[rows] = own * self._correction(rows, own)
        return weight

    def _correction(self, rows, own):
        """Factors that give the weights of every stratum the same sum as in all rows."""
        full, strata = self._full, self.strata[rows]
        sums = np.bincount(strata, own, minlength=len(full))
        ratio = np.divide(full, sums, out=np.zeros_like(full), where=sums > 0)
        return ratio[strata] * full.sum() / full[sums > 0].sum()


def _permanent_numbers(weight, strata, random_state):
    """Numbers in [0, 1), evenly spaced in every stratum, whose first row has 0."""
    number = np.full(len(weight), np.inf)
    kept, rank = shuffled_by_stratum(np.flatnonzero(weight), strata, random_state)
    size = np.bincount(strata[kept])[strata[kept]]
    # Strata of one size would otherwise take turns in the same order for ever.
    offset = random_state.uniform(size=len(kept))
    number[kept] = np.where(rank > 0, (rank + offset) / size, 0.0)
    return number


class WeightedSubsets:
    """Subsets of the training rows of an objective, and the curvatures that they give.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    kind : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    damping : float
        Added to the eigenvalues of the curvature.
    solver : {"auto", "direct", "gram", "cg", "lissa"}
        How the curvature is solved.
    stratify : bool
        Whether subsets contain the classes in proportion.
    random_state : int, RandomState or None
        Draws the preconditioner of "cg" and "lissa".
    """

    def __init__(self, objective, kind, damping, solver, stratify, random_state):
        self.objective = objective
        self.kind = kind
        self.damping = damping
        self.given_solver = solver
        self.stratify = stratify
        self.random_state = random_state

    @property
    def strata(self):
        """Class of every training row; all the same for a regression."""
        targets = self.objective.targets
        if self.objective.classes is None:
            return np.zeros(len(targets), dtype=int)
        if targets.shape[1] > 1:
            return targets.argmax(axis=1)
        return np.searchsorted(np.unique(targets), targets[:, 0])

    def order(self, random_state):
        """Random order of the training rows."""
        strata = self.strata if self.stratify else None
        return SamplingOrder(self.objective.weight, strata=strata, random_state=random_state)

    @property
    def factor_rows_per_sample(self):
        """Largest rank that one row adds to the curvature."""
        outputs = self.objective.training_outputs.shape[1]
        return 1 if self.kind == "empirical_fisher" else outputs

    @property
    def n_unpenalised(self):
        """Coordinates that only the rows of a subset determine."""
        return np.count_nonzero(self.objective.l2_penalty + self.damping <= 0)

    @property
    def needed_size(self):
        """Number of rows below which the Hessian of a subset must be singular."""
        return -(-self.n_unpenalised // self.factor_rows_per_sample)

    @property
    def full_work(self):
        """Multiply-adds of the curvature of all rows."""
        n_rows = np.count_nonzero(self.objective.weight)
        return n_rows * self.factor_rows_per_sample * len(self.objective.penalty) ** 2

    def checked_size(self, given, order):
        """Number of rows from a number or a share.

        Raises
        ------
        ValueError
            If there are fewer rows, or the subset is too small to determine a Hessian.
        """
        size = given
        if isinstance(size, Integral):
            if size > len(order):
                raise ValueError(
                    f"subset_size={given} exceeds the number of training rows with a positive "
                    f"weight, {len(order)}. Use at most that, a share, or 'auto'."
                )
        else:
            size = max(1, round(size * len(order)))
        if self.stratify and size < order.n_strata:
            raise ValueError(
                f"A subset of {size} rows (subset_size={given!r}) cannot hold a row "
                f"of each of the {order.n_strata} classes. Use at least {order.n_strata} rows, "
                "or stratify=False."
            )
        if size < min(self.needed_size, len(order)):
            raise ValueError(
                f"A subset of {size} rows (subset_size={given!r}) is too small: "
                f"{self.n_unpenalised} coordinates have neither penalty nor damping, and the "
                f"Hessian of the subset has at most rank {size * self.factor_rows_per_sample} "
                f"there. Use at least {self.needed_size} rows, or damping > 0."
            )
        return size

    def check_classes(self, weight):
        """Raise a ValueError if a class has no row with a weight."""
        full = np.bincount(self.strata, self.objective.weight)
        counts = np.bincount(self.strata[weight > 0], minlength=len(full))
        missing = np.flatnonzero((full > 0) & (counts == 0))
        if len(missing):
            names = self.objective.classes[missing].tolist()
            raise ValueError(
                f"The subset of {np.count_nonzero(weight)} rows has none of the class(es) "
                f"{names}. Use stratify=True, or a larger subset_size."
            )

    def curvature(self, weight, solver=None):
        """Curvature of the rows with a weight, by a given solver or by the one that suits it."""
        part = self.objective.restricted(weight)
        solver = solver or choose_solver(part, self.kind, self.given_solver, self.damping)
        curvature = make_curvature(part, self.kind, solver, self.random_state)
        curvature.row_weight = weight
        return curvature

    def extended(self, curvature, weight, share):
        """Curvature of a subset with more rows.

        Parameters
        ----------
        curvature : Curvature or None
            Curvature of the subset so far.
        weight : ndarray of shape (n_samples,)
            Weights with which the new rows alone represent all rows.
        share : float
            Share of the new rows in the extended subset.
        """
        if curvature is None:
            return self.curvature(weight)
        both = (1 - share) * curvature.row_weight + share * weight
        more = self.curvature(weight, curvature.solver)
        extended = curvature.averaged(more, share)
        if extended is None:
            return self.curvature(both)
        extended.row_weight = both
        return extended

    def full_curvature(self):
        """Curvature of all rows."""
        solver = choose_solver(self.objective, self.kind, self.given_solver, self.damping)
        curvature = make_curvature(self.objective, self.kind, solver, self.random_state)
        curvature.row_weight = self.objective.weight
        return curvature


class SizeSearch:
    """Grows a subset by the rows that it needs for an error of its Hessian.

    The subset is made of four disjoint quarters, and of these there are three pairs of halves.
    Half of what the halves of a subset of m rows differ by is distributed like what the subset
    differs from all n rows by, but for the sampling without replacement: one has the variance
    ``S^2 / m``, the other ``S^2 (1/m - 1/n)``. So each comparison predicts the size for any error.

    Parameters
    ----------
    subsets : WeightedSubsets
        Makes the curvatures.
    order : SamplingOrder
        Order in which rows are taken.
    tol : float
        Relative error of the Hessian at which the search stops.
    random_state : RandomState
        Draws the starts of the comparisons.
    report : callable
        ``report(size, error)`` for each size.
    """

    def __init__(self, subsets, order, tol, random_state, report):
        self.subsets = subsets
        self.order = order
        self.tol = tol
        self.random_state = random_state
        self.report = report

    def run(self):
        """Curvature of the subset, the weights of all rows, and the error."""
        n_rows, subsets = len(self.order), self.subsets
        taken, size = 0, max(FIRST_SIZE, round(FIRST_SHARE * n_rows), 4 * self._least_quarter)
        quarters = [None] * 4
        while size <= WORTHWHILE * n_rows:
            quarters = self._grown(quarters, taken, size)
            curvature, weight = self._together(quarters)
            error = self._error(quarters, curvature, size)
            self.report(size, error)
            if error <= self.tol:
                return curvature, weight, error
            taken, size = size, self._next(size, error)
        return subsets.full_curvature(), subsets.objective.weight, 0.0

    @property
    def _least_quarter(self):
        return max(self.order.n_strata, self.subsets.needed_size)

    def _grown(self, quarters, taken, size):
        """Quarters with a fourth of the rows each from position ``taken`` to ``size``."""
        edges, share = np.linspace(taken, size, 5).astype(int), (size - taken) / size
        parts = [self.order.weights(*edges[k : k + 2]) for k in range(4)]
        return [
            self.subsets.extended(quarter, part, share)
            for quarter, part in zip(quarters, parts, strict=True)
        ]

    def _together(self, quarters):
        """Curvature of all quarters, and the weights of the rows."""
        mean = None
        for k, quarter in enumerate(quarters):
            mean = quarter if k == 0 else mean and mean.averaged(quarter, 1 / (k + 1))
        weight = np.mean([quarter.row_weight for quarter in quarters], axis=0)
        return mean or self.subsets.curvature(weight), weight

    def _error(self, quarters, curvature, size):
        damping, random_state = self.subsets.damping, self.random_state
        norms = contrast_norms(quarters, HALVES / 4, curvature, damping, random_state)
        return float(norms.max() * np.sqrt(1 - size / len(self.order)))

    def _next(self, size, error):
        """Size that is predicted to suffice, if that is not too far from the last one."""
        n_rows = len(self.order)
        gain = (self.tol / error) ** 2
        needed = 1 / (1 / n_rows + gain * (1 / size - 1 / n_rows))
        if needed > WORTHWHILE * n_rows and np.isfinite(error):
            return n_rows
        return round(np.clip(needed, LEAST_GROWTH * size, LARGEST_GROWTH * size))
