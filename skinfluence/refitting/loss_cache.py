"""Where the losses of refits are stored, keyed by everything they depend on."""

from collections import OrderedDict
from threading import Lock

import joblib
import numpy as np
from sklearn.utils.validation import check_memory

# Bytes of the losses that a process stores: 16 times 100 refits for 10,000 queries.
PROCESS_BYTES = 2**27


class ProcessStore:
    """Losses by key, in the process; the least recently used ones are dropped first.

    Parameters
    ----------
    n_bytes : int
        Size up to which losses are stored.
    """

    def __init__(self, n_bytes):
        self.n_bytes = n_bytes
        self.bytes_kept = 0
        self._kept = OrderedDict()
        self._lock = Lock()

    def get(self, key):
        """Losses under a key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key, losses):
        """Store losses under a key."""
        with self._lock:
            if key in self._kept:
                self.bytes_kept -= self._kept.pop(key).nbytes
            self._kept[key] = losses
            self.bytes_kept += losses.nbytes
            while len(self._kept) > 1 and self.bytes_kept > self.n_bytes:
                self.bytes_kept -= self._kept.popitem(last=False)[1].nbytes

    def clear(self):
        """Drop all losses."""
        with self._lock:
            self._kept.clear()
            self.bytes_kept = 0


class MemoryStore:
    """Losses by key, in a joblib.Memory.

    Parameters
    ----------
    memory : str or object with the joblib.Memory interface
        A folder, or an object that stores the results of functions.
    """

    def __init__(self, memory):
        self._kept = check_memory(memory).cache(_kept, ignore=["losses"])
        missing = {"check_call_in_cache", "call"} - set(dir(self._kept))
        if missing:
            raise ValueError(
                f"memory.cache gives a function without {' and '.join(sorted(missing))}. "
                "Expected the joblib.Memory interface; give a folder, or a joblib.Memory."
            )

    def get(self, key):
        """Losses under a key, or None."""
        # A call for a missing key would store the None.
        return self._kept(key, None) if self._kept.check_call_in_cache(key, None) else None

    def put(self, key, losses):
        """Store losses under a key, in place of an older entry."""
        self._kept.call(key, losses)


def _kept(key, losses):
    return losses


PROCESS_STORE = ProcessStore(PROCESS_BYTES)


def loss_store(memory):
    """Store of a ``memory`` parameter; None means the process."""
    return PROCESS_STORE if memory is None else MemoryStore(memory)


def no_store():
    """Store that stays empty."""
    return MemoryStore(joblib.Memory(None))


def is_entry(values, size):
    """Whether values from a store can be ``size`` losses: other code may have written them."""
    return (
        isinstance(values, np.ndarray)
        and values.dtype == np.float64
        and values.shape == (size,)
        and not np.isnan(values).any()
    )
