"""The last linear layer of a module, as a linear model on its inputs."""

from copy import copy

import numpy as np
import torch
from torch import nn

from skinfluence.models.heads import Head, check_name, head, linear_head
from skinfluence.models.registry import objective
from skinfluence.models.torch._model import TorchModel
from skinfluence.models.torch._network import to_array

# Samples on which the outputs of the layer and of the network are compared.
N_CHECKED = 32

# Largest error of the gradients at the outputs of a head, relative to the largest of them.
HEAD_TOLERANCE = 1e-4


@head.register(TorchModel)
def _(model, X, y, sample_weight, name="auto"):
    layer = find_layer(model.network_, X, name, type(model.module_).__name__)
    part = copy(model)
    part.network_ = model.network_.restricted(layer.parameters)
    return layer.head(objective(part, X, y, sample_weight), X)


def find_layer(network, X, name, model):
    """The layer with a name, or the linear layer that is called last."""
    linear = {
        path or "module": module
        for path, module in network.module.named_modules()
        if isinstance(module, nn.Linear)
    }
    if not linear:
        raise TypeError(
            f"{model} has no linear layer, so it has no linear head. Use KFACInfluence or "
            "ExactInfluence for all of its parameters."
        )
    check_name(name, ["auto", *linear], model)
    called = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: called.append(path))
        for path, module in linear.items()
    ]
    network.outputs(X[:2])
    for handle in handles:
        handle.remove()
    if name == "auto" and called:
        name = called[-1]
    if called.count(name) != 1:
        raise TypeError(
            f"The layer {name!r} of {model} is called {called.count(name)} times for a sample, "
            "so it is no linear head. Name a layer that is called once, at the end."
        )
    return LastLayer(network, name, linear[name], model)


class LastLayer:
    """A linear layer that may be the head of a network.

    Parameters
    ----------
    network : Network
        The network.
    name : str
        Name of the layer.
    module : Linear
        The layer in it.
    model : str
        Name of the network in messages.
    """

    def __init__(self, network, name, module, model):
        self.network = network
        self.name = name
        self.module = module
        self.model = model

    @property
    def parameters(self):
        """Names of the weight and the bias in the module."""
        own = {id(value) for value in self.module.parameters()}
        return [name for name, v in self.network.module.named_parameters() if id(v) in own]

    def featurize(self, features):
        """Inputs of the layer, (n, d) in float64."""
        inputs = []
        handle = self.module.register_forward_pre_hook(
            lambda _, args: inputs.append(to_array(args[0]).astype(np.float64))
        )
        try:
            with torch.no_grad():
                for (part,) in self.network.in_chunks(features):
                    self.network(self.network.inputs(part))
        finally:
            handle.remove()
        inputs = np.concatenate(inputs)
        if inputs.ndim != 2 or len(inputs) != features.shape[0]:
            raise TypeError(
                f"The layer {self.name!r} of {self.model} reads inputs of shape {inputs.shape} "
                f"for {features.shape[0]} samples. A linear head reads one vector for each; pool "
                "the positions before it."
            )
        return inputs

    def head(self, part, X):
        """Head from the objective ``part`` of the layer's own parameters."""
        weight = to_array(self.module.weight).astype(np.float64)
        bias = np.empty(0)
        if self.module.bias is not None:
            bias = to_array(self.module.bias).astype(np.float64)
        features = self.featurize(X[:N_CHECKED])
        self._check_is_last(part, features @ weight.T + (bias if len(bias) else 0))
        return Head(linear_head(part, self.featurize, weight, bias, part.penalty), self.name)

    def _check_is_last(self, part, scores):
        """Check that the loss has the same values on the outputs of layer and network."""
        if self.name not in part.layers:
            raise TypeError(
                f"The layer {self.name!r} of {self.model} shares its weight, so it is no linear "
                "head."
            )
        outputs, targets = part.outputs(part.features[:N_CHECKED]), part.targets[:N_CHECKED]
        if scores.shape != outputs.shape:
            differ = f"the model has outputs {outputs.shape}, the layer {scores.shape}"
        else:
            found = part.loss.residual(scores, targets)
            wanted = part.loss.residual(outputs, targets)
            error = np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max())
            if error <= HEAD_TOLERANCE:
                return
            differ = (
                "the loss has other gradients at its outputs than at those of the model, by up "
                f"to {error:.2g}"
            )
        raise TypeError(
            f"The layer {self.name!r} of {self.model} is no linear head: {differ}. Name the layer "
            "that gives the outputs with head=, or move what follows it into the loss."
        )
