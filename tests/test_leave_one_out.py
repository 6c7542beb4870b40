"""Leaving rows out against really refitting the estimator, on real data."""

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from skinfluence import ExactInfluence, KFACInfluence, RelativeHessianInfluence, SketchedInfluence
from skinfluence.exceptions import NumericalWarning
from skinfluence.refitting.newton_step import first_steps
from skinfluence.refitting.removal import removal_of_each

NC = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 100}


def scaled(X):
    return StandardScaler().fit_transform(X)


def breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scaled(X), y


def wine():
    X, y = load_wine(return_X_y=True)
    return scaled(X), y


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return scaled(X), y


def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def fair():
    frame = sm.datasets.fair.load_pandas().data
    return scaled(frame.drop(columns="affairs").to_numpy()), (frame.affairs > 0).to_numpy() * 1


def randhie():
    frame = sm.datasets.randhie.load_pandas().data
    return scaled(frame.drop(columns="mdvis").to_numpy()), frame.mdvis.to_numpy()


# Losses of a fitted model, as OBJECTIVES of scikit-learn write them, from its predictions.


def log_loss(model, X, y):
    p = model.predict_proba(X)
    return -np.log(p[np.arange(len(y)), np.searchsorted(model.classes_, y)])


def squared_error(model, X, y):
    return (y - model.predict(X)) ** 2


def half_poisson(model, X, y):
    mu = model.predict(X)
    return mu - y * np.log(mu)


def half_gamma(model, X, y):
    mu = model.predict(X)
    return np.log(mu) + y / mu


def huber(model, X, y):
    t = np.abs(y - model.predict(X)) / model.scale_
    return model.scale_ * (1 + np.where(t <= 1.35, t**2, 2 * 1.35 * t - 1.35**2))


def squared_hinge(model, X, y):
    z = model.decision_function(X).reshape(len(y), -1)
    onehot = np.atleast_2d(y[:, None] == model.classes_)
    m = np.where(onehot[:, 1:] if z.shape[1] == 1 else onehot, z, -z)
    return (np.maximum(0, 1 - m) ** 2).sum(axis=1)


def label_squares(model, X, y):
    z = model.decision_function(X).reshape(len(y), -1)
    onehot = y[:, None] == model.classes_
    m = np.where(onehot[:, 1:] if z.shape[1] == 1 else onehot, z, -z)
    return ((1 - m) ** 2).sum(axis=1)


def split(X, y, n_queries=100, n_train=None):
    order = np.random.default_rng(0).permutation(len(y))
    queries, train = order[:n_queries], order[n_queries:][:n_train]
    return X[train], y[train], X[queries], y[queries]


def refitted(model, loss, train, queries, rows, weight=None):
    """Change of the queries' losses when each row is left out and the model fitted again."""
    X, y = train
    weight = np.ones(len(y)) if weight is None else weight

    def losses(kept):
        fitted = clone(model).fit(X[kept], y[kept], sample_weight=weight[kept])
        return loss(fitted, *queries)

    everything = np.arange(len(y))
    before = losses(everything)
    return np.column_stack([losses(everything != row) - before for row in rows])


def relative_error(predicted, actual):
    return np.abs(predicted - actual).max() / np.abs(actual).max()


LR = lm.LogisticRegression
CASES = {
    "breast cancer": (breast_cancer, LR(**NC), log_loss, None),
    "breast cancer C=100": (breast_cancer, LR(C=100, **NC), log_loss, None),
    "wine": (wine, LR(**NC), log_loss, None),
    "wine balanced": (wine, LR(class_weight="balanced", **NC), log_loss, None),
    "diabetes ridge": (diabetes, lm.Ridge(), squared_error, None),
    "diabetes huber": (
        diabetes, lm.HuberRegressor(alpha=1.0, tol=1e-12, max_iter=10_000), huber, None,
    ),
    "fair balanced": (fair, LR(class_weight="balanced", **NC), log_loss, 800),
    "randhie": (randhie, lm.PoissonRegressor(alpha=1.0, **NC), half_poisson, 800),
    "diabetes gamma": (diabetes, lm.GammaRegressor(alpha=1.0, **NC), half_gamma, None),
    "wine ridge classifier": (
        wine, lm.RidgeClassifier(class_weight="balanced"), label_squares, None,
    ),
    "breast cancer svc": (
        breast_cancer, svm.LinearSVC(tol=1e-10, max_iter=100_000), squared_hinge, None,
    ),
}  # fmt: skip


