"""The public methods that all fitted influence estimators share.

Everything follows from one value, the linearisation that a fit makes.
"""

from numbers import Integral, Real

from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
)
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.fitted_html import FittedHTMLMixin
from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.progress import CallbackSupportMixin, reporting
from skinfluence._utils.sklearn_private import Interval, StrOptions
from skinfluence._utils.validation import (
    check_indices,
    check_queries,
    reads_raw_data,
)
from skinfluence.estimators._effects import EffectsMixin
from skinfluence.estimators._found import found_by
from skinfluence.estimators._influence import InfluenceMixin
from skinfluence.estimators._memorization import memorization
from skinfluence.estimators._ranking import RankingMixin
from skinfluence.metrics import InfluenceScorer


class FittedInfluence(
    VersionedMixin,
    FittedHTMLMixin,
    CallbackSupportMixin,
    InfluenceMixin,
    EffectsMixin,
    RankingMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Influence functions of a model whose linearisation is known."""

    _parameter_constraints: dict = {
        "estimator": "no_validation",
        "damping": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "curvature": [StrOptions({"hessian", "ggn", "empirical_fisher"})],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "n_jobs": [None, Integral],
        "random_state": ["random_state"],
        "scoring": [None, callable],
        "verbose": ["verbose"],
    }

    def learn(self, linearisation):
        """Adopt the linearisation of a fitted model.

        Parameters
        ----------
        linearisation : Linearisation
            Linearisation of a fit.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        objective = linearisation.objective
        self.linearisation_ = linearisation
        self.estimator_ = linearisation.fitted_model.fitted
        self.stationarity_ = objective.stationarity
        self.damping_ = linearisation.damping
        self.curvature_kind_ = linearisation.curvature_kind
        self.n_samples_ = linearisation.n_samples
        self.n_params_ = objective.n_params
        self.n_components_ = linearisation.training_rows.n_columns
        classes = getattr(self.estimator_, "classes_", objective.classes)
        if classes is not None:
            self.classes_ = classes
        return self

    # Scores.

    def _check_fitted(self):
        check_is_fitted(self)
        self.linearisation_.fitted_model.check_unchanged()

    def _features(self, X):
        """Queries as the objective reads them."""
        self._check_fitted()
        return self.linearisation_.read(check_queries(self, X, numeric=not reads_raw_data(self)))

    def _query_rows(self, X, y=None, of="auto"):
        """Gradients of queries in the coordinates of the curvature."""
        features = self._features(X)
        return self.linearisation_.query_rows(features, y, of)

    def self_influence(self):
        """Influence of every training row on its own loss, without the sign.

        Returns
        -------
        ndarray of shape (n_train,)
            ``g_p' H^{-1} g_p >= 0``, large for rows that the model fits against all others.
        """
        self._check_fitted()
        return self.linearisation_.self_influence()

    def memorization(self):
        """How far each training row moves the parameters, along the eigenvectors of H.

        Returns
        -------
        ndarray of shape (n_train,)
            ``||H^{-1} g_p||_1 = sum_i |q_i' g_p| / h_i`` for eigenpairs ``(h_i, q_i)`` of H, in
            units of the parameters. Eigenvectors of a repeated eigenvalue are not unique: there
            the Euclidean norm replaces the sum, the smallest value over all bases.

        Raises
        ------
        ValueError
            If only products with the curvature are known ("cg", "lissa").

        References
        ----------
        Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
        Influence, Memorization and Generalization*, Definition 6.
        """
        self._check_fitted()
        return memorization(self.linearisation_.in_model_coordinates())

    def parameter_influence(self, indices=None):
        """Influence of training rows on the parameters, ``I_up = -H^{-1} g_p``.

        Parameters
        ----------
        indices : array-like of int of shape (n_rows,), default=None
            Training rows; all of them by default.

        Returns
        -------
        ndarray of shape (n_rows, n_params_)
            Derivative of the parameters with respect to the weight of each row, in the
            model's own layout: ``coef_`` row by row, then ``intercept_`` (then ``scale_``).
        """
        self._check_fitted()
        indices = check_indices(indices, self.n_samples_)
        return self.linearisation_.parameter_influence(indices)

    # Agreement with refits.

    def score(self, X, y):
        """Agreement of the influences with refits of the model, on queries.

        By default the linear datamodeling score: the model is refitted on 100 random halves of
        its training rows, and the losses of each query under the refits are compared, by rank,
        with the sums of its influences over the rows of each half. Losses of refits are stored,
        so that the same refits score all estimators that differ in sketch or damping alone,
        and a search refits once for each split. ``scoring`` changes the measure.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries, held out for an honest score.
        y : array-like of shape (n_queries,)
            Their targets.

        Returns
        -------
        float
            Mean over the queries, 1 for perfect agreement.

        Raises
        ------
        ValueError
            If the score is not defined, because the refits change no query's loss.

        See Also
        --------
        skinfluence.metrics.InfluenceScorer : Other measures, other numbers of refits.
        """
        self._check_fitted()
        X = check_queries(self, X, numeric=not reads_raw_data(self))
        scorer = InfluenceScorer() if self.scoring is None else self.scoring
        with reporting(self.verbose):
            return scorer(self, X, y)

    # The embedding.

    def transform(self, X, y=None, *, of="auto"):
        """Influence embedding: dot products of embeddings are ``-I_loss``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,), default=None
            Their targets. Without targets, the prediction is embedded, as in `influence`.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What is embedded, see `influence`.

        Returns
        -------
        ndarray of shape (n_samples, n_components_)
            ``H^{-1/2}`` times the gradients.
        """
        self._check_fitted()
        return self.linearisation_.whiten(self._query_rows(X, y, of))

    # What a scorer asks.

    @property
    def fits_(self):
        """The fits whose scores are averaged: itself alone."""
        return [self]

    @property
    def fitted_model_(self):
        """The fitted model with its training data, to be refitted."""
        self._check_fitted()
        return self.linearisation_.fitted_model

    @property
    def effective_dimension_(self):
        """``tr(F H^{-1})``: how many directions the data, not the ridge, decide."""
        self._check_fitted()
        return self.linearisation_.effective_dimension()

    @property
    def n_stored_(self):
        """Numbers that stand for each training row when scores are computed."""
        self._check_fitted()
        return self.linearisation_.training_rows.n_stored

    def _found(self):
        return found_by(self)

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        wrapped = get_tags(self.estimator)
        tags.input_tags = wrapped.input_tags
        tags.target_tags = wrapped.target_tags
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags
