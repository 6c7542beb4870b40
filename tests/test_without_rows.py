"""Predictions and models without training rows, against really refitting."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model as lm
from sklearn import metrics, svm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import ClassifierHeadInfluence, ExactInfluence
from skinfluence.diagnostics import estimator_without, leave_one_out_predict, leave_one_out_score
from skinfluence.exceptions import NumericalWarning
from skinfluence.refitting import removal
from tests.exact_models import MinimalHuber, MinimalSGD, MinimalSVC
from tests.helpers import NEWTON, TIGHT, cancer, diabetes, digits, perceptron, split, wine

LR = lm.LogisticRegression


def few(load, n):
    X, y, _, _ = split(*load(), n_queries=1, n_train=n)
    return X, y


def counts():
    X, y = few(diabetes, 120)
    return X, np.round(y / 20)


def two():
    return few(cancer, 150)


def narrow():
    X, y = few(cancer, 400)
    return X[:, :4], y


def narrow_counts():
    X, y = few(diabetes, 300)
    return X[:, :5], np.round(y / 20)


def three():
    return few(wine, 100)


def ten():
    return few(digits, 150)


def numbers():
    return few(diabetes, 120)


def positive():
    X, y = few(diabetes, 120)
    return X, y / 100


def two_targets():
    X, y = few(diabetes, 80)
    return X, np.column_stack([y, -2 * X[:, 0] + y / 50])


CASES = {
    "two classes": (two, LR(**NEWTON), 1e-6),
    "two classes balanced": (two, LR(class_weight="balanced", **NEWTON), 1e-6),
    # So few columns that one tensor of third derivatives serves all rows.
    "few columns": (narrow, LR(**NEWTON), 1e-7),
    "few columns balanced": (narrow, LR(class_weight="balanced", **NEWTON), 1e-7),
    "few columns, counts": (narrow_counts, lm.PoissonRegressor(alpha=0.1, **NEWTON), 1e-7),
    "C=0.001": (two, LR(C=1e-3, **NEWTON), 1e-6),
    "C=1000": (three, LR(C=1e3, **NEWTON), 1e-6),
    "three classes": (three, LR(**NEWTON), 1e-6),
    "ten classes": (ten, LR(C=0.1, **NEWTON), 1e-6),
    "ridge": (numbers, lm.Ridge(), 1e-9),
    "two targets": (two_targets, lm.Ridge(), 1e-9),
    "ridge classifier": (three, lm.RidgeClassifier(class_weight="balanced"), 1e-7),
    "poisson": (counts, lm.PoissonRegressor(alpha=0.1, **NEWTON), 1e-6),
    "gamma": (positive, lm.GammaRegressor(alpha=0.1, **NEWTON), 1e-6),
    "tweedie": (counts, lm.TweedieRegressor(power=1.5, alpha=0.1, **NEWTON), 1e-6),
    # Their own solvers stop further from the minimum than the predictions are.
    "huber": (positive, MinimalHuber(alpha=1.0), 1e-7),
    "svc": (three, MinimalSVC(dual=False), 1e-7),
    "sgd": (two, MinimalSGD("log_loss", alpha=0.01, random_state=0), 1e-7),
    "one-vs-rest": (three, OneVsRestClassifier(LR(**NEWTON)), 1e-6),
    "outputs": (two_targets, MultiOutputRegressor(lm.Ridge()), 1e-9),
}


def methods_of(model):
    known = ("predict", "predict_proba", "predict_log_proba", "decision_function")
    return [method for method in known if hasattr(model, method)]


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_refits_without_the_row(name, rng):
    load, model, tol = CASES[name]
    X, y = load()
    influence = ExactInfluence(model).fit(X, y)
    rows = rng.permutation(len(y))[:10]
    found = {
        method: leave_one_out_predict(influence, method=method)
        for method in methods_of(influence.estimator_)
    }
    for row in rows:
        kept = np.arange(len(y)) != row
        refit = clone(model).fit(X[kept], y[kept])
        for method, predicted in found.items():
            expected = getattr(refit, method)(X[[row]])[0]
            if np.asarray(expected).dtype.kind in "iu" or expected.dtype.kind == "U":
                assert predicted[row] == expected
            else:
                scale = max(1.0, np.abs(expected).max())
                assert_allclose(predicted[row], expected, rtol=0, atol=tol * scale)


@pytest.mark.parametrize("model", [LR(C=0.3, **NEWTON), lm.Ridge()], ids=["logistic", "ridge"])
def test_groups_are_left_out_together(model, rng):
    X, y = two()
    groups = rng.integers(0, 9, len(y))
    influence = ExactInfluence(model).fit(X, y)
    found = leave_one_out_predict(influence, groups=groups)
    expected = cross_val_predict(model, X, y, cv=LeaveOneGroupOut(), groups=groups)
    assert_allclose(found, expected, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="one group for each of the 150"):
        leave_one_out_predict(influence, groups=groups[1:])
    with pytest.raises(ValueError, match="of one group"):
        leave_one_out_predict(influence, groups=np.zeros(len(y)))


def test_weighted_rows_are_left_out_of_the_weighted_fit(rng):
    X, y = two()
    weight = rng.uniform(0.3, 2.0, len(y))
    model = LR(**NEWTON)
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    found = leave_one_out_predict(influence, method="predict_proba")
    for row in range(20):
        kept = np.arange(len(y)) != row
        refit = clone(model).fit(X[kept], y[kept], sample_weight=weight[kept])
        assert_allclose(found[row], refit.predict_proba(X[[row]])[0], atol=1e-7)


def test_steps_in_front_of_the_model_stay_and_targets_come_back_in_their_unit():
    X, y = positive()
    inner = TransformedTargetRegressor(lm.Ridge(), func=np.log, inverse_func=np.exp)
    influence = ExactInfluence(make_pipeline(StandardScaler(), inner)).fit(X, y)
    expected = cross_val_predict(inner, StandardScaler().fit_transform(X), y, cv=LeaveOneOut())
    assert_allclose(leave_one_out_predict(influence), expected, rtol=1e-9)


def test_labels_are_those_of_the_user():
    X, y = three()
    names = np.array(["a", "b", "c"])[y]
    search = GridSearchCV(LR(**NEWTON), {"C": [0.1]}).fit(X, names)
    influence = ExactInfluence(search).fit(X, names)
    expected = cross_val_predict(LR(C=0.1, **NEWTON), X, names, cv=LeaveOneOut())
    assert_array_equal(leave_one_out_predict(influence), expected)


@pytest.mark.parametrize("n_classes", [3, 4])
def test_the_last_row_of_a_class_is_predicted_by_the_model_of_the_others(n_classes):
    X, y = few(digits, 300)
    last = np.flatnonzero(y == n_classes - 1)[0]
    rows = np.append(np.flatnonzero(y < n_classes - 1), last)
    X, y = X[rows], y[rows]
    model = LR(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    refit = clone(model).fit(X[:-1], y[:-1])
    assert leave_one_out_predict(influence)[-1] == refit.predict(X[-1:])[0]
    found = leave_one_out_predict(influence, method="predict_proba")[-1]
    expected = np.append(refit.predict_proba(X[-1:])[0], 0.0)
    assert_allclose(found, expected, atol=1e-7)
    with pytest.raises(ValueError, match="no model of all classes"):
        leave_one_out_score(influence)
    with pytest.raises(ValueError, match="a class has no rows"):
        estimator_without(influence, [len(y) - 1])


def test_a_row_without_which_there_is_no_model_has_no_prediction():
    X, y = two()
    rows = np.append(np.flatnonzero(y == 0), np.flatnonzero(y == 1)[0])
    influence = ExactInfluence(LR(**NEWTON)).fit(X[rows], y[rows])
    with pytest.warns(NumericalWarning, match="no refit"):
        found = leave_one_out_predict(influence, method="predict_proba")
    assert np.isnan(found[-1]).all() and np.isfinite(found[:-1]).all()


@pytest.mark.parametrize("scoring", [None, "roc_auc", "neg_log_loss", "balanced_accuracy"])
def test_scores_are_those_of_predictions_by_refits(scoring):
    X, y = two()
    model = LR(C=0.1, **NEWTON)
    found = leave_one_out_score(ExactInfluence(model).fit(X, y), scoring)
    p = cross_val_predict(model, X, y, cv=LeaveOneOut(), method="predict_proba")
    expected = {
        None: lambda: metrics.accuracy_score(y, p.argmax(axis=1)),
        "roc_auc": lambda: metrics.roc_auc_score(y, p[:, 1]),
        "neg_log_loss": lambda: -metrics.log_loss(y, p),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(y, p.argmax(axis=1)),
    }[scoring]()
    assert_allclose(found, expected, rtol=1e-7)


def test_leave_one_out_of_ridge_is_that_of_ridgecv():
    X, y = numbers()
    alphas = [0.1, 1.0, 10.0]
    search = lm.RidgeCV(alphas, scoring="neg_mean_squared_error").fit(X, y)
    scores = [
        leave_one_out_score(ExactInfluence(lm.Ridge(alpha)).fit(X, y), "neg_mean_squared_error")
        for alpha in alphas
    ]
    assert_allclose(max(scores), search.best_score_, rtol=1e-8)


def test_bad_requests_are_told_what_is_possible():
    X, y = three()
    influence = ExactInfluence(svm.LinearSVC(**TIGHT)).fit(X, y)
    with pytest.raises(ValueError, match="needs predictions that LinearSVC does not make"):
        leave_one_out_score(influence, "neg_log_loss")
    with pytest.raises(AttributeError, match="LinearSVC has no predict_proba"):
        leave_one_out_predict(influence, method="predict_proba")
    with pytest.raises(ValueError, match="method must be one of"):
        leave_one_out_predict(influence, method="transform")
    with pytest.raises(ValueError, match="refine must be"):
        leave_one_out_predict(influence, refine=-1)


def test_rows_that_did_not_reach_their_minimum_are_counted():
    X, y = two()
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)
    with pytest.warns(NumericalWarning, match="^150 of 150 removals are not known"):
        leave_one_out_predict(influence, refine=False)
    # The warning belongs to every result, and the refined result has none.
    with pytest.warns(NumericalWarning, match="^145 of 150"):
        leave_one_out_predict(influence, refine=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leave_one_out_predict(influence)


def test_rows_of_a_network_are_counted_as_not_known_to_be_at_a_minimum():
    X, y = two()
    influence = ExactInfluence(perceptron()).fit(X, y)
    with pytest.warns(NumericalWarning, match="^150 of 150 removals.*linear in its parameters"):
        found = leave_one_out_predict(influence, method="predict_proba")
    assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("name", CASES)
def test_the_estimator_without_rows_is_that_of_refitting(name, rng):
    load, model, _ = CASES[name]
    X, y = load()
    gone = rng.permutation(len(y))[: len(y) // 10]
    kept = np.setdiff1d(np.arange(len(y)), gone)
    influence = ExactInfluence(model).fit(X, y)
    before = influence.estimator_.predict(X)
    found, refit = estimator_without(influence, gone), clone(model).fit(X[kept], y[kept])
    for method in methods_of(refit):
        expected = getattr(refit, method)(X)
        if expected.dtype.kind == "f":
            scale = np.abs(expected).max()
            assert_allclose(getattr(found, method)(X), expected, rtol=0, atol=1e-8 * scale)
    assert 0 <= found.remaining_gradient_ < 1e-9
    assert_array_equal(influence.estimator_.predict(X), before)


def test_the_scale_of_huber_moves_too():
    X, y = positive()
    model = MinimalHuber(alpha=1.0)
    found = estimator_without(ExactInfluence(model).fit(X, y), [0, 1, 2])
    refit = clone(model).fit(X[3:], y[3:])
    assert_allclose(found.scale_, refit.scale_, rtol=1e-8)
    assert_allclose(found.coef_, refit.coef_, atol=1e-8)


def test_networks_and_heads_have_no_estimator_without_rows():
    X, y = two()
    model = perceptron().fit(X, y)
    with pytest.raises(TypeError, match="not linear in its parameters"):
        estimator_without(ExactInfluence(model).fit(X, y), [0])
    with pytest.raises(TypeError, match="some parameters of MLPClassifier only"):
        estimator_without(ClassifierHeadInfluence(model).fit(X, y), [0])


def test_later_queries_do_not_pay_for_what_no_query_changes(monkeypatch):
    calls, first = [], removal.newton_steps
    monkeypatch.setattr(removal, "newton_steps", lambda *args: calls.append(1) or first(*args))
    X, y = two()
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)
    full = influence.leave_one_out_effect(X, y)
    assert_allclose(influence.leave_one_out_effect(X[:3], y[:3]), full[:3], rtol=1e-9, atol=1e-12)
    assert len(calls) == 1
    influence.fit(X[1:], y[1:]).leave_one_out_effect(X, y)
    assert len(calls) == 2
