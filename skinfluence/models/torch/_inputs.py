"""From rows of X to what a module reads: one tensor, or several that lie side by side in X."""

import numpy as np
import torch
from scipy.sparse import issparse
from torch.utils.data import DataLoader, Dataset

# Type of an input by the kind of its numbers; all others are in the module's own.
TYPES = {"b": torch.bool, "i": torch.long, "u": torch.long}

# What torch raises where numbers are no tokens.
NO_TOKENS = (RuntimeError, IndexError, TypeError, ValueError)


def reader_of(example):
    """Reader of a module's inputs.

    Parameters
    ----------
    example : None, array-like, tuple or dict of array-likes, or DatasetInputs
        What the module reads, with samples along the first axes; None for one array.

    Returns
    -------
    ArrayReader, PackedReader or DatasetInputs
    """
    if hasattr(example, "unpack"):
        return example
    if isinstance(example, dict | tuple):
        return PackedReader(example)
    return ArrayReader(None if example is None else as_array(example))


class ArrayReader:
    """One array, read in the module's dtype, or as int64 where the module takes tokens alone.

    Parameters
    ----------
    example : ndarray, default=None
        An array of integers says that the module takes tokens. By default it does if it cannot
        read the training features, all integers, as numbers.
    """

    def __init__(self, example=None):
        self.is_known = example is not None
        self.reads_tokens = self.is_known and example.dtype.kind in "iu"

    def pack(self, X):
        """X itself.

        Raises
        ------
        TypeError
            If it holds several inputs, or is no array.
        """
        if isinstance(X, Dataset | DataLoader):
            raise TypeError(
                f"X is a {type(X).__name__}. Expected arrays: X, y = "
                "skinfluence.models.torch.read_dataset(dataset); of a dataset that does not fit "
                "into memory, positions, see skinfluence.models.torch.DatasetInputs."
            )
        if isinstance(X, dict):
            raise TypeError(
                f"X is a dict of {', '.join(map(repr, X))}. Tell TorchModel what the module "
                "reads, inputs=X, as keyword arguments; a tuple holds positional ones."
            )
        return X

    def find_type(self, network, features):
        """Find out whether the module takes tokens.

        Parameters
        ----------
        network : Network
            The module.
        features : array
            Training rows.
        """
        if self.is_known or not is_integral(features):
            return
        try:
            network.outputs(features[:2])
        except NO_TOKENS:
            self.reads_tokens = _can_read_tokens(self, network, features[:2])

    def tensor_type(self, features, dtype):
        """Type of the tensor that is made of features, by default ``dtype``.

        Raises
        ------
        ValueError
            If the module takes tokens and the features are no integers.
        """
        if not self.reads_tokens:
            return dtype
        if not is_integral(features):
            raise ValueError(
                "The module reads tokens: it cannot read the training features, all integers, "
                "as numbers. Got fractions instead. Expected integers here too; to mix tokens "
                "with numbers, give TorchModel an example of both, inputs=(tokens, numbers)."
            )
        return torch.long

    def unpack(self, x, dtype):
        """Arguments and keyword arguments of the module."""
        return (x,), {}

    def for_training(self, X, dtype):
        """X itself."""
        return X


def _can_read_tokens(reader, network, features):
    reader.reads_tokens = True
    try:
        network.outputs(features)
    except NO_TOKENS:
        # Something else is wrong, and what torch says of numbers tells more.
        return False
    return True


class PackedReader:
    """Several inputs, flattened and side by side in one array, each in its own type.

    Parameters
    ----------
    example : tuple or dict of array-likes
        What the module reads, with samples along the first axes.
    """

    def __init__(self, example):
        self.kind = dict if isinstance(example, dict) else tuple
        named = self._named(example)
        self.shapes = {name: value.shape[1:] for name, value in named.items()}
        self.dtypes = {name: value.dtype.kind for name, value in named.items()}

    def _named(self, inputs):
        items = inputs.items() if self.kind is dict else enumerate(inputs)
        return {name: as_array(value) for name, value in items}

    def pack(self, X):
        """Inputs side by side, (n_samples, total size), or X itself if it is such an array.

        Raises
        ------
        ValueError
            If the inputs have other names or shapes than the example, or several lengths.
        """
        if not isinstance(X, self.kind):
            return X
        named = self._named(X)
        shapes = {name: value.shape[1:] for name, value in named.items()}
        lengths = {len(value) for value in named.values()}
        if shapes != self.shapes or len(lengths) > 1:
            found = {name: value.shape for name, value in named.items()}
            raise ValueError(
                f"The inputs have the shapes {found}. Expected one row for each sample in every "
                f"input, and for a sample the shapes of TorchModel's inputs, {self.shapes}; pad "
                "what is ragged, and give its mask as an input."
            )
        flat = [named[name].reshape(len(named[name]), -1) for name in self.shapes]
        exact = all(np.array_equal(part.astype(np.float32), part) for part in flat)
        return np.hstack([part.astype(np.float32 if exact else np.float64) for part in flat])

    def find_type(self, network, features):
        """Do nothing: the example tells all types."""

    def tensor_type(self, features, dtype):
        """Type of the packed tensor, in which all integers are exact."""
        return torch.float32 if features.dtype == np.float32 else torch.float64

    def unpack(self, x, dtype):
        """Arguments and keyword arguments of the module, with numbers in ``dtype``."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = torch.split(x, sizes, dim=1)
        values = {
            name: part.reshape(len(part), *shape).to(TYPES.get(self.dtypes[name], dtype))
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }
        return ((), values) if self.kind is dict else (tuple(values.values()), {})

    def for_training(self, X, dtype):
        """Inputs as the user has them, a dict or tuple of tensors."""
        args, kwargs = self.unpack(torch.as_tensor(X), dtype)
        return kwargs or args


def is_integral(features):
    """Whether all features are integers."""
    return not issparse(features) and np.array_equal(features, np.round(features))


def as_array(value):
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
