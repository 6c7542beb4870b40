"""Influence against a dense reference: objectives written out, differentiated by torch.

Nothing of the package is used on the side of the reference but the fitted parameters.
"""

import numpy as np
import pytest
from sklearn import linear_model as lm
from sklearn import svm

from skinfluence import ExactInfluence
from skinfluence.models import objective
from tests.helpers import assert_close, cancer, diabetes, wine

torch = pytest.importorskip("torch")

N_TRAIN, N_QUERIES = 90, 12


def scores(theta, X, n_outputs, intercept=True):
    weights = theta[: n_outputs * X.shape[1]].reshape(n_outputs, X.shape[1])
    free = theta[n_outputs * X.shape[1] :][:n_outputs] if intercept else 0.0
    return X @ weights.T + free


def signs(y, n_classes):
    onehot = torch.nn.functional.one_hot(y.long(), n_classes).double()
    return 2 * (onehot[:, 1:] if n_classes == 2 else onehot) - 1


def logistic(z, y, k):
    return torch.nn.functional.softplus(-signs(y, k) * z).sum(1)


def softmax(z, y, k):
    return torch.logsumexp(z, 1) - z[torch.arange(len(y)), y.long()]


def squared_hinge(z, y, k):
    return (torch.clamp(1 - signs(y, k) * z, min=0) ** 2).sum(1)


def modified_huber(z, y, k):
    m = signs(y, k) * z
    return torch.where(m >= -1, torch.clamp(1 - m, min=0) ** 2, -4 * m).sum(1)


def signed_squares(z, y, k):
    return ((signs(y, k) - z) ** 2).sum(1)


def squares(z, y, k):
    return ((y.reshape(len(y), -1) - z) ** 2).sum(1)


def half_squares(z, y, k):
    return squares(z, y, k) / 2


def fixed_huber(z, y, k):
    t = torch.abs(y[:, None] - z)
    return torch.where(t <= 30.0, t**2 / 2, 30.0 * t - 30.0**2 / 2).sum(1)


def tube(z, y, k):
    return (torch.clamp(torch.abs(y[:, None] - z) - 20.0, min=0) ** 2).sum(1)


def tweedie(power, log=True):
    def loss(z, y, k):
        mu, y = (torch.exp(z) if log else z)[:, 0], y
        if power == 0:
            return (y - mu) ** 2 / 2
        if power == 1:
            return mu - y * torch.log(mu)
        if power == 2:
            return torch.log(mu) + y / mu
        return mu ** (2 - power) / (2 - power) - y * mu ** (1 - power) / (1 - power)

    return loss


CLASSES = {"binary": 2, "multi": 3}


def data(kind):
    rng = np.random.default_rng(0)
    load, n_features = {"binary": (cancer, 6), "multi": (wine, 5)}.get(kind, (diabetes, 6))
    X, y = load()
    X = X[:, :n_features]
    chosen = rng.permutation(len(y))[: N_TRAIN + N_QUERIES]
    X, y = X[chosen], y[chosen]
    if kind == "targets":
        y = np.column_stack([y, 100 * X[:, 0] + y**1.2])
    return X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:], y[N_TRAIN:]


def balanced(y, s, by_counts=False):
    size = np.ones_like(s) if by_counts else s
    sums = np.array([size[y == k].sum() for k in np.unique(y)])
    return (sums.sum() / (len(sums) * sums))[y]


def balanced_counts(y, s):
    return balanced(y, s, by_counts=True)


def uneven(y, s):
    return np.array([2.0, 0.5, 3.0])[y]


def none(y, s):
    return np.ones_like(s)


NC = {"solver": "newton-cholesky", "tol": 1e-10}
LR, LRCV = lm.LogisticRegression, lm.LogisticRegressionCV
CV = {"Cs": [0.1, 1.0], "cv": 3, "tol": 1e-10, "max_iter": 2000}

