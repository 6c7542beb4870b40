"""Rows of a linear layer: outer products of its output gradients and its inputs."""

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches, near_batches
from skinfluence.rows._activations import (
    activation_gram,
    activation_norms,
    activation_product,
    dense_activation,
    is_sparse_activation,
    product_with_activation,
    stacked,
    weighted_gram,
)
from skinfluence.rows._base import CACHE_BYTES, MIN_ROWS, DenseRows, Rows, into
from skinfluence.rows._composed import side_by_side


class KroneckerRows(Rows):
    """Rows ``[residual (x) activation, intercept_columns]``, the gradients of a linear layer.

    Parameters
    ----------
    residual : ndarray of shape (n_samples, rows_per_sample, c)
        Derivatives with respect to the layer's outputs.
    activation : {array, CSR matrix} of shape (n_samples, d)
        The layer's inputs, used as they are, never copied in full.
    intercept_columns : ndarray of shape (n_samples, rows_per_sample, f), default=None
        Further columns: for a layer with intercepts, the residual itself.
    is_jacobian : bool, default=False
        Whether the residuals of every sample are the identity.
    """

    is_factored = True

    def __init__(self, residual, activation, intercept_columns=None, *, is_jacobian=False):
        self.is_jacobian = is_jacobian
        self.residual = residual
        self.activation = activation
        self.intercept_columns = (
            np.empty((*residual.shape[:2], 0)) if intercept_columns is None else intercept_columns
        )

    @property
    def n_samples(self):
        return len(self.residual)

    @property
    def rows_per_sample(self):
        return self.residual.shape[1]

    @property
    def n_stored(self):
        parts = [self.residual, self.activation]
        if not np.may_share_memory(self.residual, self.intercept_columns):
            parts.append(self.intercept_columns)
        return sum(part.size for part in parts) / self.n_samples

    @property
    def is_sparse(self):
        return is_sparse_activation(self.activation)

    @property
    def layer_shape(self):
        """Outputs and inputs, (c, d)."""
        return self.residual.shape[2], self.activation.shape[1]

    @property
    def n_intercepts(self):
        """Number of the intercept columns, f."""
        return self.intercept_columns.shape[2]

    @property
    def n_columns(self):
        c, d = self.layer_shape
        return c * d + self.n_intercepts

    @property
    def has_bias(self):
        """Whether there are intercept columns."""
        return self.n_intercepts > 0

    @property
    def bias_factor(self):
        """The number b where the intercept columns are b times the residuals, else None."""
        own, residual = self.intercept_columns, self.residual
        if own is residual:
            return 1.0
        if own.shape != residual.shape or not residual.any():
            return None
        largest = np.unravel_index(np.abs(residual).argmax(), residual.shape)
        factor = float(own[largest]) / float(residual[largest])
        rounding = 4 * np.finfo(np.float64).eps * np.abs(own)
        return factor if (np.abs(own - factor * residual) <= rounding).all() else None

    @property
    def is_layer(self):
        return not self.has_bias or np.array_equal(self.intercept_columns, self.residual)

    @property
    def position_residuals(self):
        """Residuals by position, of which there is one, (n_samples, rows_per_sample, 1, c)."""
        return self.residual[:, :, None]

    def as_jacobian(self):
        _, s, c = self.residual.shape
        is_identity = s == c and bool((self.residual == np.eye(c)).all())
        return KroneckerRows(
            self.residual, self.activation, self.intercept_columns, is_jacobian=is_identity
        )

    def split(self, widths):
        c, d = self.layer_shape
        if widths != [c * d, self.n_intercepts]:
            return None
        intercept_columns = DenseRows(_flat(self.intercept_columns), self.rows_per_sample)
        return [KroneckerRows(self.residual, self.activation), intercept_columns]

    def joined(self, blocks):
        """New blocks side by side, in place of the weights and the intercepts."""
        weights, intercepts = blocks
        if not weights.is_factored:
            return side_by_side(blocks)
        cube = intercepts.toarray().reshape(*weights.residual.shape[:2], -1)
        return KroneckerRows(weights.residual, weights.activation, cube)

    def condensed(self):
        return next(self.pieces()) if sp.issparse(self.activation) else self

    def __getitem__(self, samples):
        return KroneckerRows(
            self.residual[samples],
            self.activation[samples],
            self.intercept_columns[samples],
            is_jacobian=self.is_jacobian,
        )

    def pieces(self):
        if not sp.issparse(self.activation):
            yield from super().pieces()
            return
        blocks = [_spread(self.activation, column) for column in np.moveaxis(self.residual, 2, 0)]
        yield sp.hstack([*blocks, _flat(self.intercept_columns)], format="csr")

    def toarray(self):
        activation, (c, d) = dense_activation(self.activation), self.layer_shape
        out = np.empty((self.n_samples, self.rows_per_sample, self.n_columns))
        for k in range(c):
            outer = self.residual[:, :, k, None], activation[:, None, :]
            np.multiply(*outer, out=out[:, :, k * d : (k + 1) * d])
        out[:, :, c * d :] = self.intercept_columns
        return out.reshape(self.shape)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        (c, d), m = self.layer_shape, matrix.shape[1]
        # Row i is sum_k residual_ik (activation_i @ matrix_k): one product for all outputs.
        stacked = matrix[: c * d].reshape(c, d, m).transpose(1, 0, 2).reshape(d, c * m)
        out = np.empty((self.n_samples, self.rows_per_sample, m))
        for batch in near_batches(self.n_samples, self._batch_bytes(m), MIN_ROWS):
            projected = activation_product(self.activation[batch], stacked)
            projected = projected.reshape(len(projected), c, m)
            out[batch] = self._mix(projected, batch)
            out[batch] += self.intercept_columns[batch] @ matrix[c * d :]
        return out.reshape(self.shape[0], m)

    def _mix(self, cube, batch):
        """``residual_i @ cube_i`` for every sample i of the batch."""
        return cube if self.is_jacobian else np.matmul(self._residual_of(batch), cube)

    def _residual_of(self, batch):
        # Always in one layout, so that a fit rounds as its copy from a pickle does.
        return np.ascontiguousarray(self.residual[batch])

    def _batch_bytes(self, m):
        """Bytes of one sample in a product with m vectors."""
        c, d = self.layer_shape
        return 8 * (c * m + (0 if is_sparse_activation(self.activation) else d))

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        (c, d), m = self.layer_shape, len(matrix)
        cube = matrix.reshape(m, self.n_samples, self.rows_per_sample)
        out, dtype = np.zeros((m, self.n_columns)), np.result_type(matrix, self.residual)
        for batch in near_batches(self.n_samples, self._batch_bytes(m), MIN_ROWS):
            part = cube[:, batch]
            if not self.is_jacobian:
                part = np.matmul(part.transpose(1, 0, 2), self._residual_of(batch))
                part = part.transpose(1, 0, 2)
            mixed = part.transpose(0, 2, 1).reshape(m * c, -1)
            out[:, : c * d] += product_with_activation(
                mixed, self.activation[batch], dtype
            ).reshape(m, c * d)
        out[:, c * d :] = matrix @ np.ascontiguousarray(_flat(self.intercept_columns))
        return out

    def inner(self, other, out=None):
        if not other.is_factored:
            return super().inner(other, out)
        # Double precision, whatever the factors have, so that Gram matrices are definite.
        left, right = (_flat(r.residual).astype(np.float64, copy=False) for r in (self, other))
        result = left @ right.T
        gram = activation_gram(self.activation, other.activation)
        factors = self.bias_factor, other.bias_factor
        has_own = self.has_bias and None in factors
        if self.has_bias and not has_own:
            # (r (x) [u, b])'(r' (x) [u', b']) = (r.r')(u.u' + b b').
            gram = gram + factors[0] * factors[1]
        # (r (x) u)'(r' (x) u') = (r.r')(u.u').
        cube = result.reshape(
            self.n_samples, self.rows_per_sample, other.n_samples, other.rows_per_sample
        )
        cube *= gram[:, None, :, None]
        if has_own:
            result += _flat(self.intercept_columns) @ _flat(other.intercept_columns).T
        return into(out, result)

    def dotted_by(self, vectors, out=None):
        (c, d), m = self.layer_shape, len(vectors)
        # Activations times the vectors, (n, m, c), against rows written out, (n, s, c, d).
        if not is_sparse_activation(self.activation) and m > self.rows_per_sample * d:
            return super().dotted_by(vectors, out)
        outer = vectors[:, : c * d].reshape(m * c, d)
        cube = np.empty((m, self.n_samples, self.rows_per_sample))
        # Single precision where all of the factors have it.
        dtype = np.result_type(vectors, self.residual)
        # Of a few samples at a time, the product would spend its time on reading the vectors.
        for batch in batches(self.n_samples, self._batch_bytes(m), at_least=CACHE_BYTES):
            part = activation_product(self.activation[batch], outer.T, dtype).reshape(-1, m, c)
            if not self.is_jacobian:
                part = part @ self._residual_of(batch).transpose(0, 2, 1)
            cube[:, batch] = part.transpose(1, 0, 2)
        result = cube.reshape(m, self.shape[0])
        result += vectors[:, c * d :] @ _flat(self.intercept_columns).T
        return into(out, result)

    def moment(self):
        residual = self.residual.transpose(0, 2, 1)
        intercepts = self.intercept_columns.transpose(0, 2, 1)
        return outer_moment(
            self.activation,
            residual @ self.residual,
            residual @ self.intercept_columns,
            intercepts @ self.intercept_columns,
        )

    def column_squares(self):
        (c, d), total = self.layer_shape, np.zeros(self.n_columns)
        squares = np.einsum("nsc,nsc->nc", self.residual, self.residual)
        if sp.issparse(self.activation):
            total[: c * d] = np.asarray(self.activation.power(2).T @ squares).T.ravel()
        else:
            for batch in batches(self.n_samples, 8 * d):
                total[: c * d] += (
                    squares[batch].T @ dense_activation(self.activation[batch]) ** 2
                ).ravel()
        total[c * d :] = np.einsum("nsf,nsf->f", self.intercept_columns, self.intercept_columns)
        return total

    def squared_norms(self):
        norms = np.einsum("nsc,nsc->ns", self.residual, self.residual)
        norms *= activation_norms(self.activation)[:, None]
        return (
            norms + np.einsum("nsf,nsf->ns", self.intercept_columns, self.intercept_columns)
        ).ravel()

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        residual, intercept_columns = (
            self.residual[samples, place],
            self.intercept_columns[samples, place],
        )
        return KroneckerRows(
            residual[:, None], self.activation[samples], intercept_columns[:, None]
        )

    def concatenated(self, others):
        parts = [self, *others]
        return KroneckerRows(
            np.concatenate([rows.residual for rows in parts]),
            stacked([rows.activation for rows in parts]),
            np.concatenate([rows.intercept_columns for rows in parts]),
        )

    def columns(self, index):
        (c, d), index = self.layer_shape, np.asarray(index)
        if len(index) and index.min() < c * d:
            return super().columns(index)
        return _flat(self.intercept_columns)[:, index - c * d]

    def rescaled(self, scale):
        c, d = self.layer_shape
        outer = scale[: c * d].reshape(c, d)
        intercept_columns = self.intercept_columns * scale[c * d :]
        if np.ptp(outer, axis=1).max(initial=0) == 0:
            return KroneckerRows(self.residual * outer[:, 0], self.activation, intercept_columns)
        return super().rescaled(scale)

    def weighted(self, weight):
        weight = np.asarray(weight).astype(self.residual.dtype, copy=False)[:, None, None]
        return KroneckerRows(
            self.residual * weight, self.activation, self.intercept_columns * weight
        )


