"""How scores are computed: passes over the training rows, memory, threads."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.exceptions import NumericalWarning
from skinfluence.models.torch import TorchModel
from tests.helpers import assert_close

torch.set_num_threads(1)

N_TRAIN, N_QUERIES = 60, 40


class Counting(nn.Module):
    """A perceptron that counts the rows that pass through any copy of it."""

    n_rows = 0

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x):
        Counting.n_rows += len(x)
        return self.layers(x)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    X, y = rng.standard_normal((N_TRAIN, 8)), rng.integers(0, 3, N_TRAIN)
    queries = rng.standard_normal((N_QUERIES, 8)), rng.integers(0, 3, N_QUERIES)
    model = TorchModel(Counting().double(), loss="cross_entropy", l2=0.1)
    return FrozenEstimator(model.fit(X, y)), (X, y), queries


ESTIMATORS = {
    "direct": (ExactInfluence, {"curvature": "ggn", "solver": "direct", "damping": 0.1}),
    "kfac": (KFACInfluence, {"damping": 0.1}),
    "sketched": (SketchedInfluence, {"curvature": "ggn", "sketch_size": 20, "damping": 0.1}),
}


@pytest.mark.filterwarnings("ignore:.*has not converged")
@pytest.mark.parametrize("name", ["direct", "kfac"])
def test_all_queries_share_one_pass_over_the_training_rows(name, network):
    model, (X, y), queries = network
    make, settings = ESTIMATORS[name]
    influence = make(model, **settings).fit(X, y)
    expected = influence.influence(*queries)
    # A batch of training rows is far smaller than all of them, one query's solution larger.
    with config_context(working_memory=2e-3):
        influence = make(model, **settings).fit(X, y)
        Counting.n_rows = 0
        scores = influence.influence(*queries)
    # The queries pass a few times, the training rows once for all of them: forward for outputs
    # that do not fit, and again for their gradients. One more row tells the number of outputs.
    assert Counting.n_rows <= 2 * N_TRAIN + 3 * N_QUERIES + 1
    assert_close(scores, expected, 1e-10)


@pytest.mark.filterwarnings("ignore:.*has not converged")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_scores_do_not_depend_on_threads_groups_and_batches(name, network, monkeypatch):
    model, (X, y), (queries, targets) = network
    queries = queries[:6], targets[:6]
    make, settings = ESTIMATORS[name]
    settings = settings | ({"random_state": 0} if name == "sketched" else {})
    expected = make(model, **settings).fit(X, y).influence(*queries)
    # One query a group.
    monkeypatch.setattr("skinfluence.estimators._linearisation.KEPT_SOLUTIONS", 0)
    for more in ({}, {"n_jobs": 3}, {"batch_size": 7}, {"n_jobs": 3, "batch_size": 7}):
        with config_context(working_memory=2e-3):
            influence = make(model, **settings, **more).fit(X, y)
            assert_close(influence.influence(*queries), expected, 1e-10)


@pytest.fixture(scope="module")
def tied():
    """A fit with many equal scores: every row is there three times."""
    rng = np.random.default_rng(0)
    X, y = np.tile(rng.standard_normal((50, 4)), (3, 1)), np.tile(rng.integers(0, 2, 50), 3)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    queries = rng.standard_normal((20, 4)), rng.integers(0, 2, 20)
    return FrozenEstimator(model), (X, y), queries


@pytest.mark.parametrize("by", ["harmful", "helpful", "absolute"])
@pytest.mark.parametrize("settings", [{}, {"n_jobs": 3}, {"batch_size": 7}], ids=str)
@pytest.mark.parametrize("k", [1, 10, 150])
def test_a_ranking_is_that_of_all_scores_with_ties_in_order(by, settings, k, tied, monkeypatch):
    # Tiles of one training row each, or of k.
    monkeypatch.setattr("skinfluence.estimators._training_pass.TILE_BYTES", 1)
    model, (X, y), queries = tied
    influence = ExactInfluence(model, **settings).fit(X, y)
    scores = influence.influence(*queries)
    # Copies of a row may differ by rounding, which is none of the ranking's business.
    key = {"harmful": -scores, "helpful": scores, "absolute": -np.abs(scores)}[by]
    indices, values = influence.most_influential(*queries, k=k, by=by)
    assert_close(np.take_along_axis(scores, indices, axis=1), values, 1e-12)
    assert_close(np.take_along_axis(key, indices, axis=1), np.sort(key, axis=1)[:, :k], 1e-12)
    assert all(len(set(row)) == k for row in indices)


def test_equal_scores_are_ranked_in_the_order_of_the_rows():
    X, y = np.repeat([[1.0], [-1.0]], 30, axis=0), np.repeat([1.0, -1.0], 30)
    influence = ExactInfluence(Ridge(fit_intercept=False)).fit(X, y)
    indices, _ = influence.most_influential([[1.0]], [3.0], k=4)
    assert indices.tolist() == [[0, 1, 2, 3]]


def test_self_influence_writes_out_one_tile_at_a_time():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((100_000, 50)), rng.integers(0, 2, 100_000)
    model = FrozenEstimator(LogisticRegression(solver="newton-cholesky").fit(X, y))
    influence = ExactInfluence(model).fit(X, y)
    tracemalloc.start()
    found = influence.self_influence()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Rows written out as a whole would take as much as the features, and their solutions again.
    assert peak < X.nbytes
    some = rng.permutation(len(y))[:200]
    own = -np.diag(influence.influence(X[some], y[some])[:, some])
    assert_close(found[some], own, 1e-10)


def test_blocks_of_queries_are_the_scores(tied):
    model, (X, y), queries = tied
    influence = ExactInfluence(model).fit(X, y)
    expected = influence.influence(*queries)
    # Three queries a block.
    with config_context(working_memory=3 * 8 * 150 / 2**20):
        blocks = list(influence.iter_influence(*queries))
    assert [part.stop - part.start for part, _ in blocks] == [3, 3, 3, 3, 3, 3, 2]
    assert_close(np.concatenate([block for _, block in blocks]), expected, 1e-12)


def test_scores_are_written_into_a_memory_map(tied, tmp_path):
    model, (X, y), queries = tied
    influence = ExactInfluence(model).fit(X, y)
    expected = influence.influence(*queries)
    out = np.lib.format.open_memmap(tmp_path / "scores.npy", "w+", np.float64, expected.shape)
    assert influence.influence(*queries, out=out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected)
    row = np.empty(len(y))
    assert influence.influence(*queries, reduce="mean", out=row) is row
    assert_close(row, expected.mean(axis=0), 1e-10)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((20, 149)), r"shape \(20, 150\), got float64 \(20, 149\)"),
        (np.empty((20, 150), np.float32), r"array of float64 .* got float32"),
        ([0.0], "got list"),
        (np.empty((150, 20)).T, "in C order"),
    ],
)
def test_out_of_another_kind_is_refused(out, message, tied):
    model, (X, y), queries = tied
    with pytest.raises(ValueError, match=message):
        ExactInfluence(model).fit(X, y).influence(*queries, out=out)


@pytest.fixture(scope="module")
def raw_units():
    """Columns in very different units, none of them near 0."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 6))
    y = (X @ rng.standard_normal(6) + rng.logistic(size=400) > 0).astype(int)
    X = X * [1e-6, 1.0, 1e5, 30.0, 1e9, 1e-3] + [1e-5, -20.0, 2e5, 900.0, 1e9, 0.0]
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=200)
    whole = make_pipeline(StandardScaler(), fitted).fit(X, y)
    raw = LogisticRegression(C=np.inf)
    raw.fit(X, y)
    raw.coef_ = whole[-1].coef_ / whole[0].scale_
    raw.intercept_ = whole[-1].intercept_ - raw.coef_ @ whole[0].mean_
    return ExactInfluence(FrozenEstimator(raw)).fit(X, y), (X[:50], y[:50])


