"""Torch modules and skorch nets against loops of autograd."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import clone, config_context
from sklearn.base import is_classifier, is_regressor
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.func import functional_call

from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.curvature.kronecker import moments
from skinfluence.models import objective
from skinfluence.models.torch import ModuleRows, TorchModel
from skinfluence.rows import DenseRows, KroneckerRows, SharedRows, TokenRows
from skinfluence.sketching import SKETCHES, IdentitySketch, LandmarkSketch
from tests.helpers import assert_close, dense_inverse

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

N = 12


class Tied(nn.Module):
    """A language model whose embedding is also its last layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.decoder = nn.Linear(4, 7)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        return self.decoder(torch.tanh(self.embedding(tokens)).mean(1))[:, :3]


class Recurrent(nn.Module):
    """One layer that is called three times."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x):
        h = x
        for _ in range(3):
            h = torch.tanh(self.step(h))
        return self.head(h)


class TimeFirst(nn.Module):
    """A layer that sees positions first and samples second."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(2, 4)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        h = torch.relu(self.step(x.reshape(len(x), 3, 2).transpose(0, 1)))
        return self.head(h.transpose(0, 1).flatten(1))


class Scaled(nn.Module):
    """A parameter of no layer, and a weight used past its layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.hidden(x * self.scale))
        return self.head(torch.nn.functional.linear(h, self.hidden.weight))


class Mixed(nn.Module):
    """Tokens in the first column, numbers in the others."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.cat([self.embedding(x[:, 0].long()), x[:, 1:]], dim=1))


class Attention(nn.Module):
    """Projections that torch multiplies with slices of one weight."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = x.reshape(len(x), 3, 4)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def images(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 6, 6)), *layers)


# Each case is a module, the shape of a sample, and the kinds of rows it should have.
CASES = {
    "linear": (lambda: nn.Linear(5, 3), 5, [KroneckerRows]),
    "no bias": (lambda: nn.Linear(5, 3, bias=False), 5, [KroneckerRows]),
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
        5,
        [KroneckerRows] * 2,
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)),
        5,
        [KroneckerRows] * 2,
    ),
    "convolutions": (
        lambda: images(
            nn.Conv2d(1, 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2, 3, 2, bias=False),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        36,
        [SharedRows, SharedRows, KroneckerRows],
    ),
    "padding": (
        lambda: images(
            nn.Conv2d(1, 2, (3, 1), dilation=2, padding="same"),
            nn.Tanh(),
            nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        36,
        [SharedRows, SharedRows, KroneckerRows],
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 6)),
            nn.Conv1d(2, 3, 3, padding=1, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        12,
        [SharedRows, KroneckerRows],
    ),
    "groups": (
        lambda: images(
            nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.LazyLinear(3)
        ),
        36,
        [SharedRows, SharedRows, SharedRows, KroneckerRows],
    ),
    "norms": (
        lambda: images(
            nn.Conv2d(1, 2, 3, bias=False),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.LayerNorm(32),
            nn.Linear(32, 3),
        ),
        36,
        [SharedRows, KroneckerRows] + [DenseRows] * 4,
    ),
    "tokens": (
        lambda: nn.Sequential(
            nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 2), nn.Flatten(), nn.LazyLinear(3)
        ),
        (7, 5),
        [TokenRows, SharedRows, KroneckerRows],
    ),
    "tied": (Tied, (7, 5), [DenseRows] * 2),
    "recurrent": (Recurrent, 5, [SharedRows, KroneckerRows]),
    "time first": (TimeFirst, 6, [SharedRows, KroneckerRows]),
    "scaled": (Scaled, 6, [KroneckerRows] + [DenseRows] * 3),
    "attention": (Attention, 12, [SharedRows] * 4 + [KroneckerRows]),
}


def problem(name, device="cpu", dtype=torch.float64, seed=0):
    make, shape, kinds = CASES[name]
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    module = make()
    if isinstance(shape, tuple):
        X = rng.integers(0, shape[0], (N, shape[1]))
        example = torch.as_tensor(X)
    else:
        X = rng.standard_normal((N, shape))
        example = torch.as_tensor(X, dtype=torch.float32)
    module(example)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
    double = dtype if device != "mps" else torch.float32
    module = module.to(device=device, dtype=double).eval()
    return module, X, rng.integers(0, 3, N), kinds


def make_objective(module, X, y, weight=None, **params):
    model = TorchModel(module, **params).fit(X, y)
    return objective(model, X, y, np.ones(len(X)) if weight is None else weight)


def tensors(module, X, y):
    parameter = next(module.parameters())
    kind = torch.long if X.dtype.kind == "i" else parameter.dtype
    x = torch.as_tensor(X).to(device=parameter.device, dtype=kind)
    return x, torch.as_tensor(y).to(parameter.device)


def autograd_rows(module, X, y):
    """Gradients of the losses by a loop, in the module's own layout."""
    x, y = tensors(module, X, y)
    rows = []
    for sample, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(module(sample[None]), label[None])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]).cpu().numpy())
    return np.stack(rows)


