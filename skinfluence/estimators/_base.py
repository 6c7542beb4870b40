"""From data to a fitted influence estimator: the straight line.

    X, y   -- gradient rows of the fitted model -->  rows
    rows   -- projection (a sketch, or none)    -->  the rows that curvature and scores see
    scores =  -curvature.solve(query rows) @ training rows'

`solve` is called with the queries, never with the training set.
"""

from abc import ABC, abstractmethod
from functools import singledispatch
from numbers import Integral, Real
from os import PathLike

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils.multiclass import check_classification_targets

from skinfluence._utils.batching import Schedule
from skinfluence._utils.progress import reported
from skinfluence._utils.sklearn_private import Interval, StrOptions, _fit_context
from skinfluence._utils.validation import (
    ChunkCheck,
    check_model,
    check_training_data,
    check_weights,
    reads_raw_data,
)
from skinfluence.data import Chunks, check_alone
from skinfluence.estimators._convergence import check_remaining_step, check_stationarity
from skinfluence.estimators._damping import full_curvature, network_damping
from skinfluence.estimators._fitted import FittedInfluence
from skinfluence.estimators._linearisation import Linearisation
from skinfluence.estimators._storage import stored_rows
from skinfluence.models import ChunkedModel, FittedModel, can_read_pieces, fit_arguments


def fit_model(influence, X, y, sample_weight):
    """Fit a clone of the model that an influence estimator wraps.

    Parameters
    ----------
    influence : influence estimator
        Learns the number and the names of the features.
    X, y, sample_weight : array-like
        Training rows, their targets and their weights, as the user gave them; or `Chunks`.

    Returns
    -------
    FittedModel
    """
    return _fitted_on(X, influence, y, sample_weight)


@singledispatch
def _fitted_on(X, influence, y, sample_weight):
    estimator = check_model(influence.estimator)
    checked, y = check_training_data(influence, X, y, classifier=is_classifier(estimator))
    weight = check_weights(sample_weight, checked)
    # Integers in several columns are labels, such as the tokens of a text: more than the rows.
    if is_classifier(estimator) and not (y.ndim == 2 and y.dtype.kind in "iu"):
        check_classification_targets(y)
    given = None if sample_weight is None else weight
    fitted = clone(estimator).fit(X, y, **fit_arguments(estimator, given))
    rows = X if reads_raw_data(influence) else checked
    return FittedModel(estimator, fitted, rows, y, weight, table=X)


@_fitted_on.register
def _(chunks: Chunks, influence, y, sample_weight):
    estimator = check_model(influence.estimator)
    check_alone(y, sample_weight)
    if not can_read_pieces(estimator, chunks):
        every = chunks.concatenated()
        return _fitted_on(every.X, influence, every.y, every.sample_weight)
    check = ChunkCheck(influence, classifier=is_classifier(estimator))
    return ChunkedModel(estimator, clone(estimator), chunks, check, influence.n_jobs)


# Parameters of the estimators whose curvature is an approximation.
REFINEMENT = {
    "refine": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
    "eps": [Interval(Real, 0, 1, closed="neither")],
}

# A parameter of the estimators whose rows are sketched or factored.
STORAGE = {"storage": [None, str, PathLike]}


class BaseInfluence(FittedInfluence, ABC):
    """An influence estimator that uses one curvature.

    Need to be defined: ``_make_curvature``. May be overridden: ``_make_objective``, by estimators
    over some of the parameters; ``_match_damping``, by those that need less damping than F itself.
    """

    # Steps of refinement, a parameter where the curvature is an approximation.
    refine = 0

    # Folder of the training rows, a parameter where they are sketched or factored.
    storage = None

    # Need to be defined, or may be overridden, by the members of the family.

    @abstractmethod
    def _make_curvature(self, objective, damping):
        """Make the curvature: its kind, the curvature itself and its `Space`."""

    def _make_objective(self, fitted_model):
        """Build the objective over the parameters under study."""
        return fitted_model.objective

    def _full_curvature(self, objective, kind):
        """The matrix that the damping of a network is found from."""
        return full_curvature(objective, kind)

    def _match_damping(self, objective, curvature, space, damping):
        """Damping of the curvature that was made, from the damping of F itself."""
        return damping

    # Fitting.

    @_fit_context(prefer_skip_nested_validation=False)
    @reported
    def fit(self, X, y=None, sample_weight=None):
        """Fit the model, then linearise its loss at the fitted parameters.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or Chunks
            Training rows, handed to the model as they are; or `Chunks`, which hold the targets
            and weights too.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets; None with `Chunks` alone.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the training rows, non-negative and not all 0.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        TypeError
            If the objective of the model is not known, or not smooth.
        ValueError
            If the data are unfit: NaN, mismatched lengths, one class, bad weights.
        """
        return self.linearise(fit_model(self, X, y, sample_weight))

    def linearise(self, fitted_model):
        """Linearise the loss of a model that is fitted already.

        Parameters
        ----------
        fitted_model : FittedModel
            The fitted model with its training data.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        objective = self._make_objective(fitted_model)
        _check_parameters(objective, fitted_model.model)
        check_stationarity(objective, fitted_model.model)
        damping = self._choose_damping(objective)
        objective = objective.conditioned(damping)
        kind, curvature, space = self._make_curvature(objective, damping)
        damping = self._match_damping(objective, curvature, space, damping)
        rows = self._training_rows(fitted_model, objective, space)
        schedule = Schedule(self.batch_size, self.n_jobs, self.verbose)
        found = Linearisation(
            fitted_model, objective, kind, curvature, damping, space, rows, schedule
        )
        check_remaining_step(found, fitted_model.model)
        return self.learn(found.refined(self.refine, self.eps) if self.refine else found)

    def _training_rows(self, fitted_model, objective, space):
        if self.storage is None:
            return space.project(objective.training_gradient_rows().summed())
        return stored_rows(self.storage, fitted_model, objective, space, self.batch_size)

    def _choose_damping(self, objective):
        if self.damping != "auto":
            return float(self.damping)
        if not objective.needs_damping:
            return 0.0
        full = self._full_curvature(objective, "ggn")
        return network_damping(objective, self.curvature, full)


def _check_parameters(objective, model):
    if not np.isfinite(objective.theta).all():
        raise ValueError(
            f"The fitted parameters of {type(model).__name__} are NaN or infinite, so there is "
            "no minimum to take influence at. Expected finite ones: check that the targets are "
            "not all at the edge of their domain, such as 0 of a Poisson distribution."
        )
    if not len(objective.theta):
        raise ValueError(
            f"The L1 penalty of this {type(model).__name__} keeps all weights at 0, and no "
            "intercept is left: no row influences it. Expected at least one parameter that is "
            "not 0; lower the penalty."
        )