@pytest.mark.filterwarnings("error")
def test_single_precision_has_four_digits_in_raw_units(raw_units):
    influence, queries = raw_units
    scores = influence.influence(*queries)
    single = influence.influence(*queries, dtype=np.float32)
    assert single.dtype == np.float32
    error = np.linalg.norm(single - scores, axis=1) / np.linalg.norm(scores, axis=1)
    # Not equal either: the products were taken in single precision.
    assert 1e-9 < error.max() <= 1e-4
    blocks = [b for _, b in influence.iter_influence(*queries, dtype=np.float32)]
    np.testing.assert_array_equal(np.concatenate(blocks), single)
    indices, values = influence.most_influential(*queries, k=3, dtype=np.float32)
    assert values.dtype == np.float32
    assert_close(np.take_along_axis(scores, indices, axis=1), values, 1e-4)


def test_single_precision_that_would_lose_too_much_is_refused():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3))
    y = X.sum(axis=1) + rng.standard_normal(300)
    # Without an intercept nothing takes the mean off, and two columns hardly differ.
    X = np.column_stack([X + 1e3, X[:, 0] + 1e3 + 5e-2 * rng.standard_normal(300)])
    influence = ExactInfluence(LinearRegression(fit_intercept=False)).fit(X, y)
    scores = influence.influence(X[:50], y[:50])
    with pytest.warns(NumericalWarning, match="single precision the scores would have"):
        single = influence.influence(X[:50], y[:50], dtype=np.float32)
    assert single.dtype == np.float32
    assert_close(single, scores, 1e-6)


def test_a_precision_that_scores_do_not_have_is_refused(tied):
    model, (X, y), queries = tied
    with pytest.raises(ValueError, match="dtype must be np.float32, np.float64 or None"):
        ExactInfluence(model).fit(X, y).influence(*queries, dtype=np.float16)
