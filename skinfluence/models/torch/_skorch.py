"""Nets of skorch as they are: the net tells its criterion, weight decay and classes."""

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn

from skinfluence._utils.warnings import warn_user
from skinfluence.models.heads import head
from skinfluence.models.registry import objective
from skinfluence.models.torch._criteria import read_criterion
from skinfluence.models.torch._head import find_layer
from skinfluence.models.torch._module import plain_name, unwrapped
from skinfluence.models.torch._network import Network
from skinfluence.models.torch._objective import TorchObjective
from skinfluence.models.weighting import Weighting


@objective.register(NeuralNet)
def _(net, X, y, sample_weight):
    return _objective(net, X, y, sample_weight)


@head.register(NeuralNet)
def _(net, X, y, sample_weight, name="auto"):
    network = Network(net.module_, X, transform=_transform(net))
    layer = find_layer(network, X, name, type(net.module_).__name__)
    return layer.head(_objective(net, X, y, sample_weight, layer.parameters), X)


def _objective(net, X, y, sample_weight, parameters=None):
    """Objective of the parameters with these names, by default of all parameters."""
    _warn_of_rows_held_out(net)
    network = Network(net.module_, X, parameters, transform=_transform(net))
    criterion = read_criterion(unwrapped(net.criterion_), np.asarray(y), network.n_outputs(X))
    return TorchObjective(
        network=network,
        l2=_weight_decay(net, network),
        loss=criterion.loss,
        features=X,
        targets=criterion.loss.encode(y, criterion.classes),
        weighting=Weighting(criterion.weigh(sample_weight), kind="mean"),
        classes=criterion.classes,
    )


def _transform(net):
    """Function that skorch applies to the outputs before the criterion."""
    if isinstance(net, NeuralNetClassifier) and isinstance(unwrapped(net.criterion_), nn.NLLLoss):
        # The outputs are probabilities; their logarithms are scores of a softmax.
        return _logarithm
    return None


def _logarithm(probabilities):
    return torch.log(probabilities + torch.finfo(probabilities.dtype).eps)


def _weight_decay(net, network):
    """Weight decay of every parameter, in the module's own order."""
    optimiser = net.optimizer_
    decay = {}
    for group in optimiser.param_groups:
        decay |= dict.fromkeys(map(id, group["params"]), group.get("weight_decay", 0.0))
    named = {plain_name(name): value for name, value in net.module_.named_parameters()}
    sizes = [value.numel() for value in network.selected.values()]
    values = [decay.get(id(named[name]), 0.0) for name in network.selected]
    if isinstance(optimiser, torch.optim.AdamW) and any(values):
        warn_user(
            "AdamW decouples its weight decay from the loss, so that it minimises no objective. "
            "Influence treats the decay as an L2 penalty, which Adam and SGD minimise.",
            UserWarning,
        )
    return np.repeat(np.array(values, dtype=np.float64), sizes)


def _warn_of_rows_held_out(net):
    if net.train_split is not None:
        warn_user(
            f"{type(net).__name__} held out rows for validation (train_split), which never "
            "entered its objective. Influence treats them as training rows; use "
            "train_split=None.",
            UserWarning,
        )
