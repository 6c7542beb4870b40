"""Losses of queries under the models without training rows."""

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.warnings import warn_user
from skinfluence.exceptions import NumericalWarning


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
        moves = MovedQueries(linearisation, removed, jacobian[batch], outputs[batch])
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


class MovedQueries:
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
        steps = self.removed.steps
        moves = self.solved.inner(steps.rows[part])
        moves -= self.reweighting @ steps.reweighting[part].T
        moves = (moves.T / self.objective.total_weight).reshape(-1, *self.outputs.shape)
        # A step that was not refined may leave the domain of the loss.
        moves *= self.objective.loss.largest_step(self.outputs, moves)[..., None]
        places, refined = self.removed.refined_in(part)
        if len(places):
            delta = self.removed.refinement.changes(refined)
            exact = self.jacobian @ np.ascontiguousarray(delta.T)
            moves[places] = np.moveaxis(exact.reshape(*self.outputs.shape, -1), 2, 0)
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
            f"{removed.removals.without.capitalize()} "
            f"{removed.removals.named(np.flatnonzero(infinite))} some queries have no finite "
            "loss: no row of their class is left, or their outputs leave the domain of the loss. "
            "Leave such queries out to get the changes of the others.",
            NumericalWarning,
        )
