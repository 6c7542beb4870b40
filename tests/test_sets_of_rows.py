"""Curves of removals and most influential sets, against refits of every set."""

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model as lm
from sklearn import metrics
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import ExactInfluence
from skinfluence.diagnostics import most_influential_set, removal_curve
from tests.helpers import NEWTON, cancer, diabetes, perceptron, split, wine

LR = lm.LogisticRegression


# Curves


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "roc_auc"])
def test_the_curve_is_that_of_refits_and_turns_where_they_turn(scoring):
    X, y, *queries = split(*cancer(), n_queries=200)
    rng = np.random.default_rng(0)
    flipped = rng.permutation(len(y))[: len(y) // 10]
    y[flipped] = 1 - y[flipped]
    model = LR(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    order = np.argsort(-influence.influence(*queries, reduce="mean"))
    curve = removal_curve(influence, order, *queries, scoring, n_steps=10)
    assert_array_equal(curve.k, np.linspace(0, len(y) // 2, 11).round())
    score = metrics.get_scorer(scoring or "accuracy")
    refits = [clone(model).fit(X[order[k:]], y[order[k:]]) for k in curve.k]
    expected = np.array([score(refit, *queries) for refit in refits])
    assert_allclose(curve.score, expected, rtol=1e-5)
    assert abs(curve.score.argmax() - expected.argmax()) <= 1
    # The curve rises at all: rows with wrong labels leave first.
    assert curve.score.max() > curve.score[0]


def test_points_of_a_curve_may_be_chosen_in_front_of_steps_that_stay():
    X, y, *queries = split(*diabetes(), n_queries=50, n_train=80)
    influence = ExactInfluence(make_pipeline(StandardScaler(), lm.Ridge())).fit(X, y)
    curve = removal_curve(influence, [5, 3, 8, 1], *queries, ks=[1, 4])
    scaler = StandardScaler().fit(X)
    for k, score in zip(curve.k, curve.score, strict=True):
        kept = np.setdiff1d(np.arange(80), [5, 3, 8, 1][:k])
        refit = lm.Ridge().fit(scaler.transform(X)[kept], y[kept])
        assert_allclose(score, refit.score(scaler.transform(queries[0]), queries[1]), rtol=1e-9)
    assert_array_equal(removal_curve(influence, [5, 3], *queries, n_steps=7).k, [0, 1, 2])
    with pytest.raises(ValueError, match="ks must be a 1-d array of integers from 0 to 2"):
        removal_curve(influence, [5, 3], *queries, ks=[3])
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1"):
        removal_curve(influence, [5, 3], *queries, n_steps=0)


# Sets


def heavy_tails(seed, n):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    y = X @ [0.3, 0, 1] + rng.standard_t(3, n)
    # Rows that pull at the model by themselves.
    X[:3] *= 4
    return X, y


def ridge_without(sets, X, y):
    """First weight of a Ridge(1.0) without each of the sets, by normal equations."""
    Z = np.column_stack([X, np.ones(len(y))])
    gram, right = Z[:, :, None] * Z[:, None, :], Z * y[:, None]
    matrices = gram.sum(axis=0) - gram[sets].sum(axis=1) + np.diag([1.0, 1.0, 1.0, 0.0])
    vectors = right.sum(axis=0) - right[sets].sum(axis=1)
    return np.linalg.solve(matrices, vectors[..., None])[:, 0, 0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("direction", ["both", "increase", "decrease"])
def test_the_set_is_the_best_of_all_sets(seed, direction):
    X, y = heavy_tails(seed, 60)
    influence = ExactInfluence(lm.Ridge(1.0)).fit(X, y)
    for k in (1, 2, 3):
        found = most_influential_set(influence, k, target=0, direction=direction)
        sets = np.array(list(combinations(range(60), k)))
        change = ridge_without(sets, X, y) - influence.estimator_.coef_[0]
        moved = {"both": np.abs(change), "increase": change, "decrease": -change}[direction]
        assert set(found.indices) == set(sets[moved.argmax()])
        assert_allclose(found.refitted - found.before, change[moved.argmax()], rtol=1e-9)
        assert_allclose(found.predicted, found.refitted, rtol=1e-9)


def test_a_thorough_search_finds_what_greed_alone_misses():
    X, y = heavy_tails(0, 40)
    influence = ExactInfluence(lm.Ridge(1.0)).fit(X, y)
    best, greedy = (
        most_influential_set(influence, 2, target=0, thorough=thorough)
        for thorough in (True, False)
    )
    assert abs(best.refitted - best.before) > abs(greedy.refitted - greedy.before)
    assert_allclose(greedy.path[-1], greedy.refitted, rtol=1e-9)
    longer = most_influential_set(influence, 4, target=0, thorough=False)
    assert_array_equal(longer.indices[:2], greedy.indices)


@pytest.mark.parametrize("target", ["loss", "output", "roc_auc", 3])
def test_every_number_of_a_classifier_is_searched_exactly(target):
    X, y, *queries = split(*cancer(), n_queries=40, n_train=20)
    X, queries[0] = X[:, :5], queries[0][:, :5]
    model = LR(class_weight="balanced", **NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    found = most_influential_set(influence, 2, *queries, target=target)

    def number(refit):
        p = refit.predict_proba(queries[0])
        return {
            "loss": lambda: metrics.log_loss(queries[1], p),
            "output": lambda: refit.decision_function(queries[0]).mean(),
            "roc_auc": lambda: metrics.roc_auc_score(queries[1], p[:, 1]),
            3: lambda: refit.coef_[0, 3],
        }[target]()

    before = number(influence.estimator_)
    moves = {
        pair: abs(number(clone(model).fit(X[kept], y[kept])) - before)
        for pair in combinations(range(20), 2)
        for kept in [np.delete(np.arange(20), pair)]
    }
    assert_allclose(found.before, before, rtol=1e-9)
    assert_allclose(found.predicted, found.refitted, rtol=1e-6)
    # Scores have ties.
    assert_allclose(abs(found.refitted - before), max(moves.values()), rtol=1e-6)


def test_parameters_are_those_of_the_model_with_weights_and_several_classes(rng):
    X, y, *_ = split(*wine(), n_queries=1, n_train=60)
    weight = rng.uniform(0.5, 2.0, 60)
    model = LR(**NEWTON)
    influence = ExactInfluence(model).fit(X + 3, y, sample_weight=weight)
    found = most_influential_set(influence, 2, target=39 + 1)
    kept = np.delete(np.arange(60), found.indices)
    refit = clone(model).fit(X[kept] + 3, y[kept], sample_weight=weight[kept])
    assert_allclose(found.before, influence.estimator_.intercept_[1], rtol=1e-8)
    assert_allclose(found.refitted, refit.intercept_[1], rtol=1e-8)
    assert_allclose(found.predicted, refit.intercept_[1], rtol=1e-6)


def test_a_class_keeps_its_last_row():
    X, y, *_ = split(*cancer(), n_queries=1, n_train=60)
    rows = np.append(np.flatnonzero(y == 0)[:4], np.flatnonzero(y == 1)[:2])
    influence = ExactInfluence(LR(**NEWTON)).fit(X[rows, :3], y[rows])
    found = most_influential_set(influence, 3, target=0)
    assert np.isfinite(found.refitted) and (found.indices >= 4).sum() <= 1
    with pytest.raises(ValueError, match="No row can leave after 4 others"):
        most_influential_set(influence, 5, target=0, thorough=False)


def test_bad_requests_are_told_what_is_possible():
    X, y, *queries = split(*wine(), n_queries=5, n_train=40)
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)
    with pytest.raises(ValueError, match="k must be an integer from 1 to 39"):
        most_influential_set(influence, 40, target=0)
    with pytest.raises(ValueError, match="direction must be one of"):
        most_influential_set(influence, 1, target=0, direction="up")
    with pytest.raises(ValueError, match="target must be a parameter from 0 to 41"):
        most_influential_set(influence, 1, target=42)
    with pytest.raises(ValueError, match="'loss' needs queries"):
        most_influential_set(influence, 1)
    with pytest.raises(ValueError, match="needs the targets of the queries"):
        most_influential_set(influence, 1, queries[0], target="accuracy")
    with pytest.raises(ValueError, match="has 3 outputs"):
        most_influential_set(influence, 1, queries[0], target="output")
    network = ExactInfluence(perceptron()).fit(X, y)
    with pytest.raises(TypeError, match="not linear in its parameters"):
        most_influential_set(network, 1, *queries)