def in_own_layout(result, rows):
    return result.to_parameters(rows.toarray())


@pytest.mark.parametrize("name", CASES)
def test_gradient_rows_are_those_of_a_loop(name, device, global_random_seed):
    module, X, y, kinds = problem(name, device, seed=global_random_seed)
    result = make_objective(module, X, y)
    rows = result.training_gradient_rows()
    assert [type(block) for block in rows.blocks] == kinds
    tolerance = 1e-5 if device == "mps" else 1e-12
    assert_allclose(in_own_layout(result, rows), autograd_rows(module, X, y), atol=tolerance)
    assert result.n_params == rows.n_columns == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "norms", "tokens", "tied"])
def test_float32_rows_are_close_to_float64(name, device):
    module, X, y, _ = problem(name, device)
    expected = in_own_layout(result := make_objective(module, X, y), result.factor_rows("ggn"))
    single = make_objective(copy.deepcopy(module).float(), X, y)
    rows = single.factor_rows("ggn")
    assert_close(in_own_layout(single, rows), expected, 1e-4)
    # Gradients are float32, their products float64.
    assert rows.inner(rows).dtype == np.float64


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "tokens", "recurrent"])
def test_products_of_rows_are_those_of_the_matrix(name, rng, global_random_seed):
    module, X, y, _ = problem(name, seed=global_random_seed)
    result = make_objective(module, X, y)
    rows, factor_rows = result.training_gradient_rows(), result.factor_rows("ggn")
    left, right = rows.toarray(), factor_rows.toarray()
    vectors = rng.standard_normal((3, rows.n_columns))
    weight = rng.uniform(0.5, 2, N)
    scale = rng.uniform(0.5, 2, rows.n_columns)
    close = {"atol": 1e-12 * np.abs(left).max() * N}
    assert_allclose(rows.inner(factor_rows), left @ right.T, **close)
    assert_allclose(factor_rows @ vectors.T, right @ vectors.T, atol=1e-12)
    assert_allclose(factor_rows.dotted_by(vectors), vectors @ right.T, atol=1e-12)
    assert_allclose(weight[None] @ rows, weight[None] @ left, atol=1e-12)
    assert_allclose(rows.weighted(weight).toarray(), left * weight[:, None], atol=1e-12)
    assert_allclose(rows.rescaled(scale).toarray(), left * scale, atol=1e-12)
    assert_allclose(rows.squared_norms(), (left**2).sum(axis=1), atol=1e-12)
    assert_allclose(rows[2:5].toarray(), left[2:5], atol=1e-12)
    assert_allclose(rows.columns(np.array([1, 20])), left[:, [1, 20]], atol=1e-12)
    assert_allclose(factor_rows.picked(np.array([7, 2])).toarray(), right[[7, 2]], atol=1e-12)


