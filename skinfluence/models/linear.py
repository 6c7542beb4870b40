"""Linear models of scikit-learn: the objective that each of them minimises, in closed form."""

import warnings

import numpy as np
import sklearn
from scipy.sparse import issparse
from sklearn import linear_model, svm
from sklearn.utils import compute_class_weight
from sklearn.utils.fixes import parse_version

from skinfluence._compat import encode_labels
from skinfluence.models import losses
from skinfluence.models.objectives import Objective, select
from skinfluence.models.registry import objective
from skinfluence.models.weighting import Weighting
from skinfluence.rows import KroneckerRows, outer_moment

# Balanced class weights follow the sums of sample_weight from this version on, in
# LogisticRegression and LinearSVC; elsewhere they follow the numbers of rows.
_WEIGHTED_BALANCE = parse_version(sklearn.__version__) >= parse_version("1.7")


class LinearObjective(Objective):
    """Outputs ``z = W x + b``, with coordinates ``[W.ravel(), b]``.

    Parameters
    ----------
    weights : ndarray of shape (c, n_features)
        Weights of the outputs that use the features.
    free : ndarray of shape (f,)
        Intercepts, and other outputs that are constants.
    feature_outputs, free_outputs : ndarray of int
        To which of the k outputs the weights and the free parameters belong.
    ridge : ndarray of shape (c,)
        Penalty of the objective on the weights of each output.
    free_ridge : float
        Penalty of the objective on the intercepts.
    expand : ndarray of shape (n_outputs_of_model, c), default=None
        Outputs of the model from those of the loss, where the two differ.
    lasso : ndarray of shape (c,), default=None
        L1 penalty of the objective on the weights of each output. Influence is then taken on
        the active set, the weights that are not 0.
    **settings
        Passed on to Objective.
    """

    def __init__(
        self,
        *,
        weights,
        free,
        feature_outputs,
        free_outputs,
        ridge,
        free_ridge=0.0,
        expand=None,
        lasso=None,
        **settings,
    ):
        self.weights = weights
        self.free = free
        self.feature_outputs = feature_outputs
        self.free_outputs = free_outputs
        self.expand = expand
        ridge = np.repeat(np.broadcast_to(ridge, len(weights)), weights.shape[1])
        penalty = np.concatenate([ridge, np.full(len(free), float(free_ridge))])
        theta = np.concatenate([weights.ravel(), free])
        slope = np.zeros_like(theta)
        self.active = None
        kept = slice(None)
        if lasso is not None:
            lasso = np.broadcast_to(lasso, len(weights))[:, None]
            slope[: weights.size] = (lasso * np.sign(weights)).ravel()
            intercepts = weights.size + np.arange(len(free))
            kept = self.active = np.concatenate([np.flatnonzero(weights), intercepts])
        super().__init__(
            penalty=penalty[kept],
            slope=slope[kept],
            theta=theta[kept],
            n_params=round(len(theta) * (1 if expand is None else len(expand) / len(weights))),
            **settings,
        )

    @property
    def _n_outputs(self):
        return 1 + max([*self.feature_outputs, *self.free_outputs])

    def outputs(self, features):
        return self.shifted_outputs(features, self.weights, self.free)

    def shifted_outputs(self, features, weights, free):
        """Outputs for other parameters, with leading axes for several models at once."""
        *models, c, d = weights.shape
        z = np.zeros((*models, features.shape[0], self._n_outputs))
        scores = np.asarray(features @ weights.reshape(-1, d).T)
        scores = np.moveaxis(scores.reshape(-1, *models, c), 0, -2)
        z[..., self.feature_outputs] += scores
        z[..., self.free_outputs] += free[..., None, :]
        return z

    @property
    def strictly_convex(self):
        n_free = len(self.free)
        return bool((self.penalty[: len(self.penalty) - n_free] > 0).all())

    def pullback(self, features, vectors):
        rows = KroneckerRows(
            vectors[:, :, self.feature_outputs], features, vectors[:, :, self.free_outputs]
        )
        return select(rows, self.active)

    def hessian(self, curvature):
        if curvature == "empirical_fisher" or self.active is not None:
            return super().hessian(curvature)
        second = self.loss.hessian(self.training_outputs, self.targets)
        weight = self.weight / self.total_weight
        if self.loss.separable:
            return self._independent_hessians(second * weight[:, None])
        second = second * weight[:, None, None]
        inner = second[:, self.feature_outputs][:, :, self.feature_outputs]
        cross = second[:, self.feature_outputs][:, :, self.free_outputs]
        outer = second[:, self.free_outputs][:, :, self.free_outputs]
        moment = outer_moment(self.features, inner, cross, outer)
        return np.arange(len(moment))[None], moment[None]

    def _independent_hessians(self, second):
        c, d = self.weights.shape
        has_free = len(self.free) > 0
        index = np.arange(c * d).reshape(c, d)
        if has_free:
            index = np.hstack([index, c * d + np.arange(c)[:, None]])
        blocks = []
        for k in range(c):
            h = second[:, k, None, None]
            edge = h if has_free else h[:, :, :0]
            blocks.append(outer_moment(self.features, h, edge, edge[:, : int(has_free)]))
        return index, np.stack(blocks)

    def to_parameters(self, coordinates):
        if self.active is not None:
            full = np.zeros((len(coordinates), self.weights.size + self.free.size))
            full[:, self.active] = coordinates
            coordinates = full
        if self.expand is None:
            return coordinates
        c, d = self.weights.shape
        weights = coordinates[:, : c * d].reshape(-1, c, d)
        parameters = np.matmul(self.expand, weights).reshape(len(coordinates), -1)
        if not len(self.free):
            return parameters
        return np.hstack([parameters, coordinates[:, c * d :] @ self.expand.T])


