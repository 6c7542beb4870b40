"""Linear models of scikit-learn: the objective that each of them minimises."""

import numpy as np
import sklearn
from sklearn import linear_model, svm
from sklearn.utils import compute_class_weight
from sklearn.utils.fixes import parse_version

from skinfluence._utils.validation import encode_labels
from skinfluence.models import losses
from skinfluence.models.linear_objective import LinearObjective, linear_objective
from skinfluence.models.registry import objective
from skinfluence.models.weighting import OneVsRestWeighting, OutputWeighting, Weighting

# Balanced class weights follow the sums of sample_weight from this version on, in
# LogisticRegression and LinearSVC; elsewhere they follow the numbers of rows.
_WEIGHTED_BALANCE = parse_version(sklearn.__version__) >= parse_version("1.7")


def _class_weighting(model, y, classes, sample_weight, *, by_counts=True, kind="sum"):
    codes = encode_labels(y, classes)
    class_weight = _class_weight(model, y, classes, by_counts)
    return Weighting(sample_weight, codes, class_weight, kind, len(classes))


def _one_vs_rest_weighting(model, y, classes, sample_weight, *, by_counts, kind="sum"):
    """Weights of one problem for each class, whose class weights apply to its own rows only."""
    class_weight = _class_weight(model, y, classes, by_counts)
    if len(classes) == 2 or class_weight is None:
        codes = encode_labels(y, classes)
        return Weighting(sample_weight, codes, class_weight, kind, len(classes))
    return OneVsRestWeighting(sample_weight, _indicators(y, classes), class_weight, kind)


def _separate_weighting(model, y, classes, sample_weight, *, by_counts):
    """Weights of one problem for each class, each of which balances its class and the rest."""
    class_weight = _class_weight(model, y, classes, by_counts)
    if len(classes) == 2 or not isinstance(class_weight, str):
        codes = encode_labels(y, classes)
        return Weighting(sample_weight, codes, class_weight, n_classes=len(classes))
    return OutputWeighting(sample_weight, _indicators(y, classes), class_weight)


def _indicators(y, classes):
    return 1 * (encode_labels(y, classes)[:, None] == np.arange(len(classes)))


def _class_weight(model, y, classes, by_counts):
    class_weight = getattr(model, "class_weight", None)
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        return "balanced_counts" if by_counts else "balanced"
    return compute_class_weight(class_weight, classes=classes, y=np.asarray(y))


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
    liblinear = model.solver == "liblinear"
    one_vs_rest = liblinear or getattr(model, "multi_class", "") == "ovr"
    if len(classes) == 2 or one_vs_rest:
        loss = losses.LogisticLoss()
    else:
        loss = losses.SoftmaxLoss(len(classes))
        strength = strength[:1]
    make_weighting = _class_weighting
    if one_vs_rest:
        make_weighting = _one_vs_rest_weighting if liblinear else _separate_weighting
    weighting = make_weighting(model, y, classes, sample_weight, by_counts=not _WEIGHTED_BALANCE)
    # In liblinear the intercept is the weight of one more feature, equal to intercept_scaling.
    scaling = model.intercept_scaling if liblinear else np.inf
    return linear_objective(
        model,
        X,
        y,
        loss,
        weighting,
        classes=classes,
        ridge=l2 / strength,
        lasso=l1 / strength,
        intercept_ridge=l2 / strength / scaling**2,
        intercept_lasso=l1 / strength / scaling,
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
    # The objective is a mean: as a sum, its penalty is multiplied by the sum of the weights.
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
        model, y, model.classes_, sample_weight, by_counts=not _WEIGHTED_BALANCE
    )
    intercept_ridge = 1 / (model.C * model.intercept_scaling**2)
    return linear_objective(
        model,
        X,
        y,
        loss,
        weighting,
        classes=model.classes_,
        ridge=1 / model.C,
        intercept_ridge=intercept_ridge,
    )


@objective.register(svm.LinearSVR)
def _(model, X, y, sample_weight):
    smooth = model.loss == "squared_epsilon_insensitive"
    _refuse_unless(model, smooth, "loss='squared_epsilon_insensitive'")
    loss = losses.SquaredEpsilonInsensitive(model.epsilon)
    intercept_ridge = 1 / (model.C * model.intercept_scaling**2)
    return linear_objective(
        model,
        X,
        y,
        loss,
        Weighting(sample_weight),
        ridge=1 / model.C,
        intercept_ridge=intercept_ridge,
    )


@objective.register(linear_model.HuberRegressor)
def _(model, X, y, sample_weight):
    loss = losses.ConcomitantHuber(model.epsilon)
    intercepts = np.array(
        [model.intercept_, model.scale_][not model.fit_intercept :], dtype=np.float64
    )
    return LinearObjective(
        loss=loss,
        features=X,
        targets=loss.encode(y, None),
        weighting=Weighting(sample_weight),
        weights=np.atleast_2d(model.coef_).astype(np.float64),
        intercepts=intercepts,
        feature_outputs=np.array([0]),
        intercept_outputs=np.array([0, 1][not model.fit_intercept :]),
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
        model, y, model.classes_, sample_weight, by_counts=True, kind="count"
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
