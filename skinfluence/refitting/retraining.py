"""Ground truth: the losses of the queries when the model is refitted on fewer rows."""

from dataclasses import dataclass
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import _check_sample_weight

from skinfluence._utils.arrays import booleans, require_shape
from skinfluence._utils.parallel import results
from skinfluence._utils.progress import reporting
from skinfluence._utils.shared import Shared
from skinfluence._utils.sklearn_private import Interval, validate_params
from skinfluence._utils.warnings import warn_user
from skinfluence.models import FittedModel, fit_arguments
from skinfluence.refitting.closed_form import ClosedForm
from skinfluence.refitting.fingerprints import NoFingerprintError, fingerprint, versions
from skinfluence.refitting.loss_cache import is_entry, loss_store, no_store
from skinfluence.refitting.queries import Queries
from skinfluence.refitting.random_subsets import draw_subsets


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
        "verbose": ["verbose"],
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
    verbose=0,
):
    r"""Refit a model on random subsets of its training rows and record the queries' losses.

    Linear models with a smooth objective are refitted in closed form: Newton steps on the very
    objective that ``fit`` minimises, for all subsets together, until the gradient is ``tol``
    times the sum of its terms, whatever solver and tolerance the estimator has. Any other model
    is cloned and fitted on each subset, and so is a linear classifier on a subset without one
    of the classes.

    Parameters
    ----------
    estimator : estimator
        The model. A clone is fitted on all rows first; a ``FrozenEstimator`` is taken as it is
        and its inner model refitted on the subsets. The steps of a Pipeline before the last are
        fitted on all rows and stay fixed, as they do for influence; so do the parameters that a
        search, or a linear model with built-in search, has chosen.
    X : {array-like, sparse matrix} of shape (n_train, n_features)
        Training rows.
    y : array-like of shape (n_train,) or (n_train, n_targets)
        Their targets.
    X_query : {array-like, sparse matrix} of shape (n_queries, n_features)
        Queries.
    y_query : array-like of shape (n_queries,) or (n_queries, n_targets)
        Their targets; for a classifier, labels that occur in ``y``.
    sample_weight : array-like of shape (n_train,), default=None
        Weights of the training rows. None means 1.
    n_subsets : int, default=100
        Number of random subsets.
    share : float, default=0.5
        Share of the training rows in each subset; for a classifier, of the rows of each class,
        and at least one row of each.
    subsets : array-like of bool of shape (n_subsets, n_train), default=None
        Subsets to use in place of random ones, such as ``~np.eye(n_train, dtype=bool)`` to
        leave out each row once. Each needs rows of at least two classes for a classifier.
    random_state : int, RandomState instance or None, default=None
        Draws the subsets. With an int, the first subsets are the same for every
        ``n_subsets``.
    tol : float, default=1e-8
        Norm of the gradient, relative to the sum of the norms of its terms, at which a refit
        in closed form has converged.
    memory : str or object with the joblib.Memory interface, default=None
        Where losses of refits are stored, one entry for each subset, as soon as its refit has
        ended. None stores the most recent ones in the process. The key is made of data, model,
        subset and versions of the packages, and of the code of your own functions and classes,
        with all constants, globals and imports that it names. It does not see what code reads
        from files or finds by ``eval``. A model whose content cannot be read is refitted each
        time. The entries of a folder are pickles, and whoever can write to it can run code here:
        give one that you trust.
    n_jobs : int, default=None
        Number of refits that run at once, by joblib.
    verbose : int, default=0
        Above 0, progress is shown, by a bar where tqdm is installed, else by lines; the lines
        also go to the logger "skinfluence".

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        subsets : ndarray of bool of shape (n_subsets, n_train)
            The training rows of each refit.
        losses : ndarray of shape (n_queries, n_subsets)
            Loss of each query under each refit, without penalty: the loss of the model's
            objective where it is known, else the log loss of ``predict_proba`` or the squared
            error of ``predict``. Scikit-learn's classifiers know only the classes of the
            subset: queries of other classes have an infinite loss.
        converged : ndarray of bool of shape (n_subsets,)
            Whether a refit in closed form reached ``tol``; True for fitted clones, whose own
            rule decides.

    Raises
    ------
    ValueError
        If shapes do not match, there are no subsets, a subset has no rows or rows of one class
        only, or a query has an unknown label.
    TypeError
        If the loss of the model is not known: a classifier of several outputs, or one without
        ``predict_proba``, whose objective is not known.

    Warns
    -----
    DataConversionWarning
        If ``y_query`` is a column although ``y`` is not.
    ConvergenceWarning
        If refits in closed form did not converge, as when a model without penalty separates a
        subset perfectly.
    UserWarning
        If ``memory`` is given and the content of the model cannot be read.

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
    retraining = Retraining.of(fitted_model, X_query, y_query)
    if subsets is None:
        subsets = retraining.draw(n_subsets, share, random_state)
    with reporting(verbose):
        losses, converged = retraining.losses(subsets, tol=tol, memory=memory, n_jobs=n_jobs)
    return Bunch(subsets=np.asarray(subsets), losses=losses, converged=converged)


@dataclass
class Retraining:
    """A fitted model, and queries whose losses under its refits are wanted.

    Parameters
    ----------
    fitted_model : FittedModel
        The fitted model with its training data.
    queries : Queries
        Queries as the model sees them, and their targets.
    """

    fitted_model: FittedModel
    queries: Queries

    @classmethod
    def of(cls, fitted_model, X_query, y_query):
        """Check the queries, given before all steps of the model."""
        fitted_model = fitted_model.gathered()
        return cls(fitted_model, Queries.of(fitted_model, X_query, y_query))

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
        """Whether Newton steps on the objective replace fits of clones."""
        objective = self.objective
        if objective is None or not objective.is_linear or objective.active is not None:
            return False
        # Without a penalty, the estimator's own rule chooses one of several minima.
        return objective.strictly_convex

    @property
    def strata(self):
        """Class of each training row; all the same where targets are no labels."""
        if not self.queries.have_labels:
            return np.zeros(self.n_train, dtype=int)
        return np.unique(self.fitted_model.y, return_inverse=True)[1].ravel()

    @property
    def dispensable(self):
        """Mask of training rows that are not the last of their class, bool (n_train,)."""
        strata = self.strata
        return np.bincount(strata)[strata] > 1

    def draw(self, n_subsets, share, random_state):
        """Random subsets, the same share of every class and of the rows without weight."""
        labels = self.fitted_model.y.reshape(self.n_train, -1)
        strata = self.strata
        if is_classifier(self.model) and labels.shape[1] > 1:
            # Labels in several columns are one combination.
            codes = [np.unique(column, return_inverse=True)[1] for column in labels.T]
            strata = np.unique(codes, axis=1, return_inverse=True)[1].ravel()
        strata = 2 * strata + (self.fitted_model.sample_weight > 0)
        strata = np.unique(strata, return_inverse=True)[1]
        return draw_subsets(strata, n_subsets, share, check_random_state(random_state))

    def losses(self, subsets, *, tol=1e-8, memory=None, n_jobs=None):
        """Losses (n_queries, n_subsets) under the refits, and which of them converged."""
        subsets = self._checked(subsets)
        store, key = self._store(memory, tol)
        keys = [f"{key}-{joblib.hash(np.packbits(subset))}" for subset in subsets]
        kept = np.empty((len(subsets), self.queries.n + 1))
        missing = []
        for i, entry in enumerate(map(store.get, keys)):
            if is_entry(entry, self.queries.n + 1):
                kept[i] = entry
            else:
                missing.append(i)
        # Entries are stored one by one: an interrupted run loses only refits that have not ended.
        for index, entries in self._refits(subsets, np.array(missing, dtype=int), tol, n_jobs):
            kept[index] = entries
            for i, entry in zip(index, entries, strict=True):
                # A view would keep all of its block in memory.
                store.put(keys[i], entry.copy())
        losses, norms = kept[:, :-1].T, kept[:, -1]
        converged = norms <= tol
        _warn_unless(converged, tol, norms)
        return losses, converged

    def _checked(self, subsets):
        subsets = booleans(subsets, "subsets")
        require_shape(subsets, "subsets", (len(subsets), self.n_train), "(n_subsets, n_train)")
        if not len(subsets):
            raise ValueError("subsets is empty. Expected at least one subset.")
        _require_weight(subsets @ self.fitted_model.sample_weight)
        if self.queries.have_labels:
            _require_classes(self._rows_of_classes(subsets))
        return subsets

    def _rows_of_classes(self, subsets):
        """Rows of each class in each subset, (n_subsets, n_classes)."""
        strata = self.strata
        counts = np.zeros((len(subsets), strata.max() + 1), dtype=int)
        for row, kept in zip(counts, subsets, strict=True):
            row += np.bincount(strata[kept], minlength=len(row))
        return counts

    def _store(self, memory, tol):
        """Store of the losses, and the part of the keys that all subsets share."""
        try:
            return loss_store(memory), self._key(tol)
        except NoFingerprintError as error:
            if memory is not None:
                warn_user(
                    f"The refits of {type(self.model).__name__} are not stored in memory, because "
                    f"the content of the model cannot be read: {error}. Pass functions and "
                    "objects that can be pickled.",
                    UserWarning,
                )
            return no_store(), ""

    def _key(self, tol):
        fitted = self.fitted_model
        penalty = None if self.objective is None else self.objective.penalty
        return fingerprint(
            clone(self.model),
            penalty,
            *(fitted.features, fitted.y, fitted.sample_weight),
            *(self.queries.features, self.queries.y),
            tol if self.in_closed_form else None,
            versions(),
        )

    def _refits(self, subsets, index, tol, n_jobs):
        """Positions of subsets, and their losses and gradient norms (m, n_queries + 1)."""
        exact = np.full(len(index), self.in_closed_form)
        if self.queries.have_labels:
            # A model without one of its classes has another objective.
            exact &= (self._rows_of_classes(subsets[index]) > 0).all(axis=1)
        if exact.any():
            closed = ClosedForm(self.objective, self.queries.features, self.queries.y, tol)
            blocks = closed.blocks(index[exact])
            # Products release Python's lock, and threads share the data.
            threads = {"n_jobs": n_jobs, "prefer": "threads"}
            yield from _as_they_end(closed, subsets, blocks, "blocks of refits", **threads)
        clones = _Clones(self.fitted_model, self.model, self.queries, self.objective is not None)
        yield from _as_they_end(clones, subsets, index[~exact, None], "refits", n_jobs=n_jobs)


class _Clones:
    """Refits of any model: a clone is fitted on the rows of a subset.

    Parameters
    ----------
    fitted_model : FittedModel
        The fitted model with its training data.
    model : estimator
        The model to clone, without wrappers.
    queries : Queries
        Queries whose losses are wanted.
    is_known : bool
        Whether the objective of the model is known.
    """

    def __init__(self, fitted_model, model, queries, is_known):
        self.features, self.y = fitted_model.features, fitted_model.y
        self.sample_weight = fitted_model.sample_weight
        self.model, self.queries, self.is_known = model, queries, is_known

    def refit(self, subsets):
        """Losses of the queries under the refit on one subset, (1, n_queries + 1)."""
        (subset,) = subsets
        X, y, weight = self.features[subset], self.y[subset], self.sample_weight[subset]
        given = None if (self.sample_weight == 1).all() else weight
        model = clone(self.model).fit(X, y, **fit_arguments(self.model, given))
        known = None
        if self.is_known:
            known = FittedModel(model, model, X, y, weight).known_objective
        return np.append(self.queries.losses_under(model, known), 0.0)[None]


def _as_they_end(refits, subsets, blocks, what, **settings):
    """Blocks of positions and the losses for their subsets, in the order they end."""
    shared = Shared(refits)
    tasks = [(shared, block, subsets[block]) for block in blocks]
    return results(_refit, tasks, what, in_order=False, **settings)


def _refit(shared, block, subsets):
    return block, shared.value.refit(subsets)


def _require_weight(totals):
    if not (totals > 0).all():
        raise ValueError(
            f"Subset {np.argmin(totals)} has no training row with a positive weight. Expected at "
            "least one in each; raise share."
        )


def _require_classes(counts):
    single = (counts > 0).sum(axis=1) < 2
    if single.any():
        raise ValueError(
            f"Subset {np.argmax(single)} has rows of one class only, so no classifier can be "
            "fitted on it. Expected rows of at least two classes; add rows, or leave the subset "
            "out."
        )


def _warn_unless(converged, tol, norms):
    if not converged.all():
        warn_user(
            f"{np.count_nonzero(~converged)} of {len(converged)} refits did not converge: the "
            f"largest relative gradient is {norms.max():.1e} (tol={tol:.0e}). Their losses are "
            "no ground truth: give the model a penalty, or raise tol.",
            ConvergenceWarning,
        )
