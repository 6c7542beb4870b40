"""Fitted estimators come back from pickle, joblib and skops, and say which version stored them."""

import io
import pickle
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import InconsistentVersionWarning as OfScikitLearn
from sklearn.linear_model import LogisticRegression, Ridge, TweedieRegressor
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skinfluence
from skinfluence import (
    AveragedInfluence,
    ClassifierHeadInfluence,
    ExactInfluence,
    FilteredEstimator,
    KFACInfluence,
    LeaveOneOutSearch,
    MemorizationSelector,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
    trusted_types,
)
from skinfluence.exceptions import InconsistentVersionWarning
from skinfluence.metrics import InfluenceScorer
from tests.helpers import cancer, diabetes, frozen, perceptron, split

MODEL = LogisticRegression()
NETWORK = perceptron(max_iter=200)
SKETCHED = {"sketch_size": 8, "random_state": 0}

CLASSIFIERS = {
    "averaged": AveragedInfluence(KFACInfluence(NETWORK), n_fits=2, random_state=0),
    "exact": ExactInfluence(MODEL),
    "gram": ExactInfluence(MODEL, solver="gram"),
    "cg": ExactInfluence(MODEL, solver="cg", random_state=0),
    "pipeline": ExactInfluence(make_pipeline(StandardScaler(), MODEL)),
    "one against the rest": ExactInfluence(OneVsRestClassifier(MODEL)),
    "balanced": ExactInfluence(LogisticRegression(class_weight="balanced")),
    "network": ExactInfluence(NETWORK, curvature="ggn"),
    "network, cg": ExactInfluence(NETWORK, solver="cg", damping=0.5, random_state=0),
    "sketched": SketchedInfluence(MODEL, **SKETCHED),
    "refined": SketchedInfluence(MODEL, refine=2, **SKETCHED),
    "landmarks": SketchedInfluence(MODEL, sketch="landmarks", **SKETCHED),
    "srdct": SketchedInfluence(MODEL, sketch="srdct", damping=0.1, **SKETCHED),
    "without rows": SketchedInfluence(MODEL, sketch="sjlt", keep_rows=False, **SKETCHED),
    "sketched network": SketchedInfluence(NETWORK, curvature="ggn", **SKETCHED),
    "search": SketchedInfluenceCV(
        MODEL,
        sketch_sizes=[8],
        dampings=[0.0, 0.1],
        cv=2,
        scoring=InfluenceScorer("faithfulness"),
        random_state=0,
    ),
    "kfac": KFACInfluence(NETWORK),
    "sketched kfac": KFACInfluence(NETWORK, sketch_size=10, random_state=0),
    "head": ClassifierHeadInfluence(NETWORK),
    "relative": RelativeHessianInfluence(MODEL, subset_size=100, random_state=0),
}
REGRESSORS = {
    "ridge": ExactInfluence(Ridge()),
    "tweedie": ExactInfluence(TweedieRegressor(power=1.5, link="log")),
    "transformed": ExactInfluence(
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler())
    ),
}


def by_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def by_skops(estimator):
    skops = pytest.importorskip("skops.io")
    return skops.loads(skops.dumps(estimator), trusted=trusted_types())


WAYS = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "joblib": by_joblib,
    "skops": by_skops,
}


@pytest.fixture(scope="module")
def fitted():
    """Every influence estimator, fitted, and queries for it."""
    data = {name: split(*cancer(), n_queries=5, n_train=150) for name in CLASSIFIERS}
    data |= {name: split(*diabetes(), n_queries=5, n_train=150) for name in REGRESSORS}
    for _, y, _, yq in (data[name] for name in REGRESSORS):
        y[y < 0], yq[yq < 0] = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: (influence.fit(*data[name][:2]), data[name][2:])
            for name, influence in (CLASSIFIERS | REGRESSORS).items()
        }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CLASSIFIERS | REGRESSORS)
def test_a_stored_influence_gives_the_same_scores(name, way, fitted):
    influence, queries = fitted[name]
    stored = WAYS[way](influence)
    expected = influence.influence(*queries)
    # The layout of an array decides the order of sums.
    assert_allclose(stored.influence(*queries), expected, rtol=1e-9, atol=1e-12)
    assert_allclose(stored.self_influence(), influence.self_influence(), rtol=1e-9, atol=1e-12)
    assert stored.get_params().keys() == influence.get_params().keys()


@pytest.mark.parametrize("name", CLASSIFIERS | REGRESSORS)
def test_a_file_of_joblib_holds_each_array_once(name, fitted):
    influence, _ = fitted[name]
    file = io.BytesIO()
    joblib.dump(influence, file)
    # Pickle holds each once; joblib has a header for each, and puts it at a multiple of 16.
    assert file.tell() < 1.15 * len(pickle.dumps(influence)) + 4000


