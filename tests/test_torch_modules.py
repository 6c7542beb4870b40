"""Modules as people have them, against dense references in float64."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.curvature.kronecker import moments
from skinfluence.models import objective
from skinfluence.models.torch import TorchModel
from skinfluence.rows import DenseRows, KroneckerRows, SharedRows, TokenRows
from tests.helpers import assert_close

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")

N = 24
DAMPING = 0.05


def as_tensor(X):
    kind = torch.long if X.dtype.kind == "i" else torch.float64
    return torch.as_tensor(X).to(kind)


def dense_parts(module, X, y):
    """Gradients (n, p) of the cross-entropy and rows of its Gauss-Newton matrix, by a loop."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients, roots = [], []
    for sample, label in zip(as_tensor(X), torch.as_tensor(y), strict=True):
        z = module(sample[None])[0]
        jacobian = torch.stack(
            [
                torch.cat(
                    [
                        g.flatten()
                        for g in torch.autograd.grad(
                            out, parameters, retain_graph=True, materialize_grads=True
                        )
                    ]
                )
                for out in z
            ]
        )
        p = torch.softmax(z.detach(), 0)
        gradients.append((p - F.one_hot(label, len(p))) @ jacobian)
        roots.append((torch.diag(p.sqrt()) - torch.outer(p.sqrt(), p)) @ jacobian)
    return torch.stack(gradients).numpy(), torch.cat(roots).numpy()


def dense_influence(module, X, y, queries, targets, damping=DAMPING):
    gradients, roots = dense_parts(module, X, y)
    matrix = roots.T @ roots / len(X) + damping * np.eye(roots.shape[1])
    query_gradients = dense_parts(module, queries, targets)[0]
    return -query_gradients @ np.linalg.solve(matrix, gradients.T)


def exact(module, X, y, **settings):
    model = TorchModel(module, **settings)
    return ExactInfluence(model, curvature="ggn", damping=DAMPING).fit(X, y)


def numbers(shape=6, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, shape)), rng.integers(0, 3, n)


def tokens(n_tokens=7, length=5, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_tokens, (n, length)), rng.integers(0, 3, n)


# ---------------------------------------------------------------------------
# Every layer agrees with the dense reference
# ---------------------------------------------------------------------------


class Scripted(nn.Module):
    """Modules and a forward that is given as a function."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.steps = nn.ModuleDict(parts)
        self.function = forward

    def forward(self, x):
        return self.function(self.steps, x)


class LowRankLinear(nn.Linear):
    """A frozen Linear with an adapter, as fine-tuning adds them."""

    def __init__(self, d, c, rank=2):
        super().__init__(d, c)
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, d) / 3)
        self.up = nn.Parameter(torch.randn(c, rank) / 3)

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


class ScaledLinear(nn.Linear):
    """A subclass that computes what Linear computes."""


class Conv1D(nn.Module):
    """The linear layer of language models, with its weight transposed."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf) / 2)
        self.bias = nn.Parameter(torch.randn(nf) / 2)

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(
            *x.shape[:-1], self.nf
        )


class Attention(nn.Module):
    """Attention with a causal mask and padding, with these settings."""

    def __init__(self, **settings):
        super().__init__()
        self.width = settings.get("kdim", 4)
        self.attention = nn.MultiheadAttention(4, 2, vdim=self.width, **settings)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = x.reshape(len(x), 3, 4)
        padding = torch.zeros(len(x), 3, dtype=torch.bool)
        padding[:, 2] = x[:, 0] > 0
        causal = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
        batch_first = self.attention.batch_first
        h = h if batch_first else h.transpose(0, 1)
        context = h[..., : self.width]
        settings = {"key_padding_mask": padding, "attn_mask": causal, "need_weights": False}
        h = self.attention(h, context, context, **settings)[0]
        return self.head(h.mean(1 if batch_first else 0))


