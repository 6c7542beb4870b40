"""Layers whose weights are shared over positions: precision, memory and passes."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from torch import nn

from skinfluence import KFACInfluence, SketchedInfluence
from skinfluence.models import objective
from skinfluence.models.torch import TorchModel
from skinfluence.rows import DenseRows, KroneckerRows, SharedRows, StreamedRows
from tests.helpers import assert_close
from tests.markdown_tables import ROOT, agree, numbers, results, row, table

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")


def convolutions(n, dtype=torch.float32, width=4, seed=0):
    """A network with two convolutions on images of 12 x 12 pixels, with rows for it."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(18 * width, 3),
    )
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, 1, 12, 12)).astype(np.float32), rng.integers(0, 3, n)
    return FrozenEstimator(TorchModel(module.to(dtype)).fit(X, y)), X, y


def objective_of(n):
    model, X, y = convolutions(n)
    return objective(model.estimator, X, y, np.ones(n))


def test_rows_that_are_kept_hold_sums_where_these_have_fewer_numbers():
    rows = objective_of(6).factor_rows("ggn")
    summed = rows.summed()
    assert [type(block) for block in rows.blocks] == [SharedRows, SharedRows, KroneckerRows]
    assert [type(block) for block in summed.blocks] == [DenseRows, DenseRows, KroneckerRows]
    assert summed.n_stored < rows.n_stored / 10
    assert_close(summed.toarray(), rows.toarray(), 1e-6)
    vectors = np.random.default_rng(0).standard_normal((2, rows.n_columns))
    assert_close(summed.gram_product(vectors), rows.gram_product(vectors), 1e-6)
    weight = np.arange(6.0)
    weighted = rows.toarray() * np.repeat(weight, 2)[:, None]
    assert_close(summed.weighted(weight).toarray(), weighted, 1e-6)
    assert summed.summed() is summed


def test_a_layer_with_few_positions_keeps_its_factors():
    model, X, y = few_positions(5)
    rows = objective(model.estimator, X, y, np.ones(5)).training_gradient_rows().summed()
    assert [type(block) for block in rows.blocks] == [SharedRows, KroneckerRows]


def test_sums_may_fit_into_the_memory_where_factors_do_not():
    fit = objective_of(30)
    with config_context(working_memory=1):
        rows = fit.factor_rows("ggn")
        summed = rows.summed()
    assert isinstance(rows, StreamedRows)
    assert not isinstance(summed, StreamedRows)
    assert_close(summed.toarray(), rows.toarray(), 1e-6)


def test_one_pass_serves_all_who_ask_for_the_training_rows():
    fit = objective_of(8)
    rows = fit.training_gradient_rows().summed()
    assert fit.training_gradient_rows().summed() is rows
    part = fit.restricted(np.arange(8) % 2.0)
    assert_close(part.training_gradient_rows().summed().toarray(), rows.toarray()[1::2], 1e-6)


class Counting(nn.Linear):
    """A layer that counts the samples which pass through it."""

    seen = 0

    def forward(self, x):
        Counting.seen += len(x)
        return super().forward(x)


@pytest.mark.parametrize("correction, damping", [(False, 0.1), (True, 0.1), (True, "auto")])
def test_a_fit_goes_through_the_training_rows_no_more_often_than_it_must(
    correction, damping, monkeypatch
):
    monkeypatch.setattr(Counting, "seen", 0)
    X = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    model = TorchModel(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), Counting(4, 2)))
    influence = KFACInfluence(model, damping=damping, eigenvalue_correction=correction)
    influence.fit(X, y)
    # The check of the rows with the outputs, the gradients, the factors, their correction, and
    # the full curvature for a damping that is found.
    passes = 3 + correction + (damping == "auto")
    assert passes * len(X) <= Counting.seen <= passes * len(X) + 100
    Counting.seen = 0
    influence.influence(X[:5], y[:5])
    assert Counting.seen < 50


@pytest.mark.parametrize("m", [1, 40])
def test_products_of_shared_rows_have_the_precision_of_their_factors(m, rng):
    residual, inputs = rng.standard_normal((5, 2, 30, 4)), rng.standard_normal((150, 6))
    scale, vectors = rng.uniform(1, 2, 28), rng.standard_normal((m, 28))
    rows = SharedRows(*(a.astype(np.float32) for a in (residual, inputs)), True)
    exact = rows.toarray()
    assert exact.dtype == np.float64
    assert_close(rows.dotted_by(vectors), vectors @ exact.T, 1e-6)
    assert_close(rows.rescaled(scale).dotted_by(vectors), vectors @ (exact * scale).T, 1e-6)
    assert_close(rows.dotted_by(vectors.astype(np.float32)), vectors @ exact.T, 1e-5)
    left = rng.standard_normal((m, 10))
    assert_close(left @ rows.rescaled(scale), left @ (exact * scale), 1e-6)


