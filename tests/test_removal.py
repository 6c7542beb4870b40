"""Every removal has a finite, right effect, or is refused by name."""

import re
import warnings

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import scale

from skinfluence import ExactInfluence, KFACInfluence, RelativeHessianInfluence
from skinfluence.exceptions import NumericalWarning
from skinfluence.models import objective
from skinfluence.models.losses import (
    ConcomitantHuber,
    HalfTweedieLoss,
    LogisticLoss,
    SignedSquares,
    SoftmaxLoss,
    SoftmaxScores,
)
from skinfluence.models.weighting import Weighting
from skinfluence.refitting.moved_losses import moved_losses
from skinfluence.refitting.newton_step import first_steps
from skinfluence.refitting.removal import removal_of_each, removal_of_sets

LR = lm.LogisticRegression
NC = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 200}
REFINEMENT = "skinfluence.refitting.refinement"


def losses(fitted, X, y, weight, X_query, y_query):
    """Losses of queries under a fitted model, by the objective that it minimised."""
    known = objective(fitted, X, y, weight)
    return known.losses(X_query, known.encode_queries(y_query, len(y_query)))


def refitted(model, train, queries, kept, weight=None):
    """Change of the queries' losses when the model is fitted on the kept rows alone."""
    X, y = train
    weight = np.ones(len(y)) if weight is None else weight
    after, before = (
        losses(fitted, X[rows], y[rows], weight[rows], *queries)
        for rows in (kept, np.arange(len(y)))
        for fitted in [clone(model).fit(X[rows], y[rows], sample_weight=weight[rows])]
    )
    return after - before


def refitted_without_each(model, train, queries, rows, weight=None):
    everything = np.arange(len(train[1]))
    columns = [refitted(model, train, queries, np.delete(everything, i), weight) for i in rows]
    return np.column_stack(columns)


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def two_classes(n=60):
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X)[:n, :6], y[:n]


# Inside the domain of the loss


@pytest.mark.parametrize("seed", range(20))
def test_removing_most_rows_of_a_huber_regression_is_refitting(seed):
    rng = np.random.RandomState(seed)
    X = rng.randn(40, 3)
    y = X @ [1, -1, 0.5] + rng.standard_t(2, 40)
    model = lm.HuberRegressor(alpha=0.5, tol=1e-10, max_iter=10_000)
    influence = ExactInfluence(model).fit(X, y)
    for size in (21, 24, 27, 30):
        for dropped in (np.arange(size), rng.permutation(40)[:size]):
            kept = np.setdiff1d(np.arange(40), dropped)
            expected = refitted(model, (X, y), (X[:3], y[:3]), kept)
            # L-BFGS leaves the refits of the estimator within a thousandth of the minimum.
            assert relative_error(influence.removal_effect(dropped, X[:3], y[:3]), expected) < 0.01


@pytest.mark.parametrize("power", [1, 1.5])
def test_means_stay_positive_under_an_identity_link(power):
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (40, 2))
    y = rng.poisson(5 * X @ [1.0, 3.0]) + 0.1
    model = lm.TweedieRegressor(power=power, link="identity", alpha=1e-3, **NC)
    influence = ExactInfluence(model).fit(X, y)
    queries = X[y > 3][:4], y[y > 3][:4]
    for size in (1, 10, 25):
        dropped = np.argsort(-y)[:size]
        kept = np.setdiff1d(np.arange(40), dropped)
        expected = refitted(model, (X, y), queries, kept)
        assert relative_error(influence.removal_effect(dropped, *queries), expected) < 1e-6


def test_rows_that_left_may_lie_outside_of_the_domain():
    X = np.array([[1.0], [1.2], [2.1], [5.0]])
    y = np.array([1.1, 1.0, 0.3, 6.0])
    model = lm.TweedieRegressor(power=1, link="identity", alpha=1e-3, **NC)
    influence = ExactInfluence(model).fit(X, y)
    assert clone(model).fit(X[:3], y[:3]).predict(X[3:]) < 0
    expected = refitted(model, (X, y), (X[:3], y[:3]), np.arange(3))
    assert relative_error(influence.removal_effect([3], X[:3], y[:3]), expected) < 1e-6


