"""Matrices of per-sample gradients that are never written out.

Conventions
-----------
- ``n`` samples, ``s`` rows for each of them, so ``n * s`` rows; a gradient has ``s = 1``,
  a square root of the curvature has as many as the model has outputs.
- ``c`` outputs, ``d`` inputs, ``f`` free columns (intercepts), ``p = c * d + f`` columns.
- Rows of one sample follow one another: row ``i * s + j`` is the ``j``-th row of sample ``i``.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from skinfluence._batching import batches

# Slices of this many bytes and rows keep a product busy while they stay in the cache.
CACHE_BYTES = 2**23
MIN_ROWS = 256


class Rows(ABC):
    """A matrix with ``n_samples * rows_per_sample`` rows, used through its products.

    Need to be defined: ``n_samples``, ``rows_per_sample``, ``n_columns``, ``__getitem__``,
    ``toarray``. Should be overridden for efficiency: the products, all of which have a
    default that writes out one batch of rows at a time.
    """

    # Where `pieces` are written out as tensors; None where they are arrays.
    device = None

    # NumPy would otherwise read an object with a length and items as an array and
    # compute the product itself.
    __array_ufunc__ = None

    @property
    @abstractmethod
    def n_samples(self):
        """Number of samples."""

    @property
    @abstractmethod
    def n_columns(self):
        """Number of columns."""

    @property
    def rows_per_sample(self):
        """Number of rows that each sample has."""
        return 1

    @abstractmethod
    def __getitem__(self, samples):
        """Rows of the chosen samples (slice or index array)."""

    @abstractmethod
    def toarray(self):
        """The matrix itself, (n_samples * rows_per_sample, n_columns) in float64."""

    @property
    def shape(self):
        """Rows and columns of the matrix."""
        return self.n_samples * self.rows_per_sample, self.n_columns

    def __len__(self):
        return self.n_samples

    def batches(self, batch_size=None, *, cached=False):
        """Slices of samples that fit into the working memory once written out.

        ``cached`` asks for slices that also stay near the processor: faster where every slice
        is used once, by one product.
        """
        row_bytes = 8 * self.rows_per_sample * self.n_columns
        if cached:
            fitting = batches(self.n_samples, row_bytes)
            near = max(MIN_ROWS, CACHE_BYTES // max(1, row_bytes))
            batch_size = min(near, fitting[0].stop) if fitting else None
        return batches(self.n_samples, row_bytes, batch_size)

    def _row_slice(self, samples):
        return slice(samples.start * self.rows_per_sample, samples.stop * self.rows_per_sample)

    def __matmul__(self, matrix):
        """Product with a matrix (n_columns, m)."""
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        out = np.empty((self.shape[0], matrix.shape[1]))
        for batch in self.batches():
            np.matmul(self[batch].toarray(), matrix, out=out[self._row_slice(batch)])
        return out

    def __rmatmul__(self, matrix):
        """Product of a matrix (m, n_rows) with the rows."""
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        out = np.zeros((matrix.shape[0], self.n_columns))
        for batch in self.batches():
            out += matrix[:, self._row_slice(batch)] @ self[batch].toarray()
        return out

    def inner(self, other, out=None):
        """Inner products of every row of these with every row of ``other``."""
        if isinstance(other, DenseRows):
            return _into(out, self @ np.ascontiguousarray(other.array.T))
        return _into(out, other.inner(self).T)

    def dotted_by(self, vectors, out=None):
        """``vectors @ self'`` for an array (m, n_columns), shape (m, n_rows)."""
        out = np.empty((len(vectors), self.shape[0])) if out is None else out
        for batch in self.batches(cached=True):
            np.matmul(vectors, self[batch].toarray().T, out=out[:, self._row_slice(batch)])
        return out

    def moment(self, weight):
        """``sum_i weight_i sum_j row_ij row_ij'`` for weights (n_samples,) >= 0."""
        total = np.zeros((self.n_columns, self.n_columns))
        root = np.sqrt(weight)
        for batch in self.batches():
            rows = self[batch].toarray()
            rows *= np.repeat(root[batch], self.rows_per_sample)[:, None]
            total += rows.T @ rows
        return total

    def squared_norms(self):
        """Squared Euclidean norm of every row."""
        return np.concatenate(
            [np.einsum("ip,ip->i", rows, rows) for rows in map(_written, self._parts())]
        )

    def picked(self, index):
        """Chosen rows of the matrix (index array), each as a sample of its own."""
        samples, place = np.divmod(index, self.rows_per_sample)
        cube = self[samples].toarray().reshape(len(index), self.rows_per_sample, -1)
        return DenseRows(cube[np.arange(len(index)), place])

    def columns(self, index):
        """Chosen columns as an array (n_rows, len(index))."""
        return np.concatenate([part.toarray()[:, index] for part in self._parts()])

    def rescaled(self, scale):
        """Rows whose columns are multiplied by ``scale`` (n_columns,)."""
        return DenseRows(self.toarray() * scale, self.rows_per_sample)

    def weighted(self, weight):
        """Rows multiplied by ``weight`` (n_samples,)."""
        return DenseRows(
            self.toarray() * np.repeat(weight, self.rows_per_sample)[:, None],
            self.rows_per_sample,
        )

    def pieces(self):
        """Consecutive rows, written out as sketches read them.

        Yields
        ------
        {ndarray, CSR matrix, tensor} of shape (n_rows, n_columns)
        """
        return map(_written, self._parts())

    def _parts(self):
        return (self[batch] for batch in self.batches())