def linear_objective(model, X, y, loss, weighting, *, ridge, lasso=0.0, classes=None, **penalties):
    """Objective of a fitted model with ``coef_`` and ``intercept_``.

    Parameters
    ----------
    model : estimator
        The fitted model.
    X : {array, CSR matrix} of shape (n_samples, n_features)
        Training rows.
    y : array of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    loss : Loss
        Loss of one row, from `skinfluence.models.losses` or of one's own.
    weighting : Weighting
        Weights of the rows.
    ridge, lasso : float or ndarray of shape (n_outputs,)
        The objective is ``sum_i w_i loss_i + ridge / 2 ||W||^2 + lasso ||W||_1``.
    classes : ndarray, default=None
        Labels of a classifier.
    **penalties
        ``free_ridge``, the L2 penalty of the intercepts, if they have one.

    Returns
    -------
    LinearObjective
    """
    weights = model.coef_.toarray() if issparse(model.coef_) else np.atleast_2d(model.coef_)
    weights = weights.astype(np.float64)
    free = np.broadcast_to(np.ravel(model.intercept_), len(weights)).astype(np.float64)
    free = free if getattr(model, "fit_intercept", True) else free[:0]
    sparse = np.any(lasso)
    if sparse:
        _warn_of_active_set(model, weights)
        penalties["lasso"] = lasso
    if isinstance(loss, losses.SoftmaxLoss):
        contrasts = loss.contrasts
        if sparse:
            # The active set is one of classes, not of their contrasts.
            loss = losses.SoftmaxLoss(len(classes), contrasts=np.eye(len(classes)))
        else:
            penalties["expand"] = contrasts
            weights = contrasts.T @ weights
            free = contrasts.T @ free if len(free) else free
    outputs = np.arange(len(weights))
    return LinearObjective(
        loss=loss,
        features=X,
        targets=loss.encode(y, classes),
        weighting=weighting,
        classes=classes,
        weights=weights,
        free=free,
        feature_outputs=outputs,
        free_outputs=outputs[: len(free)],
        ridge=ridge,
        **penalties,
    )


def _warn_of_active_set(model, weights):
    warnings.warn(
        f"{type(model).__name__} has an L1 penalty: influence is taken on its active set, the "
        f"{np.count_nonzero(weights)} of {weights.size} weights that are not 0, as if no weight "
        "entered or left it.",
        UserWarning,
        stacklevel=6,
    )


def _class_weighting(model, y, classes, sample_weight, *, by_counts=True, kind="sum"):
    codes = encode_labels(y, classes)
    class_weight = getattr(model, "class_weight", None)
    if class_weight == "balanced":
        class_weight = "balanced_counts" if by_counts else "balanced"
    elif class_weight is not None:
        class_weight = compute_class_weight(class_weight, classes=classes, y=np.asarray(y))
    return Weighting(sample_weight, codes, class_weight, kind)


