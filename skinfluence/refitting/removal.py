"""Outputs and parameters of the model without training rows, each removal from one primitive.

`newton_step` makes the first step, which is exact for least squares. For other losses the
removals with the longest steps, or all of them, go on from there to the minimum without the rows
(`refinement`). Kronecker factors allow no such refinement: they are too far from the curvature.

A removal that empties a class leaves another model, if any: the minimum of the loss of the
remaining classes, as scikit-learn would fit it. A removal that leaves no model is refused.
"""

from dataclasses import dataclass

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.warnings import warn_user
from skinfluence.exceptions import NumericalWarning
from skinfluence.refitting.newton_step import (
    NewtonSteps,
    first_steps,
    is_sum_of_rows,
    newton_steps,
)
from skinfluence.refitting.refinement import Refinement, own_moves
from skinfluence.refitting.removed_rows import (
    Removals,
    each_row,
    new_labels,
    new_weights,
    sets_of_rows,
)

# Above this leverage, ``q = r / (1 - leverage)`` is more than a hundred times the residual.
NEAR_ONE = 0.99

# Where ``1 - leverage`` is smaller, rounding leaves no correct digit in a step.
UNDETERMINED = 1e-9

# Relative gradient above which a warning names a refit, and relative error of a change above
# which it does not count as having reached its minimum.
UNSURE = 1e-8
REACHED = 1e-5


@dataclass
class Removed:
    """The models without some rows, as changes of the fitted model.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of the fit.
    removals : Removals
        The rows that leave.
    steps : NewtonSteps
        First steps of all removals.
    refinement : Refinement
        Goes from there to the minima of some of the removals.
    error : ndarray of shape (n_removals,)
        Relative error of each change as far as it is known: an estimate from the last step, or
        the relative gradient that is left. NaN for a single Newton step of a loss that is not
        quadratic, for networks, and for removals that leave no model.
    refused : ndarray of bool of shape (n_removals,)
        Removals that leave no model.
    moves : ndarray of shape (n_refined, k)
        Moves of the outputs of rows that were refined and left alone.
    """

    linearisation: object
    removals: Removals
    steps: NewtonSteps
    refinement: Refinement
    error: np.ndarray
    refused: np.ndarray
    moves: np.ndarray

    @property
    def refined(self):
        """Removals that went on to their minimum, ascending."""
        return self.refinement.chosen

    @property
    def reached(self):
        """Whether each removal is known to have reached its minimum, (n_removals,)."""
        return self.error <= REACHED

    def refined_in(self, part):
        """Refined removals of a slice of all: their positions in it, and a slice of `refined`."""
        first, last = np.searchsorted(self.refined, [part.start, part.stop])
        return self.refined[first:last] - part.start, slice(first, last)

    def parameter_changes(self, part):
        """Changes of the parameters by a slice of the removals, (n_part, n_columns)."""
        delta = first_steps(self.linearisation, self.steps, np.arange(part.start, part.stop))
        places, refined = self.refined_in(part)
        if len(places):
            delta[places] = self.refinement.changes(refined)
        return delta

    def remaining_gradient(self, removal):
        """Norm of the gradient that is left without some rows, relative to its terms, a float."""
        delta = self.parameter_changes(slice(removal, removal + 1))
        return float(self.refinement.gradient_norms(np.array([removal]), delta)[0])

    def parts(self):
        """Slices of the removals whose parameter changes fit into the working memory."""
        k = self.removals.objective.training_outputs.shape[1]
        row_bytes = 8 * (k + 3) * self.linearisation.training_rows.n_columns
        return batches(len(self.removals), row_bytes)

    def own_outputs(self):
        """Outputs of every dropped row by the model without it, (n_dropped, k)."""
        objective, removals = self.removals.objective, self.removals
        outputs = objective.training_outputs[removals.rows].copy()
        moves = np.empty_like(outputs)
        for part in self.parts():
            if removals.are_single_rows:
                moves[part] = self._own_moves(part)
            else:
                self._moves_of_sets(part, moves)
        moves *= objective.loss.largest_step(outputs, moves)[..., None]
        outputs += moves
        outputs[self.refused[removals.removal]] = np.nan
        return outputs

    def _own_moves(self, part):
        places, refined = self.refined_in(part)
        if len(places) == part.stop - part.start:
            return self.moves[refined]
        moves = self._first_moves(part)
        moves[places] = self.moves[refined]
        return moves

    def _first_moves(self, part):
        """Moves of the outputs of removed rows by their first steps, (n_part, k)."""
        if self.steps.own_moves is not None:
            return self.steps.own_moves[part].copy()
        chosen = np.arange(part.start, part.stop)
        delta = first_steps(self.linearisation, self.steps, chosen)
        return own_moves(self.linearisation, self.removals, chosen, delta)

    def _moves_of_sets(self, part, moves):
        objective, removals = self.removals.objective, self.removals
        first, last = np.searchsorted(removals.removal, [part.start, part.stop])
        delta = self.parameter_changes(part)
        for removal in np.unique(removals.removal[first:last]):
            at = np.flatnonzero(removals.removal == removal)
            rows = self.linearisation.jacobian_rows(objective.features[removals.rows[at]])
            moved = rows @ np.ascontiguousarray(delta[removal - part.start][:, None])
            moves[at] = moved.reshape(len(at), -1)