def _written(rows):
    return rows.toarray()


def _into(out, value):
    if out is None:
        return value
    out[...] = value
    return out


class DenseRows(Rows):
    """Rows that are written out.

    Parameters
    ----------
    array : ndarray of shape (n_samples * rows_per_sample, n_columns)
        The matrix.
    rows_per_sample : int, default=1
        Rows of each sample.
    """

    def __init__(self, array, rows_per_sample=1):
        self.array = array
        self._rows_per_sample = rows_per_sample

    @property
    def n_samples(self):
        return len(self.array) // self._rows_per_sample

    @property
    def n_columns(self):
        return self.array.shape[1]

    @property
    def rows_per_sample(self):
        return self._rows_per_sample

    def __getitem__(self, samples):
        cube = self.array.reshape(self.n_samples, self._rows_per_sample, -1)[samples]
        rows = cube.reshape(len(cube) * self._rows_per_sample, self.n_columns)
        return DenseRows(rows, self._rows_per_sample)

    def toarray(self):
        return np.array(self.array, dtype=np.float64)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.array @ matrix

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return matrix @ self.array

    def inner(self, other, out=None):
        return other.dotted_by(self.array, out)

    def picked(self, index):
        return DenseRows(self.array[index])

    def dotted_by(self, vectors, out=None):
        return np.matmul(vectors, self.array.T, out=out)


