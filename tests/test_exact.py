"""ExactInfluence as a scikit-learn estimator: laws, containers, solvers and bad input."""

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn import linear_model as lm
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version

from skinfluence import ExactInfluence
from skinfluence.models import linear_objective, objective
from skinfluence.models.losses import SquaredLoss
from skinfluence.models.weighting import Weighting
from tests import helpers
from tests.helpers import NEWTON, assert_close, cancer, diabetes

OLD = parse_version("1.7")
LR = lm.LogisticRegression


@parametrize_with_checks(
    [
        ExactInfluence(lm.Ridge()),
        ExactInfluence(LR(), curvature="empirical_fisher", damping=0.1),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def digits():
    X, y = helpers.digits(4)
    return X[:140, 10:], y[:140]


MODELS = {
    "binary": (cancer, LR(**NEWTON)),
    "multinomial": (digits, LR(**NEWTON)),
    "balanced": (digits, LR(class_weight="balanced", **NEWTON)),
    "ridge": (diabetes, lm.Ridge(0.1)),
    "svc": (cancer, LinearSVC(tol=1e-9, max_iter=100_000)),
}


@pytest.fixture(params=MODELS)
def problem(request):
    load, model = MODELS[request.param]
    X, y = load()
    return X[:-20], y[:-20], X[-20:], y[-20:], model


def everything(influence, X, y):
    """All public results, by name."""
    return {
        "influence": influence.influence(X, y),
        "prediction": influence.influence(X),
        "mean": influence.influence(X, y, reduce="mean"),
        "leave_one_out": influence.leave_one_out_effect(X, y),
        "removal": influence.removal_effect([0, 3, 5], X, y),
        "self": influence.self_influence(),
        "parameters": influence.parameter_influence([0, 3]),
        "most": influence.most_influential(X, y, k=3)[1],
    }


def assert_same(found, expected, tol=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, tol)


def skip_if_balance_counts_rows(model):
    """Balanced class weights of scikit-learn 1.6 count rows, whatever their weights."""
    if getattr(model, "class_weight", None) and parse_version(sklearn.__version__) < OLD:
        pytest.skip("the estimator itself does not take weights for copies")


# ---------------------------------------------------------------------------
# Laws
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"batch_size": 7}, {"n_jobs": 2, "batch_size": 5}])
def test_results_do_not_depend_on_batches_or_jobs(problem, settings):
    X, y, Xq, yq, model = problem
    expected = everything(ExactInfluence(model).fit(X, y), Xq, yq)
    assert_same(everything(ExactInfluence(model, **settings).fit(X, y), Xq, yq), expected)


def test_results_do_not_depend_on_the_working_memory(problem):
    X, y, Xq, yq, model = problem
    influence = ExactInfluence(model).fit(X, y)
    expected = everything(influence, Xq, yq)
    with sklearn.config_context(working_memory=0.1):
        assert_same(everything(ExactInfluence(model).fit(X, y), Xq, yq), expected)


def test_results_follow_the_order_of_the_rows(problem, rng):
    X, y, Xq, yq, model = problem
    order = rng.permutation(len(y))
    expected = ExactInfluence(model).fit(X, y)
    found = ExactInfluence(model).fit(X[order], y[order])
    for method in ("influence", "leave_one_out_effect"):
        value = getattr(expected, method)(Xq, yq)[:, order]
        assert_close(getattr(found, method)(Xq, yq), value, 1e-6)


def test_an_integer_weight_is_as_many_copies(problem, rng):
    X, y, Xq, yq, model = problem
    skip_if_balance_counts_rows(model)
    copies = rng.integers(1, 4, len(y))
    weighted = ExactInfluence(model).fit(X, y, sample_weight=copies)
    rows = np.repeat(np.arange(len(y)), copies)
    copied = ExactInfluence(model).fit(X[rows], y[rows])
    first = np.searchsorted(rows, np.arange(len(y)))
    expected = copied.influence(Xq, yq)[:, first]
    assert_close(weighted.influence(Xq, yq), expected, 1e-6)
    # Leaving a row of weight k out is leaving its k copies out.
    dropped = np.flatnonzero(rows == 5)
    expected = copied.removal_effect(dropped, Xq, yq)
    assert_close(weighted.leave_one_out_effect(Xq, yq)[:, 5], expected, 1e-5)


