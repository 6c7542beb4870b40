"""The first step to the minimum without some training rows: Newton's, by Woodbury.

Conventions
-----------
``H`` is the Hessian of the mean objective, ``N`` the sum of the weights, ``J_p`` the Jacobian
of the outputs of row p, ``r_p`` and ``h_p`` the first and second derivatives of its loss. There
are m removals of s rows with k outputs each.

Dropping rows S leaves an objective with the gradient ``-sum_S w_p J_p' r_p + d`` at the fitted
parameters. ``d`` is the reweighting gradient: balanced class weights change with the data, and
so does the weight of the penalty where the objective is a mean. With ``M = J_S H^{-1} J_S' / N``,
the Newton step is

    N dtheta = H^{-1} (J_S' q - d),    q = (I - w h M)^{-1} w (r - h J_S H^{-1} d / N)

by Woodbury: ``q`` replaces the residual ``r`` of a dropped row. For least squares
``q = r / (1 - leverage)`` and the step is exact. Where rows come back with a new weight and a new
target, ``w r`` and ``w h`` are what they lose: the old products minus the new ones.

A set of so many rows that ``M`` would be larger than H has no first step: Newton's method by
conjugate gradients starts at the fitted parameters.

From an approximate curvature only the row's own share is removed; removing more could push
leverages above 1 and reverse the step. So ``M`` comes from the part of the curvature that is a
sum over rows, and is 0 for Kronecker factors, which have no such part; in a Hessian of some of
the rows, ``w h`` takes the weight that the row has there.
"""

from dataclasses import dataclass

import numpy as np

from skinfluence._utils.batching import fits_in_memory
from skinfluence.rows import DenseRows, Rows

# Square matrices of the size of all outputs of a set that its first step takes.
MATRICES = 8


@dataclass
class NewtonSteps:
    """One Newton step for each of several removals.

    Parameters
    ----------
    rows : Rows
        ``J_S' q``, one row for each removal.
    reweighting : ndarray of shape (n_removals, n_groups)
        Coefficients of ``d`` in the gradients of the groups (classes).
    reweighting_gradient : Rows
        Gradients of the groups, one row for each.
    squared_length : ndarray of shape (n_removals,)
        ``N dtheta' H dtheta``, with the exact part of the curvature for H.
    known : ndarray of bool of shape (n_removals,)
        Whether a removal has such a step.
    moves : ndarray of bool of shape (n_removals,)
        Whether the step is not 0, if only because its terms do not cancel to the last digit.
    distance : ndarray of shape (n_removals,)
        Smallest absolute eigenvalue of ``I - w h M``: for one output, 1 minus the leverage.
    downdate : ndarray of shape (n_removals, k, k) or None
        ``(I - w h M)^{-1} w h`` of removals of single rows; None if others are among them.
    own_moves : ndarray of shape (n_removals, k) or None
        ``M q - J_p H^{-1} d / N``, how the outputs of a row move when it leaves; None if others
        than single rows leave, or the curvature is an approximation.
    """

    rows: Rows
    reweighting: np.ndarray
    reweighting_gradient: Rows
    squared_length: np.ndarray
    known: np.ndarray
    moves: np.ndarray
    distance: np.ndarray
    downdate: np.ndarray | None
    own_moves: np.ndarray | None


def first_steps(linearisation, steps, chosen):
    """Changes of the parameters by the steps of chosen removals, (n_chosen, n_columns)."""
    right = steps.rows[chosen].toarray()
    right -= steps.reweighting[chosen] @ steps.reweighting_gradient
    return linearisation.solve(DenseRows(right)).toarray() / linearisation.objective.total_weight


def newton_steps(linearisation, removals):
    """First steps of removals that have a refit.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    removals : Removals
        The rows that leave.

    Returns
    -------
    NewtonSteps
        Steps of 0 where a removal empties a class, so that another loss applies, and of large
        sets.
    """
    known = removals.keeps_loss & ~_are_large(linearisation, removals)
    woodbury = _Woodbury(linearisation, removals, known)
    blocks = removals.blocks(known)
    parts = [(members, woodbury.block(members, dropped)) for members, dropped in blocks]
    squared_length = woodbury.reweighting_length()
    distance = np.ones(len(removals))
    for members, block in parts:
        squared_length[members] += block.squared_length
        distance[members] = block.distance
    rows = _rows_of_blocks(parts, len(removals), linearisation.training_rows.n_columns)
    return NewtonSteps(
        rows,
        woodbury.reweighting,
        woodbury.reweighting_gradient,
        squared_length,
        known,
        (rows.squared_norms() > 0) | woodbury.reweighting.any(axis=1),
        distance,
        parts[0][1].downdate if removals.are_single_rows else None,
        parts[0][1].own_moves
        if removals.are_single_rows and linearisation.curvature.is_own
        else None,
    )


