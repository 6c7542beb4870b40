"""Rows of a layer whose weights are shared over positions.

Conventions
-----------
As in ``skinfluence.rows``, with ``t`` positions of a sample to which a layer is applied: the
pixels of a convolution, the steps of a sequence.
"""

from functools import cached_property

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence._utils.namespace import (
    beside,
    dot,
    in_double,
    is_tensor,
    like,
    n_numbers,
    namespace,
    to_numpy,
    zeros,
)
from skinfluence.rows._activations import stacked
from skinfluence.rows._base import CACHE_BYTES, Rows
from skinfluence.rows._kronecker import KroneckerRows


class SharedRows(Rows):
    """Rows ``sum_t residual_t (x) [activation_t, 1]`` of a layer applied at t positions.

    Columns are ``[W.ravel(), b]`` as in KroneckerRows. A product with m vectors either writes out
    a slice of rows, or contracts the vectors with the activations first and with the residuals
    then: whichever takes fewer operations. NumPy's rules tell its precision. Factors may be
    tensors, see `Rows`.

    Parameters
    ----------
    residual : {ndarray, tensor} of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the layer's outputs at each position.
    activation : {ndarray, CSR matrix, tensor} of shape (n_samples * t, d)
        The layer's inputs, position after position.
    has_bias : bool
        Whether the layer has a bias.
    scale : ndarray of shape (n_columns,), default=None
        Factors of the columns.
    """

    def __init__(self, residual, activation, has_bias, scale=None):
        self.residual = residual
        self.activation = activation
        self.has_bias = has_bias
        self.scale = scale

    @property
    def n_samples(self):
        return self.residual.shape[0]

    @property
    def rows_per_sample(self):
        return self.residual.shape[1]

    @property
    def n_stored(self):
        return (n_numbers(self.residual) + n_numbers(self.activation)) / self.n_samples

    @property
    def holds_tensors(self):
        return is_tensor(self.residual)

    @property
    def is_shared(self):
        return self.n_positions > 1

    @property
    def n_positions(self):
        """Number of positions of a sample."""
        return self.residual.shape[2]

    @property
    def layer_shape(self):
        """Outputs and inputs, (c, d)."""
        return self.residual.shape[3], self.activation.shape[1]

    @property
    def is_layer(self):
        return self.scale is None

    @property
    def position_residuals(self):
        """Residuals by position, (n_samples, rows_per_sample, t, c)."""
        return self.residual

    @property
    def n_columns(self):
        c, d = self.layer_shape
        return c * (d + self.has_bias)

    def __getitem__(self, samples):
        t = self.n_positions
        if isinstance(samples, slice) and samples.step in (None, 1):
            start, stop, _ = samples.indices(self.n_samples)
            positions = slice(start * t, max(start, stop) * t)
        else:
            positions = np.arange(self.n_samples * t).reshape(self.n_samples, t)[samples].ravel()
        return SharedRows(
            self.residual[samples], self.activation[positions], self.has_bias, self.scale
        )

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        part = self[samples]
        residual = part.residual[np.arange(len(index)), place]
        return SharedRows(residual[:, None], part.activation, self.has_bias, self.scale)

    def toarray(self):
        return to_numpy(self.written())

    def written(self):
        sums = in_double(self._position_sums())
        if self.has_bias:
            sums = namespace(sums).concatenate([sums, self._bias_columns], axis=1)
        return sums if self.scale is None else sums * beside(self.scale, sums)

    def on_host(self):
        if not self.holds_tensors:
            return self
        factors = to_numpy(self.residual), to_numpy(self.activation), self.has_bias
        return layer_rows(*factors) if self.is_layer else SharedRows(*factors, self.scale)

    def _position_sums(self):
        """``sum_t residual_t (x) activation_t``, (n_rows, c * d)."""
        (n_samples, s, t, c), d = self.residual.shape, self.activation.shape[1]
        if not sp.issparse(self.activation):
            cube = self.activation.reshape(n_samples, 1, t, d)
            sums = namespace(cube).matmul(self.residual.swapaxes(2, 3), cube)
            return sums.reshape(n_samples * s, c * d)
        out = np.empty((n_samples, s, c, d))
        for i, residual in enumerate(self.residual):
            flat = np.swapaxes(residual, 1, 2).reshape(-1, t)
            out[i] = (self.activation[i * t : (i + 1) * t].T @ flat.T).T.reshape(out[i].shape)
        return out.reshape(n_samples * s, c * d)

    @cached_property
    def _bias_columns(self):
        """Columns of the bias, (n_rows, c) in double precision."""
        n_samples, s, _, c = self.residual.shape
        sums = self.residual.sum(axis=2, dtype=namespace(self.residual).float64)
        return sums.reshape(n_samples * s, c)

    # Products.

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.dotted_by(np.ascontiguousarray(matrix.T)).T

    def dotted_by(self, vectors, out=None):
        (c, d), m = self.layer_shape, len(vectors)
        out = zeros((m, self.shape[0]), vectors) if out is None else out
        own = beside(vectors, self.residual)
        own = own if self.scale is None else own * beside(self.scale, own)
        weights = own[:, : c * d]
        by_factors = self._writes_more(m)
        if by_factors:
            weights = weights.reshape(m, c, d).swapaxes(0, 2).reshape(d, c * m)
        for batch in self._slices(m, by_factors):
            part = self[batch]
            product = part._through_factors(weights) if by_factors else part._written_by(weights)
            if self.has_bias:
                columns = self._bias_columns[self.row_slice(batch)]
                product = product + dot(own[:, c * d :], columns.T)
            out[:, self.row_slice(batch)] = beside(product, vectors)
        return out

    def _writes_more(self, m):
        """Whether writing the rows out takes more operations than m products by factors."""
        (_, s, t, _), d = self.residual.shape, self.activation.shape[1]
        if sp.issparse(self.activation):
            return True
        return s * d * (t + m) > t * m * (d + s)

    def _slices(self, m, by_factors):
        (_, s, t, _), (c, d) = self.residual.shape, self.layer_shape
        numbers = t * c * m if by_factors else s * c * d
        # A device has no such cache, and is kept busy by larger slices.
        at_most = float("inf") if self.holds_tensors else CACHE_BYTES
        return batches(self.n_samples, 8 * numbers, at_most=at_most)

    def _through_factors(self, stacked):
        """Products with vectors (d, c * m), (m, n_rows)."""
        n_samples, s, t, c = self.residual.shape
        cube = self._activation_by(stacked).reshape(n_samples, t * c, -1)
        product = dot(self.residual.reshape(n_samples, s, t * c), cube)
        return product.reshape(n_samples * s, -1).T

    def _activation_by(self, matrix):
        if sp.issparse(self.activation):
            return self.activation @ matrix
        return dot(self.activation, matrix)

    def _written_by(self, weights):
        return dot(weights, self._position_sums().T)

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        (c, d), m = self.layer_shape, len(matrix)
        out, own = zeros((m, self.n_columns), self.residual), beside(matrix, self.residual)
        weights = out[:, : c * d]
        by_factors = self._writes_more(m)
        for batch in self._slices(m, by_factors):
            part, factors = self[batch], own[:, self.row_slice(batch)]
            if by_factors:
                for total, row in zip(weights, factors, strict=True):
                    total += part._combined(row).ravel()
            else:
                weights += dot(factors, part._position_sums())
        if self.has_bias:
            out[:, c * d :] = dot(own, self._bias_columns)
        out = to_numpy(out)
        return out if self.scale is None else out * self.scale

    def _combined(self, row):
        """Sum of the rows with coefficients (n_rows,), (c, d)."""
        n_samples, s, t, c = self.residual.shape
        residual = self.residual.reshape(n_samples, s, t * c)
        mixed = dot(row.reshape(n_samples, 1, s), residual)
        return self._transposed_by(mixed.reshape(n_samples * t, c)).T

    def _transposed_by(self, matrix):
        if sp.issparse(self.activation):
            return self.activation.T @ matrix
        return dot(self.activation.T, matrix)

    def inner(self, other, out=None):
        return self.inner_by_parts(other, out)

    def concatenated(self, others):
        parts = [self, *others]
        residual = np.concatenate([rows.residual for rows in parts])
        activation = stacked([rows.activation for rows in parts])
        return SharedRows(residual, activation, self.has_bias, self.scale)

    def rescaled(self, scale):
        scale = scale if self.scale is None else scale * self.scale
        return SharedRows(self.residual, self.activation, self.has_bias, scale)

    def weighted(self, weight):
        residual = self.residual * like(np.asarray(weight), self.residual)[:, None, None, None]
        return SharedRows(residual, self.activation, self.has_bias, self.scale)


def layer_rows(residual, activation, has_bias=False):
    """Rows of a linear layer, from its factors at all positions.

    Parameters
    ----------
    residual : {ndarray, tensor} of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the layer's outputs.
    activation : {ndarray, CSR matrix, tensor} of shape (n_samples * t, d)
        The layer's inputs, position after position.
    has_bias : bool, default=False
        Whether the layer has a bias.

    Returns
    -------
    KroneckerRows or SharedRows
    """
    if residual.shape[2] > 1 or is_tensor(residual):
        return SharedRows(residual, activation, has_bias)
    residual = residual[:, :, 0]
    return KroneckerRows(residual, activation, residual if has_bias else None)
