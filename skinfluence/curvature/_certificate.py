"""How far an approximate solution may be from the exact one, from its residual.

With the residual ``r = g - H x`` of a solution x, the error of its inner product with g' is

    g' H^{-1} g - g' x = r' H^{-1} g'

An approximate inverse M, such as that of a sketch, tells how large this is. If all eigenvalues
of ``M H`` lie between l and u, then ``M / u <= H^{-1} <= M / l``, so with the centre ``c = (1/l +
1/u) / 2`` of this interval and half its width ``h = (1/l - 1/u) / 2``

    |r' H^{-1} g'| <= c |r' M g'| + h sqrt(r' M r) sqrt(g' M g')

by the inequality of Cauchy and Schwarz. Nothing is assumed of r and g': they may lie in
directions that no training row has. (Where H is singular up to rounding, as it may be without a
ridge, they must lie in its range, and M must have the same.) The interval itself is found by
Lanczos iteration, from inside, and widened.
"""

from functools import partial

import numpy as np
from scipy.linalg import eigh_tridiagonal

from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._conjugate_gradients import BlockIteration
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import DenseRows

# Random starts of the Lanczos iteration, and its least and largest number of steps.
N_STARTS, MIN_STEPS, MAX_STEPS = 3, 10, 200

# Residual of an extreme Ritz value, relative to it, at which it counts as found, and the share
# by which the interval is then widened beyond this residual.
FOUND, MARGIN = 0.05, 0.05

# Energy of a residual, relative to the first, that is rounding.
ROUNDING = 1e-30


class Certificate:
    """Bounds on the errors of inner products with approximate solutions.

    What is proven: the bounds, given the interval of eigenvalues. What is estimated: the interval,
    by Lanczos iteration from several random starts until both ends are found to 5 percent; they
    are then moved outward by their residuals and by another 5 percent.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> F vectors`` for vectors (m, n_coordinates), with the full F.
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty.
    approximation : Curvature
        Curvature with all coordinates, the inverse of which is M.
    rows : Rows
        The rows g', gradients of the training rows.
    """

    def __init__(self, product, penalty, approximation, rows):
        self.product = product
        self.penalty = penalty
        self.approximation = approximation
        self.rows = rows
        self._state = (None, None)

    def multiply(self, vectors, damping):
        """``H v`` for vectors (m, n_coordinates)."""
        return self.product(vectors) + vectors * (self.penalty + damping)

    def precondition(self, vectors, damping):
        """``M v`` for vectors (m, n_coordinates)."""
        return self.approximation.solve(DenseRows(vectors), damping).toarray()

    def system(self, damping):
        """`System` of H, preconditioned by M."""
        return self.approximation.system(partial(self.multiply, damping=damping), damping)

    def _known(self, damping):
        """The interval, and ``sqrt(g' M g')`` of all rows, once for each damping."""
        if self._state[0] != damping:
            leverages = self.approximation.leverages(self.rows, damping)[:, 0, 0]
            lengths = np.sqrt(np.maximum(leverages, 0.0))
            self._state = (damping, (self._interval(damping), lengths))
        return self._state[1]

    def interval(self, damping):
        """Ends between which all eigenvalues of ``M H`` lie."""
        return self._known(damping)[0]

    def _interval(self, damping):
        start = np.random.default_rng(0).standard_normal((N_STARTS, len(self.penalty)))
        # In the range of H, outside which rows have no part.
        start = self.multiply(self.precondition(start, damping), damping)
        system = self.system(damping)
        iteration = BlockIteration(system, system.enter(DenseRows(start)))
        lengths, energies = [], [iteration.energy]
        for n_steps in range(1, MAX_STEPS + 1):
            running = energies[-1] > ROUNDING * energies[0]
            lengths.append(iteration.step(running))
            energies.append(iteration.energy)
            if not running.any() or (running & (lengths[-1] <= 0)).any():
                # No direction has a curvature, or one has a negative one.
                ends = -np.inf, np.inf
                break
            ends, is_found = _widest(np.array(lengths), np.array(energies))
            is_spent = (energies[-1] <= ROUNDING * energies[0]).all()
            if is_spent or (is_found and n_steps >= MIN_STEPS):
                break
        lower, upper = ends[0] * (1 - MARGIN), ends[1] * (1 + MARGIN)
        if not lower > 0:
            warn_user(
                "No lower bound of the full curvature is found: it may be zero or have negative "
                "eigenvalues, or the approximation is far from it. The bounds on errors are "
                "infinite. Use more damping, or curvature='ggn' for a network.",
                NumericalWarning,
            )
        return lower, upper

    def bounds(self, residual, damping):
        """Bounds on ``|r' H^{-1} g'|``.

        Parameters
        ----------
        residual : ndarray of shape (m, n_coordinates)
            Residuals r.
        damping : float
            Added to the eigenvalues of the curvature.

        Returns
        -------
        ndarray of shape (m, n_rows)
        """
        preconditioned = self.precondition(residual, damping)
        energy = np.einsum("mp,mp->m", residual, preconditioned)
        return self.bounds_from(DenseRows(preconditioned), energy, damping)

    def bounds_from(self, preconditioned, energy, damping):
        """The same from what the approximate inverse makes of residuals.

        Parameters
        ----------
        preconditioned : Rows
            ``M r``.
        energy : ndarray of shape (m,)
            ``r' M r``.
        damping : float
            Added to the eigenvalues of the curvature.

        Returns
        -------
        ndarray of shape (m, n_rows)
        """
        (lower, upper), lengths = self._known(damping)
        if not lower > 0:
            return np.full((len(energy), len(lengths)), np.inf)
        own = np.sqrt(np.maximum(energy, 0.0))
        centre, spread = (1 / lower + 1 / upper) / 2, (1 / lower - 1 / upper) / 2
        out = np.abs(preconditioned.inner(self.rows))
        out *= centre
        out += spread * own[:, None] * lengths
        return out

    def bounds_of(self, right, solution, damping):
        """Bounds on the errors of inner products with solutions of ``H x = b``.

        Parameters
        ----------
        right, solution : ndarray of shape (m, n_coordinates)
            Rows b, and what stands for ``H^{-1} b``.
        damping : float
            Added to the eigenvalues of the curvature.

        Returns
        -------
        ndarray of shape (m, n_rows)
        """
        return self.bounds(right - self.multiply(solution, damping), damping)


def _widest(lengths, energies):
    """The widest interval of Ritz values of several starts, and whether its ends are found.

    The steps of conjugate gradients (n_steps, n_starts) and their energies, one more, make the
    tridiagonal matrix of the Lanczos iteration.
    """
    lowers, uppers, found = [], [], []
    for length, energy in zip(lengths.T, energies.T, strict=True):
        # A start that has ended takes steps of length 0.
        n_steps = np.count_nonzero(length)
        length, energy = length[:n_steps], np.maximum(energy[: n_steps + 1], 0.0)
        ratio = energy[1:] / energy[:-1]
        diagonal = 1 / length
        diagonal[1:] += ratio[:-1] / length[:-1]
        beyond = np.sqrt(ratio) / length
        values, vectors = eigh_tridiagonal(diagonal, beyond[:-1])
        residuals = beyond[-1] * np.abs(vectors[-1])
        lowers.append(values[0] - residuals[0])
        uppers.append(values[-1] + residuals[-1])
        found += [residuals[0] <= FOUND * values[0], residuals[-1] <= FOUND * values[-1]]
    return (min(lowers), max(uppers)), all(found)
