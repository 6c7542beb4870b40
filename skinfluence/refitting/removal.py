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

from dataclasses import dataclass, replace

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.warnings import warn_user
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
    reweighting_gradient : Rows
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
    reweighting_gradient: Rows
    coefficients: np.ndarray
    refined: np.ndarray = None
    delta: np.ndarray = None


def removal_of_each(linearisation):
    """Steps for every training row on its own."""
    weighting = linearisation.objective.weighting
    class_weight, factor = weighting.without_each()
    coefficients = class_weight - factor[:, None] * weighting.group_weight
    weight = np.take_along_axis(class_weight, weighting.groups, axis=1)
    weight *= weighting.sample_weight[:, None]
    rows, reweighting_gradient = _jacobian_and_reweighting_gradient(
        linearisation, slice(None), coefficients
    )
    own = _own_leverages(linearisation, rows)
    residual, second = _derivatives(linearisation, slice(None))
    pull = _reweighting_gradient_at(linearisation, rows, reweighting_gradient, coefficients)
    in_curvature = _curvature_weight(linearisation, slice(None), weight)
    shrink = np.eye(second.shape[1]) - in_curvature[:, :, None] * second @ own
    _warn_of_leverage(shrink)
    right = weight * (residual - np.einsum("nab,nb->na", second, pull))
    moved = np.linalg.solve(shrink, right[:, :, None])[:, :, 0]
    removal = Removal(
        _moved_rows(linearisation, slice(None), moved), False, reweighting_gradient, coefficients
    )
    # In the metric of the part that the curvature holds.
    length = np.einsum("na,nab,nb->n", moved, own, moved)
    chosen = _worth_refining(linearisation, length, removal)
    return _refine(linearisation, removal, chosen, chosen[:, None] == np.arange(len(length)))


def removal_of_set(linearisation, indices):
    """The step for a set of training rows that are dropped at once."""
    weighting = linearisation.objective.weighting
    if not np.delete(weighting.sample_weight, indices).any():
        raise ValueError(
            "indices names every training row that has a weight, so nothing is left to fit. "
            "Leave some rows out of indices."
        )
    dropped = np.zeros((1, linearisation.n_samples), dtype=bool)
    dropped[0, indices] = True
    class_weight, factor = weighting.class_weight_of(~dropped)
    coefficients = class_weight - factor[:, None] * weighting.group_weight
    weight = (weighting.sample_weight[:, None] * class_weight[0, weighting.groups])[indices]
    rows, reweighting_gradient = _jacobian_and_reweighting_gradient(
        linearisation, indices, coefficients
    )
    residual, second = _derivatives(linearisation, indices)
    size, k = residual.shape
    pull = _reweighting_gradient_at(
        linearisation, rows, reweighting_gradient, np.repeat(coefficients, size, axis=0)
    )
    leverage = _own_inner(linearisation, rows)
    in_curvature = _curvature_weight(linearisation, indices, weight)
    scaled = (in_curvature[:, :, None] * second) @ leverage.reshape(size, k, size * k)
    shrink = np.eye(size * k) - scaled.reshape(size * k, size * k)
    _warn_of_leverage(shrink[None])
    right = weight * (residual - np.einsum("nab,nb->na", second, pull))
    moved = np.linalg.solve(shrink, right.ravel()).reshape(size, k)
    removal = Removal(
        _moved_rows(linearisation, indices, moved), True, reweighting_gradient, coefficients
    )
    return _refine(linearisation, removal, np.arange(1), dropped)


def _curvature_weight(linearisation, indices, weight):
    """Weight of each row in the curvature, ``weight`` where that is the curvature of all rows."""
    given = linearisation.curvature.row_weight
    return weight if given is None else given[indices][:, None]


