"""Conjugate gradients for several right-hand sides at once."""

import numpy as np


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
    solution = np.zeros_like(right)
    residual = right
    direction = preconditioned = precondition(residual)
    energy = np.einsum("mp,mp->m", residual, preconditioned)
    floor = exhausted * energy
    for _ in range(max_iter):
        running = (np.linalg.norm(residual, axis=1) > target) & (energy > floor)
        if not running.any():
            break
        image = product(direction)
        curved = np.einsum("mp,mp->m", direction, image)
        length = _ratio(energy, curved, running)[:, None]
        solution += length * direction
        residual = residual - length * image
        preconditioned = precondition(residual)
        before, energy = energy, np.einsum("mp,mp->m", residual, preconditioned)
        direction = preconditioned + _ratio(energy, before, running)[:, None] * direction
    return solution, np.linalg.norm(residual, axis=1)


def _ratio(numerator, denominator, where):
    """Quotients where ``where`` is True and the denominator is positive, else 0."""
    where = where & (denominator > 0)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=where)
