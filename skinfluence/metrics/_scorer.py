"""Scores of fitted influence estimators, for grid searches."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.sklearn_private import Interval, StrOptions
from skinfluence.curvature import DenseCurvature
from skinfluence.metrics._agreement import agreement
from skinfluence.refitting.retraining import Retraining

METRICS = ("lds", "loo", "faithfulness")


class InfluenceScorer(BaseEstimator):
    r"""Score of a fitted influence estimator on queries, higher is better.

    An instance is a function of a fitted estimator and queries, so it can serve as ``scoring``
    of scikit-learn's searches and of the influence estimators themselves. The estimator may be
    the last step of a Pipeline.

    Parameters
    ----------
    metric : {"lds", "loo", "faithfulness"}, default="lds"
        "lds": linear datamodeling score over random subsets, in [-1, 1]. "loo": correlation of
        predicted and measured changes of the loss when single training rows are left out, in
        [-1, 1]. "faithfulness": minus the relative error against the influences of the full
        curvature at the same damping; 0 is perfect. It needs no refits and can compare sketch
        sizes, but not dampings.
    n_subsets : int, default=100
        Number of refits: random subsets for "lds", rows left out for "loo".
    share : float, default=0.5
        Share of the training rows in each random subset.
    tol : float, default=1e-8
        Relative gradient at which refits in closed form have converged.
    random_state : int, RandomState instance or None, default=0
        Draws the subsets or rows. An int gives all candidates of a search the same refits,
        and the first refits are the same for any ``n_subsets``.
    memory : str or object with the joblib.Memory interface, default=None
        Where losses of refits are stored. None stores the most recent ones in the process; a
        folder serves later sessions and parallel workers too. The entries of a folder are
        pickles, and whoever can write to it can run code here: give one that you trust.
    n_jobs : int, default=None
        Number of refits that run at once, by joblib.

    See Also
    --------
    retrain_on_subsets : The refits.
    linear_datamodeling_score : The first metric, of arrays.

    Notes
    -----
    The score is the mean over the queries whose losses the refits change: for others, such as
    queries far outside the margin of a support vector machine, no correlation is defined. A
    query whose loss changes although its predicted losses do not counts 0.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.metrics import InfluenceScorer
    >>> X, y = load_iris(return_X_y=True)
    >>> influence = ExactInfluence(LogisticRegression(C=0.1)).fit(X[::2], y[::2])
    >>> scorer = InfluenceScorer(n_subsets=20)
    >>> bool(scorer(influence, X[1::2], y[1::2]) > 0.8)
    True
    """

    _parameter_constraints: dict = {
        "metric": [StrOptions(set(METRICS))],
        "n_subsets": [Interval(Integral, 2, None, closed="left")],
        "share": [Interval(Real, 0, 1, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "memory": [None, str, object],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        metric="lds",
        *,
        n_subsets=100,
        share=0.5,
        tol=1e-8,
        random_state=0,
        memory=None,
        n_jobs=None,
    ):
        self.metric = metric
        self.n_subsets = n_subsets
        self.share = share
        self.tol = tol
        self.random_state = random_state
        self.memory = memory
        self.n_jobs = n_jobs

    def __call__(self, estimator, X, y):
        """Mean score over the queries.

        Parameters
        ----------
        estimator : estimator
            A fitted influence estimator, or a Pipeline that ends with one.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.

        Returns
        -------
        float
            The score.

        Raises
        ------
        ValueError
            If the score is not defined, because the refits change no query's loss.
        """
        return float(np.mean(self.of_queries(estimator, X, y)))

    def of_queries(self, estimator, X, y, *, truth=None):
        """Score of every query for which it is defined.

        Parameters
        ----------
        estimator : estimator
            A fitted influence estimator, or a Pipeline that ends with one.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        truth : Bunch, default=None
            Result of `ground_truth` for the same model, training rows and queries.

        Returns
        -------
        ndarray of shape (n_defined,)
            Scores; their mean is the score of the estimator.

        Raises
        ------
        ValueError
            If the score is defined for no query.
        """
        truth = self.ground_truth(estimator, X, y) if truth is None else truth
        X, influence = _last_step(estimator, X)
        return {"lds": _lds, "loo": _loo, "faithfulness": _faithfulness}[self.metric](
            influence, X, y, truth
        )

    def ground_truth(self, estimator, X, y):
        """The refits by which an estimator is scored, whatever its sketch and damping.

        Parameters
        ----------
        estimator : estimator
            A fitted influence estimator, or a Pipeline that ends with one.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.

        Returns
        -------
        Bunch
            ``losses`` (n_queries, n_refits), ``subsets`` (n_refits, n_train) and, for "loo",
            the ``rows`` left out.
        """
        self._validate_params()
        X, influence = _last_step(estimator, X)
        if y is None:
            raise ValueError("y is None. Expected the targets of the queries.")
        if self.metric == "faithfulness":
            return Bunch()
        retraining = Retraining.of(influence.fitted_model_, X, y)
        truth = self._choose(retraining)
        truth.losses, truth.converged = retraining.losses(
            truth.subsets, tol=self.tol, memory=self.memory, n_jobs=self.n_jobs
        )
        return truth

    def _choose(self, retraining):
        if self.metric == "lds":
            return Bunch(subsets=retraining.draw(self.n_subsets, self.share, self.random_state))
        n_train = retraining.n_train
        rows = check_random_state(self.random_state).permutation(n_train)
        # Without the only row of a class, another model would be fitted.
        rows = rows[retraining.dispensable[rows]][: self.n_subsets]
        # The last refit is on all rows.
        subsets = np.ones((len(rows) + 1, n_train), dtype=bool)
        subsets[np.arange(len(rows)), rows] = False
        return Bunch(subsets=subsets, rows=rows)


def _last_step(estimator, X):
    """Queries and influence estimator behind the steps of a Pipeline."""
    check_is_fitted(estimator)
    if isinstance(estimator, Pipeline):
        return estimator[:-1].transform(X), estimator[-1]
    return X, estimator


def _lds(influence, X, y, truth):
    fits = [fit.linearisation_ for fit in influence.fits_]
    predicted = [fit.sums_of_influence(fit.read(X), y, truth.subsets) for fit in fits]
    return agreement(np.mean(predicted, axis=0), truth.losses)


def _loo(influence, X, y, truth):
    predicted = influence.leave_one_out_effect(X, y)[:, truth.rows]
    measured = truth.losses[:, :-1] - truth.losses[:, -1:]
    return agreement(predicted, measured, ranks=False)


def _faithfulness(influence, X, y, truth):
    del truth
    reference = np.mean([_exact_influence(fit, X, y) for fit in influence.fits_], axis=0)
    size = np.linalg.norm(reference, axis=1)
    if not size.any():
        raise ValueError("The relative error is not defined: no row influences any query.")
    gap = np.linalg.norm(influence.influence(X, y) - reference, axis=1)
    return -gap[size > 0] / size[size > 0]


def _exact_influence(influence, X, y):
    """Influence by the full curvature of the same kind, at the same damping."""
    fit = influence.linearisation_
    objective = fit.objective
    exact = DenseCurvature(*objective.hessian(fit.curvature_kind), objective.l2_penalty)
    solved = exact.solve(fit.gradient_rows(fit.read(X), y), fit.damping)
    return -solved.inner(objective.training_gradient_rows().summed())
