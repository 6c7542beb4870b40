"""The mean influence over several trainings of one model."""

from itertools import combinations
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.parallel import results
from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.progress import reported
from skinfluence._utils.shared import Shared
from skinfluence._utils.sklearn_private import HasMethods, Interval, _fit_context
from skinfluence._utils.validation import check_model, packed
from skinfluence.estimators._mean_results import MeanResultsMixin
from skinfluence.metrics import InfluenceScorer
from skinfluence.models import innermost


class AveragedInfluence(
    VersionedMixin,
    MeanResultsMixin,
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
        included, except that rows in ``storage`` are in a folder for each training. A
        :class:`~skinfluence.models.torch.TorchModel` needs ``train``, which has to draw new
        initial weights, see its ``random_state``. Nets of skorch draw from torch's own
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
    def fit(self, X, y=None, sample_weight=None):
        """Fit the wrapped influence estimator ``n_fits`` times, with other seeds of its model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or Chunks
            Training rows, handed to the model as they are.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets; None with `Chunks`, which hold them.
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
            _member(self.estimator, _with_seeds(model, random), number)
            for number in range(self.n_fits)
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


def _member(influence, model, number):
    """A clone of an influence estimator, for another model."""
    member = clone(influence).set_params(estimator=model)
    storage = getattr(member, "storage", None)
    if storage is not None:
        # Rows of another training are other rows.
        member.set_params(storage=Path(storage) / f"training_{number}")
    return member


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
