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
``q = r / (1 - leverage)`` and the step is exact.

From an approximate curvature only the row's own share is removed; removing more could push
leverages above 1 and reverse the step. So ``M`` comes from the part of the curvature that is a
sum over rows, and is 0 for Kronecker factors, which have no such part; in a Hessian of some of
the rows, ``w h`` takes the weight that the row has there.
"""

from dataclasses import dataclass

import numpy as np

from skinfluence.rows import DenseRows, Rows


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
    distance : ndarray of shape (n_removals,)
        Smallest absolute eigenvalue of ``I - w h M``: for one output, 1 minus the leverage.
    downdate : ndarray of shape (n_removals, k, k) or None
        ``(I - w h M)^{-1} w h`` of removals of single rows; None if others are among them.
    """

    rows: Rows
    reweighting: np.ndarray
    reweighting_gradient: Rows
    squared_length: np.ndarray
    distance: np.ndarray
    downdate: np.ndarray | None


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
        Steps of 0 where a removal empties a class, so that another loss applies.
    """
    woodbury = _Woodbury(linearisation, removals)
    parts = [(members, woodbury.block(members, dropped)) for members, dropped in removals.blocks()]
    squared_length = woodbury.reweighting_length()
    distance = np.ones(len(removals))
    for members, block in parts:
        squared_length[members] += block.squared_length
        distance[members] = block.distance
    return NewtonSteps(
        _rows_of_blocks(parts, len(removals), linearisation.training_rows.n_columns),
        woodbury.reweighting,
        woodbury.reweighting_gradient,
        squared_length,
        distance,
        parts[0][1].downdate if removals.are_single_rows else None,
    )


@dataclass
class _Block:
    """What `NewtonSteps` has, of the removals of a block."""

    rows: Rows
    squared_length: np.ndarray
    distance: np.ndarray
    downdate: np.ndarray


def _rows_of_blocks(parts, n_removals, n_columns):
    if len(parts) == 1 and len(parts[0][1].rows) == n_removals:
        return parts[0][1].rows
    array = np.zeros((n_removals, n_columns))
    for members, block in parts:
        array[members] = block.rows.toarray()
    return DenseRows(array)


class _Woodbury:
    """Removes the share of dropped rows from the inverse of H."""

    def __init__(self, linearisation, removals):
        self.linearisation = linearisation
        self.removals = removals
        self.objective = objective = linearisation.objective
        self.reweighting = removals.reweighting
        self.residual = objective.loss.residual(objective.training_outputs, objective.targets)
        self.reweighting_gradient = self._reweighting_gradient()
        self.solved_reweighting = linearisation.solve(self.reweighting_gradient)
        self.second_derivative = objective.output_curvature(linearisation.curvature_kind)
        self.weight = removals.row_weight
        given = linearisation.curvature.row_weight
        self.curvature_weight = self.weight if given is None else given[removals.rows, None]

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
        shrink, scaled, right = self._system(members, dropped, index, leverage, pull)
        q = _solve(shrink, right)
        # (J'q - d)' H^{-1} (J'q - d) / N = q'Mq - 2 q'(J H^{-1} d / N) + d'H^{-1}d / N; the last
        # term is added for all blocks at once.
        length = np.einsum("ma,mab,mb->m", q, leverage, q, optimize=True)
        length -= 2 * (q * pull.reshape(q.shape)).sum(axis=1)
        distance = np.abs(np.linalg.eigvals(shrink)).min(axis=1)
        downdate = _downdate(shrink, scaled) if self.removals.are_single_rows else None
        return _Block(self._sums(features, q, m), length, distance, downdate)

    def _system(self, members, dropped, index, leverage, pull):
        """``I - w h M`` (m, s * k, s * k), ``w h`` (m * s, k, k), ``w (r - h J H^{-1} d / N)``."""
        second_derivative, (n_rows, k) = self.second_derivative[index], pull.shape
        m, size = leverage.shape[:2]
        right = self.residual[index] - np.einsum("nab,nb->na", second_derivative, pull)
        right = (self.weight[dropped] * right).reshape(m, size)
        scaled = self.curvature_weight[dropped, :, None] * second_derivative
        share = np.matmul(
            scaled.reshape(m, n_rows // m, k, k), leverage.reshape(m, n_rows // m, k, size)
        ).reshape(leverage.shape)
        known = self.removals.has_newton_step[members, None]
        shrink = np.eye(size) - np.where(known[:, :, None], share, 0.0)
        return shrink, scaled, np.where(known, right, 0.0)

    def _sums(self, features, q, m):
        """``J_S' q`` of every removal, factored where a removal is a single row."""
        vectors = q.reshape(features.shape[0], 1, -1)
        rows = self.linearisation.space.project(self.objective.pullback(features, vectors))
        s = features.shape[0] // m
        return rows if s == 1 else DenseRows(np.ones((m, s)) @ rows)

    def _leverage(self, jacobian, m):
        """``M`` of the rows of each removal in the exact part, (m, s * k, s * k)."""
        size = jacobian.shape[0] // m
        exact = self.linearisation.curvature.exact_part(jacobian)
        if exact is None:
            return np.zeros((m, size, size))
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


def _downdate(shrink, scaled):
    """``(I - w h M)^{-1} w h`` of single rows."""
    try:
        return np.linalg.solve(shrink, scaled)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(shrink) @ scaled


def _solve(matrices, right):
    """Solutions of (m, c, c) systems, the shortest ones where a matrix is singular."""
    try:
        return np.linalg.solve(matrices, right[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return np.einsum("mab,mb->ma", np.linalg.pinv(matrices), right)