class Encoder(nn.Module):
    """A layer of a transformer."""

    def __init__(self, batch_first):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=batch_first)
        self.batch_first = batch_first
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = x.reshape(len(x), 3, 4)
        h = h if self.batch_first else h.transpose(0, 1)
        return self.head(self.encoder(h).mean(1 if self.batch_first else 0))


def positional(forward):
    """Tokens and positions, added by a forward of the two embeddings and the tokens."""
    return Scripted(
        lambda s, x: s["head"](torch.tanh(forward(s["words"], s["places"], x)).flatten(1)),
        words=nn.Embedding(7, 4, padding_idx=1),
        places=nn.Embedding(6, 4),
        head=nn.Linear(20, 3),
    )


def every_place(x):
    return torch.arange(x.shape[1])


def convolution(*layers):
    return nn.Sequential(nn.Unflatten(1, (2, 2, 3)), *layers, nn.Flatten(), nn.LazyLinear(3))


class Steps(nn.Module):
    """A recurrent layer over three steps, and a head on its outputs and its last state."""

    def __init__(self, cls, **settings):
        super().__init__()
        self.steps = cls(4, 3, **settings)
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        h = x.reshape(len(x), 3, 4)
        first = self.steps.batch_first
        outputs, last = self.steps(h if first else h.transpose(0, 1))
        outputs = outputs if first else outputs.transpose(0, 1)
        last = torch.cat(last, dim=-1) if isinstance(last, tuple) else last
        return self.head(torch.cat([outputs.flatten(1), last.transpose(0, 1).flatten(1)], 1))


class Cells(nn.Module):
    """A cell that is called for each step, with a state that is learned."""

    def __init__(self, cls, **settings):
        super().__init__()
        self.cell, self.head = cls(4, 3, **settings), nn.Linear(3, 3)

    def forward(self, x):
        state = None
        for step in x.reshape(len(x), 3, 4).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def flat_positions(first):
    """Positions and samples in one axis, as some models flatten them."""

    def forward(steps, x):
        h = x.reshape(len(x), 4, 3)
        h = h.transpose(0, 1) if first else h
        h = torch.tanh(steps["step"](h.reshape(-1, 3)))
        h = h.reshape(4, len(x), 2).transpose(0, 1) if first else h.reshape(len(x), 4, 2)
        return steps["head"](h.flatten(1))

    return Scripted(forward, step=nn.Linear(3, 2), head=nn.Linear(8, 3))


S, K, D, T = SharedRows, KroneckerRows, DenseRows, TokenRows

