"""Data that all tasks of a loop need, sent to other processes once, and files by their names."""

import io
import os
import pickle

import numpy as np

try:
    from cloudpickle import CloudPickler
except ImportError:  # joblib < 1.6 brings its own.
    from joblib.externals.cloudpickle import CloudPickler

# Arrays of fewer bytes stay inside.
SMALL = 2**10


class Shared:
    """Data that all tasks of a loop need.

    Inside one process it is only a reference. When it is sent to another one, an array in a
    memory map is sent as the name of its file, which the receiver opens for reading, and the
    other arrays are sent apart from the rest: joblib puts large ones into memory maps, and a
    scheduler that measures arguments (dask) sends the whole to each worker once.

    Parameters
    ----------
    value : object
        The data.
    """

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return _restored, self._taken_apart()

    def __sizeof__(self):
        pickled, arrays = self._taken_apart()
        return len(pickled) + sum(array.nbytes for array in arrays)

    def _taken_apart(self):
        """Everything but the arrays, pickled, and the arrays that are in no file."""
        file, arrays = io.BytesIO(), []
        _ApartPickler(file, arrays).dump(self.value)
        return file.getvalue(), arrays


class _ApartPickler(CloudPickler):
    """Pickles arrays of a memory map by their file, and others by their place in a list."""

    def __init__(self, file, arrays):
        super().__init__(file)
        self.arrays = arrays
        self.places = {}

    def persistent_id(self, value):
        """What stands for a value, None for the value itself."""
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or value.nbytes < SMALL:
            return None
        in_file = _place_in_file(value)
        if in_file is not None:
            return "file", in_file
        if type(value) is not np.ndarray:
            return None
        if id(value) not in self.places:
            self.places[id(value)] = len(self.arrays)
            self.arrays.append(value)
        return "array", self.places[id(value)]


class _ApartUnpickler(pickle.Unpickler):
    """Puts the arrays back."""

    def __init__(self, file, arrays):
        super().__init__(file)
        self.arrays = arrays

    def persistent_load(self, reference):
        """The array that a reference stands for."""
        kind, place = reference
        return self.arrays[place] if kind == "array" else _opened(**place)


def _restored(pickled, arrays):
    return Shared(_ApartUnpickler(io.BytesIO(pickled), arrays).load())


def _place_in_file(array):
    """Where the numbers of a contiguous array lie in a file, or None."""
    mapped = array
    while mapped is not None and not isinstance(mapped, np.memmap):
        mapped = getattr(mapped, "base", None)
    while isinstance(getattr(mapped, "base", None), np.memmap):
        # The offset of a view is still that of the whole map.
        mapped = mapped.base
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    # With mode "c" the file does not have what was written into the array.
    if mapped is None or mapped.filename is None or mapped.mode == "c" or not contiguous:
        return None
    if mapped.mode != "r":
        mapped.flush()
    start = array.ctypes.data - mapped.ctypes.data
    return {
        "path": os.fspath(mapped.filename),
        "offset": mapped.offset + start,
        "shape": array.shape,
        "dtype": array.dtype,
        "order": "C" if array.flags.c_contiguous else "F",
    }


def _opened(path, offset, shape, dtype, order):
    try:
        return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order=order)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The memory map {path} is not there on this worker. Expected a file that all "
            "workers can read: put it into a folder that they share, or load it into memory."
        ) from error
