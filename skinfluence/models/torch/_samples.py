"""Parts of the samples of a dataset, measured once and padded to the longest."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils import gen_batches
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate

from skinfluence.models.torch._inputs import as_array

# A cross entropy leaves out targets with this label.
IGNORED = -100

# Samples that are measured at once.
BATCH = 256


class Samples:
    """Inputs and targets of the samples of a dataset, read by position.

    Making it reads every sample once, to learn targets, and kind, type and largest shape of every
    part.

    Parameters
    ----------
    dataset, target, collate_fn, padding, mask
        As `read_dataset` takes them.

    Attributes
    ----------
    dataset : sequence
        The samples.
    is_dict : bool
        Whether the parts have names, or are positional.
    targets : ndarray of shape (n_samples,) or (n_samples, t), or None
        Targets of all samples.
    """

    def __init__(self, dataset, target, collate_fn, padding, mask):
        self.dataset, self.collate_fn = in_order(dataset, collate_fn)
        self.padding, self.mask = padding, mask
        self._shapes, self._dtypes, self._ragged = {}, {}, set()
        self.targets = self._measure(target)
        inputs = [name for name in self._shapes if name != self._target]
        # The part whose lengths the mask tells, None without a mask.
        needs_mask = self.collate_fn is None and None is not self.mask not in inputs
        self._masked = next((name for name in inputs if needs_mask and name in self._ragged), None)

    def __len__(self):
        return len(self.dataset)

    def read(self, positions):
        """Inputs of some samples by name, padded arrays."""
        columns = self._columns(positions)
        columns.pop(self._target, None)
        named = {
            name: self._padded(name, values, 0 if name == self.mask else self.padding)
            for name, values in columns.items()
        }
        if self._masked is not None:
            lengths = np.array([len(value) for value in columns[self._masked]])
            named[self.mask] = np.arange(self._shapes[self._masked][0]) < lengths[:, None]
        return named

    def _measure(self, target):
        """Targets of all samples; types and shapes of the parts on the way."""
        targets = []
        for positions in gen_batches(len(self), BATCH):
            columns = self._columns(range(positions.start, positions.stop))
            if positions.start == 0:
                self._target = self._name_of_target(target, list(columns))
                self._check_repeats(columns)
            for name, values in columns.items():
                self._include(name, values)
            targets += columns.get(self._target, [])
        return self._padded(self._target, targets, IGNORED) if targets else None

    def _columns(self, positions):
        """Parts of samples by name, each a list of arrays."""
        samples = [self.dataset[i] for i in positions]
        if self.collate_fn is not None:
            parts = _named(self.collate_fn(samples))
            columns = {name: list(_numbers(name, value)) for name, value in parts.items()}
        else:
            named = [_named(sample) for sample in samples]
            _check_same_parts(named)
            columns = {name: [_numbers(name, each[name]) for each in named] for name in named[0]}
        self.is_dict = isinstance(next(iter(columns)), str)
        return columns

    def _name_of_target(self, target, names):
        if target is None:
            return "labels" if self.is_dict else len(names) - 1 or None
        if target is not False and target not in names:
            raise ValueError(
                f"The samples have no part target={target!r}. Expected one of "
                f"{', '.join(map(repr, names))}."
            )
        return None if target is False else target

    def _check_repeats(self, columns):
        if self.collate_fn is not None:
            # It may pad a sample to the longest of its batch.
            return
        again = self._columns([0])
        if not all(np.array_equal(columns[name][0], again[name][0]) for name in columns):
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
        signed = {np.int64} if name == self._target and name in self._ragged else set()
        self._dtypes[name] = np.result_type(*types, *signed)

    def _padded(self, name, values, fill):
        """Samples of one part in one array, the shorter ones filled up."""
        out = np.empty((len(values), *self._shapes[name]), self._dtypes[name])
        if name in self._ragged:
            out[...] = fill
        for i, value in enumerate(values):
            out[i, *map(slice, value.shape)] = value
        return out


def in_order(dataset, collate_fn):
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


def _check_same_parts(samples):
    names = list(samples[0])
    if any(list(sample) != names for sample in samples):
        raise TypeError(
            f"The samples consist of several parts, some of {names} and some of others. Expected "
            "the same parts in every sample."
        )


def _numbers(name, value):
    array = as_array(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"The part {name!r} of the samples holds {array.dtype}. Expected numbers: turn text "
            "into tokens first, and leave out what the module does not take."
        )
    return array