@pytest.mark.parametrize("model", [MODEL, Ridge()], ids=["logistic", "ridge"])
def test_a_file_holds_the_rows_once_and_few_numbers_for_each(model, tmp_path, rng):
    X, y = rng.standard_normal((2000, 100)), rng.integers(0, 2, 2000)
    influence = ExactInfluence(model).fit(X, y)
    path = tmp_path / "fit.joblib"
    joblib.dump(influence, path)
    # The curvature, its factors, and ten numbers for each row: targets, weights and residuals.
    assert path.stat().st_size < X.nbytes + 3 * 8 * 101**2 + 11 * 8 * len(y)
    loaded = joblib.load(path, mmap_mode="r")
    features = loaded.linearisation_.fitted_model.features
    assert isinstance(features, np.memmap)
    # One array for all who read it, as before.
    assert features is loaded.linearisation_.objective.features
    assert features is loaded.linearisation_.training_rows.activation
    found, expected = loaded.influence(X[:3], y[:3]), influence.influence(X[:3], y[:3])
    assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_a_stored_influence_can_do_everything_else(way, fitted):
    influence, (X, y) = fitted["exact"]
    stored = WAYS[way](influence)
    for name in ("leave_one_out_effect", "transform", "most_influential"):
        assert_allclose(getattr(stored, name)(X, y), getattr(influence, name)(X, y), rtol=1e-9)
    assert_allclose(stored.memorization(), influence.memorization(), rtol=1e-9)
    assert stored.effective_dimension_ == pytest.approx(influence.effective_dimension_)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "estimator",
    [
        MemorizationSelector(random_state=0),
        FilteredEstimator(MODEL, MemorizationSelector(random_state=0)),
        LeaveOneOutSearch(MODEL, {"C": [0.1, 1.0]}),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_stored_selection_is_the_same(estimator, way):
    X, y, Xq, _ = split(*cancer(), n_train=150)
    stored = WAYS[way](estimator.fit(X, y))
    if hasattr(estimator, "get_support"):
        assert_array_equal(stored.get_support(), estimator.get_support())
    else:
        assert_array_equal(stored.predict_proba(Xq), estimator.predict_proba(Xq))


def test_a_stored_module_of_torch_is_the_same(rng):
    torch = pytest.importorskip("torch")
    from skinfluence.models.torch import TorchModel

    torch.manual_seed(0)
    X, y = rng.standard_normal((40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    module = torch.nn.Linear(3, 2)
    influence = ExactInfluence(TorchModel(module, l2=1e-2), curvature="ggn", damping=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        influence.fit(X, y)
    for way in ("pickle", "joblib"):
        assert_allclose(
            WAYS[way](influence).influence(X[:3], y[:3]), influence.influence(X[:3], y[:3])
        )


# ---------------------------------------------------------------------------
# Versions
# ---------------------------------------------------------------------------

ESTIMATORS = [
    ExactInfluence(MODEL),
    MemorizationSelector(),
    FilteredEstimator(MODEL),
    LeaveOneOutSearch(MODEL, {"C": [1.0]}),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_another_version_is_told(estimator, monkeypatch):
    stored = pickle.dumps(estimator)
    monkeypatch.setattr(skinfluence, "__version__", "99.0")
    with pytest.warns(InconsistentVersionWarning, match="loaded by 99.0") as told:
        loaded = pickle.loads(stored)
    (warning,) = told
    assert issubclass(InconsistentVersionWarning, OfScikitLearn)
    assert warning.message.original_version != "99.0" == warning.message.current_version
    assert warning.message.estimator_name == type(estimator).__name__
    assert warning.filename == __file__
    # What is loaded belongs to this version from now on.
    assert "_skinfluence_version" not in vars(loaded)
    pickle.loads(pickle.dumps(loaded))


def test_every_public_estimator_stores_its_version():
    public = [getattr(skinfluence, name) for name in skinfluence.__all__]
    estimators = [thing for thing in public if hasattr(thing, "fit")]
    assert len(estimators) >= 10
    for estimator in estimators:
        state = estimator(MODEL, *[{}] * (estimator is LeaveOneOutSearch)).__getstate__()
        assert state["_skinfluence_version"] == skinfluence.__version__


def test_a_state_without_a_version_is_told():
    state = ExactInfluence(MODEL).__getstate__()
    del state["_skinfluence_version"]
    influence = ExactInfluence.__new__(ExactInfluence)
    with pytest.warns(InconsistentVersionWarning, match="stored by skinfluence unknown"):
        influence.__setstate__(state)


# ---------------------------------------------------------------------------
# Trust
# ---------------------------------------------------------------------------


def test_trusted_types_are_those_of_the_package_and_few_others():
    types = trusted_types()
    assert len(types) == len(set(types))
    others = {name for name in types if not name.startswith("skinfluence.")}
    assert len(others) < 10
    assert not [name for name in types if name.startswith("skinfluence.models.torch")]


def test_skops_refuses_without_the_trusted_types():
    skops = pytest.importorskip("skops.io")
    file = skops.dumps(frozen_influence())
    with pytest.raises(skops.exceptions.UntrustedTypesFoundException):
        skops.loads(file, trusted=[])
    assert set(skops.get_untrusted_types(data=file)) <= set(trusted_types())


def frozen_influence():
    X, y = cancer()
    return ExactInfluence(frozen(MODEL, X[:100], y[:100])).fit(X[:100], y[:100])