# name: (data, model, loss, penalty of the sum objective on (weights, intercepts), class weights)
# A penalty is a function of the fitted model and of the user's weights.
CASES = {
    "logistic": ("binary", LR(**NC), logistic, lambda m, s: (1.0, 0), none),
    "logistic C": ("binary", LR(C=0.1, **NC), logistic, lambda m, s: (10.0, 0), none),
    "logistic dict": (
        "binary", LR(class_weight={0: 2.0, 1: 0.5}, **NC), logistic, lambda m, s: (1.0, 0), uneven,
    ),
    "logistic balanced": (
        "binary", LR(class_weight="balanced", **NC), logistic, lambda m, s: (1.0, 0), balanced,
    ),
    "logistic no intercept": (
        "binary", LR(fit_intercept=False, **NC), logistic, lambda m, s: (1.0, None), none,
    ),
    "logistic no penalty": ("binary", LR(C=np.inf, **NC), logistic, lambda m, s: (0, 0), none),
    "logistic liblinear": (
        "binary",
        LR(solver="liblinear", intercept_scaling=2.0, C=0.5),
        logistic,
        lambda m, s: (2.0, 0.5),
        none,
    ),
    "logistic cv": ("binary", LRCV(**CV), logistic, lambda m, s: (1 / float(np.ravel(m.C_)[0]), 0),
                    none),
    "softmax": ("multi", LR(**NC), softmax, lambda m, s: (1.0, 0), none),
    "softmax balanced": (
        "multi", LR(class_weight="balanced", **NC), softmax, lambda m, s: (1.0, 0), balanced,
    ),
    "softmax dict": (
        "multi", LR(class_weight={0: 2.0, 1: 0.5, 2: 3.0}, **NC), softmax, lambda m, s: (1.0, 0),
        uneven,
    ),
    "softmax no intercept": (
        "multi", LR(fit_intercept=False, **NC), softmax, lambda m, s: (1.0, None), none,
    ),
    "softmax no penalty": ("multi", LR(C=np.inf, tol=1e-8, max_iter=5000), softmax,
                           lambda m, s: (0, 0), none),
    "linear": ("real", lm.LinearRegression(), squares, lambda m, s: (0, 0), none),
    "linear no intercept": (
        "real", lm.LinearRegression(fit_intercept=False), squares, lambda m, s: (0, None), none,
    ),
    "ridge": ("real", lm.Ridge(2.0), squares, lambda m, s: (4.0, 0), none),
    "ridge targets": (
        "targets", lm.Ridge(np.array([1.0, 5.0])), squares,
        lambda m, s: (np.array([2.0, 10.0]), 0), none,
    ),
    "ridge cv": ("real", lm.RidgeCV(), squares, lambda m, s: (2 * m.alpha_, 0), none),
    "ridge classifier": (
        "binary", lm.RidgeClassifier(class_weight="balanced"), signed_squares,
        lambda m, s: (2.0, 0), balanced_counts,
    ),
    "ridge classifier multi": (
        "multi", lm.RidgeClassifier(3.0), signed_squares, lambda m, s: (6.0, 0), none,
    ),
    "ridge classifier cv": (
        "multi", lm.RidgeClassifierCV(), signed_squares, lambda m, s: (2 * m.alpha_, 0), none,
    ),
    "poisson": (
        "real", lm.PoissonRegressor(alpha=0.5, **NC), tweedie(1),
        lambda m, s: (0.5 * s.sum(), 0), none,
    ),
    "gamma": (
        "real", lm.GammaRegressor(alpha=0.5, **NC), tweedie(2),
        lambda m, s: (0.5 * s.sum(), 0), none,
    ),
    "tweedie 1.5": (
        "real", lm.TweedieRegressor(power=1.5, alpha=0.5, **NC), tweedie(1.5),
        lambda m, s: (0.5 * s.sum(), 0), none,
    ),
    "tweedie 0": (
        "real", lm.TweedieRegressor(power=0, link="log", alpha=0.5, **NC), tweedie(0),
        lambda m, s: (0.5 * s.sum(), 0), none,
    ),
    "tweedie 3": (
        "real", lm.TweedieRegressor(power=3, alpha=1e-3, tol=1e-9, max_iter=5000), tweedie(3),
        lambda m, s: (1e-3 * s.sum(), 0), none,
    ),
    "tweedie identity": (
        "real", lm.TweedieRegressor(power=0, alpha=0.5, **NC), tweedie(0, log=False),
        lambda m, s: (0.5 * s.sum(), 0), none,
    ),
    "svc": (
        "binary", svm.LinearSVC(tol=1e-9, max_iter=100_000, intercept_scaling=2.0,
                                class_weight="balanced"),
        squared_hinge, lambda m, s: (1.0, 0.25), balanced,
    ),
    "svc multi": (
        "multi", svm.LinearSVC(tol=1e-9, max_iter=100_000, C=0.3), squared_hinge,
        lambda m, s: (1 / 0.3, 1 / 0.3), none,
    ),
    "svr": (
        "real",
        svm.LinearSVR(epsilon=20.0, loss="squared_epsilon_insensitive", dual=False, tol=1e-9,
                      max_iter=100_000),
        tube, lambda m, s: (1.0, 1.0), none,
    ),
    "sgd log": (
        "binary", lm.SGDClassifier("log_loss", alpha=0.1, class_weight="balanced", random_state=0),
        logistic, lambda m, s: (0.1 * len(s), 0), balanced_counts,
    ),
    "sgd multi": (
        "multi", lm.SGDClassifier("log_loss", alpha=0.1, random_state=0), logistic,
        lambda m, s: (0.1 * len(s), 0), none,
    ),
    "sgd modified huber": (
        "binary", lm.SGDClassifier("modified_huber", alpha=0.1, random_state=0), modified_huber,
        lambda m, s: (0.1 * len(s), 0), none,
    ),
    "sgd regressor": (
        "real", lm.SGDRegressor(alpha=0.1, random_state=0), half_squares,
        lambda m, s: (0.1 * len(s), 0), none,
    ),
    "sgd huber": (
        "real", lm.SGDRegressor("huber", epsilon=30.0, alpha=0.1, random_state=0), fixed_huber,
        lambda m, s: (0.1 * len(s), 0), none,
    ),
    "elastic net": (
        "real", lm.ElasticNet(alpha=1.5, l1_ratio=0.7, tol=1e-12, max_iter=100_000), half_squares,
        lambda m, s: (1.5 * 0.3 * s.sum(), 0), none,
    ),
    "lasso": (
        "real", lm.Lasso(alpha=8.0, tol=1e-12), half_squares, lambda m, s: (0, 0), none,
    ),
    "logistic l1": (
        "binary", LR(solver="saga", l1_ratio=0.9, C=0.05, tol=1e-10, max_iter=20_000),
        logistic, lambda m, s: (0.1 / 0.05, 0), none,
    ),
    "softmax l1": (
        "multi", LR(solver="saga", l1_ratio=0.6, C=0.05, tol=1e-10, max_iter=20_000),
        softmax, lambda m, s: (0.4 / 0.05, 0), none,
    ),
}  # fmt: skip