def test_weight_zero_is_absence(problem, rng):
    X, y, Xq, yq, model = problem
    skip_if_balance_counts_rows(model)
    present = rng.random(len(y)) < 0.8
    weighted = ExactInfluence(model).fit(X, y, sample_weight=present.astype(float))
    absent = ExactInfluence(model).fit(X[present], y[present])
    expected = absent.influence(Xq, yq)
    assert_close(weighted.influence(Xq, yq)[:, present], expected, 1e-6)
    assert not weighted.leave_one_out_effect(Xq, yq)[:, ~present].any()


@pytest.mark.parametrize("solver", ["gram", "cg", "lissa"])
@pytest.mark.parametrize("curvature", ["hessian", "empirical_fisher"])
def test_solvers_agree(problem, solver, curvature, global_random_seed):
    X, y, Xq, yq, model = problem
    settings = {"damping": 0.01, "curvature": curvature, "random_state": global_random_seed}
    direct = ExactInfluence(model, solver="direct", **settings).fit(X, y)
    other = ExactInfluence(model, solver=solver, **settings).fit(X, y)
    assert (direct.solver_, other.solver_) == ("direct", solver)
    expected = {"": direct.influence(Xq, yq), "parameters": direct.parameter_influence([0, 3])}
    found = {"": other.influence(Xq, yq), "parameters": other.parameter_influence([0, 3])}
    assert_same(found, expected, tol=1e-7)


@pytest.mark.parametrize("name", ["binary", "ridge"])
@pytest.mark.parametrize("solver", ["gram", "cg"])
def test_solvers_agree_in_everything(name, solver, global_random_seed):
    load, model = MODELS[name]
    X, y = load()
    direct = ExactInfluence(model, solver="direct").fit(X, y)
    other = ExactInfluence(model, solver=solver, random_state=global_random_seed).fit(X, y)
    assert direct.damping_ == other.damping_ == 0
    assert_same(everything(other, X[:9], y[:9]), everything(direct, X[:9], y[:9]), tol=1e-6)
    tolerance = 1e-8 if solver == "gram" else 0.2
    assert other.effective_dimension_ == pytest.approx(direct.effective_dimension_, tolerance)


def test_a_row_leaves_the_empirical_fisher_by_its_own_outer_product():
    X, y = load_iris(return_X_y=True)
    influence = ExactInfluence(LR(**NEWTON), curvature="empirical_fisher", damping=0.1).fit(X, y)
    fit = influence.linearisation_
    objective, targets = fit.objective, fit.targets(X[:5], y[:5])
    gradients = fit.training_rows.toarray()
    ridge = len(y) * np.diag(fit.space.penalty + 0.1)
    before = objective.losses(X[:5], targets)
    effects = influence.leave_one_out_effect(X[:5], y[:5], refine=False)
    for row in (0, 60, 120):
        others = np.delete(gradients, row, axis=0)
        change = np.linalg.solve(others.T @ others + ridge, gradients[row])
        outputs = fit.jacobian_rows(fit.read(X[:5])).toarray() @ change
        moved = objective.outputs(fit.read(X[:5])) + outputs.reshape(5, -1)
        assert_close(effects[:, row], objective.loss.value(moved, targets) - before, 1e-8)


def test_fewer_rows_than_parameters_go_by_inner_products():
    X, y = digits()
    influence = ExactInfluence(lm.Ridge()).fit(X[:30], y[:30].astype(float))
    assert influence.solver_ == "gram"
    direct = ExactInfluence(lm.Ridge(), solver="direct").fit(X[:30], y[:30].astype(float))
    assert_same(everything(influence, X[50:], y[50:]), everything(direct, X[50:], y[50:]))
    np.testing.assert_allclose(influence.transform(X[:5]), direct.transform(X[:5]), atol=1e-8)