class KroneckerRows(Rows):
    """Rows ``[residual (x) activation, free]``, the gradients of a linear layer.

    Parameters
    ----------
    residual : ndarray of shape (n_samples, rows_per_sample, c)
        Derivatives with respect to the layer's outputs.
    activation : {array, CSR matrix} of shape (n_samples, d)
        The layer's inputs, used as they are, never copied as a whole.
    free : ndarray of shape (n_samples, rows_per_sample, f), default=None
        Further columns: for a layer with intercepts, the residual itself.
    """

    def __init__(self, residual, activation, free=None):
        self.residual = residual
        self.activation = activation
        self.free = np.empty((*residual.shape[:2], 0)) if free is None else free

    @property
    def n_samples(self):
        return len(self.residual)

    @property
    def rows_per_sample(self):
        return self.residual.shape[1]

    @property
    def layer_shape(self):
        """Outputs and inputs, (c, d)."""
        return self.residual.shape[2], self.activation.shape[1]

    @property
    def n_columns(self):
        c, d = self.layer_shape
        return c * d + self.free.shape[2]

    def __getitem__(self, samples):
        return KroneckerRows(self.residual[samples], self.activation[samples], self.free[samples])

    def pieces(self):
        if not sp.issparse(self.activation):
            yield from super().pieces()
            return
        blocks = [_spread(self.activation, column) for column in np.moveaxis(self.residual, 2, 0)]
        yield sp.hstack([*blocks, _flat(self.free)], format="csr")

    def toarray(self):
        activation, (c, d) = _dense(self.activation), self.layer_shape
        out = np.empty((self.n_samples, self.rows_per_sample, self.n_columns))
        for k in range(c):
            outer = self.residual[:, :, k, None], activation[:, None, :]
            np.multiply(*outer, out=out[:, :, k * d : (k + 1) * d])
        out[:, :, c * d :] = self.free
        return out.reshape(self.shape)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        (c, d), m = self.layer_shape, matrix.shape[1]
        # Row i is sum_k residual_ik (activation_i @ matrix_k): one product for all outputs.
        stacked = matrix[: c * d].reshape(c, d, m).transpose(1, 0, 2).reshape(d, c * m)
        out = np.empty((self.n_samples, self.rows_per_sample, m))
        for batch in batches(self.n_samples, self._batch_bytes(m)):
            projected = _dot(self.activation[batch], stacked)
            projected = projected.reshape(len(projected), c, m)
            out[batch] = self._mix(projected, batch)
            out[batch] += self.free[batch] @ matrix[c * d :]
        return out.reshape(self.shape[0], m)

    def _mix(self, cube, batch):
        """``residual_i @ cube_i`` for every sample i of the batch."""
        return cube if self._is_jacobian else np.matmul(self.residual[batch], cube)

    def _batch_bytes(self, m):
        """Bytes of one sample in a product with m vectors: only dense inputs are written out."""
        c, d = self.layer_shape
        return 8 * (c * m + (0 if sp.issparse(self.activation) else d))

    @property
    def _is_jacobian(self):
        """Whether the residuals are one identity, repeated: the rows are a Jacobian."""
        _, s, c = self.residual.shape
        repeated = s == c and self.residual.strides[0] == 0 and len(self.residual) > 1
        return repeated and np.array_equal(self.residual[0], np.eye(c))

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        (c, d), m = self.layer_shape, len(matrix)
        cube = matrix.reshape(m, self.n_samples, self.rows_per_sample)
        out = np.zeros((m, self.n_columns))
        for batch in batches(self.n_samples, self._batch_bytes(m)):
            part = cube[:, batch]
            if not self._is_jacobian:
                part = np.matmul(part.transpose(1, 0, 2), self.residual[batch]).transpose(1, 0, 2)
            mixed = part.transpose(0, 2, 1).reshape(m * c, -1)
            out[:, : c * d] += _dot_left(mixed, self.activation[batch]).reshape(m, c * d)
        out[:, c * d :] = matrix @ self.free.reshape(self.shape[0], -1)
        return out

    def inner(self, other, out=None):
        if not isinstance(other, KroneckerRows):
            return super().inner(other, out)
        # In double precision, whatever that of the factors, so that Gram matrices are definite.
        left, right = (_flat(r.residual).astype(np.float64, copy=False) for r in (self, other))
        result = left @ right.T
        gram = _gram(self.activation, other.activation)
        # (r (x) u)'(r' (x) u') = (r.r')(u.u').
        cube = result.reshape(
            self.n_samples, self.rows_per_sample, other.n_samples, other.rows_per_sample
        )
        cube *= gram[:, None, :, None]
        result += _flat(self.free) @ _flat(other.free).T
        return _into(out, result)

    def dotted_by(self, vectors, out=None):
        # Activations times the vectors, (n, c, m), against rows that are written out, (n, c, d).
        if not sp.issparse(self.activation) and len(vectors) > self.layer_shape[1]:
            return super().dotted_by(vectors, out)
        return _into(out, (self @ np.ascontiguousarray(vectors.T)).T)

    def moment(self, weight):
        if self.residual.shape[2] == 1:
            return outer_moment(
                self.activation,
                *(
                    np.einsum("n,nsa,nsb->nab", weight, a, b)
                    for a, b in (
                        (self.residual, self.residual),
                        (self.residual, self.free),
                        (self.free, self.free),
                    )
                ),
            )
        root = np.sqrt(weight)[:, None, None]
        residual, free = self.residual * root, self.free * root
        transposed = residual.transpose(0, 2, 1)
        return outer_moment(
            self.activation,
            transposed @ residual,
            transposed @ free,
            free.transpose(0, 2, 1) @ free,
        )

    def squared_norms(self):
        norms = np.einsum("nsc,nsc->ns", self.residual, self.residual)
        norms *= _squared_norms(self.activation)[:, None]
        return (norms + np.einsum("nsf,nsf->ns", self.free, self.free)).ravel()

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        residual, free = self.residual[samples, place], self.free[samples, place]
        return KroneckerRows(residual[:, None], self.activation[samples], free[:, None])

    def columns(self, index):
        (c, d), index = self.layer_shape, np.asarray(index)
        if len(index) and index.min() < c * d:
            return super().columns(index)
        return _flat(self.free)[:, index - c * d]

    def rescaled(self, scale):
        c, d = self.layer_shape
        outer = scale[: c * d].reshape(c, d)
        free = self.free * scale[c * d :]
        if np.ptp(outer, axis=1).max(initial=0) == 0:
            return KroneckerRows(self.residual * outer[:, 0], self.activation, free)
        return super().rescaled(scale)

    def weighted(self, weight):
        weight = np.asarray(weight)[:, None, None]
        return KroneckerRows(self.residual * weight, self.activation, self.free * weight)


