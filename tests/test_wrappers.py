"""Models that stand around others, against really fitting them again without a row."""

import re
import warnings

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import (
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler, scale
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.metrics import retrain_on_subsets
from skinfluence.models import supported

LR = lm.LogisticRegression
NC = {"solver": "newton-cholesky", "tol": 1e-12}
TIGHT = {"tol": 1e-12, "max_iter": 1_000_000}


def classes():
    X, y = load_wine(return_X_y=True)
    return scale(X[::3, :5]), np.array(["c", "a", "b"])[y[::3]]


def labels():
    X, y = load_wine(return_X_y=True)
    return scale(X[::3, :5]), np.column_stack([y[::3] == 0, X[::3, 5] > 2.2]).astype(int)


def numbers():
    X, y = load_diabetes(return_X_y=True)
    return scale(X[:50, :4]), y[:50] / 50


def targets():
    X, y = numbers()
    return X, np.column_stack([y, np.sqrt(y) + X[:, 0] ** 2])


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def check_leaving_out(model, loss, X, y, *, s=None, fit=None, stays=None):
    """Compare every leave-one-out effect with a refit of the wrapper itself.

    ``stays`` says of a refit whether it can be compared; more than half of them must.
    """
    weight = np.ones(len(y)) if s is None else s

    def fitted(kept):
        more = {} if s is None else {"sample_weight": weight[kept]}
        return clone(model).fit(X[kept], y[kept], **more)

    everything = np.arange(len(y))
    full = fitted(everything)
    refits = [fitted(everything != i) for i in everything]
    kept = np.array([stays is None or stays(full, refit) for refit in refits])
    assert kept.mean() > 0.5
    before = loss(full, X, y)
    expected = np.column_stack([loss(refit, X, y) - before for refit in refits])
    influence = ExactInfluence(model, damping=0).fit(X, y, sample_weight=s)
    found = influence.leave_one_out_effect(X, y)
    assert relative_error(found[:, kept], expected[:, kept]) < 1e-6
    return influence


# Losses of the wrappers from what they predict.


def signs_of(model, y):
    if np.ndim(y) == 2:
        return np.where(np.asarray(y) > 0, 1.0, -1.0)
    return np.where(y[:, None] == model.classes_, 1.0, -1.0)


def decisions(model, X):
    if hasattr(model, "decision_function"):
        return model.decision_function(X)
    return np.column_stack([member.decision_function(X) for member in model.estimators_])


def logistic(model, X, y):
    return np.logaddexp(0, -signs_of(model, y) * decisions(model, X)).sum(axis=1)


def squared_hinge(model, X, y):
    return (np.maximum(0, 1 - signs_of(model, y) * decisions(model, X)) ** 2).sum(axis=1)


def label_squares(model, X, y):
    return ((1 - signs_of(model, y) * decisions(model, X)) ** 2).sum(axis=1)


def squares(model, X, y):
    gap = y - model.predict(X)
    return (gap**2).reshape(len(gap), -1).sum(axis=1)


def half_squares(model, X, y):
    return squares(model, X, y) / 2


def half_poisson(model, X, y):
    mu = model.predict(X)
    return (mu - y * np.log(mu)).sum(axis=1)


# ---------------------------------------------------------------------------
# One model for each output
# ---------------------------------------------------------------------------

ONE_VS_REST = {
    "logistic": (LR(**NC), logistic),
    "logistic no intercept": (LR(fit_intercept=False, **NC), logistic),
    "logistic balanced": (LR(class_weight="balanced", **NC), logistic),
    "logistic dict": (LR(class_weight={1: 3.0}, **NC), logistic),
    "liblinear": (LR(solver="liblinear", intercept_scaling=2.0, **TIGHT), logistic),
    "ridge": (lm.RidgeClassifier(2.0), label_squares),
    "ridge balanced": (lm.RidgeClassifier(class_weight="balanced"), label_squares),
    "svc balanced": (svm.LinearSVC(C=0.3, class_weight="balanced", **TIGHT), squared_hinge),
    "search": (GridSearchCV(LR(**NC), {"C": [0.3]}, cv=2), logistic),
}


@pytest.mark.parametrize("name", ONE_VS_REST)
def test_one_vs_rest(name):
    member, loss = ONE_VS_REST[name]
    influence = check_leaving_out(OneVsRestClassifier(member), loss, *classes())
    assert influence.classes_.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["logistic", "logistic balanced", "ridge balanced"])
