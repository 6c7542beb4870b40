"""A device that a machine need not have: tensors on it, and what NumPy may read of them."""

import torch
from torch.overrides import TorchFunctionMode

# Whether a tensor is on the host, as far as its history tells.
HOST = "is_on_host"

# What puts an array, a list or a number into a tensor on the host, unless told a device.
FROM_HOST = (torch.as_tensor, torch.from_numpy, torch.tensor)

# What may join a tensor on a device and one on the host, as devices allow it: indices may come
# from the host, and copies may go either way.
JOINING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_, torch.Tensor.to)


class Device(TorchFunctionMode):
    """Treats parameters, and all that is computed from them, as if they were on a device.

    A tensor is on the host if it comes from NumPy or from `Tensor.cpu`, and stays there until it
    is sent to a device; only there may NumPy read it, and nothing joins it with one on the device.

    Attributes
    ----------
    n_moved : int
        Numbers that have come to the host.
    """

    def __init__(self):
        super().__init__()
        self.n_moved = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        on_host = getattr(args[0], HOST, False) if args else False
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and not on_host:
            raise TypeError("NumPy cannot read a tensor on a device. Use Tensor.cpu() first.")
        if func not in JOINING and len(set(_places((args, kwargs)))) > 1:
            raise RuntimeError(f"{func.__name__} joins a tensor on a device and one on the host.")
        out = func(*args, **kwargs)
        sent = "device" in kwargs or any(isinstance(arg, torch.device) for arg in args)
        if func is torch.Tensor.cpu:
            self.n_moved += 0 if on_host else out.numel()
            # Another tensor, as on a device.
            out, on_host = out.view_as(out), True
        elif func in FROM_HOST:
            on_host = not sent
        elif func is torch.Tensor.to and isinstance(args[1], torch.Tensor):
            on_host = getattr(args[1], HOST, False)
        for tensor in _tensors(out):
            setattr(tensor, HOST, on_host and not sent)
        return out


def _tensors(value):
    """All tensors inside lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _places(value):
    """Whether each tensor is on the host; single numbers may be anywhere."""
    return [getattr(tensor, HOST, False) for tensor in _tensors(value) if tensor.ndim]
