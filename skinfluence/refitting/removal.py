"""Where the outputs go when training rows are dropped: a Newton step, refined where it pays.

Conventions
-----------
``H`` is the Hessian of the mean objective, ``N`` the sum of the weights, ``J_p`` the Jacobian
of the outputs of row p, ``r_p`` and ``h_p`` the first and second derivatives of its loss.

Dropping rows S leaves an objective with the gradient ``-sum_S w_p J_p' r_p + d`` at the fitted
parameters. ``d`` is what moves with the data: balanced class weights, and the weight of the
penalty where the objective is a mean. With ``M = J_S H^{-1} J_S' / N``, the Newton step is

    N dtheta = H^{-1} (J_S' q - d),    q = (I - w h M)^{-1} w (r - h J_S H^{-1} d / N)

by Woodbury: a dropped row is a row whose residual ``r`` has become ``q``. An approximate curvature
loses what it holds of the row and no more, or leverages above 1 would turn steps around: ``M`` is
that of its own part, and 0 for Kronecker factors, which hold no row as it is; of a Hessian of some
of the rows, ``w h`` has the weight that the row has there. For least squares
``q = r / (1 - leverage)`` and the step is exact. For other losses the removals with the longest
steps, all of them where that is cheap, go on from there to the minimum without the row: but not
by Kronecker factors, which are too far from the curvature for conjugate gradients to get there.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.exceptions import NumericalWarning
from skinfluence.refitting.newton_cg import CurvaturePreconditioner, Refit
from skinfluence.rows import DenseRows, Rows

# Above this the step divides by less than a hundredth.
NEAR_ONE = 0.99

# Work that is spent on refining steps, in multiply-adds: about a second of one core.
REFINING = 1e10


@dataclass
class Removal:
    """A Newton step for each of several removals.

    Parameters
    ----------
    rows : Rows
        Rows ``J_p' q_p`` of the dropped training rows.
    together : bool
        Whether they are dropped at once, or each on its own.
    drift : Rows
        Gradients that move with the data, one for each class.
    coefficients : ndarray of shape (n_removals, n_groups)
        ``d`` of each removal in these.
    refined : ndarray of int
        Removals whose steps were refined.
    delta : ndarray of shape (n_refined, n_coordinates)
        Their changes of the parameters.
    """

    rows: Rows
    together: bool
    drift: Rows
    coefficients: np.ndarray
    refined: np.ndarray = None
    delta: np.ndarray = None


def removal_of_each(influence):
    """Steps for every training row on its own."""
    weighting = influence.objective_.weighting
    class_weight, factor = weighting.without_each()
    coefficients = class_weight - factor[:, None] * weighting.group_weight
    weight = weighting.sample_weight * class_weight[np.arange(len(factor)), weighting.codes]
    rows, drift = _jacobian_and_drift(influence, slice(None), coefficients)
    own = _own_leverages(influence, rows)
    residual, bend = _derivatives(influence, slice(None))
    pull = _drift_at(influence, rows, drift, coefficients)
    held = _held_weight(influence, slice(None), weight)
    shrink = np.eye(bend.shape[1]) - held[:, None, None] * bend @ own
    _warn_of_leverage(shrink)
    right = weight[:, None] * (residual - np.einsum("nab,nb->na", bend, pull))
    moved = np.linalg.solve(shrink, right[:, :, None])[:, :, 0]
    removal = Removal(_moved_rows(influence, slice(None), moved), False, drift, coefficients)
    # In the metric of the part that the curvature holds.
    length = np.einsum("na,nab,nb->n", moved, own, moved)
    chosen = _worth_refining(influence, length, removal)
    return _refine(influence, removal, chosen, chosen[:, None] == np.arange(len(length)))


def removal_of_set(influence, indices):
    """The step for a set of training rows that are dropped at once."""
    weighting = influence.objective_.weighting
    if not np.delete(weighting.sample_weight, indices).any():
        raise ValueError(
            "indices names every training row that has a weight, so nothing is left to fit. "
            "Leave some rows out of indices."
        )
    dropped = np.zeros((1, influence.n_samples_), dtype=bool)
    dropped[0, indices] = True
    class_weight, factor = weighting.class_weight_of(~dropped)
    coefficients = class_weight - factor[:, None] * weighting.group_weight
    weight = (weighting.sample_weight * class_weight[0, weighting.codes])[indices]
    rows, drift = _jacobian_and_drift(influence, indices, coefficients)
    residual, bend = _derivatives(influence, indices)
    size, k = residual.shape
    pull = _drift_at(influence, rows, drift, np.repeat(coefficients, size, axis=0))
    leverage = _own_inner(influence, rows)
    held = _held_weight(influence, indices, weight)
    bent = np.einsum("n,nab,nbm->nam", held, bend, leverage.reshape(size, k, size * k))
    shrink = np.eye(size * k) - bent.reshape(size * k, size * k)
    _warn_of_leverage(shrink[None])
    right = weight[:, None] * (residual - np.einsum("nab,nb->na", bend, pull))
    moved = np.linalg.solve(shrink, right.ravel()).reshape(size, k)
    removal = Removal(_moved_rows(influence, indices, moved), True, drift, coefficients)
    return _refine(influence, removal, np.arange(1), dropped)


def _held_weight(influence, indices, weight):
    """Weight of each row in the curvature, ``weight`` where it is that of all rows."""
    return weight if influence._held_weight is None else influence._held_weight[indices]


def _own_leverages(influence, rows):
    """``J_p H^{-1} J_p' / N`` of every row by what the curvature holds of it, (n, k, k)."""
    held = influence.curvature_.exact_part(rows)
    if held is None:
        return np.zeros((rows.n_samples, rows.rows_per_sample, rows.rows_per_sample))
    curvature, held_rows = held
    return curvature.leverages(held_rows, influence.damping_) / influence.objective_.total_weight