def _own_leverages(linearisation, rows):
    """``J_p H^{-1} J_p' / N`` of every row by what the curvature holds of it, (n, k, k)."""
    exact = linearisation.curvature.exact_part(rows)
    if exact is None:
        return np.zeros((rows.n_samples, rows.rows_per_sample, rows.rows_per_sample))
    curvature, own_rows = exact
    return (
        curvature.leverages(own_rows, linearisation.damping) / linearisation.objective.total_weight
    )


def _own_inner(linearisation, rows):
    """The same of a set of rows, with each other, (n * k, n * k)."""
    exact = linearisation.curvature.exact_part(rows)
    if exact is None:
        return np.zeros((rows.shape[0], rows.shape[0]))
    curvature, own_rows = exact
    solved = curvature.solve(own_rows, linearisation.damping)
    return solved.inner(own_rows) / linearisation.objective.total_weight


def _worth_refining(linearisation, length, removal):
    """Removals with the longest steps, as many as the work allows."""
    n_samples, k = linearisation.objective.training_outputs.shape
    # A refinement takes about ten products with the Jacobian and its transpose, and as many
    # passes over the losses, whose functions cost about as much as 50 multiply-adds.
    work = 10 * n_samples * (2 * linearisation.training_rows.n_columns + 50 * k * k)
    count = 0 if _is_final(linearisation, removal) else min(n_samples, int(REFINING / work))
    order = np.argsort(-length, kind="stable")[:count]
    # A row of weight 0 has no length, but is counted in balanced class weights.
    moves = (length > 0) | removal.coefficients.any(axis=1)
    return np.sort(order[moves[order]])


def _is_final(linearisation, removal):
    """Whether the first step is the last: of a quadratic that loses rows, and of factors."""
    exact = linearisation.objective.loss.quadratic and not removal.coefficients.any()
    return exact or linearisation.curvature.exact_part(linearisation.training_rows[:0]) is None


def _refine(linearisation, removal, chosen, dropped):
    """Take the chosen removals from their first step to the minimum without the rows."""
    objective = linearisation.objective
    if _is_final(linearisation, removal) or not len(chosen):
        return replace(removal, refined=np.arange(0), delta=None)
    jacobian = linearisation.jacobian_rows(objective.features)
    preconditioner = CurvaturePreconditioner(
        linearisation.curvature, linearisation.damping, objective.total_weight
    )
    refit = Refit(
        objective,
        jacobian,
        preconditioner,
        linearisation.space.penalty * objective.total_weight,
        linearisation.damping,
    )
    delta = np.empty((len(chosen), jacobian.n_columns))
    n_samples, k = objective.training_outputs.shape
    for batch in batches(len(chosen), 8 * n_samples * (2 * k * k + 8 * k)):
        weight, factor = objective.weighting.of_subsets(~dropped[batch])
        start = first_steps(linearisation, removal, chosen[batch])
        delta[batch], _ = refit.minimise(weight, factor, start, tol=1e-10, max_iter=20)
    return replace(removal, refined=chosen, delta=delta)


def first_steps(linearisation, removal, chosen):
    """Newton steps ``theta_without - theta`` of the chosen removals, before refinement."""
    rows = removal.rows
    moved = rows.toarray().sum(axis=0)[None] if removal.together else rows[chosen].toarray()
    right = moved - removal.coefficients[chosen] @ removal.reweighting_gradient
    return linearisation.solve(DenseRows(right)).toarray() / linearisation.objective.total_weight


