"""Leaving rows out against really refitting the estimator, on real data."""

import numpy as np
import pytest
import sklearn
import statsmodels.api as sm
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import is_classifier
from sklearn.preprocessing import scale

from skinfluence import ExactInfluence, KFACInfluence, RelativeHessianInfluence, SketchedInfluence
from skinfluence.exceptions import NumericalWarning
from skinfluence.refitting.newton_step import first_steps
from skinfluence.refitting.removal import removal_of_each
from tests.helpers import (
    NEWTON,
    assert_close,
    cancer,
    diabetes,
    digits,
    left_out,
    log_loss_of,
    refitted,
    split,
    wine,
)


def fair():
    frame = sm.datasets.fair.load_pandas().data
    return scale(frame.drop(columns="affairs").to_numpy()), (frame.affairs > 0).to_numpy() * 1


def randhie():
    frame = sm.datasets.randhie.load_pandas().data
    return scale(frame.drop(columns="mdvis").to_numpy()), frame.mdvis.to_numpy()


# Losses of a fitted model, as OBJECTIVES of scikit-learn write them, from its predictions.


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


LR = lm.LogisticRegression
CASES = {
    "breast cancer": (cancer, LR(**NEWTON), log_loss_of, None),
    "breast cancer C=100": (cancer, LR(C=100, **NEWTON), log_loss_of, None),
    "wine": (wine, LR(**NEWTON), log_loss_of, None),
    "wine balanced": (wine, LR(class_weight="balanced", **NEWTON), log_loss_of, None),
    "diabetes ridge": (diabetes, lm.Ridge(), squared_error, None),
    "diabetes huber": (
        diabetes, lm.HuberRegressor(alpha=1.0, tol=1e-12, max_iter=10_000), huber, None,
    ),
    "fair balanced": (fair, LR(class_weight="balanced", **NEWTON), log_loss_of, 800),
    "randhie": (randhie, lm.PoissonRegressor(alpha=1.0, **NEWTON), half_poisson, 800),
    "diabetes gamma": (diabetes, lm.GammaRegressor(alpha=1.0, **NEWTON), half_gamma, None),
    "wine ridge classifier": (
        wine, lm.RidgeClassifier(class_weight="balanced"), label_squares, None,
    ),
    "breast cancer svc": (
        cancer, svm.LinearSVC(tol=1e-10, max_iter=100_000), squared_hinge, None,
    ),
}  # fmt: skip


# Relative errors are at most 3e-8 over seeds 1 to 3; a minimum of least squares is exact, and the
# solvers of these two models stop early whatever their tolerance.
TOLERANCES = {"diabetes ridge": 1e-11, "diabetes huber": 0.02, "breast cancer svc": 5e-5}


# A row with a leverage of almost 1 is warned of; its effect is exact all the same.
@pytest.mark.filterwarnings("ignore:.*leverage above:skinfluence.exceptions.NumericalWarning")
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_leave_one_out_effect_is_that_of_refitting(name, weighted, rng):
    load, model, loss, n_train = CASES[name]
    X, y, Xq, yq = split(*load(), n_queries=70, n_train=n_train)
    weight = rng.uniform(0.3, 2.0, len(y)) if weighted else np.ones(len(y))
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    predicted = influence.leave_one_out_effect(Xq, yq)
    top = np.argsort(-influence.self_influence())[:30]
    for rows in (rng.permutation(len(y))[:30], top):
        actual = left_out(model, loss, (X, y), (Xq, yq), rows, weight)
        assert_close(predicted[:, rows], actual, TOLERANCES.get(name, 2e-7))