def test_queries_outside_of_the_domain_after_a_removal_are_named():
    X = np.array([[1.0], [1.2], [2.0], [2.1]])
    y = np.array([1.0, 1.1, 6.0, 0.3])
    model = lm.TweedieRegressor(power=1, link="identity", alpha=1e-6, **NC)
    influence = ExactInfluence(model).fit(X, y)
    after = clone(model).fit(X[[0, 1, 3]], y[[0, 1, 3]])
    query = np.array([[3.0]])
    assert influence.estimator_.predict(query) > 0 > after.predict(query)
    with pytest.warns(
        NumericalWarning, match=r"training row\(s\) 2.* some queries have no finite"
    ):
        effect = influence.leave_one_out_effect(query, [1.0])
    assert_array_equal(np.isinf(effect), [[False, False, True, False]])


def test_steps_end_inside_the_domain_of_the_loss():
    z = np.array([[[1.0, 2.0], [1.0, 2.0]]])
    moves = np.array([[[-5.0, -4.0], [-5.0, 1.0]]])
    share = ConcomitantHuber(1.35).largest_step(z, moves)
    assert 0 < share[0, 0] < 0.5 and share[0, 1] == 1
    share = HalfTweedieLoss(1.0, log_link=False).largest_step(z[..., :1], moves[..., :1])
    assert ((0 < share) & (share < 0.2)).all()
    for anywhere in (HalfTweedieLoss(0, log_link=False), HalfTweedieLoss(2.0), LogisticLoss()):
        assert (anywhere.largest_step(z[..., :1], moves[..., :1]) == 1).all()
    values = HalfTweedieLoss(1.0, False).value(np.array([[1.0], [-1.0]]), np.ones((2, 1)))
    assert_array_equal(values, [0, np.inf])


def test_first_steps_that_are_not_refined_stay_inside_the_domain(monkeypatch):
    monkeypatch.setattr(f"{REFINEMENT}.REFINING", 0)
    rng = np.random.RandomState(1)
    X = rng.randn(40, 3)
    y = X @ [1, -1, 0.5] + rng.standard_t(2, 40)
    influence = ExactInfluence(lm.HuberRegressor(alpha=0.5, tol=1e-9, max_iter=10_000)).fit(X, y)
    assert np.isfinite(influence.removal_effect(np.arange(30), X[:3], y[:3])).all()


# Weights of any size


@pytest.mark.parametrize("size", [1e-12, 1e12])
@pytest.mark.parametrize(
    "model, target, rtol",
    [
        (LR(**NC), "classes", 1e-6),
        (lm.PoissonRegressor(alpha=0.1, **NC), "counts", 1e-6),
    ],
    ids=["logistic", "poisson"],
)
@pytest.mark.parametrize("cls", [ExactInfluence, RelativeHessianInfluence])
def test_weights_of_any_size_give_the_effects_of_refitting(cls, model, target, rtol, size):
    rng = np.random.RandomState(0)
    X = rng.randn(40, 3)
    numbers = X @ [1, -1, 0.5] + rng.standard_t(2, 40)
    y = (numbers > 0) * 1 if target == "classes" else np.round(np.exp(numbers / 3))
    more = {} if cls is ExactInfluence else {"subset_size": 20, "random_state": 0}
    weight = np.full(40, size)
    influence = cls(model, **more).fit(X, y, sample_weight=weight)
    found = influence.leave_one_out_effect(X[:4], y[:4])[:, ::4]
    expected = refitted_without_each(model, (X, y), (X[:4], y[:4]), range(0, 40, 4), weight)
    assert relative_error(found, expected) < rtol


