"""The public methods that all fitted influence estimators share.

Everything follows from one value, the linearisation that a fit makes.
"""

from numbers import Integral, Real

import numpy as np
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
    check_reduce,
    check_weights,
    reads_raw_data,
)
from skinfluence.estimators._effects import EffectsMixin
from skinfluence.estimators._found import found_by
from skinfluence.estimators._memorization import memorization
from skinfluence.estimators._ranking import RankingMixin
from skinfluence.metrics import InfluenceScorer
from skinfluence.metrics._model_functional import find_functional
from skinfluence.rows import DenseRows


class FittedInfluence(
    VersionedMixin,
    FittedHTMLMixin,
    CallbackSupportMixin,
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

    def influence(
        self, X, y=None, *, of="auto", sample_weight=None, reduce=None, return_error=False
    ):
        """Influence of every training row on the loss or the prediction of queries.

        ``I_loss(z_t, z_p) = -g_t' H^{-1} g_p``: the derivative of the loss at query t with
        respect to the weight of training row p in the mean objective. **Positive: more weight
        on that training row raises the query's loss (harmful); negative: helpful.** Several
        other libraries return the opposite sign.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, influence on the prediction: the margin of the
            predicted class over the next, or the output of a regression; positive then
            means that more weight on the row raises the prediction.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on: "auto" is the loss with y, the margin without. "margin":
            the score of the class in y (without y of the predicted class) over the largest
            other score, or the prediction of a regression. "probability": of that class, as
            ``predict_proba`` gives it. "output": what ``decision_function`` or the linear
            predictor gives, of that class where each class has an output, else the sum of the
            outputs. Positive: more weight on the row raises that number.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries in ``reduce``.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries, at the cost of one solve.
        return_error : bool, default=False
            Whether to return bounds on the errors of the scores too.

        Returns
        -------
        influence : ndarray of shape (n_queries, n_train) or (n_train,)
            Scores in units of the loss (or of what ``of`` names) per unit of relative weight.
        bounds : ndarray of shape (n_queries, n_train) or (n_train,)
            Only with ``return_error=True``: at least the distance of each score from the score
            by the full curvature of the same kind, up to rounding; 0 where that is solved
            directly. They hold for queries of any kind, and for the reduced scores with
            ``reduce``; they follow from the residual of each solution, see Notes. Without a
            penalty or damping, a curvature that is singular up to rounding has no such bounds
            outside the range that the approximation finds.

        Raises
        ------
        ValueError
            If a label is unknown to the model, the model has no probabilities, weights come
            without ``reduce``, or the queries are unfit.

        Warns
        -----
        NumericalWarning
            If no lower bound of the full curvature is found, so that all bounds are infinite.

        Notes
        -----
        A solution ``x`` with the residual ``r = g_t - H x`` has the error ``r' H^{-1} g_p``.
        Where all eigenvalues of ``M H`` lie in ``[l, u]``, M the inverse of the approximate
        curvature, that is at most ``c |r' M g_p| + h sqrt(r' M r) sqrt(g_p' M g_p)`` with ``c``
        the centre of ``[1/u, 1/l]`` and ``h`` half its width. This is proven; the interval is
        estimated, by Lanczos iteration from random starts, and widened by the residuals of both
        ends and 5 percent. A sketch that leaves directions out borrows another M, the
        Nystroem approximation of rank 100.

        References
        ----------
        Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, 2017.
        """
        features, fit = self._features(X), self.linearisation_
        weight = _reduction(reduce, features.shape[0], sample_weight)
        gradients = fit.gradient_rows(features, y, of)
        queries = _reduced(fit.space.project_queries(gradients), weight)
        out = np.empty((len(queries), self.n_samples_))
        if not return_error:
            fit.fill_influence(queries, out)
            return out if reduce is None else out[0]
        bounds = np.empty_like(out)
        fit.fill_influence_and_bounds(_reduced(gradients, weight), queries, out, bounds)
        return (out, bounds) if reduce is None else (out[0], bounds[0])

    def influence_on(self, functional, X, y=None, *, sample_weight=None):
        """Influence of every training row on one number computed from all queries.

        ``-(sum_t J_t' dM/dz_t)' H^{-1} g_p`` for a functional M of the raw outputs ``z_t``, with
        Jacobians ``J_t``. **Positive: more weight on that training row raises the number**;
        leaving the row out changes it by ``-weight / N`` times this, to first order. See
        `skinfluence.diagnostics.functional_without_each` for the number at the moved outputs.

        Parameters
        ----------
        functional : str or object
            A name ("log_loss", "brier", "roc_auc", "expected_calibration_error"), a functional
            of `skinfluence.metrics` such as ``GroupGap(groups)``, or an object of one's own
            with the methods ``value(outputs, y)`` and ``gradient(outputs, y)``, which return a
            float and an array of the shape of ``outputs``. ``outputs`` (n_queries, c) are what
            ``decision_function`` or the linear predictor gives, unless an attribute ``response``
            of the object names another response, see `skinfluence.metrics.Functional`.
            ``y`` are targets, or the positions of labels in ``classes_``.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets, for functionals that need them.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries, handed to the functional as ``sample_weight``.

        Returns
        -------
        ndarray of shape (n_train,)
            Scores in units of the number per unit of relative weight.

        Raises
        ------
        TypeError
            If the functional lacks a method, or takes no weights although there are some.
        ValueError
            If its gradient disagrees with its value, checked by differences on a few outputs;
            if the model has no such response; or if the queries are unfit.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.linear_model import LogisticRegression
        >>> from skinfluence import ExactInfluence
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> model = LogisticRegression(solver="newton-cholesky")
        >>> influence = ExactInfluence(model).fit(X[::2], y[::2])
        >>> influence.influence_on("roc_auc", X[1::2], y[1::2]).shape
        (285,)

        A functional of one's own in five lines:

        >>> class MeanOutput:
        ...     def value(self, outputs, y):
        ...         return outputs.mean()
        ...     def gradient(self, outputs, y):
        ...         return np.full(outputs.shape, 1 / outputs.size)
        >>> found = influence.influence_on(MeanOutput(), X[1::2])
        >>> bool(np.allclose(found, influence.influence(X[1::2], of="output", reduce="mean")))
        True
        """
        features, fit, weight = self._features(X), self.linearisation_, sample_weight
        if weight is not None:
            weight = check_weights(sample_weight, np.empty((features.shape[0], 1)))
        row = fit.functional_row(features, find_functional(functional), y, weight)
        return fit.fill_influence(row, np.empty((1, self.n_samples_)))[0]

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


def _reduction(reduce, n_queries, sample_weight):
    """Weights of queries in a reduction over them, None without one."""
    if check_reduce(reduce) is None:
        if sample_weight is None:
            return None
        raise ValueError(
            "sample_weight weighs the queries in a reduction over them. Give reduce='mean' or "
            "'sum', or leave sample_weight out."
        )
    weight = check_weights(sample_weight, np.empty((n_queries, 1)))
    return weight if reduce == "sum" else weight / weight.sum()


def _reduced(rows, weight):
    return rows if weight is None else DenseRows(weight[None] @ rows)
