"""The base class of all matrices of rows, and rows that are written out."""

from abc import ABC, abstractmethod
from functools import reduce
from operator import add

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.namespace import namespace, to_numpy
from skinfluence._utils.progress import track
from skinfluence._utils.stored_once import StoredOnce
from skinfluence.rows._loops import further

# Slices of this many bytes and rows keep a product busy while they stay in the cache.
CACHE_BYTES = 2**23
MIN_ROWS = 256


class Rows(StoredOnce, ABC):
    """A matrix with ``n_samples * rows_per_sample`` rows, used through its products.

    Need to be defined: ``n_samples``, ``n_columns``, ``__getitem__``, ``toarray``; where a
    sample has several rows, ``rows_per_sample``. Should be overridden for efficiency: the
    products, whose defaults write out one batch of rows at a time.

    Blocks of `device_blocks` may hold tensors, and then know a part of this only: slices,
    ``weighted``, `written`, `on_host`, and products with vectors. A product with vectors lies
    where the vectors do; of these rows alone, `written`, ``moment`` and ``column_squares`` lie
    where the rows do. All else is an array.
    """

    # Numbers of samples, of columns, and of rows of each sample.
    n_samples: int
    n_columns: int
    rows_per_sample = 1

    # Device on which `pieces` are written out as tensors; None where pieces are arrays.
    device = None

    # Whether the columns are blocks, one for each layer of a network.
    has_layers = False

    # Whether rows are products of residuals and activations.
    is_factored = False

    # Whether rows belong to a linear layer with one bias for each output, or with none.
    is_layer = False

    # Whether rows of a layer are sums over positions.
    is_shared = False

    # Whether rows belong to an embedding: the inputs of its layer are one-hot vectors of tokens.
    reads_tokens = False

    # Whether activations are sparse, so that rows are mostly zeros once written out.
    is_sparse = False

    # Whether samples are read in pieces, so that each worker can read its own.
    reads_pieces = False

    # Whether the matrix itself is stored, as ``array``.
    is_written_out = False

    # Whether the rows are tensors, or products of tensors, see above.
    holds_tensors = False

    # NumPy would otherwise read an object with a length and items as an array and compute the
    # product itself.
    __array_ufunc__ = None

    @abstractmethod
    def __getitem__(self, samples):
        """Rows of the chosen samples (slice or index array)."""

    @abstractmethod
    def toarray(self):
        """The matrix itself, (n_samples * rows_per_sample, n_columns) in float64."""

    def written(self):
        """The matrix itself in double precision, newly made, where the rows are."""
        return self.toarray()

    def on_host(self):
        """The same rows with arrays in place of tensors."""
        return self

    @property
    def shape(self):
        """Rows and columns of the matrix."""
        return self.n_samples * self.rows_per_sample, self.n_columns

    def __len__(self):
        return self.n_samples

    @property
    def n_stored(self):
        """Numbers that stand for each sample, a mean over the samples."""
        return float(self.rows_per_sample * self.n_columns)

    @property
    def blocks(self):
        """Blocks of columns side by side, as far as rows are divided."""
        return [self]

    @property
    def device_blocks(self):
        """The blocks where they were made: they hold tensors on a device, or are `blocks`."""
        return self.blocks

    def split(self, widths):
        """Blocks of columns of given widths, None where the rows are divided otherwise.

        Rows with this division also have `joined`, which puts blocks side by side again.
        """
        return None

    def batches(self, batch_size=None, *, cached=False):
        """Slices of samples that fit into the working memory once written out.

        With ``cached``, slices also fit into the processor's cache: faster where one product
        uses every slice once.
        """
        row_bytes = 8 * self.rows_per_sample * self.n_columns
        if cached:
            fitting = batches(self.n_samples, row_bytes)
            few = -(-MIN_ROWS // self.rows_per_sample)
            near = max(few, CACHE_BYTES // max(1, row_bytes))
            batch_size = min(near, fitting[0].stop) if fitting else None
        return batches(self.n_samples, row_bytes, batch_size)

    def parts(self, n_vectors, batch_size=None):
        """Slices of samples whose products with so many vectors fit into the working memory."""
        return batches(self.n_samples, 8 * 2 * n_vectors * self.rows_per_sample, batch_size)

    def row_slice(self, samples):
        """Slice of the rows of a slice of samples."""
        return slice(samples.start * self.rows_per_sample, samples.stop * self.rows_per_sample)

    def row_index(self, samples):
        """Positions of the rows of chosen samples (slice or index array)."""
        index = np.arange(self.shape[0]).reshape(self.n_samples, self.rows_per_sample)
        return index[samples].ravel()

    def each(self, function, slices=None, arguments=None):
        """Results of a function of the rows of consecutive slices of samples.

        Parameters
        ----------
        function : callable
            ``function(rows, *arguments)``. A plain function, where samples are read in pieces.
        slices : list of slice, default=None
            Slices of samples; by default those that fit into the cache.
        arguments : callable, default=None
            ``arguments(samples)`` gives a tuple of further arguments; none by default.

        Yields
        ------
        object
            The results, in the order of the samples.
        """
        for samples in track(slices or self.batches(cached=True), "batches of rows"):
            yield function(self[samples], *further(arguments, samples))

    def total(self, function, slices=None, arguments=None):
        """Sum of the results of `each`."""
        return reduce(add, self.each(function, slices, arguments))

    def __matmul__(self, matrix):
        """Product with a matrix (n_columns, m)."""
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        out = np.empty((self.shape[0], matrix.shape[1]))
        for batch in self.batches(cached=True):
            np.matmul(self[batch].toarray(), matrix, out=out[self.row_slice(batch)])
        return out

    def __rmatmul__(self, matrix):
        """Product of a matrix (m, n_rows) with the rows."""
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        out = np.zeros((matrix.shape[0], self.n_columns))
        for batch in self.batches(cached=True):
            out += matrix[:, self.row_slice(batch)] @ self[batch].toarray()
        return out

    def inner(self, other, out=None):
        """Inner products of every one of these rows with every row of ``other``."""
        if other.is_written_out:
            return into(out, self @ np.ascontiguousarray(other.array.T))
        return into(out, other.inner(self).T)

    def inner_by_parts(self, other, out=None):
        """The same by writing out these rows, one batch at a time."""
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        for batch in self.batches():
            other.dotted_by(self[batch].toarray(), out=out[self.row_slice(batch)])
        return out

    def dotted_by(self, vectors, out=None):
        """``vectors @ self'`` for an array (m, n_columns), shape (m, n_rows)."""
        out = np.empty((len(vectors), self.shape[0])) if out is None else out
        for batch in self.batches(cached=True):
            np.matmul(vectors, self[batch].toarray().T, out=out[:, self.row_slice(batch)])
        return out

    def gram_product(self, vectors):
        """``vectors @ C'C`` for these rows C and an array (m, n_columns)."""
        return self.dotted_by(vectors).astype(vectors.dtype, copy=False) @ self

    def moment(self):
        """``C'C`` of the matrix C of the rows, (n_columns, n_columns)."""
        total = np.zeros((self.n_columns, self.n_columns))
        for part in self._parts():
            rows = part.toarray()
            total += rows.T @ rows
        return total

    def column_squares(self):
        """Sum of the squares of every column, (n_columns,)."""
        total = np.zeros(self.n_columns)
        for part in self._parts():
            rows = part.toarray()
            total += np.einsum("ip,ip->p", rows, rows)
        return total

    def squared_norms(self):
        """Squared Euclidean norm of every row."""
        norms = (
            namespace(rows).einsum("ip,ip->i", rows, rows)
            for rows in (part.written() for part in self._parts())
        )
        return np.concatenate([to_numpy(part) for part in norms])

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

    def masked(self, mask):
        """The same rows, but 0 outside ``mask`` (n_rows,)."""
        per_sample = mask.reshape(self.n_samples, self.rows_per_sample)
        if (per_sample == per_sample[:, :1]).all():
            return self.weighted(per_sample[:, 0].astype(np.float64))
        return DenseRows(self.toarray() * mask[:, None], self.rows_per_sample)

    def concatenated(self, others):
        """These rows followed by the rows of further samples."""
        if not others:
            return self
        arrays = [rows.toarray() for rows in (self, *others)]
        return DenseRows(np.concatenate(arrays), self.rows_per_sample)

    def as_jacobian(self):
        """The same rows, known to be gradients of raw outputs, one row for each output.

        Rows whose residuals are an identity may then leave them out of products.
        """
        return self

    def summed(self):
        """The same rows, for many products: shared layers are summed over their positions.

        Where the sum has fewer numbers than its terms; other rows stay as they are.
        """
        return self

    def condensed(self):
        """The same matrix in the form with the cheapest products: CSR, or the rows."""
        return self

    def pieces(self):
        """Consecutive rows, written out as sketches read them.

        Yields
        ------
        {ndarray, CSR matrix, tensor} of shape (n_rows, n_columns)
        """
        return map(_written, self._parts())

    def _parts(self):
        parts = self.batches(cached=True)
        return (self[batch] for batch in track(parts, "batches of rows"))


def _written(rows):
    return rows.toarray()


def into(out, value):
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

    is_written_out = True

    def __init__(self, array, rows_per_sample=1):
        self.array = array
        self.rows_per_sample = rows_per_sample

    @property
    def n_samples(self):
        return len(self.array) // self.rows_per_sample

    @property
    def n_columns(self):
        return self.array.shape[1]

    def __getitem__(self, samples):
        cube = self.array.reshape(self.n_samples, self.rows_per_sample, -1)[samples]
        rows = cube.reshape(len(cube) * self.rows_per_sample, self.n_columns)
        return DenseRows(rows, self.rows_per_sample)

    def toarray(self):
        return np.array(self.array, dtype=np.float64)

    # A product that would convert the whole matrix to double precision takes a slice at a time.

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.array @ matrix if self._has_precision(matrix) else super().__matmul__(matrix)

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return matrix @ self.array if self._has_precision(matrix) else super().__rmatmul__(matrix)

    def _has_precision(self, matrix):
        return np.result_type(self.array, matrix) == self.array.dtype

    def inner(self, other, out=None):
        # Double precision, whatever the rows have, so that Gram matrices are definite.
        if self.array.dtype != np.float64:
            return self.inner_by_parts(other, out)
        return other.dotted_by(self.array, out)

    def picked(self, index):
        return DenseRows(self.array[index])

    def dotted_by(self, vectors, out=None):
        if self._has_precision(vectors):
            return np.matmul(vectors, self.array.T, out=out)
        return super().dotted_by(vectors, out)

    def weighted(self, weight):
        weight = np.repeat(weight, self.rows_per_sample).astype(self.array.dtype, copy=False)
        return DenseRows(self.array * weight[:, None], self.rows_per_sample)

    def concatenated(self, others):
        arrays = [rows.array for rows in (self, *others)]
        return DenseRows(np.concatenate(arrays), self.rows_per_sample)