@pytest.mark.parametrize("cls", [ExactInfluence, RelativeHessianInfluence])
def test_a_row_that_outweighs_all_others_leaves_finite_effects(cls):
    rng = np.random.RandomState(0)
    X, y = rng.randn(40, 3), rng.randint(0, 2, 40)
    weight = np.where(np.arange(40) == 5, 1e12, 1.0)
    more = {} if cls is ExactInfluence else {"subset_size": 20, "random_state": 0}
    model = LR(class_weight="balanced", **NC)
    influence = cls(model, **more).fit(X, y, sample_weight=weight)
    found = influence.leave_one_out_effect(X[:4], y[:4])
    assert np.isfinite(found).all()
    expected = refitted_without_each(model, (X, y), (X[:4], y[:4]), [5], weight)
    # The gradient of the other rows is known to the rounding errors of this one.
    assert relative_error(found[:, [5]], expected) < 1e-5


def test_sums_without_a_row_do_not_lose_the_small_rows():
    weight = np.array([1e-12, 1e12, 2e-12, 1e-12])
    weighting = Weighting(weight, np.array([0, 1, 1, 0]), "balanced", kind="mean")
    kept = ~np.eye(4, dtype=bool)
    for found, expected in zip(
        weighting.without_each(), weighting.class_weight_of(kept), strict=True
    ):
        assert_allclose(found, expected, rtol=1e-12)


# Classes that lose their last row


def flowers(n_classes=3):
    X, y = load_iris(return_X_y=True)
    if n_classes == 4:
        X = np.concatenate([X, X[100:130] + [0, 1, -1, 0.5]])
        y = np.concatenate([y, np.full(30, 3)])
    # Names whose order is not that of their numbers.
    return X, np.array(["c", "a", "d", "b"])[y]


EMPTIED = {
    "multinomial": (LR(**NC), 3),
    "multinomial, four classes": (LR(**NC), 4),
    "weak penalty": (LR(C=100, **NC | {"tol": 1e-9}), 3),
    "no intercept": (LR(fit_intercept=False, **NC), 3),
    "balanced": (LR(class_weight="balanced", **NC), 3),
    "balanced, four classes": (LR(class_weight="balanced", **NC), 4),
    "given class weights": (LR(class_weight={"a": 1, "b": 2, "c": 3, "d": 1}, **NC), 4),
    "ridge classifier": (lm.RidgeClassifier(), 3),
    "ridge classifier, balanced": (lm.RidgeClassifier(class_weight="balanced"), 3),
    "ridge classifier, four classes": (lm.RidgeClassifier(class_weight="balanced"), 4),
    "SVC": (svm.LinearSVC(C=0.1, tol=1e-12, max_iter=1_000_000), 3),
    "SVC, four classes": (svm.LinearSVC(C=0.1, tol=1e-12, max_iter=1_000_000), 4),
}


def with_few_of(label, n_rows, n_classes):
    """Every second row of the other classes and some of one, and queries of the others."""
    X, y = flowers(n_classes)
    rows = np.concatenate([np.flatnonzero(y != label)[::2], np.flatnonzero(y == label)[:n_rows]])
    others = y != label
    return X[rows], y[rows], X[others][1::7], y[others][1::7]


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("label", ["a", "c", "d"])
@pytest.mark.parametrize("name", EMPTIED)
def test_a_removal_that_empties_a_class_leaves_the_model_of_the_others(name, label, n_rows):
    model, n_classes = EMPTIED[name]
    X, y, *queries = with_few_of(label, n_rows, n_classes)
    influence = ExactInfluence(model).fit(X, y)
    dropped = np.flatnonzero(y == label)
    expected = refitted(model, (X, y), queries, np.flatnonzero(y != label))
    assert relative_error(influence.removal_effect(dropped, *queries), expected) < 1e-6
    if n_rows == 1:
        each = influence.leave_one_out_effect(*queries)
        assert np.isfinite(each).all()
        assert relative_error(each[:, dropped[0]], expected) < 1e-6
        mean = influence.leave_one_out_effect(*queries, reduce="mean")
        assert_allclose(mean[dropped[0]], expected.mean(), atol=1e-6 * np.abs(expected).max())


