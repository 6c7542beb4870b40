"""Influence from few numbers for each row."""

from numbers import Integral, Real

from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.progress import tell
from skinfluence._utils.sklearn_private import Interval, StrOptions
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature import exact_curvature
from skinfluence.curvature.sketched import (
    SketchPlan,
    choose_projection,
    is_injective,
)
from skinfluence.estimators._base import REFINEMENT, STORAGE, BaseInfluence
from skinfluence.estimators._sketch_error import Probes
from skinfluence.estimators._sketched_scores import SketchedScores
from skinfluence.exceptions import NumericalWarning
from skinfluence.sketching import SKETCHES


class SketchedInfluence(SketchedScores, BaseInfluence):
    r"""Influence functions from a sketch of the gradients.

    ``Pg`` of length m replaces a gradient ``g`` of length p, and ``PFP'`` the curvature F.
    Unpenalised intercepts stay unsketched, and a model whose sketch would be no smaller than
    itself is solved exactly.

    Parameters
    ----------
    estimator : estimator
        The model: a linear model or a network that the package knows, alone or inside a Pipeline
        or a search, or one linear model for each output or class (``OneVsRestClassifier`` and the
        like). A clone is fitted; a ``FrozenEstimator`` is taken as it is. The transformer of a
        ``TransformedTargetRegressor`` stays fixed, and losses are in the unit of the transformed
        targets; the base estimators of a stack must be frozen, and stay fixed too.
    sketch_size : {"auto", "certified"}, int or (int, int), default="auto"
        Numbers m stored for each row. "auto": a size at which the uniform error of all influences
        is at most ``eps``, found without an exact solution. For a random sketch the theorem gives
        it, from the spectrum of the sketch itself. For a basis the error, relative to the
        self-influences, is measured by products of the curvature with a few vectors, which find it
        from below within a few percent; the exact solution is taken where it is affordable and a
        third of the features do not suffice. "certified": grown until the 95th percentile of the
        relative error of the scores, measured on training rows that a basis is not built from, is
        at most ``eps``. That holds for queries like the training rows, 95 of 100 of them, as far
        as some 70 rows can tell; queries whose gradients leave the range of F (see `leakage`) may
        have a larger error, which `sketch_error` measures. A factorised sketch of a model with c
        outputs gives m // c numbers to its features; a pair ``(m_A, m_E)`` sets the sizes for
        features and outputs. From the number of parameters on the result is exact.
    max_sketch_size : int, default=None
        Most numbers for each row that "auto" and "certified" may take. Where the goal needs more,
        this many are taken, with a warning. None: at most 2048 for a basis of "auto" and 8192
        else, whose eigendecomposition takes seconds or minutes, and beyond that the exact
        solution where it is affordable, else this many with a warning.
    sketch : str or callable, default="auto"
        Kind of sketch: "auto", "gaussian", "rademacher", "sjlt", "srdct", "nystrom",
        "landmarks" or "identity". "nystrom" is a basis for the range of the features and needs
        the fewest numbers; "landmarks" is a basis for the span of some of the rows, never written
        out; the others are random and need only one pass over the data. "auto" is "nystrom" for
        factored rows of a linear model, "landmarks" for factored rows of a network, else "sjlt".
        Also a class of :mod:`skinfluence.sketching`, or a callable that takes
        ``(data, size, seed)`` and returns a sketch.
    tail : bool, default=True
        Whether the ridge, together with one number for the mean curvature there, stands for the
        complement of a basis ("nystrom", "landmarks"), at the cost of inner products of the
        unsketched rows. The embedding of `transform` then has as many columns as the model has
        parameters.
    factorized : {"auto"} or bool, default="auto"
        Whether the features are sketched (and the outputs, if ``sketch_size`` is a pair), or
        the unfactored gradients. "auto": the features, where rows are factored.
    eps : float, default=0.25
        Largest error, in (0, 1), for sizes that are found from the data, and largest error
        bound, relative to the score, at which ``refine="auto"`` stops.
    delta : float, default=0.05
        Share of the seeds of a random sketch that may exceed ``eps``, in (0, 1).
    debias : bool, default=False
        Whether to subtract the ridge that a random sketch adds by itself, so that the
        self-influences are right on average. Each damping then needs an eigendecomposition of its
        own.
    project_queries : bool, default=False
        Whether to project the gradients of queries on the range of F before they are
        sketched, which removes the error that `leakage` measures.
    refine : {"auto"} or int, default=0
        Steps of conjugate gradients with the full curvature, preconditioned by the approximate
        one, after the approximate solution; each is one product of the full curvature with
        every query. "auto": until the ten largest scores of every query have error bounds of
        at most ``eps`` times their size. Refined are `influence`, `most_influential`,
        `parameter_influence`, `score` and the effects of leaving rows out; `self_influence`,
        `transform`, `memorization` and the leverages keep the approximation.
    curvature : {"hessian", "ggn", "empirical_fisher"}, default="hessian"
        Which curvature; for linear models and heads "hessian" and "ggn" are the same. "ggn" takes
        the place of a network's Hessian, with a warning, where that is indefinite or where a
        sketch needs factor rows.
    damping : {"auto"} or float, default="auto"
        Added to the eigenvalues of the curvature. "auto" is 0 for linear models: where the
        data cannot tell some columns apart, a pseudo-inverse is taken, with a warning that names
        the columns. For networks "auto" is found from the gradient that training has left, a short
        training asking for much damping; Kronecker factors take the damping at which they agree
        best with the full curvature at its own, and heads 0.1 times the mean eigenvalue of their
        curvature. ``damping_`` reports the damping that was used.
    storage : str or path-like, default=None
        Folder that keeps the sketched or factored training rows on disk, one file for each
        ``batch_size`` of them. Scores then read them there, without going through the model, and
        a fit that was interrupted goes on with the parts that are missing. A folder that holds
        the rows of other data, another model, sketch or version is refused. Pickles hold its
        path. None makes or holds the rows in memory.
    keep_rows : bool, default=True
        Whether the fit keeps the training rows, their targets and weights. False keeps, of linear
        models, the sketched rows alone, and with them `influence`, `iter_influence`,
        `influence_on`, `most_influential`, `self_influence`, `transform`, `memorization` and
        `parameter_influence`, with the same scores; whatever needs the rows, such as effects of
        leaving them out, `score` and `sketch_error`, raises a
        :class:`~skinfluence.exceptions.RowsLeftOutError`. The sketch has to leave something out
        (``tail=False`` or a random one, with fewer numbers than features).
    batch_size : int, default=None
        Rows in a batch; by default as many as scikit-learn's ``working_memory`` allows.
    n_jobs : int, default=None
        Threads over batches of training rows.
    random_state : int, RandomState or None, default=None
        Determines the sketch, and the probes of `sketch_error`.
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
    sketch_ : Sketch
        The sketch, of all columns of the rows.
    sketch_size_ : int
        Rows of the sketch, without the unsketched columns.
    tried_sizes_ : tuple of int
        Numbers for each row that were tried to find the size, in order; none where it was given.
        Sizes of a basis double until products alone do not reject one, and the size taken is
        interpolated between the last two.
    factorized_ : bool
        Whether features are sketched, or full gradients.
    damping_ : float
        The damping that was used.
    curvature_kind_ : str
        The curvature that was used.
    effective_dimension_ : float
        ``tr(F H^{-1})``: exact for small models, else estimated.
    effective_dimension_error_ : float
        Half the width of an interval around ``effective_dimension_``, or its standard error.
    factor_effective_dimensions_ : tuple of float
        Effective dimensions of the features and of the outputs: of the moment M of the features,
        each weighted by the spectral norm of the curvature of its outputs, at the ridge, and of
        E, the moment of the outputs, at ``ridge ||E|| / ||M||``. For a Kronecker product
        ``E (x) A`` these are A at ``ridge / ||E||`` and E at ``ridge / ||A||``, and their product
        times ``1 + ridge / (||A|| ||E||)`` is at least its effective dimension: the price of a
        factorised sketch. Only where `factorized_`.
    sketch_is_injective_ : bool
        Whether the sketch is known to lose nothing of the range of F, so that influence is
        exact without a ridge.
    stationarity_ : float
        Norm of the gradient of the objective at the fitted parameters, over the sum of the
        norms of its terms.
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
    ExactInfluence : The same without a sketch.
    skinfluence.sketching.influence_min_dim : The size that "auto" takes for random sketches.

    Notes
    -----
    Positive influence means that more weight on a training row raises the loss of a query.

    Sizes from the theory promise a *uniform* error relative to the influences without a ridge
    [1]_. Where the spectrum of F is flat, the scores have a larger relative error;
    `sketch_error` measures both.

    References
    ----------
    .. [1] Hu, Hu, Ma, Zhao, "A Unified Theory of Random Projection for Influence
       Functions", arXiv:2602.10449.
    .. [2] Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review
       53(2), 2011.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import SketchedInfluence
    >>> X, y = load_digits(return_X_y=True)
    >>> model = LogisticRegression(C=0.1)
    >>> influence = SketchedInfluence(model, sketch_size=180, random_state=0).fit(X / 16, y)
    >>> influence.sketch_size_, influence.n_params_
    (180, 650)
    >>> influence.influence(X[:5] / 16, y[:5]).shape
    (5, 1797)
    >>> bool(influence.sketch_error(X[:20] / 16, y[:20]).spearman.median.value > 0.9)
    True
    """

    _parameter_constraints: dict = {
        **BaseInfluence._parameter_constraints,
        "sketch_size": [
            StrOptions({"auto", "certified"}),
            Interval(Integral, 1, None, closed="left"),
            tuple,
        ],
        "max_sketch_size": [None, Interval(Integral, 1, None, closed="left")],
        "sketch": [StrOptions({"auto", *SKETCHES}), callable],
        "tail": ["boolean"],
        "factorized": [StrOptions({"auto"}), "boolean"],
        **REFINEMENT,
        **STORAGE,
        "delta": [Interval(Real, 0, 1, closed="neither")],
        "debias": ["boolean"],
        "project_queries": ["boolean"],
        "keep_rows": ["boolean"],
    }

    def __init__(
        self,
        estimator,
        *,
        sketch_size="auto",
        max_sketch_size=None,
        sketch="auto",
        tail=True,
        factorized="auto",
        eps=0.25,
        delta=0.05,
        debias=False,
        project_queries=False,
        refine=0,
        curvature="hessian",
        damping="auto",
        storage=None,
        keep_rows=True,
        batch_size=None,
        n_jobs=None,
        random_state=None,
        scoring=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.sketch_size = sketch_size
        self.max_sketch_size = max_sketch_size
        self.sketch = sketch
        self.tail = tail
        self.factorized = factorized
        self.eps = eps
        self.delta = delta
        self.debias = debias
        self.project_queries = project_queries
        self.refine = refine
        self.curvature = curvature
        self.damping = damping
        self.storage = storage
        self.keep_rows = keep_rows
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.scoring = scoring
        self.verbose = verbose

    # Hooks of the family.

    def _choose_curvature(self, objective):
        if objective.has_factor_rows(self.curvature):
            return self.curvature
        warn_user(
            "The Hessian of a network has negative eigenvalues, and so no factor rows to sketch. "
            "The Gauss-Newton matrix takes its place; use curvature='ggn' to say so.",
            UserWarning,
        )
        return "ggn"

    def _make_curvature(self, objective, damping):
        kind = self._choose_curvature(objective)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        probes = Probes(objective, kind, damping, seed)
        plan = SketchPlan.of(
            objective,
            kind,
            damping,
            sketch=self.sketch,
            seed=seed,
            factorized=self.factorized,
            complement=self.tail,
            debias=self.debias,
            project_queries=self.project_queries,
            max_size=self.max_sketch_size,
            held_out=probes.index if self.sketch_size == "certified" else None,
        )
        projection = choose_projection(
            plan,
            self.sketch_size,
            eps=self.eps,
            delta=self.delta,
            relative_error=probes.relative_error,
        )
        self._warn_if_saturated(projection)
        tell(
            f"{projection.sketched_size} of {plan.factor_rows.n_columns} numbers for each row by "
            f"{type(projection.feature_sketch).__name__}; tried {projection.tried_sizes}"
        )
        if projection.sketch.is_identity:
            return kind, exact_curvature(objective, kind, damping, seed), projection
        return kind, projection.curvature, projection

    @staticmethod
    def _warn_if_saturated(projection):
        plan = projection.plan
        if plan.ridge.min() > 0 or is_injective(projection):
            return
        size = projection.feature_sketch.size
        warn_user(
            f"The sketch is saturated: the sketched curvature has the full rank {size}, so F may "
            f"have a higher one (at most {min(plan.features.shape)}), and without a "
            "ridge nothing is guaranteed. Use a larger sketch_size, or damping > 0.",
            NumericalWarning,
        )

    def linearise(self, fitted_model):
        """Linearise the loss of a model that is fitted already.

        Parameters
        ----------
        fitted_model : FittedModel
            The fitted model with its training data.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If ``keep_rows=False`` and the model or the sketch needs the rows.
        """
        super().linearise(fitted_model)
        if not self.keep_rows:
            self.linearisation_ = self.linearisation_.without_rows()
        return self

    def with_damping(self, damping):
        """The same sketch and eigendecomposition at another damping.

        Parameters
        ----------
        damping : float
            Added to the eigenvalues of the curvature.

        Returns
        -------
        SketchedInfluence or None
            A fitted estimator; None where the sketch depends on the damping.
        """
        check_is_fitted(self)
        projection = self.linearisation_.space
        ridge = projection.plan.ridge.min()
        vanishes = (ridge > 0) != (ridge - self.damping_ + damping > 0)
        if self.debias or projection.scale is not None or vanishes:
            return None
        other = clone(self).set_params(damping=float(damping))
        return other.learn(self.linearisation_.at_damping(damping))