def test_damping_is_added_to_the_eigenvalues():
    X, y = diabetes()
    model = lm.Ridge(1.0, fit_intercept=False)
    influence = ExactInfluence(model, damping=0.3).fit(X, y)
    H = 2 * X.T @ X / len(y) + (2 / len(y) + 0.3) * np.eye(X.shape[1])
    G = 2 * (X @ influence.estimator_.coef_ - y)[:, None] * X
    np.testing.assert_allclose(influence.influence(X, y), -G @ np.linalg.solve(H, G.T))
    mu = np.linalg.eigvalsh(2 * X.T @ X / len(y))
    expected = (mu / (mu + 2 / len(y) + 0.3)).sum()
    assert influence.effective_dimension_ == pytest.approx(expected, 1e-10)


@pytest.mark.parametrize(
    "model", [lm.LinearRegression(), lm.Ridge(), lm.Lasso(0.5), lm.HuberRegressor(max_iter=1000)]
)
@pytest.mark.filterwarnings("ignore:.*has an L1 penalty")
def test_damping_auto_is_0_for_linear_models(model):
    assert ExactInfluence(model).fit(*diabetes()).damping_ == 0


def test_dot_products_of_embeddings_are_minus_the_influence(problem):
    X, y, Xq, yq, model = problem
    influence = ExactInfluence(model).fit(X, y)
    train = influence.transform(X, y)
    for targets in (yq, None):
        expected = -influence.influence(Xq, targets)
        assert_close(influence.transform(Xq, targets) @ train.T, expected, 1e-9)
    np.testing.assert_allclose(influence.self_influence(), (train**2).sum(axis=1), rtol=1e-8)
    assert influence.n_components_ == train.shape[1]
    assert (influence.self_influence() >= 0).all()


def test_influence_on_the_prediction_is_that_of_its_margin():
    X, y = digits()
    influence = ExactInfluence(LR(**NEWTON)).fit(X[:-5], y[:-5])
    found = influence.influence(X[-5:])
    model = influence.estimator_
    scores = model.decision_function(X[-5:])
    best, second = np.argsort(-scores, axis=1)[:, :2].T
    parameters = influence.parameter_influence()
    W = parameters[:, : model.coef_.size].reshape(-1, *model.coef_.shape)
    b = parameters[:, model.coef_.size :]
    moved = np.einsum("nkd,qd->qnk", W, X[-5:]) + b
    q = np.arange(5)
    np.testing.assert_allclose(found, moved[q, :, best] - moved[q, :, second], atol=1e-8)


def test_most_influential_finds_the_extremes(problem):
    X, y, Xq, yq, model = problem
    influence = ExactInfluence(model).fit(X, y)
    scores = influence.influence(Xq, yq)
    keys = {"harmful": -scores, "helpful": scores, "absolute": -np.abs(scores)}
    for by, key in keys.items():
        indices, values = influence.most_influential(Xq, yq, k=4, by=by)
        expected = np.take_along_axis(scores, np.argsort(key, axis=1, kind="stable")[:, :4], 1)
        np.testing.assert_allclose(values, expected, rtol=1e-10)
        np.testing.assert_allclose(values, np.take_along_axis(scores, indices, 1), rtol=1e-10)


def test_a_planted_error_is_the_most_harmful_row():
    X, y = cancer()
    # A typical row: one of those that the model is least in doubt about.
    clear = LR(C=0.1, **NEWTON).fit(X[:400], y[:400]).decision_function(X[:400]).argmax()
    y = y.copy()
    y[clear] = 1 - y[clear]
    influence = ExactInfluence(LR(C=0.1, **NEWTON)).fit(X[:400], y[:400])
    assert influence.influence(X[400:], y[400:], reduce="mean").argmax() == clear
    assert influence.leave_one_out_effect(X[400:], y[400:], reduce="mean").argmin() == clear


def test_labels_are_only_names():
    X, y = cancer()
    expected = ExactInfluence(LR(**NEWTON)).fit(X, y).influence(X[:9], y[:9])
    for names in (np.array([-1, 1]), np.array(["ham", "spam"]), np.array([3, 8])):
        influence = ExactInfluence(LR(**NEWTON)).fit(X, names[y])
        assert_same({"": influence.influence(X[:9], names[y[:9]])}, {"": expected})
        assert influence.classes_.tolist() == names.tolist()