def reference(model, kind, loss, penalties, class_weights, s, X, y, Xq, yq):
    """Dense influence in the model's own layout, and the parameters' influence."""
    X, Xq = torch.tensor(X), torch.tensor(Xq)
    targets, queries = torch.tensor(y).double(), torch.tensor(yq).double()
    coef = np.atleast_2d(model.coef_)
    ridge, free_ridge = penalties(model, s)
    intercept = free_ridge is not None
    theta = np.concatenate([coef.ravel(), np.ravel(model.intercept_)[: len(coef) * intercept]])
    theta = torch.tensor(theta, dtype=torch.float64)
    weight = torch.tensor(s * class_weights(y, s))
    classes = CLASSES.get(kind)

    def losses(t, X, y):
        return loss(scores(t, X, len(coef), intercept), y, classes)

    def total(t):
        return weight @ losses(t, X, targets)

    hessian = torch.func.hessian(total)(theta).numpy()
    strength = np.repeat(np.broadcast_to(ridge, len(coef)), coef.shape[1])
    strength = np.concatenate([strength, np.full(len(coef) * intercept, free_ridge or 0.0)])
    hessian = (hessian + np.diag(strength)) / weight.sum().item()
    free = np.ones(len(theta), dtype=bool)
    if getattr(model, "l1_ratio", None) or isinstance(model, lm.Lasso):
        free[: coef.size] = coef.ravel() != 0
    hessian = hessian[np.ix_(free, free)]
    train = torch.func.jacrev(losses)(theta, X, targets).numpy()[:, free]
    query = torch.func.jacrev(losses)(theta, Xq, queries).numpy()[:, free]
    solved = -np.linalg.pinv(hessian, rcond=1e-10, hermitian=True) @ train.T
    parameters = np.zeros((len(y), len(theta)))
    parameters[:, free] = solved.T
    return query @ solved, parameters


