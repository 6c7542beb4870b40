"""Rows of a layer whose weights are shared over positions.

Conventions
-----------
As in ``skinfluence.rows``, with ``t`` positions of a sample to which a layer is applied: the
pixels of a convolution, the steps of a sequence.
"""

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence.rows._base import CACHE_BYTES, Rows
from skinfluence.rows._kronecker import stacked


class SharedRows(Rows):
    """Rows ``sum_t residual_t (x) [activation_t, 1]`` of a layer applied at t positions.

    Columns are ``[W.ravel(), b]`` as in KroneckerRows. A product with m vectors either writes out
    a slice of rows, or contracts the vectors with the activations first and with the residuals
    then: whichever takes fewer operations. NumPy's rules tell its precision.

    Parameters
    ----------
    residual : ndarray of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the layer's outputs at each position.
    activation : {ndarray, CSR matrix} of shape (n_samples * t, d)
        The layer's inputs, position after position.
    has_bias : bool
        Whether the layer has a bias.
    scale : ndarray of shape (n_columns,), default=None
        Factors of the columns.
    """

    is_shared = True

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
        return (self.residual.size + self.activation.size) / self.n_samples

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
        n_rows = self.n_samples * self.rows_per_sample
        sums = self._position_sums().reshape(n_rows, -1)
        if self.has_bias:
            sums = np.hstack([sums, self._bias_columns()])
        return sums if self.scale is None else sums * self.scale

    def _position_sums(self, dtype=np.float64):
        """``sum_t residual_t (x) activation_t``, (n_samples, rows_per_sample, c, d)."""
        if not sp.issparse(self.activation):
            cube = self.activation.reshape(self.n_samples, 1, self.n_positions, -1)
            sums = np.matmul(self.residual.transpose(0, 1, 3, 2), cube)
            return sums.astype(dtype, copy=False)
        out = np.empty((*self.residual.shape[:2], *self.layer_shape), dtype)
        t = self.n_positions
        for i, residual in enumerate(self.residual):
            flat = np.swapaxes(residual, 1, 2).reshape(-1, t)
            out[i] = (self.activation[i * t : (i + 1) * t].T @ flat.T).T.reshape(out[i].shape)
        return out

    def _bias_columns(self):
        n_samples, s, _, c = self.residual.shape
        return self.residual.sum(axis=2, dtype=np.float64).reshape(n_samples * s, c)

    # Products.

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.dotted_by(np.ascontiguousarray(matrix.T)).T

    def dotted_by(self, vectors, out=None):
        vectors = vectors if self.scale is None else vectors * self.scale
        (c, d), m = self.layer_shape, len(vectors)
        weights = vectors[:, : c * d]
        by_factors = self._writes_more(m)
        if by_factors:
            weights = weights.reshape(m, c, d).transpose(2, 1, 0).reshape(d, c * m)
        out = np.empty((m, self.shape[0])) if out is None else out
        for batch in self._slices(m, by_factors):
            part = self[batch]
            product = part._through_factors(weights) if by_factors else part._written_by(weights)
            if self.has_bias:
                product = product + vectors[:, c * d :] @ part._bias_columns().T
            out[:, self.row_slice(batch)] = product
        return out

    def _writes_more(self, m):
        """Whether writing the rows out takes more operations than m products by factors."""
        (_, s, t, _), d = self.residual.shape, self.activation.shape[1]
        if sp.issparse(self.activation):
            return True
        return s * d * (t + m) > t * m * (d + s)

    def _slices(self, m, by_factors):
        (_, s, t, c), d = self.residual.shape, self.activation.shape[1]
        numbers = t * c * m if by_factors else s * c * d
        return batches(self.n_samples, 8 * numbers, at_most=CACHE_BYTES)

    def _through_factors(self, stacked):
        """Products with vectors (d, c * m), (m, n_rows)."""
        n_samples, s, t, c = self.residual.shape
        cube = np.asarray(self.activation @ stacked).reshape(n_samples, t * c, -1)
        product = self.residual.reshape(n_samples, s, t * c) @ cube
        return product.reshape(n_samples * s, -1).T

    def _written_by(self, weights):
        dtype = np.result_type(weights, self.residual)
        sums = self._position_sums(dtype).reshape(self.shape[0], -1)
        return weights @ sums.T

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        (c, d), m = self.layer_shape, len(matrix)
        out = np.zeros((m, self.n_columns))
        weights = out[:, : c * d]
        by_factors = self._writes_more(m)
        for batch in self._slices(m, by_factors):
            part, factors = self[batch], matrix[:, self.row_slice(batch)]
            if by_factors:
                for total, row in zip(weights, factors, strict=True):
                    total += part._combined(row).ravel()
            else:
                weights += factors @ part._position_sums().reshape(part.shape[0], -1)
            if self.has_bias:
                out[:, c * d :] += factors @ part._bias_columns()
        return out if self.scale is None else out * self.scale

    def _combined(self, row):
        """Sum of the rows with coefficients (n_rows,), (c, d)."""
        n_samples, s, t, c = self.residual.shape
        residual = self.residual.reshape(n_samples, s, t * c)
        mixed = row.reshape(n_samples, 1, s) @ residual
        return np.asarray((self.activation.T @ mixed.reshape(n_samples * t, c)).T)

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
        weight = np.asarray(weight).astype(self.residual.dtype, copy=False)
        residual = self.residual * weight[:, None, None, None]
        return SharedRows(residual, self.activation, self.has_bias, self.scale)