def test_one_vs_rest_of_several_labels(name):
    member, loss = ONE_VS_REST[name]
    check_leaving_out(OneVsRestClassifier(member), loss, *labels())


def test_one_vs_rest_of_two_classes_is_the_model_inside():
    X, y = classes()
    X, y = X[y != "b"], y[y != "b"]
    member = LR(class_weight="balanced", **NC)
    found = ExactInfluence(OneVsRestClassifier(member)).fit(X, y)
    expected = ExactInfluence(member).fit(X, y)
    for name in ("influence", "leave_one_out_effect"):
        assert_allclose(getattr(found, name)(X, y), getattr(expected, name)(X, y), rtol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "svc balanced", "ridge balanced"])
def test_weights_of_one_vs_rest(name):
    member, loss = ONE_VS_REST[name]
    X, y = classes()
    s = np.random.default_rng(0).uniform(0, 2, len(y)).round(1)
    with sklearn.config_context(enable_metadata_routing=True):
        model = OneVsRestClassifier(clone(member).set_fit_request(sample_weight=True))
        check_leaving_out(model, loss, X, y, s=s)
    with pytest.raises(TypeError, match="OneVsRestClassifier.fit takes sample_weight by metadata"):
        ExactInfluence(OneVsRestClassifier(member)).fit(X, y, sample_weight=s)


def pair_losses(of_margin):
    """Loss of a OneVsOneClassifier from its members, over the pairs that hold the row's class."""

    def loss(model, X, y):
        codes = np.searchsorted(model.classes_, y)
        total = np.zeros(len(y))
        for member, i, j in zip(
            model.estimators_, *np.triu_indices(len(model.classes_), 1), strict=True
        ):
            sign = 1.0 * (codes == j) - (codes == i)
            total += np.abs(sign) * of_margin(sign * member.decision_function(X))
        return total

    return loss


@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 3.0}])
def test_one_vs_one(class_weight):
    X, y = classes()
    model = OneVsOneClassifier(LR(class_weight=class_weight, **NC))
    influence = check_leaving_out(model, pair_losses(lambda m: np.logaddexp(0, -m)), X, y)
    assert influence.classes_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="votes of its pairs.*Give y"):
        influence.influence(X)


def test_weights_of_one_vs_one():
    X, y = classes()
    s = np.random.default_rng(0).uniform(0.2, 2, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        member = LR(class_weight="balanced", **NC).set_fit_request(sample_weight=True)
        loss = pair_losses(lambda m: np.logaddexp(0, -m))
        check_leaving_out(OneVsOneClassifier(member), loss, X, y, s=s)


def test_one_vs_one_of_models_that_divide_by_their_rows():
    model = OneVsOneClassifier(lm.SGDClassifier("log_loss", random_state=0))
    with pytest.raises(TypeError, match="divides its losses by the number of its rows"):
        ExactInfluence(model).fit(*classes())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["logistic", "logistic balanced", "logistic dict", "liblinear"])
def test_several_labels(name, weighted):
    member, loss = ONE_VS_REST[name]
    X, y = labels()
    s = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else None
    influence = check_leaving_out(MultiOutputClassifier(member), loss, X, y, s=s)
    assert [names.tolist() for names in influence.classes_] == [[0, 1], [0, 1]]


def test_names_of_several_labels_are_only_names():
    X, y = labels()
    model = MultiOutputClassifier(LR(**NC))
    expected = ExactInfluence(model).fit(X, y).influence(X, y)
    names = np.array([["no", "yes"], ["left", "right"]])
    named = np.column_stack([names[k][y[:, k]] for k in (0, 1)])
    influence = ExactInfluence(model).fit(X, named)
    assert_allclose(influence.influence(X, named), expected, rtol=1e-9)
    # The prediction of a label is the sign of its output.
    margin = np.sign(decisions(influence.estimator_, X))
    slope = influence.parameter_influence().T
    change = [X @ slope[k * 5 : k * 5 + 5] + slope[10 + k] for k in (0, 1)]
    assert_allclose(
        influence.influence(X), margin[:, :1] * change[0] + margin[:, 1:] * change[1], rtol=1e-8
    )
    with pytest.raises(ValueError, match="one column for each of the 2 labels. Got 1"):
        influence.influence(X, named[:, :1])