# ---------------------------------------------------------------------------
# Containers and wrappers
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binary", "multinomial", "ridge"])
@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "memmap", "float32", "fortran"])
def test_containers_make_no_difference(name, kind, tmp_path):
    load, model = MODELS[name]
    if name == "ridge" and kind.startswith("csr"):
        model = clone(model).set_params(solver="sag", tol=1e-12, max_iter=100_000)
    X, y = load()
    X = np.where(np.abs(X) > 0.5 * X.std(), X, 0).astype(np.float32).astype(np.float64)
    model = FrozenEstimator(clone(model).fit(X, y))
    expected = everything(ExactInfluence(model).fit(X, y), X[:9], y[:9])
    if kind == "memmap":
        np.save(tmp_path / "X.npy", X)
        other = np.load(tmp_path / "X.npy", mmap_mode="r")
    elif kind == "float32":
        other = X.astype(np.float32)
    elif kind == "fortran":
        other = np.asfortranarray(X)
    else:
        other = getattr(sp, kind)(X)
    influence = ExactInfluence(model).fit(other, y)
    assert_same(everything(influence, other[:9], y[:9]), expected, tol=1e-8)


def test_data_frames_keep_their_names(df_module):
    X, y = load_iris(return_X_y=True)
    names = ["a", "b", "c", "d"]
    frame = df_module.DataFrame({name: X[:, i] for i, name in enumerate(names)})
    target = df_module.Series(y)
    model = make_pipeline(StandardScaler(), LR(**NEWTON))
    influence = ExactInfluence(model).fit(frame, target)
    expected = ExactInfluence(model).fit(X, y)
    assert influence.feature_names_in_.tolist() == names
    np.testing.assert_allclose(influence.influence(frame[:5], target[:5]),
                               expected.influence(X[:5], y[:5]))  # fmt: skip
    library = df_module.__name__
    table = clone(influence).set_output(transform=library).fit(frame, target).transform(frame)
    assert isinstance(table, df_module.DataFrame)
    assert list(table.columns) == list(influence.get_feature_names_out())
    assert influence.get_feature_names_out()[0] == "exactinfluence0"


def test_a_pipeline_is_influence_on_its_features():
    X, y = load_breast_cancer(return_X_y=True)
    whole = ExactInfluence(make_pipeline(StandardScaler(), LR(**NEWTON))).fit(X[:-9], y[:-9])
    scaler = StandardScaler().fit(X[:-9])
    features = ExactInfluence(LR(**NEWTON)).fit(scaler.transform(X[:-9]), y[:-9])
    found = everything(whole, X[-9:], y[-9:])
    assert_same(found, everything(features, scaler.transform(X[-9:]), y[-9:]))


def test_a_pipeline_may_read_strings_and_categories(rng):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"colour": rng.choice(["red", "blue"], 60), "size": rng.random(60)})
    y = (frame["size"] + (frame["colour"] == "red") > 1).astype(int).to_numpy()
    columns = ColumnTransformer(
        [("c", OneHotEncoder(), ["colour"]), ("s", "passthrough", ["size"])]
    )
    influence = ExactInfluence(make_pipeline(columns, LR(**NEWTON))).fit(frame, y)
    features = columns.fit_transform(frame)
    expected = ExactInfluence(LR(**NEWTON)).fit(features, y).influence(features[:3], y[:3])
    assert_close(influence.influence(frame[:3], y[:3]), expected, 1e-9)
    assert influence.feature_names_in_.tolist() == ["colour", "size"]


@pytest.mark.parametrize("wrap", [
    FrozenEstimator,
    lambda m: GridSearchCV(m, {"C": [1.0]}, cv=3),
    lambda m: make_pipeline("passthrough", make_pipeline(FrozenEstimator(m))),
], ids=["frozen", "search", "nested"])  # fmt: skip
def test_wrappers_are_unwrapped(wrap):
    X, y = cancer()
    model = LR(**NEWTON).fit(X, y)
    before = model.coef_.copy()
    found = ExactInfluence(wrap(model)).fit(X, y)
    expected = ExactInfluence(LR(**NEWTON)).fit(X, y)
    assert_same(everything(found, X[:5], y[:5]), everything(expected, X[:5], y[:5]), tol=1e-6)
    np.testing.assert_array_equal(model.coef_, before)


