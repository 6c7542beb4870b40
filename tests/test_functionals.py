"""Influence on what is asked of queries, and on numbers that are computed from all of them."""

import numpy as np
import pytest
from helpers import (
    NEWTON,
    assert_close,
    cancer,
    diabetes,
    logistic,
    perceptron,
    refitted,
    split,
    wine,
)
from scipy.special import expit, softmax
from sklearn import metrics as reference
from sklearn.base import clone
from sklearn.linear_model import HuberRegressor, PoissonRegressor, Ridge
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.diagnostics import functional_without_each
from skinfluence.metrics import (
    Brier,
    ExpectedCalibrationError,
    GroupGap,
    LogLoss,
    RocAuc,
    WorstGroup,
)

ROWS = np.arange(0, 90, 18)
GROUPS = np.arange(40) % 3 == 0


def counts():
    X, y = diabetes()
    return X, np.round(y / 50)


# Models whose influences are compared with derivatives of refits, by name.
MODELS = {
    "binary": (logistic(C=1.0).set_params(**NEWTON), cancer),
    "softmax": (logistic(C=1.0).set_params(**NEWTON), wine),
    "one-vs-rest": (OneVsRestClassifier(logistic(C=1.0).set_params(**NEWTON)), wine),
    "least squares": (Ridge(1.0), diabetes),
    "poisson": (PoissonRegressor(alpha=1e-9, tol=1e-12, solver="newton-cholesky"), counts),
}


@pytest.fixture(scope="module")
def fits():
    """Fitted influence estimators, training rows, queries, and refits with one weight changed."""
    made = {}

    def make(name):
        if name not in made:
            model, load = MODELS[name]
            X, y, X_query, y_query = split(*load(), n_queries=40, n_train=90)
            influence = ExactInfluence(model).fit(X, y)
            made[name] = influence, (X, y), (X_query, y_query), weighted_refits(model, X, y)
        return made[name]

    return make


def weighted_refits(model, X, y, step=1e-3):
    """Pairs of refits in which each of `ROWS` has a little less and a little more weight."""
    pairs = []
    for row in ROWS:
        weights = np.ones((2, len(y)))
        weights[:, row] += [-step, step]
        pairs.append([weighted_fit(model, X, y, weight) for weight in weights])
    return pairs


def weighted_fit(model, X, y, weight):
    if not isinstance(model, OneVsRestClassifier):
        return clone(model).fit(X, y, sample_weight=weight)
    fitted = clone(model).fit(X, y)
    for label, member in zip(fitted.classes_, fitted.estimators_, strict=True):
        member.fit(X, y == label, sample_weight=weight)
    return fitted


def derivatives(refits, number, n, step=1e-3):
    """Derivatives of a number of a model with respect to the relative weights of `ROWS`."""
    return n * np.array([(number(more) - number(less)) / (2 * step) for less, more in refits]).T


def scores_of(model, X):
    if not hasattr(model, "decision_function"):
        return model.predict(X)[:, None]
    scores = model.decision_function(X)
    return scores.reshape(len(X), -1)


def chances(model, X, code):
    return model.predict_proba(X)[np.arange(len(X)), code]


def asked(model, X, of, code):
    """What is asked of each query, by the public methods of a model."""
    if of == "probability":
        return chances(model, X, code)
    scores = scores_of(model, X)
    if scores.shape[1] == 1:
        sign = np.where(code == 1, 1, -1) if of == "margin" and code is not None else 1
        return sign * scores[:, 0]
    own = scores[np.arange(len(X)), code]
    if of == "output":
        return own
    others = np.where(code[:, None] == np.arange(scores.shape[1]), -np.inf, scores)
    return own - others.max(axis=1)


