"""Kronecker factors, their eigenbases and scores as tensors: the same answers as arrays give.

Without an accelerator, the CPU is taken for a device that keeps its rows.
"""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

from skinfluence import KFACInfluence
from skinfluence.models.torch import TorchModel
from skinfluence.rows import SharedRows, TensorRows, TokenTensorRows
from tests.helpers import assert_close
from tests.pretended_device import Device

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")

N, N_QUERIES, N_CLASSES, N_TOKENS = 30, 4, 3, 7

# The highest precision of a device, and errors of its sums.
DOUBLE = {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}
TOLERANCE = {
    **{("cpu", torch.float64): 1e-11, ("cpu", torch.float32): 1e-5},
    **{("cuda", torch.float64): 1e-9, ("cuda", torch.float32): 1e-3},
    ("mps", torch.float32): 1e-3,
}


class Text(nn.Module):
    """Embeddings, one of them with a token that is never trained, shared layers and a norm."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(N_TOKENS, 5, padding_idx=0)
        self.places = nn.Embedding(4, 5)
        self.hidden = nn.Linear(5, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, N_CLASSES)

    def forward(self, tokens):
        places = self.places(torch.arange(4, device=tokens.device))
        return self.head(self.norm(torch.tanh(self.hidden(self.words(tokens) + places))).mean(1))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, N_CLASSES))


def convolution():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(3, 2, 3, bias=False),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, N_CLASSES),
    )


NETWORKS = {"perceptron": perceptron, "convolution": convolution, "text": Text}
SETTINGS = {
    "EK-FAC": {},
    "K-FAC, damping found": {"eigenvalue_correction": False, "damping": "auto"},
    "sampled, reduce, diagonal": {
        "fisher": "sampled",
        "shared": "reduce",
        "unfactored": "diagonal",
    },
    "empirical, damping found": {"fisher": "empirical", "damping": "auto"},
    "sketched": {"sketch_size": 6},
    "refined": {"refine": 2},
}


def samples(network, n=N):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, 1, 6, 6)).astype(np.float32)
    X = rng.integers(0, N_TOKENS, (n, 4)) if network == "text" else images
    return X, rng.integers(0, N_CLASSES, n), rng.uniform(0.5, 1.5, n)


def fitted(network, place, dtype, n=N, **settings):
    torch.manual_seed(0)
    X, y, weight = samples(network, n)
    model = TorchModel(NETWORKS[network]().to(place, dtype), l2=1e-2).fit(X, y)
    settings = {"damping": 1e-2, "random_state": 0, **settings}
    return KFACInfluence(FrozenEstimator(model), **settings).fit(X, y, sample_weight=weight)


def answers(influence, network):
    X, y, _ = samples(network)
    queries = X[:N_QUERIES], y[:N_QUERIES]
    written = np.empty((N_QUERIES, N))
    influence.influence(*queries, out=written)
    yielded = [scores for _, scores in influence.iter_influence(*queries)]
    embedding = influence.transform(*queries)
    return {
        "influence": influence.influence(*queries),
        "out": written,
        "iter_influence": np.concatenate(yielded),
        "of a prediction": influence.influence(X[:N_QUERIES]),
        "self_influence": influence.self_influence(),
        "most_influential": influence.most_influential(*queries, k=3)[1],
        "transform": embedding @ embedding.T,
        "parameter_influence": influence.parameter_influence([2, 0]),
        "memorization": influence.memorization(),
        "damping": influence.damping_,
        "dimension": influence.effective_dimension_,
        "effective dimensions": [layer.effective_dimension for layer in influence.layers_],
        "stored": influence.n_stored_,
    }


def rows_on(device, kind):
    """Rows of 6 samples, 2 rows each, whose factors are tensors on a device."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=DOUBLE[device]).to(device)

    if kind == "written out":
        return TensorRows(normal(12, 5), 2)
    t = 1 if kind == "one position" else 4
    residual = normal(6, 2, t, 3)
    if kind == "tokens":
        tokens = torch.randint(-1, N_TOKENS, (6, t), generator=generator).to(device)
        return TokenTensorRows(residual, tokens, N_TOKENS)
    return SharedRows(residual, normal(6 * t, 5), has_bias=True)


@pytest.mark.parametrize("m", [1, 30])
@pytest.mark.parametrize("kind", ["written out", "one position", "shared", "tokens"])
def test_rows_of_tensors_have_the_products_of_arrays(kind, m, device):
    if device == "mps":
        pytest.skip("MPS has no double precision, and keeps no rows.")
    rng = np.random.default_rng(0)
    with Device():
        rows = rows_on(device, kind)
        host, tolerance = rows.on_host(), TOLERANCE[device, DOUBLE[device]]
        assert rows.holds_tensors and not host.holds_tensors
        assert rows.shape == host.shape and rows.n_stored == host.n_stored
        written = host.toarray()
        # What is written out is new, and may be changed.
        rows.written()[:] = 0.0
        vectors, left = rng.standard_normal((m, rows.shape[1])), rng.standard_normal((m, 12))
        weight, index = rng.uniform(1, 2, 6), np.array([4, 0, 3])
        picked = np.array([9, 2])
        moved = torch.as_tensor(vectors).to(torch.device(device))
        found = {
            "toarray": (rows.toarray(), written),
            "written": (rows.written().cpu().numpy(), written),
            "matmul": (rows @ vectors.T, written @ vectors.T),
            "rmatmul": (left @ rows, left @ written),
            "dotted_by": (rows.dotted_by(vectors), vectors @ written.T),
            "dotted_by a tensor": (rows.dotted_by(moved).cpu().numpy(), vectors @ written.T),
            "gram_product": (rows.gram_product(vectors), vectors @ written.T @ written),
            "weighted": (rows.weighted(weight).toarray(), host.weighted(weight).toarray()),
            "a slice": (rows[1:4].toarray(), written[2:8]),
            "an index": (rows[index].toarray(), host[index].toarray()),
            "picked": (rows.picked(picked).toarray(), written[picked]),
            "squared_norms": (rows.squared_norms(), (written**2).sum(axis=1)),
        }
        if not rows.is_layer or kind == "tokens":
            squares = rows.column_squares().cpu().numpy()
            found["column_squares"] = squares, (written**2).sum(axis=0)
    for name, (value, expected) in found.items():
        check({name: value}, {name: expected}, tolerance)


