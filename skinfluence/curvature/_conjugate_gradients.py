"""Conjugate gradients for several right-hand sides at once."""

import numpy as np

from skinfluence.curvature._system import System


class BlockIteration:
    """Preconditioned conjugate gradients for every row ``b`` of ``H x = b``, step by step.

    Each row has its own step length; all rows share one product.

    Parameters
    ----------
    system : System
        H, its approximate inverse P, and the coordinates of all vectors.
    right : ndarray of shape (m, n_coordinates)
        Right-hand sides.

    Attributes
    ----------
    solution : ndarray of shape (m, n_coordinates)
        Solutions ``x``.
    """

    def __init__(self, system, right):
        self.system = system
        self.solution = np.zeros_like(right)
        self._residual = right
        self._direction = np.zeros_like(right)
        self._energy_before = np.zeros(len(right))
        self._pending = self._preconditioned = None

    # The last residual costs half a product, and is computed only where someone asks.

    @property
    def residual(self):
        """Residuals ``r = b - H x``, (m, n_coordinates)."""
        if self._pending is not None:
            length, pull = self._pending
            self._residual = self._residual - length[:, None] * pull()
            self._pending = None
        return self._residual

    @property
    def preconditioned(self):
        """Preconditioned residuals ``P r``, (m, n_coordinates)."""
        if self._preconditioned is None:
            self._preconditioned = self.system.precondition(self.residual)
        return self._preconditioned

    @property
    def energy(self):
        """``r'P r``, (m,)."""
        return self.system.dot(self.residual, self.preconditioned)

    def step(self, running=True):
        """Take one step in the rows that are running, and return its lengths (m,)."""
        energy = self.energy
        ratio = _ratio(energy, self._energy_before, running)
        self._direction *= ratio[:, None]
        self._direction += self.preconditioned
        curved, pull = self.system.push(self._direction)
        length = _ratio(energy, curved, running)
        self.solution += length[:, None] * self._direction
        self._pending = length, pull
        self._energy_before, self._preconditioned = energy, None
        return length

    def keep(self, rows):
        """Go on with some of the rows only (mask of shape (m,))."""
        self._preconditioned = self.preconditioned[rows]
        for name in ("solution", "_residual", "_direction", "_energy_before"):
            setattr(self, name, getattr(self, name)[rows])


def conjugate_gradients(product, right, precondition, target, *, max_iter, exhausted=0.0):
    """Solve ``H x = b`` for every row ``b`` by preconditioned conjugate gradients.

    Each row has its own step length and stops on its own; all rows share one product.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> H vectors`` for vectors (m, p), with a symmetric positive
        semidefinite H that may differ from row to row.
    right : ndarray of shape (m, p)
        Right-hand sides.
    precondition : callable
        ``precondition(vectors)`` approximates ``H^{-1} vectors``, symmetrically.
    target : ndarray of shape (m,)
        Norms of the residual at which rows stop.
    max_iter : int
        Largest number of iterations.
    exhausted : float, default=0.0
        Share of the first energy ``r' P^{-1} r`` of a row at which the row stops too: the rest
        of the residual then lies in directions that the preconditioner leaves out.

    Returns
    -------
    solution : ndarray of shape (m, p)
        Solutions.
    residual_norm : ndarray of shape (m,)
        Norms of the residuals of the solutions.
    """
    iteration = BlockIteration(System(product, precondition), right)
    floor = exhausted * iteration.energy
    for _ in range(max_iter):
        running = np.linalg.norm(iteration.residual, axis=1) > target
        running &= iteration.energy > floor
        if not running.any():
            break
        iteration.step(running)
    return iteration.solution, np.linalg.norm(iteration.residual, axis=1)


def _ratio(numerator, denominator, where):
    """Quotients where ``where`` is True and the denominator is positive, else 0."""
    where = where & (denominator > 0)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=where)
