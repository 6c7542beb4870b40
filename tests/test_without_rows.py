"""Predictions and models without training rows, against really refitting."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import (
    GridSearchCV,
    LeaveOneGroupOut,
    LeaveOneOut,
    cross_val_predict,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skinfluence import ClassifierHeadInfluence, ExactInfluence
from skinfluence.diagnostics import (
    estimator_without,
    leave_one_out_predict,
    leave_one_out_score,
)
from skinfluence.exceptions import NumericalWarning
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


def three():
    return few(wine, 100)


def ten():
    return few(digits, 250)


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
    "C=0.001": (two, LR(C=1e-3, **NEWTON), 1e-6),
    "C=1000": (three, LR(C=1e3, **NEWTON), 1e-6),
    "three classes": (three, LR(**NEWTON), 1e-6),
    "ten classes": (ten, LR(C=0.1, **NEWTON), 1e-6),
    "ridge": (numbers, lm.Ridge(), 1e-9),
    "two targets": (two_targets, lm.Ridge(), 1e-9),
    "ridge classifier": (three, lm.RidgeClassifier(class_weight="balanced"), 1e-9),
    "poisson": (counts, lm.PoissonRegressor(alpha=0.1, **NEWTON), 1e-6),
    "gamma": (positive, lm.GammaRegressor(alpha=0.1, **NEWTON), 1e-6),
    "tweedie": (counts, lm.TweedieRegressor(power=1.5, alpha=0.1, **NEWTON), 1e-6),
    "huber": (positive, lm.HuberRegressor(alpha=1.0, tol=1e-10, max_iter=10_000), 1e-3),
    "svc": (three, svm.LinearSVC(tol=1e-10, max_iter=100_000), 1e-4),
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
    rows = rng.permutation(len(y))[:25]
    found = {method: leave_one_out_predict(influence, method=method) for method in methods_of(influence.estimator_)}
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