def test_queries_of_a_class_that_is_gone_have_no_finite_loss():
    X, y, *_ = with_few_of("d", 1, 3)
    X_query, y_query = flowers()
    influence = ExactInfluence(LR(**NC)).fit(X, y)
    message = rf"training row\(s\) {len(y) - 1} \(all of class d\) some queries have no finite"
    with pytest.warns(NumericalWarning, match=message) as record:
        effect = influence.leave_one_out_effect(X_query, y_query)
    assert len(record) == 1
    assert_array_equal(np.isinf(effect[:, -1]), y_query == "d")
    assert np.isfinite(effect[:, :-1]).all()
    with pytest.warns(NumericalWarning, match="no finite loss"):
        removed = influence.removal_effect([len(y) - 1], X_query, y_query)
    assert_array_equal(removed, effect[:, -1])


def test_the_last_row_of_one_of_two_classes_has_no_effect_but_the_others_have():
    X, y = np.random.RandomState(1).randn(60, 4), np.append(np.zeros(59, dtype=int), 1)
    influence = ExactInfluence(LR(**NC)).fit(X, y)
    with pytest.warns(NumericalWarning, match=r"row\(s\) 59 \(all of class 1\).*NaN") as record:
        effect = influence.leave_one_out_effect(X[:5], y[:5])
    assert len(record) == 1
    assert np.isnan(effect[:, 59]).all()
    rows = [0, 20, 58]
    expected = refitted_without_each(LR(**NC), (X, y), (X[:5], y[:5]), rows)
    assert relative_error(effect[:, rows], expected) < 1e-6
    with pytest.raises(ValueError, match=r"these 1 training row\(s\) \(all of class 1\)"):
        influence.removal_effect([59], X[:5], y[:5])


@pytest.mark.parametrize(
    "influence",
    [
        KFACInfluence(LR(**NC)),
        ExactInfluence(LR(solver="saga", l1_ratio=0.5, tol=1e-8, max_iter=100_000), damping=1e-3),
        ExactInfluence(svm.LinearSVC(class_weight="balanced", tol=1e-10, max_iter=1_000_000)),
    ],
    ids=["factors", "active set", "balanced one-vs-rest"],
)
@pytest.mark.filterwarnings("ignore:.* has an L1 penalty:UserWarning")
def test_classes_that_cannot_be_taken_out_of_a_model_are_refused_by_name(influence):
    if sklearn.__version__ < "1.8" and "l1_ratio" in influence.get_params()["estimator"].__dict__:
        influence.estimator.set_params(**{"penalty": "elasticnet"})
    X, y, *queries = with_few_of("a", 1, 3)
    influence.fit(scale(X), y)
    with pytest.raises(ValueError, match="all of class a.*Keep a row of every class"):
        influence.removal_effect([len(y) - 1], *queries)


def test_a_class_of_zero_weight_stays_a_class():
    # scikit-learn goes by the labels: the class is there, and its score falls without end.
    X, y, *queries = with_few_of("a", 2, 3)
    weight = np.where(np.arange(len(y)) == len(y) - 1, 0.0, 1.0)
    model = LR(fit_intercept=False, **NC)
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    kept = np.delete(np.arange(len(y)), len(y) - 2)
    expected = refitted(model, (X, y), queries, kept, weight)
    assert relative_error(influence.removal_effect([len(y) - 2], *queries), expected) < 1e-6


def test_losses_of_the_remaining_classes():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 3))
    targets = np.eye(4)[[0, 1, 2, 3, 1]]
    loss = SoftmaxLoss(4)
    some = loss.of_remaining(np.array([0, 1, 3]))
    scores = z @ loss.contrasts.T[:, [0, 1, 3]]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = -np.log([p[0, 0], p[1, 1], 0, p[3, 2], p[4, 1]] + 1e-300 * (np.arange(5) == 2))
    found = some.value(z, targets)
    assert np.isinf(found[2])
    assert_allclose(np.delete(found, 2), np.delete(expected, 2))
    squares = SignedSquares().of_remaining(np.array([0, 2]))
    signs = np.where(np.eye(3)[[0, 1, 2]] > 0, 1.0, -1.0)
    found = squares.value(z[:3], signs)
    assert_allclose(found, [(1 + z[0, 2]) ** 2, np.inf, (1 - z[2, 2]) ** 2])
    for small in (some, squares):
        y, rows = (targets, [0, 1, 3, 4]) if small is some else (signs, [0, 2])
        y, start = y[rows], z[rows]
        residual, step = small.residual(start, y), 1e-6
        for k in range(3):
            change = np.zeros(3)
            change[k] = step
            up, down = small.value(start + change, y), small.value(start - change, y)
            assert_allclose((up - down) / (2 * step), residual[:, k], atol=1e-8)
    for alone in (loss, SoftmaxScores(3), LogisticLoss()):
        assert alone.of_remaining(np.array([1])) is None
    # Networks keep their outputs, and active sets are those of all classes.
    assert SoftmaxScores(3).of_remaining(np.array([0, 1])) is None


