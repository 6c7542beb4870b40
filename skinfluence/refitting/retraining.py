"""Ground truth: what really happens to the losses when the model is fitted on fewer rows."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight

from skinfluence._utils.arrays import booleans, require_shape
from skinfluence._utils.batching import batches
from skinfluence._utils.sklearn_private import Interval, validate_params
from skinfluence._utils.warnings import warn_user
from skinfluence.models import FittedModel, LinearObjective, fit_arguments
from skinfluence.refitting.decorrelation import decorrelated
from skinfluence.refitting.loss_cache import LossStore, fingerprint, subset_key, versions
from skinfluence.refitting.newton_cg import DiagonalPreconditioner, Refit
from skinfluence.refitting.random_subsets import draw_subsets

# Refits in a block: wide enough for fast products, narrow enough to share among workers.
BLOCK = 32


@validate_params(
    {
        "estimator": "no_validation",
        "X": "no_validation",
        "y": "no_validation",
        "X_query": "no_validation",
        "y_query": "no_validation",
        "sample_weight": ["array-like", None],
        "n_subsets": [Interval(Integral, 1, None, closed="left")],
        "share": [Interval(Real, 0, 1, closed="neither")],
        "subsets": ["array-like", None],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "memory": "no_validation",
        "n_jobs": [None, Integral],
    },
    prefer_skip_nested_validation=True,
)
def retrain_on_subsets(
    estimator,
    X,
    y,
    X_query,
    y_query,
    *,
    sample_weight=None,
    n_subsets=100,
    share=0.5,
    subsets=None,
    random_state=None,
    tol=1e-8,
    memory=None,
    n_jobs=None,
):
    r"""Refit a model on random subsets of its training rows and record the queries' losses.

    Linear models with a smooth objective are refitted in closed form: Newton steps on the very
    objective that ``fit`` minimises, for all subsets together, until the gradient is ``tol``
    of the sum of its terms, whatever solver and tolerance the estimator has. Any other model
    is cloned and fitted on each subset.

    Parameters
    ----------
    estimator : estimator
        The model. A clone is fitted on all rows first; a ``FrozenEstimator`` is taken as it is
        and its inner model refitted on the subsets. Of a Pipeline the steps before the last
        are fitted on all rows and held fixed, as they are for influence; of a search or a
        linear model with built-in search, the chosen parameters.
    X : {array-like, sparse matrix} of shape (n_train, n_features)
        Training rows.
    y : array-like of shape (n_train,) or (n_train, n_targets)
        Their targets.
    X_query : {array-like, sparse matrix} of shape (n_queries, n_features)
        Queries.
    y_query : array-like of shape (n_queries,) or (n_queries, n_targets)
        Their targets.
    sample_weight : array-like of shape (n_train,), default=None
        Weights of the training rows. None means 1.
    n_subsets : int, default=100
        Number of random subsets.
    share : float, default=0.5
        Share of the training rows in each subset; of each class for a classifier, and one row
        at least.
    subsets : array-like of bool of shape (n_subsets, n_train), default=None
        Subsets to take in place of random ones, such as ``~np.eye(n_train, dtype=bool)`` to
        leave out each row once.
    random_state : int, RandomState instance or None, default=None
        Draws the subsets. With an int, the first subsets are the same for every
        ``n_subsets``.
    tol : float, default=1e-8
        Norm of the gradient, relative to the sum of the norms of its terms, at which a refit
        in closed form has converged.
    memory : str or object with the joblib.Memory interface, default=None
        Where losses of refits are kept, one entry for each subset. None keeps the most recent
        ones in the process. The key holds data, model, subset and versions of the packages.
    n_jobs : int, default=None
        Refits that run at once, by joblib.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        subsets : ndarray of bool of shape (n_subsets, n_train)
            The training rows of each refit.
        losses : ndarray of shape (n_queries, n_subsets)
            Loss of each query under each refit, without penalty: that of the model's
            objective where it is known, else the log loss of ``predict_proba`` or the squared
            error of ``predict``.
        converged : ndarray of bool of shape (n_subsets,)
            Whether a refit in closed form reached ``tol``; True for models that were cloned
            and fitted, which have their own rule.

    Raises
    ------
    ValueError
        If shapes do not match, a subset holds no rows, or a query has an unknown label.

    Warns
    -----
    ConvergenceWarning
        If refits in closed form did not converge, as when a model without penalty separates a
        subset perfectly.

    See Also
    --------
    linear_datamodeling_score : Compares the losses with influences.

    References
    ----------
    .. [1] A. Ilyas, S. M. Park, L. Engstrom, G. Leclerc, A. Madry, "Datamodels: Predicting
       Predictions from Training Data", ICML 2022.

    Examples
    --------
    The mean of two of three numbers, and its squared distance from 3:

    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from skinfluence.metrics import retrain_on_subsets
    >>> X, y = np.ones((3, 1)), np.array([1.0, 3.0, 5.0])
    >>> mean = LinearRegression(fit_intercept=False)
    >>> result = retrain_on_subsets(
    ...     mean, X, y, [[1.0]], [3.0], subsets=~np.eye(3, dtype=bool))
    >>> result.losses
    array([[1., 0., 1.]])
    """
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    fitted = estimator
    if not isinstance(estimator, FrozenEstimator):
        given = None if sample_weight is None else weight
        fitted = clone(estimator).fit(X, y, **fit_arguments(estimator, given))
    fitted_model = FittedModel(estimator, fitted, X, y, weight)
    targets = fitted_model.read_targets(np.asarray(y_query))
    retraining = Retraining(fitted_model, fitted_model.featurize(X_query), targets)
    if subsets is None:
        subsets = retraining.draw(n_subsets, share, random_state)
    losses, converged = retraining.losses(subsets, tol=tol, memory=memory, n_jobs=n_jobs)
    return Bunch(subsets=np.asarray(subsets), losses=losses, converged=converged)


@dataclass
class Retraining:
    """A model that was fitted, and queries whose losses are wanted when it is fitted again.

    Parameters
    ----------
    fitted_model : FittedModel
        The model and what it was fitted on.
    query_features : {ndarray, CSR matrix} of shape (n_queries, n_features)
        Queries as the model sees them.
    y_query : ndarray of shape (n_queries,) or (n_queries, n_targets)
        Their targets as the model sees them.
    """

    fitted_model: FittedModel
    query_features: object
    y_query: np.ndarray

    @property
    def model(self):
        """The model to clone, without wrappers."""
        return self.fitted_model.untrained

    @property
    def objective(self):
        """Objective of the fitted model, None where it is not known."""
        return self.fitted_model.known_objective

    @property
    def n_train(self):
        """Number of training rows."""
        return len(self.fitted_model.y)

    @property
    def in_closed_form(self):
        """Whether refits are steps on the objective, instead of fits of clones."""
        objective = self.objective
        if not isinstance(objective, LinearObjective) or objective.active is not None:
            return False
        # Without a penalty the estimator's own rule decides between equal minima.
        return objective.strictly_convex

    def draw(self, n_subsets, share, random_state):
        """Random subsets, the same share of every class and of the rows without weight."""
        strata = np.zeros(self.n_train, dtype=int)
        if is_classifier(self.model):
            # Labels in several columns are one combination.
            labels = self.fitted_model.y.reshape(self.n_train, -1)
            codes = [np.unique(column, return_inverse=True)[1] for column in labels.T]
            strata = np.unique(codes, axis=1, return_inverse=True)[1].ravel()
        strata = 2 * strata + (self.fitted_model.sample_weight > 0)
        strata = np.unique(strata, return_inverse=True)[1]
        return draw_subsets(strata, n_subsets, share, check_random_state(random_state))

    def losses(self, subsets, *, tol=1e-8, memory=None, n_jobs=None):
        """Losses (n_queries, n_subsets) under the refits, and which of them converged."""
        subsets = booleans(subsets, "subsets")
        require_shape(subsets, "subsets", (len(subsets), self.n_train), "(n_subsets, n_train)")
        _require_weight(subsets @ self.fitted_model.sample_weight)
        store, data = LossStore(memory), self._key(tol)
        keys = [f"{data}-{subset_key(subset)}" for subset in subsets]
        found = [store.get(key) for key in keys]
        missing = np.array([i for i, losses in enumerate(found) if losses is None], dtype=int)
        refit = self._closed_form if self.in_closed_form else self._clones
        for part, losses, norms in refit(subsets[missing], tol, n_jobs):
            for i, values, norm in zip(missing[part], losses, norms, strict=True):
                found[i] = np.append(values, norm)
                store.put(keys[i], found[i])
        kept = np.array(found)
        converged = kept[:, -1] <= tol
        _warn_unless(converged, tol, kept[:, -1])
        return kept[:, :-1].T, converged

    def _key(self, tol):
        fitted = self.fitted_model
        penalty = None if self.objective is None else self.objective.penalty
        return fingerprint(
            self.model,
            penalty,
            *(fitted.features, fitted.y, fitted.sample_weight),
            *(self.query_features, self.y_query),
            tol if self.in_closed_form else None,
            versions(self.model),
        )

    def _closed_form(self, subsets, tol, n_jobs):
        """Slices of the subsets, their losses (m, n_queries) and gradient norms (m,)."""
        if not len(subsets):
            return []
        block = _ClosedForm(self.objective, self.query_features, self.y_query, tol)
        parts = batches(len(subsets), block.fit_bytes, min(BLOCK, block.fitting))
        # The products release the lock, and threads share the data.
        run = Parallel(n_jobs=n_jobs, prefer="threads")
        results = run(delayed(block.refit)(subsets[part]) for part in parts)
        return [(part, *result) for part, result in zip(parts, results, strict=True)]

    def _clones(self, subsets, tol, n_jobs):
        del tol
        run = Parallel(n_jobs=n_jobs)
        rows = run(delayed(self._losses_of_clone)(subset) for subset in subsets)
        return [(slice(i, i + 1), row[None], np.zeros(1)) for i, row in enumerate(rows)]

    def _losses_of_clone(self, subset):
        fitted = self.fitted_model
        X, y, weight = fitted.features[subset], fitted.y[subset], fitted.sample_weight[subset]
        given = None if (fitted.sample_weight == 1).all() else weight
        model = clone(self.model).fit(X, y, **fit_arguments(self.model, given))
        known = None
        if self.objective is not None:
            known = FittedModel(model, model, X, y, weight).known_objective
        if known is None:
            return _plain_losses(model, self.query_features, self.y_query)
        targets = known.encode_queries(self.y_query, self.query_features.shape[0])
        return known.losses(self.query_features, targets)


class _ClosedForm:
    """Newton steps for blocks of subsets, and the losses of the queries where they end."""

    def __init__(self, objective, query_features, y_query, tol):
        turned = decorrelated(objective)
        self.objective, self.tol = turned.objective, tol
        self.targets = self.objective.encode_queries(y_query, query_features.shape[0])
        self.query_features = turned.turn(query_features)
        features = self.objective.features
        identity = np.eye(self.objective.training_outputs.shape[1])
        identity = np.broadcast_to(identity, (features.shape[0], *identity.shape))
        self.n_intercepts = len(self.objective.intercepts)
        squares = self.objective.pullback(_squared(features), identity)
        self.refits = Refit(
            self.objective,
            self.objective.jacobian_rows(features),
            DiagonalPreconditioner(squares),
            self.objective.penalty,
            balance=-self.objective.penalty * self.objective.theta,
        )

    @property
    def fit_bytes(self):
        """Bytes of the arrays of one refit: outputs, their derivatives, CG's vectors."""
        n_train, k = self.objective.training_outputs.shape
        n_queries = self.query_features.shape[0]
        return 8 * (12 * n_train * (k + 1) + 12 * len(self.objective.theta) + 4 * n_queries * k)

    @property
    def fitting(self):
        """Refits that fit into the working memory."""
        return batches(BLOCK, self.fit_bytes)[0].stop

    def refit(self, subsets):
        """Losses (m, n_queries) and relative gradient norms (m,)."""
        weight, factor = self.objective.weighting.of_subsets(subsets)
        start = np.zeros((len(subsets), len(self.objective.theta)))
        delta, norms = self.refits.minimise(weight, factor, start, tol=self.tol)
        theta = self.objective.theta + delta
        c, d = self.objective.weights.shape
        weights, intercepts = theta[:, : c * d].reshape(-1, c, d), theta[:, c * d :]
        outputs = self.objective.shifted_outputs(self.query_features, weights, intercepts)
        return self.objective.loss.value(outputs, self.targets), norms


def _squared(features):
    return features**2 if isinstance(features, np.ndarray) else features.multiply(features).tocsr()


def _require_weight(totals):
    if not (totals > 0).all():
        raise ValueError(
            f"Subset {np.argmin(totals)} holds no training row that has a weight. Expected at "
            "least one in each; raise share."
        )


def _warn_unless(converged, tol, norms):
    if not converged.all():
        warn_user(
            f"{np.count_nonzero(~converged)} of {len(converged)} refits did not converge: the "
            f"largest relative gradient is {norms.max():.1e} (tol={tol:.0e}). Their losses are "
            "no ground truth: give the model a penalty, or raise tol.",
            ConvergenceWarning,
        )


def _plain_losses(model, X, y):
    """Log loss of the probabilities of a classifier, squared error of a regressor."""
    if not is_classifier(model):
        gap = np.asarray(y, dtype=float) - model.predict(X)
        return (gap.reshape(len(gap), -1) ** 2).sum(axis=1)
    probabilities = model.predict_proba(X)
    known = y[:, None] == model.classes_
    own = np.where(known, probabilities, 0.0).sum(axis=1)
    return -np.log(np.maximum(own, np.finfo(probabilities.dtype).eps))
