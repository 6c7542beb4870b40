"""Losses of torch, what queries ask, and modules of several inputs."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import clone
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    SketchedInfluence,
)
from skinfluence.metrics import InfluenceScorer
from skinfluence.models import objective
from skinfluence.models.torch import TorchModel
from tests.helpers import assert_close

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")

N, D = 20, 5


def numbers(n=N, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D))


def make_module(n_outputs, *last, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, n_outputs), *last).double()


def make_objective(module, X, y, **settings):
    model = TorchModel(module, **settings).fit(X, y)
    return objective(model, X, y, np.ones(len(X)))


# ---------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------


def labels(*shape, ignored=None, seed=1):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, shape)
    if ignored is not None:
        y[rng.uniform(size=shape) < 0.3] = ignored
    return y


WEIGHT = torch.tensor([1.0, 2.0, 0.5])
POSITIONS = nn.Unflatten(1, (3, 4))

# A loss, the outputs of the module and its last steps, and targets.
CRITERIA = {
    "plain": (nn.CrossEntropyLoss(), 3, (), labels(N)),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), 3, (), labels(N)),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), 3, (), labels(N)),
    "both": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), 3, (), labels(N)),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), 3, (), labels(N)),
    "probabilities": (nn.CrossEntropyLoss(), 3, (), np.full((N, 3), [0.2, 0.5, 0.3])),
    "log-probabilities": (nn.NLLLoss(weight=WEIGHT), 3, (nn.LogSoftmax(1),), labels(N)),
    "positions": (nn.CrossEntropyLoss(), 12, (POSITIONS,), labels(N, 4, ignored=-100)),
    "positions with weights": (
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1, ignore_index=2),
        12,
        (POSITIONS,),
        labels(N, 4),
    ),
    "squares": (nn.MSELoss(), 3, (), numbers()[:, :3]),
    "Huber": (nn.HuberLoss(delta=0.5), 3, (), numbers()[:, :3]),
    "Poisson": (nn.PoissonNLLLoss(), 1, (nn.Flatten(0),), labels(N).astype(float)),
    "labels": (
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 3.0, 0.5])),
        3,
        (),
        (labels(N, 3) > 1).astype(float),
    ),
    "one logit": (nn.BCEWithLogitsLoss(), 1, (nn.Flatten(0),), (labels(N) > 1).astype(float)),
}


def torch_mean(criterion, module, X, y):
    kind = torch.long if y.dtype.kind == "i" else torch.float64
    return copy.deepcopy(criterion).double()(
        module(torch.as_tensor(X)), torch.as_tensor(y).to(kind)
    )


@pytest.mark.parametrize("name", CRITERIA)
def test_a_loss_of_torch_is_what_torch_minimises(name):
    criterion, n_outputs, last, y = CRITERIA[name]
    module, X = make_module(n_outputs, *last), numbers()
    result = make_objective(module, X, y, loss=criterion)
    share = result.weight / result.total_weight
    expected = torch_mean(criterion, module, X, y)
    assert_close(share @ result.losses(X, result.targets), expected.item(), 1e-10)
    gradients = torch.autograd.grad(expected, list(module.parameters()))
    flat = torch.cat([g.flatten() for g in gradients]).numpy()
    own = share[None] @ result.training_gradient_rows()
    assert_close(result.to_parameters(own)[0], flat, 1e-10)


def test_a_binary_criterion_is_the_loss_of_its_name():
    X = numbers()
    y = (X[:, 0] > 0).astype(int)
    module = make_module(1)
    own, named = (
        ExactInfluence(TorchModel(module, loss=loss, l2=0.1)).fit(X, y)
        for loss in (nn.BCEWithLogitsLoss(), "binary_cross_entropy")
    )
    expected = named.influence(X, of="probability")
    assert_close(own.influence(X, of="probability"), expected, 1e-12)


@pytest.mark.parametrize("name", CRITERIA)
def test_derivatives_of_a_loss_are_those_of_torch(name, rng):
    criterion, n_outputs, last, y = CRITERIA[name]
    module, X = make_module(n_outputs, *last), numbers()
    result = make_objective(module, X, y, loss=criterion)
    loss, z, targets = result.loss, result.training_outputs, result.targets
    step = 1e-6 * rng.standard_normal(z.shape)
    change = loss.value(z + step, targets) - loss.value(z - step, targets)
    assert_close((loss.residual(z, targets) * step).sum(axis=1), change / 2, 1e-6)
    change = loss.residual(z + step, targets) - loss.residual(z - step, targets)
    assert_close(loss.hessian_product(z, targets)(step), change / 2, 1e-6)
    dense = result.output_curvature("ggn")
    assert_close(np.einsum("nab,nb->na", dense, step), change / 2, 1e-6)
    root = loss.hessian_factor(z, targets)
    assert_allclose(np.einsum("nsa,nsb->nab", root, root), dense, atol=1e-12)
    assert_allclose(loss.hessian_diagonal(z, targets), np.einsum("nkk->nk", dense), atol=1e-12)
    # Of several models at once, as refits without some rows are.
    both = np.stack([z, 2 * z])
    for method in ("value", "residual", "hessian"):
        found = getattr(loss, method)(both, targets)
        assert_allclose(found[1], getattr(loss, method)(2 * z, targets), atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "positions with weights", "labels"])
def test_sampled_rows_have_the_curvature_as_their_mean(name):
    criterion, n_outputs, last, y = CRITERIA[name]
    module, X = make_module(n_outputs, *last), numbers(2)
    result = make_objective(module, X, y[:2], loss=criterion)
    loss, random_state = result.loss, np.random.RandomState(0)
    known = result.training_outputs, result.targets
    many = [np.repeat(array, 20_000, axis=0) for array in known]
    draws = loss.draws(40_000, n_outputs, random_state)
    rows = loss.sampled_factor(*many, draws)[:, 0].reshape(2, 20_000, -1)
    mean = np.einsum("nsa,nsb->nab", rows, rows) / 20_000
    assert_close(mean, result.output_curvature("ggn"), 0.05)


def test_a_sum_is_refused_and_a_wrong_label_named():
    X, y = numbers(), labels(N)
    module = make_module(3)
    with pytest.raises(TypeError, match="reduction='sum'.*Use reduction='mean'"):
        TorchModel(module, loss=nn.CrossEntropyLoss(reduction="sum")).fit(X, y)
    with pytest.raises(TypeError, match="reduction='sum'"):
        TorchModel(module, loss=nn.MSELoss(reduction="sum")).fit(X, numbers()[:, :3])
    with pytest.raises(ValueError, match="integer labels from 0 to 2"):
        TorchModel(module, loss=nn.CrossEntropyLoss()).fit(X, y + 1)
    with pytest.raises(ValueError, match="one output for each class.*4 target"):
        TorchModel(make_module(3), loss=nn.CrossEntropyLoss()).fit(X, labels(N, 4))
    model = TorchModel(make_module(12, POSITIONS)).fit(X, labels(N, 4))
    influence = ExactInfluence(FrozenEstimator(model), curvature="ggn", damping=0.1)
    with pytest.raises(ValueError, match="labels from 0 to 2, or -100.*7"):
        influence.fit(X, labels(N, 4)).influence(X[:1], [[0, 1, 7, 2]])


def test_positions_are_predicted_and_scored():
    X, y = numbers(), labels(N, 4)
    model = TorchModel(make_module(12, POSITIONS)).fit(X, y)
    assert is_classifier(model)
    expected = make_module(12, POSITIONS)(torch.as_tensor(X)).argmax(1).numpy()
    assert_allclose(model.predict(X), expected)
    assert model.score(X, expected) == 1.0
    # Every position has its margin over the next class.
    influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(X, y)
    assert influence.influence(X[:2]).shape == (2, N)


def test_targets_of_three_axes_are_told_to_be_flattened():
    X, y = numbers(), labels(N, 2, 2)
    model = TorchModel(make_module(12, nn.Unflatten(1, (3, 2, 2))))
    influence = KFACInfluence(model, damping=0.1)
    with pytest.raises(ValueError, match=r"y has 3 axes.*y.reshape\(len\(y\), -1\)"):
        influence.fit(X, y)
    found = influence.fit(X, y.reshape(N, 4)).influence(X[:3], y[:3].reshape(3, 4))
    same = KFACInfluence(TorchModel(make_module(12, POSITIONS)), damping=0.1)
    expected = same.fit(X, y.reshape(N, 4)).influence(X[:3], y[:3].reshape(3, 4))
    assert_close(found, expected, 1e-10)


# ---------------------------------------------------------------------------
# A module that returns its own loss
# ---------------------------------------------------------------------------


class OwnLoss(nn.Module):
    """The mean cross-entropy of the next token, with a mask of padding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.head = nn.Linear(3, 6)

    def forward(self, tokens, mask):
        scores = self.head(torch.tanh(self.embedding(tokens[:, :-1])))
        losses = F.cross_entropy(scores.transpose(1, 2), tokens[:, 1:], reduction="none")
        return (losses * mask).sum(1) / mask.sum(1)