@pytest.fixture(params=[True, False], ids=["tensors", "arrays"])
def as_tensors(request, monkeypatch):
    """Whether rows are written out as tensors on the CPU too, as on any other device."""
    if request.param:
        monkeypatch.setattr(ModuleRows, "device", property(lambda rows: rows.network.device))
    return request.param


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_rows_are_sketched_where_the_module_is(
    name, known, as_tensors, device, monkeypatch, rng, global_random_seed
):
    module, X, y, _ = problem(name, device, seed=global_random_seed)
    factor_rows = make_objective(module, X, y).factor_rows("ggn")
    scale, weight = rng.uniform(0.5, 2, factor_rows.n_columns), rng.uniform(0.5, 2, 5)
    written = factor_rows.toarray()
    s = factor_rows.rows_per_sample
    index = np.array([3, 0, 7, 8, 11])
    wanted = written.reshape(N, s, -1)[index] * weight[:, None, None] * scale
    if not known:
        factor_rows = ModuleRows(
            factor_rows.network, factor_rows.features, factor_rows.vectors, factor_rows.weight
        )
        # Nothing but sketched rows comes back.
        monkeypatch.setattr(type(factor_rows.network), "rows", None)
    rows = factor_rows[index].weighted(weight).rescaled(scale)
    tolerance = 1e-4 if device == "mps" else 1e-10
    # On the CPU a Gaussian sketch is multiplied with the factors.
    for kind in ("sjlt", "srdct") if not as_tensors else ("sjlt", "srdct", "gaussian"):
        sketch = SKETCHES[kind].draw(factor_rows, 6, global_random_seed)
        expected = wanted.reshape(len(index) * s, -1) @ sketch.toarray().T
        for batch_memory in (1024, 1e-2):
            with config_context(working_memory=batch_memory):
                projected = rows @ sketch
            assert projected.rows_per_sample == s
            assert_close(projected.array, expected, tolerance)
    kinds = {type(piece) for piece in rows.pieces()}
    assert kinds == {torch.Tensor if rows.device is not None else np.ndarray}
    assert all(p.device.type == device for p in rows.pieces() if isinstance(p, torch.Tensor))


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "norms", "tokens"])
def test_sketched_influence_is_that_of_the_sketched_rows(name, as_tensors, device):
    module, X, y, _ = problem(name, device)
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    settings = {"curvature": "ggn", "damping": 0.1, "sketch_size": 8, "random_state": 0}
    with pytest.warns(match="has not converged"):
        influence = SketchedInfluence(model, sketch="sjlt", **settings).fit(X, y)
    P = influence.sketch_.toarray()
    factor_rows = influence.linearisation_.objective.factor_rows("ggn").toarray() @ P.T
    rows = influence.linearisation_.objective.training_gradient_rows().toarray() @ P.T
    expected = -rows @ np.linalg.solve(factor_rows.T @ factor_rows + 0.1 * np.eye(8), rows.T)
    tolerance = 1e-4 if device == "mps" else 1e-6
    assert_close(influence.influence(X, y), expected, tolerance)


@pytest.mark.parametrize("working_memory", [1024, 5e-3])
@pytest.mark.parametrize("name", CASES)
def test_landmarks_of_the_whole_range_are_exact(name, working_memory, device):
    module, X, y, _ = problem(name, device)
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    with config_context(working_memory=working_memory), pytest.warns(match="has not converged"):
        exact = ExactInfluence(model, curvature="ggn", damping=0.01).fit(X, y)
        sketched = SketchedInfluence(
            model, curvature="ggn", damping=0.01, eps=1e-4, random_state=0
        ).fit(X, y)
        expected = exact.influence(X, y)
        found = sketched.influence(X, y)
    assert isinstance(sketched.sketch_, LandmarkSketch | IdentitySketch)
    assert sketched.sketch_size_ <= min(2 * N, sketched.n_params_)
    tolerance = 1e-3 if device == "mps" else 1e-5
    assert_close(found, expected, tolerance)


def test_the_same_lines_serve_a_network():
    module, X, y, _ = problem("perceptron")
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    for cls in (ExactInfluence, SketchedInfluence):
        with pytest.warns(match="has not converged"), pytest.warns(match="Gauss-Newton matrix"):
            default = cls(model, damping=1e-3, random_state=0).fit(X, y)
        assert default.curvature_kind_ == "ggn"
        with pytest.warns(match="has not converged"):
            named = cls(model, curvature="ggn", damping=1e-3, random_state=0).fit(X, y)
        assert_allclose(default.influence(X, y), named.influence(X, y))