# A module, its data, and the kinds of its rows.
CASES = {
    "subclass": (lambda: nn.Sequential(ScaledLinear(6, 4), nn.Tanh(), nn.Linear(4, 3)), 6, [K, K]),
    "adapter": (lambda: nn.Sequential(LowRankLinear(6, 4), nn.Tanh(), nn.Linear(4, 3)), 6, None),
    "adapter layers": (
        lambda: Scripted(
            lambda s, x: s["head"](x + s["up"](s["down"](x))),
            down=nn.Linear(6, 2, bias=False),
            up=nn.Linear(2, 6, bias=False),
            head=nn.Linear(6, 3),
        ),
        6,
        [K, K, K],
    ),
    "Conv1D": (
        lambda: Scripted(
            lambda s, x: s["head"](torch.tanh(s["step"](x.reshape(len(x), 2, 3))).flatten(1)),
            step=Conv1D(2, 3),
            head=nn.Linear(4, 3),
        ),
        6,
        [S, K],
    ),
    "depthwise": (lambda: convolution(nn.Conv2d(2, 4, 2, groups=2), nn.Tanh()), 12, [S, S, K]),
    "grouped line": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 6)),
            nn.Conv1d(2, 2, 3, groups=2, bias=False),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        12,
        [S, S, K],
    ),
    "Conv3d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 2, 3)), nn.Conv3d(1, 2, 2), nn.Flatten(), nn.LazyLinear(3)
        ),
        12,
        [K, D, D],
    ),
    "transposed": (lambda: convolution(nn.ConvTranspose2d(2, 2, 2), nn.Tanh()), 12, [K, D, D]),
    "attention": (lambda: Attention(batch_first=True), 12, [S] * 4 + [K]),
    "attention, positions first": (lambda: Attention(), 12, [S] * 4 + [K]),
    "attention of two widths": (
        lambda: Attention(kdim=2, bias=False, batch_first=True),
        12,
        [S] * 4 + [K],
    ),
    "encoder": (lambda: Encoder(True), 12, [S] * 6 + [K] + [D] * 4),
    "encoder, positions first": (lambda: Encoder(False), 12, [S] * 6 + [K] + [D] * 4),
    "LSTM": (lambda: Steps(nn.LSTM, batch_first=True), 12, [S, S, K]),
    "LSTM, all settings": (
        lambda: Steps(nn.LSTM, num_layers=2, bidirectional=True, proj_size=2),
        12,
        [S] * 12 + [K],
    ),
    "GRU": (lambda: Steps(nn.GRU, num_layers=2, bidirectional=True), 12, [S] * 8 + [K]),
    "RNN": (lambda: Steps(nn.RNN, bias=False, batch_first=True), 12, [S, S, K]),
    "RNN of ReLU": (lambda: Steps(nn.RNN, nonlinearity="relu"), 12, [S, S, K]),
    "LSTM cell": (lambda: Cells(nn.LSTMCell), 12, [S, S, K]),
    "GRU cell": (lambda: Cells(nn.GRUCell), 12, [S, S, K]),
    "RNN cell": (lambda: Cells(nn.RNNCell, bias=False), 12, [S, S, K]),
    "flat": (lambda: flat_positions(False), 12, [S, K]),
    "flat, positions first": (lambda: flat_positions(True), 12, [S, K]),
    "places": (lambda: positional(lambda w, p, x: w(x) + p(every_place(x))), (7, 5), [T, T, K]),
    "places with an axis": (
        lambda: positional(lambda w, p, x: w(x) + p(every_place(x)[None])),
        (7, 5),
        [T, T, K],
    ),
    "places of all samples": (
        lambda: positional(lambda w, p, x: w(x) + p(every_place(x).expand(len(x), -1))),
        (7, 5),
        [T, T, K],
    ),
    # An axis that is added later has no place for that of the samples.
    "places, axis added": (
        lambda: positional(lambda w, p, x: w(x) + p(every_place(x))[None]),
        (7, 5),
        [T, K, D],
    ),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(7, 4), nn.Linear(4, 3)), (7, 5), [T, K]),
    "bag, padded": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 4, padding_idx=2), nn.Linear(4, 3)),
        (7, 5),
        [T, K],
    ),
    "bag, weighted": (
        lambda: Scripted(
            lambda s, x: s["head"](s["bag"](x, None, 1 / (1 + x.to(s["head"].weight.dtype)))),
            bag=nn.EmbeddingBag(7, 4, mode="sum"),
            head=nn.Linear(4, 3),
        ),
        (7, 5),
        [T, K],
    ),
    "bag, largest": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 4, mode="max"), nn.Linear(4, 3)),
        (7, 5),
        [K, D],
    ),
    "bag, offsets": (
        lambda: Scripted(
            lambda s, x: s["head"](s["bag"](x.flatten(), 5 * torch.arange(len(x)))),
            bag=nn.EmbeddingBag(7, 4),
            head=nn.Linear(4, 3),
        ),
        (7, 5),
        [K, D],
    ),
    "table": (
        lambda: Scripted(
            lambda s, x: s["head"](F.embedding(x, s["table"].weight).mean(1)),
            table=nn.Linear(4, 7, bias=False),
            head=nn.Linear(4, 3),
        ),
        (7, 5),
        [K, D],
    ),
    "one-hot": (
        lambda: Scripted(
            lambda s, x: s["head"](F.one_hot(x, 7).flatten(1).to(s["head"].weight.dtype)),
            head=nn.Linear(35, 3),
        ),
        (7, 5),
        [K],
    ),
}


