"""Many reweighted fits of an objective at once, by Newton-CG.

Conventions
-----------
For m fits with weights ``w`` (m, n) and penalty factors ``f`` (m,), ``delta`` (m, p) minimises

    T(delta) = sum_i w_i l(z_i + J_i delta) + f (1/2 delta' A delta - b' delta)
               + 1/2 N damping |delta|^2

``z`` and ``J`` are the outputs at the fitted parameters and their Jacobian, ``A`` the penalty,
and ``b`` minus the gradient of the penalty at the fitted parameters. For linear models the
minimiser is the refitted model itself; for others the outputs are linearised.

Inside, every coordinate is in the ``unit`` in which its column of J and the root of its penalty
have length 1 together, or norms would be those of the columns with the largest numbers alone.
"""

from copy import copy
from dataclasses import dataclass

import numpy as np

from skinfluence.curvature import conjugate_gradients

CG_STEPS = 200

# Below this share of the energy, only directions remain that the preconditioner leaves out.
EXHAUSTED = 1e-24

HALVINGS = 12

# Below this share of the terms of the fitted gradient their rounding may be all that is left.
SMALLEST_SCALE = 1e-4

# Caution at which a step is so short that only rounding can keep it from descending.
MAX_CAUTION = 1e3


class CurvaturePreconditioner:
    """The full-data curvature, for fits that stay close to the fitted parameters.

    Parameters
    ----------
    curvature : Curvature
        Curvature of the mean objective.
    damping : float
        Added to the eigenvalues of the curvature.
    total_weight : float
        Sum of the weights, by which the mean objective was divided.
    """

    def __init__(self, curvature, damping, total_weight):
        self.curvature = curvature
        self.damping = damping
        self.total_weight = total_weight

    def at(self, fits, outputs):
        """Function that multiplies vectors (m, p) with an approximate inverse Hessian."""
        del outputs
        unit = fits.refit.unit
        return lambda vectors: self._solve(vectors / unit) / unit

    def _solve(self, vectors):
        return self.curvature.precondition(vectors, self.damping) / self.total_weight


class DiagonalPreconditioner:
    """Each fit's own Hessian diagonal at its current point, for fits far from the fitted model.

    Parameters
    ----------
    squares : Rows
        The Jacobian of the training outputs with squared entries.
    """

    def __init__(self, squares):
        self.squares = squares

    def at(self, fits, outputs):
        """Function that multiplies vectors (m, p) with an approximate inverse Hessian."""
        second = fits.weight * fits.loss.hessian_diagonal(outputs, fits.targets)
        squares = (second.reshape(len(second), -1) @ self.squares) * fits.refit.unit**2
        diagonal = squares + fits.ridge
        # A column that is all zero and has no penalty has no gradient either.
        floor = np.finfo(np.float64).eps * diagonal.max(axis=1, keepdims=True)
        inverse = 1 / np.maximum(diagonal, np.maximum(floor, 1e-300))
        return lambda vectors: inverse * vectors


