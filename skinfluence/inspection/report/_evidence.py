"""What is known of a fit and its validation rows, computed on first use."""

from functools import cached_property

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted, column_or_1d

from skinfluence._utils.sklearn_private import _num_samples
from skinfluence.diagnostics import diagnostics_frame
from skinfluence.diagnostics._influence_frame import described_rows
from skinfluence.diagnostics._tables import index_of
from skinfluence.models.responses import respond

# Share of the training rows whose removal is tried, and the smallest number of them.
DROPPED, FEWEST = 0.01, 1


class Evidence:
    """What is known of a fit and its validation rows.

    Parameters
    ----------
    estimator : influence estimator
        Fitted.
    X : {array-like, sparse matrix} of shape (n_queries, n_features)
        Validation rows.
    y : array-like of shape (n_queries,)
        Their targets.
    groups : array-like of shape (n_train,), default=None
        Groups of training rows.

    Raises
    ------
    TypeError
        If the estimator is no influence estimator.
    ValueError
        If groups or targets have another length than their rows.
    """

    def __init__(self, estimator, X, y, groups=None):
        check_is_fitted(estimator)
        if not hasattr(estimator, "linearisation_"):
            raise TypeError(
                "The report is about one fit: it needs a fitted influence estimator, such as "
                "ExactInfluence, or one of the estimators_ of an AveragedInfluence. Got "
                f"{type(estimator).__name__} instead."
            )
        self.estimator = estimator
        self.fit = estimator.linearisation_
        self.X, self.y = X, np.asarray(y)
        self.n_train, self.n_queries = self.fit.n_samples, _num_samples(X)
        if len(self.y) != self.n_queries:
            raise ValueError(
                "y_valid must hold one target for each validation row. Got "
                f"{len(self.y)} targets for {self.n_queries} rows."
            )
        self.groups = None if groups is None else self._checked(column_or_1d(groups))

    def _checked(self, groups):
        if len(groups) != self.n_train:
            raise ValueError(
                f"groups must hold one group for each of the {self.n_train} training rows. Got "
                f"{len(groups)} instead."
            )
        return groups

    @property
    def model(self):
        """Name of the class of the model."""
        return type(self.fit.fitted_model.model).__name__

    # Training rows.

    @cached_property
    def cases(self):
        """`diagnostics_frame` of the training rows, without memorization."""
        return diagnostics_frame(self.estimator, memorization=False)

    @cached_property
    def index(self):
        """Index of the training table."""
        return index_of(self.fit)

    @cached_property
    def rows(self):
        """`influence_frame` in the order of the training rows."""
        return described_rows(self.estimator, self.X, self.y, self.cases)

    @property
    def influence(self):
        """Influence of each training row on the mean loss of the validation rows."""
        return self.rows["influence"].to_numpy()

    @cached_property
    def n_outputs(self):
        """Number of outputs that rows determine, one less than the classes of a softmax."""
        second = self.fit.objective.output_curvature(self.fit.curvature_kind)
        return max(int(np.linalg.matrix_rank(second.mean(axis=0))), 1)

    @property
    def leverage(self):
        """Share of its own output that each training row decides, a mean over outputs."""
        return self.cases["leverage"].to_numpy() / self.n_outputs

    @cached_property
    def residuals(self):
        """Derivative of each training row's loss by its raw outputs, (n_train, k)."""
        objective = self.fit.objective
        return objective.loss.residual(objective.training_outputs, objective.targets)

    @cached_property
    def probabilities(self):
        """Of each training row's label, by the model with the row and without it.

        Returns
        -------
        tuple of two ndarray of shape (n_train,), or None
            None for models without probabilities.
        """
        loss = self.fit.objective.loss
        outputs = self.fit.objective.training_outputs
        if not loss.classifies or loss.log_weights(loss.scores(outputs)) is None:
            return None
        own = loss.own(self.fit.own_targets)
        every = np.arange(self.n_train)
        without = self.fit.without_each().own_outputs()
        return tuple(respond(loss, "probability", z).value[every, own] for z in (outputs, without))

    # Removals.

    @property
    def n_dropped(self):
        """How many of the most harmful rows a removal is tried of."""
        return max(FEWEST, round(DROPPED * self.n_train))

    @cached_property
    def effect_on_others(self):
        """What dropping the rows that hurt one half of the queries does to the other half.

        Returns
        -------
        ndarray of shape (n_queries,)
            Change of each query's loss when the rows leave that the half without it calls most
            harmful.
        """
        order = np.random.default_rng(0).permutation(self.n_queries)
        halves = np.array_split(order, 2)
        change = np.empty(self.n_queries)
        for half, other in (halves, halves[::-1]):
            harm = self.estimator.influence(*self._queries(half), reduce="mean")
            worst = np.argsort(-harm, kind="stable")[: self.n_dropped]
            change[other] = self.estimator.removal_effect(worst, *self._queries(other))
        return change

    def _queries(self, positions):
        return _safe_indexing(self.X, positions), self.y[positions]

    @cached_property
    def approximation(self):
        """Influence on the mean loss, and bounds on its errors, (n_train,) each."""
        return self.estimator.influence(self.X, self.y, reduce="mean", return_error=True)
