"""Weights of the training rows: balanced classes, penalties, and what moves without a row."""

from functools import partial

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_diabetes, load_wine
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import scale
from sklearn.utils.fixes import parse_version

from skinfluence import ExactInfluence
from skinfluence.models import Weighting, objective
from skinfluence.models.weighting import OneVsRestWeighting, OutputWeighting
from skinfluence.rows import DenseRows

TIGHT = {"tol": 1e-12, "max_iter": 1_000_000}
N = 60


def classes(n_classes=3):
    X, y = load_wine(return_X_y=True)
    some = np.flatnonzero(y < n_classes)[:: 2 if n_classes == 2 else 3]
    return scale(X[some][:, :5]), np.array(["c", "a", "b"])[y[some]]


def numbers():
    X, y = load_diabetes(return_X_y=True)
    return scale(X[:N, :5]), scale(y[:N])


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def leave_one_out(losses_without, n_samples):
    """Changes of the queries' losses, (n_queries, n_samples)."""
    everything = np.arange(n_samples)
    before = losses_without(everything)
    return np.column_stack([losses_without(everything != i) - before for i in everything])


def weights(kind, n_samples):
    rng = np.random.default_rng(0)
    real = rng.uniform(0.3, 2.0, n_samples)
    # Rows of weight 0 are rows where balanced class weights count rows.
    return {"ones": np.ones(n_samples), "real": real, "zeros": real * (real > 0.5)}[kind]


# ---------------------------------------------------------------------------
# Class weights
# ---------------------------------------------------------------------------

SVC = partial(svm.LinearSVC, C=0.3, **TIGHT)
CLASSIFIERS = {
    "svc": SVC(),
    "svc balanced": SVC(class_weight="balanced"),
    "svc dict": SVC(class_weight={"a": 0.4, "b": 3.0}),
    "ridge balanced": lm.RidgeClassifier(class_weight="balanced"),
}


