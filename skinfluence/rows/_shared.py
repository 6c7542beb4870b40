"""Rows of a layer whose weights are shared over positions.

Conventions
-----------
As in ``skinfluence.rows``, with ``t`` positions of a sample to which a layer is applied: the
pixels of a convolution, the steps of a sequence.
"""

import numpy as np
import scipy.sparse as sp

from skinfluence.rows._base import Rows


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
        positions = np.arange(self.activation.shape[0]).reshape(self.n_samples, -1)[samples]
        return SharedRows(
            self.residual[samples], self.activation[positions.ravel()], self.has_bias, self.scale
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
            intercept_columns = self.residual.sum(axis=2, dtype=np.float64).reshape(n_rows, -1)
            sums = np.hstack([sums, intercept_columns])
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
        return self.inner_by_parts(other, out)

    def concatenated(self, others):
        residual = np.concatenate([rows.residual for rows in (self, *others)])
        activation = np.concatenate([rows.activation for rows in (self, *others)])
        return SharedRows(residual, activation, self.has_bias, self.scale)

    def rescaled(self, scale):
        scale = scale if self.scale is None else scale * self.scale
        return SharedRows(self.residual, self.activation, self.has_bias, scale)

    def weighted(self, weight):
        weight = np.asarray(weight)[:, None, None, None]
        return SharedRows(self.residual * weight, self.activation, self.has_bias, self.scale)