# L-BFGS and liblinear stop early on these, whatever their tolerance.
LOOSE = {"diabetes huber": 1e-2, "breast cancer svc": 1e-5}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_leave_one_out_effect_is_that_of_refitting(name, weighted):
    load, model, loss, n_train = CASES[name]
    X, y, Xq, yq = split(*load(), n_queries=70, n_train=n_train)
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.3, 2.0, len(y)) if weighted else np.ones(len(y))
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    predicted = influence.leave_one_out_effect(Xq, yq)
    top = np.argsort(-influence.self_influence())[:30]
    for rows in (rng.permutation(len(y))[:30], top):
        actual = refitted(model, loss, (X, y), (Xq, yq), rows, weight)
        assert relative_error(predicted[:, rows], actual) < LOOSE.get(name, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "load, model, loss",
    [
        (digits, LR(**NC), log_loss),
        (fair, LR(class_weight="balanced", **NC), log_loss),
        (randhie, lm.PoissonRegressor(alpha=1.0, **NC), half_poisson),
    ],
    ids=["digits", "fair", "randhie"],
)
def test_leave_one_out_effect_on_whole_data_sets(load, model, loss):
    X, y, Xq, yq = split(*load())
    influence = ExactInfluence(model).fit(X, y)
    predicted = influence.leave_one_out_effect(Xq, yq)
    random = np.random.default_rng(1).permutation(len(y))[:30]
    top = np.argsort(-influence.self_influence())[:30]
    # Some of the random rows are beyond the work that is spent on refining.
    for rows, error in ((random, 1e-2), (top, 1e-6)):
        actual = refitted(model, loss, (X, y), (Xq, yq), rows)
        assert relative_error(predicted[:, rows], actual) < error


def test_leaving_out_equals_influence_to_first_order():
    X, y = diabetes()
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    influence = ExactInfluence(lm.Ridge()).fit(X, y, sample_weight=weight)
    scores = influence.influence(X[:5], y[:5])
    effect = influence.leave_one_out_effect(X[:5], y[:5])
    first_order = -scores * weight / weight.sum()
    assert relative_error(first_order, effect) < 0.1
    assert np.sign(first_order[np.abs(first_order) > 0.5]).tolist() == (
        np.sign(effect[np.abs(first_order) > 0.5]).tolist()
    )