def test_weights_reach_the_model_inside_wrappers(rng):
    X, y = cancer()
    weight = rng.uniform(0.5, 2, len(y))
    expected = ExactInfluence(LR(**NEWTON)).fit(X, y, sample_weight=weight).influence(X[:5], y[:5])
    for wrapped in (
        make_pipeline("passthrough", LR(**NEWTON)),
        GridSearchCV(make_pipeline("passthrough", LR(**NEWTON)), {"memory": [None]}, cv=3),
    ):
        found = ExactInfluence(wrapped).fit(X, y, sample_weight=weight).influence(X[:5], y[:5])
        assert_close(found, expected, 1e-8)


def test_nothing_that_is_given_is_changed():
    X, y = cancer()
    weight = np.ones(len(y))
    model = LR(**NEWTON)
    given = [X.copy(), y.copy(), weight.copy(), repr(model.get_params())]
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    everything(influence, X[:20], y[:20])
    for before, after in zip(given, [X, y, weight, repr(model.get_params())], strict=True):
        assert np.array_equal(before, after)
    assert not hasattr(model, "coef_")


def test_a_fitted_estimator_survives_pickling():
    X, y = cancer()
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)
    copy = pickle.loads(pickle.dumps(influence))
    np.testing.assert_array_equal(copy.influence(X[:3], y[:3]), influence.influence(X[:3], y[:3]))


def test_memory_is_the_result_and_the_working_memory():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6000, 60)), rng.integers(0, 2, 6000)
    model = FrozenEstimator(LR(**NEWTON).fit(X, y))
    with sklearn.config_context(working_memory=4):
        tracemalloc.start()
        influence = ExactInfluence(model).fit(X, y)
        fitted = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        result = influence.influence(X[:500], y[:500])
        peak = tracemalloc.get_traced_memory()[1] - held
        tracemalloc.stop()
    assert result.nbytes == 24_000_000
    assert peak <= result.nbytes + 3 * 4 * 2**20
    assert fitted <= 3 * 4 * 2**20


