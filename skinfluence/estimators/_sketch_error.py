"""The error of sketched scores, measured against exact scores found by products alone."""

import warnings
from functools import cached_property

import numpy as np
from scipy.stats import binom, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch

from skinfluence._utils.batching import batches
from skinfluence.curvature import MatrixFreeCurvature
from skinfluence.rows import DenseRows

# The fewest values of which the 95th percentile has an upper limit with 97.5 % confidence.
N_PROBES = 72

# Vectors, and iterations, of the search for the pair of gradients with the largest error.
N_VECTORS, N_ITERATIONS = 4, 8


class Probes:
    """Training rows taken as queries, and exact scores of these or other queries.

    Everything is computed on first use.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    kind : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    damping : float
        Added to the eigenvalues of the curvature.
    seed : int
        Chooses the probes.
    """

    def __init__(self, objective, kind, damping, seed):
        self.objective = objective
        self.kind = kind
        self.damping = damping
        self.seed = seed

    @cached_property
    def rows(self):
        """Gradients of the training rows."""
        return self.objective.training_gradient_rows()

    @cached_property
    def index(self):
        """Positions of the probes."""
        moving = np.flatnonzero(self.rows.squared_norms() > 0)
        rng = np.random.default_rng(self.seed)
        return rng.choice(moving, min(N_PROBES, len(moving)), replace=False)

    @cached_property
    def _product(self):
        return self.objective.curvature_product(self.kind)

    def _solver(self, penalty, **settings):
        return MatrixFreeCurvature(
            self._product, penalty, "cg", random_state=self.seed, **settings
        )

    @cached_property
    def _damped(self):
        return self._solver(self.objective.l2_penalty, tol=1e-8)

    @cached_property
    def _undamped(self):
        penalty = np.zeros_like(self.objective.l2_penalty)
        return self._solver(penalty, tol=1e-4, max_iter=100)

    def solve(self, rows):
        """Exact ``H^{-1} v`` of rows of the objective."""
        return self._damped.solve(rows, self.damping)

    @cached_property
    def exact(self):
        """``B`` of every probe and training row, (n_probes, n_train)."""
        return self.solve(self.rows[self.index]).inner(self.rows)

    def scale(self, rows):
        """``phi_0 = g'F^+ g`` of rows in the range of F, (n_rows,).

        The energy of conjugate gradients grows towards it, so stopping early makes the scale
        smaller and the error larger, never the reverse.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solved = self._undamped.solve(rows, 0.0).array
        energy = np.einsum("qp,qp->q", solved, rows.toarray())
        own = np.einsum("qp,qp->q", self.solve(rows).toarray(), rows.toarray())
        return np.maximum(energy, own)

    def relative_error(self, projection):
        """95th percentile over the probes of the relative error of the scores by a projection."""
        queries = projection.project(self.rows[self.index])
        solved = projection.curvature.solve(queries, self.damping)
        sketched = solved.inner(projection.project(self.rows))
        return np.quantile(_relative(sketched, self.exact), 0.95)


def measured_error(linearisation, queries=None):
    """Errors of sketched scores of queries.

    Parameters
    ----------
    linearisation : Linearisation
        A fit with a sketch.
    queries : Rows, default=None
        Gradients of the queries in the coordinates of the objective; by default those of the
        probes.

    Returns
    -------
    Bunch
        As `SketchedInfluence.sketch_error` describes it.
    """
    fit, plan = linearisation, linearisation.space.plan
    probes = Probes(fit.objective, fit.curvature_kind, fit.damping, plan.seed)
    partners = probes.rows[probes.index]
    partner_scale = probes.scale(partners)
    in_range, scale = partners, partner_scale
    if queries is not None:
        in_range = fit.space.range.project(queries)
        scale = probes.scale(in_range)
    queries = partners if queries is None else queries
    relative, spearman, pairs = [], [], []
    for batch in batches(len(queries), 8 * 8 * max(queries.n_columns, fit.n_samples)):
        # Exact influence ignores what lies outside the range of F; the sketch may not.
        exact = probes.solve(queries[batch]).inner(probes.rows)
        projected = fit.space.project_queries(queries[batch])
        sketched = fit.solve(projected).inner(fit.training_rows)
        relative.append(_relative(sketched, exact))
        spearman.append(_spearman(sketched, exact))
        pairs.append(np.abs(sketched - exact)[:, probes.index])
    pairs = np.concatenate(pairs) / np.sqrt(np.outer(scale, partner_scale))
    return Bunch(
        relative=_quantiles(np.concatenate(relative), max, "percentile_95", 0.95, (0.0, np.inf)),
        spearman=_quantiles(np.concatenate(spearman), min, "percentile_5", 0.05, (-1.0, 1.0)),
        pairwise=Bunch(
            median=float(np.median(pairs)),
            percentile_95=_of_pairs(pairs, plan.seed),
            max=float(pairs.max()),
        ),
        operator=_operator_error(fit, probes),
        n_queries=len(queries),
    )


def _relative(sketched, exact):
    """Relative error of the scores of every query, (n_queries,)."""
    gap, size = (np.linalg.norm(rows, axis=1) for rows in (sketched - exact, exact))
    return np.divide(gap, size, out=np.zeros_like(gap), where=size > 0)


def _spearman(sketched, exact):
    """Rank correlation of the scores of every query with the exact ones, (n_queries,)."""
    pairs = zip(rankdata(sketched, axis=1), rankdata(exact, axis=1), strict=True)
    return np.array([np.corrcoef(left, right)[0, 1] for left, right in pairs])


def _quantiles(values, worst, name, level, limits):
    """Median, another quantile and the worst of some values, and the values themselves."""
    return Bunch(
        median=_quantile(values, 0.5, limits),
        **{name: _quantile(values, level, limits)},
        **{worst.__name__: float(worst(values))},
        values=values,
    )


def _quantile(values, level, limits):
    """A quantile with a 95 % interval by order statistics, whatever the distribution.

    With too few values, an end of the interval is the limit of the quantity.
    """
    ordered = np.concatenate([limits[:1], np.sort(values), limits[1:]])
    low, high = binom.ppf([0.025, 0.975], len(values), level).astype(int)
    return Bunch(
        value=float(np.quantile(values, level)),
        low=float(ordered[low]),
        high=float(ordered[high + 1]),
    )


def _of_pairs(pairs, seed):
    """95th percentile of pairs, with a 95 % interval by resampling queries and rows."""
    rng = np.random.default_rng(seed)
    draws = [[rng.integers(0, n, n) for n in pairs.shape] for _ in range(499)]
    found = [np.quantile(pairs[np.ix_(*draw)], 0.95) for draw in draws]
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return Bunch(value=float(np.quantile(pairs, 0.95)), low=low, high=high)


def _operator_error(fit, probes):
    """``sup |B~ - B| / sqrt(phi_0 phi_0')`` over the range of F, from below.

    With rows C, ``C'C = F``, this is the norm of ``C (H~^{-1} - H^{-1}) C'``: subspace iteration,
    of which the largest Ritz value is never above the norm.
    """
    factor_rows = fit.objective.factor_rows(fit.curvature_kind).summed()
    rng = np.random.default_rng([probes.seed, 3])
    vectors = rng.standard_normal((N_VECTORS, factor_rows.shape[0]))
    found = 0.0
    for _ in range(N_ITERATIONS):
        vectors = np.linalg.qr(vectors.T)[0].T
        gradients = DenseRows(vectors @ factor_rows)
        gap = fit.space.lift(fit.solve(fit.space.project(gradients)).toarray())
        gap -= probes.solve(gradients).array
        image = factor_rows.dotted_by(gap)
        ritz = vectors @ image.T
        found = max(found, float(np.abs(np.linalg.eigvalsh((ritz + ritz.T) / 2)).max()))
        vectors = image
    return found