def check(found, expected, tolerance):
    for name, value in expected.items():
        try:
            assert_close(found[name], value, tolerance)
        except AssertionError as error:
            error.add_note(name)
            raise


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_tensors_give_the_answers_of_arrays(network, settings, device, keep_rows_on):
    settings, dtype = SETTINGS[settings], DOUBLE[device]
    expected = answers(fitted(network, "cpu", dtype, **settings), network)
    keep_rows_on(device)
    with Device():
        found = answers(fitted(network, device, dtype, **settings), network)
    check(found, expected, TOLERANCE[device, dtype])


@pytest.mark.parametrize("network", NETWORKS)
def test_tensors_in_single_precision_give_the_answers_of_arrays(network, device, keep_rows_on):
    expected = answers(fitted(network, "cpu", torch.float32), network)
    keep_rows_on(device)
    found = answers(fitted(network, device, torch.float32), network)
    check(found, expected, TOLERANCE[device, torch.float32])


@pytest.mark.parametrize("network", NETWORKS)
def test_batches_do_not_change_the_answers_of_tensors(network, device, keep_rows_on):
    keep_rows_on(device)
    influence = fitted(network, device, DOUBLE[device])
    expected = answers(influence, network)
    with config_context(working_memory=0.005):
        found = answers(fitted(network, device, DOUBLE[device]), network)
    check(found, expected, TOLERANCE[device, DOUBLE[device]])


@pytest.mark.parametrize("network", NETWORKS)
def test_only_outputs_vectors_and_scores_come_to_the_host(network, keep_rows_on):
    X, y, _ = samples(network)
    moved = {}
    for hosts in ("arrays", "tensors"):
        if hosts == "tensors":
            keep_rows_on("cpu")
        with Device() as device:
            influence = fitted(network, "cpu", torch.float32)
            at_fit = device.n_moved
            influence.influence(X[:N_QUERIES], y[:N_QUERIES])
            at_scores = device.n_moved - at_fit
            influence.self_influence()
            moved[hosts] = at_fit, at_scores, device.n_moved - at_fit - at_scores
    n_blocks, n_stored = len(influence.layers_), N * influence.n_stored_
    at_fit, at_scores, at_self_influence = moved["tensors"]
    # Eigenvalues, penalties and the parameters; outputs, and a norm of each gradient.
    assert at_fit <= 7 * influence.n_params_ + N * (2 * N_CLASSES + n_blocks)
    assert at_scores == N_QUERIES * (N + N_CLASSES)
    assert at_self_influence == N * n_blocks
    # Arrays, once they have come, stay.
    assert moved["arrays"][0] > n_stored and moved["arrays"][1] >= N_QUERIES * n_stored / N


def test_a_found_damping_moves_vectors_and_a_number_for_each_row(keep_rows_on):
    keep_rows_on("cpu")
    moved = []
    for n in (N, 2 * N):
        with Device() as device:
            influence = fitted("convolution", "cpu", torch.float32, n, damping="auto")
        moved.append(device.n_moved)
    per_row = (moved[1] - moved[0]) / N
    # A product with the curvature takes a number for each factor row of a layer, of which there
    # are two; three vectors are multiplied, 15 and at most 10 times, with their correlations.
    assert per_row < 2 * len(influence.layers_) * (15 + 2 * 10 + 40)
    assert moved[0] < 100 * influence.n_params_ + N * per_row


def test_a_fit_of_tensors_is_stored_and_repeated(keep_rows_on):
    keep_rows_on("cpu")
    X, y, weight = samples("convolution")
    influence = fitted("convolution", "cpu", torch.float32)
    loaded = pickle.loads(pickle.dumps(influence))
    again = clone(influence).fit(X, y, sample_weight=weight)
    expected = influence.influence(X[:N_QUERIES], y[:N_QUERIES])
    for other in (loaded, again):
        assert_array_equal(other.influence(X[:N_QUERIES], y[:N_QUERIES]), expected)
        assert_array_equal(other.self_influence(), influence.self_influence())


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_on_disk_are_scored_by_tensors(network, keep_rows_on, tmp_path):
    keep_rows_on("cpu")
    X, y, _ = samples(network)
    expected = fitted(network, "cpu", torch.float64).influence(X[:N_QUERIES], y[:N_QUERIES])
    with Device():
        stored = fitted(network, "cpu", torch.float64, storage=tmp_path)
        assert_close(stored.influence(X[:N_QUERIES], y[:N_QUERIES]), expected, 1e-11)


def test_threads_share_tensors(keep_rows_on):
    keep_rows_on("cpu")
    X, y, _ = samples("text")
    settings = {"batch_size": 4}
    one, two = (
        fitted("text", "cpu", torch.float64, n_jobs=n_jobs, **settings).influence(X, y)
        for n_jobs in (1, 2)
    )
    assert_close(two, one, 1e-12)
