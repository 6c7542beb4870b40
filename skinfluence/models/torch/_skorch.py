"""Nets of skorch as they are: the net tells its criterion, weight decay and classes."""

import copy
from functools import partial

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn

from skinfluence._utils.validation import encode_labels
from skinfluence._utils.warnings import warn_user
from skinfluence.models import losses
from skinfluence.models.heads import head
from skinfluence.models.registry import objective
from skinfluence.models.torch._head import find_layer
from skinfluence.models.torch._losses import CallableLoss
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
    network = Network(net.module_, X, parameters, _transform(net))
    n_outputs = network.n_outputs(X)
    loss, classes, class_weight = _loss(net, y, n_outputs)
    codes = None if class_weight is None else encode_labels(y, classes)
    return TorchObjective(
        network=network,
        l2=_weight_decay(net, network),
        loss=loss,
        features=X,
        targets=loss.encode(y, classes),
        weighting=Weighting(sample_weight, codes, class_weight, "mean"),
        classes=classes,
    )


def _transform(net):
    """Function that skorch applies to the outputs before the criterion."""
    if isinstance(net, NeuralNetClassifier) and isinstance(net.criterion_, nn.NLLLoss):
        # The outputs are probabilities; their logarithms are scores of a softmax.
        return _logarithm
    return None


def _logarithm(probabilities):
    return torch.log(probabilities + torch.finfo(probabilities.dtype).eps)


def _loss(net, y, n_outputs):
    """Loss, classes and class weights of the criterion."""
    criterion = net.criterion_
    if getattr(criterion, "reduction", "mean") != "mean":
        raise TypeError(
            f"The criterion {type(criterion).__name__}(reduction={criterion.reduction!r}) weighs "
            "the loss against the weight decay by the size of the batch. Use reduction='mean'."
        )
    plain = getattr(criterion, "label_smoothing", 0.0) == 0.0
    if isinstance(criterion, (nn.NLLLoss, nn.CrossEntropyLoss)) and plain:
        weight = criterion.weight
        weight = None if weight is None else weight.detach().cpu().numpy().astype(np.float64)
        return losses.SoftmaxScores(n_outputs), np.arange(n_outputs), weight
    if type(criterion) is nn.BCEWithLogitsLoss and n_outputs == 1:
        if criterion.weight is None and criterion.pos_weight is None:
            return losses.LogisticLoss(), np.arange(2), None
    if type(criterion) is nn.MSELoss:
        return losses.SquaredLoss(factor=1.0 / n_outputs), None, None
    return CallableLoss(_per_sample(criterion), y.dtype, y.ndim), None, None


def _per_sample(criterion):
    criterion = copy.deepcopy(criterion).cpu()
    criterion.reduction = "none"
    return partial(_mean_of_sample, criterion)


def _mean_of_sample(criterion, outputs, targets):
    if targets.is_floating_point():
        outputs = outputs.reshape(targets.shape)
    return criterion(outputs, targets).reshape(len(outputs), -1).mean(1)


def _weight_decay(net, network):
    """Weight decay of every parameter, in the module's own order."""
    optimiser = net.optimizer_
    decay = {}
    for group in optimiser.param_groups:
        decay |= dict.fromkeys(map(id, group["params"]), group.get("weight_decay", 0.0))
    named = dict(net.module_.named_parameters())
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