class BlockRows(Rows):
    """Rows made of blocks of columns side by side, such as the layers of a network.

    Parameters
    ----------
    blocks : sequence of Rows
        Blocks with the same samples and the same rows per sample.
    """

    def __init__(self, blocks):
        self.blocks = list(blocks)

    @cached_property
    def _edges(self):
        return np.cumsum([0, *(block.n_columns for block in self.blocks)])

    @property
    def n_samples(self):
        return self.blocks[0].n_samples

    @property
    def rows_per_sample(self):
        return self.blocks[0].rows_per_sample

    @property
    def n_columns(self):
        return int(self._edges[-1])

    def _split(self, array, axis):
        return np.split(array, self._edges[1:-1], axis=axis)

    def __getitem__(self, samples):
        return BlockRows(block[samples] for block in self.blocks)

    def toarray(self):
        return np.concatenate([block.toarray() for block in self.blocks], axis=1)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        parts = self._split(matrix, 0)
        return sum(block @ part for block, part in zip(self.blocks, parts, strict=True))

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return np.concatenate([matrix @ block for block in self.blocks], axis=1)

    def inner(self, other, out=None):
        if not isinstance(other, BlockRows):
            return super().inner(other, out)
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        # The terms of one batch are held beside the sum, never those of all rows.
        for batch in batches(self.n_samples, 8 * 4 * self.rows_per_sample * other.shape[0]):
            pairs = zip(self[batch].blocks, other.blocks, strict=True)
            terms = (mine.inner(theirs) for mine, theirs in pairs)
            part = out[self._row_slice(batch)]
            part[...] = next(terms)
            for term in terms:
                part += term
        return out

    def dotted_by(self, vectors, out=None):
        parts = self._split(vectors, 1)
        pairs = zip(self.blocks, parts, strict=True)
        return _into(out, sum(block.dotted_by(part) for block, part in pairs))

    def squared_norms(self):
        return sum(block.squared_norms() for block in self.blocks)

    def picked(self, index):
        return BlockRows(block.picked(index) for block in self.blocks)

    def rescaled(self, scale):
        parts = self._split(scale, 0)
        return BlockRows(b.rescaled(part) for b, part in zip(self.blocks, parts, strict=True))

    def weighted(self, weight):
        return BlockRows(block.weighted(weight) for block in self.blocks)


class SelectedRows(Rows):
    """Some of the columns of other rows, such as the active set of an L1 penalty.

    Parameters
    ----------
    rows : Rows
        The rows to choose from.
    selected : ndarray of shape (n_columns,)
        Positions of the columns that stay.
    """

    def __init__(self, rows, selected):
        self.rows = rows
        self.selected = selected

    @property
    def n_samples(self):
        return self.rows.n_samples

    @property
    def rows_per_sample(self):
        return self.rows.rows_per_sample

    @property
    def n_columns(self):
        return len(self.selected)

    def __getitem__(self, samples):
        return SelectedRows(self.rows[samples], self.selected)

    def batches(self, batch_size=None, *, cached=False):
        # All columns are written out before some are chosen.
        return self.rows.batches(batch_size, cached=cached)

    def toarray(self):
        return self.rows.toarray()[:, self.selected]

    def picked(self, index):
        return SelectedRows(self.rows.picked(index), self.selected)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        padded = np.zeros((self.rows.n_columns, matrix.shape[1]))
        padded[self.selected] = matrix
        return self.rows @ padded

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return (matrix @ self.rows)[:, self.selected]


