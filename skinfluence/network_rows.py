"""Rows that only networks have: weights shared over positions, and rows made batch by batch.

Conventions
-----------
As in ``skinfluence.rows``, and ``t`` positions of a sample at which a layer is applied: the
pixels of a convolution, the steps of a sequence.
"""

from functools import partial

import numpy as np
import scipy.sparse as sp

from skinfluence._batching import batches
from skinfluence.rows import BlockRows, Rows


class SharedRows(Rows):
    """Rows ``sum_t residual_t (x) [activation_t, 1]`` of a layer applied at t positions.

    Columns are ``[W.ravel(), b]`` as in KroneckerRows. Products write out one batch of rows at
    a time: with several positions the sum has fewer numbers than its terms.

    Parameters
    ----------
    residual : ndarray of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the layer's outputs at each position.
    activation : {ndarray, CSR matrix} of shape (n_samples * t, d)
        The layer's inputs, position after position.
    bias : bool
        Whether the layer has a bias.
    scale : ndarray of shape (n_columns,), default=None
        What the columns are multiplied by.
    """

    def __init__(self, residual, activation, bias, scale=None):
        self.residual = residual
        self.activation = activation
        self.bias = bias
        self.scale = scale

    @property
    def n_samples(self):
        return self.residual.shape[0]

    @property
    def rows_per_sample(self):
        return self.residual.shape[1]

    @property
    def n_positions(self):
        """Number of positions of a sample."""
        return self.residual.shape[2]

    @property
    def layer_shape(self):
        """Outputs and inputs, (c, d)."""
        return self.residual.shape[3], self.activation.shape[1]

    @property
    def n_columns(self):
        c, d = self.layer_shape
        return c * (d + self.bias)

    def __getitem__(self, samples):
        positions = np.arange(self.activation.shape[0]).reshape(self.n_samples, -1)[samples]
        return SharedRows(
            self.residual[samples], self.activation[positions.ravel()], self.bias, self.scale
        )

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        part = self[samples]
        residual = part.residual[np.arange(len(index)), place]
        return SharedRows(residual[:, None], part.activation, self.bias, self.scale)

    def toarray(self):
        n_rows = self.n_samples * self.rows_per_sample
        sums = self._position_sums().reshape(n_rows, -1)
        if self.bias:
            free = self.residual.sum(axis=2, dtype=np.float64).reshape(n_rows, -1)
            sums = np.hstack([sums, free])
        return sums if self.scale is None else sums * self.scale

    def _position_sums(self):
        if not sp.issparse(self.activation):
            cube = self.activation.reshape(self.n_samples, 1, self.n_positions, -1)
            return np.matmul(self.residual.transpose(0, 1, 3, 2), cube).astype(np.float64)
        out = np.empty((*self.residual.shape[:2], *self.layer_shape))
        t = self.n_positions
        for i, residual in enumerate(self.residual):
            flat = np.swapaxes(residual, 1, 2).reshape(-1, t)
            out[i] = (self.activation[i * t : (i + 1) * t].T @ flat.T).T.reshape(out[i].shape)
        return out

    def inner(self, other, out=None):
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        for batch in self.batches():
            other.dotted_by(self[batch].toarray(), out=out[self._row_slice(batch)])
        return out

    def rescaled(self, scale):
        scale = scale if self.scale is None else scale * self.scale
        return SharedRows(self.residual, self.activation, self.bias, scale)

    def weighted(self, weight):
        weight = np.asarray(weight)[:, None, None, None]
        return SharedRows(self.residual * weight, self.activation, self.bias, self.scale)


class StreamedRows(Rows):
    """Rows that are made anew for each batch and product, whatever their number.

    Parameters
    ----------
    make : callable
        ``make(samples) -> Rows`` for a slice or an index array.
    n_samples, rows_per_sample, n_columns : int
        Shape of the rows.
    sample_bytes : int
        Bytes that the factored rows of one sample need.
    """

    def __init__(self, make, n_samples, rows_per_sample, n_columns, sample_bytes):
        self.make = make
        self._n_samples = n_samples
        self._rows_per_sample = rows_per_sample
        self._n_columns = n_columns
        self.sample_bytes = sample_bytes

    @property
    def n_samples(self):
        return self._n_samples

    @property
    def rows_per_sample(self):
        return self._rows_per_sample

    @property
    def n_columns(self):
        return self._n_columns

    def __getitem__(self, samples):
        return self.make(np.arange(self.n_samples)[samples])

    def batches(self, batch_size=None):
        return batches(self.n_samples, self.sample_bytes, batch_size)

    @property
    def device(self):
        return self[:0].device

    def pieces(self):
        for part in self._parts():
            yield from part.pieces()

    def toarray(self):
        return np.concatenate([part.toarray() for part in self._parts()])

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return np.concatenate([part @ matrix for part in self._parts()])

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return sum(matrix[:, self._row_slice(batch)] @ self[batch] for batch in self.batches())

    def inner(self, other, out=None):
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        for batch in self.batches():
            self[batch].inner(other, out=out[self._row_slice(batch)])
        return out

    def dotted_by(self, vectors, out=None):
        out = np.empty((len(vectors), self.shape[0])) if out is None else out
        for batch in self.batches():
            out[:, self._row_slice(batch)] = self[batch].dotted_by(vectors)
        return out

    def moment(self, weight):
        return sum(self[batch].moment(weight[batch]) for batch in self.batches())

    def squared_norms(self):
        return np.concatenate([part.squared_norms() for part in self._parts()])

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        return self[samples].picked(np.arange(len(index)) * self.rows_per_sample + place)

    def columns(self, index):
        return np.concatenate([part.columns(index) for part in self._parts()])

    def _remade(self, make):
        shape = self.n_samples, self.rows_per_sample, self.n_columns
        return StreamedRows(make, *shape, self.sample_bytes)

    def rescaled(self, scale):
        return self._remade(partial(_rescaled, self.make, scale))

    def weighted(self, weight):
        return self._remade(partial(_weighted, self.make, np.asarray(weight)))


# Rows with one block of columns for each layer of a network.
LAYERED = (BlockRows, StreamedRows)


# Functions of the module rather than closures, so that rows can be pickled.


def _rescaled(make, scale, samples):
    return make(samples).rescaled(scale)


def _weighted(make, weight, samples):
    return make(samples).weighted(weight[samples])
