"""Influence with a Hessian from some of the training rows."""

from numbers import Integral, Real

import numpy as np
from scipy.linalg import LinAlgError
from sklearn.utils import Bunch, check_random_state

from skinfluence._utils.sklearn_private import Interval, StrOptions
from skinfluence.curvature import DenseCurvature
from skinfluence.curvature._choice import SOLVERS, choose_solver, make_curvature
from skinfluence.estimators._base import BaseInfluence
from skinfluence.estimators._loss_preservation import RELATIVE_DELTAS, LepComparison
from skinfluence.estimators._weighted_subsets import SamplingOrder
from skinfluence.metrics._ratio import ratio_spread
from skinfluence.rows import DenseRows

# Rows of the first of the subsets that grow until two of them agree.
FIRST_SIZE = 128

# Probe queries and training rows on which two subsets are compared.
N_PROBES, N_PROBED = 32, 1024

# Multiply-adds that a check may spend on the full Hessian: some ten seconds of one core.
AFFORDABLE = 2e11


class RelativeHessianInfluence(BaseInfluence):
    """Influence functions with the Hessian of a random subset of the training rows.

    The gradients are those of all training rows, so every row has its influence; only the
    Hessian, the expensive part for many rows, comes from fewer. The penalty of the model is not
    sampled: it enters the Hessian in full.

    Parameters
    ----------
    estimator : estimator
        The model, as in `ExactInfluence`.
    subset_size : {"auto"}, int or float, default="auto"
        Rows of the subset: a number, or a share of the training rows. "auto" doubles it until
        the Hessians of two disjoint subsets give the same influences up to a factor, to
        within ``tol``, and then takes both subsets together.
    stratify : bool, default=True
        Whether the subset holds the classes of a classifier in proportion, with at least one
        row of each.
    sampling : {"uniform", "leverage"}, default="uniform"
        "leverage" draws half of the rows with chances that follow their leverages, estimated
        from a first subset, and weights them down accordingly.
    tol : float, default=0.15
        Dispersion of the ratio of two relative influences at which "auto" stops: half of the
        ratios are within 15 percent of their median.
    damping : {"auto"} or float, default="auto"
        Added to the eigenvalues of the curvature, as in `ExactInfluence`.
    solver : {"auto", "direct", "gram", "cg", "lissa"}, default="auto"
        As in `ExactInfluence`, for the Hessian of the subset.
    curvature : {"hessian", "ggn", "empirical_fisher"}, default="hessian"
        Which curvature; for linear models the first two are the same. Where the Hessian of a
        network is indefinite, "ggn" takes its place, with a warning.
    batch_size : int, default=None
        Rows in a batch; by default what scikit-learn's ``working_memory`` holds.
    n_jobs : int, default=None
        Threads over batches of queries.
    random_state : int, RandomState or None, default=None
        Draws the subset.
    scoring : callable, default=None
        Measure of `score`, such as an :class:`~skinfluence.metrics.InfluenceScorer`; by
        default one with its default parameters.
    verbose : int, default=0
        Whether to report the sizes that are tried.

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
    ratio_dispersion_ : float
        Dispersion of the ratio between the last two subsets that "auto" compared, median over
        probe queries; 0 for a subset of all rows, NaN where a size was given.
    tried_sizes_, tried_dispersions_ : ndarray of shape (n_tried,)
        Sizes of the pairs of subsets that "auto" compared, both together, and the dispersions.
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
    Rows of the subset are weighted by the reciprocal of their chance to be in it, and scaled so
    that the weights of every class add up to those of all its rows. The error of an influence
    falls like ``sqrt(effective_dimension_ / subset_size_)``.

    References
    ----------
    Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
    Influence, Memorization and Generalization*, section 5.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import RelativeHessianInfluence
    >>> X, y = make_classification(5000, n_features=10, random_state=0)
    >>> influence = RelativeHessianInfluence(LogisticRegression(), random_state=0).fit(X, y)
    >>> influence.subset_size_
    2048

    Are the influences on these queries what the full Hessian says, up to a factor?

    >>> check = influence.lep_check(X[:20], y[:20])
    >>> bool(check.is_preserving.all()), bool(check.spearman.mean() > 0.98)
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
        "sampling": [StrOptions({"uniform", "leverage"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions(SOLVERS)],
    }

    def __init__(
        self,
        estimator,
        *,
        subset_size="auto",
        stratify=True,
        sampling="uniform",
        tol=0.15,
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
        self.sampling = sampling
        self.tol = tol
        self.damping = damping
        self.solver = solver
        self.curvature = curvature
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.scoring = scoring
        self.verbose = verbose

    def _make_curvature(self):
        self.tried_sizes_, self.tried_dispersions_ = np.array([], dtype=int), np.array([])
        random_state = check_random_state(self.random_state)
        order = self._draw_order(random_state)
        if self.subset_size == "auto":
            curvature, weight = self._search_size(order, random_state)
        else:
            self.ratio_dispersion_ = np.nan
            weight = order.weights(0, self._checked_size(self.subset_size, order))
            curvature = self._curvature_of(weight)
        self.subset_indices_ = np.flatnonzero(weight)
        self.subset_weights_ = weight[self.subset_indices_]
        self.subset_size_ = len(self.subset_indices_)
        self._check_classes()
        subset = self.objective_.restricted(weight)
        self.solver_ = choose_solver(subset, self.curvature_kind_, self.solver)
        self._reference_seed = random_state.randint(np.iinfo(np.int32).max)
        return curvature

    @property
    def _held_weight(self):
        weight = np.zeros(self.n_samples_)
        weight[self.subset_indices_] = self.subset_weights_
        return weight

    # The subset.

    def _draw_order(self, random_state):
        objective = self.objective_
        settings = {"strata": self._strata if self.stratify else None}
        if self.sampling == "leverage":
            pilot = SamplingOrder(objective.weight, random_state=random_state, **settings)
            size = min(len(pilot), max(FIRST_SIZE, 2 * len(objective.penalty)))
            weight = pilot.weights(0, size)
            settings["scores"] = self._leverage_scores(weight, random_state)
        return SamplingOrder(objective.weight, random_state=random_state, **settings)

    @property
    def _strata(self):
        """Class of every training row; all the same for a regression."""
        targets = self.objective_.targets
        if self.objective_.classes is None:
            return np.zeros(len(targets), dtype=int)
        if targets.shape[1] > 1:
            return targets.argmax(axis=1)
        return np.searchsorted(np.unique(targets), targets[:, 0])

    def _leverage_scores(self, weight, random_state, n_draws=4):
        """Chances that follow the leverages against a pilot Hessian, at least half of 1."""
        objective, pilot = self.objective_, self.objective_.restricted(weight)
        factor_rows = pilot.factor_rows(self._convex_curvature)
        ridge = pilot.l2_penalty + self.damping_
        # Vectors with the covariance H, so that their solutions have that of its inverse.
        noise = random_state.standard_normal((n_draws, factor_rows.shape[0])) @ factor_rows
        noise += random_state.standard_normal(noise.shape) * np.sqrt(ridge)
        solved = self._curvature_of(weight).solve(DenseRows(noise), self.damping_).toarray()
        moves = objective.jacobian_rows(objective.features) @ np.ascontiguousarray(solved.T)
        moves = moves.reshape(*objective.training_outputs.shape, n_draws)
        bent = objective.output_curvature(self._convex_curvature) @ moves
        leverage = objective.weight * np.maximum(0, np.einsum("nkd,nkd->n", moves, bent))
        return 0.5 + 0.5 * leverage / max(leverage.mean(), np.finfo(float).tiny)

    @property
    def _convex_curvature(self):
        return "ggn" if self.curvature_kind_ == "hessian" else self.curvature_kind_

    def _checked_size(self, given, order):
        size = given
        if isinstance(size, Integral):
            if size > len(order):
                raise ValueError(
                    f"subset_size={given} exceeds the number of training rows with a positive "
                    f"weight, {len(order)}. Use at most that, a share, or 'auto'."
                )
        else:
            size = max(1, round(size * len(order)))
        if self.stratify and size < order.n_strata:
            raise ValueError(
                f"A subset of {size} rows (subset_size={given!r}) cannot hold a row "
                f"of each of the {order.n_strata} classes. Use at least {order.n_strata} rows, "
                "or stratify=False."
            )
        needed = self._needed_size()
        if size < min(needed, len(order)):
            raise ValueError(
                f"A subset of {size} rows (subset_size={given!r}) is too small: "
                f"{self._n_unpenalised} coordinates have neither penalty nor damping, and the Hessian "
                f"of the subset has at most rank {size * self._factor_rows_per_sample} there. Use at "
                f"least {needed} rows, or damping > 0."
            )
        return size

    @property
    def _n_unpenalised(self):
        """Coordinates that only the rows of the subset determine."""
        return np.count_nonzero(self.objective_.l2_penalty + self.damping_ <= 0)

    @property
    def _factor_rows_per_sample(self):
        outputs = self.objective_.training_outputs.shape[1]
        return 1 if self.curvature_kind_ == "empirical_fisher" else outputs

    def _needed_size(self):
        """Rows without which the Hessian of a subset must be singular."""
        return -(-self._n_unpenalised // self._factor_rows_per_sample)

    def _check_classes(self):
        strata = self._strata
        full = np.bincount(strata, self.objective_.weight)
        counts = np.bincount(strata[self.subset_indices_], minlength=len(full))
        missing = np.flatnonzero((full > 0) & (counts == 0))
        if len(missing):
            names = self.objective_.classes[missing].tolist()
            raise ValueError(
                f"The subset of {self.subset_size_} rows holds none of the class(es) {names}. "
                "Use stratify=True, or a larger subset_size."
            )

    def _search_size(self, order, random_state):
        """Double the subset until the next one agrees with it; then both together."""
        probes = self._probe_rows(random_state)
        n_rows = len(order)
        size = max(FIRST_SIZE, 2 * order.n_strata, 2 * self._needed_size())
        agree = False
        if 2 * size <= n_rows:
            weight = order.weights(0, size)
            curvature = self._curvature_of(weight)
        while 2 * size <= n_rows and not agree:
            other_weight = order.weights(size, 2 * size)
            other = self._curvature_of(other_weight)
            dispersion = self._compare(curvature, other, probes)
            size *= 2
            self._report(size, dispersion)
            weight = (weight + other_weight) / 2
            curvature = _average(curvature, other) or self._curvature_of(weight)
            agree = dispersion <= self.tol
        if not agree:
            weight, curvature = self.objective_.weight, self._curvature_of(None)
        self.ratio_dispersion_ = dispersion if agree else 0.0
        return curvature, weight

    def _report(self, size, dispersion):
        self.tried_sizes_ = np.append(self.tried_sizes_, size)
        self.tried_dispersions_ = np.append(self.tried_dispersions_, dispersion)
        if self.verbose:
            print(
                f"[{type(self).__name__}] two subsets of {size // 2} rows: dispersion of the "
                f"ratio {dispersion:.3g} (tol={self.tol:g})"
            )

    def _probe_rows(self, random_state):
        rows = self.objective_.training_gradient_rows()
        kept = random_state.permutation(np.flatnonzero(self.objective_.weight))
        return rows[np.sort(kept[:N_PROBES])], rows[np.sort(kept[-N_PROBED:])]

    def _compare(self, curvature, other, probes):
        queries, rows = probes
        solvers = (curvature, other)
        try:
            first, second = (c.solve(queries, self.damping_).inner(rows) for c in solvers)
        except LinAlgError:
            # The Hessian of few rows may be indefinite where that of more is not.
            return np.inf
        return float(np.median(ratio_spread(first, second)[1]))

    def _curvature_of(self, weight):
        """Curvature of the rows with a weight, of all of them without weights."""
        objective = self.objective_ if weight is None else self.objective_.restricted(weight)
        solver = choose_solver(objective, self.curvature_kind_, self.solver)
        return make_curvature(objective, self.curvature_kind_, solver, self.random_state)

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
            What to compare with: the Hessian of all rows, or of a second subset with four
            times as many rows. "auto" takes all rows where that is affordable.
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
                reference's influences to these, how far it is from uniform, and the
                agreement of their ranks and signs.
            is_preserving : ndarray of bool
                Whether the dispersion is at most ``tol``.
            delta
                The numbers that were used.
            first_condition, second_condition
                Medians over training rows of the sizes of what Theorem 2 asks to be
                negligible, relative to what it is added to. The theorem applies where both
                are far below 1.
            row_sum, row_sum_spread
                Median row sum of ``G H_m H^{-1} G^{-1}``, which is rho where the conditions
                hold, and the largest relative distance of a row sum from it.
            reference : {"full", "subset"}
                What they were compared with.
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
        comparison = self._comparison(queries, curvature, self.curvature_, self._all_weights())
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
        random_state = check_random_state(random_state)
        found = Bunch(score=np.inf, scores=np.empty(n_iter), dispersions=np.empty(n_iter))
        for i in range(n_iter):
            seed = random_state.randint(np.iinfo(np.int32).max)
            order = self._draw_order(check_random_state(seed))
            weight = order.weights(0, self._checked_size(subset_size or self.subset_size_, order))
            candidate = self._comparison(queries, curvature, self._curvature_of(weight), weight)
            delta = random_state.choice(RELATIVE_DELTAS) * candidate.conditions.scale
            score = float(np.maximum(*candidate.sizes(delta)).mean())
            found.scores[i] = score
            found.dispersions[i] = np.median(candidate.ratios.dispersion)
            if score < found.score:
                indices = np.flatnonzero(weight)
                found.update(random_state=seed, subset_indices=indices, delta=delta, score=score)
        return found

    def _all_weights(self):
        weight = np.zeros(self.n_samples_)
        weight[self.subset_indices_] = self.subset_weights_
        return weight

    def _reference(self, reference):
        """Curvature to compare with, whether it is that of all rows, and of how many."""
        if reference not in ("auto", "full", "subset"):
            raise ValueError(
                f"reference must be 'auto', 'full' or 'subset'. Got {reference!r} instead."
            )
        weight = self.objective_.weight
        n_rows = np.count_nonzero(weight)
        if reference == "auto":
            work = n_rows * self._factor_rows_per_sample * len(self.objective_.penalty) ** 2
            reference = "full" if work <= AFFORDABLE else "subset"
        if reference == "full":
            return self._curvature_of(None), "full", n_rows
        size = min(n_rows, 4 * self.subset_size_)
        order = self._draw_order(check_random_state(self._reference_seed))
        return self._curvature_of(order.weights(0, size)), "subset", size

    def _comparison(self, queries, reference, relative, weight):
        objective = self.objective_.restricted(weight)
        multiply = objective.curvature_product(self.curvature_kind_)
        ridge = objective.l2_penalty + self.damping_
        return LepComparison(
            queries,
            self._rows,
            lambda rows: reference.solve(rows, self.damping_),
            lambda rows: relative.solve(rows, self.damping_),
            lambda vectors: multiply(vectors) + vectors * ridge,
        )


def _average(curvature, other):
    """Mean of two dense curvatures, None for others."""
    if not (isinstance(curvature, DenseCurvature) and isinstance(other, DenseCurvature)):
        return None
    blocks = (curvature.blocks + other.blocks) / 2
    return DenseCurvature(curvature.index, blocks, curvature.penalty)