REGRESSORS = {
    "ridge": (lm.Ridge(2.0), squares, numbers),
    "ridge cv": (lm.RidgeCV([0.1, 10.0]), squares, numbers),
    "linear": (lm.LinearRegression(), squares, numbers),
    "poisson": (lm.PoissonRegressor(alpha=0.3, **NC), half_poisson, numbers),
    "svr": (
        svm.LinearSVR(C=0.5, epsilon=0.0, loss="squared_epsilon_insensitive", **TIGHT),
        squares,
        numbers,
    ),
    "elastic net": (lm.ElasticNet(alpha=0.05, tol=1e-14, max_iter=100_000), half_squares, numbers),
    "search": (GridSearchCV(lm.Ridge(), {"alpha": [0.1, 5.0]}, cv=2), squares, numbers),
}


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["ridge", "linear", "poisson", "svr", "elastic net"])
def test_several_targets(name, weighted):
    member, loss, _ = REGRESSORS[name]
    X, y = targets()
    s = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else None

    def same_active_set(full, refit):
        pairs = zip(full.estimators_, refit.estimators_, strict=True)
        return all((np.sign(a.coef_) == np.sign(b.coef_)).all() for a, b in pairs)

    stays = same_active_set if name == "elastic net" else None
    check_leaving_out(MultiOutputRegressor(member), loss, X, y, s=s, stays=stays)


@pytest.mark.parametrize("name", ["ridge cv", "search"])
def test_every_target_has_the_penalty_of_its_own_search(name):
    member, _, _ = REGRESSORS[name]
    X, y = targets()
    # One target follows the features, the other does not.
    noise = np.random.default_rng(0).standard_normal((len(y), 2))
    y = np.column_stack([X[:, 0], np.zeros(len(y))]) + noise * [0.01, 1]
    influence = ExactInfluence(MultiOutputRegressor(member)).fit(X, y)
    chosen = [getattr(m, "alpha_", None) or m.best_params_["alpha"]
              for m in influence.estimator_.estimators_]  # fmt: skip
    assert chosen[0] != chosen[1]
    parts = [lm.Ridge(alpha) for alpha in chosen]
    expected = sum(
        ExactInfluence(part).fit(X, column).leave_one_out_effect(X, column)
        for part, column in zip(parts, y.T, strict=True)
    )
    assert_allclose(influence.leave_one_out_effect(X, y), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
def test_an_output_may_have_no_active_weight():
    X, y = targets()
    y[:, 1] = 1e-3 * y[:, 1]
    model = MultiOutputRegressor(lm.Lasso(alpha=0.1, fit_intercept=False))
    influence = ExactInfluence(model, damping=0).fit(X, y)
    assert not influence.estimator_.estimators_[1].coef_.any()
    single = ExactInfluence(lm.Lasso(alpha=0.1, fit_intercept=False), damping=0).fit(X, y[:, 0])
    assert_allclose(influence.self_influence(), single.self_influence(), rtol=1e-9)


def test_the_active_set_of_all_outputs_is_told_once():
    X, y = targets()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ExactInfluence(MultiOutputRegressor(lm.Lasso(0.01))).fit(X, y)
    (message,) = [str(w.message) for w in caught if "L1 penalty" in str(w.message)]
    assert re.search("active set, the . of 8 weights", message)


def test_refits_of_several_outputs_are_those_of_clones():
    for model, (X, y) in (
        (OneVsRestClassifier(LR(class_weight="balanced", **NC)), classes()),
        (MultiOutputClassifier(LR(class_weight="balanced", **NC)), labels()),
        (MultiOutputRegressor(lm.Ridge(2.0)), targets()),
    ):
        loss = squares if isinstance(model, MultiOutputRegressor) else logistic
        result = retrain_on_subsets(model, X, y, X[:5], y[:5], n_subsets=3, random_state=0)
        for subset, losses in zip(result.subsets, result.losses.T, strict=True):
            refit = clone(model).fit(X[subset], y[subset])
            assert_allclose(losses, loss(refit, X[:5], y[:5]), rtol=1e-6)


def test_sketches_of_several_outputs():
    X, y = labels()
    model = MultiOutputClassifier(LR(class_weight="balanced", **NC))
    exact = ExactInfluence(model).fit(X, y)
    sketched = SketchedInfluence(model, sketch="identity").fit(X, y)
    for name in ("influence", "leave_one_out_effect"):
        found, expected = getattr(sketched, name)(X, y), getattr(exact, name)(X, y)
        assert relative_error(found, expected) < 1e-8


# ---------------------------------------------------------------------------
# Transformed targets
# ---------------------------------------------------------------------------


def in_log(model, X, y):
    inner = model.regressor_
    return (np.log(y) - inner.predict(X)) ** 2


@pytest.mark.parametrize("weighted", [False, True])
def test_transformed_targets(weighted):
    X, y = numbers()
    s = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else None
    model = TransformedTargetRegressor(lm.Ridge(2.0), func=np.log, inverse_func=np.exp)
    influence = check_leaving_out(model, in_log, X, y, s=s)
    with pytest.raises(ValueError, match="leaves its domain"):
        influence.influence(X[:2], [-1.0, 2.0])


def test_the_transformer_of_targets_is_held_fixed():
    X, y = targets()
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), lm.Ridge(2.0)), transformer=StandardScaler()
    )
    found = ExactInfluence(model).fit(X, y)
    expected = ExactInfluence(lm.Ridge(2.0)).fit(scale(X), scale(y))
    assert_allclose(found.influence(X, y), expected.influence(scale(X), scale(y)), rtol=1e-8)
    assert_allclose(found.influence(X), expected.influence(scale(X)), rtol=1e-8)
    subsets = np.random.default_rng(0).random((3, len(y))) < 0.7
    settings = {"subsets": subsets}
    for inner in (lm.Ridge(2.0), lm.LinearRegression()):
        model = TransformedTargetRegressor(inner, transformer=StandardScaler())
        found = retrain_on_subsets(model, X, y, X, y, **settings)
        expected = retrain_on_subsets(inner, X, scale(y), X, scale(y), **settings)
        assert_allclose(found.losses, expected.losses, rtol=1e-8, atol=1e-12)


