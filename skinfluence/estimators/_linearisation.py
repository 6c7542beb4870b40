"""Everything that one fit knows of its model."""

import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from skinfluence._utils.batching import Schedule, batches
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature import (
    Certificate,
    Curvature,
    NystromCurvature,
    RefinedCurvature,
    Space,
    make_curvature,
)
from skinfluence.estimators._training_pass import TrainingPass
from skinfluence.metrics._model_functional import ModelFunctional
from skinfluence.models import FittedModel, Objective
from skinfluence.models.responses import OF
from skinfluence.refitting.removal import removal_of_each
from skinfluence.rows import DenseRows, Rows

# Solutions of queries may take so many bytes even where the working memory is less: every group
# of them costs a pass over all training rows, which a network makes again each time.
KEPT_SOLUTIONS = 2**28


@dataclass
class Linearisation:
    """The loss of a fitted model to first order in its parameters, and its curvature.

    Parameters
    ----------
    fitted_model : FittedModel
        The fitted model with its training data.
    objective : Objective
        Objective that the parameters under study minimise.
    curvature_kind : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    curvature : Curvature
        F with the model's own penalty.
    damping : float
        Added to the eigenvalues of the curvature.
    space : Space
        Coordinates of the curvature.
    training_rows : Rows
        Gradients of the training rows in these coordinates.
    schedule : Schedule
        Divides work into batches and threads.
    """

    fitted_model: FittedModel
    objective: Objective
    curvature_kind: str
    curvature: Curvature
    damping: float
    space: Space
    training_rows: Rows
    schedule: Schedule = field(default_factory=Schedule)
    _without_each: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self):
        # What can be computed again is no part of the fit.
        return self.__dict__ | {"_without_each": {}}

    @property
    def n_samples(self):
        """Number of training rows."""
        return self.training_rows.n_samples

    def at_damping(self, damping):
        """The same linearisation with another damping."""
        return replace(self, damping=float(damping))

    def without_rows(self):
        """The same linearisation with sketched training rows alone, none of their features.

        Raises
        ------
        ValueError
            If the sketched rows, or the objective, hold the features themselves.
        """
        space, objective = self.space.without_rows(), self.objective.without_rows()
        model = self.fitted_model.without_rows(objective.original)
        return replace(self, fitted_model=model, objective=objective, space=space)

    def in_model_coordinates(self):
        """The same linearisation in the model's own coordinates, for definitions that need them.

        An approximate curvature stays in the coordinates in which it was made.
        """
        original, solver = self.objective.original, self.curvature.solver
        if original is self.objective or solver is None or not self.space.is_identity:
            return self
        weight = self.curvature.row_weight
        part = original if weight is None else original.restricted(weight)
        curvature = make_curvature(part, self.curvature_kind, solver)
        rows = original.training_gradient_rows()
        return replace(self, objective=original, curvature=curvature, training_rows=rows)

    def refined(self, refine, eps):
        """The same linearisation with solutions that the full curvature refines.

        Parameters
        ----------
        refine : int or "auto"
            Steps of conjugate gradients, or until a bound is met.
        eps : float
            The relative bound that "auto" meets.

        Raises
        ------
        ValueError
            If the space leaves directions out, so that nothing there could be refined.
        """
        if self.curvature.is_own:
            return self
        if not self.space.is_full:
            raise ValueError(
                f"refine={refine!r} needs an approximation of all directions, and this sketch "
                "leaves some out. Expected a basis with its complement (sketch='nystrom' or "
                "'landmarks', tail=True, a model with a penalty or damping > 0), or "
                "sketch_size=None for KFACInfluence; else use refine=0."
            )
        certificate = self._certify(self.curvature)
        return replace(self, curvature=RefinedCurvature(certificate, refine, eps))

    # Rows.

    def read(self, X):
        """Queries as the objective reads them."""
        return self.objective.read(self.fitted_model.featurize(X))

    def targets(self, features, y):
        """Targets of queries as the loss reads them."""
        y = self.fitted_model.read_targets(y)
        return self.objective.encode_queries(y, features.shape[0])

    @property
    def own_targets(self):
        """Targets of the training rows as the loss reads those of queries, (n_samples, t)."""
        return self.objective.encode(self.fitted_model.y)

    def gradient_rows(self, features, y=None, of="auto"):
        """Gradients of what is asked of the queries: their losses, or predictions without y."""
        of = _asked(of, y)
        targets = None if y is None else self.targets(features, y)
        return self.objective.rows_of(features, of, targets)

    def query_rows(self, features, y=None, of="auto"):
        """`gradient_rows` in the coordinates of the curvature."""
        return self.space.project_queries(self.gradient_rows(features, y, of))

    def functional_row(self, features, functional, y=None, sample_weight=None):
        """Gradient of a functional of all queries, one row in the coordinates of the curvature.

        Raises
        ------
        ValueError
            If the functional's gradient disagrees with its value.
        """
        targets = None if y is None else self.targets(features, y)
        ours = ModelFunctional(functional, self.objective.loss, targets, sample_weight)
        outputs = self.objective.outputs(features)
        gradient = ours.gradient(outputs)
        ours.check(outputs, gradient)
        rows = self.space.project_queries(self.objective.pullback(features, gradient[:, None, :]))
        return DenseRows(np.ones((1, len(rows))) @ rows)

    def jacobian_rows(self, features):
        """Gradients of the raw outputs of training rows, in the coordinates of the curvature."""
        return self.space.project(self.objective.jacobian_rows(features))

    # What follows for the training rows, computed once.

    def without_each(self, refine="auto", output_tolerance=0.0):
        """The models without each of the training rows, computed on first use and then kept.

        Parameters
        ----------
        refine : {"auto", bool, int}, default="auto"
            How many of them go on from Newton's step to the minimum, see `removal_of_each`.
        output_tolerance : float, default=0.0
            Error of a row's own output that is small enough, see `removal_of_each`.

        Returns
        -------
        Removed
        """
        key = type(refine), refine, output_tolerance
        removed, told = self._without_each.get(key, (None, []))
        try:
            if removed is None:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    removed = removal_of_each(self, refine, output_tolerance)
                self._without_each[key] = removed, told
        finally:
            # They hold for every result, not for the first one alone.
            for warning in told:
                warn_user(str(warning.message), warning.category)
        return removed

    # Products with the inverse of H.

    def solve(self, rows):
        """Rows ``H^{-1} v`` for projected rows ``v``."""
        return self.curvature.solve(rows, self.damping)

    def whiten(self, rows):
        """Array (n_rows, c) of ``H^{-1/2} v``."""
        return self.curvature.whiten(rows, self.damping)

    def eigenbasis(self, query=None):
        """Eigenbasis of H, in which inner products with the row ``query`` may be taken."""
        return self.curvature.eigenbasis(self.damping, query)

    def effective_dimension(self):
        """``tr(F H^{-1})``."""
        return self.curvature.effective_dimension(self.damping)

    def query_groups(self, queries, query_bytes=0):
        """Slices of queries whose solutions are kept while all training rows pass by.

        Parameters
        ----------
        queries : Rows
            Queries in the coordinates of the curvature.
        query_bytes : int, default=0
            Bytes that each query needs beside its solution.
        """
        row_bytes = max(8 * 2 * queries.n_columns, query_bytes)
        return batches(len(queries), row_bytes, at_least=KEPT_SOLUTIONS)

    def training_pass(self, queries, dtype=np.float64):
        """Scores ``-queries H^{-1} rows'`` of one group of queries, to be read in one pass."""
        solved = self.solve(queries.weighted(-np.ones(len(queries))))
        return TrainingPass(solved, self.training_rows, self.schedule, dtype)

    def fill_influence(self, queries, out):
        """Write ``-queries H^{-1} rows'`` into ``out`` (n_queries, n_train) and return it."""
        for group in self.query_groups(queries):
            self.training_pass(queries[group], out.dtype).fill(out[group])
        return out

    # How far the scores are from exact ones.

    @cached_property
    def certificate(self):
        """`Certificate` for the errors of approximate solutions."""
        return self.curvature.certificate or self._certify(self.curvature.approximation)

    def _certify(self, approximation):
        multiply = self.objective.curvature_product(self.curvature_kind)
        if self.space.is_full:
            own = self.space.product(multiply)
            return Certificate(own, self.space.penalty, approximation, self.training_rows)
        # What a sketch leaves out, another approximation has to tell.
        penalty = self.objective.l2_penalty
        approximation = NystromCurvature(multiply, penalty, random_state=0)
        rows = self.objective.training_gradient_rows().summed()
        return Certificate(multiply, penalty, approximation, rows)

    def fill_influence_and_bounds(self, gradients, queries, out, bounds):
        """`fill_influence`, and bounds on the errors of the scores.

        Parameters
        ----------
        gradients, queries : Rows
            Gradients of the queries in the coordinates of the objective, and of the curvature.
        out, bounds : ndarray of shape (n_queries, n_train)
            Where scores and bounds are written.
        """
        if self.curvature.is_own and self.curvature.is_direct:
            self.fill_influence(queries, out)
            bounds[...] = 0.0
            return

        certificate = self.certificate
        # Gradients, solutions and residuals are written out.
        query_bytes = 8 * 8 * gradients.n_columns
        for batch in self.schedule.batches(len(queries), query_bytes):
            scores = self.training_pass(queries[batch])
            scores.fill(out[batch])
            right, solution = gradients[batch], -scores.solved.toarray()
            if self.space.is_full:
                right = self.space.project(right)
            else:
                solution = self.space.lift(solution)
            bounds[batch] = certificate.bounds_of(right.toarray(), solution, self.damping)

    def remaining_step(self):
        """How far the minimum is, where that is known.

        Returns
        -------
        float
            Length of the Newton step over the length of the residuals, both in the metric of the
            curvature: about 0 to 1 whatever the units of the features. 0 unless outputs are
            linear and the curvature is exact.
        """
        objective = self.objective
        is_exact = self.curvature.solver is not None and self.space.is_identity
        if not is_exact or self.curvature_kind == "empirical_fisher":
            return 0.0
        residual = objective.residual_length()
        if not residual:
            return 0.0
        own = objective.penalty * objective.theta + objective.l1_gradient
        gradient = DenseRows((objective.loss_gradient() + own)[None])
        length = self.curvature.leverages(gradient, self.damping)[0, 0, 0]
        return float(np.sqrt(max(length, 0.0) / objective.total_weight)) / residual

    def self_influence(self):
        """``g_p' H^{-1} g_p`` of every training row, (n_train,)."""
        return self.curvature.leverages(self.training_rows, self.damping)[:, 0, 0]

    def sums_of_training_rows(self, subsets):
        """Sums of the training rows of subsets (n_subsets, n_train), by their weights."""
        return DenseRows((subsets * self.objective.weight) @ self.training_rows)

    def sums_of_influence(self, features, y, subsets):
        """Sums over subsets of the influence of their rows, up to a factor.

        Parameters
        ----------
        features : array of shape (n_queries, d)
            Queries as the model sees them.
        y : array-like of shape (n_queries,)
            Their targets.
        subsets : ndarray of bool of shape (n_subsets, n_train)
            Training rows of each subset.

        Returns
        -------
        ndarray of shape (n_queries, n_subsets)
        """
        sums = self.sums_of_training_rows(subsets)
        queries = self.query_rows(features, y)
        out = np.empty((len(queries), len(subsets)))
        for batch in self.query_groups(queries):
            out[batch] = -self.solve(queries[batch]).inner(sums)
        return out

    def parameter_influence(self, indices):
        """``-H^{-1} g_p`` in the model's own layout, (n_rows, n_params)."""
        solved = self.solve(self.training_rows[indices]).toarray()
        return -self.objective.to_parameters(self.space.lift(solved))


def _asked(of, y):
    if of not in OF:
        raise ValueError(f"of must be one of {', '.join(map(repr, OF))}. Got {of!r} instead.")
    if of == "loss" and y is None:
        raise ValueError("of='loss' needs y, the targets of the queries. Got y=None instead.")
    if of == "auto":
        return "margin" if y is None else "loss"
    return of
