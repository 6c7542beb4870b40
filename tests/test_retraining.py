"""Refits on subsets are those of the estimator itself, drawn fairly and kept well."""

import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model, svm
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence.metrics import retrain_on_subsets
from skinfluence.models import FittedModel, objective
from skinfluence.refitting import decorrelation, newton_cg
from skinfluence.refitting.decorrelation import decorrelated
from skinfluence.refitting.fingerprints import fingerprint
from skinfluence.refitting.loss_cache import ProcessStore
from skinfluence.refitting.random_subsets import draw_subsets
from skinfluence.refitting.retraining import Retraining
from skinfluence.rows import KroneckerRows
from tests.helpers import NEWTON, TIGHT, assert_close, cancer, diabetes, digits, iris, refitted


def retraining_of(estimator, fitted, X, y, sample_weight, X_query, y_query):
    fitted_model = FittedModel(estimator, fitted, X, y, sample_weight)
    return Retraining.of(fitted_model, X_query, y_query)


def two_classes():
    X, y = cancer()
    return X[::4], y[::4]


def three_classes():
    X, y = iris()
    # Names whose order is not that of their numbers.
    return X, np.array(["c", "a", "b"])[y]


def numbers():
    X, y = diabetes()
    return X[::2], y[::2]


def counts():
    X, y = numbers()
    return X, np.round(y / 20)


def wide():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 200)), rng.normal(size=60)


LINEAR_MODELS = {
    "logistic": (linear_model.LogisticRegression(**NEWTON), two_classes),
    "multinomial": (linear_model.LogisticRegression(C=0.5, **NEWTON), three_classes),
    "no intercept": (
        linear_model.LogisticRegression(fit_intercept=False, **NEWTON),
        three_classes,
    ),
    "balanced": (
        linear_model.LogisticRegression(class_weight="balanced", **NEWTON),
        two_classes,
    ),
    "given class weights": (
        linear_model.LogisticRegression(class_weight={"a": 1, "b": 2, "c": 5}, **NEWTON),
        three_classes,
    ),
    "liblinear": (
        linear_model.LogisticRegression(solver="liblinear", intercept_scaling=2.0, **TIGHT),
        two_classes,
    ),
    "ridge": (linear_model.Ridge(2.0), numbers),
    "ridge, more features than rows": (linear_model.Ridge(2.0), wide),
    "ridge classifier": (linear_model.RidgeClassifier(2.0), three_classes),
    "ridge classifier, balanced": (
        linear_model.RidgeClassifier(2.0, class_weight="balanced"),
        two_classes,
    ),
    "poisson": (linear_model.PoissonRegressor(alpha=0.5, **NEWTON), counts),
    "gamma": (linear_model.GammaRegressor(alpha=0.5, **NEWTON), numbers),
    "huber": (linear_model.HuberRegressor(alpha=0.1, tol=1e-10, max_iter=100_000), numbers),
    "SVC": (svm.LinearSVC(C=0.1, **TIGHT), two_classes),
    "SVC, three classes": (svm.LinearSVC(C=0.1, **TIGHT), three_classes),
    "SVC, balanced one-vs-rest": (
        svm.LinearSVC(C=0.1, class_weight="balanced", **TIGHT),
        three_classes,
    ),
    "SVR": (
        svm.LinearSVR(C=0.1, epsilon=5.0, loss="squared_epsilon_insensitive", **TIGHT),
        numbers,
    ),
}
# L-BFGS on the objective of HuberRegressor stops early whatever its tolerance.
LOOSE = {"huber": 1e-4}


def refits_of_clones(model, X, y, queries, result, weight=None):
    losses = []
    for subset in result.subsets:
        fitted = refitted(model, X, y, subset, weight)
        ones = np.ones(subset.sum()) if weight is None else weight[subset]
        known = objective(fitted, X[subset], y[subset], ones)
        losses.append(known.losses(queries[0], known.encode(queries[1])))
    return np.transpose(losses)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LINEAR_MODELS)
