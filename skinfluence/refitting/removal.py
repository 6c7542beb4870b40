"""Outputs of the model without training rows: a Newton step, refined where it pays.

`newton_step` makes the first step, which is exact for least squares. For other losses the
removals with the longest steps, or all of them where that is cheap, iterate from there to the
minimum without the rows. Kronecker factors allow no such refinement: they are too far from the
curvature to precondition conjugate gradients.

A removal that empties a class leaves another model, if any: the minimum of the loss of the
remaining classes, as scikit-learn would fit it. A removal that leaves no model is refused.
"""

from dataclasses import dataclass

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.warnings import warn_user
from skinfluence.exceptions import NumericalWarning
from skinfluence.refitting.newton_cg import CurvaturePreconditioner, Refit
from skinfluence.refitting.newton_step import NewtonSteps, first_steps, newton_steps
from skinfluence.refitting.removed_rows import Removals, each_row, sets_of_rows

# Above this leverage, ``q = r / (1 - leverage)`` is more than a hundred times the residual.
NEAR_ONE = 0.99

# Where ``1 - leverage`` is smaller, rounding leaves no correct digit in a step.
UNDETERMINED = 1e-9

# Multiply-adds that refining steps may take: about a second of one core.
REFINING = 1e10

# Relative gradient to which steps are refined, and above which a warning names them.
TOLERANCE = 1e-10
UNSURE = 1e-8
STEADY = 1e-5
MAX_STEPS = 30


@dataclass
class Removed:
    """The models without some rows, as changes of the fitted model.

    Parameters
    ----------
    removals : Removals
        The rows that leave.
    steps : NewtonSteps
        First steps of all removals.
    refined : ndarray of int of shape (n_refined,)
        Removals whose steps were refined, ascending.
    delta : ndarray of shape (n_refined, n_coordinates)
        Changes of the parameters by the refined steps.
    refused : ndarray of bool of shape (n_removals,)
        Removals that leave no model.
    """

    removals: Removals
    steps: NewtonSteps
    refined: np.ndarray
    delta: np.ndarray
    refused: np.ndarray


def removal_of_each(linearisation):
    """The models without each of the training rows.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.

    Returns
    -------
    Removed

    Raises
    ------
    ValueError
        If no row can leave.

    Warns
    -----
    NumericalWarning
        Names rows that leave no model, refits that did not converge, and leverages near 1.
    """
    return _removed(linearisation, each_row(linearisation.objective))


def removal_of_sets(linearisation, sets):
    """The models without each of several sets of training rows, each an array of positions."""
    return _removed(linearisation, sets_of_rows(linearisation.objective, sets))


def _removed(linearisation, removals):
    refused = _without_model(linearisation, removals)
    _refuse(
        removals,
        refused,
        refused,
        "nothing is left to fit, or a class loses its last row and the others have no known model",
        "Keep a row of every class.",
    )
    steps = newton_steps(linearisation, removals)
    undetermined = _undetermined(linearisation, removals, steps) & ~refused
    refused = refused | undetermined
    _refuse(
        removals,
        undetermined,
        refused,
        "the leverage is 1 up to rounding, so that the penalty alone would determine the model "
        "in some direction, by digits that are lost",
        "Use more damping, or a model with a stronger penalty.",
    )
    chosen = _worth_refining(linearisation, removals, steps, refused)
    delta, norms = _refine(linearisation, removals, steps, chosen)
    diverged = np.zeros_like(refused)
    # A relative gradient of 1 means that no terms cancel: the point is near no minimum.
    diverged[chosen[~(norms < 1)]] = True
    _refuse(
        removals,
        diverged,
        refused | diverged,
        "no minimum of the objective of the other rows is found from the fitted model",
        "Use more damping, or a model with a stronger penalty.",
    )
    _warn_of_unsure(removals, steps, chosen, norms)
    return Removed(removals, steps, chosen, delta, refused | diverged)


def _undetermined(linearisation, removals, steps):
    """Which removals leave a direction that only rounding determines, (n_removals,)."""
    if not linearisation.objective.strictly_convex:
        # Without a penalty, the pseudo-inverse gives the shortest step, which is well defined.
        return np.zeros(len(removals), dtype=bool)
    return (steps.distance < UNDETERMINED) & removals.has_newton_step


def _without_model(linearisation, removals):
    """Which removals leave no model that is known, (n_removals,)."""
    without = removals.leaves_nothing.copy()
    can_refine = _is_sum_of_rows(linearisation)
    for removal, loss in removals.other_losses.items():
        without[removal] |= loss is None or not can_refine
    return without


