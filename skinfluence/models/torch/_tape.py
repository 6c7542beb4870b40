"""Calls of layers, recorded while a module runs."""

import torch


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
    """

    def __init__(self, layers):
        self.layers = layers
        self.calls = {id(layer.module): [] for layer in layers}

    def __enter__(self):
        modules = {id(layer.module): layer.module for layer in self.layers}
        self._handles = [
            module.register_forward_hook(self._hook(self.calls[key]), with_kwargs=True)
            for key, module in modules.items()
        ]
        return self

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _hook(calls):
        def record(module, args, kwargs, output):
            x = args[0] if args else next(iter(kwargs.values()))
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            # Later layers may write into the inputs in place, so they are copied.
            calls.append((x.detach().clone(), output))
            return output.clone()

        return record

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
        return torch.stack(cubes, dim=1).to(dtype)


def _together(calls):
    """Positions of all calls; those of a single call are no copy."""
    return calls[0] if len(calls) == 1 else torch.cat(calls, dim=1)