@pytest.mark.parametrize("of", ["margin", "probability", "output"])
@pytest.mark.parametrize("with_y", [False, True])
@pytest.mark.parametrize("name", ["binary", "softmax", "one-vs-rest"])
def test_influence_on_what_is_asked_is_its_derivative(fits, name, of, with_y):
    influence, (X, _), (X_query, y_query), refits = fits(name)
    labels = y_query if with_y else influence.estimator_.predict(X_query)
    code = np.searchsorted(influence.classes_, labels)
    expected = derivatives(refits, lambda model: asked(model, X_query, of, code), len(X))
    found = influence.influence(X_query, y_query if with_y else None, of=of)
    assert_close(found[:, ROWS], expected, 1e-4)
    indices, values = influence.most_influential(
        X_query, y_query if with_y else None, 2, of=of, by="absolute"
    )
    assert_close(np.take_along_axis(found, indices, axis=1), values, 1e-12)


def test_influence_on_a_regression_is_on_its_prediction_or_its_output(fits):
    influence, (X, _), (X_query, y_query), refits = fits("poisson")
    expected = derivatives(refits, lambda model: model.predict(X_query), len(X))
    assert_close(influence.influence(X_query, of="margin")[:, ROWS], expected, 1e-4)
    assert_close(influence.influence(X_query, y_query, of="margin")[:, ROWS], expected, 1e-4)
    expected = derivatives(refits, lambda model: np.log(model.predict(X_query)), len(X))
    assert_close(influence.influence(X_query, of="output")[:, ROWS], expected, 1e-4)


def test_what_is_asked_of_a_huber_regression_is_not_its_scale():
    X, y, X_query, _ = split(*diabetes(), n_queries=20, n_train=90)
    influence = ExactInfluence(HuberRegressor(tol=1e-10, max_iter=10_000)).fit(X, y)
    assert_close(influence.influence(X_query, of="output"), influence.influence(X_query), 1e-12)


def test_defaults_are_the_loss_with_y_and_the_margin_without(fits):
    influence, _, (X, y), _ = fits("softmax")
    assert_close(influence.influence(X, y, of="loss"), influence.influence(X, y), 0)
    assert_close(influence.influence(X, of="margin"), influence.influence(X), 0)


def test_queries_are_weighted_in_a_reduction(fits):
    influence, _, (X, y), _ = fits("softmax")
    weight = np.linspace(0, 2, len(y)) ** 2
    each = influence.influence(X, y)
    found = influence.influence(X, y, sample_weight=weight, reduce="sum")
    assert_close(found, weight @ each, 1e-10)
    found = influence.influence(X, y, sample_weight=weight, reduce="mean")
    assert_close(found, np.average(each, axis=0, weights=weight), 1e-10)
    with pytest.raises(ValueError, match="Give reduce='mean' or 'sum'"):
        influence.influence(X, y, sample_weight=weight)
    with pytest.raises(ValueError, match="sample_weight.shape"):
        influence.influence(X, y, sample_weight=weight[1:], reduce="sum")


def test_what_cannot_be_asked_is_refused(fits):
    influence, _, (X, y), _ = fits("binary")
    with pytest.raises(ValueError, match="of must be one of 'auto', 'loss'"):
        influence.influence(X, y, of="accuracy")
    with pytest.raises(ValueError, match="of='loss' needs y"):
        influence.influence(X, of="loss")
    svc = ExactInfluence(LinearSVC(tol=1e-10, max_iter=100_000)).fit(X, y)
    with pytest.raises(ValueError, match="no probabilities"):
        svc.influence(X, of="probability")
    with pytest.raises(ValueError, match="no probabilities"):
        svc.influence_on("log_loss", X, y)
    assert np.isfinite(svc.influence_on("roc_auc", X, y)).all()
    X, y, *_ = split(*wine())
    pairs = ExactInfluence(OneVsOneClassifier(logistic())).fit(X, y)
    with pytest.raises(ValueError, match="votes of its pairs"):
        pairs.influence(X, of="output")
    line, _, (X, _), _ = fits("least squares")
    with pytest.raises(ValueError, match="no probabilities"):
        line.influence(X, of="probability")


# ---------------------------------------------------------------------------
# Functionals
# ---------------------------------------------------------------------------

