"""Nets of skorch as they are."""

import numpy as np
import pytest
import skorch
import torch
from numpy.testing import assert_allclose
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skinfluence import AveragedInfluence, ExactInfluence
from skinfluence.models import objective
from skinfluence.models.torch import TorchModel

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

N, D = 40, 4


def make_net(criterion=nn.CrossEntropyLoss, n_outputs=3, kind=None, last=(), **params):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, n_outputs), *last)
    settings = {"optimizer": torch.optim.Adam, "max_epochs": 60, "lr": 0.05, "batch_size": -1}
    settings |= {"train_split": None, "verbose": 0} | params
    kind = skorch.NeuralNetClassifier if kind is None else kind
    return kind(module, criterion=criterion, **settings)


def problem(dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)).astype(dtype), rng.integers(0, 3, N)


def fit_objective(net, X, y):
    net.fit(X, y)
    return objective(net, X, y, np.ones(len(X)))


def test_probabilities_and_logits_give_the_same_objective():
    X, y = problem()
    logits = fit_objective(make_net(max_epochs=3), X, y)
    net = make_net(nn.NLLLoss, last=[nn.Softmax(dim=1)], max_epochs=3).initialize()
    net.module_[0].load_state_dict(logits.network.module[0].state_dict())
    net.module_[2].load_state_dict(logits.network.module[2].state_dict())
    net.classes_inferred_ = np.arange(3)
    probabilities = objective(net, X, y, np.ones(N))
    assert_allclose(
        probabilities.losses(X, probabilities.targets), logits.losses(X, logits.targets), atol=1e-6
    )
    for curvature in ("hessian", "ggn", "empirical_fisher"):
        got, expected = probabilities.hessian(curvature)[1], logits.hessian(curvature)[1]
        assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_a_probability_of_zero_has_the_loss_of_the_smallest_one():
    X, y = problem()
    net = make_net(nn.NLLLoss, last=[nn.Softmax(dim=1)], max_epochs=1).fit(X, y)
    with torch.no_grad():
        net.module_[2].bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    certain = objective(net, X, y, np.ones(N))
    expected = np.where(y == 0, 0.0, -np.log(np.finfo(np.float32).eps))
    assert_allclose(certain.losses(X, certain.targets), expected, atol=1e-5)


def test_weight_decay_is_read_from_the_optimiser():
    X, y = problem()
    net = make_net(
        optimizer__weight_decay=0.02,
        optimizer__param_groups=[("2.weight", {"weight_decay": 0.1})],
        max_epochs=300,
    )
    result = fit_objective(net, X, y)
    own = result.to_parameters(result.l2_penalty[None])[0]
    assert_allclose(own[: D * 3 + 3], 0.02)
    assert_allclose(own[D * 3 + 3 : D * 3 + 3 + 9], 0.1)
    assert result.stationarity < 1e-2


def test_influence_of_a_net_in_a_pipeline():
    X, y = problem()
    net = make_net(optimizer__weight_decay=0.05, max_epochs=200)
    influence = ExactInfluence(make_pipeline(StandardScaler(), net), curvature="ggn", damping=0.01)
    scores = influence.fit(X, y).influence(X[:5], y[:5])
    assert scores.shape == (5, N)
    assert (np.diag(scores) < 0).all()
    frozen = ExactInfluence(FrozenEstimator(influence.estimator_), curvature="ggn", damping=0.01)
    assert_allclose(frozen.fit(X, y).influence(X[:5], y[:5]), scores, rtol=1e-6)


def test_nets_agree_with_their_modules():
    X, y = problem()
    net = make_net()
    result = fit_objective(net, X, y)
    model = TorchModel(net.module_).fit(X, y)
    same = objective(model, X, y, np.ones(N))
    assert_allclose(result.hessian("ggn")[1], same.hessian("ggn")[1], atol=1e-8)


def test_class_weights_of_the_criterion():
    X, y = problem()
    weight = torch.tensor([1.0, 2.0, 0.5])
    result = fit_objective(make_net(criterion__weight=weight, max_epochs=300), X, y)
    assert_allclose(result.weight, weight.numpy()[y])
    assert result.stationarity < 0.05


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_regressors_and_other_criteria(smoothing):
    X, y = problem()
    if smoothing:
        net = make_net(criterion__label_smoothing=smoothing)
        target, criterion = y, nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    else:
        net = make_net(nn.MSELoss, 1, skorch.NeuralNetRegressor, max_epochs=5)
        target, criterion = X[:, :1] ** 2, nn.MSELoss(reduction="none")
    result = fit_objective(net, X, target)
    outputs = net.module_(torch.as_tensor(X))
    expected = criterion(outputs, torch.as_tensor(target)).detach().numpy().reshape(N)
    assert_allclose(result.losses(X, result.targets), expected, rtol=1e-5)


def test_binary_nets_and_plain_nets():
    X, y = problem()
    binary = make_net(nn.BCEWithLogitsLoss, 1, skorch.NeuralNetBinaryClassifier, max_epochs=5)
    result = fit_objective(binary, X, (y > 0).astype(np.float32))
    assert result.training_outputs.shape == (N, 1)
    plain = make_net(nn.SmoothL1Loss, 2, skorch.NeuralNet, max_epochs=5)
    result = fit_objective(plain, X, X[:, :2])
    expected = nn.SmoothL1Loss(reduction="none")(
        plain.module_(torch.as_tensor(X)), torch.as_tensor(X[:, :2])
    )
    assert_allclose(result.losses(X, result.targets), expected.detach().mean(1), rtol=1e-5)


def test_rows_held_out_are_named():
    X, y = problem()
    net = make_net(train_split=skorch.dataset.ValidSplit(4), max_epochs=2)
    with pytest.warns(UserWarning, match="train_split=None"):
        fit_objective(net, X, y)


def test_decoupled_decay_warns():
    X, y = problem()
    net = make_net(optimizer=torch.optim.AdamW, optimizer__weight_decay=0.1, max_epochs=2)
    with pytest.warns(UserWarning, match="AdamW decouples"):
        fit_objective(net, X, y)


def test_sums_over_batches_are_refused():
    X, y = problem()
    with pytest.raises(TypeError, match="reduction='mean'"):
        fit_objective(make_net(criterion__reduction="sum", max_epochs=1, lr=0.01), X, y)


def test_dict_inputs_are_refused():
    X, y = problem()
    with pytest.raises(TypeError, match="dict of 'a', 'b'.*one array"):
        ExactInfluence(make_net()).fit({"a": X, "b": X}, y)


class Scratch(nn.Module):
    """A class, so that a net makes another module for every training."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, 3))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore:NeuralNetClassifier has not converged")
def test_trainings_are_averaged():
    X, y = problem()
    net = skorch.NeuralNetClassifier(
        Scratch, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0, max_epochs=3
    )
    influence = AveragedInfluence(ExactInfluence(net, curvature="ggn", damping=0.1), n_fits=2)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(influence.fit(X, y).influence(X[:5], y[:5]))
    expected = np.mean([fit.influence(X[:5], y[:5]) for fit in influence.estimators_], axis=0)
    assert_allclose(found[0], found[1])
    assert_allclose(found[1], expected)


@pytest.mark.filterwarnings("ignore:NeuralNetClassifier has not converged")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_net_is_the_net():
    X, y = problem()
    found = []
    for params in ({}, {"compile": True, "compile__backend": "eager"}):
        net = make_net(optimizer__weight_decay=0.1, **params)
        influence = ExactInfluence(net, curvature="ggn", damping=0.1).fit(X, y)
        found.append(influence.influence(X[:5], y[:5]))
    assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
