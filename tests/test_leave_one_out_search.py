"""A search by leave-one-out agrees with really leaving each row out."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge, RidgeCV
from sklearn.metrics import log_loss, mean_poisson_deviance, roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinfluence import ExactInfluence, LeaveOneOutSearch
from tests.helpers import NEWTON, assert_close, cancer, diabetes, wine

FEW = slice(None, None, 5)


def brute_force(model, grid, X, y, metric, *, method="predict", cv=None, groups=None):
    """Score of every candidate from one fit for each row, or group, that is left out."""
    scores = []
    for params in grid:
        candidate = clone(model).set_params(**params)
        cv = LeaveOneOut() if cv is None else cv
        found = cross_val_predict(candidate, X, y, cv=cv, method=method, groups=groups)
        scores.append(metric(y, found))
    return np.array(scores)


def test_ridge_scores_are_those_of_ridgecv():
    X, y = diabetes()
    alphas = np.geomspace(1e-3, 1e3, 7)
    search = LeaveOneOutSearch(Ridge(), {"alpha": alphas}, scoring="neg_mean_squared_error")
    search.fit(X, y)
    expected = RidgeCV(alphas, store_cv_results=True).fit(X, y)
    assert_close(search.cv_results_["mean_test_score"], -expected.cv_results_.mean(axis=0), 1e-8)
    assert search.best_params_ == {"alpha": expected.alpha_}
    assert_close(search.best_estimator_.coef_, expected.coef_, 1e-8)
    assert search.n_splits_ == len(y)


@pytest.mark.parametrize(
    ("data", "scoring", "metric", "method"),
    [
        (cancer, "roc_auc", lambda y, z: roc_auc_score(y, z), "decision_function"),
        (cancer, "accuracy", lambda y, z: (y == z).mean(), "predict"),
        (wine, "neg_log_loss", lambda y, z: -log_loss(y, z), "predict_proba"),
    ],
)
def test_logistic_scores_and_choice_are_those_of_refits(data, scoring, metric, method):
    X, y = (array[FEW] for array in data())
    model, grid = LogisticRegression(**NEWTON), {"C": [1e-3, 0.1, 10.0]}
    search = LeaveOneOutSearch(model, grid, scoring=scoring).fit(X, y)
    params = search.cv_results_["params"]
    expected = brute_force(model, params, X, y, metric, method=method)
    assert_close(search.cv_results_["mean_test_score"], expected, 1e-6)
    assert search.best_index_ == expected.argmax()
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()


def test_without_a_scorer_the_score_is_that_of_the_estimator():
    X, y = (array[FEW] for array in diabetes())
    counts = np.round(y / 20)
    model, grid = PoissonRegressor(solver="newton-cholesky", tol=1e-12), {"alpha": [0.1, 1.0]}
    search = LeaveOneOutSearch(model, grid).fit(X, counts)

    def d2(y, z):
        return 1 - mean_poisson_deviance(y, z) / mean_poisson_deviance(
            y, np.full(len(y), y.mean())
        )

    expected = brute_force(model, search.cv_results_["params"], X, counts, d2)
    assert_close(search.cv_results_["mean_test_score"], expected, 1e-6)


def test_groups_leave_together():
    X, y = (array[FEW] for array in diabetes())
    groups = np.arange(len(y)) % 7
    grid = {"alpha": [0.1, 10.0]}
    search = LeaveOneOutSearch(Ridge(), grid, scoring="neg_mean_squared_error")
    search.fit(X, y, groups=groups)
    expected = brute_force(
        Ridge(),
        search.cv_results_["params"],
        X,
        y,
        lambda y, z: -((y - z) ** 2).mean(),
        cv=LeaveOneGroupOut(),
        groups=groups,
    )
    assert_close(search.cv_results_["mean_test_score"], expected, 1e-8)
    assert search.n_splits_ == 7


def test_weights_reach_the_last_step_of_a_pipeline(rng):
    X, y = (array[FEW] for array in diabetes())
    weight = rng.integers(1, 4, len(y)).astype(float)
    search = LeaveOneOutSearch(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": [0.1, 10.0]},
        scoring="neg_mean_squared_error",
    ).fit(X, y, sample_weight=weight)
    expected = []
    for alpha in (0.1, 10.0):
        scaled, error = StandardScaler().fit_transform(X), []
        for row in range(len(y)):
            kept = np.arange(len(y)) != row
            model = Ridge(alpha=alpha).fit(scaled[kept], y[kept], sample_weight=weight[kept])
            error.append((model.predict(scaled[[row]])[0] - y[row]) ** 2)
        expected.append(-np.mean(error))
    assert_close(search.cv_results_["mean_test_score"], np.array(expected), 1e-8)


def test_the_search_is_a_model_whose_influence_is_known():
    X, y = wine()
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    search = LeaveOneOutSearch(LogisticRegression(**NEWTON), {"C": [0.1, 1.0]}, n_jobs=2)
    search.fit(frame, y)
    assert search.feature_names_in_.tolist() == frame.columns.tolist()
    assert search.predict_proba(frame).shape == (len(y), 3)
    direct = ExactInfluence(search.best_estimator_).fit(frame, y)
    inside = ExactInfluence(search).fit(frame, y)
    assert_close(inside.influence(frame[:3], y[:3]), direct.influence(frame[:3], y[:3]), 1e-10)


def test_results_have_no_folds():
    X, y = (array[FEW] for array in diabetes())
    search = LeaveOneOutSearch(Ridge(), {"alpha": [1.0, 2.0]}, refit=False).fit(X, y)
    assert set(search.cv_results_) == {
        "params",
        "param_alpha",
        "mean_test_score",
        "rank_test_score",
        "mean_fit_time",
        "mean_score_time",
    }
    assert not hasattr(search, "best_estimator_")
    assert "cv" not in search.get_params()


def test_a_model_without_an_objective_is_refused_by_name():
    X, y = (array[FEW] for array in cancer())
    search = LeaveOneOutSearch(RandomForestClassifier(), {"n_estimators": [2, 3]})
    with (
        pytest.warns(UserWarning, match=r"Scoring failed|non-finite"),
        pytest.raises(TypeError, match="RandomForestClassifier"),
    ):
        search.fit(X, y)


def test_an_error_of_the_callers_own_choice_is_told_as_it_is():
    def choose(results):
        raise ValueError("no candidate is good enough")

    X, y = (array[FEW] for array in diabetes())
    with pytest.raises(ValueError, match="no candidate is good enough"):
        LeaveOneOutSearch(Ridge(), {"alpha": [1.0]}, refit=choose).fit(X, y)


def test_a_scorer_that_needs_probabilities_is_refused():
    X, y = (array[FEW] for array in diabetes())
    search = LeaveOneOutSearch(Ridge(), {"alpha": [1.0]}, scoring="neg_log_loss")
    with (
        pytest.warns(UserWarning, match=r"Scoring failed|non-finite"),
        pytest.raises((ValueError, AttributeError), match="predict_proba"),
    ):
        search.fit(X, y)


def expected_failures(estimator):
    # Leaving out a row that stands for two is not leaving out one of two rows.
    name = "check_sample_weight_equivalence_on"
    reason = "a row of weight 2 leaves as a whole, one of two copies does not"
    return {f"{name}_{kind}_data": reason for kind in ("dense", "sparse")}


@parametrize_with_checks(
    [LeaveOneOutSearch(Ridge(), {"alpha": [0.1, 1.0]})], expected_failed_checks=expected_failures
)
def test_rules_of_scikit_learn(estimator, check):
    check(estimator)
