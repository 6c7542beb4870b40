"""Influence over the parameters of a model's classifier alone."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.batching import fits_in_memory
from skinfluence._utils.sklearn_private import Interval, StrOptions
from skinfluence._utils.validation import check_queries, reads_raw_data
from skinfluence.curvature import SOLVERS, Space, choose_curvature, choose_solver, make_curvature
from skinfluence.curvature.sketched import SketchPlan, choose_projection
from skinfluence.estimators._base import BaseInfluence
from skinfluence.estimators._head_fidelity import FullModel
from skinfluence.models import head
from skinfluence.sketching import SKETCHES

# Error and share of seeds for sketch_size="auto": the defaults of SketchedInfluence.
EPS, DELTA = 0.25, 0.05

# Arrays of the size of the Hessian that its Cholesky factors take.
N_COPIES = 2

# Queries that are compared where the full Hessian is too large to decompose.
N_COMPARED = 32


class ClassifierHeadInfluence(BaseInfluence):
    """Influence functions over the parameters of a model's linear head.

    The model is taken apart into a featurizer and its last linear layer, the head. One forward
    pass computes the features, and the head is a linear model on them, with the loss, weights and
    penalty of the model: the featurizer counts as a constant.

    Parameters
    ----------
    estimator : estimator
        The model: a Pipeline, a linear model, a perceptron, a `TorchModel` or a skorch net. A
        clone is fitted; a ``FrozenEstimator`` is taken as it is.
    head : str, default="auto"
        "auto" is the last linear layer. Or the name of a layer: "layer 1" of a perceptron, the
        path of a module in torch, the last step of a Pipeline.
    sketch_size : {"auto"}, int or (int, int), default=None
        Numbers stored for each row of the head, as in `SketchedInfluence`. By default nothing is
        sketched, and ``solver`` solves with the full Hessian of the head.
    sketch : {"nystrom", "gaussian", "rademacher", "sjlt", "srdct"}, default="nystrom"
        Kind of the sketch.
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
        Draws the sketch, the preconditioner of "cg" and "lissa", and the queries that
        `head_fidelity` compares.
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
    head_ : str or None
        Name of the layer, None where the model is its own head.
    solver_ : str
        The solver that was used, "sketch" where a sketch took its place.
    damping_ : float
        The damping that was used.
    stationarity_ : float
        Norm of the gradient of the objective at the fitted parameters, over the sum of the
        norms of its terms.
    effective_dimension_ : float
        ``tr(F H^{-1})`` of the head.
    n_stored_ : float
        Numbers that stand for each training row when scores are computed, a mean over the rows
        (of sparse features, stored entries). Factored rows keep their two factors.
    n_samples_, n_params_, n_components_ : int
        Training rows, parameters of the head, columns of the embedding.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    ExactInfluence : Over all parameters.

    Notes
    -----
    Where the featurizer was not fitted on these rows, the result is the influence itself. Where
    it was, the source names conditions under which the result is close; `head_fidelity` measures
    them. Effects of leaving rows out assume that the featurizer stays as it is.

    Where the Hessian of a network's head and its Cholesky factors do not fit into scikit-learn's
    ``working_memory``, above 8,192 parameters by default, ``solver="auto"`` is "cg", which never
    writes the Hessian out. It has no embedding and no memorization; "direct" has, and a sketch.

    References
    ----------
    Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
    Influence, Memorization and Generalization*, section 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skinfluence import ClassifierHeadInfluence
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((8,), solver="lbfgs", alpha=0.1, random_state=0, max_iter=1000)
    >>> influence = ClassifierHeadInfluence(model).fit(X, y)
    >>> influence.head_, influence.n_params_
    ('layer 1', 27)
    >>> influence.influence(X[:5], y[:5]).shape
    (5, 150)
    """

    _parameter_constraints: dict = {
        **BaseInfluence._parameter_constraints,
        "head": [str],
        "sketch_size": [
            None,
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            tuple,
        ],
        "sketch": [StrOptions(set(SKETCHES) - {"identity"})],
        "solver": [StrOptions(SOLVERS)],
    }

    def __init__(
        self,
        estimator,
        *,
        head="auto",
        sketch_size=None,
        sketch="nystrom",
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
        self.head = head
        self.sketch_size = sketch_size
        self.sketch = sketch
        self.damping = damping
        self.solver = solver
        self.curvature = curvature
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.scoring = scoring
        self.verbose = verbose

    def _make_objective(self, fitted_model):
        last_step = _last_step(fitted_model.fitted)
        name = "auto" if self.head == last_step else self.head
        self._found_head = head(
            fitted_model.model,
            fitted_model.features,
            fitted_model.y,
            fitted_model.sample_weight,
            name,
        )
        self.head_ = self._found_head.layer
        return self._found_head.objective

    def _choose_damping(self, objective):
        if self.damping == "auto" and objective.needs_damping:
            # The rule of networks finds more, and agrees less with refits: the head alone has
            # fewer flat directions.
            return 0.1 * objective.mean_eigenvalue(self.curvature)
        return super()._choose_damping(objective)

    def _make_curvature(self, objective, damping):
        kind = choose_curvature(objective, self.curvature, damping)
        if self.sketch_size is not None:
            projection = self._draw(objective, kind, damping)
            if not projection.sketch.is_identity:
                self.solver_ = "sketch"
                return kind, projection.curvature, projection
        self.solver_ = self._choose_solver(objective, kind, damping)
        curvature = make_curvature(objective, kind, self.solver_, self.random_state)
        return kind, curvature, Space(objective.l2_penalty)

    def _choose_solver(self, objective, kind, damping):
        found = choose_solver(objective, kind, self.solver, damping)
        # Iteration needs a definite Hessian; a linear model may have one of separate blocks.
        is_free = self.solver == "auto" and found == "direct" and objective.needs_damping
        n_bytes = 8 * N_COPIES * len(objective.penalty) ** 2
        return "cg" if is_free and damping > 0 and not fits_in_memory(n_bytes) else found

    def _draw(self, objective, kind, damping):
        """Projection of the rows by a sketch."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        plan = SketchPlan.of(objective, kind, damping, sketch=self.sketch, seed=seed)
        return choose_projection(plan, self.sketch_size, eps=EPS, delta=DELTA)

    def head_fidelity(self, X, y, *, curvature="auto", damping="auto"):
        """How far the influence over the head is from the influence over all parameters.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        curvature : {"auto", "hessian", "ggn", "empirical_fisher"}, default="auto"
            Curvature of the full model. "auto" takes the kind that the head has, but "ggn" for
            "hessian": the Hessian of a network may have negative eigenvalues.
        damping : {"auto"} or float, default="auto"
            Damping of both. "auto" is ``damping_``, or 0.1 times the mean eigenvalue of the
            full curvature where ``damping_`` is 0 and the full curvature may be singular.

        Returns
        -------
        result : :class:`~sklearn.utils.Bunch`
            Dictionary-like object with these entries; n_compared is n_queries, or at most 32
            where the model is too large to decompose its Hessian.

            classification, full : ndarray of shape (n_compared, n_train)
                Influences over the head and over all parameters, positive = harmful.
            ratio : ndarray of shape (n_compared, n_train)
                ``classification / full``, the ratio (39); NaN where a row has no influence.
            rho, dispersion, spearman, sign_agreement : ndarray of shape (n_compared,)
                Median ratio over the training rows, how far the ratio is from uniform, and
                the agreement of ranks and signs; see
                :func:`skinfluence.metrics.influence_ratio`.
            queries : ndarray of shape (n_compared,)
                Positions of the compared queries.
            damping : float
                The damping that was used.
            t1 : ndarray of shape (n_head, n_head) or None
                Term (42) of Theorem 1, None where the Hessian is too large. It is 0 if the
                eigenvectors of the Hessian do not mix the head with the rest.
            t2 : ndarray of shape (n_compared, n_train) or None
                Term (43).
            t1_share : float or None
                Norm of t1 over the norm of the Hessian of the head. Dominant inverse eigenvalues
                do not make it small, as the theorem is read: they make ``Q_C' Lambda_C Q_C``
                small, so t1 is negligible only if ``||beta||^2`` is far below the ratio of the
                eigenvalues of the head to the others. On networks it is near 1.
            t2_share : ndarray of shape (n_compared,) or None
                Median over the training rows of t2 relative to the full influence.
            partition : ndarray of bool of shape (n_params_of_model,) or None
                Eigenpairs, in ascending order of the eigenvalues, that count as the head's,
                because they dominate the inverse Hessian on its coordinates.
            inverse_share : float or None
                Their share of the trace of the inverse Hessian. The theorem asks for nearly 1.
            coordinate_share : float or None
                Share of the squared coordinates of their eigenvectors that lies in the head.
                The theorem asks for nearly 1.

        Raises
        ------
        LinAlgError
            If the full curvature has negative eigenvalues at this damping.
        ValueError
            If the influences of a query are all the same, so that they have no ranks.

        References
        ----------
        Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence,
        Relative Influence, Memorization and Generalization*, Theorem 1.
        """
        check_is_fitted(self)
        # The damping of the comparison belongs to the model's own coordinates.
        fit = self.linearisation_.in_model_coordinates()
        objective = fit.fitted_model.objective
        X = check_queries(self, X, numeric=not reads_raw_data(self))
        features = fit.fitted_model.featurize(X)
        y = fit.fitted_model.read_targets(y)
        targets = objective.encode_queries(y, features.shape[0])
        full = self._comparison(curvature, damping)
        chosen = np.arange(features.shape[0])
        if not full.is_decomposed and len(chosen) > N_COMPARED:
            draw = check_random_state(self.random_state).permutation(len(chosen))
            chosen = np.sort(draw[:N_COMPARED])
        features, targets = features[chosen], targets[chosen]
        own = fit.objective.gradient_rows(fit.objective.read(features), targets)
        own = fit.space.project(own)
        classification = -fit.curvature.solve(own, full.damping).inner(fit.training_rows)
        queries = objective.gradient_rows(features, targets)
        return Bunch(**full.compare(queries, classification), queries=chosen)

    def _comparison(self, curvature, damping):
        check_curvature = {"auto", "hessian", "ggn", "empirical_fisher"}
        if curvature not in check_curvature:
            raise ValueError(
                f"curvature must be one of {sorted(check_curvature)}. Got {curvature!r} instead."
            )
        if curvature == "auto":
            curvature = "ggn" if self.curvature == "hessian" else self.curvature
        objective = self.linearisation_.fitted_model.objective
        if damping == "auto":
            damping = self.damping_
            if not (damping > 0 or objective.strictly_convex):
                damping = 0.1 * objective.mean_eigenvalue(curvature)
        return FullModel(objective, self._found_head, curvature, damping, self.random_state)


def _last_step(estimator):
    """Name of the last step of a pipeline, maybe inside a search or frozen."""
    while not hasattr(estimator, "steps"):
        inner = [getattr(estimator, name, None) for name in ("best_estimator_", "estimator")]
        inner = [candidate for candidate in inner if candidate is not None]
        if not inner:
            return None
        estimator = inner[0]
    return estimator.steps[-1][0]