def _own_inner(influence, rows):
    """The same of a set of rows, with each other, (n * k, n * k)."""
    held = influence.curvature_.exact_part(rows)
    if held is None:
        return np.zeros((rows.shape[0], rows.shape[0]))
    curvature, held_rows = held
    solved = curvature.solve(held_rows, influence.damping_)
    return solved.inner(held_rows) / influence.objective_.total_weight


def _worth_refining(influence, length, removal):
    """Removals with the longest steps, as many as the work allows."""
    n_samples, k = influence.objective_.training_outputs.shape
    # A refinement takes about ten products with the Jacobian and its transpose, and as many
    # passes over the losses, whose functions cost about as much as 50 multiply-adds.
    work = 10 * n_samples * (2 * influence._rows.n_columns + 50 * k * k)
    count = 0 if _is_final(influence, removal) else min(n_samples, int(REFINING / work))
    order = np.argsort(-length, kind="stable")[:count]
    return np.sort(order[length[order] > 0])


def _is_final(influence, removal):
    """Whether the first step is the last: of a quadratic that loses rows, and of factors."""
    exact = influence.objective_.loss.quadratic and not removal.coefficients.any()
    return exact or influence.curvature_.exact_part(influence._rows[:0]) is None


def _refine(influence, removal, chosen, dropped):
    """Take the chosen removals from their first step to the minimum without the rows."""
    objective = influence.objective_
    if _is_final(influence, removal) or not len(chosen):
        return replace(removal, refined=np.arange(0), delta=None)
    jacobian = influence._project(objective.jacobian_rows(objective.features))
    preconditioner = CurvaturePreconditioner(
        influence.curvature_, influence.damping_, objective.total_weight
    )
    refit = Refit(objective, jacobian, preconditioner, influence._penalty, influence.damping_)
    delta = np.empty((len(chosen), jacobian.n_columns))
    n_samples, k = objective.training_outputs.shape
    for batch in batches(len(chosen), 8 * n_samples * (2 * k * k + 8 * k)):
        weight, factor = objective.weighting.of_subsets(~dropped[batch])
        start = first_steps(influence, removal, chosen[batch])
        delta[batch], _ = refit.minimise(weight, factor, start, tol=1e-10, max_iter=20)
    return replace(removal, refined=chosen, delta=delta)


def first_steps(influence, removal, chosen):
    """Newton steps ``theta_without - theta`` of the chosen removals, before refinement."""
    rows = removal.rows
    moved = rows.toarray().sum(axis=0)[None] if removal.together else rows[chosen].toarray()
    right = moved - removal.coefficients[chosen] @ removal.drift
    return influence._solve(DenseRows(right)).toarray() / influence.objective_.total_weight


