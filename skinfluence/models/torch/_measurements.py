"""What a query asks of the outputs, and its derivative."""

from numbers import Integral

import numpy as np
import torch

from skinfluence.models.torch._network import to_array


def measurement_gradient(measurement, outputs):
    """Derivative of a measurement with respect to the outputs.

    Parameters
    ----------
    measurement : int, (int, int) or callable
        As `TorchModel` takes it.
    outputs : ndarray of shape (n, k)
        Raw outputs.

    Returns
    -------
    ndarray of shape (n, k)

    Raises
    ------
    ValueError
        If the measurement names an output that does not exist, or returns anything but one
        number for each sample.
    """
    z = torch.as_tensor(outputs).clone().requires_grad_()
    values = _function(measurement, z.shape[1])(z)
    if not isinstance(values, torch.Tensor) or values.shape != (len(z),):
        shape = tuple(getattr(values, "shape", ()))
        raise ValueError(
            f"The measurement must return one number for each sample, of shape ({len(z)},). Got "
            f"the shape {shape} instead."
        )
    return to_array(torch.autograd.grad(values.sum(), z, materialize_grads=True)[0])


def _function(measurement, n_outputs):
    if callable(measurement):
        return measurement
    classes = np.atleast_1d(measurement)
    n_classes = max(n_outputs, 2)
    if len(classes) > 2 or not all(0 <= c < n_classes for c in classes):
        raise ValueError(
            f"measurement={measurement!r} names no class of {n_classes}. Expected a class for its "
            "log-odds, or a pair of classes for the difference of their logits."
        )
    if isinstance(measurement, Integral):
        return lambda z: _log_odds(_scores(z), int(measurement))
    first, second = classes
    return lambda z: _scores(z)[:, first] - _scores(z)[:, second]


def _scores(z):
    """Scores of all classes; a single logit is the score of class 1 over class 0."""
    return torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z


def _log_odds(scores, chosen):
    others = torch.arange(scores.shape[1]) != chosen
    return scores[:, chosen] - torch.logsumexp(scores[:, others], dim=1)