def test_a_definite_hessian_is_kept():
    module, X, y, _ = problem("perceptron")
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    with pytest.warns(match="smallest eigenvalue") as record, pytest.warns(match="converged"):
        ExactInfluence(model, damping=1e-3).fit(X, y)
    (message,) = [str(w.message) for w in record if "smallest eigenvalue" in str(w.message)]
    bound = float(message.split("damping above ")[1].split()[0])
    with pytest.warns(match="has not converged") as record:
        influence = ExactInfluence(model, damping=1.1 * bound).fit(X, y)
    assert len(record) == 1 and influence.curvature_kind_ == "hessian"
    matrix = influence.linearisation_.objective.hessian("hessian")[1][0]
    assert np.linalg.eigvalsh(matrix)[0] == pytest.approx(-bound, rel=0.02)


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "tokens"])
def test_hessian_is_that_of_torch_func(name, rng, global_random_seed):
    module, X, y, _ = problem(name, seed=global_random_seed)
    weight = rng.uniform(0.5, 2, N)
    result = make_objective(module, X, y, weight)
    x, labels = tensors(module, X, y)
    shapes = {k: v.shape for k, v in module.named_parameters()}
    w = torch.as_tensor(weight / weight.sum())

    def mean_loss(theta):
        parts = theta.split([s.numel() for s in shapes.values()])
        named = {k: p.reshape(s) for (k, s), p in zip(shapes.items(), parts, strict=True)}
        outputs = functional_call(module, named, (x,))
        return (w * nn.functional.cross_entropy(outputs, labels, reduction="none")).sum()

    theta = torch.cat([p.detach().flatten() for p in module.parameters()])
    expected = torch.func.jacrev(torch.func.jacrev(mean_loss))(theta).numpy()
    order = result.order
    own = result.hessian("hessian")[1][0][np.ix_(order, order)]
    assert_close(own, expected, 1e-10)


@pytest.mark.parametrize("name", ["norms", "attention", "scaled", "tied"])
def test_hessian_is_the_difference_of_gradients(name, rng, global_random_seed):
    # torch.func.hessian of torch 2.13 is wrong for LayerNorm.
    module, X, y, _ = problem(name, seed=global_random_seed)
    result = make_objective(module, X, y)
    vector = rng.standard_normal((1, len(result.theta)))
    direction = torch.as_tensor(result.to_parameters(vector)[0])
    named = list(module.parameters())
    step, gradients = 1e-5, []
    for sign in (1, -2):
        parts = direction.split([p.numel() for p in named])
        with torch.no_grad():
            for p, part in zip(named, parts, strict=True):
                p += sign * step * part.reshape(p.shape)
        gradients.append(autograd_rows(module, X, y).mean(axis=0))
    product = result.to_parameters(result.hessian_product(vector))[0]
    expected = (gradients[0] - gradients[1]) / (2 * step)
    assert_close(product, expected, 1e-7)


def test_results_do_not_depend_on_batches(device):
    module, X, y, _ = problem("convolutions", device)

    def scores(n_together=256, **settings):
        model = TorchModel(module, batch_size=n_together)
        influence = ExactInfluence(model, curvature="ggn", damping=0.1, **settings)
        return influence.fit(X, y).influence(X[:4], y[:4])

    with pytest.warns(match="has not converged"):
        expected = scores()
    with config_context(working_memory=5e-3), pytest.warns(match="has not converged"):
        assert_allclose(scores(5, batch_size=2), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shared", ["expand", "reduce"])
@pytest.mark.parametrize("name", ["convolutions", "norms", "tokens", "recurrent"])
# Products of a module in single precision have that precision too.
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-8)])
def test_kfac_of_all_kinds_of_layers(name, shared, dtype, tolerance, device):
    if device == "mps" and dtype == torch.float64:
        pytest.skip("this device has no double precision")
    module, X, y, _ = problem(name, device, dtype=dtype)
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    with pytest.warns(match="has not converged"):
        influence = KFACInfluence(model, shared=shared, damping=0.01).fit(X, y)
    scores = influence.influence(X, y)
    assert (np.diag(scores) < 0).all()
    assert_allclose(scores, scores.T, atol=1e-5 * np.abs(scores).max())
    assert [layer.name for layer in influence.layers_] == influence.linearisation_.objective.layers
    # Corrected eigenvalues have the trace of the exact curvature.
    values = sum(basis.values.sum() for basis in influence.linearisation_.curvature.bases)
    factor_rows = influence.linearisation_.objective.factor_rows("ggn")
    assert_allclose(values, factor_rows.squared_norms().sum(), rtol=1e-5)
    with pytest.warns(match="has not converged"):
        sketched = KFACInfluence(model, shared=shared, damping=0.01, sketch_size=(3, 2)).fit(X, y)
    rows = sketched.linearisation_.training_rows.toarray()
    own = sketched.influence(X, y)
    assert_close(own, -rows @ dense_inverse(sketched) @ rows.T, tolerance)


def test_memory_is_bounded_by_the_working_memory():
    module, X, y, _ = problem("convolutions")
    result = make_objective(module, np.tile(X, (50, 1)), np.tile(y, 50))
    with config_context(working_memory=0.05):
        rows = result.factor_rows("ggn")
        sizes = [batch.stop - batch.start for batch in rows.batches()]
    assert len(sizes) > 10
    assert max(sizes) * rows.sample_bytes <= 0.05 * 2**20


