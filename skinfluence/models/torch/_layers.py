"""Layers whose gradients are outer products of output gradients and inputs.

A layer with weight ``W`` (c, d) computes ``W u_t + b`` at every position t of a sample. The
functions below turn a call of the layer into ``u``, (n, t, d), and the gradient at the layer's
output into (n, t, c).
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn import functional as F

from skinfluence.rows import KroneckerRows
from skinfluence.rows._shared import SharedRows


def linear_inputs(layer, x):
    """Inputs of a Linear, one position for each vector of a sample."""
    return x.reshape(len(x), -1, x.shape[-1])


def linear_outputs(layer, gradient):
    """Gradient at the output of a Linear."""
    return gradient.reshape(len(gradient), -1, gradient.shape[-1])


def conv_inputs(layer, x):
    """Patches under the kernel, one position for each pixel of the output."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    settings = [layer.kernel_size, layer.dilation, layer.stride]
    if x.ndim == 3:
        # A convolution over a line is one over an image of height 1.
        x = x[:, :, None, :]
        settings = [(1, *setting) for setting in settings]
    kernel, dilation, stride = settings
    return F.unfold(x, kernel, dilation=dilation, stride=stride).transpose(1, 2)


def conv_outputs(layer, gradient):
    """Gradient at the output of a convolution."""
    return gradient.flatten(2).transpose(1, 2)


def embedding_inputs(layer, x):
    """Tokens, as positions of rows of the identity."""
    return x.reshape(len(x), -1)


def embedding_outputs(layer, gradient):
    """Gradient at the output of an Embedding."""
    return linear_outputs(layer, gradient)


FACTORED = {
    nn.Linear: (linear_inputs, linear_outputs),
    nn.Conv1d: (conv_inputs, conv_outputs),
    nn.Conv2d: (conv_inputs, conv_outputs),
    nn.Embedding: (embedding_inputs, embedding_outputs),
}


def is_factored(layer):
    """Whether this module knows factors of the rows of a layer."""
    return type(layer) in FACTORED and getattr(layer, "groups", 1) == 1


@dataclass
class Layer:
    """A layer whose rows stay factored.

    Parameters
    ----------
    name : str
        Name of the layer in the module.
    module : Module
        The layer itself.
    weight : str
        Name of its weight.
    bias : str or None
        Name of its bias, None without a bias or where influence leaves it out.
    """

    name: str
    module: nn.Module
    weight: str
    bias: str | None

    def inputs(self, x):
        """Inputs ``u`` of a call, (n, t, d), or tokens (n, t)."""
        return FACTORED[type(self.module)][0](self.module, x)

    def outputs(self, gradient):
        """Gradient at the outputs of a call, (n, t, c)."""
        return FACTORED[type(self.module)][1](self.module, gradient)

    @property
    def coordinates(self):
        """Coordinate of each number of the weight, and of the bias, in the layer's block."""
        weight = self.module.weight
        index = np.arange(weight.numel())
        if isinstance(self.module, nn.Embedding):
            # With tokens as inputs, the embedding is the transposed weight of a linear layer.
            tokens, width = weight.shape
            index = index.reshape(width, tokens).T.ravel()
        n_bias = self.module.bias.numel() if self.bias else 0
        return index, weight.numel() + np.arange(n_bias)

    def rows(self, inputs, residual):
        """Rows of the layer from all its calls.

        Parameters
        ----------
        inputs : ndarray of shape (n, t, d) or (n, t)
            Inputs or tokens.
        residual : ndarray of shape (n, s, t, c)
            Gradients at the outputs.
        """
        n_samples, t = inputs.shape[:2]
        if isinstance(self.module, nn.Embedding):
            return SharedRows(residual, self._one_hot(inputs.ravel()), has_bias=False)
        if t > 1:
            return SharedRows(residual, inputs.reshape(n_samples * t, -1), bool(self.bias))
        residual = residual[:, :, 0]
        return KroneckerRows(residual, inputs[:, 0], residual if self.bias else None)

    def gradients(self, inputs, residual):
        """The same rows from tensors, written out, (n, s, n_columns)."""
        if isinstance(self.module, nn.Embedding):
            inputs = F.one_hot(inputs, self.module.num_embeddings).to(residual.dtype)
            if self.module.padding_idx is not None:
                inputs[:, :, self.module.padding_idx] = 0
        weight = torch.einsum("nstc,ntd->nscd", residual, inputs).flatten(2)
        return torch.cat([weight, residual.sum(2)], dim=2) if self.bias else weight

    def _one_hot(self, tokens):
        # The padding token has an embedding that is never trained.
        data = (tokens != self.module.padding_idx).astype(np.float32)
        index = (data, tokens, np.arange(len(tokens) + 1))
        return sp.csr_matrix(index, shape=(len(tokens), self.module.num_embeddings))


def pulled_back(outputs, inputs, vector):
    """Gradients of ``outputs . vector`` with respect to tensors; the graph is kept."""
    # The gradient of a scalar: for vectors, torch would first import a computer algebra system,
    # which takes a second.
    scalar = (outputs * vector).sum()
    return torch.autograd.grad(scalar, inputs, retain_graph=True, materialize_grads=True)


class Tape:
    """Records calls of layers while it is open.

    Parameters
    ----------
    layers : list of Layer
        Layers to record.
    """

    def __init__(self, layers):
        self.layers = layers
        self.calls = [[] for _ in layers]

    def __enter__(self):
        self._handles = [
            layer.module.register_forward_hook(self._hook(layer, calls), with_kwargs=True)
            for layer, calls in zip(self.layers, self.calls, strict=True)
        ]
        return self

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _hook(layer, calls):
        def record(module, args, kwargs, output):
            x = args[0] if args else kwargs["input"]
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            # Later layers may write into the inputs in place, so they are copied.
            calls.append((layer.inputs(x.detach()).clone(), output))
            return output.clone()

        return record

    def residuals(self, outputs, vectors):
        """Gradients at the outputs of every layer's calls, each (n, s, t, c)."""
        outs = [out for calls in self.calls for _, out in calls]
        columns = [pulled_back(outputs, outs, vectors[:, j]) for j in range(vectors.shape[1])]
        start, result = 0, []
        for layer, calls in zip(self.layers, self.calls, strict=True):
            stop = start + len(calls)
            cubes = [
                torch.cat([layer.outputs(g) for g in column[start:stop]], dim=1)
                for column in columns
            ]
            result.append(torch.stack(cubes, dim=1))
            start = stop
        return result
