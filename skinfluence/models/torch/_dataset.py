"""Samples of a torch Dataset as training rows and queries: read once, or whenever they are needed.

Samples are read by their position, so that row i of all results is sample i of the dataset.
"""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SequentialSampler,
    Subset,
    default_collate,
)

from skinfluence.models.torch._inputs import TYPES, as_array

# A cross entropy leaves out targets with this label.
IGNORED = -100

# Samples that are measured at once.
BATCH = 256


def read_dataset(dataset, *, target=None, collate_fn=None, padding=0, mask="attention_mask"):
    """Inputs and targets of all samples of a torch Dataset or DataLoader, as arrays.

    Every sample is read once, and all are held in memory, padded to the longest: the number of
    samples times the size of the longest, for a moment twice. For a dataset that is too large for
    that, use `DatasetInputs`.

    Parameters
    ----------
    dataset : Dataset, DataLoader or sequence
        Samples by position: arrays, tuples of the inputs and the target, or dicts of the inputs
        by name, as the module takes them, with the target among them. Of a DataLoader, the
        dataset and the ``collate_fn`` are read, in order.
    target : str, int or False, default=None
        Which part of a sample is its target: by default the last one of a tuple, or "labels" of
        a dict. There is none with False, or where a sample is one array.
    collate_fn : callable, default=None
        Makes a batch (a tensor, or a tuple or dict of tensors) of a list of samples, as for a
        DataLoader, such as a padding collator of a tokenizer. By default the parts of the
        samples are stacked.
    padding : float, default=0
        Fills inputs that are shorter than the longest; targets are filled with -100, which a
        cross entropy ignores.
    mask : str or None, default="attention_mask"
        Where samples are ragged and no ``collate_fn`` is given, a mask of what is no padding
        becomes one more input: under this name in a dict, as the last of a tuple. A part of
        that name, given by the samples or the ``collate_fn``, is filled with 0 instead. None
        leaves the mask out.

    Returns
    -------
    X : ndarray, tuple of ndarray or dict of str to ndarray
        Inputs, samples along the first axes: what ``TorchModel(module, inputs=X)`` and ``fit``
        take.
    y : ndarray of shape (n_samples,) or (n_samples, t), or None
        Targets.

    Raises
    ------
    ValueError
        If a DataLoader shuffles or drops samples, or the samples have no targets of that name.
    TypeError
        If the dataset has no length or no positions, or its samples differ in kind.

    Examples
    --------
    >>> from skinfluence.models.torch import read_dataset
    >>> samples = [{"tokens": [5, 2, 7], "labels": 1}, {"tokens": [3], "labels": 0}]
    >>> X, y = read_dataset(samples)
    >>> X["tokens"]
    array([[5, 2, 7],
           [3, 0, 0]])
    >>> X["attention_mask"]
    array([[ True,  True,  True],
           [ True, False, False]])
    >>> y
    array([1, 0])
    """
    dataset, collate_fn = _in_order(dataset, collate_fn)
    samples = [dataset[i] for i in range(len(dataset))]
    inputs = DatasetInputs(
        samples, target=target, collate_fn=collate_fn, padding=padding, mask=mask
    )
    return inputs.read(range(len(samples))), inputs.y