def is_sum_of_rows(linearisation):
    """Whether the curvature, unlike Kronecker factors, can precondition conjugate gradients."""
    return linearisation.curvature.exact_part(linearisation.training_rows[:0]) is not None


def _are_large(linearisation, removals):
    """Which removals need a larger matrix than the curvature, or than memory allows."""
    objective = linearisation.objective
    size = removals.sizes * objective.training_outputs.shape[1]
    # M, the matrix I - w h M, and what their solution and eigenvalues take.
    too_large = ~fits_in_memory(8 * MATRICES * size**2)
    if objective.has_factor_rows(linearisation.curvature_kind):
        # Of a network's Hessian, the step with all of it is better than linearised outputs.
        too_large |= size > linearisation.training_rows.n_columns
    return too_large & (not removals.are_single_rows) & is_sum_of_rows(linearisation)


@dataclass
class _Block:
    """What `NewtonSteps` has, of the removals of a block."""

    rows: Rows
    squared_length: np.ndarray
    distance: np.ndarray
    downdate: np.ndarray | None
    own_moves: np.ndarray | None


def _rows_of_blocks(parts, n_removals, n_columns):
    if len(parts) == 1 and len(parts[0][1].rows) == n_removals:
        return parts[0][1].rows
    array = np.zeros((n_removals, n_columns))
    for members, block in parts:
        array[members] = block.rows.toarray()
    return DenseRows(array)


