"""Layers whose gradients are outer products of output gradients and inputs.

A layer with weight ``W`` (c, d) computes ``W u_t + b`` at every position t of a sample. The
classes below turn a call of the layer into ``u``, (n, t, d), and the gradient at the layer's
output into (n, t, c).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skinfluence._utils.namespace import namespace
from skinfluence.models.torch._bag import Lookup
from skinfluence.models.torch._parts import Part
from skinfluence.rows import layer_rows, token_rows

# Where the samples and the positions of a call may lie: (n, t, ...) or (t, n, ...), maybe with
# both axes in one. Each function gives (n, t, ...).
LAYOUTS = {
    "samples first": lambda x, n: x,
    "positions first": lambda x, n: x.transpose(0, 1),
    "flat": lambda x, n: x.reshape(n, -1, *x.shape[1:]),
    "flat, positions first": lambda x, n: x.reshape(-1, n, *x.shape[1:]).transpose(0, 1),
}

# Calls that have no axis of samples, such as those for positions: a tape gives them one.
NO_SAMPLES = "no samples"
ARRANGED = LAYOUTS | {NO_SAMPLES: LAYOUTS["samples first"]}


def _every():
    return slice(None)


@dataclass
class Layer:
    """A linear layer whose rows stay factored.

    Parameters
    ----------
    name : str
        Name of the layer in the module.
    module : Module
        The module that is called.
    weight : str
        Name of its weight.
    bias : str or None
        Name of its bias, None without a bias or where influence leaves it out.
    outputs : slice, default=slice(None)
        Rows of the weight that belong to this layer.
    bias_outputs : slice, default=slice(None)
        The same of the bias.
    layout : str, default="samples first"
        Key of `LAYOUTS`, or `NO_SAMPLES`.
    """

    name: str
    module: nn.Module
    weight: str
    bias: str | None
    outputs: slice = field(default_factory=_every)
    bias_outputs: slice = field(default_factory=_every)
    layout: str = "samples first"

    # Layouts that calls of the layer may have.
    layouts = tuple(LAYOUTS)

    # Whether the weight is stored as (d, c).
    transposed = False

    def with_layout(self, layout):
        """The same layer with another layout."""
        return replace(self, layout=layout)

    @property
    def candidates(self):
        """The same layer with each layout that may be tried on the same calls."""
        if self.layout == NO_SAMPLES:
            return [self]
        return [self.with_layout(layout) for layout in self.layouts]

    # One call.

    def _arranged(self, x, n):
        x = ARRANGED[self.layout](x, n)
        if len(x) != n:
            raise ValueError(f"{len(x)} rows for {n} samples")
        return x

    def inputs(self, x, n):
        """Inputs ``u`` of a call on n samples, (n, t, d), or tokens (n, t).

        Raises
        ------
        ValueError or RuntimeError
            If the layout does not fit.
        """
        x = self._arranged(x, n)
        return x.reshape(n, -1, x.shape[-1])

    def output_gradients(self, gradient, n):
        """Gradient at the outputs of a call, (n, t, c)."""
        gradient = self._arranged(gradient, n)
        return gradient.reshape(n, -1, gradient.shape[-1])

    # The block of columns.

    @property
    def positions(self):
        """Place of each column in the flat weight, and in the flat bias."""
        weight = self.module.weight
        index = np.arange(weight.numel())
        if self.transposed:
            index = index.reshape(weight.shape).T.ravel()
        else:
            index = index.reshape(len(weight), -1)[self.outputs].ravel()
        bias = np.arange(self.module.bias.numel())[self.bias_outputs] if self.bias else []
        return index, np.asarray(bias, dtype=int)

    def rows(self, inputs, residual):
        """Rows of the layer from all its calls.

        Parameters
        ----------
        inputs : {ndarray, tensor} of shape (n, t, d) or (n, t)
            Inputs or tokens.
        residual : {ndarray, tensor} of shape (n, s, t, c)
            Gradients at the outputs.
        """
        n_samples, t, d = inputs.shape
        return layer_rows(residual, inputs.reshape(n_samples * t, d), bool(self.bias))

    def summed(self, inputs, residual):
        """The rows from tensors, written out, where that takes fewer numbers than factors do.

        Returns
        -------
        tuple of one tensor of shape (n, s, n_columns), or None
        """
        if inputs.ndim == 2 or inputs.shape[1] == 1:
            return None
        (_, s, t, c), d = residual.shape, inputs.shape[2]
        return (self.gradients(inputs, residual),) if s * c * d < t * (s * c + d) else None

    def gradients(self, inputs, residual):
        """The same rows from tensors, written out, (n, s, n_columns)."""
        weight = torch.einsum("nstc,ntd->nscd", residual, inputs).flatten(2)
        return torch.cat([weight, residual.sum(2)], dim=2) if self.bias else weight

    def total(self, inputs, residual):
        """Sum of the rows from tensors (n, t, d) and (n, t, c), (n_columns,)."""
        if residual.shape[1] > residual.shape[2]:
            # Positions of convolutions lie last in memory: as one matrix, they would be copied.
            weight = (residual.mT @ inputs).sum(0)
        else:
            weight = residual.flatten(0, 1).T @ inputs.flatten(0, 1)
        total = [weight.flatten(), residual.sum((0, 1))]
        return torch.cat(total) if self.bias else total[0]


@dataclass
class TransposedLayer(Layer):
    """A linear layer with a weight (d, c), such as the Conv1D of language models."""

    transposed = True


@dataclass
class Convolution(Layer):
    """One group of a convolution: patches under the kernel, one position for each pixel.

    Parameters
    ----------
    group : int, default=0
        Which group of channels.
    """

    group: int = 0
    layouts = ("samples first",)

    def inputs(self, x, n):
        layer = self.module
        x = self._channels(self._arranged(x, n), layer.in_channels)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        settings = [layer.kernel_size, layer.dilation, layer.stride]
        if x.ndim == 3:
            # A convolution over a line is one over an image of height 1.
            x = x[:, :, None, :]
            settings = [(1, *setting) for setting in settings]
        kernel, dilation, stride = settings
        return F.unfold(x, kernel, dilation=dilation, stride=stride).transpose(1, 2)

    def output_gradients(self, gradient, n):
        gradient = self._channels(self._arranged(gradient, n), self.module.out_channels)
        return gradient.flatten(2).transpose(1, 2)

    def _channels(self, x, n_channels):
        size = n_channels // self.module.groups
        return x[:, self.group * size : (self.group + 1) * size]


@dataclass
class EmbeddingLayer(Layer):
    """An Embedding: a linear layer without bias whose inputs are rows of the identity."""

    transposed = True

    def inputs(self, x, n):
        return self._arranged(x, n).reshape(n, -1)

    def rows(self, inputs, residual):
        if self.module.padding_idx is not None:
            # The padding token has an embedding that is never trained.
            is_padding = inputs == self.module.padding_idx
            inputs = namespace(inputs).where(is_padding, -1, inputs)
        return token_rows(residual, inputs, self.module.num_embeddings)

    def _one_hot(self, tokens, dtype):
        one_hot = F.one_hot(tokens, self.module.num_embeddings).to(dtype)
        if self.module.padding_idx is not None:
            one_hot[..., self.module.padding_idx] = 0
        return one_hot

    def gradients(self, inputs, residual):
        return super().gradients(self._one_hot(inputs, residual.dtype), residual)

    def total(self, inputs, residual):
        residual = residual.flatten(0, 1)
        total = residual.new_zeros(self.module.num_embeddings, residual.shape[1])
        total.index_add_(0, inputs.flatten(), residual)
        if self.module.padding_idx is not None:
            total[self.module.padding_idx] = 0
        return total.T.flatten()


def layers_of(name, module, names):
    """Layers of a module whose weight is under study, none where this file knows no factors.

    Parameters
    ----------
    name : str
        Name of the module.
    module : Module
        A module, without those inside it.
    names : dict
        Name of every parameter under study, by its ``id``.

    Returns
    -------
    list of Layer
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if id(weight) not in names:
        return []
    own = {"name": name or "module", "module": module, "weight": names[id(weight)]}
    own["bias"] = None if bias is None else names.get(id(bias))
    if isinstance(module, nn.Linear):
        return [Layer(**own)]
    if type(module) is nn.Embedding or isinstance(module, Lookup):
        return [EmbeddingLayer(**own)]
    if type(module) in (nn.Conv1d, nn.Conv2d):
        return _groups(own, module)
    if isinstance(module, Part):
        return [Layer(**own, outputs=module.outputs, bias_outputs=module.bias_outputs)]
    if type(module).__name__ == "Conv1D" and weight.ndim == 2 and hasattr(module, "nf"):
        # The class of language models; the name of its package is not needed.
        return [TransposedLayer(**own)]
    return []


def _groups(own, module):
    if module.groups == 1:
        return [Convolution(**own)]
    size = module.out_channels // module.groups
    slices = [slice(i * size, (i + 1) * size) for i in range(module.groups)]
    return [
        Convolution(
            **own | {"name": f"{own['name']} group {i}"}, outputs=s, bias_outputs=s, group=i
        )
        for i, s in enumerate(slices)
    ]