def test_refits_in_closed_form_are_those_of_the_estimator(name, weighted, global_random_seed):
    model, load = LINEAR_MODELS[name]
    X, y = load()
    rng = np.random.default_rng(global_random_seed)
    weight = rng.integers(0, 3, len(y)).astype(float) if weighted else None
    queries = X[:15], y[:15]
    result = retrain_on_subsets(
        model, X, y, *queries, sample_weight=weight, n_subsets=4, random_state=global_random_seed
    )
    assert result.converged.all()
    fitted = clone(model).fit(X, y, sample_weight=weight)
    ones = np.ones(len(y)) if weight is None else weight
    assert retraining_of(model, fitted, X, y, ones, *queries).in_closed_form
    expected = refits_of_clones(model, X, y, queries, result, weight)
    assert_close(result.losses, expected, LOOSE.get(name, 1e-6))


def test_refits_do_not_depend_on_how_well_the_estimator_converged():
    X, y = three_classes()
    loose = linear_model.LogisticRegression(tol=0.1)
    tight = linear_model.LogisticRegression(**NEWTON)
    settings = {"n_subsets": 5, "random_state": 0}
    losses = [
        retrain_on_subsets(model, X, y, X[:9], y[:9], **settings).losses
        for model in (loose, tight)
    ]
    assert_allclose(*losses, rtol=1e-6, atol=1e-9)


def test_columns_that_are_always_0_cost_no_steps(monkeypatch, rng):
    monkeypatch.setattr(newton_cg, "CG_STEPS", 10)
    X, y = digits()
    chosen = rng.permutation(len(X))[:300]
    X, y = X[chosen], y[chosen]
    assert not X.any(axis=0).all()
    result = retrain_on_subsets(
        linear_model.LogisticRegression(C=0.01), X, y, X[:5], y[:5], n_subsets=4
    )
    assert result.converged.all()


@pytest.mark.parametrize("max_directions, n_products", [(2000, 20), (1, 40)])
def test_offsets_cost_no_steps(max_directions, n_products, monkeypatch):
    # Columns far from 0 are close to the intercept until they are centred, with and without
    # eigenvectors of the features.
    monkeypatch.setattr(decorrelation, "MAX_DIRECTIONS", max_directions)
    products, product = [], KroneckerRows.__matmul__

    def counted(self, matrix):
        products.append(matrix.shape)
        return product(self, matrix)

    monkeypatch.setattr(KroneckerRows, "__matmul__", counted)
    X, y = cancer()
    settings = {"n_subsets": 5, "random_state": 0, "memory": joblib.Memory(None)}
    model, far = linear_model.LogisticRegression(**NEWTON), X[:, :8] + 1000
    result = retrain_on_subsets(model, far, y, far[:5], y[:5], **settings)
    assert result.converged.all() and len(products) <= n_products


def test_sparse_rows_are_refitted_as_dense_ones_are():
    X, y = two_classes()
    X = np.where(np.abs(X) < 0.5, 0.0, X)
    model = linear_model.LogisticRegression(**NEWTON)
    settings = {"n_subsets": 4, "random_state": 0}
    dense = retrain_on_subsets(model, X, y, X[:9], y[:9], **settings)
    sparse = sp.csr_matrix(X)
    other = retrain_on_subsets(model, sparse, y, sparse[:9], y[:9], **settings)
    assert_array_equal(dense.subsets, other.subsets)
    assert_allclose(dense.losses, other.losses, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["multinomial", "liblinear", "huber", "SVC, three classes"])
def test_turned_coordinates_change_no_output(name):
    model, load = LINEAR_MODELS[name]
    X, y = load()
    fitted = clone(model).fit(X, y)
    plain = objective(fitted, X, y, np.ones(len(y)))
    turned = decorrelated(plain)
    losses = turned.objective.losses(turned.turn(X), turned.objective.targets)
    assert_allclose(losses, plain.losses(X, plain.targets), rtol=1e-10)
    theta = turned.objective.theta
    assert_allclose(
        (turned.objective.penalty * theta) @ theta, (plain.penalty * plain.theta) @ plain.theta
    )


