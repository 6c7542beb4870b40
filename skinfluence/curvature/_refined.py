"""An approximate curvature whose solutions are refined with the full one."""

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skinfluence._utils.batching import batches
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._base import Curvature
from skinfluence.curvature._certificate import ROUNDING
from skinfluence.curvature._conjugate_gradients import BlockIteration

# Steps after which the refinement to a bound gives up.
MAX_REFINEMENTS = 50

# How many of the largest inner products of a solution the bound is for.
N_LARGEST = 10


class RefinedCurvature(Curvature):
    """The full curvature, solved by conjugate gradients that an approximation preconditions.

    The first step finds the best length of the approximate solution. Each further step adds what
    the approximation says of the residual, conjugate to the steps before, so it converges even
    where the approximation is far below the curvature.

    Only `solve` is refined. All else is what the approximation says.

    Parameters
    ----------
    certificate : Certificate
        Knows the products with the full curvature, and the bounds.
    refine : int or "auto"
        Steps after the first. "auto": until ``eps`` is met.
    eps : float
        Largest bound on the errors of the ten largest inner products of a solution with the rows
        of the certificate, relative to each.
    """

    def __init__(self, certificate, refine, eps):
        self.certificate = certificate
        self.refine = refine
        self.eps = eps

    @property
    def approximation(self):
        return self.certificate.approximation

    @property
    def unrefined(self):
        return self.certificate.approximation

    @property
    def solver(self):
        return self.approximation.solver

    @property
    def row_weight(self):
        return self.approximation.row_weight

    def solve(self, rows, damping):
        refined = self._to_bound if self.refine == "auto" else self._by_steps
        system, s = self.certificate.system(damping), rows.rows_per_sample
        n_coordinates = rows.n_columns + system.n_extra
        out = np.empty((rows.shape[0], n_coordinates))
        for batch in batches(rows.n_samples, 8 * 8 * s * n_coordinates):
            iteration = BlockIteration(system, system.enter(rows[batch]))
            out[rows.row_slice(batch)] = refined(iteration, damping)
        return system.leave(out, s)

    def _by_steps(self, iteration, damping):
        floor = ROUNDING * iteration.energy
        for _ in range(self.refine + 1):
            iteration.step(iteration.energy > floor)
        return iteration.solution

    def _to_bound(self, iteration, damping):
        out = np.empty_like(iteration.solution)
        left = np.arange(len(out))
        for _ in range(MAX_REFINEMENTS + 1):
            iteration.step()
            error = self._relative_bound(iteration, damping)
            running = error > self.eps
            out[left[~running]] = iteration.solution[~running]
            iteration.keep(running)
            left, error = left[running], error[running]
            if not len(left):
                return out
        out[left] = iteration.solution
        warn_user(
            f"refine='auto' stopped after {MAX_REFINEMENTS} steps: {len(left)} row(s) have a "
            f"relative error bound of up to {error.max():.2g} (expected at most {self.eps:g}). "
            "Use a better approximation (a larger sketch_size or subset_size), more damping, or "
            "a larger eps.",
            ConvergenceWarning,
        )
        return out

    def _relative_bound(self, iteration, damping):
        """Largest bound relative to its inner product among the ten largest ones, (m,)."""
        certificate, leave = self.certificate, iteration.system.leave
        products = np.abs(leave(iteration.solution, 1).inner(certificate.rows))
        preconditioned = leave(iteration.preconditioned, 1)
        bounds = certificate.bounds_from(preconditioned, iteration.energy, damping)
        k = min(N_LARGEST, products.shape[1])
        largest = np.argpartition(-products, k - 1, axis=1)[:, :k]
        products, bounds = (np.take_along_axis(a, largest, axis=1) for a in (products, bounds))
        # Rows without any gradient have nothing to bound.
        relative = np.full_like(bounds, np.inf)
        np.divide(bounds, products, out=relative, where=products > 0)
        return np.where(bounds > 0, relative, 0.0).max(axis=1)

    # What the approximation says.

    def precondition(self, vectors, damping):
        return self.approximation.precondition(vectors, damping)

    def exact_part(self, rows):
        return self.approximation.exact_part(rows)

    def leverages(self, rows, damping):
        return self.approximation.leverages(rows, damping)

    def whiten(self, rows, damping):
        return self.approximation.whiten(rows, damping)

    def eigenbasis(self, damping, query=None):
        return self.approximation.eigenbasis(damping, query)

    def effective_dimension(self, damping):
        return self.approximation.effective_dimension(damping)