def sequences(n=N, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=(n, 4)) < 0.7
    mask[:, 0] = True
    return {"tokens": rng.integers(0, 6, (n, 5)), "mask": mask}


def own_loss_gradients(module, X):
    tokens, mask = torch.as_tensor(X["tokens"]), torch.as_tensor(X["mask"])
    rows = []
    for i in range(len(tokens)):
        loss = module(tokens[i : i + 1], mask[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]).numpy())
    return np.stack(rows)


def test_a_module_that_returns_its_loss_has_the_empirical_fisher():
    X, nothing = sequences(), np.zeros(N)
    torch.manual_seed(0)
    module = OwnLoss().double()
    model = TorchModel(module, loss="returned", inputs=X)
    queries = sequences(4, seed=1)
    settings = {"curvature": "empirical_fisher", "damping": 0.01}
    found = ExactInfluence(model, **settings).fit(X, nothing).influence(queries, np.zeros(4))
    gradients = own_loss_gradients(module, X)
    matrix = gradients.T @ gradients / N + 0.01 * np.eye(gradients.shape[1])
    expected = -own_loss_gradients(module, queries) @ np.linalg.solve(matrix, gradients.T)
    assert_close(found, expected, 1e-9)
    sketched = SketchedInfluence(model, sketch_size=N, **settings).fit(X, nothing)
    assert_close(sketched.influence(queries, np.zeros(4)), expected, 1e-6)
    kfac = KFACInfluence(model, fisher="empirical", damping=0.01).fit(X, nothing)
    assert kfac.influence(queries, np.zeros(4)).shape == (4, N)