@pytest.mark.parametrize("name", ["multinomial", "huber", "poisson", "liblinear"])
def test_products_and_diagonals_are_those_of_the_hessian(name, rng):
    model, load = LINEAR_MODELS[name]
    X, y = load()
    loss = objective(clone(model).fit(X, y), X, y, np.ones(len(y))).loss
    targets = loss.encode(y, np.unique(y))
    k = 2 if name in ("multinomial", "huber") else 1
    z = rng.uniform(1, 2, size=(3, len(y), k))
    vectors = rng.normal(size=z.shape)
    hessian = loss.hessian(z, targets)
    if loss.separable:
        hessian = hessian[..., None] * np.eye(k)
    expected = np.einsum("mnab,mnb->mna", hessian, vectors)
    product = loss.hessian_product(z, targets)
    assert_allclose(product(vectors), expected, atol=1e-12)
    # Twice: the function must not consume what it holds.
    assert_allclose(product(vectors), expected, atol=1e-12)
    assert_allclose(loss.hessian_diagonal(z, targets), np.einsum("mnaa->mna", hessian), atol=1e-12)


# ---------------------------------------------------------------------------
# Other models
# ---------------------------------------------------------------------------


def test_a_model_without_known_objective_has_the_log_loss():
    X, y = three_classes()
    forest = RandomForestClassifier(5, max_depth=2, random_state=0)
    result = retrain_on_subsets(forest, X, y, X[:9], y[:9], n_subsets=2, random_state=0)
    for subset, losses in zip(result.subsets, result.losses.T, strict=True):
        fitted = clone(forest).fit(X[subset], y[subset])
        probabilities = fitted.predict_proba(X[:9])
        assert_allclose(losses.mean(), log_loss(y[:9], probabilities, labels=fitted.classes_))


def test_a_regressor_without_known_objective_has_the_squared_error():
    X, y = numbers()
    model = KNeighborsRegressor(3)
    result = retrain_on_subsets(model, X, y, X[:9], y[:9], n_subsets=2, random_state=0)
    fitted = clone(model).fit(X[result.subsets[1]], y[result.subsets[1]])
    assert_allclose(result.losses[:, 1], (y[:9] - fitted.predict(X[:9])) ** 2)


@pytest.mark.parametrize(
    "model",
    [linear_model.LinearRegression(), linear_model.Lasso(0.5)],
    ids=["no penalty", "L1"],
)
def test_models_that_their_own_rule_decides_are_cloned(model):
    X, y = numbers()
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = retrain_on_subsets(
            model, X, y, X[:9], y[:9], sample_weight=weight, n_subsets=3, random_state=0
        )
        expected = refits_of_clones(model, X, y, (X[:9], y[:9]), result, weight)
    assert_array_equal(result.losses, expected)


def test_featurizers_are_held_fixed():
    X, y = two_classes()
    X = X * np.arange(1, X.shape[1] + 1)
    model = linear_model.LogisticRegression(**NEWTON)
    settings = {"n_subsets": 3, "random_state": 0}
    whole = retrain_on_subsets(
        make_pipeline(StandardScaler(), model), X, y, X[:9], y[:9], **settings
    )
    features = StandardScaler().fit_transform(X)
    last = retrain_on_subsets(model, features, y, features[:9], y[:9], **settings)
    assert_allclose(whole.losses, last.losses, rtol=1e-9)


def test_frozen_models_and_searches_are_unwrapped():
    X, y = two_classes()
    model = linear_model.LogisticRegression(C=0.5, **NEWTON)
    settings = {"n_subsets": 3, "random_state": 0}
    plain = retrain_on_subsets(model, X, y, X[:9], y[:9], **settings)
    frozen = FrozenEstimator(clone(model).fit(X, y))
    search = GridSearchCV(model, {"C": [0.5]}, cv=2)
    for wrapped in (frozen, search):
        result = retrain_on_subsets(wrapped, X, y, X[:9], y[:9], **settings)
        assert_allclose(result.losses, plain.losses, rtol=1e-9)


