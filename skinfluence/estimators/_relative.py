"""Influence with a Hessian from some of the training rows."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skinfluence._utils.progress import tell
from skinfluence._utils.sklearn_private import Interval, StrOptions
from skinfluence.curvature import SOLVERS, Space, choose_curvature
from skinfluence.estimators._base import REFINEMENT, BaseInfluence
from skinfluence.estimators._loss_preservation import RELATIVE_DELTAS, LepComparison
from skinfluence.estimators._weighted_subsets import SizeSearch, WeightedSubsets

# Multiply-adds that a check may spend on the full Hessian: some ten seconds of one core.
AFFORDABLE = 2e11


class RelativeHessianInfluence(BaseInfluence):
    """Influence functions with the Hessian of a random subset of the training rows.

    All training rows give gradients, so every row has its influence; only the Hessian, the
    expensive part for many rows, comes from fewer. The penalty of the model is not sampled: it
    enters the Hessian in full.

    Parameters
    ----------
    estimator : estimator
        The model: a linear model or a network that the package knows, alone or inside a Pipeline
        or a search, or one linear model for each output or class (``OneVsRestClassifier`` and the
        like). A clone is fitted; a ``FrozenEstimator`` is taken as it is. The transformer of a
        ``TransformedTargetRegressor`` stays fixed, and losses are in the unit of the transformed
        targets; the base estimators of a stack must be frozen, and stay fixed too.
    subset_size : {"auto"}, int or float, default="auto"
        Rows of the subset: a number, or a share of the training rows. "auto" finds the size at
        which the relative error of the Hessian is ``tol``: the differences of disjoint halves of
        the subset estimate this error, and predict how many rows are still needed.
        Above three quarters of the rows, it takes all of them.
    stratify : bool, default=True
        Whether the subset has the classes of a classifier in proportion, with at least one row
        of each.
    tol : float, default=0.12
        Relative error of the Hessian at which "auto" stops, see ``hessian_error_``. `lep_check`
        counts the influences whose ratio is that near to uniform.
    refine : {"auto"} or int, default=0
        Steps of conjugate gradients with the full curvature, preconditioned by the approximate
        one, after the approximate solution; each is one product of the full curvature with
        every query. "auto": until the ten largest scores of every query have error bounds of
        at most ``eps`` times their size. Refined are `influence`, `most_influential`,
        `parameter_influence`, `score` and the effects of leaving rows out; `self_influence`,
        `transform`, `memorization` and the leverages keep the approximation.
    eps : float, default=0.1
        Largest error bound, relative to the score, at which ``refine="auto"`` stops.
    damping : {"auto"} or float, default="auto"
        Added to the eigenvalues of the curvature. "auto" is 0 for linear models: where the
        data cannot tell some columns apart, a pseudo-inverse is taken, with a warning that names
        the columns. For networks "auto" is found from the gradient that training has left, a short
        training asking for much damping; Kronecker factors take the damping at which they agree
        best with the full curvature at its own, and heads 0.1 times the mean eigenvalue of their
        curvature. ``damping_`` reports the damping that was used.
    solver : {"auto", "direct", "gram", "cg", "lissa"}, default="auto"
        "direct": Cholesky factors of the curvature. "gram": inner products of its factor rows,
        for fewer rows than parameters. "cg" and "lissa": iteration, by products with vectors
        alone.
    curvature : {"hessian", "ggn", "empirical_fisher"}, default="hessian"
        Which curvature; for linear models and heads "hessian" and "ggn" are the same. "ggn" takes
        the place of a network's Hessian, with a warning, where that is indefinite or where a
        sketch needs factor rows.
    batch_size : int, default=None
        Rows in a batch; by default as many as scikit-learn's ``working_memory`` allows.
    n_jobs : int, default=None
        Threads over batches of training rows.
    random_state : int, RandomState or None, default=None
        Draws the subset.
    scoring : callable, default=None
        Measure of agreement with refits, called with a fitted influence estimator and queries,
        higher is better. None means an :class:`~skinfluence.metrics.InfluenceScorer` with its
        default parameters, the linear datamodeling score.
    verbose : int, default=0
        Above 0, progress is shown, by a bar where tqdm is installed, else by lines; the lines
        also go to the logger "skinfluence".

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    subset_size_ : int
        Rows of the subset.
    subset_indices_ : ndarray of shape (subset_size_,)
        Their positions, ascending.
    subset_weights_ : ndarray of shape (subset_size_,)
        Weights with which they stand for all rows.
    hessian_error_ : float
        Estimate of the relative error ``e`` of the subset's Hessian ``H_m`` by "auto", the
        spectral norm of ``H_m^{-1/2} (H - H_m) H_m^{-1/2}``: the largest of three estimates, from
        three ways to halve the subset. 0 for a subset of all rows, NaN where a size was given.
    tried_sizes_, tried_errors_ : ndarray of shape (n_tried,)
        Sizes of the subsets that "auto" compared the halves of, and the errors.
    solver_ : str
        The solver that was used.
    damping_ : float
        The damping that was used.
    curvature_kind_ : str
        The curvature that was used.
    stationarity_ : float
        Norm of the gradient of the objective at the fitted parameters, over the sum of the
        norms of its terms.
    effective_dimension_ : float
        ``tr(F H^{-1})`` of the subset.
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
    ExactInfluence : With the Hessian of all rows.

    Notes
    -----
    Rows of the subset are weighted by the reciprocal of their inclusion probability, and scaled
    so that the weights of every class have the same sum as in the training set. The error of an
    influence falls like ``sqrt(effective_dimension_ / subset_size_)``. With less than some hundred
    parameters the full Hessian costs no more than drawing and comparing subsets.

    A relative error ``e < 1`` of the Hessian bounds the error of every influence, of whatever
    query on whatever row, by ``e / (1 - e)`` times the root of the product of both their
    self-influences by the subset's Hessian. This bound is proven, given ``e``; ``e`` itself is
    estimated, from the rows of the subset.

    References
    ----------
    Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
    Influence, Memorization and Generalization*, section 5.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import RelativeHessianInfluence
    >>> X, y = make_classification(20_000, n_features=10, random_state=0)
    >>> influence = RelativeHessianInfluence(LogisticRegression(), random_state=0).fit(X, y)
    >>> influence.subset_size_
    3744

    Are the influences on these queries what the full Hessian says, up to a factor?

    >>> check = influence.lep_check(X[:20], y[:20])
    >>> bool(check.preserved_share.mean() > 0.85), bool(check.spearman.mean() > 0.98)
    (True, True)
    """

    _parameter_constraints: dict = {
        **BaseInfluence._parameter_constraints,
        "subset_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="right"),
        ],
        "stratify": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions(SOLVERS)],
        **REFINEMENT,
    }

    def __init__(
        self,
        estimator,
        *,
        subset_size="auto",
        stratify=True,
        tol=0.12,
        refine=0,
        eps=0.1,
        damping="auto",
        solver="auto",
        curvature="hessian",
        batch_size=None,
        n_jobs=None,
        random_state=None,
        scoring=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.subset_size = subset_size
        self.stratify = stratify
        self.tol = tol
        self.refine = refine
        self.eps = eps
        self.damping = damping
        self.solver = solver
        self.curvature = curvature
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.scoring = scoring
        self.verbose = verbose

    def _make_curvature(self, objective, damping):
        random_state = check_random_state(self.random_state)
        subsets = self._subsets(objective, self.curvature, damping)
        order = subsets.order(random_state)
        self.tried_sizes_, self.tried_errors_ = np.array([], dtype=int), np.array([])
        if self.subset_size == "auto":
            search = SizeSearch(subsets, order, self.tol, random_state, self._report)
            curvature, weight, self.hessian_error_ = search.run()
        else:
            self.hessian_error_ = np.nan
            weight = order.weights(0, subsets.checked_size(self.subset_size, order))
            curvature = subsets.curvature(weight)
        subsets.check_classes(weight)
        # The Hessian of a subset may be indefinite where the Hessian of all rows is not.
        kind = choose_curvature(objective.restricted(weight), self.curvature, damping)
        if kind != self.curvature:
            subsets = self._subsets(objective, kind, damping)
            curvature = subsets.curvature(weight)
        curvature.row_weight = weight
        self.subset_indices_ = np.flatnonzero(weight)
        self.subset_weights_ = weight[self.subset_indices_]
        self.subset_size_ = len(self.subset_indices_)
        self.solver_ = curvature.solver
        self._reference_seed = random_state.randint(np.iinfo(np.int32).max)
        return kind, curvature, Space(objective.l2_penalty)

    def _subsets(self, objective, kind, damping):
        return WeightedSubsets(
            objective, kind, damping, self.solver, self.stratify, self.random_state
        )

    def _report(self, size, error):
        self.tried_sizes_ = np.append(self.tried_sizes_, size)
        self.tried_errors_ = np.append(self.tried_errors_, error)
        tell(f"{size} rows: relative error of the Hessian {error:.3g} (tol={self.tol:g})")

    # Is it loss estimate preserving?

    def lep_check(self, X, y, *, reference="auto", delta=None):
        """Whether the subset's Hessian preserves the loss estimates of queries.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        reference : {"auto", "full", "subset"}, default="auto"
            Hessian to compare with: of all rows, or of a second subset with four times as many
            rows. "auto" takes all rows where that is affordable.
        delta : float, default=None
            The number of Theorem 2 at which its conditions are measured. None takes, for each
            query, the best of a grid.

        Returns
        -------
        result : :class:`~sklearn.utils.Bunch`
            Dictionary-like object with these entries, arrays of shape (n_queries,) unless
            they say otherwise.

            rho, dispersion, spearman, sign_agreement
                See :func:`skinfluence.metrics.influence_ratio`: the median ratio of the
                reference's influences to the subset's, how far the ratio is from uniform, and
                the agreement of ranks and signs.
            preserved_share
                Share of the training rows, weighted by their absolute influence by the
                reference, whose ratio is within ``tol`` of rho, as ``|r_p / rho - 1|``.
            is_preserving : ndarray of bool
                Whether that share is at least 0.9. (Theorem 2 says all rows; a median, like the
                dispersion, is silent about half of them.)
            delta
                The numbers that were used.
            first_condition, second_condition
                Sizes of the terms that Theorem 2 asks to be negligible, relative to the terms
                they are added to, medians over training rows. The theorem applies where both
                are far below 1.
            row_sum, row_sum_spread
                Median row sum of ``G H_m H^{-1} G^{-1}``, which is rho where the conditions
                are met, and the largest relative distance of a row sum from that median.
            reference : {"full", "subset"}
                Hessian that the subset's was compared with.
            reference_size : int
                Rows of the reference.

        Raises
        ------
        ValueError
            If a query has no gradient, so that all its influences are 0.

        References
        ----------
        Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence,
        Relative Influence, Memorization and Generalization*, Theorem 2.
        """
        queries = self._query_rows(X, y)
        curvature, kind, size = self._reference(reference)
        fit = self.linearisation_
        comparison = self._comparison(queries, curvature, fit.curvature.unrefined)
        return Bunch(**comparison.result(delta, self.tol), reference=kind, reference_size=size)

    def lep_search(
        self, X, y, *, subset_size=None, n_iter=20, reference="auto", random_state=None
    ):
        """Search subsets at random for one that preserves the loss estimates of queries.

        Each candidate is a pair of a subset and a delta, drawn together, as the source
        outlines. Its score is the larger of the two conditions of Theorem 2, median over
        training rows, mean over queries.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        subset_size : int or float, default=None
            Rows of the candidates, or their share; by default ``subset_size_``.
        n_iter : int, default=20
            Number of candidates.
        reference : {"auto", "full", "subset"}, default="auto"
            Stands for the full Hessian in the score, see `lep_check`.
        random_state : int, RandomState or None, default=None
            Draws the candidates.

        Returns
        -------
        result : :class:`~sklearn.utils.Bunch`
            Dictionary-like object with these entries.

            random_state : int
                The best candidate: fit again with it and with this ``subset_size`` to use its
                subset.
            subset_indices : ndarray of shape (m,)
                Rows of the best subset.
            delta : ndarray of shape (n_queries,)
                The best delta.
            score : float
                Score of the best candidate.
            scores : ndarray of shape (n_iter,)
                Scores of all candidates.
            dispersions : ndarray of shape (n_iter,)
                Dispersion of the ratio of influences of all candidates, median over queries.
        """
        queries = self._query_rows(X, y)
        curvature, _, _ = self._reference(reference)
        subsets, size = self._subsets_of_fit(), subset_size or self.subset_size_
        random_state = check_random_state(random_state)
        found = Bunch(score=np.inf, scores=np.empty(n_iter), dispersions=np.empty(n_iter))
        for i in range(n_iter):
            seed = random_state.randint(np.iinfo(np.int32).max)
            order = subsets.order(check_random_state(seed))
            weight = order.weights(0, subsets.checked_size(size, order))
            candidate = self._comparison(queries, curvature, subsets.curvature(weight))
            delta = random_state.choice(RELATIVE_DELTAS) * candidate.conditions.scale
            score = float(np.maximum(*candidate.sizes(delta)).mean())
            found.scores[i] = score
            found.dispersions[i] = np.median(candidate.ratios.dispersion)
            if score < found.score:
                indices = np.flatnonzero(weight)
                found.update(random_state=seed, subset_indices=indices, delta=delta, score=score)
        return found

    def _subsets_of_fit(self):
        fit = self.linearisation_
        return self._subsets(fit.objective, fit.curvature_kind, fit.damping)

    def _reference(self, reference):
        """Curvature to compare with, its name ("full" or "subset") and its number of rows."""
        if reference not in ("auto", "full", "subset"):
            raise ValueError(
                f"reference must be 'auto', 'full' or 'subset'. Got {reference!r} instead."
            )
        subsets = self._subsets_of_fit()
        n_rows = np.count_nonzero(subsets.objective.weight)
        if reference == "auto":
            reference = "full" if subsets.full_work <= AFFORDABLE else "subset"
        if reference == "full":
            return subsets.full_curvature(), "full", n_rows
        size = min(n_rows, 4 * self.subset_size_)
        order = subsets.order(check_random_state(self._reference_seed))
        return subsets.curvature(order.weights(0, size)), "subset", size

    def _comparison(self, queries, reference, relative):
        fit = self.linearisation_
        objective = fit.objective.restricted(relative.row_weight)
        multiply = objective.curvature_product(fit.curvature_kind)
        ridge = objective.l2_penalty + fit.damping
        return LepComparison(
            queries,
            fit.training_rows,
            lambda rows: reference.solve(rows, fit.damping),
            lambda rows: relative.solve(rows, fit.damping),
            lambda vectors: multiply(vectors) + vectors * ridge,
        )