def test_threads_do_not_hear_each_other():
    module, X, y, _ = problem("convolutions")
    X, y = np.tile(X, (6, 1)), np.tile(y, 6)
    model = FrozenEstimator(TorchModel(module).fit(X, y))
    scores = []
    for n_jobs in (1, 4):
        with config_context(working_memory=5e-2), pytest.warns(match="has not converged"):
            influence = ExactInfluence(model, curvature="ggn", damping=0.1, n_jobs=n_jobs)
            scores.append(influence.set_params(batch_size=7).fit(X, y).influence(X, y))
    assert_allclose(scores[1], scores[0], atol=1e-10 * np.abs(scores[0]).max())


@pytest.mark.parametrize("working_memory", [1024, 5e-3])
def test_a_fitted_influence_can_be_pickled(working_memory):
    module, X, y, _ = problem("norms")
    with config_context(working_memory=working_memory):
        with pytest.warns(match="has not converged"):
            influence = KFACInfluence(TorchModel(module), damping=0.1).fit(X, y)
        again = pickle.loads(pickle.dumps(influence))
        assert_allclose(again.influence(X, y), influence.influence(X, y))


def test_moments_of_several_batches_are_those_of_one():
    module, X, y, _ = problem("norms")
    rows = make_objective(module, X, y).training_gradient_rows()
    with config_context(working_memory=5e-3):
        assert len(rows.batches()) > 1
        found = moments(rows, np.full(N, 1 / N))
    for moment, block in zip(found, rows.blocks, strict=True):
        if not moment.is_layer:
            array = block.toarray()
            assert_close(moment.matrix, array.T @ array, 1e-12)


def test_refits_on_subsets_train_the_module():
    module, X, y, _ = problem("perceptron", dtype=torch.float32)
    X, y = np.tile(X, (2, 1)), np.tile(y, 2)

    def train(module, X, y):
        x, labels = tensors(module, X, y)
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(5):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x), labels).backward()
            optimiser.step()

    model = TorchModel(module, train=train).fit(X, y)
    influence = KFACInfluence(model, damping=0.1)
    with pytest.warns(match="has not converged"):
        score = influence.fit(X, y).score(X[:5], y[:5])
    assert -1 <= score <= 1


def test_what_train_returns_is_the_model():
    module, X, y, _ = problem("perceptron")
    other = problem("perceptron", seed=1)[0]
    returned = TorchModel(module, train=lambda module, X, y: copy.deepcopy(other)).fit(X, y)
    in_place = TorchModel(
        module, train=lambda module, X, y: module.load_state_dict(other.state_dict()) and None
    ).fit(X, y)
    expected = other(torch.as_tensor(X)).detach().numpy()
    for model in (returned, in_place):
        assert model.n_features_in_ == X.shape[1] != len(X)
        assert_allclose(model.decision_function(X), expected, atol=1e-12)
        assert_allclose(in_own_layout(*gradients_of(model, X, y)), autograd_rows(other, X, y))


def gradients_of(model, X, y):
    result = objective(model, X, y, np.ones(len(X)))
    return result, result.training_gradient_rows()