@pytest.mark.parametrize(
    "influence",
    [
        ExactInfluence(None, curvature="ggn"),
        SketchedInfluence(None, curvature="ggn", damping=0.1),
        KFACInfluence(None, damping=0.1),
        KFACInfluence(None, fisher="sampled", damping=0.1),
    ],
)
def test_a_loss_without_curvature_is_refused(influence):
    X = sequences()
    own = TorchModel(OwnLoss(), loss="returned", inputs=X)
    with pytest.raises(ValueError, match="no curvature.*empirical_fisher.*fisher='empirical'"):
        clone(influence).set_params(estimator=own).fit(X, np.zeros(N))
    absolute = TorchModel(make_module(1), loss=nn.L1Loss())
    with pytest.raises(ValueError, match="no curvature in the outputs"):
        clone(influence).set_params(estimator=absolute).fit(numbers(), numbers()[:, :1])


def test_a_returned_loss_is_one_number():
    with pytest.raises(ValueError, match="loss='returned' needs.*Got 3 instead"):
        TorchModel(make_module(3), loss="returned").fit(numbers(), np.zeros(N))


def test_advice_names_what_each_estimator_has():
    def concave(outputs, targets):
        return -((outputs[:, 0] - targets) ** 2) + outputs[:, 0] ** 4

    X, y = numbers(), numbers()[:, 0]
    influence = KFACInfluence(TorchModel(make_module(1), loss=concave), damping=0.1)
    with pytest.raises(ValueError, match="Use ExactInfluence.*KFACInfluence calls fisher="):
        influence.fit(X, y)


def test_the_heads_refusal_prints_what_differs():
    module = nn.Sequential(nn.Linear(D, 3), nn.Hardtanh(-0.1, 0.1)).double()
    with pytest.raises(TypeError) as error:
        ClassifierHeadInfluence(TorchModel(module)).fit(numbers(), labels(N))
    message = str(error.value)
    assert "(20, 3)" not in message
    assert "'0'" in message and "gradients at its outputs" in message


# ---------------------------------------------------------------------------
# What queries ask
# ---------------------------------------------------------------------------


def middle(outputs):
    return outputs[:, 1] ** 2 - outputs[:, 0]


MEASUREMENTS = {
    "class": (2, lambda z: z[:, 2] - torch.logsumexp(z[:, :2], 1)),
    "pair": ((0, 2), lambda z: z[:, 0] - z[:, 2]),
    "function": (middle, middle),
}


@pytest.mark.parametrize("case", MEASUREMENTS)
def test_influence_on_a_measurement(case):
    measurement, function = MEASUREMENTS[case]
    X, y = numbers(), labels(N)
    module = make_module(3)
    model = TorchModel(module, measurement=measurement)
    influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(X, y)
    rows = []
    for sample in torch.as_tensor(X[:4]):
        gradients = torch.autograd.grad(
            function(module(sample[None])).sum(), list(module.parameters())
        )
        rows.append(torch.cat([g.flatten() for g in gradients]).numpy())
    expected = np.stack(rows) @ influence.parameter_influence().T
    assert_close(influence.influence(X[:4]), expected, 1e-9)


def test_log_odds_of_a_single_logit_are_the_logit():
    X, y = numbers(), labels(N) % 2
    found = []
    for measurement in (None, 1, 0):
        model = TorchModel(make_module(1), loss="binary_cross_entropy", measurement=measurement)
        influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(X, y)
        found.append(influence.influence(X[:3]))
    sign = np.where(make_module(1)(torch.as_tensor(X[:3])).detach().numpy() > 0, 1, -1)
    assert_close(found[1], sign * found[0], 1e-10)
    assert_close(found[2], -found[1], 1e-10)


