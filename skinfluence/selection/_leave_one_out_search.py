"""Tuning by leave-one-out at the cost of one fit for each candidate."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.utils import get_tags, indexable

from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.sklearn_private import (
    Interval,
    StrOptions,
    _fit_context,
    _num_samples,
)
from skinfluence._utils.validation import check_model, check_weights
from skinfluence.data import gathered
from skinfluence.diagnostics import leave_one_out_score
from skinfluence.estimators._exact import ExactInfluence
from skinfluence.models import fit_arguments

# Of a search by one split, which stand for the scores of folds that do not exist.
OF_FOLDS = ("split0_test_score", "std_test_score", "std_fit_time", "std_score_time")


class LeaveOneOutSearch(VersionedMixin, GridSearchCV):
    """Search over parameters, each candidate scored by leave-one-out from a single fit.

    A candidate is fitted once, on all rows. Its predictions of every row by the model without
    that row follow from this fit, as :func:`~skinfluence.diagnostics.leave_one_out_predict`
    gives them, and one score is taken of all of them together.

    Parameters
    ----------
    estimator : estimator
        A linear model, or another whose leave-one-out predictions are known, alone or last in a
        Pipeline. Earlier steps of the Pipeline are fitted on all rows and stay as they are when
        a row leaves.
    param_grid : dict or list of dict
        Parameters and the values to try, as for
        :class:`~sklearn.model_selection.GridSearchCV`.
    scoring : str or callable, default=None
        A scorer of scikit-learn, by name or called as ``scorer(estimator, X, y)``, applied to
        all leave-one-out predictions at once. None is the ``score`` of the estimator.
    refine : {"auto", bool, int}, default="auto"
        For how many rows of each candidate the Newton step without the row goes on to the
        minimum, those with the longest steps first: as many as about a second of one core allows,
        all or none, or a number. See :func:`~skinfluence.diagnostics.leave_one_out_predict`.
    n_jobs : int, default=None
        Candidates that run at the same time, by joblib.
    refit : bool or callable, default=True
        Whether to fit the best candidate again on all rows, so that the search predicts. A
        callable chooses: it takes ``cv_results_`` and returns a position.
    verbose : int, default=0
        How much is printed.
    error_score : "raise" or float, default=nan
        Score of a candidate that cannot be fitted or scored, with a warning; "raise" raises.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        ``params``, ``param_*``, ``mean_test_score``, ``rank_test_score``, ``mean_fit_time`` and
        ``mean_score_time`` in seconds, one entry for each candidate.
    best_index_ : int
        Position of the best candidate.
    best_params_ : dict
        Its parameters.
    best_score_ : float
        Its score.
    best_estimator_ : estimator
        Fitted with these parameters on all rows. Only if ``refit`` is not False.
    refit_time_ : float
        Seconds that it took.
    scorer_ : callable
        The scorer.
    n_splits_ : int
        Number of rows, or of groups, each left out once.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    skinfluence.diagnostics.leave_one_out_score : The score of a fitted model.
    SketchedInfluenceCV : Chooses the size of a sketch and the damping.

    Notes
    -----
    The scorer sees all predictions at once, as from ``cross_val_predict``: a ranking score such
    as ``"roc_auc"`` or ``"r2"`` has no value for a single row. Sample weights weight the fits,
    not the score.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import LeaveOneOutSearch
    >>> X, y = load_diabetes(return_X_y=True)
    >>> grid = {"alpha": [0.001, 0.01, 0.1, 1.0]}
    >>> search = LeaveOneOutSearch(Ridge(), grid, scoring="neg_mean_squared_error").fit(X, y)
    >>> search.best_params_
    {'alpha': 0.01}
    """

    _parameter_constraints: dict = {
        "estimator": "no_validation",
        "param_grid": [dict, list],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "refine": [StrOptions({"auto"}), "boolean", Interval(Integral, 0, None, closed="left")],
        "n_jobs": [None, Integral],
        "refit": ["boolean", callable],
        "verbose": ["verbose"],
        "error_score": [StrOptions({"raise"}), Real],
    }

    # There are no folds to choose, and no scores on training rows.
    cv = None
    pre_dispatch = "2*n_jobs"
    return_train_score = False

    def __init__(
        self,
        estimator,
        param_grid,
        *,
        scoring=None,
        refine="auto",
        n_jobs=None,
        refit=True,
        verbose=0,
        error_score=np.nan,
    ):
        self.estimator = estimator
        self.param_grid = param_grid
        self.scoring = scoring
        self.refine = refine
        self.n_jobs = n_jobs
        self.refit = refit
        self.verbose = verbose
        self.error_score = error_score

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None, groups=None):
        """Fit and score every candidate.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or Chunks
            Training rows; all rows of `Chunks` are held at once.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets; None with `Chunks` alone.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the training rows in each fit, non-negative and not all 0.
        groups : array-like of shape (n_samples,), default=None
            Rows with the same value are left out together. By default each row by itself.

        Returns
        -------
        self : LeaveOneOutSearch
            The fitted search.

        Raises
        ------
        TypeError
            If the objective of the model is not known, or not smooth.
        ValueError
            If the data are unfit, or no candidate has a score.

        Warns
        -----
        NumericalWarning
            Counts the rows that are not known to have reached the minimum without them.
        """
        check_model(self.estimator)
        X, y, sample_weight = gathered(X, y, sample_weight)
        X, y, groups = indexable(X, y, groups)
        weight = None if sample_weight is None else check_weights(sample_weight, X)
        score = _LeaveOneOutScore(self.scoring, weight, groups, self.refine)
        arguments = fit_arguments(self.estimator, weight)
        rows = np.arange(_num_samples(X))
        # A single "fold" that holds every row twice: fitted on all of them, scored on all of them.
        search = GridSearchCV(
            self.estimator,
            self.param_grid,
            scoring=score,
            n_jobs=self.n_jobs,
            refit=self.refit,
            cv=[(rows, rows)],
            verbose=self.verbose,
            error_score=self.error_score,
        )
        try:
            search.fit(X, y, **arguments)
            if np.isnan(search.cv_results_["mean_test_score"]).all():
                raise ValueError(
                    "All candidates have the score NaN. Expected a number for at least one."
                )
        except ValueError:
            # What goes wrong with the first candidate says more than that all have failed.
            first = clone(self.estimator).set_params(**ParameterGrid(self.param_grid)[0])
            score(first.fit(X, y, **arguments), X, y)
            raise
        self._adopt(search)
        self.scorer_ = check_scoring(self.estimator, self.scoring)
        self.n_splits_ = len(rows) if groups is None else len(np.unique(groups))
        return self

    def _adopt(self, search):
        """Take over what a search has learned."""
        learned = {name: value for name, value in vars(search).items() if name.endswith("_")}
        vars(self).update(learned)
        self.cv_results_ = {
            name: value for name, value in search.cv_results_.items() if name not in OF_FOLDS
        }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags = get_tags(self.estimator).target_tags
        tags.target_tags.required = True
        tags.array_api_support = False
        return tags


class _LeaveOneOutScore:
    """Scores a fitted candidate on the rows that it was fitted on, each left out.

    Parameters
    ----------
    scoring : str, callable or None
        Scorer of the predictions.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights in the fit.
    groups : array-like of shape (n_samples,) or None
        Rows that are left out together.
    refine : {"auto", bool, int}
        For how many rows the step goes on to the minimum.
    """

    def __init__(self, scoring, sample_weight, groups, refine):
        self.scoring = scoring
        self.sample_weight = sample_weight
        self.groups = groups
        self.refine = refine

    def __call__(self, estimator, X, y, sample_weight=None):
        # Newer releases of scikit-learn warn of scorers that take no weights, and hand them over.
        del sample_weight
        influence = ExactInfluence(FrozenEstimator(estimator))
        influence.fit(X, y, sample_weight=self.sample_weight)
        return leave_one_out_score(influence, self.scoring, groups=self.groups, refine=self.refine)