class _Woodbury:
    """Removes the share of dropped rows from the inverse of H."""

    def __init__(self, linearisation, removals, known):
        self.linearisation = linearisation
        self.known = known
        self.removals = removals
        self.objective = objective = linearisation.objective
        self.reweighting = np.where(known[:, None], removals.reweighting, 0.0)
        self.residual = objective.loss.residual(objective.training_outputs, objective.targets)
        self.reweighting_gradient = self._reweighting_gradient()
        self.solved_reweighting = linearisation.solve(self.reweighting_gradient)
        self.second_derivative = objective.output_curvature(linearisation.curvature_kind)

    def _reweighting_gradient(self):
        n_groups, n_columns = self.reweighting.shape[1], self.linearisation.training_rows.n_columns
        if not self.reweighting.any():
            return DenseRows(np.zeros((n_groups, n_columns)))
        weighting, objective = self.objective.weighting, self.objective
        rows, space = self.linearisation.training_rows, self.linearisation.space

        def pull(factors):
            vectors = (factors * self.residual)[:, None]
            return space.project(objective.pullback(objective.features, vectors))

        return DenseRows(weighting.group_gradients(rows, pull))

    def reweighting_length(self):
        """``d' H^{-1} d / N`` of every removal."""
        inner = self.solved_reweighting.inner(self.reweighting_gradient)
        inner /= self.objective.total_weight
        return np.einsum("mg,gj,mj->m", self.reweighting, inner, self.reweighting, optimize=True)

    def block(self, members, dropped):
        """Removals ``members`` (slice), whose rows are ``dropped`` (slice) of all that leave."""
        index = _as_slice(self.removals.rows[dropped])
        m = members.stop - members.start
        features = self.objective.features[index]
        jacobian = self.linearisation.jacobian_rows(features)
        leverage = self._leverage(jacobian, m)
        pull = self._pull_of_reweighting(jacobian, members)
        residual, curvature = self._lost(dropped, index)
        right = residual - np.einsum("nab,nb->na", curvature, pull)
        known = np.repeat(self.known[members], len(right) // m)
        right = np.where(known[:, None], right, 0.0).reshape(m, -1)
        if leverage is None:
            length = -2 * (right * pull.reshape(right.shape)).sum(axis=1)
            return _Block(self._sums(features, right, m), length, np.ones(m), None, None)
        scaled = self._in_curvature(curvature, dropped, index)
        shrink = self._shrink(scaled, members, leverage)
        q = _solve(shrink, right)
        # (J'q - d)' H^{-1} (J'q - d) / N = q'Mq - 2 q'(J H^{-1} d / N) + d'H^{-1}d / N; the last
        # term is added for all blocks at once.
        pull = pull.reshape(q.shape)
        moves = np.matmul(leverage, q[:, :, None])[:, :, 0]
        length = ((moves - 2 * pull) * q).sum(axis=1)
        distance = _distance_from_0(shrink)
        downdate = _downdate(shrink, scaled) if self.removals.are_single_rows else None
        return _Block(self._sums(features, q, m), length, distance, downdate, moves - pull)

    def _lost(self, dropped, index):
        """``w r`` (n_dropped, k) and ``w h`` (n_dropped, k, k) that the rows lose."""
        weight = self.removals.row_weight[dropped]
        residual = weight * self.residual[index]
        curvature = weight[:, :, None] * self.second_derivative[index]
        if self.removals.leave:
            return residual, curvature
        weight = self.removals.new_row_weight[dropped]
        new_residual, new_curvature = self._after(index)
        return residual - weight * new_residual, curvature - weight[:, :, None] * new_curvature

    def _after(self, index):
        """``r`` and ``h`` of the rows at their targets after the removal."""
        removals, objective = self.removals, self.objective
        if removals.targets is None:
            return self.residual[index], self.second_derivative[index]
        outputs, targets = objective.training_outputs[index], removals.targets[index]
        kind = self.linearisation.curvature_kind
        residual = objective.loss.residual(outputs, targets)
        return residual, objective.output_curvature(kind, outputs, targets)

    def _in_curvature(self, curvature, dropped, index):
        """``w h`` that the rows lose in a curvature where they may have other weights."""
        given, removals = self.linearisation.curvature.row_weight, self.removals
        if given is None:
            return curvature
        weight = given[index, None, None]
        lost = weight * self.second_derivative[index]
        if removals.leave:
            return lost
        before, after = self.objective.weighting.sample_weight[index], removals.new_weight[dropped]
        share = np.divide(after, before, out=np.zeros_like(after), where=before > 0)
        return lost - share[:, None, None] * weight * self._after(index)[1]

    def _shrink(self, scaled, members, leverage):
        """``I - w h M`` of every removal, (m, s * k, s * k)."""
        m, size = leverage.shape[:2]
        k = scaled.shape[-1]
        shape = m, len(scaled) // m, k
        share = np.matmul(scaled.reshape(*shape, k), leverage.reshape(*shape, size))
        share = np.where(self.known[members, None, None], share.reshape(leverage.shape), 0.0)
        return np.eye(size) - share

    def _sums(self, features, q, m):
        """``J_S' q`` of every removal, factored where a removal is a single row."""
        vectors = q.reshape(features.shape[0], 1, -1)
        rows = self.linearisation.space.project(self.objective.pullback(features, vectors))
        s = features.shape[0] // m
        return rows if s == 1 else DenseRows(np.ones((m, s)) @ rows)

    def _leverage(self, jacobian, m):
        """``M`` of the rows of each removal in the exact part, (m, s * k, s * k), if any."""
        size = jacobian.shape[0] // m
        exact = self.linearisation.curvature.exact_part(jacobian)
        if exact is None:
            return None
        curvature, rows = exact
        together = rows if size == rows.rows_per_sample else DenseRows(rows.toarray(), size)
        leverage = curvature.leverages(together, self.linearisation.damping)
        return leverage / self.objective.total_weight

    def _pull_of_reweighting(self, jacobian, members):
        """``J_p H^{-1} d / N`` of every dropped row, (m * s, k)."""
        pulls = self.solved_reweighting.inner(jacobian) / self.objective.total_weight
        reweighting = self.reweighting[members]
        pulls = pulls.reshape(len(pulls), len(reweighting), -1)
        pulls = np.einsum("mg,gmj->mj", reweighting, pulls)
        return pulls.reshape(jacobian.n_samples, jacobian.rows_per_sample)


def _as_slice(index):
    """A slice for consecutive positions, which avoids a copy of the features."""
    if len(index) and (np.diff(index) == 1).all():
        return slice(index[0], index[-1] + 1)
    return index


def _distance_from_0(matrices):
    """Smallest absolute eigenvalue of (m, c, c) matrices, (m,)."""
    if matrices.shape[-1] == 1:
        return np.abs(matrices[:, 0, 0])
    return np.abs(np.linalg.eigvals(matrices)).min(axis=1)


def _downdate(shrink, scaled):
    """``(I - w h M)^{-1} w h`` of single rows."""
    if shrink.shape[-1] == 1:
        return np.divide(scaled, shrink, out=np.zeros_like(scaled), where=shrink != 0)
    try:
        return np.linalg.solve(shrink, scaled)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(shrink) @ scaled


def _solve(matrices, right):
    """Solutions of (m, c, c) systems, the shortest ones where a matrix is singular."""
    if matrices.shape[-1] == 1:
        numbers = matrices[:, :, 0]
        return np.divide(right, numbers, out=np.zeros_like(right), where=numbers != 0)
    try:
        return np.linalg.solve(matrices, right[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return np.einsum("mab,mb->ma", np.linalg.pinv(matrices), right)