def test_users_module_is_left_alone(device):
    module, X, y, _ = problem("dropout", device, dtype=torch.float32)
    module.train()
    seen = []
    module[0].register_forward_hook(lambda *_: seen.append(1))
    module[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    influence = ExactInfluence(TorchModel(module), damping=0.1, curvature="ggn")
    with pytest.warns(match="has not converged"):
        influence.fit(X, y).influence(X, y)
    assert module.training
    assert all(layer.training for layer in module)
    # The user's hook is called as before, and no other is left.
    seen.clear()
    module(torch.zeros(2, X.shape[1], device=device))
    assert seen == [1]
    assert not module[0].weight.requires_grad
    assert module[3].weight.requires_grad
    assert all(p.grad is None and p.dtype == torch.float32 for p in module.parameters())
    assert next(module.parameters()).device.type == device
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_parameters_are_chosen_by_name():
    module, X, y, _ = problem("norms")
    result = make_objective(module, X, y, parameters=["6.*", "5.bias"])
    assert result.layers == ["6", "5.bias"]
    assert result.n_params == 3 * 32 + 3 + 32
    everything = make_objective(module, X, y)
    rows = in_own_layout(everything, everything.training_gradient_rows())
    tail = in_own_layout(result, result.training_gradient_rows())
    assert_allclose(tail, rows[:, -tail.shape[1] :], atol=1e-12)


def test_l2_is_the_weight_decay_of_the_mean_objective():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()

    def train(module, X, y):
        x, labels = tensors(module, X, y)
        optimiser = torch.optim.LBFGS(
            module.parameters(),
            max_iter=3000,
            tolerance_grad=1e-12,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def closure():
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(module(x), labels)
            loss = loss + 0.01 / 2 * sum((p**2).sum() for p in module.parameters())
            loss.backward()
            return loss

        optimiser.step(closure)

    model = TorchModel(module, l2=0.01, train=train).fit(X, y)
    result = objective(model, X, y, np.ones(30))
    assert result.stationarity < 1e-5
    assert_allclose(result.l2_penalty, 0.01)
    # The training ran on a copy.
    assert not torch.equal(module[0].weight, model.module_[0].weight)
    influence = ExactInfluence(FrozenEstimator(model), damping=0.0).fit(X, y)
    predicted = influence.leave_one_out_effect(X, y)
    before = result.losses(X, result.targets)
    for i in (1, 3, 5):
        kept = np.arange(30) != i
        # A refit from the minimum stays near it.
        refitted = clone(model).set_params(module=model.module_).fit(X[kept], y[kept])
        moved = objective(refitted, X[kept], y[kept], np.ones(29))
        change = moved.losses(X, result.targets) - before
        assert_close(predicted[:, i], change, 0.1)


def test_losses_of_every_kind():
    module, X, y, _ = problem("perceptron")
    built_in = make_objective(module, X, y)

    def own(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    by_callable = make_objective(module, X, y, loss=own)
    for curvature in ("hessian", "ggn", "empirical_fisher"):
        assert_allclose(
            by_callable.hessian(curvature)[1], built_in.hessian(curvature)[1], atol=1e-10
        )
    # Of several models at once, as refits without some rows are.
    z = np.stack([built_in.training_outputs, 2 * built_in.training_outputs])
    for name in ("value", "residual", "hessian"):
        found = getattr(by_callable.loss, name)(z, by_callable.targets)
        assert_allclose(found, getattr(built_in.loss, name)(z, built_in.targets), atol=1e-12)
    targets = np.random.default_rng(0).standard_normal((N, 3))
    mean = make_objective(module, X, targets, loss="mse")
    x, t = tensors(module, X, targets)
    expected = nn.functional.mse_loss(module(x), t, reduction="none").mean(1)
    assert_allclose(mean.losses(X, mean.targets), expected.detach())


def test_predictions_and_tags():
    module, X, y, _ = problem("perceptron")
    model = TorchModel(module).fit(X, y)
    assert is_classifier(model) and not is_regressor(model)
    assert is_regressor(TorchModel(module, loss="mse"))
    expected = module(torch.as_tensor(X)).argmax(1).numpy()
    assert_allclose(model.predict(X), expected)
    assert model.score(X, expected) == 1.0
    values = np.asarray(model.decision_function(X))
    assert TorchModel(module, loss="mse").fit(X, values).score(X, values) == 1.0
    single = TorchModel(nn.Linear(5, 1).double(), loss="binary_cross_entropy").fit(X, y > 0)
    assert set(single.predict(X)) <= {0, 1}


# What is wrong, and what the message says.
BAD = {
    "train mode": ("norms", lambda m, y: (m.train(), y), {}, r"train mode and has BatchNorm \(2"),
    "strings": ("linear", lambda m, y: (m, y.astype(str)), {}, "expects integer labels from 0"),
    "floats": ("linear", lambda m, y: (m, y + 0.5), {}, "expects integer labels from 0"),
    "range": ("linear", lambda m, y: (m, y + 1), {}, "expects integer labels from 0 to 2"),
    "no match": ("linear", lambda m, y: (m, y), {"parameters": "x*"}, "Expected a pattern"),
    "binary": ("linear", lambda m, y: (m, y), {"loss": "binary_cross_entropy"}, "1 output"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    name, change, params, message = BAD[case]
    module, X, y, _ = problem(name)
    module, y = change(module, y)
    with pytest.raises(ValueError, match=message):
        TorchModel(module, **params).fit(X, y)


def test_parameters_must_be_finite():
    module, X, y, _ = problem("linear")
    module.bias.data[0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values: bias"):
        TorchModel(module).fit(X, y)


def test_a_loss_must_not_reduce():
    module, X, y, _ = problem("linear")
    result = make_objective(module, X, y, loss=lambda *pair: nn.functional.cross_entropy(*pair))
    with pytest.raises(ValueError, match="one value for each sample.*reduction='none'"):
        result.losses(X, result.targets)


def test_outputs_must_not_depend_on_the_batch():
    norm = nn.BatchNorm1d(5, track_running_stats=False).eval()
    module = nn.Sequential(norm, nn.Linear(5, 3)).double()
    X, y = np.random.default_rng(0).standard_normal((N, 5)), np.arange(N) % 3
    model = TorchModel(module).fit(X, y)
    with pytest.raises(ValueError, match="depend on the others in its batch"):
        objective(model, X, y, np.ones(N))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_layers_that_torch_func_cannot_follow_are_looped_over():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(2, 3, batch_first=True)
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            lengths = torch.full((len(x),), 3)
            steps = nn.utils.rnn.pack_padded_sequence(x.reshape(-1, 3, 2), lengths, True)
            return self.head(self.lstm(steps)[1][0][0])

    torch.manual_seed(0)
    module = Packed().double()
    X, y = np.random.default_rng(0).standard_normal((N, 6)), np.arange(N) % 3
    model = TorchModel(module).fit(X, y)
    with pytest.warns(UserWarning, match="one sample at a time.*parameters="):
        result = objective(model, X, y, np.ones(N))
    rows = in_own_layout(result, result.training_gradient_rows())
    assert_allclose(rows, autograd_rows(module, X, y), atol=1e-12)


def test_parameters_that_are_looped_over_leave_the_others_as_they_are():
    class Hidden(nn.Module):
        """A parameter that is used by another name too, which torch.func does not see."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 3))
            self.shift = nn.Parameter(torch.linspace(-1.0, 1.0, 3))
            self.seen_by_none = [self.shift]

        def forward(self, x):
            return torch.tanh(x * self.scale + self.seen_by_none[0])

    module = Hidden().double()
    X, y = np.random.default_rng(0).standard_normal((N, 3)), np.arange(N) % 3
    model = TorchModel(module).fit(X, y)
    with pytest.warns(UserWarning, match="cannot follow shift: .*one sample at a time"):
        result = objective(model, X, y, np.ones(N))
    rows = in_own_layout(result, result.training_gradient_rows())
    assert_allclose(rows, autograd_rows(module, X, y), atol=1e-12)


def test_a_bare_module_is_told_to_be_wrapped():
    with pytest.raises(TypeError, match="TorchModel"):
        objective(nn.Linear(2, 2), np.ones((3, 2)), np.arange(3), np.ones(3))


def test_numbers_beside_tokens_stay_numbers():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 7, N), rng.standard_normal((N, 4))])
    torch.manual_seed(0)
    module, y = Mixed().double(), rng.integers(0, 3, N)
    result = make_objective(module, X, y)
    rows = result.training_gradient_rows()
    assert [type(block) for block in rows.blocks] == [TokenRows, KroneckerRows]
    assert_allclose(in_own_layout(result, rows), autograd_rows(module, X, y), atol=1e-12)


def test_images_keep_their_shape():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, N)
    influence = ExactInfluence(TorchModel(module), curvature="ggn", damping=0.1)
    with pytest.warns(match="has not converged"):
        found = influence.fit(X, y).influence(X, y)
    flat = nn.Sequential(nn.Unflatten(1, (1, 6, 6)), *module)
    with pytest.warns(match="has not converged"):
        expected = clone(influence).set_params(estimator=TorchModel(flat)).fit(X.reshape(N, 36), y)
    assert_close(found, expected.influence(X.reshape(N, 36), y), 1e-5)


def test_linear_models_never_import_torch():
    code = (
        "import sys, numpy as np\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.neural_network import MLPRegressor\n"
        "from skinfluence import ExactInfluence\n"
        "X, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])\n"
        "ExactInfluence(LogisticRegression()).fit(X, y).influence(X, y)\n"
        "assert 'torch' not in sys.modules and 'skorch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_one_import_error_names_pip():
    code = (
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "import skinfluence\n"
        "try:\n"
        "    import skinfluence.models.torch\n"
        "except ImportError as error:\n"
        "    assert \"pip install 'skinfluence[torch]'\" in str(error), error\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
