"""Fits with keep_rows=False hold sketched training rows, and score the same without the rows."""

import io
import pickle
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import SketchedInfluence
from skinfluence.data import Chunks
from skinfluence.diagnostics import diagnostics_frame, most_influential_set, removal_curve
from skinfluence.exceptions import RowsLeftOutError
from tests.helpers import perceptron

N_SAMPLES, N_FEATURES, SIZE = 2000, 40, 12
RNG = np.random.default_rng(0)
# Distinct numbers far from 0, so that some of their bytes would be found in a file.
X = RNG.normal(3.0, 2.0, (N_SAMPLES, N_FEATURES))
SIGNAL = (X - 3.0) @ RNG.standard_normal(N_FEATURES) + RNG.standard_normal(N_SAMPLES)
LABELS = np.digitize(SIGNAL, [-3.0, 3.0])
QUERIES = slice(0, 30)
NEW = X[QUERIES] + RNG.standard_normal((30, N_FEATURES))

LOGISTIC = LogisticRegression(max_iter=500)
CASES = {
    "basis": (LOGISTIC, LABELS, {"tail": False, "sketch_size": 3 * SIZE}),
    "binary": (LOGISTIC, LABELS > 1, {"tail": False}),
    "sjlt": (LOGISTIC, LABELS > 1, {"sketch": "sjlt"}),
    "gradients": (LOGISTIC, LABELS, {"sketch": "gaussian", "factorized": False, "debias": True}),
    "one against the rest": (OneVsRestClassifier(LOGISTIC), LABELS, {"sketch": "srdct"}),
    "pipeline": (make_pipeline(StandardScaler(), LOGISTIC), LABELS, {"sketch": "rademacher"}),
    "ridge": (Ridge(), SIGNAL, {"tail": False, "curvature": "empirical_fisher"}),
    "centred": (LinearRegression(), SIGNAL, {"tail": False}),
    "lasso": (ElasticNet(alpha=0.01), SIGNAL, {"tail": False, "damping": 0.1}),
}


def fitted(name, X=X, **settings):
    model, y, own = CASES[name]
    settings = {"sketch_size": SIZE, "random_state": 0, **own, **settings}
    with warnings.catch_warnings():
        # Small sketches without a ridge are saturated, and a hint of rounding may be told.
        warnings.simplefilter("ignore", UserWarning)
        return SketchedInfluence(model, **settings).fit(X, y), y[QUERIES]


def by_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def results(influence, y):
    blocks = [scores for _, scores in influence.iter_influence(NEW, y)]
    return [
        influence.influence(NEW, y),
        influence.influence(NEW, reduce="mean"),
        np.concatenate(blocks),
        *influence.most_influential(NEW, y, k=5),
        influence.self_influence(),
        influence.transform(NEW, y),
        influence.memorization(),
        influence.parameter_influence([0, 7]),
    ]


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_same_without_the_rows(name):
    kept, y = fitted(name)
    left, _ = fitted(name, keep_rows=False)
    for expected, found in zip(results(kept, y), results(left, y), strict=True):
        assert_array_equal(found, expected)


def test_functionals_of_queries_need_no_rows():
    kept, y = fitted("binary")
    left, _ = fitted("binary", keep_rows=False)
    assert_array_equal(left.influence_on("roc_auc", NEW, y), kept.influence_on("roc_auc", NEW, y))


def holds(stored, features):
    """Whether any number of some columns is in a file, as it stands in the rows."""
    return any(value.tobytes() in stored for value in features[::97, ::7].ravel())


@pytest.mark.parametrize("name", CASES)
def test_pickles_hold_no_features_and_score_the_same(name):
    left, y = fitted(name, keep_rows=False)
    stored = pickle.dumps(left)
    assert not holds(stored, X)
    assert_rows_smaller(name, stored)
    for copy in (pickle.loads(stored), by_joblib(left)):
        found = copy.influence(NEW, y)
        expected = left.influence(NEW, y)
        assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()
        assert_array_equal(
            copy.most_influential(NEW, y, k=3)[0], left.most_influential(NEW, y, k=3)[0]
        )