@pytest.mark.parametrize("settings", [{}, {"eigenvalue_correction": False}, {"fisher": "sampled"}])
def test_kfac_in_single_precision_is_that_in_double(settings):
    found = []
    for dtype in (torch.float32, torch.float64):
        model, X, y = convolutions(40, dtype)
        influence = KFACInfluence(model, damping=1e-3, random_state=0, **settings).fit(X, y)
        found.append(influence.influence(X[:10], y[:10]))
    assert_close(found[0], found[1], 1e-4)


def test_single_precision_hides_no_null_space_of_the_factors():
    # Pixels at the edge never change, so that without a ridge the curvature is singular there.
    found = []
    for dtype in (torch.float32, torch.float64):
        model, X, y = convolutions(40, dtype)
        X[:, :, :3], X[:, :, -3:] = 0.0, 0.0
        with pytest.warns(match="curvature is singular"):
            influence = KFACInfluence(model, damping=0.0, eigenvalue_correction=False).fit(X, y)
            found.append(influence.influence(X[:10], y[:10]))
    assert_close(found[0], found[1], 1e-2)


@pytest.mark.parametrize(
    "influence",
    [
        KFACInfluence(None, damping=0.01),
        KFACInfluence(None),
        SketchedInfluence(None, curvature="ggn", sketch_size=20, damping=0.01, random_state=0),
    ],
    ids=["K-FAC", "K-FAC, damping found", "landmarks"],
)
def test_the_factors_of_all_rows_are_never_held(influence, monkeypatch):
    for place in ("curvature.kronecker._factors", "curvature.kronecker._bases"):
        monkeypatch.setattr(f"skinfluence.{place}.FACTOR_BYTES", 2**20)
    monkeypatch.setattr("skinfluence.models.torch._network.FACTOR_BYTES", 2**20)
    monkeypatch.setattr("skinfluence.rows._base.CACHE_BYTES", 2**20)
    model, X, y = convolutions(400, width=8)
    rows = objective(model.estimator, X, y, np.ones(len(X))).factor_rows("ggn")
    all_factors = 4 * rows[:1].n_stored * len(X)
    tracemalloc.start()
    influence.set_params(estimator=model).fit(X, y).influence(X[:20], y[:20])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * all_factors


def few_positions(n):
    """A layer with more weights than numbers in the factors of a sample."""
    torch.manual_seed(0)
    line = nn.Linear(9, 8)
    module = nn.Sequential(nn.Unflatten(1, (2, 9)), line, nn.Flatten(), nn.Linear(16, 2))
    X = np.random.default_rng(0).standard_normal((n, 18))
    return FrozenEstimator(TorchModel(module).fit(X, np.arange(n) % 2)), X, np.arange(n) % 2


@pytest.mark.parametrize("load, memory", [(convolutions, 0.1), (few_positions, 1e-3)])
@pytest.mark.parametrize("correction", [True, False])
def test_scores_are_the_same_in_any_batches(correction, load, memory):
    model, X, y = load(30)
    influence = KFACInfluence(model, damping=1e-2, eigenvalue_correction=correction)
    expected = influence.fit(X, y).influence(X[:5], y[:5])
    with config_context(working_memory=memory):
        found = influence.fit(X, y).influence(X[:5], y[:5])
    assert_close(found, expected, 1e-5)
    assert_array_equal(np.argmax(np.abs(found), axis=1), np.argmax(np.abs(expected), axis=1))


def test_the_guide_has_the_costs_that_were_measured():
    measured = table(results("network_cost.md"), "network", "method")
    guide = (ROOT / "docs" / "guide" / "networks.md").read_text(encoding="utf-8")
    for shown in table(guide, "network", "method", "CPU s fit"):
        found = row(measured, network=shown["network"], method=shown["method"])
        for name in ("CPU s fit", "CPU s scores", "peak MiB"):
            agree(numbers(shown[name]), numbers(found[name]))