def problem(name, seed=0):
    make, shape, kinds = CASES[name]
    X, y = tokens(*shape, seed=seed) if isinstance(shape, tuple) else numbers(shape, seed=seed)
    torch.manual_seed(seed)
    module = make()
    example = as_tensor(X)
    module(example.float() if X.dtype.kind == "f" else example)
    return module.double().eval(), X, y, kinds


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_influence_is_that_of_the_dense_reference(name, global_random_seed):
    module, X, y, kinds = problem(name, global_random_seed)
    influence = exact(module, X, y)
    if kinds is not None:
        rows = influence.linearisation_.objective.training_gradient_rows()
        assert [type(block) for block in rows.blocks] == kinds
    expected = dense_influence(module, X, y, X[:5], y[:5])
    assert_close(influence.influence(X[:5], y[:5]), expected, 1e-9)


@pytest.mark.parametrize("name", ["attention", "encoder", "depthwise", "GRU"])
def test_single_precision_and_copies_keep_the_factors(name):
    module, X, y, kinds = problem(name)
    influence = exact(copy.deepcopy(module).float(), X, y)
    again = pickle.loads(pickle.dumps(influence))
    expected = dense_influence(module, X, y, X[:5], y[:5])
    for fitted in (influence, again):
        assert_close(fitted.influence(X[:5], y[:5]), expected, 1e-3)
    blocks = again.linearisation_.objective.training_gradient_rows().blocks
    assert [type(block) for block in blocks] == kinds


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("first", [False, True])
def test_recurrent_layers_take_a_state_and_a_single_sample(cls, first):
    torch.manual_seed(0)
    layer = cls(4, 3, num_layers=2, batch_first=first)

    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            h = x.reshape(len(x), 3, 4)
            state = x[:, :6].reshape(len(x), 2, 3).transpose(0, 1)
            alone = state[:, 0]
            if cls is nn.LSTM:
                state, alone = (state, state + 1), (alone, alone + 1)
            outputs, last = self.layer(h if first else h.transpose(0, 1), state)
            single, final = self.layer(h[0], alone)
            last, final = (part[0] if cls is nn.LSTM else part for part in (last, final))
            outputs = outputs if first else outputs.transpose(0, 1)
            assert final.shape == (2, 3)
            rest = single.sum() + final.sum()
            return torch.cat([outputs.flatten(1), last.transpose(0, 1).flatten(1)], 1) + 0 * rest

    module = Everything().double().eval()
    X, _ = numbers(12)
    model = TorchModel(module, loss="mse").fit(X, np.zeros((N, 15)))
    assert_allclose(model.decision_function(X), module(as_tensor(X)).detach(), atol=1e-12)


def test_attention_returns_its_weights():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True)

    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            x = x.reshape(len(x), 3, 4)
            both = [self.layer(x, x, x, average_attn_weights=a)[1] for a in (True, False)]
            single = self.layer(x[0], x[0], x[0])[1]
            return torch.cat([w.flatten(1) for w in both], 1) + 0 * single.sum()

    module = Weights().double().eval()
    X, _ = numbers(12)
    model = TorchModel(module, loss="mse").fit(X, np.zeros((N, 27)))
    assert_allclose(model.decision_function(X), module(as_tensor(X)).detach(), atol=1e-12)


# ---------------------------------------------------------------------------
# Tokens and numbers
# ---------------------------------------------------------------------------