@pytest.mark.parametrize("name", ["breast cancer", "wine balanced", "diabetes gamma"])
def test_removal_of_a_set_is_that_of_refitting(name):
    load, model, loss, _ = CASES[name]
    X, y, Xq, yq = split(*load(), n_queries=40)
    influence = ExactInfluence(model).fit(X, y)
    dropped = np.random.default_rng(2).permutation(len(y))[: len(y) // 5]
    kept = np.setdiff1d(np.arange(len(y)), dropped)
    after, before = (clone(model).fit(X[rows], y[rows]) for rows in (kept, np.arange(len(y))))
    actual = loss(after, Xq, yq) - loss(before, Xq, yq)
    np.testing.assert_allclose(
        influence.removal_effect(dropped, Xq, yq), actual, atol=1e-6 * np.abs(actual).max()
    )


def test_removal_of_one_row_is_leaving_it_out():
    X, y, Xq, yq = split(*wine(), n_queries=20)
    influence = ExactInfluence(LR(class_weight="balanced", **NC)).fit(X, y)
    each = influence.leave_one_out_effect(Xq, yq)
    for row in (0, 50, 100):
        np.testing.assert_allclose(
            influence.removal_effect([row], Xq, yq), each[:, row], rtol=1e-6, atol=1e-12
        )
    assert not influence.removal_effect([], Xq, yq).any()


@pytest.mark.parametrize(
    "cls, params",
    [
        (SketchedInfluence, {"sketch_size": 4, "random_state": 0}),
        (SketchedInfluence, {"sketch_size": 4, "sketch": "landmarks", "random_state": 0}),
        (SketchedInfluence, {"sketch_size": 4, "sketch": "sjlt", "random_state": 0}),
        (RelativeHessianInfluence, {"subset_size": 60, "random_state": 0}),
        (KFACInfluence, {}),
    ],
)
def test_removal_of_one_row_is_leaving_it_out_by_any_curvature(cls, params):
    X, y = diabetes()
    X, y = X[:120], y[:120]
    # Of a quadratic no step is refined.
    influence = cls(lm.Ridge(alpha=3.0), **params).fit(X, y)
    each = influence.leave_one_out_effect(X[:9], y[:9])
    for i in (0, 50, 119):
        assert_allclose(influence.removal_effect([i], X[:9], y[:9]), each[:, i], rtol=1e-7)


def test_reduced_effects_are_those_of_all_queries():
    X, y, Xq, yq = split(*breast_cancer())
    influence = ExactInfluence(LR(**NC)).fit(X, y)
    full = influence.leave_one_out_effect(Xq, yq)
    for reduce, expected in (("mean", full.mean(axis=0)), ("sum", full.sum(axis=0))):
        found = influence.leave_one_out_effect(Xq, yq, reduce=reduce)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("intercept", [True, False])
def test_newton_steps_are_the_dfbeta_of_statsmodels(intercept):
    X, y = diabetes()
    design = np.column_stack([X, np.ones(len(y))]) if intercept else X
    expected = sm.OLS(y, design).fit().get_influence().dfbeta
    influence = ExactInfluence(lm.LinearRegression(fit_intercept=intercept), damping=0).fit(X, y)
    fit = influence.linearisation_
    steps = first_steps(fit, removal_of_each(fit).steps, np.arange(len(y)))
    # dfbeta is the estimate with the row minus that without it.
    np.testing.assert_allclose(-steps, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize(
    "family, load, model",
    [
        (sm.families.Poisson(), randhie, lm.PoissonRegressor(alpha=0, **NC)),
        (sm.families.Binomial(), fair, LR(C=np.inf, **NC)),
    ],
    ids=["poisson", "binomial"],
)
def test_newton_steps_are_the_d_params_of_statsmodels(family, load, model):
    X, y, _, _ = split(*load(), n_train=400)
    fitted = sm.GLM(y, np.column_stack([X, np.ones(len(y))]), family=family).fit(tol=1e-14)
    expected = fitted.get_influence(observed=True).d_params
    influence = ExactInfluence(model, damping=0).fit(X, y)
    fit = influence.linearisation_
    steps = first_steps(fit, removal_of_each(fit).steps, np.arange(len(y)))
    np.testing.assert_allclose(-steps, expected, atol=1e-8 * np.abs(expected).max())


def test_balanced_class_weights_move_with_the_data():
    # With the class weights frozen the effect is another one, of another sign for many rows.
    X, y, Xq, yq = split(*fair(), n_train=1000)
    model = LR(class_weight="balanced", **NC)
    influence = ExactInfluence(model).fit(X, y)
    share = (
        influence.linearisation_.objective.weight / influence.linearisation_.objective.total_weight
    )
    frozen = -influence.influence(Xq, yq) * share
    rows = np.arange(30)
    actual = refitted(model, log_loss, (X, y), (Xq, yq), rows)
    found = influence.leave_one_out_effect(Xq, yq)[:, rows]
    assert np.abs(found - actual).max() < 1e-3 * np.abs(frozen[:, rows] - actual).max()


def test_rows_that_alone_determine_a_direction_are_warned_of():
    X = np.column_stack([np.ones(20), np.eye(20)[0] * 5.0])
    y = np.arange(20.0)
    influence = ExactInfluence(lm.Ridge(1e-6), damping=0).fit(X, y)
    with pytest.warns(NumericalWarning, match="leverage above 0.99.*more damping"):
        effect = influence.leave_one_out_effect(X[1:3], y[1:3])
    assert np.isfinite(effect).all()


def test_every_case_has_a_loss_of_its_kind():
    for load, model, loss, _ in CASES.values():
        assert is_classifier(model) == (loss in (log_loss, squared_hinge, label_squares)), load
