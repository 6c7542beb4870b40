"""The minimum without each training row, by steps that share one factorised curvature.

Conventions
-----------
As in `newton_step`. The chord method repeats Newton's step with the Hessian ``H_p`` of the rows
that stay at the *fitted* parameters, whose inverse is known by Woodbury:

    (N H_p)^{-1} v = H^{-1} (v + J_p' D_p J_p H^{-1} v / N) / N,    D_p = (I - w h M)^{-1} w h

So a step for all removals costs one product of all changes with the Jacobian of all rows, and one
back. The error falls each time by about the share by which the change of the parameters changes
the curvature of the other rows, which is small where no row has a large say. Lengths are those
of ``N H_p``: ``s_j' N H_p s_j`` of the j-th step, of which the first is `newton_step`'s own.
"""

import numpy as np

from skinfluence.refitting.newton_step import first_steps
from skinfluence.rows import DenseRows

# Estimated relative error of a change at which its steps end.
STEP_TOLERANCE = 1e-8

# Shorter than this share of the longest first step, a step is rounding.
ROUNDING = 1e-12

# Steps that are worth their while, and the ratio of their lengths above which they are not.
MAX_CHORDS = 6
TOO_SLOW = 0.1

# Numbers that stay in the cache from one function of the loss to the next.
CACHED = 2**18


class Chords:
    """Chord steps to the minima without each of the training rows.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit, whose curvature is exact.
    removals : Removals
        Removals of single rows.
    steps : NewtonSteps
        First steps of the removals.
    """

    def __init__(self, linearisation, removals, steps):
        self.linearisation = linearisation
        self.removals = removals
        self.steps = steps
        self.objective = objective = linearisation.objective
        self.total = objective.total_weight
        self.jacobian = linearisation.jacobian_rows(objective.features)
        self.penalty = linearisation.space.penalty * self.total
        residual = objective.loss.residual(objective.training_outputs, objective.targets)
        pulled = objective.weight[:, None] * residual
        # Minus the gradient of the penalty, so that a model short of its minimum stays there.
        self.balance = (pulled.reshape(1, -1) @ self.jacobian)[0]
        self.length = np.sqrt(np.maximum(steps.squared_length, 0.0))
        self.floor = ROUNDING * self.length.max(initial=0.0)

    def batches(self, chosen):
        """Parts of the chosen removals (index array) that fit into the cache."""
        size = max(16, CACHED // self.objective.training_outputs.size)
        return [chosen[start : start + size] for start in range(0, len(chosen), size)]

    def minimise(self, chosen):
        """Changes of the parameters at the minima.

        Parameters
        ----------
        chosen : ndarray of int of shape (m,)
            Removals.

        Returns
        -------
        delta : ndarray of shape (m, n_columns)
            Changes; the first steps themselves where steps get no shorter.
        error : ndarray of shape (m,)
            Estimates of their errors, relative to the lengths of the first steps. Infinite
            where steps get no shorter.
        """
        delta = first_steps(self.linearisation, self.steps, chosen)
        error = np.full(len(chosen), np.inf)
        known = self.length[chosen]
        scale = np.maximum(known, np.finfo(float).tiny)
        tolerance = np.maximum(STEP_TOLERANCE, self.floor / scale)
        running, last = np.flatnonzero(known >= 0), known
        current = delta.copy()
        for step in range(MAX_CHORDS):
            part = chosen[running]
            with np.errstate(all="ignore"):
                gradient = self._gradient(current[running], part)
                move = -self._solve(gradient, part)
                length = np.sqrt(np.abs(np.einsum("mp,mp->m", gradient, move)))
                # After the second step the derivative of the curvature tells the ratio of the
                # next two: twice the ratio of the first two.
                ratio = np.where(length > 0, length / last[running], 0.0) * (1 if step else 2)
                left = length * ratio / (1 - ratio)
            good = np.isfinite(left) & (ratio < TOO_SLOW) | (length <= self.floor)
            at = running[good]
            current[at] += move[good]
            error[at] = np.maximum(left[good], 0.0) / scale[at]
            error[at] = np.where(length[good] <= self.floor, 0.0, error[at])
            delta[at] = current[at]
            last = last.copy()
            last[at] = length[good]
            error[running[~good]] = np.inf
            running = at[error[at] > tolerance[at]]
            if not len(running):
                break
        return delta, error

    def _gradient(self, delta, chosen):
        """Gradients (m, n_columns) of the objectives without the chosen removals."""
        objective, m = self.objective, len(chosen)
        moves = self.jacobian @ np.ascontiguousarray(delta.T)
        outputs = np.moveaxis(moves.reshape(*objective.training_outputs.shape, m), 2, 0)
        outputs = outputs + objective.training_outputs
        weight, factor = self._weights(chosen)
        residual = objective.loss.residual(outputs, objective.targets)
        residual *= weight
        residual[np.arange(m), self.removals.rows[chosen]] = 0.0
        ridge = factor[:, None] * self.penalty + self.linearisation.damping * self.total
        pulled = residual.reshape(m, -1) @ self.jacobian
        return pulled + ridge * delta - factor[:, None] * self.balance

    def _weights(self, chosen):
        """Weights of the rows that broadcast to (m, n_samples, k), and penalty factors (m,)."""
        if self.removals.reweighting.any():
            return self.objective.weighting.of_subsets(self.removals.kept(chosen))
        return self.objective.weight[:, None], self.removals.penalty_factor[chosen]

    def _solve(self, vectors, chosen):
        """``(N H_p)^{-1} v`` of each vector, without its own row p."""
        solved = self._full_solve(vectors)
        rows = self.jacobian[self.removals.rows[chosen]].toarray()
        rows = rows.reshape(len(chosen), -1, rows.shape[1])
        pull = np.einsum("mkp,mp->mk", rows, solved) / self.total
        pull = np.einsum("mkj,mj->mk", self.steps.downdate[chosen], pull)
        return self._full_solve(vectors + np.einsum("mk,mkp->mp", pull, rows)) / self.total

    def _full_solve(self, vectors):
        return self.linearisation.solve(DenseRows(vectors)).toarray()