class TokenAndNumbers(nn.Module):
    """Tokens in the first column, numbers in the others."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.cat([self.embedding(x[:, 0].long()), x[:, 1:]], dim=1))


def test_queries_with_fractions_are_not_truncated():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 7, (N, 5)).astype(float), rng.integers(0, 3, N)
    queries = np.column_stack([X[:4, :1], X[:4, 1:] + rng.uniform(0.1, 0.9, (4, 4))])
    torch.manual_seed(0)
    module = TokenAndNumbers().double()
    found = exact(module, X, y).influence(queries, y[:4])
    assert_close(found, dense_influence(module, X, y, queries, y[:4]), 1e-9)


def test_fractions_are_no_tokens():
    X, y = tokens()
    module = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3)).double()
    for settings in ({}, {"inputs": X[:1]}):
        influence = exact(module, X, y, **settings)
        with pytest.raises(ValueError, match="reads tokens.*Expected integers"):
            influence.influence(X[:2] + 0.5, y[:2])


# ---------------------------------------------------------------------------
# Rows that move within a batch
# ---------------------------------------------------------------------------


class Sorting(nn.Module):
    """Sorts its batch, where some sample is above a threshold, and puts it back in order."""

    def __init__(self, above=-np.inf):
        super().__init__()
        self.above = above
        self.hidden = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        order = torch.arange(len(x))
        if x[:, 0].max() > self.above:
            order = torch.argsort(x[:, 0])
        h = torch.tanh(self.hidden(x[order]))
        return self.head(h[torch.argsort(order)])


class Routed(nn.Module):
    """Experts of which each sample uses one, chosen by its first number."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(6, 3) for _ in range(2)])
        self.shared = nn.Linear(6, 3)

    def forward(self, x):
        out = torch.zeros(len(x), 3, dtype=x.dtype)
        for i, expert in enumerate(self.experts):
            mine = (x[:, 0] > 0).long() == i
            if mine.any():
                out = out.index_add(0, torch.nonzero(mine)[:, 0], expert(x[mine]))
        return out + self.shared(x)


@pytest.mark.parametrize("n", [N, 300])
@pytest.mark.parametrize("above", [-np.inf, 5.0])
@pytest.mark.filterwarnings("ignore:torch.func cannot follow")
def test_a_module_may_sort_its_batch(above, n):
    X, y = numbers(n=n)
    # The first rows are sorted already, and one row alone exceeds the threshold.
    X[:3, 0] = [-3.0, 0.0, 3.0]
    X[n // 2, 0] = 6.0
    torch.manual_seed(0)
    module = Sorting(above).double()
    influence = exact(module, X, y)
    expected = dense_influence(module, X, y, X[:3], y[:3])
    assert_close(influence.influence(X[:3], y[:3]), expected, 1e-9)


def test_queries_that_are_sorted_otherwise_are_refused():
    X, y = numbers()
    influence = exact(Sorting(5.0).double(), X, y)
    queries = X[:4].copy()
    queries[0, 0] = 6.0
    with pytest.raises(ValueError, match="'hidden' treats these samples in another way"):
        influence.influence(queries, y[:4])
    # A single one cannot be sorted.
    assert influence.influence(queries[:1], y[:1]).shape == (1, N)


@pytest.mark.filterwarnings("ignore:torch.func cannot follow")
def test_experts_that_few_rows_use():
    X, y = numbers()
    # The first rows use one expert.
    X[:, 0] = np.abs(X[:, 0])
    X[5::7, 0] *= -1
    torch.manual_seed(0)
    module = Routed().double()
    queries = X[3:9]
    found = exact(module, X, y).influence(queries, y[3:9])
    assert_close(found, dense_influence(module, X, y, queries, y[3:9]), 1e-9)


@pytest.mark.filterwarnings("ignore:torch.func cannot follow")
def test_queries_of_another_expert_are_refused():
    X, y = numbers()
    X[:, 0] = np.abs(X[:, 0])
    influence = exact(Routed().double(), X, y)
    queries = X[:4] * [-1, 1, 1, 1, 1, 1]
    queries[0, 0] *= -1
    with pytest.raises(ValueError, match="'experts.1' treats these samples in another way"):
        influence.influence(queries, y[:4])


# ---------------------------------------------------------------------------
# Half precision, wrappers, and modules that cannot be read
# ---------------------------------------------------------------------------


def small_module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    X, y = numbers()
    module = small_module().to(dtype)
    found = exact(module, X, y).influence(X[:5], y[:5])
    expected = dense_influence(copy.deepcopy(module).double(), X, y, X[:5], y[:5])
    assert_close(found, expected, 1e-4)
    assert next(module.parameters()).dtype == dtype


class Cast(nn.Module):
    """A module that computes in bfloat16, and keeps its parameters in single precision."""

    def __init__(self):
        super().__init__()
        self.inner = small_module()

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x)