def _refuse(removals, which, so_far, reason, advice):
    """Warn that removals ``which`` have no refit; raise if all removals so far have none."""
    if not which.any():
        return
    message = f"There is no refit without {removals.named(np.flatnonzero(which))}: {reason}."
    if so_far.all():
        raise ValueError(f"{message} {advice}")
    warn_user(f"{message} Their effects are NaN. {advice}", NumericalWarning)


def _is_sum_of_rows(linearisation):
    """Whether the curvature, unlike Kronecker factors, can precondition conjugate gradients."""
    return linearisation.curvature.exact_part(linearisation.training_rows[:0]) is not None


def _worth_refining(linearisation, removals, steps, refused):
    """Removals without a Newton step, and those with the longest steps, as work allows."""
    if not _is_sum_of_rows(linearisation):
        return np.arange(0)
    required = ~removals.has_newton_step & ~refused
    if _is_quadratic(linearisation) and not steps.reweighting.any():
        # A quadratic that loses rows is at its minimum after one step with its own curvature.
        return np.flatnonzero(required)
    n_samples, k = linearisation.objective.training_outputs.shape
    # A refinement takes about ten products with the Jacobian and its transpose, and as many
    # passes over the losses, whose functions cost about as much as 50 multiply-adds.
    work = 10 * n_samples * (2 * linearisation.training_rows.n_columns + 50 * k * k)
    # The exact part of an approximate curvature is not all of it: a length may be negative.
    length = np.where(removals.has_newton_step, np.abs(steps.squared_length), 0.0)
    order = np.argsort(-length, kind="stable")[: int(np.ceil(REFINING / work))]
    required[order[length[order] > 0]] = True
    return np.flatnonzero(required)


def _is_quadratic(linearisation):
    """Whether the curvature is that of a quadratic, with all its rows."""
    curvature = linearisation.curvature
    is_own = curvature.solver is not None and curvature.row_weight is None
    return linearisation.objective.loss.quadratic and is_own


def _refine(linearisation, removals, steps, chosen):
    """Changes of the parameters at the minima, (n_chosen, p), and gradients there (n_chosen,)."""
    delta = np.empty((len(chosen), linearisation.training_rows.n_columns))
    norms = np.empty(len(chosen))
    if not len(chosen):
        return delta, norms
    refit = _refit(linearisation)
    weighting = linearisation.objective.weighting
    n_samples, k = linearisation.objective.training_outputs.shape
    for batch in batches(len(chosen), 8 * n_samples * (2 * k * k + 10 * k)):
        weight, factor = weighting.of_subsets(removals.kept(chosen[batch]))
        start = first_steps(linearisation, steps, chosen[batch])
        for loss, part in _by_loss(removals, chosen[batch]):
            delta[batch][part], norms[batch][part] = refit.with_loss(loss).minimise(
                weight[part],
                factor[part],
                start[part],
                tol=TOLERANCE,
                max_iter=MAX_STEPS,
                steady=STEADY,
            )
    return delta, norms


def _refit(linearisation):
    objective, damping = linearisation.objective, linearisation.damping
    total = objective.total_weight
    return Refit(
        objective,
        linearisation.jacobian_rows(objective.features),
        CurvaturePreconditioner(linearisation.curvature, damping, total),
        linearisation.space.penalty * total,
        damping,
    )


def _by_loss(removals, chosen):
    """Losses, and positions in ``chosen`` of the removals after which the model has that loss."""
    same = removals.has_newton_step[chosen]
    parts = [(removals.objective.loss, np.flatnonzero(same))] if same.any() else []
    return parts + [
        (removals.other_losses[chosen[i]], np.array([i])) for i in np.flatnonzero(~same)
    ]


def _warn_of_unsure(removals, steps, chosen, norms):
    """Warn of refinements that did not converge, and of leverages that no step gets over."""
    failed = (norms > UNSURE) & (norms < 1)
    if failed.any():
        warn_user(
            f"{failed.sum()} refit(s) did not converge, without "
            f"{removals.named(chosen[failed])}: the largest relative gradient is "
            f"{norms[failed].max():.1e}. Their predicted changes are unsure. Use more damping or "
            "a stronger penalty, or refit to know.",
            NumericalWarning,
        )
    near = steps.distance < 1 - NEAR_ONE
    # Refined steps end at a minimum, but not at a known one where it is a line.
    near[chosen] = steps.distance[chosen] < UNDETERMINED
    if near.any():
        warn_user(
            f"{near.sum()} removal(s) have a leverage above {NEAR_ONE}: "
            f"{removals.named(np.flatnonzero(near))}. The rows that stay hardly determine the "
            "model there, and the predicted change is unsure. Use more damping or a stronger "
            "penalty, or refit to know.",
            NumericalWarning,
        )