class Refit:
    """Reweighted fits of the objective of a fitted model.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    jacobian : Rows
        Jacobian of the training outputs, in the space of the fits.
    preconditioner : CurvaturePreconditioner or DiagonalPreconditioner
        Preconditions the fits.
    penalty : ndarray of shape (n_coordinates,)
        Penalty ``A`` in that space.
    damping : float, default=0.0
        Damping of the mean objective.
    balance : ndarray of shape (n_coordinates,), default=None
        ``b``. By default ``sum_i w_i g_i``, which equals b at the minimum. A model that has not
        quite converged then counts as converged, and its fits move only by the change of their
        weights.
    targets : ndarray of shape (n_samples, t), default=None
        Targets of the training rows in the fits; by default those of the fitted model.
    """

    def __init__(
        self,
        objective,
        jacobian,
        preconditioner,
        penalty,
        damping=0.0,
        balance=None,
        targets=None,
    ):
        self.objective = objective
        self.targets = objective.targets if targets is None else targets
        self.jacobian = jacobian
        self.unit = _unit_of_columns(jacobian, penalty)
        self.preconditioner = preconditioner
        self.penalty = penalty * self.unit**2
        self.damping = damping * self.unit**2
        self.shape = objective.training_outputs.shape
        residual = objective.loss.residual(objective.training_outputs, objective.targets)
        pulled = objective.weight[:, None] * residual
        balance = (pulled.reshape(1, -1) @ jacobian)[0] if balance is None else balance
        self.balance = balance * self.unit
        self.norms = _norms_in_unit(jacobian, self.unit).reshape(self.shape)
        self.gradient_norms = np.abs(residual * self.norms)
        self.loss = objective.loss

    def with_loss(self, loss):
        """The same fits with another loss of the outputs, from the same fitted model."""
        if loss is self.loss:
            return self
        other = copy(self)
        other.loss = loss
        # No penalty balances an unpenalised coordinate: b is rounding there, and the new loss,
        # if it is flat along the coordinate, would have no minimum with it.
        other.balance = np.where(self.penalty > 0, self.balance, 0.0)
        return other

    def minimise(self, weight, factor, start, *, tol=1e-8, max_iter=50, steady=np.inf):
        """Minimisers of the fits.

        Parameters
        ----------
        weight : ndarray of shape (m, n_samples, 1) or (m, n_samples, n_outputs)
            Weights of the training rows in each fit, or of their losses in each output.
        factor : ndarray of shape (m,)
            Factors of the penalty.
        start : ndarray of shape (m, n_coordinates)
            A first step from the fitted parameters, shortened until it lowers the objective.
        tol : float, default=1e-8
            Norm of the gradient relative to the sum of the norms of its terms.
        max_iter : int, default=50
            Largest number of Newton steps.
        steady : float, default=inf
            How far the last step may move an output, relative to the largest move of all steps.
            Where there is hardly any curvature a small gradient says little.

        Returns
        -------
        delta : ndarray of shape (m, n_coordinates)
            Minimisers.
        gradient_norm : ndarray of shape (m,)
            Relative gradient norms at the end.
        """
        norms = np.full(len(start), np.inf)
        delta = np.zeros_like(start)
        running = np.arange(len(start))
        fits = _ReweightedFits(self, weight, factor)
        # Where outputs shall be steady, what a system leaves below tol may move them.
        solved = tol if np.isinf(steady) else 0.0
        points, _ = fits.search(fits.fitted_points(), start / self.unit)
        caution, moved = np.zeros(len(start)), np.full(len(start), np.inf)
        for step in range(max_iter + 1):
            gradient = fits.gradient(points)
            delta[running] = points.delta
            norms[running] = np.linalg.norm(gradient, axis=1) / fits.scale_at(points)
            unsteady = (moved > steady) & (norms[running] > 0)
            left = ((norms[running] > tol) | unsteady) & (caution <= MAX_CAUTION)
            if step == max_iter or not left.any():
                break
            if not left.all():
                running, gradient, caution = running[left], gradient[left], caution[left]
                fits, points, moved = fits[left], points[left], moved[left]
            # Without curvature a step may overflow: `search` then takes no step.
            with np.errstate(over="ignore", invalid="ignore"):
                move = fits.newton_step(points.outputs, gradient, norms[running], solved, caution)
            before = points.outputs
            points, length = fits.search(points, move)
            caution = _next_caution(caution, length)
            moved = fits.share_of_moves(before, points.outputs)
        return delta * self.unit, norms


def _unit_of_columns(rows, penalty):
    """Powers of 2, which round nothing, next to one over the norms of columns and penalties."""
    # A direction that no row has would be magnified by its rounding alone, but for its penalty.
    norms = np.sqrt(rows.column_squares() + penalty)
    return np.exp2(-np.round(np.log2(np.where(norms > 0, norms, 1.0))))


def _norms_in_unit(rows, unit):
    """Norms of rows whose columns are multiplied by ``unit``."""
    parts = [rows[batch].rescaled(unit).squared_norms() for batch in rows.batches()]
    return np.sqrt(np.concatenate(parts))


def _next_caution(caution, length):
    """More caution after a shortened step, less after a full one."""
    less = np.where(caution > 0.1, caution / 10, 0.0)
    return np.where(length < 1, np.maximum(10 * caution, 0.1), less)


@dataclass
class _Points:
    """Current points of m fits: changes of the parameters, outputs and objectives."""

    delta: np.ndarray
    outputs: np.ndarray
    value: np.ndarray

    def __getitem__(self, chosen):
        return _Points(self.delta[chosen], self.outputs[chosen], self.value[chosen])


