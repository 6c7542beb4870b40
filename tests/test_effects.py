"""Effects of sets that leave, of new weights and of new labels, against really refitting."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import linear_model as lm
from sklearn import metrics, svm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.exceptions import NumericalWarning
from skinfluence.models import objective
from tests.exact_models import MinimalHuber, MinimalSVC
from tests.helpers import (
    NEWTON,
    assert_close,
    cancer,
    diabetes,
    digits,
    frozen,
    perceptron,
    split,
    wine,
)

LR = lm.LogisticRegression


def two(n=120):
    return split(*cancer(), n_queries=30, n_train=n)


def three():
    return split(*wine(), n_queries=30, n_train=90)


def numbers():
    return split(*diabetes(), n_queries=30, n_train=100)


def counts():
    X, y, X_query, y_query = numbers()
    return X, np.round(y / 20), X_query, np.round(y_query / 20)


def two_targets():
    X, y, X_query, y_query = numbers()
    return X, np.column_stack([y, X[:, 0]]), X_query, np.column_stack([y_query, X_query[:, 0]])


CASES = {
    "two classes": (two, LR(**NEWTON)),
    "two classes balanced": (two, LR(class_weight="balanced", **NEWTON)),
    "three classes": (three, LR(**NEWTON)),
    "three classes balanced": (three, LR(class_weight="balanced", **NEWTON)),
    "class weights": (three, LR(class_weight={0: 1.0, 1: 3.0, 2: 0.5}, **NEWTON)),
    "ridge": (numbers, lm.Ridge()),
    "two targets": (two_targets, lm.Ridge()),
    "ridge classifier balanced": (three, lm.RidgeClassifier(class_weight="balanced")),
    "poisson": (counts, lm.PoissonRegressor(alpha=0.1, **NEWTON)),
    "svc balanced": (two, MinimalSVC(class_weight="balanced", dual=False)),
    "huber": (numbers, MinimalHuber(alpha=1.0)),
}

# Wrappers hand no weights on.
ONLY_LABELS = {
    "one-vs-rest balanced": (three, OneVsRestClassifier(LR(class_weight="balanced", **NEWTON))),
    "targets transformed": (
        counts,
        TransformedTargetRegressor(lm.Ridge(), func=np.log1p, inverse_func=np.expm1),
    ),
}


def losses(model, X, y, X_query, y_query):
    """Losses of queries under a fitted model, by the objective that it minimised."""
    inner, read = model, np.asarray
    if isinstance(model, TransformedTargetRegressor):
        inner, read = model.regressor_, model.func
    known = objective(inner, X, read(y), np.ones(len(y)))
    return known.losses(X_query, known.encode_queries(read(y_query), len(y_query)))


def effect(before, after, train, queries):
    return losses(after, *train, *queries) - losses(before, *train, *queries)


def assert_same(found, expected, tol=1e-6):
    assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


def some_weights(rng, n):
    """Doubled, halved and dropped rows; a few of them, and nearly all."""
    few, many = np.ones(n), rng.choice([0.0, 0.5, 1.0, 2.0], n)
    few[:6] = [2, 2, 0.5, 0.5, 0, 0]
    return np.stack([few, many])


@pytest.mark.parametrize("name", CASES)
def test_other_weights_give_the_effects_of_refitting_with_them(name, rng):
    load, model = CASES[name]
    X, y, *queries = load()
    weights = some_weights(rng, len(y))
    influence = ExactInfluence(model).fit(X, y)
    found = influence.reweighting_effect(weights, *queries)
    assert found.shape == (30, 2)
    for weight, column in zip(weights, found.T, strict=True):
        refit = clone(model).fit(X, y, sample_weight=weight)
        expected = effect(influence.estimator_, refit, (X, y), queries)
        assert_same(column, expected)
    assert_allclose(influence.reweighting_effect(weights[0], *queries), found[:, 0], rtol=1e-9)


def test_weights_of_the_fit_change_nothing_and_zero_is_removal(rng):
    X, y, *queries = two()
    weight = rng.uniform(0.5, 2, len(y))
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y, sample_weight=weight)
    assert not influence.reweighting_effect(weight, *queries).any()
    gone = np.where(np.arange(len(y)) < 9, 0.0, weight)
    found = influence.reweighting_effect(gone, *queries)
    assert_allclose(found, influence.removal_effect(range(9), *queries), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [*CASES, *ONLY_LABELS])
@pytest.mark.parametrize("size", [3, 40])
def test_other_labels_give_the_effects_of_refitting_with_them(name, size, rng):
    load, model = (CASES | ONLY_LABELS)[name]
    X, y, *queries = load()
    rows = rng.permutation(len(y))[:size]
    corrected = y.copy()
    corrected[rows] = y[rng.permutation(rows)] if y.dtype.kind == "i" else 1.5 * y[rows] + 1
    influence = ExactInfluence(model).fit(X, y)
    found = influence.relabel_effect(rows, corrected[rows], *queries)
    refit = clone(model).fit(X, corrected)
    assert_same(found, effect(influence.estimator_, refit, (X, y), queries))


def test_labels_keep_their_names_and_a_class_may_lose_its_last_row():
    X, y, *queries = three()
    names = np.array(["a", "b", "c"])
    rows = np.append(np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:2])
    X, y = X[rows], names[y[rows]]
    seen = queries[1] < 2
    queries = queries[0][seen], names[queries[1][seen]]
    model = LR(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    last = [len(y) - 2, len(y) - 1]
    found = influence.relabel_effect(last, ["a", "b"], *queries)
    refit = clone(model).fit(X, [*y[:-2], "a", "b"])
    p, q = (
        model.predict_proba(queries[0])[np.arange(seen.sum()), 1 * (queries[1] == "b")]
        for model in (refit, influence.estimator_)
    )
    assert_same(found, np.log(q) - np.log(p))


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "roc_auc"])
def test_scores_of_several_sets_are_those_of_refits(scoring, rng):
    X, y, *queries = two(200)
    model = LR(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    sets = [[5], rng.permutation(200)[:100], rng.permutation(200)[:20]]
    found = influence.removal_effect(sets, *queries, scoring=scoring)
    scorer = metrics.get_scorer(scoring)
    kept = [np.setdiff1d(np.arange(200), rows) for rows in sets]
    after = [scorer(clone(model).fit(X[rows], y[rows]), *queries) for rows in kept]
    expected = np.array(after) - scorer(influence.estimator_, *queries)
    assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    alone = influence.removal_effect(sets[1], *queries, scoring=scoring)
    assert isinstance(alone, float)
    assert_allclose(alone, found[1], rtol=1e-9)


def test_scores_come_in_the_unit_of_the_user():
    X, y, *queries = counts()
    model = TransformedTargetRegressor(lm.Ridge(), func=np.log1p, inverse_func=np.expm1)
    pipeline = make_pipeline(StandardScaler(), model)
    influence = ExactInfluence(pipeline).fit(X, y)
    found = influence.removal_effect(range(50), *queries, scoring="neg_mean_absolute_error")
    scaled = StandardScaler().fit(X)
    before, after = (
        metrics.mean_absolute_error(queries[1], refit.predict(scaled.transform(queries[0])))
        for rows in (slice(None), slice(50, None))
        for refit in [clone(model).fit(scaled.transform(X)[rows], y[rows])]
    )
    assert_allclose(found, before - after, rtol=1e-8)


@pytest.mark.parametrize(
    "cls", [ExactInfluence, RelativeHessianInfluence, SketchedInfluence], ids=lambda c: c.__name__
)
def test_half_of_the_rows_leave_within_a_percent(cls, rng):
    X, y, *queries = split(*digits(6), n_queries=50, n_train=240)
    model = LR(C=0.1, tol=1e-10, max_iter=10_000)
    more = {} if cls is ExactInfluence else {"random_state": 0}
    influence = cls(model, **more).fit(X, y)
    gone = rng.permutation(240)[:120]
    kept = np.setdiff1d(np.arange(240), gone)
    refit = clone(model).fit(X[kept], y[kept])
    expected = effect(influence.estimator_, refit, (X, y), queries)
    assert_same(influence.removal_effect(gone, *queries), expected, 1e-5)


def test_large_sets_build_no_matrix_of_their_rows(rng):
    tracemalloc = pytest.importorskip("tracemalloc")
    X, y = rng.standard_normal((2000, 5)), rng.integers(0, 10, 2000)
    influence = ExactInfluence(LR(tol=1e-10, max_iter=10_000)).fit(X, y)
    tracemalloc.start()
    influence.removal_effect(range(1000), X[:3], y[:3])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 9 contrasts of 1000 rows: a matrix of 81e6 numbers.
    assert peak < 9000**2 * 8 / 4


@pytest.mark.parametrize("cls", [ExactInfluence, KFACInfluence, ClassifierHeadInfluence])
def test_networks_have_effects_too(cls, rng):
    X, y, *queries = two()
    model = perceptron()
    influence = cls(model, random_state=0).fit(X, y)
    doubled = np.where(np.arange(len(y)) < 80, 2.0, 1.0)
    for found in (
        influence.reweighting_effect(doubled, *queries),
        influence.relabel_effect(range(40), 1 - y[:40], *queries),
    ):
        assert found.shape == (30,) and np.isfinite(found).all() and found.any()
    score = influence.removal_effect(range(80), *queries, scoring="neg_brier_score")
    assert np.isfinite(score) and score != 0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sets_larger_than_the_parameters_keep_the_hessian_of_a_network():
    X, y, *queries = two(200)
    model = frozen(perceptron((2,)), X[:, :5], y)
    queries = queries[0][:, :5], queries[1]
    n_params = 15
    weight = np.ones(len(y))
    weight[n_params] = 1e-12
    influence = ExactInfluence(model, curvature="hessian", damping=0.1)
    influence.fit(X[:, :5], y, sample_weight=weight)
    # The last row of the second set, one more than there are parameters, weighs nothing.
    fewer, more = influence.removal_effect([range(n_params), range(n_params + 1)], *queries).T
    assert influence.linearisation_.objective.theta.size == n_params
    assert_close(more, fewer, 1e-7)


def test_bad_requests_are_told_what_is_possible():
    X, y, *queries = two()
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)
    ones = np.ones(len(y))
    with pytest.raises(ValueError, match=r"weights must hold a weight for each of the 120"):
        influence.reweighting_effect(ones[1:], *queries)
    with pytest.raises(ValueError, match="weights must not be negative"):
        influence.reweighting_effect(-ones, *queries)
    with pytest.raises(ValueError, match="no refit with the new weights of.*all of class 1"):
        influence.reweighting_effect(np.where(y == 1, 0.0, 1.0), *queries)
    with pytest.raises(ValueError, match="nothing is left to fit"):
        influence.reweighting_effect(0 * ones, *queries)
    with pytest.raises(ValueError, match="no refit without.*all of class 1"):
        influence.removal_effect(np.flatnonzero(y == 1), *queries, scoring="accuracy")
    with pytest.warns(NumericalWarning, match=r"no refit without set\(s\) 1"):
        found = influence.removal_effect([[0], np.flatnonzero(y == 1)], *queries, scoring="f1")
    assert np.isfinite(found[0]) and np.isnan(found[1])
    with pytest.raises(ValueError, match="y_new must hold the new label of each of the 2 rows"):
        influence.relabel_effect([0, 1], [1], *queries)
    with pytest.raises(ValueError, match="labels that the model was not fitted on"):
        influence.relabel_effect([0], [7], *queries)
    with pytest.raises(ValueError, match="names a training row twice"):
        influence.removal_effect([[0], [1, 1]], *queries)
    svc = ExactInfluence(svm.LinearSVC()).fit(X, y)
    with pytest.raises(ValueError, match="needs predictions that LinearSVC does not make"):
        svc.removal_effect([0], *queries, scoring="neg_log_loss")
