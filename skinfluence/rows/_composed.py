"""Rows made of other rows."""

from functools import cached_property, partial

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.rows._base import DenseRows, Rows, into


def side_by_side(blocks):
    """Rows made of blocks of columns, written out if all blocks are."""
    if all(block.is_written_out for block in blocks):
        whole = np.concatenate([block.array for block in blocks], axis=1)
        return DenseRows(whole, blocks[0].rows_per_sample)
    return BlockRows(blocks)


class BlockRows(Rows):
    """Rows made of blocks of columns side by side, such as the layers of a network.

    Parameters
    ----------
    blocks : sequence of Rows
        Blocks with the same samples and the same rows per sample.
    """

    has_layers = True

    def __init__(self, blocks):
        self._blocks = list(blocks)

    @property
    def blocks(self):
        return self._blocks

    @property
    def is_sparse(self):
        return any(block.is_sparse for block in self.device_blocks)

    @property
    def n_stored(self):
        return sum(block.n_stored for block in self.device_blocks)

    @cached_property
    def _edges(self):
        return np.cumsum([0, *(block.n_columns for block in self.device_blocks)])

    @property
    def n_samples(self):
        return self.blocks[0].n_samples

    @property
    def rows_per_sample(self):
        return self.blocks[0].rows_per_sample

    @property
    def n_columns(self):
        return int(self._edges[-1])

    @property
    def _widths(self):
        return np.diff(self._edges).tolist()

    def split(self, widths):
        return self.blocks if self._widths == widths else None

    def joined(self, blocks):
        """New blocks side by side, in place of the blocks of these rows."""
        return side_by_side(blocks)

    def _split_array(self, array, axis):
        return np.split(array, self._edges[1:-1], axis=axis)

    def __getitem__(self, samples):
        return BlockRows(block[samples] for block in self.blocks)

    def toarray(self):
        return np.concatenate([block.toarray() for block in self.device_blocks], axis=1)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        pairs = zip(self.device_blocks, self._split_array(matrix, 0), strict=True)
        return sum(block @ part for block, part in pairs)

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return np.concatenate([matrix @ block for block in self.device_blocks], axis=1)

    def inner(self, other, out=None):
        others = other.split(self._widths)
        if others is None:
            return super().inner(other, out)
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        # Memory is needed for the sum and the terms of one batch, never for the terms of all rows.
        for batch in batches(self.n_samples, 8 * 4 * self.rows_per_sample * other.shape[0]):
            pairs = zip(self[batch].blocks, others, strict=True)
            terms = (mine.inner(theirs) for mine, theirs in pairs)
            part = out[self.row_slice(batch)]
            part[...] = next(terms)
            for term in terms:
                part += term
        return out

    def dotted_by(self, vectors, out=None):
        pairs = zip(self.device_blocks, self._split_array(vectors, 1), strict=True)
        return into(out, sum(block.dotted_by(part) for block, part in pairs))

    def squared_norms(self):
        return sum(block.squared_norms() for block in self.device_blocks)

    def picked(self, index):
        return BlockRows(block.picked(index) for block in self.blocks)

    def rescaled(self, scale):
        parts = self._split_array(scale, 0)
        return BlockRows(b.rescaled(part) for b, part in zip(self.blocks, parts, strict=True))

    def weighted(self, weight):
        return BlockRows(block.weighted(weight) for block in self.blocks)

    def summed(self):
        return BlockRows(block.summed() for block in self.blocks)


class WrappedRows(Rows):
    """Rows that pass everything on to other rows, except what a subclass changes.

    Parameters
    ----------
    rows : Rows
        The wrapped rows.
    """

    def __init__(self, rows):
        self.rows = rows

    @property
    def n_samples(self):
        return self.rows.n_samples

    @property
    def n_columns(self):
        return self.rows.n_columns

    @property
    def rows_per_sample(self):
        return self.rows.rows_per_sample

    @property
    def is_sparse(self):
        return self.rows.is_sparse

    @property
    def n_stored(self):
        return self.rows.n_stored

    def toarray(self):
        return self.rows.toarray()


class SelectedRows(WrappedRows):
    """Some of the columns of other rows, such as the active set of an L1 penalty.

    Parameters
    ----------
    rows : Rows
        The rows to choose from.
    selected : ndarray of shape (n_columns,)
        Positions of the columns that stay.
    """

    def __init__(self, rows, selected):
        super().__init__(rows)
        self.selected = selected

    @property
    def n_columns(self):
        return len(self.selected)

    def __getitem__(self, samples):
        return SelectedRows(self.rows[samples], self.selected)

    @property
    def reads_pieces(self):
        return self.rows.reads_pieces

    def of_tasks(self, function, groups, arguments=None):
        """Results of a function of the slices of each task, where rows are read in pieces."""
        chosen = partial(_of_selected_parts, function, self.selected)
        return self.rows.of_tasks(chosen, groups, arguments)

    def each(self, function, slices=None, arguments=None):
        return self.rows.each(partial(_of_selected, function, self.selected), slices, arguments)

    def total(self, function, slices=None, arguments=None):
        return self.rows.total(partial(_of_selected, function, self.selected), slices, arguments)

    def batches(self, batch_size=None, *, cached=False):
        # The batch writes out all columns before it chooses some.
        return self.rows.batches(batch_size, cached=cached)

    def toarray(self):
        return self.rows.toarray()[:, self.selected]

    def picked(self, index):
        return SelectedRows(self.rows.picked(index), self.selected)

    def as_jacobian(self):
        return SelectedRows(self.rows.as_jacobian(), self.selected)

    def inner(self, other, out=None):
        return self.inner_by_parts(other, out)

    def _padded(self, vectors):
        """Vectors (m, n_columns) with zeros for the columns that are left out."""
        padded = np.zeros((len(vectors), self.rows.n_columns))
        padded[:, self.selected] = vectors
        return padded

    def dotted_by(self, vectors, out=None):
        return self.rows.dotted_by(self._padded(vectors), out)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self.rows @ self._padded(matrix.T).T

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return (matrix @ self.rows)[:, self.selected]


def _of_selected(function, selected, rows, *others):
    return function(SelectedRows(rows, selected), *others)


def _of_selected_parts(function, selected, parts):
    return function((SelectedRows(rows, selected), *others) for rows, *others in parts)


class CombinedRows(WrappedRows):
    """Rows ``rows + coefficients @ others``: solutions that stay factored.

    Parameters
    ----------
    rows : Rows
        Rows to which the combination is added.
    coefficients : ndarray of shape (n_rows, n_other_rows)
        Coefficients of the combination.
    others : Rows
        Rows that are combined.
    """

    def __init__(self, rows, coefficients, others):
        super().__init__(rows)
        self.coefficients = coefficients
        self.others = others

    @property
    def n_stored(self):
        return self.rows.n_stored + self.coefficients.size / self.n_samples

    def __getitem__(self, samples):
        coefficients = self.coefficients[self.row_index(samples)]
        return CombinedRows(self.rows[samples], coefficients, self.others)

    def toarray(self):
        return self.rows.toarray() + self.coefficients @ self.others

    def inner(self, other, out=None):
        result = self.rows.inner(other, out)
        result += self.coefficients @ self.others.inner(other)
        return result