def test_most_influential_never_holds_all_scores():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6000, 20)), rng.integers(0, 2, 6000)
    influence = ExactInfluence(FrozenEstimator(LR(**NEWTON).fit(X, y))).fit(X, y)
    with sklearn.config_context(working_memory=4):
        tracemalloc.start()
        influence.most_influential(X, y, k=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6000 * 6000 * 8 / 10


# ---------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X[y < 2], y[y < 2]


@pytest.fixture(scope="module")
def fitted(iris):
    return ExactInfluence(LR(**NEWTON)).fit(*iris)


@pytest.mark.parametrize(
    "value, message", [(np.nan, "contains NaN"), (np.inf, "contains infinity")]
)
def test_values_that_are_not_finite(iris, fitted, value, message):
    X, y = iris[0].copy(), iris[1]
    X[3, 2] = value
    with pytest.raises(ValueError, match=message):
        ExactInfluence(LR()).fit(X, y)
    with pytest.raises(ValueError, match=message):
        fitted.influence(X, y)
    with pytest.raises(ValueError, match="y contains NaN"):
        ExactInfluence(lm.Ridge()).fit(iris[0], y / 1.0).influence(iris[0], np.full(100, np.nan))


def test_one_class(iris):
    with pytest.raises(ValueError, match="only one class"):
        ExactInfluence(LR()).fit(iris[0], np.zeros(100))


@pytest.mark.parametrize(
    "weight, message",
    [
        (np.zeros(100), "(?i)zero"),
        (-np.ones(100), "Negative values in data passed to `sample_weight`"),
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(100,\)"),
    ],
    ids=["zero", "negative", "length"],
)
def test_bad_weights(iris, weight, message):
    with pytest.raises(ValueError, match=message):
        ExactInfluence(LR()).fit(*iris, sample_weight=weight)


def test_mismatched_lengths(iris, fitted):
    X, y = iris
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ExactInfluence(LR()).fit(X, y[:50])
    with pytest.raises(ValueError, match="one target for each of the 100 queries"):
        fitted.influence(X, y[:50])
    with pytest.raises(ValueError, match="expecting 4 features"):
        fitted.influence(X[:, :2], y)
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        fitted.influence(X[:0])


def test_labels_that_the_model_does_not_know(iris, fitted):
    with pytest.raises(ValueError, match=r"not fitted on: \[7\].*among \[0, 1\]"):
        fitted.influence(iris[0], np.full(100, 7))
    with pytest.raises(ValueError, match="y is None"):
        fitted.leave_one_out_effect(iris[0], None)


def test_use_before_fit(iris):
    unfitted = ExactInfluence(LR())
    for use in (
        lambda: unfitted.influence(*iris),
        lambda: unfitted.leave_one_out_effect(*iris),
        lambda: unfitted.removal_effect([0], *iris),
        lambda: unfitted.most_influential(*iris),
        lambda: unfitted.parameter_influence(),
        lambda: unfitted.self_influence(),
        lambda: unfitted.transform(iris[0]),
        lambda: unfitted.effective_dimension_,
    ):
        with pytest.raises(NotFittedError, match="Call 'fit'"):
            use()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda e, X, y: e.most_influential(X, y, k=101), "k must be .* 100. Got 101"),
        (lambda e, X, y: e.most_influential(X, y, k=0), "k must be an integer from 1"),
        (lambda e, X, y: e.most_influential(X, y, by="worst"), "by must be 'harmful'"),
        (lambda e, X, y: e.influence(X, y, reduce="max"), "reduce must be None, 'mean' or 'sum'"),
        (lambda e, X, y: e.leave_one_out_effect(X, y, reduce="max"), "reduce must be None"),
        (lambda e, X, y: e.removal_effect([100], X, y), "indices must lie between 0 and 99"),
        (lambda e, X, y: e.removal_effect([1, 1], X, y), "names a training row twice"),
        (lambda e, X, y: e.removal_effect([0.5], X, y), "1-d array of positions"),
        (lambda e, X, y: e.parameter_influence([[0], [1, 2]]), "one set of rows at a time"),
        (lambda e, X, y: e.removal_effect(np.arange(100), X, y), "nothing is left to fit"),
    ],
)
def test_arguments_that_make_no_sense(iris, fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted, *iris)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"damping": -1.0}, "The 'damping' parameter"),
        ({"solver": "newton"}, "The 'solver' parameter"),
        ({"curvature": "fisher"}, "The 'curvature' parameter"),
        ({"batch_size": 0}, "The 'batch_size' parameter"),
    ],
)
def test_parameters_are_checked(iris, parameters, message):
    with pytest.raises(ValueError, match=message):
        ExactInfluence(LR(), **parameters).fit(*iris)


@pytest.mark.parametrize(
    "model, message",
    [
        (SVC(), "SVC is not known.*Supported: .*LogisticRegression.*objective.register"),
        (RandomForestClassifier(n_estimators=2), "RandomForestClassifier is not known"),
        (LinearSVC(loss="hinge"), "not smooth.*loss='squared_hinge'"),
        (LinearSVC(penalty="l1", dual=False), "not smooth.*penalty='l2'"),
        (lm.SGDClassifier("hinge"), "not smooth.*'log_loss'"),
        (lm.Ridge(positive=True), "positive=False"),
        (lm.Lasso(positive=True), "positive=False"),
    ],
)
def test_models_that_are_not_smooth_or_not_known(iris, model, message):
    with pytest.raises(TypeError, match=message):
        ExactInfluence(model).fit(*iris)


def test_another_model_is_registered_by_one_function():
    class Halved(lm.Ridge):
        """Ridge on half the targets: a class that singledispatch can tell from Ridge."""

        def fit(self, X, y, sample_weight=None):
            return super().fit(X, y / 2, sample_weight)

    @objective.register(Halved)
    def _(model, X, y, sample_weight):
        weighting = Weighting(sample_weight)
        return linear_objective(model, X, y / 2, SquaredLoss(), weighting, ridge=2 * model.alpha)

    X, y = diabetes()
    found = ExactInfluence(Halved()).fit(X, y).self_influence()
    np.testing.assert_allclose(found, ExactInfluence(lm.Ridge()).fit(X, y / 2).self_influence())


