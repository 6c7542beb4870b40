"""Samples of a torch Dataset as training rows and queries: read once, or whenever they are needed.

Samples are read by their position, so that row i of all results is sample i of the dataset.
"""

import numpy as np
import torch
from torch.utils.data import Subset

from skinfluence.models.torch._inputs import TYPES
from skinfluence.models.torch._samples import Samples, in_order


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
    dataset, collate_fn = in_order(dataset, collate_fn)
    held = [dataset[i] for i in range(len(dataset))]
    samples = Samples(held, target, collate_fn, padding, mask)
    named = samples.read(range(len(held)))
    values = tuple(named.values())
    X = named if samples.is_dict else values if len(values) > 1 else values[0]
    return X, samples.targets


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
        self.samples = Samples(dataset, target, collate_fn, padding, mask)
        self.X = np.arange(len(self.samples))[:, None]
        self.y = self.samples.targets

    def __sklearn_clone__(self):
        # It holds no fit, and a copy of the samples may not fit into memory.
        return self

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
                f"{len(self.X) - 1}, in an array of shape (n, 1). Got an array of shape "
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
            for name, value in self.samples.read(x[:, 0].tolist()).items()
        }
        return ((), values) if self.samples.is_dict else (tuple(values.values()), {})

    def for_training(self, X, dtype):
        """Samples at some positions, as a Subset of the dataset."""
        return Subset(self.samples.dataset, np.asarray(X)[:, 0].astype(int).tolist())
