"""Arrays that several objects refer to, stored once."""

from weakref import WeakValueDictionary

import numpy as np

# Arrays of fewer bytes are stored as they are.
SMALL = 2**10

# What stands for an array while a file holds it, by the array's identity.
_KNOWN = WeakValueDictionary()


class Once:
    """An array inside a file.

    Pickle writes an object once, however many others refer to it, but joblib does so for any
    object other than an array. This one has the array for its own.

    Parameters
    ----------
    array : ndarray
        The array.
    """

    def __init__(self, array):
        self.array = array


class StoredOnce:
    """Objects whose arrays are written once into a file, whoever else refers to them."""

    def __getstate__(self):
        return {name: _once(value) for name, value in vars(self).items()}

    def __setstate__(self, state):
        for name, value in state.items():
            vars(self)[name] = value.array if isinstance(value, Once) else value


def _once(value):
    """What stands for a large array in a file, and any other value itself."""
    if not isinstance(value, np.ndarray) or value.nbytes < SMALL:
        return value
    known = _KNOWN.get(id(value))
    # An array that was there before may have had the same place in memory.
    if known is None or known.array is not value:
        known = _KNOWN[id(value)] = Once(value)
    return known
