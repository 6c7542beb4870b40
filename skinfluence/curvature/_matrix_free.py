"""F by its products with vectors alone."""

from functools import partial

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._base import Curvature
from skinfluence.curvature._conjugate_gradients import conjugate_gradients
from skinfluence.curvature._nystrom import NystromCurvature
from skinfluence.rows import DenseRows

# Vectors of random signs that estimate a trace.
N_SIGNS = 30


class MatrixFreeCurvature(Curvature):
    """H by its products with vectors alone, solved by iteration.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> F vectors`` for vectors (m, n_coordinates).
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty.
    method : {"cg", "lissa"}
        Conjugate gradients, or the Neumann series of LiSSA; both preconditioned.
    tol : float, default=1e-10
        Relative residual at which the iteration stops.
    max_iter : int, default=1000
        Largest number of iterations.
    rank : int, default=100
        Rank of the randomised Nystroem preconditioner.
    random_state : int or RandomState, default=None
        Draws the preconditioner's test vectors.
    """

    def __init__(
        self, product, penalty, method, *, tol=1e-10, max_iter=1000, rank=100, random_state=None
    ):
        self.product = product
        self.penalty = penalty
        self.method = self.solver = method
        self.tol = tol
        self.max_iter = max_iter
        self._nystrom = NystromCurvature(product, penalty, rank=rank, random_state=random_state)

    @property
    def approximation(self):
        return self._nystrom

    def precondition(self, vectors, damping):
        return self._nystrom.precondition(vectors, damping)

    def _apply(self, vectors, damping):
        return self.product(vectors) + vectors * (self.penalty + damping)

    def solve(self, rows, damping):
        right = rows.toarray()
        solver = {"cg": self._cg, "lissa": self._neumann}[self.method]
        solution, residual = solver(right, damping)
        worst = residual.max(initial=0.0)
        if not worst <= self.tol:
            warn_user(
                f"{self.method} stopped after {self.max_iter} iterations at a relative residual "
                f"of {worst:.2e} (tol={self.tol:.0e}, damping={damping:g}). Use more damping, or "
                "another solver.",
                ConvergenceWarning,
            )
        return DenseRows(solution, rows.rows_per_sample)

    def _cg(self, right, damping):
        scale = _scale(right)
        solution, norms = conjugate_gradients(
            partial(self._apply, damping=damping),
            right,
            partial(self.precondition, damping=damping),
            self.tol * scale,
            max_iter=self.max_iter,
        )
        return solution, norms / scale

    def _neumann(self, right, damping):
        # v <- v + s P^{-1}(b - H v) sums the Neumann series of the preconditioned Hessian.
        step = 1.0 / self._largest(damping)
        solution = np.zeros_like(right)
        residual = right
        scale = _scale(right)
        for _ in range(self.max_iter):
            solution = solution + step * self.precondition(residual, damping)
            residual = right - self._apply(solution, damping)
            if (np.linalg.norm(residual, axis=1) <= self.tol * scale).all():
                break
        return solution, np.linalg.norm(residual, axis=1) / scale

    def _largest(self, damping):
        """Largest eigenvalue of the preconditioned H, by power iteration, with a margin."""
        vector = np.ones((1, len(self.penalty)))
        for _ in range(20):
            vector /= np.linalg.norm(vector)
            vector = self.precondition(self._apply(vector, damping), damping)
        return 1.1 * float(np.linalg.norm(vector))

    def effective_dimension(self, damping):
        return self.estimated_effective_dimension(damping)[0]

    def estimated_effective_dimension(self, damping, seed=0):
        """``tr(F H^{-1})`` by random signs, and its standard error (Hutchinson).

        Parameters
        ----------
        damping : float
            Added to the eigenvalues of the curvature.
        seed : int, default=0
            Draws the signs.

        Returns
        -------
        value, error : float
            Mean of ``z' F H^{-1} z`` over signs ``z``, and its standard error.
        """
        signs = np.sign(check_random_state(seed).standard_normal((N_SIGNS, len(self.penalty))))
        solved = self.solve(DenseRows(signs), damping).array
        draws = np.einsum("mp,mp->m", self.product(signs), solved)
        return float(draws.mean()), float(draws.std(ddof=1) / np.sqrt(N_SIGNS))


def _scale(right):
    """Norms of right-hand sides, the units of their residuals."""
    return np.maximum(np.linalg.norm(right, axis=1), np.finfo(float).tiny)