# The functional, and the response that it reads, of a classifier.
FUNCTIONALS = {
    "log loss": LogLoss(),
    "brier": Brier(),
    "auc": RocAuc(),
    "calibration": ExpectedCalibrationError(),
    "gap": GroupGap(GROUPS),
    "gap of a class": GroupGap(GROUPS, of="probability", column=0),
    "gap of outputs": GroupGap(GROUPS, of="output"),
    "gap of losses": GroupGap(GROUPS, of="loss"),
    "worst group": WorstGroup(GROUPS),
    "soft worst group": WorstGroup(GROUPS, temperature=0.1),
}


def response_of(model, functional, X, code):
    """What a functional reads, by the public methods of a classifier."""
    p = model.predict_proba(X)
    if functional.response == "output":
        return scores_of(model, X)
    if functional.response == "score":
        return scores_of(model, X) if p.shape[1] == 2 else np.log(p) - np.log1p(-p)
    if functional.response == "loss":
        losses = -np.log(p[np.arange(len(X)), code])
        if isinstance(model, OneVsRestClassifier):
            signs = np.where(code[:, None] == np.arange(p.shape[1]), 1, -1)
            losses = np.logaddexp(0, -signs * scores_of(model, X)).sum(axis=1)
        return losses[:, None]
    return p


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("functional", FUNCTIONALS)
@pytest.mark.parametrize("name", ["binary", "softmax", "one-vs-rest"])
def test_influence_on_a_functional_is_its_derivative(fits, name, functional, weighted):
    functional = FUNCTIONALS[functional]
    influence, (X, _), (X_query, y_query), refits = fits(name)
    code = np.searchsorted(influence.classes_, y_query)
    weight = np.linspace(0.5, 2, len(code)) if weighted else None

    def number(model):
        return functional.value(response_of(model, functional, X_query, code), code, weight)

    found = influence.influence_on(functional, X_query, y_query, sample_weight=weight)
    assert_close(found[ROWS], derivatives(refits, number, len(X)), 1e-4)


class FirstScore:
    """The log-odds of the last class, of the first query."""

    response = "score"

    def value(self, outputs, y, sample_weight=None):
        return float(outputs[0, -1])

    def gradient(self, outputs, y, sample_weight=None):
        gradient = np.zeros_like(outputs)
        gradient[0, -1] = 1.0
        return gradient


@pytest.mark.parametrize("name", ["binary", "softmax"])
def test_the_score_of_a_query_does_not_depend_on_the_others(fits, name):
    influence, (X, _), (X_query, y_query), refits = fits(name)
    alone = influence.influence_on(FirstScore(), X_query[:1], y_query[:1])
    assert_close(alone, influence.influence_on(FirstScore(), X_query, y_query), 1e-10)

    def number(model):
        code = np.zeros(1, dtype=int)
        return FirstScore().value(response_of(model, FirstScore, X_query[:1], code), code)

    assert_close(alone[ROWS], derivatives(refits, number, len(X)), 1e-4)


@pytest.mark.parametrize("name", ["binary", "softmax"])
def test_a_functional_without_each_row_is_that_of_refits(fits, name):
    influence, (X, y), (X_query, y_query), _ = fits(name)
    code = np.searchsorted(influence.classes_, y_query)
    rows = np.argsort(-influence.self_influence())[[0, 1, 5, 40, 80]]
    models = [refitted(influence.estimator, X, y, np.arange(len(y)) != row) for row in rows]
    for functional in FUNCTIONALS.values():
        values = [
            functional.value(response_of(model, functional, X_query, code), code)
            for model in [influence.estimator_, *models]
        ]
        found = functional_without_each(influence, functional, X_query, y_query)
        assert_close(found[rows], np.subtract(values[1:], values[0]), 1e-6)