def test_transformed_targets_are_linear_regression_by_default():
    X, y = numbers()
    found = ExactInfluence(TransformedTargetRegressor()).fit(X, y)
    expected = ExactInfluence(lm.LinearRegression()).fit(X, y)
    assert_allclose(found.influence(X, y), expected.influence(X, y))
    s = np.arange(1.0, 1 + len(y))
    weighted = [
        ExactInfluence(model).fit(X, y, sample_weight=s).self_influence()
        for model in (TransformedTargetRegressor(), lm.LinearRegression())
    ]
    assert_allclose(*weighted)


def test_a_search_inside_transformed_targets():
    X, y = numbers()
    search = GridSearchCV(make_pipeline(StandardScaler(), lm.Ridge()), {"ridge__alpha": [3.0]})
    model = TransformedTargetRegressor(search, func=np.log, inverse_func=np.exp)
    found = ExactInfluence(make_pipeline("passthrough", model)).fit(X, y)
    expected = ExactInfluence(lm.Ridge(3.0)).fit(scale(X), np.log(y))
    assert_allclose(found.influence(X, y), expected.influence(scale(X), np.log(y)), rtol=1e-8)


# ---------------------------------------------------------------------------
# Stacks
# ---------------------------------------------------------------------------


def log_loss(model, X, y):
    p = model.predict_proba(X)
    return -np.log(p[np.arange(len(y)), np.searchsorted(model.classes_, y)])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("passthrough", [False, True])
def test_stacks_of_frozen_classifiers(passthrough, weighted):
    X, y = classes()
    s = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else None
    base = [
        ("tree", FrozenEstimator(DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, y))),
        ("bayes", FrozenEstimator(GaussianNB().fit(X, y))),
    ]
    model = StackingClassifier(base, LR(**NC), passthrough=passthrough, cv=3)
    influence = check_leaving_out(model, log_loss, X, y, s=s)
    assert influence.classes_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"not fitted on: \['z'\]"):
        influence.influence(X[:1], ["z"])


def test_stacks_of_frozen_regressors():
    X, y = numbers()
    base = [
        ("tree", FrozenEstimator(DecisionTreeRegressor(max_depth=2).fit(X, y))),
        ("no", "drop"),
    ]
    final = make_pipeline(FunctionTransformer(), lm.Ridge())
    check_leaving_out(StackingRegressor(base, final), squares, X, y)