class _ReweightedFits:
    """The fits that are still running, at their weights."""

    def __init__(self, refit, weight, factor):
        self.refit = refit
        self.loss = refit.loss
        self.targets = refit.targets
        self.weight = weight
        self.absent = ~weight.any(axis=2)
        self.factor = factor
        ridge = refit.damping * refit.objective.total_weight
        self.ridge = factor[:, None] * refit.penalty + ridge
        self.linear_term = -factor[:, None] * refit.balance
        # Without the dropped rows, whose gradients may outweigh all others by far.
        scale = (weight * refit.gradient_norms).sum(axis=(1, 2))
        self.scale = np.where(scale > 0, scale, 1.0)

    def __len__(self):
        return len(self.weight)

    def __getitem__(self, chosen):
        return _ReweightedFits(self.refit, self.weight[chosen], self.factor[chosen])

    def fitted_points(self):
        """All fits at the fitted parameters."""
        delta = np.zeros((len(self), len(self.refit.balance)))
        outputs = self.refit.objective.training_outputs
        # All fits start from one model, so one set of outputs and losses serves them all.
        losses = self.loss.terms(outputs, self.targets)
        losses[~np.isfinite(losses)] = 0.0
        return _Points(delta, outputs, (self.weight * losses).sum(axis=(1, 2)))

    def push(self, delta):
        """``J_i delta`` of every row, (m, n, k)."""
        moves = self.refit.jacobian @ np.ascontiguousarray((self.refit.unit * delta).T)
        return np.moveaxis(moves, 1, 0).reshape(-1, *self.refit.shape)

    def pull(self, residual):
        """``sum_i J_i' residual_i``, (m, p)."""
        pulled = residual.reshape(len(residual), -1) @ self.refit.jacobian
        return pulled * self.refit.unit

    def value(self, delta, outputs):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            losses = self.loss.terms(outputs, self.targets)
        # Losses of dropped rows may be infinite, and 0 times infinity is NaN.
        losses[self.absent] = 0.0
        losses = (self.weight * losses).sum(axis=(1, 2))
        return losses + ((self.ridge * delta / 2 + self.linear_term) * delta).sum(axis=1)

    def gradient(self, points):
        residual = self.weight * self.loss.residual(points.outputs, self.targets)
        return self.pull(residual) + self.ridge * points.delta + self.linear_term

    def scale_at(self, points):
        """Sum of the norms of the terms of the gradient, (m,).

        Where the rows that a fit has are separable but for the penalty, their residuals and with
        them the gradient shrink on a long way to the minimum.
        """
        residual = np.abs(self.weight * self.loss.residual(points.outputs, self.targets))
        terms = (residual * self.refit.norms).sum(axis=(1, 2))
        terms += np.linalg.norm(self.ridge * points.delta + self.linear_term, axis=1)
        return np.clip(terms, SMALLEST_SCALE * self.scale, self.scale)

    def share_of_moves(self, before, after):
        """Largest move of an output by a step, over the largest by all steps, (m,)."""
        last = np.abs(after - before).max(axis=(1, 2))
        total = np.abs(after - self.refit.objective.training_outputs).max(axis=(1, 2))
        return last / np.maximum(total, np.finfo(float).tiny)

    def newton_step(self, outputs, gradient, norms, tol, caution):
        """``-(H + caution H_0)^{-1} gradient`` by conjugate gradients.

        ``H_0`` is the Hessian of all rows at the fitted parameters. ``caution`` (m,) shortens
        and turns steps where H is valid only nearby, as for piecewise quadratic losses.
        """
        product = self.loss.hessian_product(outputs, self.targets)
        add_caution = self._cautious(caution)
        precondition = self.refit.preconditioner.at(self, outputs)
        # A residual below sqrt(norm) times the gradient makes the Newton steps converge
        # superlinearly, and early ones cheap. The gradient after a step is about as large as the
        # residual of its system, so none needs to be far below the tolerance of the fit.
        enough = np.where(norms > tol, 0.2 * tol / norms, 0.0)
        forcing = np.maximum(np.minimum(0.1, np.sqrt(norms)), enough)
        target = np.minimum(forcing, 0.5) * np.linalg.norm(gradient, axis=1)

        def multiply(direction):
            moves = self.push(direction)
            residual = self.weight * product(moves)
            return self.pull(add_caution(residual, moves)) + ridge * direction

        ridge = (1 + caution[:, None]) * self.ridge
        step, _ = conjugate_gradients(
            multiply, -gradient, precondition, target, max_iter=CG_STEPS, exhausted=EXHAUSTED
        )
        return step

    def _cautious(self, caution):
        """Function that adds ``caution H_0`` to products with the Hessian of the losses."""
        if not caution.any():
            return lambda residual, moves: residual
        objective = self.refit.objective
        product = self.loss.hessian_product(objective.training_outputs, self.targets)
        weight = caution[:, None, None] * objective.weight[:, None]
        return lambda residual, moves: residual + weight * product(moves)

    def search(self, points, step):
        """Points along the steps, which are halved until the objective falls.

        The first trial is as long as the domain of the loss allows. A fit whose objective does
        not fall stays where it is.

        Returns
        -------
        points : _Points
            The points.
        length : ndarray of shape (m,)
            Share of each step that was taken, 0 for fits that stay where they are.
        """
        finite = np.isfinite(step).all(axis=1)
        step = np.where(finite[:, None], step, 0.0)
        moves = self.push(step)
        # Nothing keeps dropped rows inside the domain, so their outputs do not move.
        moves[self.absent] = 0.0
        length = np.array(self.loss.largest_step(points.outputs, moves).min(axis=1))
        # Rounding alone may raise the objective by this much.
        slack = 1e-13 * (np.abs(points.value) + self.scale)
        for _ in range(HALVINGS):
            reached = self._along(points, step, moves, length)
            worse = ~(np.isfinite(reached.value) & (reached.value <= points.value + slack))
            if not worse.any():
                break
            length[worse] /= 2
        else:
            length[worse] = 0.0
            reached = self._along(points, step, moves, length)
        return reached, np.where(step.any(axis=1), length, 0.0)

    def _along(self, points, step, moves, length):
        delta = points.delta + length[:, None] * step
        outputs = points.outputs + length[:, None, None] * moves
        return _Points(delta, outputs, self.value(delta, outputs))