# Too few rows


@pytest.mark.parametrize("model", [lm.Ridge(), lm.PoissonRegressor(alpha=0.1, **NC)])
def test_one_row_cannot_be_left_out_but_two_can(model):
    X, y = np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        with pytest.raises(ValueError, match="Found 1 sample"):
            ExactInfluence(model).fit(X[:1], y[:1])
        effect = ExactInfluence(model, damping=0).fit(X, y).leave_one_out_effect(X, y)
    expected = refitted_without_each(model, (X, y), (X, y), [0, 1])
    assert_allclose(effect, expected, atol=1e-6 * np.abs(expected).max())


def test_the_only_row_that_has_a_weight_is_refused_and_the_others_are_not():
    X, y = np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 2.0])
    influence = ExactInfluence(lm.Ridge()).fit(X, y, sample_weight=[0.0, 1.0, 0.0])
    with pytest.warns(NumericalWarning, match=r"training row\(s\) 1: nothing is left"):
        effect = influence.leave_one_out_effect(X, y)
    assert np.isnan(effect[:, 1]).all()
    assert_array_equal(effect[:, [0, 2]], 0)


def test_two_rows_of_two_classes_are_refused():
    X, y = np.array([[1.0], [2.0]]), np.array(["no", "yes"])
    influence = ExactInfluence(LR(**NC)).fit(X, y)
    message = r"0 \(all of class no\), 1 \(all of class yes\)"
    with pytest.raises(ValueError, match=message):
        influence.leave_one_out_effect(X, y)


def test_the_only_row_of_a_direction_leaves_a_finite_effect_in_doubt():
    # Powers of 2 throughout, so that 1 less the leverage is 0 without a rounding error.
    X, y = np.array([[1.0, 0.0]] + 7 * [[0.0, 1.0]]), np.arange(8.0)
    influence = ExactInfluence(lm.LinearRegression(fit_intercept=False), damping=0).fit(X, y)
    with pytest.warns(NumericalWarning, match=r"leverage above 0.99: training row\(s\) 0\. "):
        effect = influence.leave_one_out_effect(X, y)
    assert np.isfinite(effect).all()
    # The mean of the others is 4; without y = 1 it is 4.5.
    assert_allclose(effect[[1, 7], 1], [3.5**2 - 3**2, 2.5**2 - 3**2])


@pytest.mark.filterwarnings("ignore:HuberRegressor has not converged")
def test_a_minimum_that_does_not_exist_is_refused():
    # Two rows are fitted without an error, by a scale that tends to 0.
    X = np.random.RandomState(1).randn(2, 4)
    influence = ExactInfluence(lm.HuberRegressor()).fit(X, [1.0, 2.0])
    # The scale has no curvature either.
    with (
        pytest.warns(NumericalWarning, match="cannot tell these apart"),
        pytest.raises(ValueError, match="There is no refit without training"),
    ):
        influence.leave_one_out_effect(X, [1.0, 2.0])


# Rows without weight


