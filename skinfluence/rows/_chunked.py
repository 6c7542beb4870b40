"""Features and rows of samples that are read piece by piece, whenever a product needs them."""

from functools import cached_property, partial
from operator import attrgetter

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence.rows._kronecker import KroneckerRows
from skinfluence.rows._loops import each, of_tasks, total
from skinfluence.rows._streamed import MadeInParts

# Rows up to which small pieces are taken together.
TOGETHER = 4096


def spans(edges, n_rows):
    """Slices of at most so many rows, each of whole small pieces or inside one.

    Parameters
    ----------
    edges : ndarray of int of shape (n_pieces + 1,)
        First row of every piece, and the number of all rows.
    n_rows : int
        Most rows of a slice.

    Returns
    -------
    list of slice
    """
    n_rows = min(n_rows, max(TOGETHER, int(np.diff(edges).max())))
    found, start = [], 0
    for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if right - start <= n_rows:
            continue
        if left > start:
            found.append(slice(start, left))
        starts = list(range(left, right, n_rows))
        found += [slice(i, i + n_rows) for i in starts[:-1]]
        start = starts[-1]
    return [*found, slice(start, int(edges[-1]))]


def chosen(samples, n_samples):
    """A slice without negative ends or an index array, and how many samples it chooses."""
    if isinstance(samples, slice):
        start, stop, step = samples.indices(n_samples)
        if step == 1:
            return slice(start, max(start, stop)), max(0, stop - start)
    index = np.arange(n_samples)[samples]
    return index, len(index)


class ChunkedFeatures:
    """Features of all samples, of which a slice or some rows are read at a time.

    Parameters
    ----------
    read : callable
        ``read(samples)`` gives the features of a slice or an index array of samples, and
        ``read.only(samples)`` is the same for these alone, to be sent to a worker. Has ``edges``,
        the first sample of every piece and the number of all, and ``n_jobs``.
    """

    # NumPy would otherwise compute products of arrays with these by itself.
    __array_ufunc__ = None

    def __init__(self, read):
        self.read = read
        first = read(slice(0, 1))
        self.shape = int(read.edges[-1]), first.shape[1]
        self.dtype = getattr(first, "dtype", np.dtype(np.float64))
        self.is_sparse = getattr(first, "is_sparse", sp.issparse(first))

    ndim = 2

    @property
    def size(self):
        """Numbers of all samples; of sparse ones, as many as the first has entries."""
        return self.shape[0] * self[:1].size

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, samples):
        return self.read(chosen(samples, len(self))[0])

    def __array__(self, dtype=None, copy=None):
        del copy
        features = self[:]
        features = features.toarray() if sp.issparse(features) else np.asarray(features)
        return features if dtype is None else features.astype(dtype, copy=False)

    def slices(self):
        """Slices of samples whose features fit into the working memory, piece by piece."""
        return spans(self.read.edges, batches(len(self), 16 * self.shape[1])[0].stop)

    def __matmul__(self, matrix):
        """Product with an array (d, m) or a sketch of d columns."""
        return np.concatenate([*each(partial(_times, matrix), self.read, self.slices())])

    def __rmatmul__(self, matrix):
        """Product of an array (m, n_samples) with the features."""
        return total(_product, self.read, self.slices(), lambda part: (matrix[..., part],))

    def squared_norms(self):
        """Squared Euclidean norm of every sample."""
        return np.concatenate([*each(_squared_norms, self.read, self.slices())])


# Plain functions of what was read of a slice, which can be sent to a worker.


def _times(matrix, features):
    return np.asarray(_dense(features) @ matrix)


def _product(features, matrix):
    return np.asarray(matrix @ _dense(features))


def _dense(features):
    """Double precision, where features are an array."""
    return features.astype(np.float64, copy=False) if hasattr(features, "astype") else features


def _squared_norms(features):
    one = np.ones((features.shape[0], 1, 1))
    return KroneckerRows(one, features).squared_norms()


class ChunkedRows(MadeInParts, KroneckerRows):
    """Rows of a linear layer, made piece by piece whenever a product needs them.

    Parameters
    ----------
    make : callable
        ``make(samples)`` gives the `KroneckerRows` of a slice or an index array of samples; with
        ``only``, ``edges`` and ``n_jobs``, as of `ChunkedFeatures`.
    features : ChunkedFeatures
        Activations of all samples.
    """

    is_jacobian = False
    reads_pieces = True

    def __init__(self, make, features):
        self.make = make
        self.activation = features
        first = make(slice(0, 1))
        self._shape = first.rows_per_sample, first.layer_shape, first.n_intercepts
        self._is_layer = first.is_layer

    n_samples = property(lambda self: len(self.activation))
    rows_per_sample = property(lambda self: self._shape[0])
    layer_shape = property(lambda self: self._shape[1])
    n_intercepts = property(lambda self: self._shape[2])
    is_layer = property(lambda self: self._is_layer)

    def __getstate__(self):
        # What can be computed again is no part of the rows.
        lazy = ("residual", "intercept_columns")
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in lazy}

    # Loops over the pieces.

    def of_tasks(self, function, groups, arguments=None):
        """Results of a function of the slices of each task; see `rows._loops.of_tasks`."""
        return of_tasks(function, self.make, groups, arguments)

    def each(self, function, slices=None, arguments=None):
        return each(function, self.make, slices or self.batches(cached=True), arguments)

    def total(self, function, slices=None, arguments=None):
        return total(function, self.make, slices or self.batches(cached=True), arguments)

    # What is held of all samples at once, where a product cannot do without.

    @cached_property
    def residual(self):
        return np.concatenate([*self.each(attrgetter("residual"))])

    @cached_property
    def intercept_columns(self):
        return np.concatenate([*self.each(attrgetter("intercept_columns"))])

    # Products, piece by piece.

    def __getitem__(self, samples):
        samples, n_chosen = chosen(samples, self.n_samples)
        # No model reads targets of no rows.
        return self.make(samples) if n_chosen else self.make(slice(0, 1))[:0]

    def batches(self, batch_size=None, *, cached=False):
        fitting = super().batches(batch_size, cached=cached)
        return spans(self.make.edges, fitting[0].stop)

    def parts(self, n_vectors, batch_size=None):
        # Features are read, too.
        by_products, by_rows = super().parts(n_vectors, batch_size), super().batches(batch_size)
        return spans(self.make.edges, min(by_products[0].stop, by_rows[0].stop))

    def weighted(self, weight):
        return ChunkedRows(_Weighted(self.make, np.asarray(weight)), self.activation)


class _Weighted:
    """Makes rows with weights, each by itself.

    Parameters
    ----------
    make : callable
        Makes the rows without them.
    weight : ndarray of shape (n_samples,)
        Weights of all samples, or of those from ``start`` on.
    start : int, default=0
        The first sample that has a weight.
    """

    def __init__(self, make, weight, start=0):
        self.make = make
        self.weight = weight
        self.start = start

    edges = property(lambda self: self.make.edges)
    n_jobs = property(lambda self: self.make.n_jobs)

    def __call__(self, samples):
        if isinstance(samples, slice):
            own = slice(samples.start - self.start, samples.stop - self.start)
        else:
            own = samples - self.start
        return self.make(samples).weighted(self.weight[own])

    def only(self, samples):
        own = slice(samples.start - self.start, samples.stop - self.start)
        return _Weighted(self.make.only(samples), self.weight[own], samples.start)