def _one_vs_rest_weighting(model, y, classes, sample_weight, loss, *, by_counts, kind="sum"):
    """Weights of a one-vs-rest problem, whose class weights hold for the positive rows only."""
    weighting = _class_weighting(model, y, classes, sample_weight, by_counts=by_counts, kind=kind)
    if len(classes) > 2 and weighting.class_weight is not None:
        loss.positive_weight = weighting.group_weight
        weighting = Weighting(sample_weight, weighting.codes, None, kind)
    return weighting


def _penalties(model):
    """Shares of the L2 and of the L1 penalty, ``(l2, l1)``."""
    kind = getattr(model, "penalty", "deprecated")
    if kind is None or kind == "none":
        return 0.0, 0.0
    ratios = np.ravel(getattr(model, "l1_ratio_", getattr(model, "l1_ratio", 0.0)))
    ratio = {"l2": 0.0, "l1": 1.0}.get(kind, 0.0 if ratios[0] is None else float(ratios[0]))
    return 1.0 - ratio, ratio


@objective.register(linear_model.LogisticRegression)
def _(model, X, y, sample_weight):
    classes = model.classes_
    strength = np.ravel(model.C_ if hasattr(model, "C_") else model.C)
    l2, l1 = _penalties(model)
    one_vs_rest = model.solver == "liblinear" or getattr(model, "multi_class", "") == "ovr"
    if len(classes) == 2 or one_vs_rest:
        loss = losses.LogisticLoss()
    else:
        loss = losses.SoftmaxLoss(len(classes))
        strength = strength[:1]
    weighting = (
        _one_vs_rest_weighting(
            model, y, classes, sample_weight, loss, by_counts=not _WEIGHTED_BALANCE
        )
        if one_vs_rest
        else _class_weighting(model, y, classes, sample_weight, by_counts=not _WEIGHTED_BALANCE)
    )
    penalised_intercept = model.solver == "liblinear"
    return linear_objective(
        model,
        X,
        y,
        loss,
        weighting,
        classes=classes,
        ridge=l2 / strength,
        lasso=l1 / strength,
        free_ridge=l2 / strength[0] / model.intercept_scaling**2 if penalised_intercept else 0.0,
    )


@objective.register(linear_model.LinearRegression)
@objective.register(linear_model.Ridge)
@objective.register(linear_model.RidgeCV)
def _(model, X, y, sample_weight):
    _refuse_unless(model, not getattr(model, "positive", False), "positive=False")
    alpha = getattr(model, "alpha_", getattr(model, "alpha", 0.0))
    return linear_objective(
        model, X, y, losses.SquaredLoss(), Weighting(sample_weight), ridge=2 * np.asarray(alpha)
    )


@objective.register(linear_model.RidgeClassifier)
@objective.register(linear_model.RidgeClassifierCV)
def _(model, X, y, sample_weight):
    alpha = np.asarray(getattr(model, "alpha_", getattr(model, "alpha", 0.0)))
    weighting = _class_weighting(model, y, model.classes_, sample_weight)
    return linear_objective(
        model, X, y, losses.SignedSquares(), weighting, classes=model.classes_, ridge=2 * alpha
    )


@objective.register(linear_model.PoissonRegressor)
@objective.register(linear_model.GammaRegressor)
@objective.register(linear_model.TweedieRegressor)
def _(model, X, y, sample_weight):
    power = {linear_model.PoissonRegressor: 1, linear_model.GammaRegressor: 2}.get(
        type(model), getattr(model, "power", None)
    )
    log_link = (
        power > 0
        if getattr(model, "link", "log") == "auto"
        else (getattr(model, "link", "log") == "log")
    )
    loss = losses.HalfTweedieLoss(power, log_link)
    # The objective is a mean: its penalty has the weight of all rows together.
    ridge = model.alpha * sample_weight.sum()
    return linear_objective(model, X, y, loss, Weighting(sample_weight, kind="mean"), ridge=ridge)