def moved_losses(linearisation, removal, features, targets, reduce):
    """Change of the losses of queries, at their outputs moved by each removal.

    Returns
    -------
    ndarray of shape (n_queries, n_removals) or (n_removals,)
    """
    objective = linearisation.objective
    outputs = objective.outputs(features)
    before = objective.loss.value(outputs, targets)
    n_queries, k = outputs.shape
    n_removals = len(removal.coefficients)
    out = np.zeros((n_queries if reduce is None else 1, n_removals))
    jacobian = linearisation.space.project_queries(objective.jacobian_rows(features))
    # Moved outputs, their loss and its temporaries stand for every query and removal.
    query_bytes = 8 * k * (2 * jacobian.n_columns + 4 * min(n_removals, 1024))

    def fill(batch):
        solved = linearisation.solve(jacobian[batch])
        reweighting_gradient = solved.inner(removal.reweighting_gradient)
        for part in _parts(removal, len(before[batch]) * k):
            step = _step(solved, removal, reweighting_gradient, part) / objective.total_weight
            _put_refined(step, jacobian[batch], removal, part)
            moved = outputs[batch] + step.T.reshape(-1, len(before[batch]), k)
            after = objective.loss.value(moved, targets[batch])
            change = (after - before[batch]).T
            if reduce is None:
                out[batch, part] = change
            else:
                sums[len(sums) :] = [(part, change.sum(axis=0))]

    sums = []
    linearisation.schedule.run(fill, linearisation.schedule.batches(n_queries, query_bytes))
    for part, change in sums:
        out[0, part] += change
    if reduce is None:
        return out
    return out[0] / n_queries if reduce == "mean" else out[0]


def _parts(removal, n_outputs):
    if removal.together:
        return [slice(0, 1)]
    return batches(len(removal.coefficients), 8 * (4 * n_outputs + removal.rows.n_columns))


def _step(solved, removal, reweighting_gradient, part):
    if removal.together:
        step = solved.inner(removal.rows).sum(axis=1, keepdims=True)
    else:
        step = solved.inner(removal.rows[part])
    return step - reweighting_gradient @ removal.coefficients[part].T


def _put_refined(step, jacobian, removal, part):
    first, last = np.searchsorted(removal.refined, [part.start, part.stop])
    if first < last:
        refined = removal.refined[first:last] - part.start
        step[:, refined] = jacobian @ np.ascontiguousarray(removal.delta[first:last].T)


def _jacobian_and_reweighting_gradient(linearisation, indices, coefficients):
    objective = linearisation.objective
    features = objective.features[indices]
    rows = linearisation.jacobian_rows(features)
    if not coefficients.any():
        return rows, DenseRows(np.zeros((coefficients.shape[1], rows.n_columns)))
    residual = objective.loss.residual(objective.training_outputs, objective.targets)

    def pull(factors):
        return _moved_rows(linearisation, slice(None), factors * residual)

    return rows, DenseRows(objective.weighting.group_gradients(linearisation.training_rows, pull))


def _reweighting_gradient_at(linearisation, rows, reweighting_gradient, coefficients):
    """``J_p H^{-1} d_p / N`` for every dropped row, (n, k)."""
    solved = linearisation.solve(reweighting_gradient)
    pulls = solved.inner(rows).reshape(
        len(reweighting_gradient), rows.n_samples, rows.rows_per_sample
    )
    total = linearisation.objective.total_weight
    return np.einsum("ng,gnk->nk", coefficients, pulls) / total


def _derivatives(linearisation, indices):
    objective = linearisation.objective
    residual = objective.loss.residual(objective.training_outputs, objective.targets)
    return residual[indices], objective.output_curvature(linearisation.curvature_kind)[indices]


def _moved_rows(linearisation, indices, moved):
    features = linearisation.objective.features[indices]
    return linearisation.space.project(
        linearisation.objective.pullback(features, moved[:, None, :])
    )


def _warn_of_leverage(shrink):
    """Warn where ``I - w h M`` is close to singular, so that the step is large and unsure."""
    gap = np.abs(np.linalg.eigvals(shrink)).min(axis=-1, initial=1.0)
    near = gap < 1 - NEAR_ONE
    if near.any():
        warn_user(
            f"{near.sum()} removal(s) have a leverage above {NEAR_ONE}: the rows that stay hardly "
            "determine the model there, and the predicted change is unsure. Use more damping or "
            "a stronger penalty, or refit to know.",
            NumericalWarning,
        )