def test_a_frozen_stack_of_fitted_models():
    X, y = classes()
    base = [("bayes", GaussianNB().fit(X, y))]
    stack = StackingClassifier(base, LR(**NC), cv="prefit").fit(X, y)
    influence = ExactInfluence(FrozenEstimator(stack)).fit(X, y)
    features = GaussianNB().fit(X, y).predict_proba(X)
    expected = ExactInfluence(LR(**NC)).fit(features, y)
    assert_allclose(influence.influence(X, y), expected.influence(features, y), rtol=1e-7)


def test_stacks_that_keep_no_training_features_are_refused():
    X, y = classes()
    stack = StackingClassifier([("tree", DecisionTreeClassifier(max_depth=1))], LR())
    with pytest.raises(TypeError, match="cross-validated predictions.*FrozenEstimator"):
        ExactInfluence(stack).fit(X, y)
    # Refits need no objective.
    result = retrain_on_subsets(stack, X, y, X[:3], y[:3], n_subsets=1, random_state=0)
    assert np.isfinite(result.losses).all()


# ---------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, load, message",
    [
        (VotingClassifier([("lr", LR())]), classes, "averages models.*members one by one"),
        (VotingRegressor([("ridge", lm.Ridge())]), numbers, "averages models"),
        (CalibratedClassifierCV(LR()), classes, "Wrap the model inside"),
        (BaggingRegressor(lm.Ridge(), n_estimators=2), numbers, "rows drawn at random"),
        (ClassifierChain(LR()), labels, "MultiOutputClassifier"),
        (MultiOutputRegressor(lm.HuberRegressor()), targets, "HuberRegressor has more parameters"),
        (
            MultiOutputRegressor(make_pipeline(StandardScaler(), lm.Ridge())),
            targets,
            r"Put the steps in front: Pipeline\(\[\*steps, MultiOutputRegressor\(model\)\]\)",
        ),
        (OneVsRestClassifier(GaussianNB()), classes, "GaussianNB is not known"),
        (
            OneVsRestClassifier(svm.LinearSVC(loss="hinge", C=0.01, max_iter=100_000)),
            classes,
            "not smooth",
        ),
    ],
)
def test_what_has_no_objective_is_refused_with_the_reason(model, load, message):
    with pytest.raises(TypeError, match=message):
        ExactInfluence(model).fit(*load())


def test_calibration_of_a_frozen_model_is_refused_too():
    X, y = classes()
    model = CalibratedClassifierCV(FrozenEstimator(LR().fit(X, y)))
    with pytest.raises(TypeError, match="calibrated_classifiers_"):
        ExactInfluence(model).fit(X, y)


def test_labels_of_more_than_two_values_are_refused():
    X, y = classes()
    with pytest.raises(TypeError, match="have 3, 2 classes. Expected 2 for each"):
        ExactInfluence(MultiOutputClassifier(LR())).fit(X, np.column_stack([y, X[:, 0] > 0]))


def test_members_must_have_one_loss():
    X, y = targets()
    search = GridSearchCV(lm.Ridge(), {"fit_intercept": [True, False]}, cv=2)
    model = MultiOutputRegressor(search).fit(X, y)
    model.estimators_ = [lm.Ridge().fit(X, y[:, 0]), lm.Ridge(fit_intercept=False).fit(X, y[:, 1])]
    with pytest.raises(TypeError, match="only some have an intercept"):
        ExactInfluence(FrozenEstimator(model)).fit(X, y)


def test_a_label_that_all_rows_have_is_refused():
    X, y = labels()
    with pytest.warns(UserWarning, match="present in all training examples"):
        model = OneVsRestClassifier(LR()).fit(X, np.column_stack([y, np.ones(len(y), int)]))
    with pytest.raises(TypeError, match="saw one class only"):
        ExactInfluence(FrozenEstimator(model)).fit(X, np.column_stack([y, np.ones(len(y), int)]))


def test_supported_models_are_listed():
    names = supported()
    assert {"OneVsRestClassifier", "OneVsOneClassifier", "MultiOutputRegressor"} <= set(names)
    assert not {"VotingClassifier", "CalibratedClassifierCV", "StackingClassifier"} & set(names)
    with pytest.raises(TypeError, match="MultiOutputClassifier.*TransformedTargetRegressor, and"):
        ExactInfluence(DecisionTreeClassifier()).fit(*classes())


# ---------------------------------------------------------------------------
# Weights by metadata routing
# ---------------------------------------------------------------------------


