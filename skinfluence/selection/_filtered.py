"""An estimator that learns only from the rows that a selector keeps."""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.sklearn_private import (
    HasMethods,
    Interval,
    StrOptions,
    _check_method_params,
    _fit_context,
    _num_samples,
    _routing_enabled,
)
from skinfluence._utils.validation import check_model
from skinfluence.data import gathered
from skinfluence.estimators._exact import ExactInfluence
from skinfluence.models import fit_arguments
from skinfluence.selection._selector import MemorizationSelector

PREDICTIONS = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def _fitted_has(method):
    """Whether the wrapped estimator has a method, asked before and after fitting."""

    def check(self):
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class FilteredEstimator(VersionedMixin, MetaEstimatorMixin, BaseEstimator):
    """Fit an estimator on the rows that a selector keeps.

    A classifier or regressor like the wrapped estimator: the last step of a Pipeline of
    scikit-learn, or an estimator inside a grid search, an ensemble or a calibration. Only
    ``fit`` drops rows; predictions and scores are for every given row.

    Parameters
    ----------
    estimator : estimator
        The model; a clone is fitted on the kept rows.
    selector : MemorizationSelector, default=None
        Chooses the rows; a clone is fitted. None is ``MemorizationSelector()``. Where its
        ``influence`` is None, it judges by ``ExactInfluence(estimator)``.
    use_selector_weight : {"auto"} or bool, default="auto"
        Whether to multiply the sample weights by the selector's, so that sampled rows represent
        the others. "auto" does so where ``fit`` of the estimator takes weights. Without these
        weights, the memorizable rows count for too much.
    rounds : int, default=1
        Largest number of rounds. Each further round judges all rows by the model of the rows
        that the round before kept, with weights of 0 for the others; rounds end once the
        memorizable rows stay the same.

    Attributes
    ----------
    estimator_ : estimator
        Fitted on the kept rows.
    selector_ : MemorizationSelector
        Fitted on all rows, in the last round.
    sample_indices_ : ndarray of int of shape (n_kept,)
        Rows that ``estimator_`` was fitted on.
    n_rounds_ : int
        Number of rounds.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    MemorizationSelector : Which rows are kept.

    Notes
    -----
    Earlier steps of a Pipeline are fitted on all rows. To fit them on the kept rows, wrap the
    full Pipeline: ``FilteredEstimator(make_pipeline(...), selector)``.

    Without metadata routing, the estimator gets all parameters of ``fit``, sliced with its rows,
    and the selector gets ``sample_weight`` too. With metadata routing, estimator and selector
    get what they request.

    References
    ----------
    Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
    Influence, Memorization and Generalization*, section 6.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import FilteredEstimator, MemorizationSelector
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> selector = MemorizationSelector(generalizable_fraction=0.3, random_state=0)
    >>> model = FilteredEstimator(LogisticRegression(), selector)
    >>> model = make_pipeline(StandardScaler(), model).fit(X, y)
    >>> len(model[-1].sample_indices_), len(y)
    (239, 569)
    >>> round(model.score(X, y), 2)
    0.99
    """

    _parameter_constraints: dict = {
        "estimator": "no_validation",
        "selector": [HasMethods(["fit_resample", "get_support"]), None],
        "use_selector_weight": [StrOptions({"auto"}), "boolean"],
        "rounds": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, estimator, selector=None, *, use_selector_weight="auto", rounds=1):
        self.estimator = estimator
        self.selector = selector
        self.use_selector_weight = use_selector_weight
        self.rounds = rounds

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, **params):
        """Select the rows, then fit the estimator on them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or Chunks
            Training rows; all rows of `Chunks` are held at once.
        y : array-like of shape (n_samples,), default=None
            Targets; None with `Chunks` alone, which hold the sample weights too.
        **params : dict
            Metadata such as ``sample_weight``, sliced with the rows.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If no row, or no row of some class, would be kept.
        TypeError
            If the estimator takes no ``sample_weight``, and ``use_selector_weight=True`` or
            ``rounds > 1`` needs it.
        """
        check_model(self.estimator)
        X, y, params["sample_weight"] = gathered(X, y, params.get("sample_weight"))
        params = {name: value for name, value in params.items() if value is not None}
        for_selector, for_estimator = self._route_fit(params)
        self._select_rows(X, y, for_selector)
        kept = self.sample_indices_
        given = dict(_check_method_params(X, for_estimator, indices=kept))
        for name, weight in self._own_weight(self.selector_.sample_weight_).items():
            given[name] = weight * np.asarray(given.get(name, 1.0))
        self.estimator_ = clone(self.estimator)
        self.estimator_.fit(_safe_indexing(X, kept), _safe_indexing(y, kept), **given)
        return self

    def _route_fit(self, params):
        if _routing_enabled():
            routed = process_routing(self, "fit", **params)
            return dict(routed.selector.fit), routed.estimator.fit
        judged = {"sample_weight": params["sample_weight"]} if "sample_weight" in params else {}
        return judged, params

    def _own_weight(self, weight):
        """Weights of the selector as an argument of the estimator's ``fit``, or none."""
        if self.use_selector_weight is False or (weight == 1).all():
            return {}
        # With routing, the steps of a Pipeline would have to request the weights.
        direct = not _routing_enabled() or has_fit_parameter(self.estimator, "sample_weight")
        try:
            return fit_arguments(self.estimator, weight) if direct else {}
        except TypeError:
            if self.use_selector_weight == "auto":
                return {}
            raise

    def _make_selector(self):
        selector = MemorizationSelector() if self.selector is None else clone(self.selector)
        if "influence" in selector.get_params(deep=False) and selector.influence is None:
            selector.set_params(influence=ExactInfluence(clone(self.estimator)))
        return selector

    def _select_rows(self, X, y, params):
        selector = self._make_selector()
        given = np.asarray(params.get("sample_weight", np.ones(_num_samples(X))))
        memorizable = None
        for round_ in range(1, self.rounds + 1):
            self.n_rounds_ = round_
            self.selector_ = clone(selector).fit(X, y, **params)
            if np.array_equal(memorizable, self.selector_.memorizable_):
                break
            memorizable = self.selector_.memorizable_
            weight = np.zeros(len(memorizable))
            own = self.selector_.sample_weight_
            weight[self.selector_.sample_indices_] = own if self._own_weight(own) else 1.0
            params = {**params, "sample_weight": weight * given}
        self.sample_indices_ = self.selector_.get_support(indices=True)

    @available_if(_fitted_has("predict"))
    def predict(self, X, **params):
        """Predict with the fitted estimator, for every row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        **params : dict
            Passed on to the estimator.

        Returns
        -------
        ndarray of shape (n_samples,)
            Predictions.
        """
        return self._call("predict", X, params)

    @available_if(_fitted_has("predict_proba"))
    def predict_proba(self, X, **params):
        """Probabilities of the classes, for every row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        **params : dict
            Passed on to the estimator.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities.
        """
        return self._call("predict_proba", X, params)

    @available_if(_fitted_has("predict_log_proba"))
    def predict_log_proba(self, X, **params):
        """Logarithms of the probabilities of the classes, for every row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        **params : dict
            Passed on to the estimator.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Logarithms of the probabilities.
        """
        return self._call("predict_log_proba", X, params)

    @available_if(_fitted_has("decision_function"))
    def decision_function(self, X, **params):
        """Scores of the classes, for every row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        **params : dict
            Passed on to the estimator.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Scores.
        """
        return self._call("decision_function", X, params)

    @available_if(_fitted_has("score"))
    def score(self, X, y, **params):
        """Score of the estimator on all given rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,)
            Their targets.
        **params : dict
            Metadata such as ``sample_weight``.

        Returns
        -------
        float
            Result of the estimator's own ``score``.
        """
        return self._call("score", X, params, y)

    def _call(self, method, X, params, *y):
        check_is_fitted(self)
        if _routing_enabled():
            params = process_routing(self, method, **params).estimator[method]
        return getattr(self.estimator_, method)(X, *y, **params)

    @property
    def classes_(self):
        """Labels, if the estimator is a classifier."""
        return self.estimator_.classes_

    @property
    def n_features_in_(self):
        """Number of features."""
        return self.selector_.n_features_in_

    @property
    def feature_names_in_(self):
        """Names of the features, if they are strings."""
        return self.selector_.feature_names_in_

    def get_metadata_routing(self):
        """Metadata that the estimator and the selector request.

        Returns
        -------
        MetadataRouter
            Routing of this estimator.
        """
        to_estimator = MethodMapping()
        for method in ("fit", *PREDICTIONS, "score"):
            to_estimator.add(caller=method, callee=method)
        return (
            MetadataRouter(owner=type(self).__name__)
            .add(estimator=self.estimator, method_mapping=to_estimator)
            .add(
                selector=self._make_selector(),
                method_mapping=MethodMapping().add(caller="fit", callee="fit"),
            )
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        wrapped = get_tags(self.estimator)
        tags.estimator_type = wrapped.estimator_type
        tags.classifier_tags = wrapped.classifier_tags
        tags.regressor_tags = wrapped.regressor_tags
        tags.input_tags = wrapped.input_tags
        tags.target_tags = wrapped.target_tags
        tags.target_tags.required = True
        return tags