def assert_rows_smaller(name, stored):
    kept = pickle.dumps(fitted(name)[0])
    assert holds(kept, X)
    assert len(stored) <= len(kept) - X.nbytes


def test_sparse_rows_are_left_out():
    sparse = csr_matrix(np.where(X > 3.5, X, 0.0))
    kept, y = fitted("sjlt", X=sparse)
    left, _ = fitted("sjlt", X=sparse, keep_rows=False)
    assert_array_equal(left.influence(sparse[:9], y[:9]), kept.influence(sparse[:9], y[:9]))
    stored = pickle.dumps(left)
    assert not any(value.tobytes() in stored for value in sparse.data[::501])


NEEDS_ROWS = {
    "leave_one_out_effect": lambda fit, y: fit.leave_one_out_effect(NEW, y),
    "removal_effect": lambda fit, y: fit.removal_effect([0, 1], NEW, y),
    "score": lambda fit, y: fit.score(NEW, y),
    "sketch_error": lambda fit, y: fit.sketch_error(NEW, y),
    "leakage": lambda fit, y: fit.leakage(NEW, y),
    "bounds": lambda fit, y: fit.influence(NEW, y, return_error=True),
    "effective_dimension_": lambda fit, y: fit.effective_dimension_,
    "with_damping": lambda fit, y: fit.with_damping(1.0),
    "most_influential_set": lambda fit, y: most_influential_set(fit, 0.01, X=NEW, y=y),
    "removal_curve": lambda fit, y: removal_curve(fit, [0, 1], NEW, y),
    "diagnostics_frame": lambda fit, y: diagnostics_frame(fit),
}


@pytest.mark.parametrize("name", NEEDS_ROWS)
def test_what_needs_the_rows_says_so(name):
    left, y = fitted("sjlt", keep_rows=False)
    for influence in (left, pickle.loads(pickle.dumps(left))):
        with pytest.raises(RowsLeftOutError, match="keep_rows=False has not kept them"):
            NEEDS_ROWS[name](influence, y)


def test_queries_are_still_checked():
    left, y = fitted("pipeline", keep_rows=False)
    with pytest.raises(ValueError, match="features"):
        left.influence(NEW[:, :-1], y)
    with pytest.raises(ValueError, match="one target for each of the 30 queries"):
        left.influence(NEW, y[:-1])


@pytest.mark.parametrize(
    "settings",
    [
        {"tail": True, "sketch": "nystrom"},
        {"sketch_size": N_FEATURES + 1},
        {"sketch": "identity"},
        {"sketch": "landmarks", "tail": False},
        {"sketch": "sjlt", "project_queries": True},
    ],
)
def test_sketches_that_hold_the_features_are_refused(settings):
    with pytest.raises(ValueError, match="keep_rows=False needs a sketch"):
        fitted("binary", keep_rows=False, **settings)


def test_models_that_read_the_rows_again_are_refused():
    network = SketchedInfluence(
        perceptron(max_iter=20), sketch_size=9, curvature="ggn", sketch="sjlt", keep_rows=False
    )
    model = FrozenEstimator(Ridge().fit(X, SIGNAL))
    pieces = SketchedInfluence(model, sketch_size=9, sketch="sjlt", keep_rows=False)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="keep_rows=False is for"):
        network.fit(X, LABELS)
    with pytest.raises(ValueError, match="keep_rows=False is for"):
        pieces.fit(Chunks.from_array(X, SIGNAL, chunk_size=500))


def test_the_parameter_is_cloned_and_shown():
    left, _ = fitted("sjlt", keep_rows=False)
    assert clone(left).get_params()["keep_rows"] is False
    assert SketchedInfluence(LOGISTIC).get_params()["keep_rows"] is True
    assert "keep_rows=False" in repr(left)
    assert "Found by the fit" in left._repr_mimebundle_()["text/html"]