class CombinedRows(Rows):
    """Rows ``base + coefficients @ others``: solutions that stay factored.

    Parameters
    ----------
    base : Rows
        Rows to which the combination is added.
    coefficients : ndarray of shape (n_rows, n_other_rows)
        Coefficients of the combination.
    others : Rows
        Rows that are combined.
    """

    def __init__(self, base, coefficients, others):
        self.base = base
        self.coefficients = coefficients
        self.others = others

    @property
    def n_samples(self):
        return self.base.n_samples

    @property
    def rows_per_sample(self):
        return self.base.rows_per_sample

    @property
    def n_columns(self):
        return self.base.n_columns

    def __getitem__(self, samples):
        index = np.arange(self.shape[0]).reshape(self.n_samples, -1)[samples].ravel()
        return CombinedRows(self.base[samples], self.coefficients[index], self.others)

    def toarray(self):
        return self.base.toarray() + self.coefficients @ self.others

    def inner(self, other, out=None):
        result = self.base.inner(other, out)
        result += self.coefficients @ self.others.inner(other)
        return result


def outer_moment(activation, inner, cross, outer):
    """Sum over samples of ``[[h, c], [c', f]]`` spread over the activations.

    With ``h = inner_i``, ``c = cross_i``, ``f = outer_i`` and ``u = activation_i`` the sum is
    that of ``[[h (x) u u', c (x) u], [(c (x) u)', f]]``: the Hessian of a linear layer with
    intercepts whose outputs have the Hessians ``h``.

    Parameters
    ----------
    activation : {array, CSR matrix} of shape (n_samples, d)
        Inputs of the layer.
    inner : ndarray of shape (n_samples, c, c)
        Symmetric, of either sign.
    cross : ndarray of shape (n_samples, c, f)
        Between outputs and free columns.
    outer : ndarray of shape (n_samples, f, f)
        Between free columns.

    Returns
    -------
    ndarray of shape (c * d + f, c * d + f)
    """
    n_samples, c, f = cross.shape
    d = activation.shape[1]
    total = np.zeros((c * d + f, c * d + f))
    blocks = total[: c * d, : c * d].reshape(c, d, c, d)
    for batch in batches(n_samples, 8 * (c + 1) * d):
        u = activation[batch] if sp.issparse(activation) else _dense(activation[batch])
        for k in range(c):
            for j in range(k, c):
                blocks[k, :, j, :] += weighted_gram(u, inner[batch, k, j])
        edge = cross[batch].reshape(u.shape[0], c * f)
        total[: c * d, c * d :] += (
            _dot_left(np.ascontiguousarray(edge.T), u)
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


def weighted_gram(u, weight):
    """``u' diag(weight) u`` as an array (d, d), for weights of either sign."""
    if sp.issparse(u):
        return np.asarray((u.T @ u.multiply(weight[:, None]).tocsr()).todense())
    if weight.min(initial=0) >= 0:
        # A product of a matrix with its own transpose costs half: BLAS calls syrk.
        scaled = u * np.sqrt(weight)[:, None]
        return scaled.T @ scaled
    return u.T @ (u * weight[:, None])


def _spread(activation, column):
    """CSR rows ``column[i, j] * activation[i]`` for every sample i and row j of it."""
    n_samples, s = column.shape
    sample = np.repeat(np.arange(n_samples), s)
    place = np.arange(n_samples * s)
    shape = (n_samples * s, n_samples)
    return sp.csr_matrix((column.ravel(), (place, sample)), shape=shape) @ activation


def _dense(activation):
    if sp.issparse(activation):
        activation = activation.toarray()
    return np.asarray(activation, dtype=np.float64)


def _dot(activation, matrix):
    if sp.issparse(activation):
        return np.asarray(activation @ matrix)
    return _dense(activation) @ matrix


def _dot_left(matrix, activation):
    if sp.issparse(activation):
        return np.asarray((activation.T @ matrix.T).T)
    return matrix @ _dense(activation)


def _gram(left, right):
    product = left @ right.T if sp.issparse(left) or sp.issparse(right) else None
    if product is None:
        return _dense(left) @ _dense(right).T
    return product.toarray() if sp.issparse(product) else np.asarray(product)


def _squared_norms(activation):
    if sp.issparse(activation):
        return np.asarray(activation.multiply(activation).sum(axis=1)).ravel()
    norms = np.empty(len(activation))
    for batch in batches(len(activation), 8 * activation.shape[1]):
        part = _dense(activation[batch])
        norms[batch] = np.einsum("nd,nd->n", part, part)
    return norms


def _flat(cube):
    # Not -1, which is undefined where there are no columns.
    return cube.reshape(cube.shape[0] * cube.shape[1], cube.shape[2])
