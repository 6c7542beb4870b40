"""Rows that are written out on a device."""

import numpy as np

from skinfluence._utils.namespace import (
    beside,
    dot,
    in_double,
    is_tensor,
    like,
    n_numbers,
    namespace,
    to_numpy,
)
from skinfluence.rows._base import DenseRows, Rows, into


def written_rows(matrix, rows_per_sample=1):
    """Rows that are written out, as an array or as a tensor.

    Parameters
    ----------
    matrix : {ndarray, tensor} of shape (n_samples * rows_per_sample, n_columns)
        The matrix.
    rows_per_sample : int, default=1
        Rows of each sample.

    Returns
    -------
    DenseRows or TensorRows
    """
    return (TensorRows if is_tensor(matrix) else DenseRows)(matrix, rows_per_sample)


class TensorRows(Rows):
    """Rows that are written out on a device.

    Parameters
    ----------
    tensor : tensor of shape (n_samples * rows_per_sample, n_columns)
        The matrix.
    rows_per_sample : int, default=1
        Rows of each sample.
    """

    holds_tensors = True

    def __init__(self, tensor, rows_per_sample=1):
        self.tensor = tensor
        self.rows_per_sample = rows_per_sample

    @property
    def n_samples(self):
        return len(self.tensor) // self.rows_per_sample

    @property
    def n_columns(self):
        return self.tensor.shape[1]

    @property
    def n_stored(self):
        return n_numbers(self.tensor) / self.n_samples

    @property
    def _cube(self):
        return self.tensor.reshape(self.n_samples, self.rows_per_sample, self.n_columns)

    def __getitem__(self, samples):
        return TensorRows(self._cube[samples].flatten(0, 1), self.rows_per_sample)

    def toarray(self):
        return to_numpy(self.written())

    def written(self):
        return in_double(self.tensor, copy=True)

    def on_host(self):
        return DenseRows(to_numpy(self.tensor), self.rows_per_sample)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.dotted_by(matrix.T).T

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return to_numpy(dot(beside(matrix, self.tensor), self.tensor))

    def dotted_by(self, vectors, out=None):
        product = dot(beside(vectors, self.tensor), self.tensor.T)
        return into(out, beside(product, vectors))

    def moment(self):
        rows = in_double(self.tensor)
        return rows.T @ rows

    def column_squares(self):
        return namespace(self.tensor).square(in_double(self.tensor)).sum(axis=0)

    def squared_norms(self):
        return to_numpy(namespace(self.tensor).square(in_double(self.tensor)).sum(axis=1))

    def weighted(self, weight):
        weight = like(np.asarray(weight), self.tensor)
        return TensorRows((self._cube * weight[:, None, None]).flatten(0, 1), self.rows_per_sample)
