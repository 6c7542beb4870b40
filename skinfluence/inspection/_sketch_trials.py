"""Errors of sketches of a fit, by their sizes."""

from functools import cached_property

import numpy as np

from skinfluence._utils.validation import check_queries, reads_raw_data
from skinfluence.curvature import exact_curvature
from skinfluence.curvature.sketched import Projection, SketchPlan

# Smaller errors are rounding, and have no place on a logarithmic axis.
ROUNDING = 1e-16

QUANTILE = 0.95

# Sizes that are tried by default, the largest in effective dimensions.
N_SIZES, LARGEST = 5, 16


class SketchTrials:
    """Exact scores of queries, and errors of sketched ones.

    Parameters
    ----------
    estimator : influence estimator
        Fitted.
    X : {array-like, sparse matrix} of shape (n_queries, n_features)
        Queries.
    y : array-like of shape (n_queries,) or None
        Their targets.

    Attributes
    ----------
    rows, queries : Rows
        Gradients of the training rows and of the queries.
    """

    def __init__(self, estimator, X, y):
        fit = estimator.linearisation_
        self.objective, self.damping = fit.objective, fit.damping
        has_factor_rows = self.objective.has_factor_rows(fit.curvature_kind)
        # An indefinite Hessian has no rows to sketch.
        self.kind = fit.curvature_kind if has_factor_rows else "ggn"
        features = fit.read(check_queries(estimator, X, numeric=not reads_raw_data(estimator)))
        self.queries = fit.gradient_rows(features, y)
        self.rows = self.objective.training_gradient_rows()

    @cached_property
    def _exact(self):
        return exact_curvature(self.objective, self.kind, self.damping, random_state=0)

    @property
    def effective_dimension(self):
        """Effective dimension of the full curvature."""
        return self._exact.effective_dimension(self.damping)

    @cached_property
    def _scores(self):
        return self._exact.solve(self.queries, self.damping).inner(self.rows)

    @cached_property
    def _scale(self):
        """``sqrt(phi phi')`` of every pair, (n_queries, n_train)."""
        phi = (self._exact.leverages(rows, self.damping)[:, 0, 0]
               for rows in (self.queries, self.rows))  # fmt: skip
        return np.sqrt(np.maximum(np.multiply.outer(*phi), np.finfo(float).tiny))

    def error(self, sketch, size, seed):
        """Error of one sketch.

        Parameters
        ----------
        sketch : str
            Kind of sketch.
        size : int
            Numbers for each training row.
        seed : int
            Draws it.

        Returns
        -------
        float
            95th percentile over the pairs of ``|B~ - B| / sqrt(phi phi')``.
        """
        plan = SketchPlan.of(
            self.objective, self.kind, self.damping,
            sketch=sketch, seed=seed, factorized=False, complement=False,
        )  # fmt: skip
        projection = Projection(plan, plan.sketch(size, 1))
        solved = projection.curvature.solve(projection.project(self.queries), self.damping)
        sketched = solved.inner(projection.project(self.rows))
        error = np.abs(sketched - self._scores) / self._scale
        return max(float(np.quantile(error, QUANTILE)), ROUNDING)


def default_sizes(dimension, n_columns):
    """Five sizes from the effective dimension to `LARGEST` times it, at most half the columns."""
    most = max(n_columns // 2, 1)
    ends = np.clip([dimension, LARGEST * dimension], 1, most)
    return np.unique(np.geomspace(*ends, N_SIZES).round().astype(int))