def test_the_value_of_a_functional_may_be_a_count(fits):
    class Errors:
        def value(self, outputs, y):
            return np.count_nonzero(outputs.argmax(axis=1) != y)

    influence, (X, y), (X_query, y_query), _ = fits("softmax")
    found = functional_without_each(influence, Errors(), X_query, y_query)
    models = [refitted(influence.estimator, X, y, np.arange(len(y)) != row) for row in ROWS]
    models = [influence.estimator_, *models]
    errors = [np.count_nonzero(model.predict(X_query) != y_query) for model in models]
    assert (found[ROWS] == np.subtract(errors[1:], errors[0])).all()
    weight = np.arange(len(y_query)) % 2.0
    found = functional_without_each(influence, "brier", X_query, y_query, sample_weight=weight)
    halved = functional_without_each(influence, "brier", X_query[1::2], y_query[1::2])
    assert_close(found, halved, 1e-10)


def test_the_last_row_of_a_class_leaves_no_number():
    X, y, X_query, y_query = split(*wine(), n_queries=40, n_train=90)
    keep = np.append(np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:1])
    influence = ExactInfluence(logistic()).fit(X[keep], y[keep])
    found = functional_without_each(influence, "brier", X_query, y_query)
    assert np.isnan(found[-1]) and np.isfinite(found[:-1]).all()


def test_values_are_those_of_scikit_learn(rng):
    y = rng.integers(3, size=60)
    z = 3 * rng.standard_normal((60, 3))
    p, weight = softmax(z, axis=1), rng.random(60)
    more = {"sample_weight": weight}
    assert_close(LogLoss().value(p, y, weight), reference.log_loss(y, p, **more), 1e-12)
    scores = np.log(p) - np.log1p(-p)
    area = np.mean([reference.roc_auc_score(y == k, p[:, k], **more) for k in range(3)])
    assert_close(RocAuc(1e-9).value(scores, y, weight), area, 1e-9)
    two, y = p[:, :2] / p[:, :2].sum(axis=1, keepdims=True), y % 2
    brier = reference.brier_score_loss(y, two[:, 1], **more)
    assert_close(Brier().value(two, y, weight), brier, 1e-12)


def test_calibration_error_tends_to_that_of_sharp_bins(rng):
    # Probabilities in the middles of bins: soft bins of any width see the same groups.
    p = np.repeat([0.05, 0.35, 0.65, 0.95], 50)
    y = rng.random(200) < p**2
    sharp = sum(abs((p - y)[p == middle].sum()) for middle in np.unique(p)) / 200
    found = ExpectedCalibrationError(rounding=0.0).value(np.column_stack([1 - p, p]), y)
    assert_close(found, sharp, 0.02)


def test_influence_on_mean_outputs_is_a_reduced_influence(fits):
    class Mean:
        response = "prediction"

        def value(self, outputs, y):
            return outputs.mean()

        def gradient(self, outputs, y):
            return np.full(outputs.shape, 1 / outputs.size)

    for name in ("poisson", "least squares"):
        influence, _, (X, y), _ = fits(name)
        found = influence.influence_on(Mean(), X)
        assert_close(found, influence.influence(X, reduce="mean"), 1e-10)
        gap = influence.influence_on(GroupGap(GROUPS), X)
        each = influence.influence(X)
        assert_close(gap, each[GROUPS].mean(axis=0) - each[~GROUPS].mean(axis=0), 1e-10)
        losses = influence.influence(X, y)
        gap = influence.influence_on(GroupGap(GROUPS, of="loss"), X, y)
        assert_close(gap, losses[GROUPS].mean(axis=0) - losses[~GROUPS].mean(axis=0), 1e-10)


def test_functionals_work_with_networks_and_sketches():
    X, y, X_query, y_query = split(*wine(), n_queries=40)
    net = ExactInfluence(perceptron(cls=MLPClassifier)).fit(X, y)
    losses = net.influence(X_query, y_query, reduce="mean")
    assert_close(net.influence_on("log_loss", X_query, y_query), losses, 1e-8)
    exact = ExactInfluence(logistic()).fit(X, y)
    sketched = SketchedInfluence(logistic(), sketch="identity").fit(X, y)
    expected = exact.influence_on("roc_auc", X_query, y_query)
    assert_close(sketched.influence_on("roc_auc", X_query, y_query), expected, 1e-8)