def test_autocast_inside_the_module():
    X, y = numbers()
    module = Cast()
    influence = exact(module, X, y)
    rows = influence.linearisation_.objective.training_gradient_rows()
    assert [type(block) for block in rows.blocks] == [KroneckerRows] * 2
    plain = copy.deepcopy(module.inner).double()
    # Eight bits of a number, of which a solution loses some.
    assert_close(
        influence.influence(X[:5], y[:5]), dense_influence(plain, X, y, X[:5], y[:5]), 0.1
    )


def test_kfac_under_autocast():
    X, y = numbers()
    module = Cast()
    found, expected = (
        KFACInfluence(TorchModel(network), damping=0.1).fit(X, y).influence(X[:5], y[:5])
        for network in (module, copy.deepcopy(module.inner).double())
    )
    assert_close(found, expected, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_over_samples_are_double(dtype):
    # In single precision, sums of 4,000 squares of 1,000 would drown a variance of 1.
    rng = np.random.default_rng(0)
    X = (1000 + rng.standard_normal((4000, 6))).astype(np.float32)
    module = nn.Linear(6, 3).to(dtype)
    model = TorchModel(module, loss="mse").fit(X, rng.standard_normal((4000, 3)))
    rows = objective(model, X, np.zeros((4000, 3)), np.ones(4000)).factor_rows("ggn")
    (found,) = moments(rows, np.full(4000, 1 / 4000))
    x = np.hstack([X, np.ones((4000, 1))]).astype(np.float64)
    assert_close(found.inputs, x.T @ x / 4000, 1e-12)


class Checkpointed(nn.Module):
    """Two blocks whose activations are computed again on the way back."""

    def __init__(self, use_reentrant=False):
        super().__init__()
        module = small_module()
        self.first, self.second = module[:2], module[2:]
        self.use_reentrant = use_reentrant

    def forward(self, x):
        x = checkpoint(self.first, x, use_reentrant=self.use_reentrant)
        return checkpoint(self.second, x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize(
    "make", [lambda model: ExactInfluence(model, curvature="ggn"), KFACInfluence]
)
def test_checkpoints_change_nothing(make):
    X, y = numbers()
    found = []
    for module in (Checkpointed(), small_module()):
        influence = make(TorchModel(module.double())).set_params(damping=0.1).fit(X, y)
        rows = influence.linearisation_.objective.training_gradient_rows()
        assert [type(block) for block in rows.blocks] == [KroneckerRows] * 2
        found.append(influence.influence(X[:5], y[:5]))
    assert_close(found[0], found[1], 1e-10)


@pytest.mark.filterwarnings("ignore:.*requires_grad=True. Gradients will be None")
def test_checkpoints_that_autograd_cannot_follow_are_named():
    with pytest.raises(ValueError, match="no gradient by the parameters.*use_reentrant=False"):
        exact(Checkpointed(use_reentrant=True).double(), *numbers())


def compiled_forward(module):
    module.forward = torch.compile(module.forward, backend="eager")


def compiled_child(module):
    module[0] = torch.compile(module[0], backend="eager")


COMPILED = {
    "child": compiled_child,
    "in place": lambda module: module.compile(backend="eager"),
    "child in place": lambda module: module[0].compile(backend="eager"),
    "forward": compiled_forward,
    "forward of a child": lambda module: compiled_forward(module[0]),
}


@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_parts_are_read_as_they_were(how):
    X, y = numbers()
    module = small_module().double()
    expected = exact(module, X, y).influence(X, y)
    COMPILED[how](module)
    # A graph exists before the copy.
    before = module(torch.as_tensor(X)).detach()
    influence = exact(module, X, y)
    rows = influence.linearisation_.objective.training_gradient_rows()
    assert [type(block) for block in rows.blocks] == [KroneckerRows] * 2
    assert_close(influence.influence(X, y), expected, 1e-12)
    # The user's module is as compiled as it was.
    assert torch.equal(module(torch.as_tensor(X)).detach(), before)


def test_outputs_depend_on_the_parameters():
    X, y = numbers()
    module = small_module().double()
    other = small_module(1).double()
    module.forward = lambda x: other(x)
    with pytest.raises(ValueError, match="no gradient by the parameters.*0.weight.*replaced"):
        exact(module, X, y)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_wrappers_are_taken_off(wrap):
    X, y = numbers()
    module = small_module().double()
    influence = exact(wrap(module), X, y, parameters=["0.*", "2.*"])
    rows = influence.linearisation_.objective.training_gradient_rows()
    assert [type(block) for block in rows.blocks] == [KroneckerRows] * 2
    assert_close(influence.influence(X, y), exact(module, X, y).influence(X, y), 1e-12)


# What is wrong, and what the message says.
UNREADABLE = {
    "scripted": (lambda: torch.jit.trace(small_module(), torch.zeros(2, 6)), "TorchScript"),
    "meta": (lambda: small_module().to("meta"), "meta device"),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_modules_that_cannot_be_read_are_named(case):
    make, message = UNREADABLE[case]
    with pytest.raises(TypeError, match=message):
        TorchModel(make()).fit(*numbers())


@pytest.mark.parametrize("cls", [ExactInfluence, SketchedInfluence, KFACInfluence])
def test_a_bare_module_is_told_to_be_wrapped(cls):
    with pytest.raises(TypeError, match="bare module of torch, Sequential.*TorchModel"):
        cls(small_module()).fit(*numbers())


def test_outputs_are_one_row_for_each_sample():
    X, y = numbers()
    scalar = Scripted(lambda s, x: s["all"](x).mean(), all=small_module())
    with pytest.raises(ValueError, match=r"one row of outputs.*shape \(\).*loss='returned'"):
        TorchModel(scalar.double()).fit(X, y)
    several = Scripted(lambda s, x: {"logits": s["all"](x)}, all=small_module())
    with pytest.raises(TypeError, match="Got dict instead.*outputs=lambda"):
        TorchModel(several.double()).fit(X, y)


# ---------------------------------------------------------------------------
# Blocks without factors
# ---------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width))
        self.mix = nn.Parameter(torch.randn(width, width) / width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        h = x * self.scale
        for _ in range(2):
            h = torch.tanh(h @ self.mix)
        return self.head(h)


def test_a_large_block_is_refused_by_name_or_diagonal():
    X, y = numbers(65)
    torch.manual_seed(0)
    module = Recurrent(65).double()
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    with pytest.raises(ValueError, match=r"mix of shape \(65, 65\).*4225.*unfactored='diagonal'"):
        KFACInfluence(model, damping=DAMPING).fit(X, y)
    influence = KFACInfluence(model, unfactored="diagonal", damping=DAMPING).fit(X, y)
    assert [layer.shape for layer in influence.layers_] == [(3, 66), (65,), (4225,)]


@pytest.mark.parametrize("sketch_size", [None, 40])
def test_a_diagonal_block_is_the_diagonal(sketch_size):
    X, y = numbers()
    torch.manual_seed(0)
    module = Recurrent(6).double()
    model = TorchModel(module, parameters=["scale", "mix"])
    settings = {"damping": DAMPING, "unfactored": "diagonal"}
    if sketch_size:
        # Sketches leave these blocks as they are.
        model = TorchModel(module)
        sketched = KFACInfluence(model, sketch_size=sketch_size, **settings).fit(X, y)
        expected = KFACInfluence(model, **settings).fit(X, y)
        assert_close(sketched.influence(X, y), expected.influence(X, y), 1e-9)
        return
    influence = KFACInfluence(model, **settings).fit(X, y)
    gradients, roots = dense_parts(module, X, y)
    own = slice(0, 6 + 36)
    values = (roots[:, own] ** 2).sum(axis=0) / N + DAMPING
    expected = -(gradients[:, own] / values) @ gradients[:, own].T
    assert_close(influence.influence(X, y), expected, 1e-9)
    assert influence.effective_dimension_ == pytest.approx((1 - DAMPING / values).sum())


def test_parameters_are_excluded_by_name():
    X, y = numbers()
    module = small_module().double()
    included = objective(TorchModel(module, parameters="2.*").fit(X, y), X, y, np.ones(N))
    excluded = objective(TorchModel(module, exclude=["0.*"]).fit(X, y), X, y, np.ones(N))
    assert excluded.layers == included.layers == ["2"]
    with pytest.raises(ValueError, match=r"with exclude='\*' selects no parameter"):
        TorchModel(module, exclude="*").fit(X, y)


# ---------------------------------------------------------------------------
# Leaving rows out
# ---------------------------------------------------------------------------

DECAY = 0.02


def minimise(module, X, y):
    x, labels = as_tensor(X), torch.as_tensor(y)
    optimiser = torch.optim.LBFGS(
        module.parameters(),
        max_iter=2000,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = F.cross_entropy(module(x), labels)
        loss = loss + DECAY / 2 * sum((p**2).sum() for p in module.parameters())
        loss.backward()
        return loss

    optimiser.step(closure)
    return module


def test_a_row_is_left_out_with_the_curvature_that_was_asked_for():
    X, queries = numbers(4, n=120)[0], numbers(4, n=10, seed=1)[0]
    noise = np.random.default_rng(3).standard_normal((120, 3))
    y, targets = (X[:, :3] + 0.7 * noise).argmax(axis=1), queries[:, :3].argmax(axis=1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    minimise(module, X, y)
    model = FrozenEstimator(TorchModel(module, l2=DECAY).fit(X, y))
    left_out = [0, 7, 20, 31]

    def losses(module):
        outputs = module(as_tensor(queries))
        return F.cross_entropy(outputs, torch.as_tensor(targets), reduction="none").detach()

    refits = [
        minimise(copy.deepcopy(module), np.delete(X, i, axis=0), np.delete(y, i)) for i in left_out
    ]
    expected = torch.stack([losses(refit) - losses(module) for refit in refits], dim=1).numpy()
    error = {}
    for curvature in ("hessian", "ggn"):
        influence = ExactInfluence(model, curvature=curvature, damping=0.0).fit(X, y)
        assert influence.curvature_kind_ == curvature
        effect = influence.leave_one_out_effect(queries, targets)[:, left_out]
        error[curvature] = np.linalg.norm(effect - expected) / np.linalg.norm(expected)
    assert error["hessian"] < 0.1 and error["ggn"] > 0.3


NORMS_IN_A_NEW_PROCESS = """
import sys, warnings
import numpy as np
from torch import nn
from skinfluence import KFACInfluence
from skinfluence.models.torch import TorchModel

warnings.simplefilter("ignore")
X, y = np.random.default_rng(0).standard_normal((20, 4)), np.arange(20) % 2
module = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
KFACInfluence(TorchModel(module), damping=0.1).fit(X, y).influence(X, y)
print(*[name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_norms_import_no_compiler():
    # It takes seconds to import, more than most fits take.
    command = [sys.executable, "-c", NORMS_IN_A_NEW_PROCESS]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
