"""Modules on a device: results stay the same, and what NumPy reads has come to the CPU."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skinfluence import ClassifierHeadInfluence, ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.models.torch import DatasetInputs, TorchModel
from tests.helpers import assert_close
from tests.pretended_device import Device

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings(
    "ignore:TorchModel has not converged", "ignore:torch.func cannot follow"
)

N = 16


class Mixed(nn.Module):
    """Tokens and an image, layers with factors and without."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(6, 3)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.eye = nn.Conv2d(1, 2, 3)
        self.norm = nn.LayerNorm(11)
        self.head = nn.Linear(11, 3)

    def forward(self, tokens, image):
        words = self.words(tokens)
        words = self.attention(words, words, words)[0].mean(1)
        seen = torch.tanh(self.eye(image)).flatten(1)
        return self.head(self.norm(torch.cat([words, seen], dim=1)))


def samples(n=N):
    rng = np.random.default_rng(0)
    X = {
        "tokens": rng.integers(0, 6, (n, 4)),
        "image": rng.standard_normal((n, 1, 4, 4)).astype(np.float32),
    }
    return X, rng.integers(0, 3, n)


def weighted(z, y):
    """A loss of the user's own, which reads float64 tensors on the CPU."""
    weight = z.new_tensor([1.0, 2.0, 1.0])
    return F.cross_entropy(z, y.long().flatten(), weight=weight, reduction="none")


MODELS = {
    "arrays": lambda module, X, y: TorchModel(module, inputs=X),
    "own loss": lambda module, X, y: TorchModel(module, inputs=X, loss=weighted),
    "criterion": lambda module, X, y: TorchModel(
        module,
        inputs=X,
        loss=nn.CrossEntropyLoss(weight=torch.ones(3).to(next(module.parameters()).device)),
    ),
    "measurement": lambda module, X, y: TorchModel(module, inputs=X, measurement=1),
}
INFLUENCES = {
    "ggn": lambda model: ExactInfluence(model, curvature="ggn", damping=0.1),
    "hessian": lambda model: ExactInfluence(model, damping=10.0),
    "landmarks": lambda model: SketchedInfluence(
        model, sketch_size=20, curvature="ggn", damping=0.1, random_state=0
    ),
    "sjlt": lambda model: SketchedInfluence(
        model, sketch_size=20, sketch="sjlt", curvature="ggn", damping=0.1, random_state=0
    ),
    "kfac": lambda model: KFACInfluence(model, damping=0.1),
    "head": lambda model: ClassifierHeadInfluence(model, damping=0.1),
}


def results(influence, X, y):
    queries = {name: values[:3] for name, values in X.items()}
    return [
        influence.influence(queries, y[:3]),
        influence.influence(queries),
        influence.leave_one_out_effect(queries, y[:3]),
        influence.self_influence(),
    ]


def test_the_pretended_device_refuses_numpy():
    module = nn.Linear(2, 1)
    with Device():
        outputs = module(
            torch.as_tensor(np.ones((3, 2), dtype=np.float32)).to(torch.device("cpu"))
        )
        with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
            outputs.detach().numpy()
        with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
            np.asarray(outputs.detach())
        assert outputs.detach().cpu().double().numpy().shape == (3, 1)


def test_the_pretended_device_joins_nothing_with_the_host():
    module = nn.Linear(2, 1)
    with Device() as device:
        weight = module.weight.detach()
        with pytest.raises(RuntimeError, match="joins a tensor on a device and one on the host"):
            weight @ torch.as_tensor(np.ones((2, 3), dtype=np.float32))
        with pytest.raises(RuntimeError, match="joins a tensor on a device and one on the host"):
            torch.cat([weight, weight.cpu()])
        assert device.n_moved == 2


@pytest.mark.parametrize("influence", INFLUENCES)
def test_numpy_reads_what_has_come_to_the_host(influence, keep_rows_on):
    X, y = samples()
    model = MODELS["arrays"](Mixed().double(), X, y)
    expected = results(INFLUENCES[influence](model).fit(X, y), X, y)
    keep_rows_on("cpu")
    with Device():
        model = MODELS["arrays"](Mixed().double(), X, y)
        found = results(INFLUENCES[influence](model).fit(X, y), X, y)
    for on_device, on_host in zip(found, expected, strict=True):
        assert_close(on_device, on_host, 1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_numpy_reads_losses_and_questions_on_the_host(model):
    X, y = samples()
    with Device():
        results(INFLUENCES["ggn"](MODELS[model](Mixed().double(), X, y)).fit(X, y), X, y)


@pytest.mark.parametrize("influence", INFLUENCES)
def test_results_do_not_depend_on_the_device(influence, device):
    X, y = samples()
    found = []
    for place, dtype in (("cpu", torch.float64), (device, torch.float32)):
        model = MODELS["arrays"](Mixed().to(place, dtype), X, y)
        found.append(results(INFLUENCES[influence](model).fit(X, y), X, y))
    for on_cpu, on_device in zip(*found, strict=True):
        assert_close(on_device, on_cpu, 1e-3)


def test_positions_in_a_dataset_on_a_device(device):
    X, y = samples()
    data = [{name: X[name][i] for name in X} | {"labels": y[i]} for i in range(N)]
    rows = DatasetInputs(data)
    dtype = torch.float32 if device == "mps" else torch.float64
    lazy = INFLUENCES["ggn"](TorchModel(Mixed().to(device, dtype), inputs=rows))
    held = INFLUENCES["ggn"](TorchModel(Mixed().to(device, dtype), inputs=X))
    expected = held.fit(X, y).influence({name: X[name][:3] for name in X}, y[:3])
    with Device():
        found = lazy.fit(rows.X, rows.y).influence(rows.X[:3], y[:3])
    assert_close(found, expected, 1e-3 if device == "mps" else 1e-10)