def test_rows_of_weight_0_matter_where_classes_are_balanced_by_counts():
    X, y = two_classes()
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    model = lm.RidgeClassifier(class_weight="balanced")
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    rows = np.flatnonzero(weight == 0)[:8]
    found = influence.leave_one_out_effect(X, y)[:, rows]
    expected = refitted_without_each(model, (X, y), (X, y), rows, weight)
    # Class weights are those of the smaller model, in the losses that `losses` adds up too.
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("balanced", [False, True])
def test_objectives_that_divide_by_the_number_of_rows_are_those_of_the_smaller_model(balanced):
    # The minimum of an SGDClassifier, found by a LogisticRegression of the same objective.
    X, y = two_classes()
    n, alpha = len(y), 0.01
    weight = np.random.default_rng(0).integers(0, 3, n).astype(float)

    def minimum(rows):
        given = weight[rows]
        if balanced:
            counts = np.bincount(y[rows])
            given = given * (len(rows) / (2 * counts))[y[rows]]
        return LR(C=1 / (alpha * len(rows)), **NC).fit(X[rows], y[rows], sample_weight=given)

    def log_loss(fitted):
        return -fitted.predict_log_proba(X)[np.arange(n), y]

    sgd = lm.SGDClassifier(
        loss="log_loss", alpha=alpha, class_weight="balanced" if balanced else None
    ).fit(X, y)
    full = minimum(np.arange(n))
    sgd.coef_, sgd.intercept_ = full.coef_, full.intercept_
    influence = ExactInfluence(FrozenEstimator(sgd)).fit(X, y, sample_weight=weight)
    found = influence.leave_one_out_effect(X, y)
    for rows in (np.flatnonzero(weight == 0)[:5], np.flatnonzero(weight)[:5]):
        expected = [log_loss(minimum(np.delete(np.arange(n), i))) - log_loss(full) for i in rows]
        assert relative_error(found[:, rows], np.transpose(expected)) < 1e-6


# What is refined, and what is reported


@pytest.mark.parametrize(
    "model",
    [LR(**NC), LR(class_weight="balanced", **NC), lm.PoissonRegressor(alpha=0.1, **NC)],
    ids=["sum", "balanced", "mean"],
)
def test_the_longest_steps_are_refined(model):
    X, y = two_classes()
    influence = ExactInfluence(model).fit(X, y)
    exact = influence.leave_one_out_effect(X, y)
    first = influence.leave_one_out_effect(X, y, refine=False)
    some = influence.leave_one_out_effect(X, y, refine=7)
    refined = np.abs(some - exact).max(axis=0) <= 1e-9 * np.abs(exact).max()
    assert_array_equal(some[:, ~refined], first[:, ~refined])
    fit = influence.linearisation_
    steps = first_steps(fit, removal_of_each(fit).steps, np.arange(len(y)))
    length = np.einsum("np,pq,nq->n", steps, fit.curvature.matrix(0.0), steps)
    assert_array_equal(np.flatnonzero(refined), np.sort(np.argsort(-length)[:7]))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_reduced_effects_add_up_over_batches_of_queries(reduce):
    X, y = two_classes(200)
    influence = ExactInfluence(LR(**NC), batch_size=30).fit(X, y)
    full = influence.leave_one_out_effect(X, y)
    expected = full.mean(axis=0) if reduce == "mean" else full.sum(axis=0)
    for n_jobs in (1, 2):
        influence.linearisation_.schedule = type(influence.linearisation_.schedule)(30, n_jobs)
        found = influence.leave_one_out_effect(X, y, reduce=reduce)
        assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def test_high_leverages_are_no_trouble_to_steps_that_were_refined():
    # The first row alone has the second feature.
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=30), 5.0 * (np.arange(30) == 0)])
    y = (X[:, 0] + rng.normal(size=30) > 0) * 1
    model = LR(C=1e4, **NC)
    influence = ExactInfluence(model).fit(X, y)
    p = influence.estimator_.predict_proba(X[:1])[0, 1]
    leverage = p * (1 - p) * influence.self_influence()[0] / (p - y[0]) ** 2 / 30
    assert leverage > 0.9
    found = influence.leave_one_out_effect(X[1:], y[1:])[:, [0]]
    assert relative_error(found, refitted_without_each(model, (X, y), (X[1:], y[1:]), [0])) < 1e-5