def outer_moment(activation, inner, cross, outer):
    """Sum over samples of ``[[h, c], [c', f]]`` spread over the activations.

    With ``h = inner_i``, ``c = cross_i``, ``f = outer_i`` and ``u = activation_i``, the terms are
    ``[[h (x) u u', c (x) u], [(c (x) u)', f]]``: together the Hessian of a linear layer with
    intercepts whose outputs have the Hessians ``h``.

    Parameters
    ----------
    activation : {array, CSR matrix} of shape (n_samples, d)
        Inputs of the layer.
    inner : ndarray of shape (n_samples, c, c)
        Symmetric, of either sign.
    cross : ndarray of shape (n_samples, c, f)
        Between outputs and intercept columns.
    outer : ndarray of shape (n_samples, f, f)
        Between intercept columns.

    Returns
    -------
    ndarray of shape (c * d + f, c * d + f)
    """
    n_samples, c, f = cross.shape
    d = activation.shape[1]
    total = np.zeros((c * d + f, c * d + f))
    blocks = total[: c * d, : c * d].reshape(c, d, c, d)
    # A matrix (d, d) is little beside the product of twice as many rows as columns.
    few = n_samples if is_sparse_activation(activation) else 2 * d
    for batch in near_batches(n_samples, 8 * d, at_least=few):
        u = (
            activation[batch]
            if is_sparse_activation(activation)
            else dense_activation(activation[batch])
        )
        for k in range(c):
            for j in range(k, c):
                blocks[k, :, j, :] += weighted_gram(u, inner[batch, k, j])
        edge = cross[batch].reshape(u.shape[0], c * f)
        total[: c * d, c * d :] += (
            product_with_activation(np.ascontiguousarray(edge.T), u)
            .reshape(c, f, d)
            .transpose(0, 2, 1)
            .reshape(c * d, f)
        )
    for k in range(c):
        for j in range(k):
            blocks[k, :, j, :] = blocks[j, :, k, :].T
    total[c * d :, : c * d] = total[: c * d, c * d :].T
    total[c * d :, c * d :] = outer.sum(axis=0)
    return total


def _spread(activation, column):
    """CSR rows ``column[i, j] * activation[i]`` for every sample i and its row j."""
    n_samples, s = column.shape
    sample = np.repeat(np.arange(n_samples), s)
    place = np.arange(n_samples * s)
    shape = (n_samples * s, n_samples)
    return sp.csr_matrix((column.ravel(), (place, sample)), shape=shape) @ activation


def _flat(cube):
    # Not -1, which is undefined where there are no columns.
    return cube.reshape(cube.shape[0] * cube.shape[1], cube.shape[2])
