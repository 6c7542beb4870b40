"""Rows that are made batch by batch, whenever a product needs them."""

from functools import partial
from operator import methodcaller

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.rows._base import Rows

# Factors of so many bytes are made at once: those of more samples would not be made any faster.
STREAM_BYTES = 2**26


class MadeInParts:
    """Products of rows that are made whenever a product needs them, one part at a time.

    For subclasses of `Rows`, before it among their parents. Need to be defined: ``batches`` and
    ``__getitem__``.
    """

    @property
    def n_stored(self):
        # Made again for every product: what one sample takes once it is made.
        return self[:1].n_stored

    def toarray(self):
        return np.concatenate([*self.each(methodcaller("toarray"))])

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return np.concatenate([*self.each(partial(_times, matrix))])

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.total(
            _product, self.batches(), lambda part: (matrix[:, self.row_slice(part)],)
        )

    def inner(self, other, out=None):
        out, slices = _empty(out, (self.shape[0], other.shape[0])), self.batches()
        found = self.each(methodcaller("inner", other), slices)
        for batch, products in zip(slices, found, strict=True):
            out[self.row_slice(batch)] = products
        return out

    def dotted_by(self, vectors, out=None):
        out, slices = _empty(out, (len(vectors), self.shape[0])), self.batches()
        found = self.each(methodcaller("dotted_by", vectors), slices)
        for batch, products in zip(slices, found, strict=True):
            out[:, self.row_slice(batch)] = products
        return out

    def gram_product(self, vectors):
        # Both factors by one batch at a time, so that its rows are made once.
        return self.total(methodcaller("gram_product", vectors))

    def moment(self):
        return self.total(methodcaller("moment"))

    def column_squares(self):
        return self.total(methodcaller("column_squares"))

    def squared_norms(self):
        return np.concatenate([*self.each(methodcaller("squared_norms"))])

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        return self[samples].picked(np.arange(len(index)) * self.rows_per_sample + place)

    def columns(self, index):
        return np.concatenate([*self.each(methodcaller("columns", index))])


class StreamedRows(MadeInParts, Rows):
    """Rows recomputed on demand, batch by batch, so memory stays bounded.

    Parameters
    ----------
    make : callable
        ``make(samples) -> Rows`` for a slice or an index array.
    n_samples, rows_per_sample, n_columns : int
        Shape of the rows.
    sample_bytes : int
        Bytes that the factored rows of one sample need.
    """

    has_layers = True

    def __init__(self, make, n_samples, rows_per_sample, n_columns, sample_bytes):
        self.make = make
        self.n_samples = n_samples
        self.rows_per_sample = rows_per_sample
        self.n_columns = n_columns
        self.sample_bytes = sample_bytes

    def __getitem__(self, samples):
        return self.make(np.arange(self.n_samples)[samples])

    def batches(self, batch_size=None, *, cached=False):
        del cached
        return batches(self.n_samples, self.sample_bytes, batch_size, at_most=STREAM_BYTES)

    def _fitting(self):
        """The largest slices that fit into the working memory."""
        return batches(self.n_samples, self.sample_bytes)

    def made(self):
        """The rows themselves where they fit into the working memory, so are made only once."""
        return self.make(slice(None)) if len(self._fitting()) <= 1 else self

    def summed(self):
        sample_bytes = int(8 * self[:1].summed().n_stored)
        return self._remade(partial(_summed, self.make), sample_bytes).made()

    def parts(self, n_vectors, batch_size=None):
        return self.batches(batch_size)

    @property
    def device(self):
        return self[:0].device

    def pieces(self):
        for part in self._parts():
            yield from part.pieces()

    def inner(self, other, out=None):
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        # The other rows may be made again for each of these slices.
        for batch in self._fitting():
            self[batch].inner(other, out=out[self.row_slice(batch)])
        return out

    def gram_product(self, vectors):
        # Rows of as many bytes as the vectors, which are in memory, may be there too.
        limits = {"at_least": vectors.nbytes, "at_most": STREAM_BYTES}
        slices = batches(self.n_samples, self.sample_bytes, **limits)
        return self.total(methodcaller("gram_product", vectors), slices)

    def _remade(self, make, sample_bytes=None):
        shape = self.n_samples, self.rows_per_sample, self.n_columns
        return StreamedRows(make, *shape, sample_bytes or self.sample_bytes)

    def rescaled(self, scale):
        return self._remade(partial(_rescaled, self.make, scale))

    def weighted(self, weight):
        return self._remade(partial(weighted_part, self.make, np.asarray(weight)))


# Functions of the module rather than closures, so that rows can be pickled, and tasks sent.


def _times(matrix, rows):
    return rows @ matrix


def _product(rows, matrix):
    return matrix @ rows


def _own_columns(matrix, rows, samples):
    """Columns of a matrix that belong to the rows of some samples, as an argument."""
    return (matrix[:, rows.row_slice(samples)],)


def _empty(out, shape):
    return np.empty(shape) if out is None else out


def _summed(make, samples):
    return make(samples).summed()


def _rescaled(make, scale, samples):
    return make(samples).rescaled(scale)


def weighted_part(make, weight, samples):
    """Rows that are made of some samples, with their weights."""
    return make(samples).weighted(weight[samples])