# ---------------------------------------------------------------------------
# Subsets
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_subsets_hold_the_same_share_of_every_class(share, global_random_seed):
    strata = np.repeat([0, 1, 2], [100, 41, 3])
    subsets = draw_subsets(strata, 50, share, np.random.RandomState(global_random_seed))
    for stratum, count in enumerate([100, 41, 3]):
        sizes = subsets[:, strata == stratum].sum(axis=1)
        assert (np.abs(sizes - share * count) < 1).all() or sizes.min() == 1
        assert sizes.min() >= 1
    assert len(np.unique(subsets, axis=0)) == 50
    # Every row has its turn.
    assert (subsets[:, :100].mean(axis=0) > 0).all() if share >= 0.5 else True


def test_rows_of_a_class_are_drawn_evenly():
    subsets = draw_subsets(np.repeat([0, 1], [8, 4]), 4000, 0.5, np.random.RandomState(0))
    # The standard error of each share is 0.008.
    assert_allclose(subsets.mean(axis=0), 0.5, atol=0.04)


def test_the_first_subsets_do_not_depend_on_their_number(global_random_seed):
    strata, seed = np.zeros(30, dtype=int), global_random_seed
    few, many = (draw_subsets(strata, m, 0.5, np.random.RandomState(seed)) for m in (3, 9))
    assert_array_equal(few, many[:3])


def test_no_class_vanishes():
    X, y = three_classes()
    keep = np.r_[0:50, 50:100, 100:102]
    result = retrain_on_subsets(
        linear_model.LogisticRegression(), X[keep], y[keep], X, y, n_subsets=20, share=0.1
    )
    assert all((y[keep][subset] == "b").any() for subset in result.subsets)


def test_given_subsets_are_taken():
    X, y = numbers()
    subsets = ~np.eye(len(y), dtype=bool)[:5]
    model = linear_model.Ridge(1.0)
    result = retrain_on_subsets(model, X, y, X[:9], y[:9], subsets=subsets)
    assert_array_equal(result.subsets, subsets)
    expected = refits_of_clones(model, X, y, (X[:9], y[:9]), result)
    assert_allclose(result.losses, expected, rtol=1e-5)


def test_a_subset_without_rows_is_an_error():
    X, y = numbers()
    subsets = np.zeros((1, len(y)), dtype=bool)
    with pytest.raises(ValueError, match="Subset 0 has no training row with a positive weight"):
        retrain_on_subsets(linear_model.Ridge(), X, y, X, y, subsets=subsets)


def test_an_unknown_label_of_a_query_is_an_error():
    X, y = three_classes()
    with pytest.raises(ValueError, match="labels that the model was not fitted on"):
        retrain_on_subsets(linear_model.LogisticRegression(), X, y, X[:1], ["z"])


def test_refits_that_do_not_converge_are_counted():
    X, y = two_classes()
    with pytest.warns(ConvergenceWarning, match="3 of 3 refits did not converge"):
        result = retrain_on_subsets(
            linear_model.LogisticRegression(), X, y, X, y, n_subsets=3, tol=1e-30
        )
    assert not result.converged.any()


# ---------------------------------------------------------------------------
# What is kept
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["process", "disk", "memory"])
def test_each_subset_is_refitted_once(refit_blocks, unseen, tmp_path, kind):
    X, y = two_classes()
    X = unseen(X)
    memory = {"process": None, "disk": str(tmp_path), "memory": joblib.Memory(tmp_path, verbose=0)}
    settings = {"random_state": 0, "memory": memory[kind]}
    model = linear_model.LogisticRegression(**NEWTON)
    few = retrain_on_subsets(model, X, y, X[:9], y[:9], n_subsets=4, **settings)
    many = retrain_on_subsets(model, X, y, X[:9], y[:9], n_subsets=6, **settings)
    assert refit_blocks == [4, 2]
    assert_array_equal(few.losses, many.losses[:, :4])


