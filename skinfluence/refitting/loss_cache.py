"""Where the losses of refits are kept, by a key that names all they depend on."""

from collections import OrderedDict
from importlib import import_module
from threading import Lock

import joblib
import numpy as np
from sklearn.utils.validation import check_memory

# Losses that a process keeps, in bytes: those of 100 refits for 10,000 queries, 16 times over.
PROCESS_BYTES = 2**27


class LossStore:
    """Losses of refits by key, in the process or in a joblib.Memory.

    Parameters
    ----------
    memory : None, str or object with the interface of joblib.Memory
        Where the losses are kept; None is the process, which forgets the oldest ones.
    """

    def __init__(self, memory=None):
        memory = _PROCESS if memory is None else check_memory(memory)
        self._remember = memory.cache(_remember, ignore=["losses"])

    def get(self, key):
        """Losses under a key, or None."""
        try:
            return self._remember(key, None)
        except _NotKept:
            return None

    def put(self, key, losses):
        """Keep losses under a key."""
        self._remember(key, losses)


class _NotKept(LookupError):
    """Losses that no refit has given yet."""


def _remember(key, losses):
    # A memory calls this only for a key that it does not hold.
    if losses is None:
        raise _NotKept(key)
    return losses


class _ProcessMemory:
    """What is needed of joblib.Memory, in the process and up to a size."""

    def __init__(self, n_bytes):
        self.n_bytes = n_bytes
        self.kept = OrderedDict()
        self.bytes_kept = 0
        self._lock = Lock()

    def clear(self):
        """Forget all losses."""
        with self._lock:
            self.kept.clear()
            self.bytes_kept = 0

    def cache(self, function, ignore):
        """The function, called once for each key that is kept."""
        del ignore

        def cached(key, losses):
            with self._lock:
                if key in self.kept:
                    self.kept.move_to_end(key)
                    return self.kept[key]
            losses = function(key, losses)
            with self._lock:
                self.bytes_kept += losses.nbytes - getattr(self.kept.get(key), "nbytes", 0)
                self.kept[key] = losses
                while len(self.kept) > 1 and self.bytes_kept > self.n_bytes:
                    self.bytes_kept -= self.kept.popitem(last=False)[1].nbytes
            return losses

        return cached


_PROCESS = _ProcessMemory(PROCESS_BYTES)


def fingerprint(*parts):
    """Hash that is the same for the same data, parameters and modules in any process."""
    return joblib.hash([_hashable(part) for part in parts])


def _hashable(value):
    """The value by what it holds: estimators by parameters, modules and tensors by numbers."""
    if isinstance(value, type):
        return _name(value)
    if hasattr(value, "state_dict") and hasattr(value, "parameters"):
        # The hash of a module differs from that of its copy, that of its state does not.
        state = {name: _hashable(tensor) for name, tensor in value.state_dict().items()}
        return _name(type(value)), repr(value), state
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return value.detach().cpu().numpy()
    if hasattr(value, "__code__"):
        # A function that was edited keeps its name.
        return _name(value), value.__code__.co_code, repr(value.__code__.co_names)
    if hasattr(value, "get_params"):
        params = value.get_params(deep=False)
        return _name(type(value)), {key: _hashable(params[key]) for key in sorted(params)}
    if isinstance(value, dict):
        return {str(key): _hashable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hashable(item) for item in value]
    return value


def _name(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


def versions(model):
    """Versions of the packages that a refit of the model goes through."""
    packages = {cls.__module__.split(".")[0] for cls in type(model).__mro__} - {"builtins"}
    packages |= {"skinfluence", "sklearn", "numpy", "scipy"}
    return {name: getattr(import_module(name), "__version__", "") for name in sorted(packages)}


def subset_key(subset):
    """Short name of a subset."""
    return joblib.hash(np.packbits(subset))