@pytest.mark.filterwarnings(
    # The influence at given parameters is compared, wherever their solver stopped; the active
    # set and the null direction of an L1 softmax have tests of their own.
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:.*L1 penalty:UserWarning",
    "ignore:The curvature is singular:skinfluence.exceptions.NumericalWarning",
    "ignore::FutureWarning",
)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_influence_is_that_of_the_written_out_objective(name, weighted, rng):
    kind, estimator, loss, penalties, class_weights = CASES[name]
    X, y, Xq, yq = data(kind)
    s = rng.uniform(0.2, 3.0, len(y)) if weighted else np.ones(len(y))
    influence = ExactInfluence(estimator, damping=0.0)
    influence.fit(X, y, sample_weight=s if weighted else None)
    expected, parameters = reference(
        influence.estimator_, kind, loss, penalties, class_weights, s, X, y, Xq, yq
    )
    assert_close(influence.influence(Xq, yq), expected, 1e-8)
    assert_close(influence.parameter_influence(), parameters, 1e-8)


def test_huber_has_its_scale_as_a_parameter():
    X, y, Xq, yq = data("real")
    influence = ExactInfluence(lm.HuberRegressor(alpha=0.5, tol=1e-8, max_iter=5000)).fit(X, y)
    model = influence.estimator_
    theta = torch.tensor([*model.coef_, model.intercept_, model.scale_], dtype=torch.float64)

    def losses(t, X, y):
        sigma, r = t[-1], (y - X @ t[: X.shape[1]] - t[-2]) / t[-1]
        outside = 2 * 1.35 * torch.abs(r) - 1.35**2
        return sigma * (1 + torch.where(torch.abs(r) <= 1.35, r**2, outside))

    tensors = [torch.tensor(a) for a in (X, y, Xq, yq)]
    hessian = torch.func.hessian(lambda t: losses(t, *tensors[:2]).sum())(theta).numpy()
    hessian[np.arange(X.shape[1]), np.arange(X.shape[1])] += 2 * 0.5
    train, query = (
        torch.func.jacrev(losses)(theta, *pair).numpy() for pair in (tensors[:2], tensors[2:])
    )
    expected = -query @ np.linalg.solve(hessian / len(y), train.T)
    assert_close(influence.influence(Xq, yq), expected, 1e-8)
    assert influence.n_params_ == X.shape[1] + 2


# Later versions of scikit-learn tell both by l1_ratio.
@pytest.mark.filterwarnings("ignore:.*penalty.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:Inconsistent values:UserWarning")
@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
@pytest.mark.parametrize("penalty", ["l1", "l2", "elasticnet"])
def test_penalties_by_name_are_in_the_objective(penalty):
    X, y = cancer()
    more = {"l1_ratio": 0.3} if penalty == "elasticnet" else {}
    model = LR(penalty=penalty, solver="saga", C=0.05, tol=1e-10, max_iter=20_000, **more)
    found = objective(model.fit(X[:80, :5], y[:80]), X[:80, :5], y[:80], np.ones(80))
    assert found.stationarity < 1e-8