@pytest.mark.parametrize("kind", ["ones", "real", "zeros"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_leaving_out_moves_class_weights_of_one_vs_rest_models(name, kind):
    model = CLASSIFIERS[name]
    X, y = classes()
    s = weights(kind, len(y))
    signs = np.where(y[:, None] == np.unique(y), 1.0, -1.0)

    def losses_without(kept):
        fitted = clone(model).fit(X[kept], y[kept], sample_weight=s[kept])
        gap = 1 - signs * fitted.decision_function(X)
        return ((gap if name.startswith("ridge") else np.maximum(0, gap)) ** 2).sum(axis=1)

    influence = ExactInfluence(model).fit(X, y, sample_weight=s)
    assert influence.stationarity_ < 1e-6
    found = influence.leave_one_out_effect(X, y)
    expected = leave_one_out(losses_without, len(y))
    assert relative_error(found, expected) < 1e-6
    removed = influence.removal_effect([7], X, y)
    assert_allclose(removed, found[:, 7], atol=1e-6 * np.abs(expected).max())


def test_the_loss_of_a_query_has_no_class_weight():
    X, y = classes()
    influence = ExactInfluence(SVC(class_weight={"a": 4.0})).fit(X, y)
    fitted = influence.linearisation_.objective
    signs = np.where(y[:, None] == np.unique(y), 1.0, -1.0)
    gap = np.maximum(0, 1 - signs * influence.estimator_.decision_function(X))
    assert_allclose(fitted.losses(X, fitted.encode(y)), (gap**2).sum(axis=1))


def class_weights_of(weighting, kept):
    """Absolute class weights of the kept rows in each output."""
    signs = np.ones((len(kept), weighting.groups.shape[1]))
    relative = (
        weighting.of_subsets(kept[None])[0][0]
        / np.where(kept, weighting.sample_weight, 1)[:, None]
    )
    return np.abs(weighting.weigh(signs)) * relative


@pytest.mark.parametrize("counted", [False, True])
def test_balanced_weights_are_those_of_scikit_learn(counted):
    rng = np.random.default_rng(0)
    codes, s = rng.integers(0, 3, 40), rng.uniform(0.5, 2.0, 40)
    size = np.ones(40) if counted else s
    rule = "balanced_counts" if counted else "balanced"
    kept = rng.random(40) < 0.7

    def balanced(labels):
        totals = np.bincount(labels[kept], size[kept])
        return (totals.sum() / (len(totals) * totals))[labels]

    onehot = 1 * (codes[:, None] == np.arange(3))
    rows = balanced(codes)
    expected = [
        (Weighting(s, codes, rule), rows[:, None]),
        (OneVsRestWeighting(s, onehot, rule), np.where(onehot, rows[:, None], 1.0)),
        (OutputWeighting(s, onehot, rule), np.column_stack([balanced(c) for c in onehot.T])),
    ]
    for weighting, weight in expected:
        assert_allclose(
            class_weights_of(weighting, kept)[kept],
            np.broadcast_to(weight, (40, weighting.groups.shape[1]))[kept],
        )


@pytest.mark.parametrize("kind", ["sum", "mean", "count"])
def test_without_each_is_every_subset_of_all_but_one(kind):
    rng = np.random.default_rng(0)
    codes, s = rng.integers(0, 3, 20), rng.uniform(0.5, 2.0, 20)
    onehot = 1 * (codes[:, None] == np.arange(3))
    for weighting in (
        Weighting(s, codes, "balanced", kind),
        OneVsRestWeighting(s, onehot, "balanced_counts", kind),
        OutputWeighting(s, onehot, np.array([[1.0, 2.0]] * 3), kind),
    ):
        each = weighting.without_each()
        subsets = weighting.class_weight_of(~np.eye(20, dtype=bool))
        for found, expected in zip(each, subsets, strict=True):
            assert_allclose(found, expected, rtol=1e-12)


def test_the_factor_of_the_penalty_follows_what_the_losses_are_divided_by():
    s = np.array([1.0, 2.0, 3.0, 0.0])
    kept = np.array([[True, False, True, True]])
    for kind, factor in (("sum", 1.0), ("mean", 4 / 6), ("count", 3 / 4)):
        weighting = Weighting(s, kind=kind)
        assert_allclose(weighting.of_subsets(kept)[1], factor)
        assert_allclose(weighting.without_each()[1][1], factor)


@pytest.mark.parametrize("rule", ["balanced", "balanced_counts"])
def test_a_class_that_is_gone_has_no_weight(rule):
    codes, s = np.array([0, 0, 0, 1, 1, 2]), np.array([1.0, 0.5, 2.0, 0.3, 0.7, 1.5])
    onehot = 1 * (codes[:, None] == np.arange(3))
    kept = np.array([[True, True, False, True, False, False]])
    size = s if rule == "balanced" else np.ones(6)
    # As scikit-learn balances the classes that are left.
    two = (size[[0, 1, 3]].sum() / 2) / np.array([size[:2].sum(), size[3]])
    weight, _ = Weighting(s, codes, rule).of_subsets(kept)
    assert_allclose(weight[0, :, 0], [two[0], 0.5 * two[0], 0, 0.3 * two[1], 0, 0])
    assert_allclose(Weighting(s, codes, rule).class_weight_of(kept)[0], [[*two, 0.0]])
    for weighting in (
        Weighting(s, codes, rule),
        OneVsRestWeighting(s, onehot, rule),
        OutputWeighting(s, onehot, rule),
    ):
        weight, _ = weighting.of_subsets(kept)
        assert np.isfinite(weight).all()
        assert not weight[0, [2, 4, 5]].any()
        assert np.isfinite(weighting.without_each()[0]).all()


def test_a_class_of_weight_0_has_none_at_all():
    s, onehot = np.ones(4), np.eye(2, dtype=int)[[0, 1, 1, 0]]
    weighting = OneVsRestWeighting(s, onehot, np.array([0.0, 2.0]))
    assert_allclose(weighting.weigh(2.0 * onehot - 1), [[0, -1], [-1, 2], [-1, 2], [0, -1]])
    assert_array_equal(weighting.weight, s)


def test_rows_that_a_problem_does_not_hold_have_no_weight():
    codes = np.array([[0, -1], [1, 0], [-1, 1], [1, 1]])
    weighting = OutputWeighting(np.ones(4), codes, "balanced")
    assert_allclose(
        weighting.weigh(np.ones((4, 2))), [[1.5, 0], [0.75, 1.5], [0, 0.75], [0.75] * 2]
    )


# ---------------------------------------------------------------------------
# Objectives that are divided by the number of rows
# ---------------------------------------------------------------------------

# Losses of outputs and targets, and their derivatives, as SGD's documentation has them.


def log_loss(z, y):
    return np.logaddexp(0, -y * z), -y / (1 + np.exp(y * z))


def squared_hinge(z, y):
    gap = np.maximum(0, 1 - y * z)
    return gap**2, -2 * y * gap


def modified_huber(z, y):
    inside = y * z >= -1
    gap = np.maximum(0, 1 - y * z)
    return np.where(inside, gap**2, -4 * y * z), np.where(inside, -2 * y * gap, -4 * y)


def squared_error(z, y):
    return (z - y) ** 2 / 2, z - y


def huber(z, y, epsilon=0.5):
    size = np.abs(z - y)
    tail = epsilon * size - epsilon**2 / 2
    return np.where(size <= epsilon, size**2 / 2, tail), np.clip(z - y, -epsilon, epsilon)


def tube(z, y, epsilon=0.2):
    gap = np.maximum(0, np.abs(z - y) - epsilon)
    return gap**2, 2 * np.sign(z - y) * gap


SGD = {
    "log_loss": (lm.SGDClassifier, log_loss, {}),
    "squared_hinge": (lm.SGDClassifier, squared_hinge, {}),
    "modified_huber": (lm.SGDClassifier, modified_huber, {}),
    "squared_error": (lm.SGDRegressor, squared_error, {}),
    "huber": (lm.SGDRegressor, huber, {"epsilon": 0.5}),
    "squared_epsilon_insensitive": (lm.SGDRegressor, tube, {"epsilon": 0.2}),
}
ALPHA = 0.2


def minimise(loss, X, y, s, n):
    """Parameters (w, b) of ``sum s loss / n + alpha / 2 |w|^2``, to machine precision."""

    def value(theta):
        losses, slopes = loss(X @ theta[:-1] + theta[-1], y)
        pulled = s * slopes / n
        gradient = np.append(X.T @ pulled + ALPHA * theta[:-1], pulled.sum())
        return s @ losses / n + ALPHA / 2 * theta[:-1] @ theta[:-1], gradient

    theta = np.zeros(X.shape[1] + 1)
    theta = minimize(value, theta, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(20):
        # Newton steps with a Hessian of differences, which only sets the pace.
        columns = [
            value(theta + step)[1] - value(theta - step)[1] for step in 1e-6 * np.eye(len(theta))
        ]
        theta = theta - np.linalg.solve(np.array(columns) / 2e-6, value(theta)[1])
    assert np.abs(value(theta)[1]).max() < 1e-13
    return theta


def with_parameters(model, theta, X, y):
    """The fitted model with other parameters."""
    model.partial_fit(X, y, **({"classes": np.unique(y)} if is_classifier(model) else {}))
    shape = (1, -1) if is_classifier(model) else (-1,)
    model.coef_, model.intercept_ = theta[:-1].reshape(shape), theta[-1:]
    return FrozenEstimator(model)


@pytest.mark.parametrize("kind", ["ones", "real", "zeros"])
@pytest.mark.parametrize("name", SGD)
def test_leaving_out_of_sgd_models_divides_by_the_rows_that_stay(name, kind):
    cls, loss, parameters = SGD[name]
    X, y = classes(2) if issubclass(cls, lm.SGDClassifier) else numbers()
    s = weights(kind, len(y))
    targets = np.where(y == np.unique(y)[-1], 1.0, -1.0) if y.dtype.kind == "U" else y

    def losses_without(kept):
        kept = np.arange(len(y))[kept]
        theta = minimise(loss, X[kept], targets[kept], s[kept], len(kept))
        return loss(X @ theta[:-1] + theta[-1], targets)[0]

    theta = minimise(loss, X, targets, s, len(y))
    model = with_parameters(cls(name, alpha=ALPHA, **parameters), theta, X, y)
    influence = ExactInfluence(model).fit(X, y, sample_weight=s)
    assert influence.stationarity_ < 1e-12
    found = influence.leave_one_out_effect(X, y)
    assert relative_error(found, leave_one_out(losses_without, len(y))) < 1e-6


@pytest.mark.parametrize("class_weight", ["balanced", {"a": 3.0}, None])
def test_leaving_out_of_sgd_one_vs_rest(class_weight):
    X, y = classes()
    s = weights("zeros", len(y))
    names = np.unique(y)
    signs = np.where(y[:, None] == names, 1.0, -1.0)

    def weights_without(kept):
        """Weight of each class in its own problem."""
        if class_weight == "balanced":
            return [len(kept) / 3 / (y[kept] == name).sum() for name in names]
        return [(class_weight or {}).get(name, 1.0) for name in names]

    def parameters_without(kept):
        kept = np.arange(len(y))[kept]
        return np.array(
            [
                minimise(log_loss, X[kept], t[kept], (s * np.where(t > 0, c, 1))[kept], len(kept))
                for t, c in zip(signs.T, weights_without(kept), strict=True)
            ]
        )

    def losses_without(kept):
        theta = parameters_without(kept)
        return log_loss(X @ theta[:, :-1].T + theta[:, -1], signs)[0].sum(axis=1)

    theta = parameters_without(np.arange(len(y)))
    model = lm.SGDClassifier("log_loss", alpha=ALPHA, class_weight=class_weight).fit(X, y)
    model.coef_, model.intercept_ = theta[:, :-1], theta[:, -1]
    influence = ExactInfluence(FrozenEstimator(model)).fit(X, y, sample_weight=s)
    assert influence.stationarity_ < 1e-12
    found = influence.leave_one_out_effect(X, y)
    assert relative_error(found, leave_one_out(losses_without, len(y))) < 1e-6


# ---------------------------------------------------------------------------
# Penalised intercepts
# ---------------------------------------------------------------------------


# The name of an L1 penalty, which changed in scikit-learn 1.8.
L1 = (
    {"l1_ratio": 1}
    if parse_version(sklearn.__version__) >= parse_version("1.8")
    else {"penalty": "l1"}
)


def l1_logistic(C, **more):
    return lm.LogisticRegression(solver="liblinear", C=C, random_state=0, **TIGHT, **L1, **more)


def l1_data():
    X, y = classes(2)
    return X + 0.3, y


@pytest.mark.parametrize("scaling", [0.01, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["ones", "real"])
@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
def test_liblinear_penalises_the_intercept_by_l1_too(kind, scaling):
    X, y = l1_data()
    s = weights(kind, len(y))
    model = l1_logistic(1.0, intercept_scaling=scaling)
    influence = ExactInfluence(model, damping=0).fit(X, y, sample_weight=s)
    assert influence.stationarity_ < 1e-10
    # With so small a scale the penalty keeps the intercept at 0.
    fitted = influence.estimator_
    assert (fitted.intercept_[0] == 0) == (scaling == 0.01)
    active = np.append(fitted.coef_, fitted.intercept_) != 0
    assert influence.n_components_ == active.sum()
    assert_array_equal(influence.parameter_influence().any(axis=0), active)


@pytest.mark.parametrize("scaling", [0.01, 1.0, 2.0])
@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
def test_leaving_out_where_the_active_set_of_liblinear_stays(scaling):
    X, y = l1_data()
    model = l1_logistic(1.0, intercept_scaling=scaling)
    signs = np.where(y == "c", 1.0, -1.0)
    fitted = clone(model).fit(X, y)
    refits = [clone(model).fit(np.delete(X, i, 0), np.delete(y, i)) for i in range(len(y))]

    def parameters(fit):
        return np.append(fit.coef_, fit.intercept_)

    def losses(fit):
        return np.logaddexp(0, -signs * fit.decision_function(X))

    stays = [(np.sign(parameters(f)) == np.sign(parameters(fitted))).all() for f in refits]
    assert np.mean(stays) > 0.5
    expected = np.column_stack([losses(fit) - losses(fitted) for fit in refits])[:, stays]
    found = ExactInfluence(model, damping=0).fit(X, y).leave_one_out_effect(X, y)[:, stays]
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("class_weight", ["balanced", {"a": 3.0, "c": 0.2}])
def test_one_vs_rest_of_older_versions_weighs_both_sides(class_weight):
    # LogisticRegression(multi_class="ovr"), which versions before 1.8 still have.
    X, y = classes()
    s = weights("real", len(y))
    model = lm.LogisticRegression(
        class_weight=class_weight, solver="newton-cholesky", tol=1e-12
    ).fit(X, y)
    parts = []
    for name in model.classes_:
        part = clone(model).set_params(class_weight="balanced")
        weight = s
        if class_weight != "balanced":
            part.set_params(class_weight=None)
            weight = s * np.array([class_weight.get(label, 1.0) for label in y])
        parts.append(part.fit(X, y == name, sample_weight=weight))
    model.multi_class = "ovr"
    model.coef_ = np.concatenate([part.coef_ for part in parts])
    model.intercept_ = np.concatenate([part.intercept_ for part in parts])
    fitted = objective(model, X, y, s)
    assert fitted.stationarity < 1e-10


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
def test_an_intercept_without_a_penalty_is_active_where_it_is_0():
    X = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    influence = ExactInfluence(lm.Lasso(0.1), damping=0).fit(X, X[:, 0])
    assert influence.estimator_.intercept_ == 0
    assert influence.n_components_ == 2


# ---------------------------------------------------------------------------
# Gradients by group
# ---------------------------------------------------------------------------


def test_gradients_of_groups_are_their_sums():
    rng = np.random.default_rng(0)
    n, k, p = 12, 3, 5
    codes, s = rng.integers(0, 3, n), rng.uniform(0.5, 2.0, n)
    jacobian, residual = rng.standard_normal((n, k, p)), rng.standard_normal((n, k))

    def pull(factors):
        return DenseRows(np.einsum("nk,nkp->np", factors * residual, jacobian))

    training_rows = pull(np.ones((n, k)))
    found = Weighting(s, codes, "balanced").group_gradients(training_rows, pull)
    gradients = s[:, None] * training_rows.toarray()
    assert_allclose(found, [gradients[codes == group].sum(axis=0) for group in range(3)])

    onehot = 1 * (codes[:, None] == np.arange(k))
    found = OneVsRestWeighting(s, onehot, "balanced").group_gradients(training_rows, pull)
    gradients = (s[:, None] * residual)[:, :, None] * jacobian
    expected = [
        gradients[onehot[:, output] == value, output].sum(axis=0)
        for output in range(k)
        for value in (0, 1)
    ]
    assert_allclose(found, expected)
