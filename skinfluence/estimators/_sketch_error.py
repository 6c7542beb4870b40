"""The error of sketched scores, measured on a few probe queries."""

import warnings
from functools import cached_property

import numpy as np
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch

from skinfluence.curvature import MatrixFreeCurvature
from skinfluence.metrics import bootstrap_interval

N_PROBES = 16


class Probes:
    """Training rows taken as queries, with exact scores found by products alone.

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
    def exact(self):
        """``B`` of every probe and training row, (n_probes, n_train)."""
        solver = self._solver(self.objective.l2_penalty, tol=1e-8)
        return solver.solve(self.rows[self.index], self.damping).inner(self.rows)

    @cached_property
    def scale(self):
        """``phi_0 = g'F^+ g`` of every probe, (n_probes,)."""
        probes = self.rows[self.index]
        solver = self._solver(np.zeros_like(self.objective.l2_penalty), tol=1e-4, max_iter=100)
        with warnings.catch_warnings():
            # The energy of conjugate gradients grows towards phi_0, so stopping early makes the
            # scale smaller and the error larger, never the reverse.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solved = solver.solve(probes, 0.0).array
        energy = np.einsum("qp,qp->q", solved, probes.toarray())
        own = self.exact[np.arange(len(self.index)), self.index]
        return np.maximum(energy, own)

    def relative(self, sketched):
        """Relative error of the scores of every probe, (n_probes,)."""
        gap = np.linalg.norm(sketched - self.exact, axis=1)
        return gap / np.linalg.norm(self.exact, axis=1)

    def spearman(self, sketched):
        """Rank correlation of the scores of every probe with the exact ones, (n_probes,)."""
        pairs = zip(rankdata(sketched, axis=1), rankdata(self.exact, axis=1), strict=True)
        return np.array([np.corrcoef(left, right)[0, 1] for left, right in pairs])

    def uniform(self, sketched):
        """``|B~ - B| / sqrt(phi_0 phi_0')`` of all pairs of probes."""
        gap = np.abs(sketched - self.exact)[:, self.index]
        return gap / np.sqrt(np.outer(self.scale, self.scale))

    def relative_error(self, projection):
        """Mean relative error of the scores by a projection."""
        queries = projection.project(self.rows[self.index])
        solved = projection.curvature.solve(queries, self.damping)
        return self.relative(solved.inner(projection.project(self.rows))).mean()

    def report(self, linearisation):
        """The three errors, each with an interval that contains it in 95 of 100 draws of probes.

        Parameters
        ----------
        linearisation : Linearisation
            A fit with a sketch.

        Returns
        -------
        Bunch
        """
        queries = linearisation.space.project_queries(self.rows[self.index])
        sketched = linearisation.solve(queries).inner(linearisation.training_rows)
        pairs = self.uniform(sketched)
        draws = np.random.default_rng(self.seed).integers(0, len(pairs), (999, len(pairs)))
        resampled = [np.quantile(pairs[np.ix_(draw, draw)], 0.95) for draw in draws]
        low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
        return Bunch(
            uniform=Bunch(value=float(np.quantile(pairs, 0.95)), low=low, high=high),
            relative=self._interval(self.relative(sketched)),
            spearman=self._interval(self.spearman(sketched)),
            n_probes=len(pairs),
        )

    def _interval(self, values):
        result = bootstrap_interval(values, n_resamples=999, random_state=self.seed)
        return Bunch(value=result.mean, low=result.low, high=result.high)