def moved_losses(influence, removal, features, targets, reduce):
    """Change of the losses of queries, at their outputs moved by each removal.

    Returns
    -------
    ndarray of shape (n_queries, n_removals) or (n_removals,)
    """
    objective = influence.objective_
    outputs = objective.outputs(features)
    before = objective.loss.value(outputs, targets)
    n_queries, k = outputs.shape
    n_removals = len(removal.coefficients)
    out = np.zeros((n_queries if reduce is None else 1, n_removals))
    jacobian = influence._project_queries(objective.jacobian_rows(features))
    # Moved outputs, their loss and its temporaries stand for every query and removal.
    query_bytes = 8 * k * (2 * jacobian.n_columns + 4 * min(n_removals, 1024))

    def fill(batch):
        solved = influence._solve(jacobian[batch])
        drift = solved.inner(removal.drift)
        for part in _parts(removal, len(before[batch]) * k):
            step = _step(solved, removal, drift, part) / objective.total_weight
            _put_refined(step, jacobian[batch], removal, part)
            moved = outputs[batch] + step.T.reshape(-1, len(before[batch]), k)
            after = objective.loss.value(moved, targets[batch])
            change = (after - before[batch]).T
            if reduce is None:
                out[batch, part] = change
            else:
                sums[len(sums) :] = [(part, change.sum(axis=0))]

    sums = []
    influence._parallel(fill, influence._batches(n_queries, query_bytes))
    for part, change in sums:
        out[0, part] += change
    if reduce is None:
        return out
    return out[0] / n_queries if reduce == "mean" else out[0]


def _parts(removal, n_outputs):
    if removal.together:
        return [slice(0, 1)]
    return batches(len(removal.coefficients), 8 * (4 * n_outputs + removal.rows.n_columns))


def _step(solved, removal, drift, part):
    if removal.together:
        step = solved.inner(removal.rows).sum(axis=1, keepdims=True)
    else:
        step = solved.inner(removal.rows[part])
    return step - drift @ removal.coefficients[part].T


def _put_refined(step, jacobian, removal, part):
    first, last = np.searchsorted(removal.refined, [part.start, part.stop])
    if first < last:
        refined = removal.refined[first:last] - part.start
        step[:, refined] = jacobian @ np.ascontiguousarray(removal.delta[first:last].T)


def _jacobian_and_drift(influence, indices, coefficients):
    objective = influence.objective_
    features = objective.features[indices]
    rows = influence._project(objective.jacobian_rows(features))
    group_sums = objective.weighting.group_sums
    if not coefficients.any():
        return rows, DenseRows(np.zeros((len(group_sums), rows.n_columns)))
    return rows, DenseRows(group_sums @ influence._rows)


def _drift_at(influence, rows, drift, coefficients):
    """``J_p H^{-1} d_p / N`` for every dropped row, (n, k)."""
    solved = influence._solve(drift)
    pulls = solved.inner(rows).reshape(len(drift), rows.n_samples, rows.rows_per_sample)
    total = influence.objective_.total_weight
    return np.einsum("ng,gnk->nk", coefficients, pulls) / total


def _derivatives(influence, indices):
    objective = influence.objective_
    residual = objective.loss.residual(objective.training_outputs, objective.targets)
    return residual[indices], objective.output_curvature(influence.curvature_kind_)[indices]


def _moved_rows(influence, indices, moved):
    features = influence.objective_.features[indices]
    return influence._project(influence.objective_.pullback(features, moved[:, None, :]))


def _warn_of_leverage(shrink):
    """Warn where ``I - w h M`` is close to singular, so that the step is large and unsure."""
    gap = np.abs(np.linalg.eigvals(shrink)).min(axis=-1, initial=1.0)
    near = gap < 1 - NEAR_ONE
    if near.any():
        warnings.warn(
            f"{near.sum()} removal(s) have a leverage above {NEAR_ONE}: the rows that stay hardly "
            "determine the model there, and the predicted change is unsure. Use more damping or "
            "a stronger penalty, or refit to know.",
            NumericalWarning,
            stacklevel=4,
        )