@pytest.mark.parametrize(
    ("measurement", "message"),
    [(3, "names no class of 3"), ((0, 1, 2), "pair"), (lambda z: z, "one number for each")],
)
def test_measurements_that_are_none(measurement, message):
    model = TorchModel(make_module(3), measurement=measurement)
    influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(numbers(), labels(N))
    with pytest.raises(ValueError, match=message):
        influence.influence(numbers()[:2])


# ---------------------------------------------------------------------------
# Several inputs, outputs that are picked
# ---------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """Tokens, numbers and a mask, as keyword or positional arguments."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(6, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens, price, mask):
        assert tokens.dtype == torch.long and mask.dtype == torch.bool
        words = self.words(tokens) * mask[:, :, None]
        return {"logits": self.head(torch.cat([words.sum(1), price], dim=1)), "more": 0}


def two_inputs(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(0, 6, (n, 4)),
        "price": rng.standard_normal((n, 2)),
        "mask": torch.as_tensor(rng.uniform(size=(n, 4)) < 0.7),
    }


def logits(out):
    return out["logits"]


def as_tuple(X):
    return tuple(X.values())


@pytest.mark.parametrize("kind", [dict, as_tuple])
def test_several_inputs(kind):
    X, y = two_inputs(), labels(N)
    torch.manual_seed(0)
    module = TwoInputs().double()
    model = TorchModel(module, inputs=kind(X), outputs=logits)
    influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(kind(X), y)
    queries = two_inputs(3, seed=1)
    found = influence.influence(kind(queries), y[:3])

    # The same module on one array, that it takes apart itself.
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return logits(self.inner(x[:, :4].long(), x[:, 4:6], x[:, 6:] > 0))

    packed = model.pack(kind(X))
    assert packed.shape == (N, 10)
    assert_allclose(packed[:, 4:6], X["price"], rtol=0)
    plain = ExactInfluence(TorchModel(Packed()), curvature="ggn", damping=0.1).fit(packed, y)
    assert_close(found, plain.influence(model.pack(kind(queries)), y[:3]), 1e-10)
    outputs = model.fit(kind(X), y).decision_function(kind(X))
    assert_allclose(outputs, plain.estimator_.decision_function(packed))


def test_training_reads_the_inputs_as_they_were():
    X, y = two_inputs(), labels(N)

    def train(module, X, y):
        assert set(X) == {"tokens", "price", "mask"} and X["tokens"].dtype == torch.long
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(logits(module(**X)), torch.as_tensor(y)).backward()
            optimiser.step()

    model = TorchModel(TwoInputs(), inputs=X, outputs=logits, train=train)
    scoring = InfluenceScorer(n_subsets=5)
    influence = ExactInfluence(model, curvature="ggn", damping=0.1, scoring=scoring).fit(X, y)
    assert -1 <= influence.score(two_inputs(3, seed=1), y[:3]) <= 1


# What is wrong, and what the message says.
BAD_INPUTS = {
    "dict": (lambda: two_inputs(), None, TypeError, "dict of 'tokens', 'price', 'mask'.*inputs=X"),
    "names": (lambda: {"tokens": [[1]]}, two_inputs(2), ValueError, "inputs have the shapes"),
    "lengths": (
        lambda: two_inputs() | {"tokens": np.ones((3, 4), dtype=int)},
        two_inputs(2),
        ValueError,
        "one row for each sample in every input.*pad",
    ),
    "loader": (
        lambda: DataLoader(TensorDataset(torch.zeros(N, D))),
        None,
        TypeError,
        "X is a DataLoader.*read_dataset",
    ),
    "data set": (
        lambda: TensorDataset(torch.zeros(N, D)),
        None,
        TypeError,
        "X is a TensorDataset.*DatasetInputs",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs_are_named(case):
    make, example, error, message = BAD_INPUTS[case]
    model = TorchModel(TwoInputs(), inputs=example, outputs=logits)
    with pytest.raises(error, match=message):
        ExactInfluence(model).fit(make(), labels(N))


def test_fewer_samples_at_once_change_nothing():
    X, y = numbers(), labels(N)
    sizes = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_module(3)

        def forward(self, x):
            sizes.append(len(x))
            return self.inner(x)

    module = Counting()
    found = []
    for batch_size in (256, 3):
        sizes.clear()
        model = TorchModel(module, batch_size=batch_size)
        influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(X, y)
        sizes.clear()
        found.append(influence.influence(X, y))
        assert max(sizes) == min(batch_size, N)
    assert_close(found[1], found[0], 1e-10)