class DatasetInputs:
    """Inputs of a module that are read from a torch Dataset whenever they are needed.

    ``TorchModel(module, inputs=DatasetInputs(dataset))`` takes positions of samples as rows:
    `X` for all of them, ``X[:100]`` for the first hundred. Only the samples that pass through the
    module at once are in memory, and are read again for every pass. Queries are positions too:
    let ``dataset`` be a ``ConcatDataset`` of training samples and queries. ``train`` of the model
    is given a ``Subset`` of the dataset, and the targets.

    Making it reads every sample once, to learn the targets and the size of the longest sample, to
    which all are padded.

    Parameters
    ----------
    dataset : Dataset, DataLoader or sequence
        Samples by position, see `read_dataset`. Each must be the same whenever it is read: random
        augmentation has to be turned off.
    target : str, int or False, default=None
        Which part of a sample is its target, see `read_dataset`.
    collate_fn : callable, default=None
        Makes a batch of a list of samples, see `read_dataset`.
    padding : float, default=0
        Fills inputs that are shorter than the longest.
    mask : str or None, default="attention_mask"
        Name of the mask of what is no padding, see `read_dataset`.

    Attributes
    ----------
    X : ndarray of shape (n_samples, 1)
        Positions of all samples.
    y : ndarray of shape (n_samples,) or (n_samples, t), or None
        Their targets.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.models.torch import DatasetInputs, TorchModel
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> with torch.no_grad():
    ...     _ = module.weight.fill_(1.5)
    >>> x, y = torch.tensor([[-1.0], [1.0], [1.0]]).double(), torch.tensor([-1.0, 1.0, 4.0])
    >>> rows = DatasetInputs(TensorDataset(x, y))
    >>> model = TorchModel(module, loss="mse", l2=2 / 3, inputs=rows)
    >>> influence = ExactInfluence(model, damping=0.0, curvature="ggn").fit(rows.X, rows.y)
    >>> influence.influence(rows.X[1:2], rows.y[1:2])
    array([[-0.375, -0.375,  1.875]])
    """

    def __init__(self, dataset, *, target=None, collate_fn=None, padding=0, mask="attention_mask"):
        self.dataset, self.collate_fn = _in_order(dataset, collate_fn)
        self.target = target
        self.padding = padding
        self.mask = mask
        self.X = np.arange(len(self.dataset))[:, None]
        self._measure()

    def __len__(self):
        return len(self.dataset)

    def __sklearn_clone__(self):
        # It holds no fit, and a copy of the samples may not fit into memory.
        return self

    def _measure(self):
        """Learn targets, and kind, type and largest shape of every part, from one pass."""
        self._shapes, self._dtypes, self._ragged, targets = {}, {}, set(), []
        for positions in gen_batches(len(self), BATCH):
            columns = self._columns(range(positions.start, positions.stop))
            if positions.start == 0:
                self._choose_target(list(columns))
                self._check_repeats(columns)
            for name, values in columns.items():
                self._include(name, values)
            targets += columns.get(self._target_name, [])
        self.y = self._padded(self._target_name, targets, IGNORED) if targets else None
        inputs = [name for name in self._shapes if name != self._target_name]
        # The part whose lengths the mask tells, None without a mask.
        needs_mask = self.collate_fn is None and None is not self.mask not in inputs
        self._masked = next((name for name in inputs if needs_mask and name in self._ragged), None)

    def _columns(self, positions):
        """Parts of samples by name, each a list of arrays."""
        samples = [self.dataset[i] for i in positions]
        if self.collate_fn is not None:
            parts = _named(self.collate_fn(samples))
            self._is_dict = isinstance(next(iter(parts)), str)
            return {name: list(_as_numbers(name, value)) for name, value in parts.items()}
        named = [_named(sample) for sample in samples]
        names = list(named[0])
        self._is_dict = isinstance(names[0], str)
        if any(list(sample) != names for sample in named):
            raise TypeError(
                f"The samples consist of several parts, some of {names} and some of others. "
                "Expected the same parts in every sample."
            )
        return {name: [_as_numbers(name, sample[name]) for sample in named] for name in names}

    def _choose_target(self, names):
        if self.target is None:
            self._target_name = "labels" if self._is_dict else len(names) - 1 or None
            return
        self._target_name = None if self.target is False else self.target
        if self._target_name not in (None, *names):
            raise ValueError(
                f"The samples have no part target={self.target!r}. Expected one of "
                f"{', '.join(map(repr, names))}."
            )

    def _check_repeats(self, columns):
        again = self._columns([0])
        if not all(np.array_equal(columns[name][0], again[name][0]) for name in columns):
            # The collator may pad to the longest of a batch.
            if self.collate_fn is None:
                raise ValueError(
                    "Sample 0 is another one when it is read again, so that it has no gradient of "
                    "its own. Turn random augmentation off."
                )

    def _include(self, name, values):
        """Enlarge shape and type of a part by those of more samples."""
        shapes = {value.shape for value in values} | {self._shapes.get(name, values[0].shape)}
        if len({len(shape) for shape in shapes}) > 1:
            raise TypeError(f"The part {name!r} of the samples has several numbers of axes.")
        if len(shapes) > 1:
            self._ragged.add(name)
        self._shapes[name] = tuple(np.max(list(shapes), axis=0).astype(int).tolist())
        types = {value.dtype for value in values} | {self._dtypes.get(name, values[0].dtype)}
        # Labels may be filled with a negative number.
        signed = {np.int64} if name == self._target_name and name in self._ragged else set()
        self._dtypes[name] = np.result_type(*types, *signed)

    def _padded(self, name, values, fill):
        """Samples of one part in one array, the shorter ones filled up."""
        out = np.empty((len(values), *self._shapes[name]), self._dtypes[name])
        if name in self._ragged:
            out[...] = fill
        for i, value in enumerate(values):
            out[i, *map(slice, value.shape)] = value
        return out

    def read(self, positions):
        """Inputs of some samples, as arrays.

        Parameters
        ----------
        positions : sequence of int
            Positions of the samples in the dataset.

        Returns
        -------
        ndarray, tuple of ndarray or dict of str to ndarray
            What the module takes, samples along the first axes.
        """
        named = self._read(positions)
        if self._is_dict:
            return named
        values = tuple(named.values())
        return values if len(values) > 1 else values[0]

    def _read(self, positions):
        columns = self._columns(positions)
        columns.pop(self._target_name, None)
        named = {
            name: self._padded(name, values, 0 if name == self.mask else self.padding)
            for name, values in columns.items()
        }
        if self._masked is not None:
            lengths = np.array([len(value) for value in columns[self._masked]])
            named[self.mask] = np.arange(self._shapes[self._masked][0]) < lengths[:, None]
        return named

    # The module's inputs, as a network reads them.

    def pack(self, X):
        """Positions of samples, checked.

        Parameters
        ----------
        X : array-like of int of shape (n, 1)
            Positions of samples in the dataset.

        Returns
        -------
        ndarray of shape (n, 1)
            The positions.

        Raises
        ------
        ValueError
            If they are no positions.
        """
        positions = np.asarray(X)
        if (
            positions.shape[1:] != (1,)
            or positions.dtype.kind not in "iuf"
            or not np.isin(positions, self.X).all()
        ):
            raise ValueError(
                f"With inputs=DatasetInputs(...), rows are positions of samples, from 0 to "
                f"{len(self) - 1}, in an array of shape (n, 1). Got an array of shape "
                f"{positions.shape} with other content; take rows of the attribute X, and queries "
                "from the same dataset, a ConcatDataset of both."
            )
        return positions

    def find_type(self, network, features):
        """Do nothing: the samples tell all types."""

    def tensor_type(self, features, dtype):
        """Type of the tensor of positions."""
        return torch.long

    def unpack(self, x, dtype):
        """Arguments and keyword arguments of the module, with numbers in ``dtype``."""
        values = {
            name: torch.as_tensor(value).to(TYPES.get(value.dtype.kind, dtype)).to(x.device)
            for name, value in self._read(x[:, 0].tolist()).items()
        }
        return ((), values) if self._is_dict else (tuple(values.values()), {})

    def for_training(self, X, dtype):
        """Samples at some positions, as a Subset of the dataset."""
        return Subset(self.dataset, np.asarray(X)[:, 0].astype(int).tolist())


