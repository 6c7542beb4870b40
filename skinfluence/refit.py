"""Refits of many reweighted copies of an objective at once, by Newton-CG.

Conventions
-----------
For m copies with weights ``w`` (m, n) and penalty factors ``f`` (m,), ``delta`` (m, p) minimises

    T(delta) = sum_i w_i l(z_i + J_i delta) + f (1/2 delta' A delta - b' delta)
               + 1/2 N damping |delta|^2

``z`` and ``J`` are the outputs at the fitted parameters and their Jacobian, ``A`` the penalty,
and ``b = sum_i w_i g_i`` of the fitted objective is minus the gradient of its penalty, since that
objective is at its minimum. For linear models this is the refitted model itself.
"""

import numpy as np

CG_STEPS = 50
HALVINGS = 8


class Refit:
    """The reweighted copies of the objective that an influence estimator has fitted.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    jacobian : Rows
        Jacobian of the training outputs, in the space of the curvature.
    curvature : Curvature
        Preconditions the copies.
    penalty : ndarray of shape (n_coordinates,)
        Penalty ``A`` in that space.
    damping : float
        Damping of the mean objective.
    """

    def __init__(self, objective, jacobian, curvature, penalty, damping):
        self.objective = objective
        self.jacobian = jacobian
        self.curvature = curvature
        self.penalty = penalty
        self.damping = damping
        self.shape = objective.training_outputs.shape
        residual = objective.loss.residual(objective.training_outputs, objective.targets)
        pulled = objective.weight[:, None] * residual
        self.balance = (pulled.reshape(1, -1) @ jacobian)[0]
        norms = np.sqrt(jacobian.squared_norms()).reshape(self.shape)
        self.scale = float(np.abs(pulled * norms).sum()) or 1.0

    def minimise(self, weight, factor, start, *, tol=1e-8, max_iter=50):
        """Minimisers of the copies.

        Parameters
        ----------
        weight : ndarray of shape (m, n_samples)
            Weights of the training rows in each copy.
        factor : ndarray of shape (m,)
            Factors of the penalty.
        start : ndarray of shape (m, n_coordinates)
            Where the steps start; not changed.
        tol : float, default=1e-8
            Norm of the gradient relative to the sum of the norms of its terms.
        max_iter : int, default=50
            Newton steps at most.

        Returns
        -------
        delta : ndarray of shape (m, n_coordinates)
            Minimisers.
        gradient_norm : ndarray of shape (m,)
            Relative gradient norms reached.
        """
        delta = start.copy()
        norms = np.full(len(delta), np.inf)
        running = np.arange(len(delta))
        for _ in range(max_iter):
            copies = _Copies(self, weight[running], factor[running])
            moved = copies.outputs(delta[running])
            gradient = copies.gradient(delta[running], moved)
            norms[running] = np.linalg.norm(gradient, axis=1) / self.scale
            left = norms[running] > tol
            if not left.any():
                break
            running = running[left]
            copies = _Copies(self, weight[running], factor[running])
            step = copies.newton_step(moved[left], gradient[left], norms[running])
            delta[running], improved = copies.search(delta[running], moved[left], step)
            running = running[improved]
            if not len(running):
                break
        return delta, norms


class _Copies:
    """The copies that are still running, at their weights."""

    def __init__(self, refit, weight, factor):
        self.refit = refit
        self.loss = refit.objective.loss
        self.targets = refit.objective.targets
        self.weight = weight
        ridge = refit.damping * refit.objective.total_weight
        self.ridge = factor[:, None] * refit.penalty + ridge
        self.slope = -factor[:, None] * refit.balance

    def push(self, delta):
        """``J_i delta`` of every row, (m, n, k)."""
        moves = self.refit.jacobian @ np.ascontiguousarray(delta.T)
        return np.moveaxis(moves, 1, 0).reshape(-1, *self.refit.shape)

    def pull(self, residual):
        """``sum_i J_i' residual_i``, (m, p)."""
        return residual.reshape(len(residual), -1) @ self.refit.jacobian

    def outputs(self, delta):
        return self.refit.objective.training_outputs + self.push(delta)

    def value(self, delta, outputs):
        losses = (self.weight * self.loss.value(outputs, self.targets)).sum(axis=1)
        return losses + ((self.ridge * delta / 2 + self.slope) * delta).sum(axis=1)

    def gradient(self, delta, outputs):
        residual = self.weight[:, :, None] * self.loss.residual(outputs, self.targets)
        return self.pull(residual) + self.ridge * delta + self.slope

    def newton_step(self, outputs, gradient, norms):
        """``-H^{-1} gradient`` by conjugate gradients, as exact as the gradient is small."""
        bend = self.loss.hessian(outputs, self.targets)
        # Quadratic convergence of the Newton steps, without waste on the early ones.
        forcing = np.clip(norms, 1e-10, 0.1)
        step = np.zeros_like(gradient)
        residual = -gradient
        target = forcing * np.linalg.norm(gradient, axis=1)
        direction = preconditioned = self._precondition(residual)
        energy = (residual * preconditioned).sum(axis=1)
        for _ in range(CG_STEPS):
            running = np.linalg.norm(residual, axis=1) > target
            if not running.any():
                break
            image = self._product(direction, bend)
            curved = (direction * image).sum(axis=1)
            length = np.where(running & (curved > 0), energy / np.where(curved > 0, curved, 1), 0)
            step = step + length[:, None] * direction
            residual = residual - length[:, None] * image
            preconditioned = self._precondition(residual)
            before, energy = energy, (residual * preconditioned).sum(axis=1)
            ratio = energy / np.where(before > 0, before, np.inf)
            direction = preconditioned + ratio[:, None] * direction
        return step

    def _product(self, vectors, bend):
        moves = self.push(vectors)
        if self.loss.separable:
            bent = bend * moves
        else:
            bent = np.matmul(bend, moves[..., None])[..., 0]
        return self.pull(self.weight[:, :, None] * bent) + self.ridge * vectors

    def _precondition(self, vectors):
        refit = self.refit
        solved = refit.curvature.precondition(vectors, refit.damping)
        return solved / refit.objective.total_weight

    def search(self, delta, outputs, step):
        """Points along the steps, halved until the objective falls."""
        before = self.value(delta, outputs)
        moves = self.push(step)
        length = np.ones(len(delta))
        # What rounding alone can change of the objective.
        slack = 1e-13 * (np.abs(before) + self.refit.scale)
        for _ in range(HALVINGS):
            reached = delta + length[:, None] * step
            after = self.value(reached, outputs + length[:, None, None] * moves)
            worse = ~(after <= before + slack)
            if not worse.any():
                break
            length[worse] /= 2
        length[worse] = 0.0
        return delta + length[:, None] * step, ~worse