@objective.register(linear_model.ElasticNet)
@objective.register(linear_model.ElasticNetCV)
def _(model, X, y, sample_weight):
    grouped = isinstance(model, linear_model.MultiTaskElasticNet)
    _refuse_unless(model, not grouped, "one ElasticNet or Ridge for each target")
    _refuse_unless(model, not model.positive, "positive=False")
    alpha = getattr(model, "alpha_", getattr(model, "alpha", None))
    ratio = getattr(model, "l1_ratio_", getattr(model, "l1_ratio", 1.0))
    total = sample_weight.sum()
    loss = losses.SquaredLoss(factor=0.5)
    weighting = Weighting(sample_weight, kind="mean")
    ridge, lasso = alpha * (1 - ratio) * total, alpha * ratio * total
    return linear_objective(model, X, y, loss, weighting, ridge=ridge, lasso=lasso)


objective.register(linear_model.LassoCV, objective.dispatch(linear_model.ElasticNetCV))


@objective.register(svm.LinearSVC)
def _(model, X, y, sample_weight):
    _refuse_unless(model, model.loss == "squared_hinge", "loss='squared_hinge'")
    _refuse_unless(model, model.penalty == "l2", "penalty='l2'")
    _refuse_unless(model, model.multi_class == "ovr", "multi_class='ovr'")
    loss = losses.SquaredHinge()
    weighting = _one_vs_rest_weighting(
        model, y, model.classes_, sample_weight, loss, by_counts=not _WEIGHTED_BALANCE
    )
    free_ridge = 1 / (model.C * model.intercept_scaling**2)
    return linear_objective(
        model,
        X,
        y,
        loss,
        weighting,
        classes=model.classes_,
        ridge=1 / model.C,
        free_ridge=free_ridge,
    )


@objective.register(svm.LinearSVR)
def _(model, X, y, sample_weight):
    smooth = model.loss == "squared_epsilon_insensitive"
    _refuse_unless(model, smooth, "loss='squared_epsilon_insensitive'")
    loss = losses.SquaredEpsilonInsensitive(model.epsilon)
    free_ridge = 1 / (model.C * model.intercept_scaling**2)
    return linear_objective(
        model, X, y, loss, Weighting(sample_weight), ridge=1 / model.C, free_ridge=free_ridge
    )


@objective.register(linear_model.HuberRegressor)
def _(model, X, y, sample_weight):
    loss = losses.ConcomitantHuber(model.epsilon)
    free = np.array([model.intercept_, model.scale_][not model.fit_intercept :], dtype=np.float64)
    return LinearObjective(
        loss=loss,
        features=X,
        targets=loss.encode(y, None),
        weighting=Weighting(sample_weight),
        weights=np.atleast_2d(model.coef_).astype(np.float64),
        free=free,
        feature_outputs=np.array([0]),
        free_outputs=np.array([0, 1][not model.fit_intercept :]),
        ridge=2 * model.alpha,
    )


@objective.register(linear_model.SGDClassifier)
def _(model, X, y, sample_weight):
    smooth = {
        "log_loss": losses.LogisticLoss,
        "squared_hinge": losses.SquaredHinge,
        "modified_huber": losses.ModifiedHuber,
    }
    _refuse_unless(
        model, model.loss in smooth, "loss in 'log_loss', 'squared_hinge', 'modified_huber'"
    )
    loss = smooth[model.loss]()
    weighting = _one_vs_rest_weighting(
        model, y, model.classes_, sample_weight, loss, by_counts=True, kind="count"
    )
    return _sgd(model, X, y, loss, weighting, classes=model.classes_)


@objective.register(linear_model.SGDRegressor)
def _(model, X, y, sample_weight):
    smooth = {
        "squared_error": lambda: losses.SquaredLoss(factor=0.5),
        "huber": lambda: losses.FixedHuber(model.epsilon),
        "squared_epsilon_insensitive": lambda: losses.SquaredEpsilonInsensitive(model.epsilon),
    }
    _refuse_unless(
        model,
        model.loss in smooth,
        "loss in 'squared_error', 'huber', 'squared_epsilon_insensitive'",
    )
    return _sgd(model, X, y, smooth[model.loss](), Weighting(sample_weight, kind="count"))


def _sgd(model, X, y, loss, weighting, **more):
    l2, l1 = _penalties(model)
    # The objective divides by the number of rows, whatever their weights.
    total = model.alpha * X.shape[0]
    return linear_objective(
        model, X, y, loss, weighting, ridge=l2 * total, lasso=l1 * total, **more
    )


def _refuse_unless(model, condition, supported):
    if not condition:
        raise TypeError(
            f"This {type(model).__name__} has an objective that is not smooth, so influence is "
            f"not defined. Supported: {supported}."
        )