def _in_order(dataset, collate_fn):
    """Samples by position, and what collates them, None for stacking."""
    loader = dataset if isinstance(dataset, DataLoader) else None
    dataset = dataset if loader is None else loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{type(dataset).__name__} has no samples by position, so that no row has a name. "
            "Expected a Dataset with __getitem__ and __len__; of what can only be iterated over, "
            "give list(dataset)."
        )
    if loader is not None:
        _check_order(loader)
        collate_fn = loader.collate_fn if collate_fn is None else collate_fn
    return dataset, None if collate_fn is default_collate else collate_fn


def _check_order(loader):
    if loader.batch_size is None or not isinstance(loader.sampler, SequentialSampler):
        raise ValueError(
            "The DataLoader draws samples in an order of its own, and another one each time, so "
            "that row i of a result would be no sample in particular. Expected shuffle=False and "
            "no sampler, or the dataset itself."
        )
    if loader.drop_last and len(loader.dataset) % loader.batch_size:
        raise ValueError(
            "The DataLoader drops the samples of its last batch. Give drop_last=False, or the "
            "dataset with the samples that the module was trained on."
        )


def _named(parts):
    """Parts of a sample or of a batch by name or position."""
    if isinstance(parts, Mapping):
        return dict(parts)
    return dict(enumerate(parts)) if isinstance(parts, tuple | list) else {0: parts}


def _as_numbers(name, value):
    array = as_array(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"The part {name!r} of the samples holds {array.dtype}. Expected numbers: turn text "
            "into tokens first, and leave out what the module does not take."
        )
    return array