def test_refits_that_do_not_converge_are_named(monkeypatch):
    monkeypatch.setattr(f"{REFINEMENT}.MAX_STEPS", 0)
    monkeypatch.setattr("skinfluence.refitting.chord.MAX_CHORDS", 0)
    X, y = two_classes(30)
    influence = ExactInfluence(LR(**NC)).fit(X, y)
    with pytest.warns(NumericalWarning, match="did not converge") as record:
        influence.leave_one_out_effect(X, y)
    assert len(record) == 1
    message = str(record[0].message)
    count = int(re.match(r"(\d+) refit", message)[1])
    named = message.split("training row(s) ")[1].split(":")[0]
    assert 10 < count <= 30 and named.endswith(f"and {count - 10} more")


def test_damped_removals_are_damped_refits():
    X, y = two_classes()
    damping = 0.05
    influence = ExactInfluence(LR(**NC), damping=damping).fit(X, y)
    theta = np.append(influence.estimator_.coef_, influence.estimator_.intercept_)
    design = np.column_stack([X, np.ones(len(y))])
    kept = np.arange(len(y)) >= 20

    def damped(theta_without):
        margin = design[kept] @ theta_without * (2 * y[kept] - 1)
        change = theta_without - theta
        value = np.logaddexp(0, -margin).sum() + theta_without[:-1] @ theta_without[:-1] / 2
        gradient = -(design[kept] * ((2 * y[kept] - 1) / (1 + np.exp(margin)))[:, None]).sum(
            axis=0
        )
        gradient[:-1] += theta_without[:-1]
        ridge = len(y) * damping
        return value + ridge / 2 * change @ change, gradient + ridge * change

    result = minimize(damped, theta, jac=True, method="BFGS", options={"gtol": 1e-10})
    margins = [design @ t * (2 * y - 1) for t in (result.x, theta)]
    after, before = (np.logaddexp(0, -margin) for margin in margins)
    found = influence.removal_effect(np.flatnonzero(~kept), X, y)
    assert relative_error(found, after - before) < 1e-6


# Several sets at once


@pytest.mark.parametrize("model", [LR(class_weight="balanced", **NC), lm.RidgeClassifier()])
def test_several_sets_at_once_are_each_on_its_own(model):
    X, y, *queries = with_few_of("d", 2, 3)
    influence = ExactInfluence(model).fit(X, y)
    fit = influence.linearisation_
    sets = [[3], [], [0, 1, 30], [len(y) - 2, len(y) - 1], np.arange(5, 40)]
    sets = [np.asarray(rows, dtype=int) for rows in sets]
    features = fit.read(queries[0])
    removed = removal_of_sets(fit, sets)
    found = moved_losses(fit, removed, features, fit.targets(features, queries[1]), None)
    for i, rows in enumerate(sets):
        expected = influence.removal_effect(rows, *queries)
        assert_allclose(found[:, i], expected, rtol=1e-8, atol=1e-10)
    assert not found[:, 1].any()


# Passes over the rows


def passes_of_refining(monkeypatch, X, y, damping="auto", **params):
    """Evaluations of all gradients for each row that leaves."""
    influence = ExactInfluence(LR(**NC, **params), damping=damping).fit(X, y)
    rows, residual = [], LogisticLoss.residual

    def counted(self, z, y):
        rows.append(np.prod(np.shape(z)))
        return residual(self, z, y)

    with monkeypatch.context() as patch:
        patch.setattr(LogisticLoss, "residual", counted)
        influence.leave_one_out_effect(X[:5], y[:5], refine=True)
    return sum(rows) / len(y) ** 2


@pytest.mark.parametrize(
    "params",
    [{}, {"C": 100}, {"class_weight": "balanced"}, {"damping": 0.05}]
    + [{"class_weight": "balanced", "C": 10, "damping": 0.01}],
)
def test_leaving_out_a_row_takes_few_passes(params, monkeypatch):
    # A gradient that is wrong anywhere is noticed, and Newton's method takes the place of the
    # chords: the same effects, by more passes.
    X, y = load_breast_cancer(return_X_y=True)
    assert passes_of_refining(monkeypatch, scale(X)[:, :6], y, **params) < 1.6