@pytest.mark.slow
@pytest.mark.parametrize(
    "load, model, loss, tol",
    [
        (digits, LR(**NEWTON), log_loss_of, 1e-2),
        (fair, LR(class_weight="balanced", **NEWTON), log_loss_of, 1e-4),
        (randhie, lm.PoissonRegressor(alpha=1.0, **NEWTON), half_poisson, 2e-4),
    ],
    ids=["digits", "fair", "randhie"],
)
def test_leave_one_out_effect_on_whole_data_sets(load, model, loss, tol):
    X, y, Xq, yq = split(*load())
    influence = ExactInfluence(model).fit(X, y)
    predicted = influence.leave_one_out_effect(Xq, yq)
    random = np.random.default_rng(1).permutation(len(y))[:30]
    top = np.argsort(-influence.self_influence())[:30]
    # The longest steps are refined, the others are one Newton step: measured 4e-3 at most.
    for rows, most in ((random, tol), (top, 1e-6)):
        actual = left_out(model, loss, (X, y), (Xq, yq), rows)
        assert_close(predicted[:, rows], actual, most)


def test_leaving_out_equals_influence_to_first_order(rng):
    X, y = diabetes()
    weight = rng.uniform(0.5, 2, len(y))
    # Of rows with almost no weight the first order is all there is.
    weight[:20] = 1e-6
    influence = ExactInfluence(lm.Ridge()).fit(X, y, sample_weight=weight)
    effect = influence.leave_one_out_effect(X[:5], y[:5])
    first_order = -influence.influence(X[:5], y[:5]) * weight / weight.sum()
    assert_close(effect[:, :20], first_order[:, :20], 1e-5)


def damped_refit(X, y, kept, start, penalty, damping):
    """Minimum of the logistic loss of some rows, the penalty, and a damping towards ``start``.

    Both terms are those of the sum objective, and labels are -1 and 1.
    """
    theta, ridge = start.copy(), penalty + damping
    for _ in range(30):
        p = 1 / (1 + np.exp(y[kept] * (X[kept] @ theta)))
        gradient = -X[kept].T @ (y[kept] * p) + penalty * theta + damping * (theta - start)
        hessian = (X[kept].T * (p * (1 - p))) @ X[kept] + np.diag(ridge)
        theta = theta - np.linalg.solve(hessian, gradient)
    return theta


@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_damping_holds_the_refit_near_the_fitted_parameters(damping):
    X, y, Xq, yq = split(*cancer(), n_queries=40, n_train=150)
    influence = ExactInfluence(LR(**NEWTON), damping=damping).fit(X, y)
    design, queries = (np.column_stack([A, np.ones(len(A))]) for A in (X, Xq))
    model = influence.estimator_
    start, penalty = np.append(model.coef_, model.intercept_), np.append(np.ones(30), 0.0)

    def losses(kept):
        theta = damped_refit(design, 2 * y - 1, kept, start, penalty, damping * len(y))
        return np.logaddexp(0, (1 - 2 * yq) * (queries @ theta))

    everything, rows = np.arange(len(y)), np.arange(0, 150, 10)
    before = losses(everything)
    expected = np.column_stack([losses(everything != row) - before for row in rows])
    assert_close(influence.leave_one_out_effect(Xq, yq)[:, rows], expected, 1e-7)
    gone = np.setdiff1d(everything, rows)
    assert_close(influence.removal_effect(rows, Xq, yq), losses(gone) - before, 1e-7)


def test_the_longest_steps_are_refined_where_not_all_can_be():
    X, y, Xq, yq = split(*cancer(), n_queries=40, n_train=150)
    influence = ExactInfluence(LR(C=10.0, **NEWTON)).fit(X, y)
    fit = influence.linearisation_
    none, all_, some = (
        influence.leave_one_out_effect(Xq, yq, refine=refine) for refine in (False, True, 25)
    )
    steps = first_steps(fit, removal_of_each(fit).steps, np.arange(len(y)))
    length = np.einsum("np,pq,nq->n", steps, fit.curvature.matrix(0.0), steps)
    refined = (some != none).any(axis=0)
    assert refined.sum() == 25
    assert length[refined].min() >= length[~refined].max()
    assert_close(some[:, refined], all_[:, refined], 1e-9)