def wrapped(model):
    pipeline = make_pipeline(FunctionTransformer(), model)
    return {
        "pipeline": pipeline,
        "nested": make_pipeline("passthrough", pipeline),
        "search": GridSearchCV(pipeline, {"functiontransformer__validate": [False]}, cv=2),
        "search inside": make_pipeline(GridSearchCV(model, {"fit_intercept": [True]}, cv=2)),
        "frozen": FrozenEstimator(pipeline),
    }


NAMES = ["pipeline", "nested", "search", "search inside"]


def weighted_rows():
    X, y = classes()
    return X, y, np.random.default_rng(0).uniform(0.2, 2, len(y))


@pytest.mark.parametrize("name", NAMES)
def test_weights_reach_models_inside_by_routing(name):
    X, y, s = weighted_rows()
    expected = ExactInfluence(LR(**NC)).fit(X, y, sample_weight=s).influence(X, y)
    with sklearn.config_context(enable_metadata_routing=True):
        model = LR(**NC).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = ExactInfluence(wrapped(model)[name]).fit(X, y, sample_weight=s)
        assert_allclose(found.influence(X, y), expected, rtol=1e-7, atol=1e-12)
        assert_allclose(ExactInfluence(model).fit(X, y, sample_weight=s).influence(X, y), expected)


@pytest.mark.parametrize("name", NAMES)
def test_weights_reach_models_inside_without_routing(name):
    X, y, s = weighted_rows()
    expected = ExactInfluence(LR(**NC)).fit(X, y, sample_weight=s).influence(X, y)
    found = ExactInfluence(wrapped(LR(**NC))[name]).fit(X, y, sample_weight=s)
    assert_allclose(found.influence(X, y), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("request_", [None, False])
def test_weights_that_nobody_requests_are_an_error(name, request_):
    X, y, s = weighted_rows()
    with sklearn.config_context(enable_metadata_routing=True):
        model = LR().set_fit_request(sample_weight=request_)
        with pytest.raises(TypeError, match=r"set_fit_request\(sample_weight=True\) on the Logis"):
            ExactInfluence(wrapped(model)[name]).fit(X, y, sample_weight=s)
        # Without weights nothing has to be requested.
        ExactInfluence(wrapped(model)[name]).fit(X, y)


@pytest.mark.parametrize("routing", [True, False])
def test_a_frozen_model_needs_no_request(routing):
    X, y, s = weighted_rows()
    model = LR(**NC).fit(X, y, sample_weight=s)
    frozen = make_pipeline("passthrough", FrozenEstimator(model))
    with sklearn.config_context(enable_metadata_routing=routing):
        found = ExactInfluence(frozen).fit(X, y, sample_weight=s)
    assert_array_equal(found.linearisation_.objective.weight, s)


@pytest.mark.parametrize("routing", [True, False])
def test_weights_reach_transformed_targets_and_outputs(routing):
    X, y = targets()
    s = np.random.default_rng(0).uniform(0.2, 2, len(y))
    inner = ExactInfluence(lm.Ridge()).fit(X, y, sample_weight=s).influence(X, y)
    with sklearn.config_context(enable_metadata_routing=routing):
        ridge = lm.Ridge()
        if routing:
            ridge.set_fit_request(sample_weight=True)
        for model in (
            TransformedTargetRegressor(make_pipeline("passthrough", ridge)),
            MultiOutputRegressor(ridge),
        ):
            found = ExactInfluence(model).fit(X, y, sample_weight=s).influence(X, y)
            assert_allclose(found, inner, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("routing", [True, False])
def test_a_model_inside_that_takes_no_weights_says_so(routing):
    X, y, s = weighted_rows()
    with sklearn.config_context(enable_metadata_routing=routing):
        with pytest.raises(TypeError, match="takes no sample_weight. Leave"):
            ExactInfluence(make_pipeline("passthrough", Weightless())).fit(X, y, sample_weight=s)


@pytest.mark.parametrize("final, name", [(None, "LogisticRegr"), (lm.RidgeClassifier(), "Ridge")])
def test_the_final_step_of_a_stack_requests_the_weights(final, name):
    X, y, s = weighted_rows()
    stack = StackingClassifier([("tree", DecisionTreeClassifier(max_depth=1))], final)
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(TypeError, match=f"the {name}.* in this StackingClassifier does not"):
            ExactInfluence(stack).fit(X, y, sample_weight=s)


class Weightless(LR):
    """A model whose fit takes no weights."""

    def fit(self, X, y):
        return super().fit(X, y)
