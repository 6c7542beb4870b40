"""Calls of layers, recorded while a module runs."""

import torch

from skinfluence.models.torch._layers import NO_SAMPLES


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
        Layers to record; several may be parts of one module.
    n_samples : int
        Samples in the batch.
    """

    def __init__(self, layers, n_samples):
        self.layers = layers
        self.n_samples = n_samples
        self.calls = {id(layer.module): [] for layer in layers}

    def __enter__(self):
        layers = {id(layer.module): layer for layer in self.layers}
        self._handles = [
            layer.module.register_forward_hook(self._hook(layer), with_kwargs=True)
            for layer in layers.values()
        ]
        return self

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer):
        calls = self.calls[id(layer.module)]

        def record(module, args, kwargs, output):
            x = args[0] if args else next(iter(kwargs.values()))
            if layer.layout == NO_SAMPLES:
                # Otherwise what comes back would be the sum over the samples.
                x, output = self._spread(x, x.ndim), self._spread(output, x.ndim)
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            # Later layers may write into the inputs in place, so they are copied.
            calls.append((x.detach().clone(), output))
            return output.clone()

        return record

    def _spread(self, x, n_axes):
        """One copy of a tensor for each sample, which autograd tells apart.

        Of calls with several axes the first, of length 1, is taken for the one of the samples.
        """
        x = x if n_axes > 1 and len(x) == 1 else x[None]
        return x.expand(self.n_samples, *x.shape[1:])

    def outputs(self):
        """Recorded outputs of all calls."""
        return [output for calls in self.calls.values() for _, output in calls]

    def was_called(self, layer):
        """Whether a layer was called."""
        return bool(self.calls[id(layer.module)])

    def inputs(self, layer, n, dtype):
        """Inputs of all calls of a layer on n samples, (n, t, d) or tokens (n, t)."""
        parts = [layer.inputs(x, n) for x, _ in self.calls[id(layer.module)]]
        together = _together(parts)
        return together.to(dtype) if together.is_floating_point() else together

    def pull(self, outputs, vectors):
        """Gradients at the recorded outputs for each of the vectors (n, s, k).

        Returns
        -------
        list of dict
            For each of the s vectors, the gradients at the calls of every module.
        """
        keys = [key for key, calls in self.calls.items() for _ in calls]
        outs = self.outputs()
        columns = []
        for j in range(vectors.shape[1] if outs else 0):
            column = {key: [] for key in self.calls}
            for key, g in zip(keys, pulled_back(outputs, outs, vectors[:, j]), strict=True):
                column[key].append(g)
            columns.append(column)
        return columns

    def residuals(self, layer, n, columns, dtype):
        """Gradients at the outputs of a layer's calls, (n, s, t, c), from those of `pull`."""
        cubes = [
            _together([layer.output_gradients(g, n) for g in column[id(layer.module)]])
            for column in columns
        ]
        return _stacked(cubes).to(dtype)


def _stacked(cubes):
    """Cubes (n, t, c) of the vectors as (n, s, t, c); a single one is no copy."""
    first, *others = cubes
    if not others:
        return first[:, None]
    if first.mT.is_contiguous():
        # The outputs of a convolution lie before its pixels: another order would take longer.
        return torch.stack([cube.mT for cube in cubes], dim=1).mT
    return torch.stack(cubes, dim=1)


def _together(calls):
    """Positions of all calls; those of a single call are no copy."""
    return calls[0] if len(calls) == 1 else torch.cat(calls, dim=1)