def removal_of_each(linearisation, refine="auto", output_tolerance=0.0):
    """The models without each of the training rows.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    refine : {"auto", bool, int}, default="auto"
        How many removals to refine: as many as about a second of one core allows, all or none,
        or a number of them. Those with the longest steps come first.
    output_tolerance : float, default=0.0
        Error of a removed row's own output, as a share of the spread of all outputs, that is
        small enough to stop. By default the change of the parameters has a relative error of
        about 1e-8, which takes longer.

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
    removals = each_row(linearisation.objective)
    return _removed(linearisation, removals, refine, output_tolerance)


def removal_of_sets(linearisation, sets, refine="auto"):
    """The models without each of several sets of training rows, each an array of positions."""
    return _removed(linearisation, sets_of_rows(linearisation.objective, sets), refine, 0.0)


def change_of_weights(linearisation, weights):
    """The models with other sample weights, ndarray of shape (n_changes, n_samples)."""
    return _removed(linearisation, new_weights(linearisation.objective, weights), True, 0.0)


def change_of_labels(linearisation, rows, targets, codes):
    """The model with other labels of some rows; see `new_labels`."""
    removals = new_labels(linearisation.objective, rows, targets, codes)
    return _removed(linearisation, removals, True, 0.0)


def _removed(linearisation, removals, refine, output_tolerance):
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
    refinement = Refinement(linearisation, removals, steps, refused, refine, output_tolerance)
    error, moves = refinement.run()
    chosen = refinement.chosen
    diverged = np.zeros_like(refused)
    # A relative gradient of 1 means that no terms cancel: the point is near no minimum.
    diverged[chosen[refinement.by_newton & ~(error < 1)]] = True
    _refuse(
        removals,
        diverged,
        refused | diverged,
        "no minimum of the objective of the other rows is found from the fitted model",
        "Use more damping, or a model with a stronger penalty.",
    )
    _warn_of_unsure(removals, steps, refinement, error)
    refused = refused | diverged
    every = np.full(len(removals), 0.0 if refinement.is_exact else np.nan)
    # Without the work that Newton's method takes, the first step is all there is.
    every[chosen] = np.where(np.isfinite(error), error, np.nan)
    # A row whose removal changes nothing is where it should be.
    every[steps.known & ~steps.moves] = 0.0
    if not linearisation.objective.is_linear:
        # The minimum for linearised outputs is not known to be the refit.
        every[steps.moves | ~steps.known] = np.nan
    every[refused] = np.nan
    return Removed(linearisation, removals, steps, refinement, every, refused, moves)


def _undetermined(linearisation, removals, steps):
    """Which removals leave a direction that only rounding determines, (n_removals,)."""
    if not linearisation.objective.strictly_convex:
        # Without a penalty, the pseudo-inverse gives the shortest step, which is well defined.
        return np.zeros(len(removals), dtype=bool)
    return (steps.distance < UNDETERMINED) & steps.known


def _without_model(linearisation, removals):
    """Which removals leave no model that is known, (n_removals,)."""
    without = removals.leaves_nothing.copy()
    can_refine = is_sum_of_rows(linearisation)
    for removal, loss in removals.other_losses.items():
        without[removal] |= loss is None or not can_refine
    return without


def _refuse(removals, which, so_far, reason, advice):
    """Warn that removals ``which`` have no refit; raise if all removals so far have none."""
    if not which.any():
        return
    names = f"{removals.without} {removals.named(np.flatnonzero(which))}"
    message = f"There is no refit {names}: {reason}."
    if so_far.all():
        raise ValueError(f"{message} {advice}")
    warn_user(f"{message} Their effects are NaN. {advice}", NumericalWarning)


def _warn_of_unsure(removals, steps, refinement, error):
    """Warn of refinements that did not converge, and of leverages that no step gets over."""
    chosen = refinement.chosen
    failed = refinement.by_newton & (error > UNSURE) & (error < 1)
    if failed.any():
        warn_user(
            f"{failed.sum()} refit(s) did not converge, {removals.without} "
            f"{removals.named(chosen[failed])}: the largest relative gradient is "
            f"{error[failed].max():.1e}. Their predicted changes are unsure. Use more damping or "
            "a stronger penalty, or refit to know.",
            NumericalWarning,
        )
    near = steps.distance < 1 - NEAR_ONE
    near[chosen[np.isfinite(error)]] = False
    # Refined steps end at a minimum, but not at a known one where it is a line.
    near |= steps.distance < UNDETERMINED
    if near.any():
        warn_user(
            f"{near.sum()} removal(s) have a leverage above {NEAR_ONE}: "
            f"{removals.named(np.flatnonzero(near))}. The rows that stay hardly determine the "
            "model there, and the predicted change is unsure. Use more damping or a stronger "
            "penalty, or refit to know.",
            NumericalWarning,
        )
