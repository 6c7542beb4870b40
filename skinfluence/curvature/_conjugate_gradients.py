"""Conjugate gradients for several right-hand sides at once."""

import numpy as np


class BlockIteration:
    """Preconditioned conjugate gradients for every row ``b`` of ``H x = b``, step by step.

    Each row has its own step length; all rows share one product.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> H vectors`` for vectors (m, p), with a symmetric positive
        semidefinite H that may differ from row to row.
    right : ndarray of shape (m, p)
        Right-hand sides.
    precondition : callable
        ``precondition(vectors)`` approximates ``H^{-1} vectors``, symmetrically.

    Attributes
    ----------
    solution, residual : ndarray of shape (m, p)
        Solutions ``x``, and residuals ``r = b - H x``.
    """

    def __init__(self, product, right, precondition):
        self.product = product
        self.precondition = precondition
        self.solution = np.zeros_like(right)
        self.residual = right
        self._direction = np.zeros_like(right)
        self._energy_before = np.zeros(len(right))
        self._preconditioned = None

    # The last residual is preconditioned only where someone asks.

    @property
    def preconditioned(self):
        """Preconditioned residuals ``P r``, (m, p)."""
        if self._preconditioned is None:
            self._preconditioned = self.precondition(self.residual)
        return self._preconditioned

    @property
    def energy(self):
        """``r'P r``, (m,)."""
        return np.einsum("mp,mp->m", self.residual, self.preconditioned)

    def step(self, running=True):
        """Take one step in the rows that are running, and return its lengths (m,)."""
        energy = self.energy
        ratio = _ratio(energy, self._energy_before, running)
        self._direction = self.preconditioned + ratio[:, None] * self._direction
        image = self.product(self._direction)
        curved = np.einsum("mp,mp->m", self._direction, image)
        length = _ratio(energy, curved, running)
        self.solution += length[:, None] * self._direction
        self.residual = self.residual - length[:, None] * image
        self._energy_before, self._preconditioned = energy, None
        return length

    def keep(self, rows):
        """Go on with some of the rows only (mask of shape (m,))."""
        self._preconditioned = self.preconditioned[rows]
        for name in ("solution", "residual", "_direction", "_energy_before"):
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
    iteration = BlockIteration(product, right, precondition)
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
