"""The mean influence over several trainings of one model."""

from itertools import combinations
from numbers import Integral

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
    is_classifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.arrays import ranking
from skinfluence._utils.batching import batches
from skinfluence._utils.parallel import results
from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.progress import reported, reporting
from skinfluence._utils.shared import Shared
from skinfluence._utils.sklearn_private import HasMethods, Interval, _fit_context, _num_samples
from skinfluence._utils.validation import check_model, check_ranking, packed
from skinfluence.metrics import InfluenceScorer
from skinfluence.models import innermost


class AveragedInfluence(
    VersionedMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Mean influence over several trainings of one model, with other seeds.

    Two trainings of a network differ by chance, and the influence on one of them tells of that
    chance too. The mean over trainings tells what they have in common, and agrees better with
    refits, at ``n_fits`` times the cost. Signs and units are those of the wrapped estimator.

    Parameters
    ----------
    estimator : influence estimator
        Clones of it are fitted. In each of them, every ``random_state`` of the model, however
        deep inside, gets a seed of its own; all else stays as it is, the seed of a sketch
        included. A :class:`~skinfluence.models.torch.TorchModel` needs ``train``, which has to
        draw new initial weights, see its ``random_state``. Nets of skorch draw from torch's own
        generator: call ``torch.manual_seed`` before ``fit``, with ``n_jobs=None``.
    n_fits : int, default=3
        Number of trainings.
    random_state : int, RandomState or None, default=None
        Draws the seeds.
    n_jobs : int, default=None
        Number of trainings that run at once, by joblib.
    verbose : int, default=0
        Above 0, progress is shown, by a bar where tqdm is installed, else by lines; the lines
        also go to the logger "skinfluence".

    Attributes
    ----------
    estimators_ : list of influence estimators
        The fitted clones.
    n_samples_, n_components_ : int
        Training rows, columns of the embedding.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    KFACInfluence : Influence on networks, which differ most from training to training.

    Notes
    -----
    Where training draws nothing, as for most linear models, all fits are the same, and so is
    their mean.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc and Madry, *TRAK: Attributing Model Behavior at Scale*, 2023,
    which averages over trainings too.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn.preprocessing import scale
    >>> from skinfluence import AveragedInfluence, KFACInfluence
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X)
    >>> model = MLPClassifier((4,), "tanh", solver="lbfgs", alpha=0.5, tol=1e-8, max_iter=3000)
    >>> influence = AveragedInfluence(KFACInfluence(model), n_fits=2, random_state=0)
    >>> scores = influence.fit(X[::2], y[::2]).influence(X[1::2], y[1::2])
    >>> scores.shape, [fit.estimator_.random_state for fit in influence.estimators_]
    ((89, 89), [209652396, 398764591])
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "influence", "self_influence"])],
        "n_fits": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "n_jobs": [None, Integral],
        "verbose": ["verbose"],
    }

    def __init__(self, estimator, *, n_fits=3, random_state=None, n_jobs=None, verbose=0):
        self.estimator = estimator
        self.n_fits = n_fits
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @reported
    def fit(self, X, y, sample_weight=None):
        """Fit the wrapped influence estimator ``n_fits`` times, with other seeds of its model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows, handed to the model as they are.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the training rows, non-negative and not all 0.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the model is frozen, or two trainings of a network end at the same parameters; if
            the data are unfit.
        """
        model = check_model(self.estimator.estimator)
        _check_trains_again(model)
        random = check_random_state(self.random_state)
        members = [
            clone(self.estimator).set_params(estimator=_with_seeds(model, random))
            for _ in range(self.n_fits)
        ]
        shared = Shared((X, y, sample_weight))
        tasks = [(member, shared) for member in members]
        fits = list(results(_fitted, tasks, "trainings", n_jobs=self.n_jobs))
        _check_differ(fits)
        self.estimators_ = fits
        self.n_samples_ = fits[0].n_samples_
        self.n_components_ = sum(fit.n_components_ for fit in fits)
        for name in ("classes_", "n_features_in_", "feature_names_in_"):
            if hasattr(fits[0], name):
                setattr(self, name, getattr(fits[0], name))
        return self

    def _mean(self, method, *args, **settings):
        """Mean over the fits of what a method of them returns."""
        check_is_fitted(self)
        total = 0.0
        for fit in self.estimators_:
            total += getattr(fit, method)(*args, **settings)
        return total / len(self.estimators_)

    def influence(self, X, y=None, *, of="auto", sample_weight=None, reduce=None):
        """Mean influence of every training row on the loss or the prediction of queries.

        **Positive: more weight on that training row raises the query's loss (harmful); negative:
        helpful.**

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, influence on the prediction, of a classifier on that
            of the class which most of the trainings predict.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on, see :meth:`ExactInfluence.influence`.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries in ``reduce``.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries, at the cost of one solve for each training.

        Returns
        -------
        ndarray of shape (n_queries, n_train) or (n_train,)
            Scores in units of the loss (or of what ``of`` names) per unit of relative weight.

        Raises
        ------
        ValueError
            If a label is unknown to the model, the model has no probabilities, weights come
            without ``reduce``, or the queries are unfit.
        """
        asked = self._question(X, y, of)
        return self._mean("influence", X, **asked, sample_weight=sample_weight, reduce=reduce)

    def _question(self, X, y, of):
        """What all fits are asked: the class that most of them predict, where one is needed."""
        check_is_fitted(self)
        first = self.estimators_[0]
        if y is not None or of == "loss" or not is_classifier(first.estimator):
            return {"y": y, "of": of}
        if of in ("auto", "margin") and first.linearisation_.objective.has_measurement:
            return {"y": None, "of": of}
        predicted = np.stack([fit.estimator_.predict(X) for fit in self.estimators_])
        return {"y": _most_frequent(predicted), "of": "margin" if of == "auto" else of}

    def influence_on(self, functional, X, y=None, *, sample_weight=None):
        """Mean influence of every training row on one number computed from all queries.

        **Positive: more weight on that training row raises the number**, in the mean over the
        trainings.

        Parameters
        ----------
        functional : str or object
            A name or a functional, see :meth:`ExactInfluence.influence_on`.
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
        """
        return self._mean("influence_on", functional, X, y, sample_weight=sample_weight)

    def leave_one_out_effect(self, X, y, *, reduce=None, refine="auto"):
        """Predicted change of the losses when a training row is left out, mean over trainings.

        **Positive: leaving the row out raises the loss (the row helps).**

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries.
        refine : {"auto", bool, int}, default="auto"
            How many rows go on from the Newton step to the minimum of the other rows, see
            :meth:`ExactInfluence.leave_one_out_effect`.

        Returns
        -------
        ndarray of shape (n_queries, n_train) or (n_train,)
            Change of the loss, in units of the loss.
        """
        return self._mean("leave_one_out_effect", X, y, reduce=reduce, refine=refine)

    def removal_effect(self, indices, X, y, *, scoring=None):
        """Predicted change when a set of training rows is dropped, mean over trainings.

        Parameters
        ----------
        indices : array-like of int of shape (n_rows,), or list of such arrays
            Training rows that are dropped together, or several such sets.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        scoring : str or callable, default=None
            A scorer of scikit-learn, or its name, for its change in place of that of the losses.

        Returns
        -------
        ndarray of shape (n_queries,) or (n_queries, n_sets), or float or ndarray (n_sets,)
            Change of the loss, or of the score; see :meth:`ExactInfluence.removal_effect`.
        """
        return self._mean("removal_effect", indices, X, y, scoring=scoring)

    def most_influential(self, X, y=None, k=10, *, of="auto", by="harmful"):
        """The training rows with the most influence on each query, by the mean influence.

        The full matrix of influences is never stored.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets; see `influence`.
        k : int, default=10
            How many rows, at most the number of training rows.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on; see `influence`.
        by : {"harmful", "helpful", "absolute"}, default="harmful"
            Largest, smallest or largest absolute influence first.

        Returns
        -------
        indices : ndarray of shape (n_queries, k)
            Training rows, the most influential first.
        values : ndarray of shape (n_queries, k)
            Their mean influence, signed as in `influence`.

        Raises
        ------
        ValueError
            If ``k`` exceeds the number of training rows, or ``by`` is unknown.
        """
        check_is_fitted(self)
        check_ranking(by, k, self.n_samples_)
        asked, X = self._question(X, y, of), packed(self.estimator, X)
        y = asked.pop("y")
        n_queries = _num_samples(X)
        indices = np.empty((n_queries, k), dtype=np.intp)
        values = np.empty((n_queries, k))
        for batch in batches(n_queries, 8 * 5 * self.n_samples_):
            targets = None if y is None else _safe_indexing(y, batch)
            scores = self._mean("influence", _safe_indexing(X, batch), targets, **asked)
            indices[batch], values[batch] = ranking(scores, k, by)
        return indices, values

    def self_influence(self):
        """Mean influence of every training row on its own loss, without the sign.

        Returns
        -------
        ndarray of shape (n_train,)
            Mean of ``g_p' H^{-1} g_p >= 0``, large for rows that the model fits against all
            others.
        """
        return self._mean("self_influence")

    def memorization(self):
        """How far each training row moves the parameters, mean over trainings.

        Returns
        -------
        ndarray of shape (n_train,)
            Mean of ``||H^{-1} g_p||_1``, see :meth:`ExactInfluence.memorization`.

        Raises
        ------
        ValueError
            If only products with the curvature are known ("cg", "lissa").
        """
        return self._mean("memorization")

    def score(self, X, y):
        """Agreement of the mean influences with refits of the model, on queries.

        The measure is that of the wrapped estimator, by default the linear datamodeling score.
        The refits are those of the model as it was given, the same as for the wrapped estimator,
        so that both scores can be compared.

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
        """
        check_is_fitted(self)
        scorer = InfluenceScorer() if self.estimator.scoring is None else self.estimator.scoring
        with reporting(self.verbose):
            return scorer(self, packed(self.estimator, X), y)

    def transform(self, X, y=None):
        """Influence embedding: dot products of embeddings are minus the mean influence.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,), default=None
            Their targets. Without targets, the prediction is embedded, as in `influence`.

        Returns
        -------
        ndarray of shape (n_samples, n_components_)
            The embeddings of the trainings side by side, over the root of their number.
        """
        asked = self._question(X, y, "auto")
        parts = [fit.transform(X, **asked) for fit in self.estimators_]
        return np.hstack(parts) / np.sqrt(len(parts))

    # What a scorer asks.

    @property
    def fits_(self):
        """The fits whose scores are averaged."""
        check_is_fitted(self)
        return self.estimators_

    @property
    def fitted_model_(self):
        """The fitted model, to be refitted as it was given."""
        return self.fits_[0].fitted_model_.given_as(self.estimator.estimator)

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        wrapped = get_tags(self.estimator)
        tags.input_tags = wrapped.input_tags
        tags.target_tags = wrapped.target_tags
        tags.transformer_tags.preserves_dtype = []
        return tags


