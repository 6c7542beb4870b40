"""K-FAC of embeddings: the dense way on a small vocabulary, linear cost on a large one."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from skinfluence import KFACInfluence
from skinfluence.curvature.kronecker import (
    KroneckerCurvature,
    LayerSpace,
    describe,
    draw_layer_sketch,
    moments,
    sketch_sizes,
)
from skinfluence.models.torch import TorchModel
from skinfluence.rows import BlockRows, KroneckerRows, SharedRows, TokenRows
from tests.helpers import assert_close

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")

# Samples, rows of each, positions; outputs and tokens of the embedding.
N, S, T, C, V = 30, 2, 4, 3, 9
DAMPING = 0.05


def both(rng, n=N):
    """Rows of an embedding and a layer, and the same with one-hot inputs that are written out."""
    residual = rng.standard_normal((n, S, T, C))
    # Some tokens come more often than others, one never, and some positions do not count.
    tokens = np.minimum(rng.geometric(0.3, (n, T)) - 2, V - 2)
    other = KroneckerRows(rng.standard_normal((n, S, 2)), rng.standard_normal((n, 3)))
    embedding = TokenRows(residual, tokens, V)
    one_hot = SharedRows(residual, embedding.activation.toarray(), has_bias=False)
    weight = rng.dirichlet(np.ones(n))
    pair = [BlockRows([block, other]) for block in (embedding, one_hot)]
    return [rows.weighted(np.sqrt(weight)) for rows in pair], weight


def penalty_of(rng):
    # One number for each output, so that the basis of tokens that never come does not matter.
    return np.concatenate([np.repeat(rng.uniform(0.1, 0.2, C), V), np.full(6, 0.1)])


@pytest.mark.parametrize("correction", [False, True])
def test_curvature_of_an_embedding_is_that_of_its_one_hot_inputs(correction, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    pair, weight = both(rng)
    penalty = penalty_of(rng)
    found, expected = (
        KroneckerCurvature(rows, moments(rows, weight), penalty, correction) for rows in pair
    )
    queries = both(rng, 5)[0]
    for left, right in ([pair[0], pair[1]], queries):
        solved, wanted = found.solve(left, DAMPING), expected.solve(right, DAMPING)
        assert_close(solved.toarray(), wanted.toarray(), 1e-10)
        assert_close(solved.inner(pair[0]), wanted.inner(pair[1]), 1e-10)
        roots = found.whiten(left, DAMPING), expected.whiten(right, DAMPING)
        assert_close(*roots, 1e-10)
        assert_close(found.leverages(left, DAMPING), expected.leverages(right, DAMPING), 1e-10)
    assert_allclose(found.effective_dimension(DAMPING), expected.effective_dimension(DAMPING))
    values = [np.sort(curvature.eigenbasis(DAMPING).values) for curvature in (found, expected)]
    assert_allclose(*values, rtol=1e-10)


@pytest.mark.parametrize("kind", ["nystrom", "gaussian"])
@pytest.mark.parametrize("sketch_size", [(5, 2), 7, 0.4, "auto"])
def test_sketches_of_an_embedding_are_those_of_its_one_hot_inputs(
    sketch_size, kind, global_random_seed
):
    rng = np.random.default_rng(global_random_seed)
    pair, weight = both(rng)
    penalty, ridge, products = penalty_of(rng), 0.3, []
    for rows in pair:
        layers = moments(rows, weight)
        reports = [describe("layer", layer, ridge) for layer in layers]
        sizes = sketch_sizes(sketch_size, layers, reports, ridge, kind=kind)
        seed = np.random.RandomState(global_random_seed)
        sketches = [
            draw_layer_sketch(layer, pair, kind, seed)
            for layer, pair in zip(layers, sizes, strict=True)
        ]
        space = LayerSpace(sketches, penalty)
        sketched = space.project(rows)
        curvature = KroneckerCurvature(sketched, moments(sketched, weight), space.penalty, True)
        solved = curvature.solve(sketched, DAMPING)
        # Written out rows have the same sketch.
        embedding, other = rows.blocks
        written = BlockRows([embedding.rescaled(np.ones(C * V)), other])
        by_columns = space.project(written)
        assert_close(by_columns.toarray(), sketched.toarray(), 1e-12)
        lifted = space.lift(solved.toarray())
        products.append((solved.inner(sketched), lifted, lifted @ rows.toarray().T))
        assert_close(lifted @ rows.toarray().T, solved.toarray() @ sketched.toarray().T, 1e-10)
    for found, expected in zip(*products, strict=True):
        assert_close(found, expected, 1e-10)


def language_data(n_tokens, length=6, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_tokens, (n, length)), rng.integers(0, 3, n)


def embedded(n_tokens, width=4):
    torch.manual_seed(0)
    layers = nn.Embedding(n_tokens, width), nn.Linear(width, 2), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(12, 3)).double()


@pytest.mark.parametrize("settings", [{}, {"refine": 2}, {"sketch_size": "auto"}])
def test_memory_is_linear_in_the_vocabulary(settings):
    n_tokens, width = 30_000, 4
    X, y = language_data(n_tokens)
    model = TorchModel(embedded(n_tokens, width), l2=1e-3)
    damping = "auto" if settings.get("refine") is None else DAMPING
    tracemalloc.start()
    try:
        influence = KFACInfluence(model, damping=damping, **settings).fit(X, y)
        influence.influence(X[:3], y[:3])
        influence.transform(X[:3], y[:3])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A matrix of the tokens would have 30,000 times 8 bytes for each of them.
    assert peak < 80 * 8 * n_tokens * width


class Tied(nn.Module):
    """A language model whose embedding is its last layer too."""

    def __init__(self, n_tokens):
        super().__init__()
        self.words = nn.Embedding(n_tokens, 4)
        self.mix = nn.Linear(4, 4)

    def forward(self, tokens):
        h = torch.tanh(self.mix(self.words(tokens).mean(1)))
        return h @ self.words.weight[:3].T


def test_products_of_an_embedding_sort_no_tokens(monkeypatch, rng):
    (rows, one_hot), _ = both(rng)

    def sums(matrix):
        raise AssertionError("sorted")

    monkeypatch.setattr("scipy.sparse.csr_array.sum_duplicates", sums)
    vectors = rng.standard_normal((2, rows.n_columns))
    assert_close(rows.gram_product(vectors), one_hot.gram_product(vectors), 1e-12)
    assert_close(rows @ vectors.T, one_hot @ vectors.T, 1e-12)


def test_a_tied_head_is_refused_by_name_or_diagonal():
    torch.manual_seed(0)
    X, y = language_data(1100)
    model = TorchModel(Tied(1100).double())
    with pytest.raises(ValueError, match=r"words.weight of shape \(1100, 4\).*'diagonal'"):
        KFACInfluence(model, damping=DAMPING).fit(X, y)
    influence = KFACInfluence(model, unfactored="diagonal", damping=DAMPING).fit(X, y)
    assert [(layer.name, layer.shape) for layer in influence.layers_] == [
        ("mix", (4, 5)),
        ("words.weight", (4400,)),
    ]