def test_bounds_hold_for_whatever_is_asked():
    X, y, X_query, _ = split(*wine(), n_queries=40)
    exact = ExactInfluence(logistic()).fit(X, y)
    sketched = SketchedInfluence(logistic(), sketch_size=10, random_state=0).fit(X, y)
    asked = {"of": "probability", "reduce": "mean", "sample_weight": np.linspace(1, 2, 40)}
    found, bounds = sketched.influence(X_query, return_error=True, **asked)
    error = np.abs(found - exact.influence(X_query, **asked))
    assert (error <= bounds * (1 + 1e-8)).all() and error.max() > 0.01 * bounds.max()


def test_labels_are_only_names():
    X, y, X_query, y_query = split(*wine(), n_queries=40)
    names = np.array(["b", "c", "d"])
    plain = ExactInfluence(logistic()).fit(X, y).influence_on("brier", X_query, y_query)
    named = ExactInfluence(logistic()).fit(X, names[y])
    assert_close(named.influence_on("brier", X_query, names[y_query]), plain, 1e-12)


class Wrong:
    """A functional whose gradient forgets a factor."""

    def value(self, outputs, y):
        return (expit(outputs) ** 2).sum()

    def gradient(self, outputs, y):
        return expit(outputs) ** 2 * expit(-outputs)


def test_a_gradient_that_disagrees_with_its_value_is_refused(fits):
    influence, _, (X, y), _ = fits("binary")
    with pytest.raises(ValueError, match="gradient of Wrong disagrees with its value"):
        influence.influence_on(Wrong(), X, y)


def test_functionals_that_cannot_be_read_are_refused(fits):
    influence, _, (X, y), _ = fits("binary")
    with pytest.raises(ValueError, match="functional must be one of 'log_loss'"):
        influence.influence_on("accuracy", X, y)
    with pytest.raises(ValueError, match=r"needs the groups.*metrics.GroupGap\(groups\)"):
        influence.influence_on("group_gap", X, y)
    with pytest.raises(TypeError, match="methods value"):
        influence.influence_on(np.mean, X, y)
    with pytest.raises(TypeError, match="takes no weights"):
        influence.influence_on(Wrong(), X, y, sample_weight=np.ones(len(y)))
    with pytest.raises(ValueError, match="y is None"):
        influence.influence_on("brier", X)
    with pytest.raises(ValueError, match="y is None"):
        influence.influence_on(WorstGroup(GROUPS), X)
    with pytest.raises(ValueError, match="each of the 40 queries"):
        influence.influence_on(WorstGroup(GROUPS[1:]), X, y)
    with pytest.raises(ValueError, match="two different values"):
        GroupGap([0, 1, 2])
    line, _, (X_line, y_line), _ = fits("least squares")
    with pytest.raises(ValueError, match="needs one label for each query"):
        line.influence_on("roc_auc", X_line, y_line)
    both = np.column_stack([y, 1 - y])
    labels = ExactInfluence(MultiOutputClassifier(logistic())).fit(X, both)
    with pytest.raises(ValueError, match="needs one label for each query"):
        labels.influence_on("roc_auc", X, both)
    with pytest.raises(ValueError, match="queries of every class"):
        influence.influence_on("roc_auc", X[y == 1], y[y == 1])


def test_the_response_and_the_shape_of_a_gradient_are_checked(fits):
    influence, _, (X, y), _ = fits("binary")
    odd = Wrong()
    odd.response = "logit"
    with pytest.raises(ValueError, match="Got the response 'logit'"):
        influence.influence_on(odd, X, y)
    odd.response, odd.gradient = "output", lambda outputs, y: np.ones(len(outputs))
    with pytest.raises(ValueError, match="Expected that of the outputs"):
        influence.influence_on(odd, X, y)
    odd.response = "prediction"
    with pytest.raises(ValueError, match="labels, which have no derivative"):
        influence.influence_on(odd, X, y)
