"""From first steps on to the minima without some rows.

Chord steps take most rows there together. Newton's method by conjugate gradients takes those for
which they are no way: sets of rows, rows with a large say, removals that leave another loss.
"""

import numpy as np

from skinfluence._utils.batching import batches, fits_in_memory
from skinfluence.refitting.chord import Chords
from skinfluence.refitting.newton_cg import CurvaturePreconditioner, Refit
from skinfluence.refitting.newton_step import first_steps, is_sum_of_rows

# Relative gradient to which Newton's method goes on.
TOLERANCE = 1e-10
STEADY = 1e-5
MAX_STEPS = 30

# Multiply-adds that refining may take by default: about a second of one core.
REFINING = 1e10

# Passes over all rows, there and back, that a removal takes.
CHORD_PASSES = 3
NEWTON_PASSES = 10


class Refinement:
    """Minima without some rows.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    removals : Removals
        The rows that leave.
    steps : NewtonSteps
        Their first steps.
    refused : ndarray of bool of shape (n_removals,)
        Removals that leave no model.
    refine : {"auto", bool, int}
        How many removals to refine: as many as about a second of one core allows, all or none,
        or a number of them. Those with the longest steps come first.
    output_tolerance : float
        Error of a removed row's own output that is small enough, see `Chords`.
    """

    def __init__(self, linearisation, removals, steps, refused, refine, output_tolerance):
        self.linearisation = linearisation
        self.removals = removals
        self.steps = steps
        curvature = linearisation.curvature
        # A quadratic that loses rows is at its minimum after one step with its own curvature.
        self.is_exact = bool(
            linearisation.objective.loss.quadratic
            and curvature.is_own
            and not steps.reweighting.any()
        )
        # Chords need the curvature itself, its part of one row, and one factorisation for all.
        self.has_chords = curvature.is_own and removals.are_single_rows and removals.leave
        self.required = ~steps.known & ~refused
        self.refine = refine
        self.output_tolerance = output_tolerance
        self.chosen = self._choose(refused)
        self.may_use_newton = self._longest(NEWTON_PASSES)
        # Whether Newton's method was needed, for each of the chosen.
        self.by_newton = np.zeros(len(self.chosen), dtype=bool)
        self._kept = None
        self._chords = None

    # Which removals.

    def _choose(self, refused):
        """Removals without a Newton step, and those with the longest steps."""
        if not is_sum_of_rows(self.linearisation):
            return np.arange(0)
        kind = self.linearisation.curvature_kind
        if self.is_exact or not self.linearisation.objective.has_factor_rows(kind):
            # A network's Hessian is more than that of linearised outputs, whose minimum, of the
            # Gauss-Newton matrix, would take the place of the step that was asked for.
            return np.flatnonzero(self.required)
        chosen = self._longest(CHORD_PASSES if self.has_chords else NEWTON_PASSES)
        return np.flatnonzero(chosen & ~refused)

    def _longest(self, passes):
        """Mask of the removals with the longest steps that may take some passes, (n_removals,)."""
        longest = self.required.copy()
        # The exact part of an approximate curvature is not all of it: a length may be negative.
        length = np.where(self.steps.known, np.abs(self.steps.squared_length), 0.0)
        order, allowed = np.arange(len(length)), self._allowed(passes)
        if allowed < len(order):
            order = np.argsort(-length, kind="stable")[:allowed]
        longest[order[self.steps.moves[order]]] = True
        return longest

    def _allowed(self, passes):
        """Number of removals that may take some passes over all rows each."""
        if isinstance(self.refine, bool):
            return len(self.removals) if self.refine else 0
        if self.refine != "auto":
            return int(self.refine)
        n_samples, k = self.linearisation.objective.training_outputs.shape
        # The functions of a loss cost about as much as 50 multiply-adds.
        work = passes * n_samples * (2 * self.linearisation.training_rows.n_columns + 50 * k * k)
        return int(np.ceil(REFINING / work))

    # Their minima.

    def run(self):
        """Refine all chosen removals, and keep the changes if they fit into the working memory.

        Returns
        -------
        error : ndarray of shape (n_chosen,)
            Relative errors of the changes as far as they are known: estimates from the last
            chord steps, or relative gradients after Newton's method.
        moves : ndarray of shape (n_chosen, k) or None
            Moves of the outputs of the removed rows, for removals of single rows.
        """
        n_columns = self.linearisation.training_rows.n_columns
        keep = fits_in_memory(8 * len(self.chosen) * n_columns)
        k = self.linearisation.objective.training_outputs.shape[1]
        error, moves = np.empty(len(self.chosen)), np.zeros((len(self.chosen), k))
        kept = np.empty((len(self.chosen), n_columns)) if keep else None

        def fill(batch):
            delta, error[batch], self.by_newton[batch] = self._minimise(self.chosen[batch])
            if self.removals.are_single_rows:
                moves[batch] = own_moves(
                    self.linearisation, self.removals, self.chosen[batch], delta
                )
            if keep:
                kept[batch] = delta

        # Changes, gradients, steps, and the Jacobian of the removed rows.
        row_bytes = 8 * n_columns * (8 + 2 * k)
        schedule = self.linearisation.schedule
        schedule.run(fill, schedule.batches(len(self.chosen), row_bytes))
        self._kept = kept
        return error, moves

    def changes(self, part):
        """Changes of the parameters by a slice of the chosen removals, (n_part, n_columns)."""
        if self._kept is not None:
            return self._kept[part]
        return self._minimise(self.chosen[part])[0]

    def _minimise(self, chosen):
        """Changes (m, n_columns), their relative errors (m,), and whether Newton's method ran."""
        delta = first_steps(self.linearisation, self.steps, chosen)
        error = np.full(len(chosen), np.inf)
        if self.has_chords:
            at = np.flatnonzero(self.steps.known[chosen])
            if len(at):
                delta[at], error[at] = self._by_chords(chosen[at])
        rest = np.flatnonzero(~np.isfinite(error))
        rest = rest[self.may_use_newton[chosen[rest]]]
        if len(rest):
            delta[rest], error[rest] = self._by_newton(chosen[rest], delta[rest])
        return delta, error, np.isin(np.arange(len(chosen)), rest)

    def _by_chords(self, chosen):
        if self._chords is None:
            self._chords = Chords(
                self.linearisation, self.removals, self.steps, self.output_tolerance
            )
        return self._chords.minimise(chosen)

    def gradient_norms(self, chosen, delta):
        """Relative gradients (m,) of chosen removals at changes (m, n_columns)."""
        return self._by_newton(chosen, delta, max_steps=0)[1]

    def _by_newton(self, chosen, start, max_steps=None):
        """Changes from Newton's method, (m, n_columns), and relative gradients there (m,)."""
        objective = self.linearisation.objective
        refit = self._refit()
        delta, norms = np.empty_like(start), np.empty(len(start))
        n_samples, k = objective.training_outputs.shape
        for batch in batches(len(chosen), 8 * n_samples * (2 * k * k + 10 * k)):
            weight, factor = self.removals.weights(chosen[batch])
            for loss, part in self._by_loss(chosen[batch]):
                delta[batch][part], norms[batch][part] = refit.with_loss(loss).minimise(
                    weight[part],
                    factor[part],
                    start[batch][part],
                    tol=TOLERANCE,
                    max_iter=MAX_STEPS if max_steps is None else max_steps,
                    steady=STEADY,
                )
        return delta, norms

    def _refit(self):
        linearisation = self.linearisation
        objective, damping = linearisation.objective, linearisation.damping
        total = objective.total_weight
        return Refit(
            objective,
            linearisation.jacobian_rows(objective.features),
            CurvaturePreconditioner(linearisation.curvature, damping, total),
            linearisation.space.penalty * total,
            damping,
            targets=self.removals.targets,
        )

    def _by_loss(self, chosen):
        """Losses, and the removals (positions) after which the model has that loss."""
        removals = self.removals
        same = removals.keeps_loss[chosen]
        parts = [(removals.objective.loss, np.flatnonzero(same))] if same.any() else []
        return parts + [
            (removals.other_losses[chosen[i]], np.array([i])) for i in np.flatnonzero(~same)
        ]


def own_moves(linearisation, removals, chosen, delta):
    """Moves of the outputs of single rows by their own removals, (m, k)."""
    features = linearisation.objective.features[removals.rows[chosen]]
    rows = linearisation.jacobian_rows(features)
    cube = rows.toarray().reshape(len(chosen), -1, rows.n_columns)
    return np.einsum("mkp,mp->mk", cube, delta)