def _fitted(influence, shared):
    return influence.fit(*shared.value)


def _with_seeds(model, random):
    """A clone of a model in which every random state is a new seed."""
    names = [name for name in sorted(model.get_params()) if name.endswith("random_state")]
    return clone(model).set_params(**{name: random.randint(2**31 - 1) for name in names})


def _check_trains_again(model):
    inner = innermost(model)
    if isinstance(inner, FrozenEstimator):
        raise ValueError(
            f"The {type(inner.estimator).__name__} is frozen, so that all trainings would be the "
            "same. Expected a model that is trained again, with other seeds: give the model "
            "itself, not a FrozenEstimator."
        )


def _check_differ(fits):
    """Raise a ValueError if two trainings of a network are one and the same."""
    objectives = [fit.linearisation_.objective for fit in fits]
    if objectives[0].is_linear:
        # Its minimum is the same for all seeds.
        return
    for i, j in combinations(range(len(fits)), 2):
        if np.array_equal(objectives[i].theta, objectives[j].theta):
            raise ValueError(
                f"Trainings {i} and {j} of {type(innermost(fits[i].estimator)).__name__} ended at "
                "the same parameters, so that their mean tells nothing new. Expected trainings "
                "that depend on the seed: a TorchModel needs train=, which draws new initial "
                "weights (layer.reset_parameters()) or the order of its batches from torch's "
                "generators; nets of skorch need n_jobs=None."
            )


def _most_frequent(labels):
    """The most frequent of the labels (n_fits, n, ...) of each sample, ties to the first fit."""
    votes = np.stack([(labels == own).sum(axis=0) for own in labels])
    return np.take_along_axis(labels, votes.argmax(axis=0)[None], axis=0)[0]