def test_other_data_and_parameters_are_refitted(refit_blocks, unseen):
    X, y = two_classes()
    X = unseen(X)
    ones = np.ones(len(y))

    def run(model=None, X=X, y=y, query=9, y_query=y, **more):
        model = linear_model.LogisticRegression() if model is None else model
        before = sum(refit_blocks)
        retrain_on_subsets(
            model, X, y, X[:query], y_query[:query], n_subsets=2, **{"random_state": 0, **more}
        )
        return sum(refit_blocks) - before

    assert run() == 2
    assert run() == 0
    assert run(random_state=1) == 2
    assert run(linear_model.LogisticRegression(C=2.0)) == 2
    assert run(X=X + 1) == 2
    assert run(y=1 - y) == 2
    assert run(query=8) == 2
    assert run(y_query=1 - y) == 2
    assert run(sample_weight=1 + ones) == 2
    assert run(tol=1e-6) == 2
    assert run() == 0


def test_the_process_forgets_the_oldest_losses():
    store = ProcessStore(3 * 8 * 10)
    for key in "abcd":
        store.put(key, np.zeros(10))
    assert [store.get(key) is None for key in "abcd"] == [True, False, False, False]
    assert store.bytes_kept == 240


def test_workers_change_nothing(refit_blocks, tmp_path):
    X, y = three_classes()
    model = linear_model.LogisticRegression(**NEWTON)
    settings = [
        {"n_jobs": n_jobs, "memory": str(tmp_path / str(n_jobs)), "random_state": 0}
        for n_jobs in (1, 2)
    ]
    one, two = (
        retrain_on_subsets(model, X, y, X[:9], y[:9], n_subsets=40, **each) for each in settings
    )
    # Threads start in any order.
    assert sorted(refit_blocks) == [8, 8, 32, 32]
    assert_allclose(one.losses, two.losses, rtol=1e-9)


def test_estimators_are_known_by_their_parameters():
    first, second = (linear_model.Ridge(1.0) for _ in range(2))
    assert fingerprint(first) == fingerprint(clone(second.fit(*numbers())))
    assert fingerprint(first) != fingerprint(linear_model.Ridge(2.0))
    assert fingerprint(first) != fingerprint(linear_model.Lasso(1.0))


def test_modules_are_known_by_their_numbers():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    copy = torch.nn.Linear(3, 2)
    assert fingerprint(module) != fingerprint(copy)
    copy.load_state_dict(module.state_dict())
    module(torch.ones(1, 3)).sum().backward()
    assert fingerprint(module) == fingerprint(copy)


def test_skorch_nets_are_known_by_their_numbers():
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    pytest.importorskip("skinfluence.models.torch")
    # Losses near 0 of other weights would show the rounding of float32 probabilities.
    torch.manual_seed(0)
    X, y = two_classes()
    net = skorch.NeuralNetClassifier(
        torch.nn.Sequential(torch.nn.Linear(30, 2), torch.nn.Softmax(dim=1)),
        max_epochs=3,
        verbose=0,
        iterator_train__shuffle=False,
        train_split=None,
    )
    X, y = X.astype(np.float32), y.astype(np.int64)
    before = fingerprint(net)
    assert fingerprint(clone(net)) == before
    assert fingerprint(clone(net).set_params(lr=0.5)) != before
    fitted = clone(net).fit(X, y)
    retraining = retraining_of(net, fitted, X, y, np.ones(len(y)), X[:9], y[:9])
    assert fingerprint(retraining.model) == before
    # A refit on all rows starts from the module as it was given, not from the trained one.
    losses, _ = retraining.losses(np.ones((1, len(y)), dtype=bool))
    own = -np.log(fitted.predict_proba(X[:9])[np.arange(9), y[:9]])
    assert_allclose(losses[:, 0], own, rtol=1e-5)
    assert fingerprint(net) == before
