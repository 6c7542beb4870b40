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

For smooth losses of one output, with third derivatives ``t_i``, the gradient that the first step
d leaves is ``sum_i w_i t_i (J_i d)^2 J_i' / 2`` to second order, and where class weights change
``sum_i (w_i' - w_i) h_i J_i d J_i'`` more: one tensor, and one Hessian for each class, serve all
removals, by a step that needs no sum over all rows for each of them.
"""

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.refitting.newton_step import first_steps
from skinfluence.rows import DenseRows

# Relative errors of a change at which its steps end at the latest, and not before.
SMALLEST_TOLERANCE = 1e-8
LARGEST_TOLERANCE = 1e-5

# Shorter than this share of the longest first step, a step is rounding.
ROUNDING = 1e-12

# Steps that are worth their while, and the ratio of their lengths above which they are not.
MAX_CHORDS = 6
TOO_SLOW = 0.1

# Mean size of third derivatives, relative to second ones, below which they say little.
TELLING_SHARE = 0.1

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
    output_tolerance : float
        Steps also end where the error of the removed row's own output is estimated to be this
        share of the spread of all outputs.
    """

    def __init__(self, linearisation, removals, steps, output_tolerance):
        self.linearisation = linearisation
        self.removals = removals
        self.steps = steps
        self.output_tolerance = output_tolerance
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
        self.spread = objective.training_outputs.std(axis=0).max()
        self.tensor = self._tensor()

    def _tensor(self):
        """``sum_i w_i t_i J_i (x) J_i (x) J_i``, (p, p * p); None where it does not pay."""
        objective = self.objective
        n_samples, p = self.jacobian.shape
        third = objective.loss.third_derivative(objective.training_outputs, objective.targets)
        if third is None or p * p > n_samples or not objective.weighting.is_shared:
            return None
        self.third = third[:, 0]
        second = objective.loss.hessian(objective.training_outputs, objective.targets)[:, 0]
        weight = objective.weight
        little = weight @ np.abs(self.third) < TELLING_SHARE * (weight @ np.abs(second))
        if little and not objective.loss.quadratic:
            # Where all probabilities are near a half, say, the error is of a higher order.
            return None
        self.second = objective.weighting.sample_weight * second
        self.group_hessians = self._group_hessians()
        tensor = np.zeros((p, p, p))
        for batch in batches(n_samples, 8 * 3 * p):
            rows = self.jacobian[batch].toarray()
            bent = (objective.weight[batch] * self.third[batch])[:, None] * rows
            for j in range(p):
                tensor[j] += (bent * rows[:, j, None]).T @ rows
        return tensor.reshape(p, p * p)

    def _group_hessians(self):
        """Hessians of the groups without their class weights, where these change."""
        if self.removals.keep_class_weights:
            return []
        weighting = self.objective.weighting
        masks = weighting.groups[:, 0] == np.arange(weighting.n_groups)[:, None]
        p = self.jacobian.n_columns
        hessians = np.zeros((len(masks), p, p))
        for batch in self.jacobian.batches():
            rows = self.jacobian[batch].toarray()
            for hessian, mask in zip(hessians, masks, strict=True):
                weight = mask[batch] * self.second[batch]
                hessian += (weight[:, None] * rows).T @ rows
        return hessians

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
        first = np.maximum(self.length[chosen], np.finfo(float).tiny)
        tolerance = self._tolerance(chosen, delta, first)
        running, last, moved = np.arange(len(chosen)), first.copy(), delta.copy()
        for step in range(MAX_CHORDS):
            gradient = self._gradient if step or self.tensor is None else self._second_order
            with np.errstate(all="ignore"):
                move, length = self._step(gradient, moved[running], chosen[running])
                ratio = length / last[running]
                if step == 0:
                    # The change of the curvature that gave the first step half of its error
                    # gives every later step all of it; the third order is as much again.
                    ratio *= 2
                    left = (2 if self.tensor is not None else 1) * ratio * length
                else:
                    left = ratio * length / (1 - ratio)
            short = length <= self.floor
            good = ((ratio < TOO_SLOW) & np.isfinite(left)) | short
            error[running[~good]] = np.inf
            at = running[good]
            moved[at] += move[good]
            delta[at], last[at] = moved[at], np.maximum(length[good], np.finfo(float).tiny)
            error[at] = np.where(short[good], 0.0, left[good] / first[at])
            running = at[error[at] > tolerance[at]]
            if not len(running):
                break
        error[running] = np.inf
        return delta, error

    def _tolerance(self, chosen, delta, first):
        """Relative errors (m,) at which steps end."""
        own = np.abs(np.einsum("mkp,mp->mk", self._own_rows(chosen), delta)).max(axis=1)
        with np.errstate(divide="ignore"):
            tolerance = self.output_tolerance * self.spread / own
        tolerance = np.clip(tolerance, SMALLEST_TOLERANCE, LARGEST_TOLERANCE)
        return np.maximum(tolerance, self.floor / first)

    def _own_rows(self, chosen):
        """``J_p`` of the removed rows, (m, k, n_columns)."""
        rows = self.jacobian[self.removals.rows[chosen]]
        return rows.toarray().reshape(len(chosen), -1, rows.n_columns)

    def _step(self, gradient, delta, chosen):
        """Chord steps (m, n_columns) and their lengths (m,)."""
        slope = gradient(delta, chosen)
        move = -self._solve(slope, chosen)
        return move, np.sqrt(np.abs(np.einsum("mp,mp->m", slope, move)))

    def _second_order(self, delta, chosen):
        """Gradients (m, n_columns) after the first steps, to second order in these."""
        m, p = delta.shape
        gradient = np.empty_like(delta)
        for batch in batches(m, 8 * p * p):
            part = delta[batch]
            bent = (part @ self.tensor).reshape(len(part), p, p)
            gradient[batch] = np.matmul(bent, part[:, :, None])[:, :, 0] / 2
        own, rows = self._own_rows(chosen)[:, 0], self.removals.rows[chosen]
        pull = np.einsum("mp,mp->m", own, delta)
        bend = self.objective.weight[rows] * self.third[rows] * pull**2 / 2
        if len(self.group_hessians):
            weighting, place = self.objective.weighting, np.arange(m)
            change = self.removals.class_weight[chosen] - weighting.group_weight
            for hessian, weight in zip(self.group_hessians, change.T, strict=True):
                gradient += weight[:, None] * (delta @ hessian)
            bend += change[place, weighting.groups[rows, 0]] * self.second[rows] * pull
        gradient -= bend[:, None] * own
        more = self.removals.penalty_factor[chosen] - 1
        return gradient + more[:, None] * self.penalty * delta

    def _gradient(self, delta, chosen):
        """Gradients (m, n_columns) of the objectives without the chosen removals."""
        gradient = np.empty_like(delta)
        size = max(16, CACHED // self.objective.training_outputs.size)
        for batch in batches(len(chosen), 1, size):
            gradient[batch] = self._sum_over_rows(delta[batch], chosen[batch])
        return gradient

    def _sum_over_rows(self, delta, chosen):
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
        if not self.removals.keep_class_weights:
            return self.objective.weighting.of_subsets(self.removals.kept(chosen))
        return self.objective.weight[:, None], self.removals.penalty_factor[chosen]

    def _solve(self, vectors, chosen):
        """``(N H_p)^{-1} v`` of each vector, without its own row p."""
        solved = self._full_solve(vectors)
        rows = self._own_rows(chosen)
        pull = np.einsum("mkp,mp->mk", rows, solved) / self.total
        pull = np.einsum("mkj,mj->mk", self.steps.downdate[chosen], pull)
        return self._full_solve(vectors + np.einsum("mk,mkp->mp", pull, rows)) / self.total

    def _full_solve(self, vectors):
        return self.linearisation.solve(DenseRows(vectors)).toarray()
