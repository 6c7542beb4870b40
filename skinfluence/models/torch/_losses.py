"""Losses that are written in torch."""

import numpy as np
import torch

from skinfluence._utils.batching import fits_in_memory
from skinfluence.models.losses import Loss
from skinfluence.models.torch._network import to_array


class CallableLoss(Loss):
    """A per-sample loss ``function(outputs, targets) -> (n,)``, differentiated by torch.

    Parameters
    ----------
    function : callable
        Loss of outputs (n, k) and targets (n,) or (n, t), both tensors.
    dtype : dtype
        Type of the targets; integers reach the function as int64.
    ndim : int
        Number of dimensions of the targets.
    """

    separable = False

    def __init__(self, function, dtype, ndim):
        self.function = function
        self.dtype = torch.int64 if np.dtype(dtype).kind in "iub" else torch.float64
        self.ndim = ndim

    def encode(self, y, classes):
        y = np.asarray(y, dtype=np.float64)
        return y.reshape(len(y), -1)

    def _losses(self, z, y):
        y = torch.as_tensor(y).to(self.dtype)
        losses = self.function(z, y[:, 0] if self.ndim == 1 else y)
        if isinstance(losses, torch.Tensor) and losses.shape == (len(z), 1):
            losses = losses[:, 0]
        if not isinstance(losses, torch.Tensor) or losses.shape != (len(z),):
            shape = tuple(getattr(losses, "shape", ()))
            raise ValueError(
                f"The loss must return one value for each sample, of shape ({len(z)},). Got the "
                f"shape {shape} instead: does it take the mean over the batch? Use "
                "reduction='none'."
            )
        return losses

    def value(self, z, y):
        flat, y = _flattened(z, y)
        return to_array(self._losses(flat, y)).reshape(z.shape[:-1])

    def _gradient(self, z, y):
        flat, y = _flattened(z, y)
        flat = flat.clone().requires_grad_()
        total = self._losses(flat, y).sum()
        return flat, torch.autograd.grad(total, flat, create_graph=True)[0]

    def residual(self, z, y):
        return to_array(self._gradient(z, y)[1]).reshape(z.shape)

    def hessian(self, z, y):
        flat, gradient = self._gradient(z, y)
        k = z.shape[-1]
        if not fits_in_memory(8 * k**2):
            raise ValueError(
                f"The second derivative of a loss of {k} outputs has {k} times {k} numbers a "
                "sample, which do not fit into the working memory. Give a loss whose second "
                "derivative is known: 'cross_entropy', or torch.nn.CrossEntropyLoss with class "
                "weights, label smoothing or ignored targets."
            )
        if not gradient.requires_grad:
            return np.zeros((*z.shape, k))
        columns = [
            torch.autograd.grad(
                gradient[:, a].sum(), flat, retain_graph=True, materialize_grads=True
            )[0]
            for a in range(k)
        ]
        return to_array(torch.stack(columns, dim=1)).reshape(*z.shape, k)


class ReturnedLoss(Loss):
    """The single output itself: a module that returns the loss of each sample."""

    separable = True

    def encode(self, y, classes):
        return np.zeros((len(y), 1))

    def value(self, z, y):
        return z[..., 0]

    def residual(self, z, y):
        return np.ones_like(z)

    def hessian(self, z, y):
        return np.zeros_like(z)


def _flattened(z, y):
    """Outputs of several models (..., n, k) as samples of one model, and matching targets."""
    flat = torch.as_tensor(np.reshape(z, (-1, z.shape[-1])))
    return flat, np.tile(y, (len(flat) // len(y), 1))
