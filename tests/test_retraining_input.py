"""What cannot be refitted is refused before any refit, and lost classes are told."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from sklearn.svm import SVC, LinearSVC

from skinfluence import ExactInfluence
from skinfluence.metrics import InfluenceScorer, retrain_on_subsets
from skinfluence.models import objective
from skinfluence.refitting import loss_cache
from skinfluence.refitting.random_subsets import draw_subsets
from skinfluence.refitting.retraining import Retraining


@pytest.fixture(autouse=True)
def empty_store(monkeypatch):
    """A store of the process that holds nothing yet."""
    monkeypatch.setattr(loss_cache, "PROCESS_STORE", loss_cache.ProcessStore(2**20))


@pytest.fixture
def no_refits(monkeypatch):
    """Fails if a refit is begun."""

    def fail(*args):
        raise AssertionError("a refit was begun")

    monkeypatch.setattr(Retraining, "_refits", fail)


def three_classes():
    X, y = load_iris(return_X_y=True)
    return scale(X)[::3], np.array(["c", "a", "b"])[y][::3]


def two_classes():
    X, y = three_classes()
    return X, np.where(y == "a", "yes", "no")


def numbers():
    X, _ = three_classes()
    return X, X @ [1.0, -1.0, 0.5, 2.0] + np.sin(np.arange(len(X)))


REGRESSORS = {
    "closed form": Ridge(),
    "own rule": LinearRegression(),
    "neighbours": KNeighborsRegressor(3),
    "forest": RandomForestRegressor(3, random_state=0),
}

CLASSIFIERS = {
    "closed form": LogisticRegression(),
    "neighbours": KNeighborsClassifier(3),
    "network": MLPClassifier((2,), alpha=1.0, max_iter=5000, random_state=0),
}


# ---------------------------------------------------------------------------
# Targets of the queries
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_column_of_numbers_is_raveled_with_a_warning(name):
    X, y = numbers()
    settings = {"n_subsets": 3, "random_state": 0}
    expected = retrain_on_subsets(REGRESSORS[name], X, y, X[:5], y[:5], **settings)
    with pytest.warns(DataConversionWarning, match=r"Expected the shape \(5,\)"):
        column = retrain_on_subsets(REGRESSORS[name], X, y, X[:5], y[:5, None], **settings)
    assert_array_equal(column.losses, expected.losses)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_column_of_labels_is_raveled_with_a_warning(name):
    X, y = three_classes()
    settings = {"n_subsets": 2, "random_state": 0}
    expected = retrain_on_subsets(CLASSIFIERS[name], X, y, X[:5], y[:5], **settings)
    with pytest.warns(DataConversionWarning, match="are a column"):
        column = retrain_on_subsets(CLASSIFIERS[name], X, y, X[:5], y[:5, None], **settings)
    assert_array_equal(column.losses, expected.losses)


@pytest.mark.parametrize("model", [LinearRegression(), Ridge(), KNeighborsRegressor(3)])
@pytest.mark.parametrize("column", [False, True])
def test_a_model_that_was_fitted_on_a_column_takes_both(model, column):
    X, y = numbers()
    settings = {"n_subsets": 3, "random_state": 0}
    y_query = y[:5, None] if column else y[:5]
    result = retrain_on_subsets(model, X, y[:, None], X[:5], y_query, **settings)
    expected = retrain_on_subsets(model, X, y, X[:5], y[:5], **settings)
    assert_allclose(result.losses, expected.losses, rtol=1e-9)


@pytest.mark.parametrize("model", [LinearRegression(), KNeighborsRegressor(3)])
def test_several_targets_are_taken_and_added_up(model):
    X, y = numbers()
    both = np.column_stack([y, -2 * y])
    result = retrain_on_subsets(model, X, both, X[:5], both[:5], n_subsets=2, random_state=0)
    fitted = clone(model).fit(X[result.subsets[1]], both[result.subsets[1]])
    expected = ((fitted.predict(X[:5]) - both[:5]) ** 2).sum(axis=1)
    assert_allclose(result.losses[:, 1], expected)


WRONG_TARGETS = {
    "short": lambda y: y[:4],
    "one for all": lambda y: y[:1],
    "a row": lambda y: y[None, :5],
    "two columns": lambda y: np.column_stack([y[:5], y[:5]]),
}


@pytest.mark.parametrize("wrong", WRONG_TARGETS)
@pytest.mark.parametrize(
    "model", [*REGRESSORS.values(), *CLASSIFIERS.values()], ids=lambda m: type(m).__name__
)
def test_targets_of_another_shape_are_refused(model, wrong, no_refits):
    X, y = three_classes() if model in CLASSIFIERS.values() else numbers()
    with pytest.raises(ValueError, match=r"The targets of the 5 queries must have the shape \(5,"):
        retrain_on_subsets(model, X, y, X[:5], WRONG_TARGETS[wrong](y), n_subsets=2)


def test_one_target_where_there_are_two_is_refused(no_refits):
    X, y = numbers()
    with pytest.raises(ValueError, match=r"must have the shape \(5, 2\)"):
        retrain_on_subsets(
            KNeighborsRegressor(), X, np.column_stack([y, y]), X[:5], y[:5], n_subsets=2
        )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_unknown_labels_are_refused(name, no_refits):
    X, y = three_classes()
    with pytest.raises(ValueError, match=r"labels that the model was not fitted on: \['z'\]"):
        retrain_on_subsets(CLASSIFIERS[name], X, y, X[:2], ["a", "z"], n_subsets=2)


@pytest.mark.parametrize("model", [Ridge(), KNeighborsRegressor()])
def test_missing_targets_are_refused(model, no_refits):
    X, y = numbers()
    with pytest.raises(ValueError, match="y_query is None. Expected the targets"):
        retrain_on_subsets(model, X, y, X[:2], None)
    with pytest.raises(ValueError, match="y_query contains NaN"):
        retrain_on_subsets(model, X, y, X[:2], [np.nan, 1.0])


# ---------------------------------------------------------------------------
# Models whose losses are not known
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [MultiOutputClassifier(LogisticRegression()), RandomForestClassifier(3)]
)
def test_classifiers_of_several_outputs_are_refused(model, no_refits):
    X, y = three_classes()
    both = np.column_stack([y, y])
    with pytest.raises(TypeError, match="Classifier is not known: it has 2 outputs. Expected a c"):
        retrain_on_subsets(model, X, both, X[:2], both[:2], n_subsets=2)


@pytest.mark.parametrize(
    "model", [SVC(), LinearSVC(loss="hinge", C=0.01), SGDClassifier(loss="hinge")]
)
def test_classifiers_without_probabilities_are_refused(model, no_refits):
    X, y = two_classes()
    with pytest.raises(TypeError, match="it has no predict_proba for the log loss"):
        retrain_on_subsets(model, X, y, X[:2], y[:2], n_subsets=2)


def test_multilabel_networks_are_refitted():
    X, y = three_classes()
    labels = (y[:, None] == ["a", "b"]).astype(int)
    model = MLPClassifier((2,), alpha=1.0, max_iter=5000, random_state=0)
    result = retrain_on_subsets(model, X, labels, X[:5], labels[:5], n_subsets=2, random_state=0)
    fitted = clone(model).fit(X[result.subsets[0]], labels[result.subsets[0]])
    shares = np.where(labels[:5], fitted.predict_proba(X[:5]), 1 - fitted.predict_proba(X[:5]))
    assert_allclose(result.losses[:, 0], -np.log(shares).sum(axis=1), rtol=1e-6)


# ---------------------------------------------------------------------------
# Subsets
# ---------------------------------------------------------------------------


def test_no_subsets_are_refused(no_refits):
    X, y = numbers()
    with pytest.raises(ValueError, match="subsets is empty. Expected at least one subset"):
        retrain_on_subsets(Ridge(), X, y, X, y, subsets=np.zeros((0, len(y)), dtype=bool))


@pytest.mark.parametrize(
    "model", [LogisticRegression(), RidgeClassifier(), KNeighborsClassifier(3)]
)
def test_a_subset_of_one_class_is_refused(model, no_refits):
    X, y = two_classes()
    subsets = np.array([y != "", y == "yes"])
    with pytest.raises(ValueError, match="Subset 1 has rows of one class only, so no"):
        retrain_on_subsets(model, X, y, X, y, subsets=subsets)


def test_a_subset_of_two_numbers_is_no_subset_of_one_class():
    X, y = numbers()
    subsets = np.arange(len(y)) < np.array([[1], [2]])
    result = retrain_on_subsets(Ridge(), X, y, X[:2], y[:2], subsets=subsets)
    assert_allclose(result.losses[:, 0], (y[:2] - y[0]) ** 2, atol=1e-8)


TIGHT_CLASSIFIERS = {
    "logistic": LogisticRegression(solver="newton-cholesky", tol=1e-12),
    "balanced": LogisticRegression(solver="newton-cholesky", tol=1e-12, class_weight="balanced"),
    "ridge": RidgeClassifier(),
    "hinge": LinearSVC(C=0.1, tol=1e-12, max_iter=100_000),
    "network": CLASSIFIERS["network"],
}


@pytest.mark.parametrize("name", TIGHT_CLASSIFIERS)
def test_a_subset_without_a_class_is_refitted_on_the_others(name):
    model = TIGHT_CLASSIFIERS[name]
    X, y = three_classes()
    half = np.arange(len(y)) % 2 == 0
    subsets = np.array([half, half & (y != "b"), y != "a"])
    result = retrain_on_subsets(model, X, y, X, y, subsets=subsets)
    assert result.converged.all()
    for subset, losses in zip(subsets, result.losses.T, strict=True):
        fitted = clone(model).fit(X[subset], y[subset])
        known = objective(fitted, X[subset], y[subset], np.ones(subset.sum()))
        seen = np.isin(y, fitted.classes_)
        expected = known.losses(X[seen], known.encode(y[seen]))
        assert_allclose(losses[seen], expected, rtol=1e-5, atol=1e-7)
        assert (losses[~seen] == np.inf).all()


def test_the_log_loss_of_a_class_that_is_gone_is_infinite():
    X, y = three_classes()
    model = KNeighborsClassifier(3)
    result = retrain_on_subsets(model, X, y, X, y, subsets=[y != "a"])
    assert_array_equal(np.isinf(result.losses[:, 0]), y == "a")
    fitted = clone(model).fit(X[y != "a"], y[y != "a"])
    own = fitted.predict_proba(X)[:, 0][y == "b"]
    expected = -np.log(np.maximum(own, np.finfo(float).eps))
    assert_allclose(result.losses[y == "b", 0], expected)


def test_infinite_losses_are_kept():
    X, y = three_classes()
    runs = [
        retrain_on_subsets(LogisticRegression(), X, y, X, y, subsets=[y != "a"]).losses
        for _ in range(2)
    ]
    assert_array_equal(*runs)


def test_modules_keep_the_outputs_of_a_class_that_is_gone():
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("skinfluence.models.torch")
    X, y = three_classes()
    labels = np.unique(y, return_inverse=True)[1]

    def train(module, X, y):
        optimiser = torch.optim.LBFGS(module.parameters(), max_iter=50)

        def closure():
            optimiser.zero_grad()
            outputs = module(torch.as_tensor(X, dtype=torch.float32))
            loss = torch.nn.functional.cross_entropy(outputs, torch.as_tensor(y))
            loss = loss + 0.05 * sum((p**2).sum() for p in module.parameters())
            loss.backward()
            return loss

        optimiser.step(closure)

    model = models.TorchModel(torch.nn.Linear(4, 3), l2=0.1, train=train)
    result = retrain_on_subsets(model, X, labels, X, labels, subsets=[labels != 0])
    fitted = clone(model).fit(X[labels != 0], labels[labels != 0])
    logits = fitted.decision_function(X)
    expected = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(y)), labels]
    assert_allclose(result.losses[:, 0], expected, rtol=1e-4)


def test_scores_leave_out_no_row_that_is_the_only_one_of_its_class():
    X, y = three_classes()
    keep = np.r_[np.flatnonzero(y != "b"), np.flatnonzero(y == "b")[:1]]
    X, y = X[keep], y[keep]
    influence = ExactInfluence(LogisticRegression()).fit(X, y)
    scorer = InfluenceScorer("loo", n_subsets=len(y))
    truth = scorer.ground_truth(influence, X, y)
    assert sorted(truth.rows) == list(range(len(y) - 1))
    assert np.isfinite(truth.losses).all()


def test_the_subsets_that_are_drawn_stay_as_they_were():
    strata = np.repeat([0, 1, 2], [5, 3, 1])
    drawn = draw_subsets(strata, 3, 0.5, np.random.RandomState(0))
    assert [np.flatnonzero(subset).tolist() for subset in drawn] == [
        [1, 2, 6, 7, 8],
        [1, 2, 3, 5, 8],
        [2, 3, 5, 8],
    ]
