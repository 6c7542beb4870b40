"""Whether a Hessian from some rows preserves loss estimates: ratios and conditions.

Conventions
-----------
``H`` is the reference Hessian, ``H_m`` the subset's, ``r_p`` the influence by ``H`` over the
influence by ``H_m`` of training row p on a query. A relative influence is loss estimate
preserving (LEP) for a query if ``r_p`` is the same for all p.
"""

import numpy as np
from sklearn.utils import Bunch

from skinfluence.estimators._lep_conditions import LepConditions, row_sums
from skinfluence.metrics import influence_ratio
from skinfluence.rows import DenseRows

# Training rows on which the conditions of Theorem 2 are measured.
N_CONDITIONED = 256

# Share of a query's influence that has to come from rows with one ratio: Theorem 2 says all rows.
PRESERVED_SHARE = 0.9

# Candidates for delta, relative to the size at which the second condition fails.
RELATIVE_DELTAS = np.outer([1.0, -1.0], np.geomspace(1e-6, 8.0, 15)).ravel()


class LepComparison:
    """Influences by a subset's Hessian against influences by a reference, for some queries.

    Parameters
    ----------
    queries : Rows
        Gradients of the queries.
    rows : Rows
        Gradients of the training rows.
    reference, relative : callable
        ``solve(rows) -> rows``, with the reference Hessian and with the subset's.
    product : callable
        ``product(vectors) -> vectors @ H_m``.
    """

    def __init__(self, queries, rows, reference, relative, product):
        full = reference(queries).inner(rows)
        partial = relative(queries).inner(rows)
        self.ratios = influence_ratio(partial, full)
        self.influences = partial, full
        self.query_gradients = queries.toarray()
        moving = np.flatnonzero(rows.squared_norms() > 0)
        some = np.unique(moving[np.linspace(0, len(moving) - 1, N_CONDITIONED).astype(int)])
        gradients = rows[some].toarray()
        transported = product(reference(DenseRows(gradients)).toarray())
        with np.errstate(divide="ignore"):
            ratio = full[:, some] / partial[:, some]
        ones = np.ones((1, gradients.shape[1]))
        self.transported_ones = product(reference(DenseRows(ones)).toarray())[0]
        self.conditions = LepConditions(
            self.query_gradients, gradients, transported, self.transported_ones, ratio
        )

    def sizes(self, delta):
        """Medians over training rows of both conditions for delta (q,), two arrays (q,)."""
        first, second = self.conditions.first(delta), self.conditions.second(delta)
        return np.median(first, axis=1), np.median(second, axis=1)

    def best_delta(self):
        """For each query, the candidate under which the larger condition is smallest, (q,)."""
        candidates = RELATIVE_DELTAS[:, None] * self.conditions.scale
        worst = np.array([np.maximum(*self.sizes(delta)) for delta in candidates])
        return candidates[worst.argmin(axis=0), np.arange(candidates.shape[1])]

    def preserved_share(self, tol):
        """Share of rows, weighted by ``|I|``, whose ratio is within tol of rho, (q,)."""
        partial, full = self.influences
        expected = self.ratios.rho[:, None] * partial
        within = np.abs(full - expected) <= tol * np.abs(expected)
        size = np.abs(full)
        return (size * within).sum(axis=1) / size.sum(axis=1)

    def result(self, delta, tol):
        """Compute what `RelativeHessianInfluence.lep_check` returns, without the reference."""
        delta = self.best_delta() if delta is None else np.full(len(self.query_gradients), delta)
        first, second = self.sizes(delta)
        sums = row_sums(delta, self.query_gradients, self.transported_ones)
        middle = np.median(sums, axis=1)
        share = self.preserved_share(tol)
        return Bunch(
            **self.ratios,
            preserved_share=share,
            is_preserving=share >= PRESERVED_SHARE,
            delta=delta,
            first_condition=first,
            second_condition=second,
            row_sum=middle,
            row_sum_spread=np.abs(sums - middle[:, None]).max(axis=1) / np.abs(middle),
        )