def test_a_model_that_has_not_converged_is_told_once(iris):
    X, y = cancer()
    model = LR(C=100.0, max_iter=3, solver="saga", random_state=0)
    with pytest.warns(ConvergenceWarning) as caught:
        influence = ExactInfluence(model).fit(X, y)
    own = [str(w.message) for w in caught if "gradient of its objective" in str(w.message)]
    assert len(own) == 1
    assert f"{influence.stationarity_:.2e}" in own[0]
    assert ExactInfluence(LR(**NEWTON)).fit(X, y).stationarity_ < 1e-10


def test_a_perfect_fit_has_converged(rng):
    X = rng.standard_normal((30, 4))
    influence = ExactInfluence(lm.LinearRegression()).fit(X, X @ np.arange(4.0))
    assert influence.stationarity_ < 1e-3


def test_a_frozen_model_of_other_rows_is_noticed(iris):
    X, y = iris
    model = FrozenEstimator(LR(**NEWTON).fit(X, y))
    with pytest.warns(ConvergenceWarning, match="frozen model, check"):
        ExactInfluence(model).fit(X[::-1], y)


@pytest.mark.parametrize("damping", ["auto", 0.0])
def test_separable_data_without_a_penalty(iris, damping):
    X, y = iris
    with pytest.warns(ConvergenceWarning, match="perfectly separable.*damping"):
        influence = ExactInfluence(LR(C=np.inf, max_iter=1000), damping=damping).fit(X, y)
    assert np.isfinite(influence.influence(X, y)).all()


def test_constant_features_without_a_penalty():
    X, y = diabetes()
    constant = np.column_stack([X, np.full(len(y), 0.1)])
    influence = ExactInfluence(lm.LinearRegression(), damping=0).fit(constant, y)
    found = influence.influence(constant[:5], y[:5])
    # The intercept stands for them.
    expected = ExactInfluence(lm.LinearRegression(), damping=0).fit(X, y).influence(X[:5], y[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert np.isfinite(ExactInfluence(LR()).fit(constant, y > 150).self_influence()).all()


def test_iteration_that_stops_short_tells_its_residual():
    X, y = diabetes()
    influence = ExactInfluence(lm.Ridge(1e-8), solver="lissa", damping=0).fit(X, y)
    # An attribute of the curvature that its class documents.
    influence.linearisation_.curvature.max_iter = 1
    with pytest.warns(ConvergenceWarning, match="lissa stopped after 1 iterations.*residual of"):
        influence.influence(X[:2], y[:2])


def test_matrix_free_solvers_have_no_embedding():
    X, y = diabetes()
    influence = ExactInfluence(lm.Ridge(), solver="cg").fit(X, y)
    with pytest.raises(ValueError, match="no embedding. Use solver='direct'"):
        influence.transform(X)


def test_an_l1_penalty_is_told():
    X, y = diabetes()
    with pytest.warns(UserWarning, match="active set, the 7 of 10 weights"):
        influence = ExactInfluence(lm.Lasso(2.0, tol=1e-12), damping=0).fit(X, y)
    assert influence.n_components_ == 8
    # The other weights stay at 0 whatever the weights of the rows.
    active = np.append(influence.estimator_.coef_ != 0, True)
    design = np.column_stack([X, np.ones(len(y))])[:, active]
    gradients = (influence.estimator_.predict(X) - y)[:, None] * design
    expected = np.zeros((len(y), 11))
    expected[:, active] = -np.linalg.solve(design.T @ design / len(y), gradients.T).T
    assert_close(influence.parameter_influence(), expected, 1e-9)


def test_a_model_without_sample_weights_says_so():
    X, y = diabetes()

    class Plain(lm.Ridge):
        def fit(self, X, y):
            return super().fit(X, y)

    assert ExactInfluence(Plain()).fit(X, y).n_samples_ == len(y)
    with pytest.raises(TypeError, match="Plain.fit takes no sample_weight"):
        ExactInfluence(Plain()).fit(X, y, sample_weight=np.ones(len(y)))