def moved_losses(linearisation, removed, features, targets, reduce):
    """Change of the losses of queries, at their outputs moved by each removal.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    removed : Removed
        The models without some rows.
    features : array of shape (n_queries, d)
        Queries as the objective reads them.
    targets : ndarray of shape (n_queries, t)
        Their targets as the loss reads them.
    reduce : {None, "mean", "sum"}
        Reduce over the queries.

    Returns
    -------
    ndarray of shape (n_queries, n_removals) or (n_removals,)
        NaN for removals that leave no model; infinite for queries of a class that is left
        without rows, and for queries whose outputs leave the domain of the loss.

    Warns
    -----
    NumericalWarning
        Names removals with infinite changes.
    """
    objective = linearisation.objective
    outputs = objective.outputs(features)
    before = objective.loss.value(outputs, targets)
    n_queries, k = outputs.shape
    n_removals = len(removed.removals)
    out = np.zeros((n_queries if reduce is None else 1, n_removals))
    jacobian = linearisation.space.project_queries(objective.jacobian_rows(features))
    # Every pair of query and removal needs moved outputs, their losses and temporaries.
    query_bytes = 8 * k * (2 * jacobian.n_columns + 4 * min(n_removals, 1024))

    def fill(batch):
        moves = _MovesOfQueries(linearisation, removed, jacobian[batch], outputs[batch])
        for part in batches(n_removals, 8 * (4 * outputs[batch].size + jacobian.n_columns)):
            after = _losses_after(removed, part, outputs[batch] + moves.of(part), targets[batch])
            change = (after - before[batch]).T
            if reduce is None:
                out[batch, part] = change
            else:
                sums.append((part, change.sum(axis=0)))

    sums = []
    linearisation.schedule.run(fill, linearisation.schedule.batches(n_queries, query_bytes))
    # Only after the threads: two of them might add to the same numbers at once.
    for part, change in sums:
        out[0, part] += change
    out[:, removed.refused] = np.nan
    _warn_of_infinite(removed, out)
    if reduce is None:
        return out
    return out[0] / n_queries if reduce == "mean" else out[0]


class _MovesOfQueries:
    """How the outputs of some queries move with each removal."""

    def __init__(self, linearisation, removed, jacobian, outputs):
        self.objective = linearisation.objective
        self.removed = removed
        self.jacobian = jacobian
        self.outputs = outputs
        self.solved = linearisation.solve(jacobian)
        self.reweighting = self.solved.inner(removed.steps.reweighting_gradient)

    def of(self, part):
        """Moves of a slice of the removals, (n_part, n_queries, k)."""
        steps, refined = self.removed.steps, self.removed.refined
        moves = self.solved.inner(steps.rows[part])
        moves -= self.reweighting @ steps.reweighting[part].T
        moves = (moves.T / self.objective.total_weight).reshape(-1, *self.outputs.shape)
        # A step that was not refined may leave the domain of the loss.
        moves *= self.objective.loss.largest_step(self.outputs, moves)[..., None]
        first, last = np.searchsorted(refined, [part.start, part.stop])
        if first < last:
            exact = self.jacobian @ np.ascontiguousarray(self.removed.delta[first:last].T)
            exact = np.moveaxis(exact.reshape(*self.outputs.shape, -1), 2, 0)
            moves[refined[first:last] - part.start] = exact
        return moves


def _losses_after(removed, part, outputs, targets):
    """Losses (n_part, n_queries) at moved outputs (n_part, n_queries, k)."""
    objective, other_losses = removed.removals.objective, removed.removals.other_losses
    losses = objective.loss.value(outputs, targets)
    for removal, loss in other_losses.items():
        if loss is not None and part.start <= removal < part.stop:
            place = removal - part.start
            losses[place] = loss.value(outputs[place], targets)
    return losses


def _warn_of_infinite(removed, change):
    infinite = ~np.isfinite(change).all(axis=0) & ~removed.refused
    if infinite.any():
        warn_user(
            f"Without {removed.removals.named(np.flatnonzero(infinite))} some queries have no "
            "finite loss: no row of their class is left, or their outputs leave the domain of "
            "the loss. Leave such queries out to get the changes of the others.",
            NumericalWarning,
        )
