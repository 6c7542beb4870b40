"""Sketch size and damping chosen by the agreement of influences with refits."""

from dataclasses import dataclass
from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.utils import _safe_indexing

from skinfluence._utils.parallel import results
from skinfluence._utils.progress import reported, track
from skinfluence._utils.shared import Shared
from skinfluence._utils.sklearn_private import Interval, StrOptions, _fit_context, check_parameters
from skinfluence._utils.validation import check_training_data
from skinfluence.data import gathered
from skinfluence.estimators._base import fit_model
from skinfluence.estimators._search_results import best, tabulated
from skinfluence.estimators._sketched import SketchedInfluence
from skinfluence.estimators._sketched_scores import SketchedScores
from skinfluence.metrics import InfluenceScorer
from skinfluence.metrics._agreement import agreement
from skinfluence.models import FittedModel, fit_arguments, unfrozen

# Shares of the parameters, and multiples of the mean eigenvalue of the curvature.
AUTO_SIZES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
AUTO_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)


class SketchedInfluenceCV(SketchedScores):
    """Sketched influence with built-in choice of sketch size and damping.

    Every pair is scored on the validation rows of each split against refits of the model, as by
    a :class:`~sklearn.model_selection.GridSearchCV` over :class:`SketchedInfluence`. But the
    model is fitted and refitted once for each split, and one sketch and one eigendecomposition
    for each split and size serve all dampings.

    Parameters
    ----------
    estimator : estimator
        The model, as in `SketchedInfluence`. The splits fit clones of the model inside a
        ``FrozenEstimator``; the final influence takes the frozen model as it is.
    sketch_sizes : "auto" or array-like of int, default="auto"
        Sizes that are tried. "auto": shares 1/32, 1/16, 1/8, 1/4 and 1/2 of the number of
        parameters.
    dampings : "auto" or array-like of float, default="auto"
        Dampings that are tried. "auto": 0.001, 0.01, 0.1 and 1 times the mean eigenvalue of
        the curvature on all rows, and 0 where the model's own penalty makes its objective
        strictly convex.
    cv : int, cross-validation generator or iterable, default=None
        Splits; None means five. Stratified by class where the model is a classifier.
    scoring : callable, default=None
        Measure of agreement with refits, called with a fitted influence estimator and queries,
        higher is better. None means an :class:`~skinfluence.metrics.InfluenceScorer` with its
        default parameters, the linear datamodeling score.
    sketch : str or callable, default="auto"
        Kind of sketch, as in `SketchedInfluence`. A basis ("nystrom") is drawn for the largest
        size; the smaller ones are its leading directions.
    tail : bool, default=True
        Whether the ridge, together with one number for the mean curvature there, stands for the
        complement of a basis ("nystrom", "landmarks"), at the cost of inner products of the
        unsketched rows. The embedding of `transform` then has as many columns as the model has
        parameters.
    factorized : {"auto"} or bool, default="auto"
        Whether the features are sketched (and the outputs, if ``sketch_size`` is a pair), or
        the unfactored gradients. "auto": the features, where rows are factored.
    debias : bool, default=False
        Whether to subtract the ridge that a random sketch adds by itself, so that the
        self-influences are right on average. Each damping then needs an eigendecomposition of its
        own.
    project_queries : bool, default=False
        Whether to project the gradients of queries on the range of F before they are
        sketched, which removes the error that `leakage` measures.
    refine : int, default=0
        Steps of refinement of every candidate, as in `SketchedInfluence`.
    curvature : {"hessian", "ggn", "empirical_fisher"}, default="hessian"
        Which curvature; for linear models and heads "hessian" and "ggn" are the same. "ggn" takes
        the place of a network's Hessian, with a warning, where that is indefinite or where a
        sketch needs factor rows.
    batch_size : int, default=None
        Rows in a batch; by default as many as scikit-learn's ``working_memory`` allows.
    n_jobs : int, default=None
        Splits that are searched at once.
    random_state : int, RandomState or None, default=None
        Determines the sketches.
    verbose : int, default=0
        Above 0, progress is shown, by a bar where tqdm is installed, else by lines; the lines
        also go to the logger "skinfluence".

    Attributes
    ----------
    best_params_ : dict
        The ``sketch_size`` and ``damping`` with the highest mean score.
    best_score_ : float
        The highest mean score.
    best_index_ : int
        Position of the best candidate in ``cv_results_``.
    best_estimator_ : SketchedInfluence
        Fitted on all rows with ``best_params_``; its linearisation is also this estimator's.
    cv_results_ : dict of ndarray
        As in GridSearchCV: ``params``, ``param_sketch_size``, ``param_damping``,
        ``split<k>_test_score``, ``mean_test_score``, ``std_test_score``, ``rank_test_score``.
        Also ``low_test_score`` and ``high_test_score``, a 95 % interval by the spread over the
        queries; ``effective_dimension``, ``tr(F H^{-1})`` at the candidate's damping by the
        largest sketch, and ``relative_size``, the sketch size over ``effective_dimension``,
        both means over the splits.
    n_splits_ : int
        Number of splits.
    estimator_ : estimator
        The fitted model.
    sketch_size_ : int
        Rows of the sketch of all rows.
    damping_ : float
        The damping that was used.
    n_stored_ : float
        Numbers that stand for each training row when scores are computed, a mean over the rows
        (of sparse features, stored entries): with a complement (``tail=True``) those of the
        unsketched factors too, residuals and features, without it the sketch alone, of which
        factored rows keep their two factors.
    n_samples_, n_params_, n_components_ : int
        Training rows, parameters of the model, columns of the embedding.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    SketchedInfluence : With given sketch size and damping.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import SketchedInfluenceCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(C=0.1)
    >>> influence = SketchedInfluenceCV(
    ...     model, sketch_sizes=[2, 6], dampings=[0.0, 0.1], cv=3, random_state=0).fit(X, y)
    >>> influence.best_params_
    {'damping': 0.0, 'sketch_size': 6}
    >>> influence.influence(X[:2], y[:2]).shape
    (2, 150)
    """

    _parameter_constraints: dict = {
        **{
            name: constraint
            for name, constraint in SketchedInfluence._parameter_constraints.items()
            if name not in ("sketch_size", "damping", "eps", "delta")
        },
        "refine": [Interval(Integral, 0, None, closed="left")],
        "sketch_sizes": ["array-like", StrOptions({"auto"})],
        "dampings": ["array-like", StrOptions({"auto"})],
        "cv": ["cv_object"],
    }

    def __init__(
        self,
        estimator,
        *,
        sketch_sizes="auto",
        dampings="auto",
        cv=None,
        scoring=None,
        sketch="auto",
        tail=True,
        factorized="auto",
        debias=False,
        project_queries=False,
        refine=0,
        curvature="hessian",
        batch_size=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.sketch_sizes = sketch_sizes
        self.dampings = dampings
        self.cv = cv
        self.scoring = scoring
        self.sketch = sketch
        self.tail = tail
        self.factorized = factorized
        self.debias = debias
        self.project_queries = project_queries
        self.refine = refine
        self.curvature = curvature
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @reported
    def fit(self, X, y=None, sample_weight=None):
        """Choose sketch size and damping, then fit with them on all rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or Chunks
            Training rows; all rows of `Chunks` are held at once.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets; None with `Chunks` alone.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the training rows, non-negative and not all 0. The queries of a split
            count alike.

        Returns
        -------
        self : SketchedInfluenceCV
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data are unfit, a size is no positive integer, or a score is not defined.
        """
        X, y, sample_weight = gathered(X, y, sample_weight)
        fitted_model = fit_model(self, X, y, sample_weight)
        X, y = check_training_data(self, X, y, classifier=is_classifier(self.estimator))
        grid = self._grid(fitted_model)
        given = None if sample_weight is None else fitted_model.sample_weight
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        splits = list(splitter.split(X, y))
        shared = Shared(_Splits(self.estimator, self._candidate, self.scoring, X, y, given, grid))
        tasks = [(shared, *split) for split in splits]
        found = list(results(_search, tasks, "splits", n_jobs=self.n_jobs))
        self.n_splits_ = len(splits)
        self.cv_results_ = tabulated(grid, found)
        self.best_index_ = best(self.cv_results_["mean_test_score"])
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        self.best_params_ = self.cv_results_["params"][self.best_index_]
        self.best_estimator_ = self._candidate(fitted_model, **self.best_params_)
        return self.learn(self.best_estimator_.linearisation_)

    def _grid(self, fitted_model):
        """Candidates in the order in which GridSearchCV tries them."""
        sizes, dampings = self.sketch_sizes, self.dampings
        objective = fitted_model.objective
        if isinstance(sizes, str):
            sizes = {max(1, round(share * objective.n_params)) for share in AUTO_SIZES}
        if isinstance(dampings, str):
            scale = objective.mean_eigenvalue(self.curvature)
            dampings = [0.0] * objective.strictly_convex + [
                share * scale for share in AUTO_DAMPINGS
            ]
        sizes = sorted(int(size) if float(size).is_integer() else size for size in sizes)
        dampings = sorted(map(float, dampings))
        if not (sizes and dampings):
            raise ValueError("sketch_sizes and dampings must have at least one value each.")
        return list(ParameterGrid({"sketch_size": sizes, "damping": dampings}))

    def _candidate(self, fitted_model, sketch_size, damping, sketch=None):
        """SketchedInfluence of a fitted model."""
        candidate = SketchedInfluence(
            self.estimator,
            sketch_size=sketch_size,
            damping=damping,
            sketch=self.sketch if sketch is None else sketch,
            tail=self.tail,
            factorized=self.factorized,
            debias=self.debias,
            project_queries=self.project_queries,
            refine=self.refine,
            curvature=self.curvature,
            batch_size=self.batch_size,
            random_state=self.random_state,
            scoring=self.scoring,
            verbose=self.verbose,
        )
        check_parameters(candidate)
        return candidate.linearise(fitted_model)


@dataclass
class _Splits:
    """What the searches of all splits share.

    Parameters
    ----------
    estimator : estimator
        The model, as it was given.
    candidate : callable
        ``candidate(fitted_model, sketch_size, damping, sketch)`` gives a candidate.
    scoring : callable or None
        Score of an influence estimator.
    X, y : array-like
        Training rows and their targets.
    sample_weight : ndarray of shape (n_samples,) or None
        Their weights.
    grid : list of dict
        All candidates.
    """

    estimator: object
    candidate: object
    scoring: object
    X: object
    y: object
    sample_weight: object
    grid: list

    def search(self, train, test):
        """Scores of the queries (n_defined,) of every candidate, and effective dimensions."""
        X_train, y_train = _safe_indexing(self.X, train), self.y[train]
        queries = _safe_indexing(self.X, test), self.y[test]
        weight = np.ones(len(self.y)) if self.sample_weight is None else self.sample_weight
        given = None if self.sample_weight is None else weight[train]
        # A frozen model has seen the queries.
        fresh = unfrozen(self.estimator)
        fitted = clone(fresh).fit(X_train, y_train, **fit_arguments(fresh, given))
        fitted_model = FittedModel(self.estimator, fitted, X_train, y_train, weight[train])
        score, grid = _Score(self.scoring), self.grid
        path = _Path(partial(self.candidate, fitted_model), grid)
        scores, dimensions = [None] * len(grid), {}
        # The largest size comes first: it draws the basis for the others.
        order = sorted(range(len(grid)), key=lambda i: -grid[i]["sketch_size"])
        for i in track(order, "candidates"):
            candidate = path.at(**grid[i])
            scores[i] = score(candidate, *queries)
            damping = grid[i]["damping"]
            if damping not in dimensions:
                dimensions[damping] = candidate.linearisation_.effective_dimension()
        return scores, [dimensions[point["damping"]] for point in grid]


def _search(shared, train, test):
    return shared.value.search(train, test)


class _Path:
    """Candidates of one split, which share everything that does not depend on size or damping.

    Parameters
    ----------
    make : callable
        ``make(sketch_size, damping, sketch)`` gives a candidate.
    grid : list of dict
        All candidates.
    """

    def __init__(self, make, grid):
        self.make = make
        # With a ridge, all dampings share one sketch.
        self.damping = max(point["damping"] for point in grid)
        self.size, self.base, self.sketch = None, None, None

    def at(self, sketch_size, damping):
        """The candidate."""
        if sketch_size != self.size:
            self.size = sketch_size
            self.base = self.make(sketch_size, self.damping, self.sketch)
            self._keep_basis()
        if damping == self.damping:
            return self.base
        shared = self.base.with_damping(damping)
        return self.make(sketch_size, damping, self.sketch) if shared is None else shared

    def _keep_basis(self):
        drawn = self.base.linearisation_.space.feature_sketch
        if self.sketch is None and hasattr(drawn, "leading"):
            self.sketch = _Leading(drawn)


class _Leading:
    """Sketches of decreasing size: the leading directions of one basis.

    Parameters
    ----------
    basis : NystromSketch or LandmarkSketch
        The largest sketch.
    """

    def __init__(self, basis):
        self.basis = basis

    def __call__(self, data, size, seed=0):
        if self.basis.n_columns != data.shape[1] or size > self.basis.size:
            return type(self.basis).draw(data, size, seed)
        return self.basis.leading(size)


class _Score:
    """Scores of the queries of one split, from refits that are made once.

    Parameters
    ----------
    scoring : callable or None
        Score of an influence estimator.
    """

    def __init__(self, scoring):
        self.scorer = InfluenceScorer() if scoring is None else scoring
        self.truth = None
        self.rows = None

    def __call__(self, candidate, X, y):
        if not isinstance(self.scorer, InfluenceScorer):
            return np.atleast_1d(float(self.scorer(candidate, X, y)))
        if self.truth is None:
            self.truth = self.scorer.ground_truth(candidate, X, y)
        if self.scorer.metric != "lds":
            return self.scorer.of_queries(candidate, X, y, truth=self.truth)
        predicted = self._predicted(candidate.linearisation_, X, y)
        return agreement(predicted, self.truth.losses)

    def _predicted(self, linearisation, X, y):
        """Sums of the influences over the subsets, (n_queries, n_subsets)."""
        if linearisation.training_rows is not self.rows:
            # All dampings of a sketch share these.
            self.rows = linearisation.training_rows
            self.totals = linearisation.sums_of_training_rows(self.truth.subsets)
            self.queries = linearisation.query_rows(linearisation.read(X), y)
        # There are fewer subsets than queries, and H is symmetric.
        solved = linearisation.solve(self.totals).toarray()
        return -(self.queries @ np.ascontiguousarray(solved.T))
