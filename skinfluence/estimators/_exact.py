"""Influence by the full curvature, solved exactly or to a tolerance."""

from skinfluence._utils.sklearn_private import StrOptions
from skinfluence.curvature import SOLVERS, Space, choose_curvature, choose_solver, make_curvature
from skinfluence.estimators._base import BaseInfluence


class ExactInfluence(BaseInfluence):
    """Influence functions with the full curvature of the model.

    Parameters
    ----------
    estimator : estimator
        The model: a linear model or a network that the package knows, alone or inside a Pipeline
        or a search, or one linear model for each output or class (``OneVsRestClassifier`` and the
        like). A clone is fitted; a ``FrozenEstimator`` is taken as it is. The transformer of a
        ``TransformedTargetRegressor`` stays fixed, and losses are in the unit of the transformed
        targets; the base estimators of a stack must be frozen, and stay fixed too.
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
        Draws the preconditioner of "cg" and "lissa".
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
        ``tr(F H^{-1})``.
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
    SketchedInfluence : The same from few numbers for each row.

    References
    ----------
    Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import ExactInfluence
    >>> X, y = np.array([[-1.0], [1.0], [1.0]]), np.array([-1.0, 1.0, 4.0])
    >>> model = Ridge(alpha=1.0, fit_intercept=False)
    >>> influence = ExactInfluence(model).fit(X, y)
    >>> influence.estimator_.coef_
    array([1.5])

    The third row pulls the slope up, away from the query (1, 1): giving it more weight raises
    the loss there.

    >>> influence.influence([[1.0]], [1.0])
    array([[-0.375, -0.375,  1.875]])

    Leaving it out lowers the loss from 0.25 to 0.111.

    >>> influence.leave_one_out_effect([[1.0]], [1.0])
    array([[ 0.194,  0.194, -0.139]])
    """

    _parameter_constraints: dict = {
        **BaseInfluence._parameter_constraints,
        "solver": [StrOptions(SOLVERS)],
    }

    def __init__(
        self,
        estimator,
        *,
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
        self.damping = damping
        self.solver = solver
        self.curvature = curvature
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.scoring = scoring
        self.verbose = verbose

    def _make_curvature(self, objective, damping):
        kind = choose_curvature(objective, self.curvature, damping)
        self.solver_ = choose_solver(objective, kind, self.solver, damping)
        curvature = make_curvature(objective, kind, self.solver_, self.random_state)
        return kind, curvature, Space(objective.l2_penalty)