@pytest.mark.parametrize("name", ["breast cancer", "wine balanced", "diabetes gamma"])
def test_removal_of_a_set_is_that_of_refitting(name, rng):
    load, model, loss, _ = CASES[name]
    X, y, Xq, yq = split(*load(), n_queries=40)
    influence = ExactInfluence(model).fit(X, y)
    dropped = rng.permutation(len(y))[: len(y) // 5]
    kept = np.setdiff1d(np.arange(len(y)), dropped)
    after, before = (refitted(model, X, y, rows) for rows in (kept, np.arange(len(y))))
    actual = loss(after, Xq, yq) - loss(before, Xq, yq)
    assert_close(influence.removal_effect(dropped, Xq, yq), actual, 1e-6)


def test_removal_of_one_row_is_leaving_it_out():
    X, y, Xq, yq = split(*wine(), n_queries=20)
    influence = ExactInfluence(LR(class_weight="balanced", **NEWTON)).fit(X, y)
    each = influence.leave_one_out_effect(Xq, yq)
    for row in (0, 50, 100):
        assert_close(influence.removal_effect([row], Xq, yq), each[:, row], 1e-7)
    assert not influence.removal_effect([], Xq, yq).any()


@pytest.mark.parametrize(
    "cls, params",
    [
        (SketchedInfluence, {"sketch_size": 4}),
        (SketchedInfluence, {"sketch_size": 4, "sketch": "landmarks"}),
        (SketchedInfluence, {"sketch_size": 4, "sketch": "sjlt"}),
        (RelativeHessianInfluence, {"subset_size": 60}),
        (KFACInfluence, {}),
    ],
)
def test_removal_of_one_row_is_leaving_it_out_by_any_curvature(cls, params, global_random_seed):
    X, y = diabetes()
    X, y = X[:120], y[:120]
    # Of a quadratic no step is refined.
    influence = cls(lm.Ridge(alpha=3.0), random_state=global_random_seed, **params).fit(X, y)
    each = influence.leave_one_out_effect(X[:9], y[:9])
    for i in (0, 50, 119):
        assert_close(influence.removal_effect([i], X[:9], y[:9]), each[:, i], 1e-9)


@pytest.mark.parametrize("working_memory", [1024, 0.02], ids=["one batch", "many batches"])
def test_reduced_effects_are_those_of_all_queries(working_memory):
    X, y, Xq, yq = split(*cancer())
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)
    full = influence.leave_one_out_effect(Xq, yq)
    for reduce, expected in (("mean", full.mean(axis=0)), ("sum", full.sum(axis=0))):
        with sklearn.config_context(working_memory=working_memory):
            found = influence.leave_one_out_effect(Xq, yq, reduce=reduce)
        assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("intercept", [True, False])
def test_newton_steps_are_the_dfbeta_of_statsmodels(intercept):
    X, y = diabetes()
    design = np.column_stack([X, np.ones(len(y))]) if intercept else X
    expected = sm.OLS(y, design).fit().get_influence().dfbeta
    influence = ExactInfluence(lm.LinearRegression(fit_intercept=intercept), damping=0).fit(X, y)
    fit = influence.linearisation_
    steps = first_steps(fit, removal_of_each(fit).steps, np.arange(len(y)))
    # dfbeta is the estimate with the row minus that without it.
    assert_close(-fit.objective.to_parameters(steps), expected, 1e-8)


@pytest.mark.parametrize(
    "family, load, model",
    [
        (sm.families.Poisson(), randhie, lm.PoissonRegressor(alpha=0, **NEWTON)),
        (sm.families.Binomial(), fair, LR(C=np.inf, **NEWTON)),
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
    assert_close(-fit.objective.to_parameters(steps), expected, 1e-8)


def test_balanced_class_weights_move_with_the_data():
    # With the class weights frozen the effect is another one, of another sign for many rows.
    X, y, Xq, yq = split(*fair(), n_train=1000)
    model = LR(class_weight="balanced", **NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    share = (
        influence.linearisation_.objective.weight / influence.linearisation_.objective.total_weight
    )
    frozen = -influence.influence(Xq, yq) * share
    rows = np.arange(30)
    actual = left_out(model, log_loss_of, (X, y), (Xq, yq), rows)
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
        assert is_classifier(model) == (loss in (log_loss_of, squared_hinge, label_squares)), load
