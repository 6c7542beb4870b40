"""Random sketches that do not depend on the data."""

import sys
from abc import abstractmethod
from functools import cached_property

import numpy as np
import scipy.fft
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence.rows import DenseRows
from skinfluence.sketching._base import Sketch, floating, stream

# Entries of P that are written out at a time (32 MiB in single precision).
BLOCK_ENTRIES = 2**23


class _StreamedSketch(Sketch):
    """Independent rows, drawn when needed: row i depends on (seed, i) alone."""

    @abstractmethod
    def _draw_row(self, rng, out):
        """Fill a row with independent entries of mean 0 and variance 1."""

    def _blocks(self):
        """Slices of the rows of P, and these rows without the factor ``size^-1/2``."""
        if self.size * self.n_columns <= BLOCK_ENTRIES:
            yield slice(0, self.size), self._small
            return
        for rows in batches(self.size, 1, max(1, BLOCK_ENTRIES // self.n_columns)):
            yield rows, self._draw_block(rows)

    @cached_property
    def _small(self):
        return self._draw_block(slice(0, self.size))

    def _draw_block(self, rows):
        block = np.empty((rows.stop - rows.start, self.n_columns), dtype=np.float32)
        for i, row in enumerate(block, start=rows.start):
            self._draw_row(stream(self.seed, i), row)
        return block

    def _scaled_blocks(self, dtype):
        scale = np.asarray(self.size**-0.5, dtype=dtype)
        for rows, block in self._blocks():
            yield rows, block.astype(dtype, copy=False) * scale

    def _project(self, array):
        out = np.empty((array.shape[0], self.size), dtype=floating(array))
        for rows, block in self._scaled_blocks(out.dtype):
            out[:, rows] = array @ block.T
        return out

    def _project_rows(self, rows):
        if rows.device is not None:
            return super()._project_rows(rows)
        out = np.empty((rows.shape[0], self.size))
        for part, block in self._scaled_blocks(np.float64):
            out[:, part] = rows @ np.ascontiguousarray(block.T)
        return DenseRows(out, rows.rows_per_sample)

    def _project_tensor(self, tensor):
        out = tensor.new_zeros((tensor.shape[0], self.size))
        for rows, block in self._blocks():
            out[:, rows] = tensor @ tensor.new_tensor(block.T)
        return out * self.size**-0.5

    def _lift(self, array):
        out = np.zeros((array.shape[0], self.n_columns), dtype=floating(array))
        for rows, block in self._scaled_blocks(out.dtype):
            out += array[:, rows] @ block
        return out


class GaussianSketch(_StreamedSketch):
    """Independent normal entries of variance ``1 / size``.

    A larger sketch of the same seed begins with the rows of a smaller one, rescaled.

    Parameters
    ----------
    n_columns : int
        Columns of the rows that are sketched.
    size : int
        Rows of P.
    seed : int, default=0
        Determines P.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.sketching import GaussianSketch
    >>> sketch = GaussianSketch(1000, 50, seed=0)
    >>> (np.ones((3, 1000)) @ sketch).shape
    (3, 50)
    """

    def _draw_row(self, rng, out):
        rng.standard_normal(out=out, dtype=np.float32)


class RademacherSketch(_StreamedSketch):
    """Independent signs, divided by the root of the size.

    A larger sketch of the same seed begins with the rows of a smaller one, rescaled.

    Parameters
    ----------
    n_columns : int
        Columns of the rows that are sketched.
    size : int
        Rows of P.
    seed : int, default=0
        Determines P.
    """

    def _draw_row(self, rng, out):
        out[:] = _signs(rng, len(out))


class SJLTSketch(Sketch):
    """Sparse Johnson-Lindenstrauss transform: few signed non-zeros in each column of P.

    Each column has one non-zero in each of ``nonzeros`` equal groups of rows [1]_. A
    product costs ``nonzeros`` operations per entry, whatever the size.

    Parameters
    ----------
    n_columns : int
        Columns of the rows that are sketched.
    size : int
        Rows of P.
    seed : int, default=0
        Determines P.
    nonzeros : int, default=4
        Non-zeros of each column of P, at most ``size``.

    References
    ----------
    .. [1] Kane, Nelson, "Sparser Johnson-Lindenstrauss Transforms", Journal of the ACM
       61(1), 2014.
    """

    def __init__(self, n_columns, size, seed=0, *, nonzeros=4):
        super().__init__(n_columns, size, seed)
        self.nonzeros = min(int(nonzeros), self.size)

    @cached_property
    def _places(self):
        """Row of P and sign of each non-zero, both (n_columns, nonzeros)."""
        shape = (self.n_columns, self.nonzeros)
        index, sign = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.float32)
        edges = np.linspace(0, self.size, self.nonzeros + 1).astype(int)
        for k in range(self.nonzeros):
            rng = stream(self.seed, k)
            index[:, k] = rng.integers(edges[k], edges[k + 1], self.n_columns)
            sign[:, k] = _signs(rng, self.n_columns)
        return index, sign

    def _transpose(self, dtype):
        """P' as a CSR matrix."""
        index, sign = self._places
        value = (sign * np.asarray(self.nonzeros**-0.5, dtype=dtype)).astype(dtype)
        start = np.arange(0, index.size + 1, self.nonzeros)
        shape = (self.n_columns, self.size)
        return sp.csr_matrix((value.ravel(), index.ravel(), start), shape=shape)

    def _project(self, array):
        transpose = self._transpose(floating(array))
        if sp.issparse(array):
            return (array @ transpose).toarray()
        out = np.empty((array.shape[0], self.size), dtype=transpose.dtype)
        # Each batch of the result is small enough to stay in the cache while all columns of P
        # add to it.
        for rows in batches(len(out), 1, max(8, 2**16 // self.size)):
            out[rows] = (transpose.T @ array[rows].T).T
        return out

    def _project_tensor(self, tensor):
        index, sign = self._places
        out = tensor.new_zeros((tensor.shape[0], self.size))
        for k in range(self.nonzeros):
            place = tensor.new_empty(0).long().new_tensor(index[:, k])
            out.index_add_(1, place, tensor * tensor.new_tensor(sign[:, k]))
        return out * self.nonzeros**-0.5

    def _lift(self, array):
        return (self._transpose(floating(array)) @ array.T).T


class SRDCTSketch(Sketch):
    """Subsampled randomised cosine transform: signs, an order, a fast transform, a choice.

    Without the random order of the columns, neighbouring columns would have nearly the same
    transform, and the sketch would need many more rows.

    A larger sketch of the same seed begins with the rows of a smaller one, rescaled.

    Parameters
    ----------
    n_columns : int
        Columns of the rows that are sketched.
    size : int
        Rows of P, at most ``n_columns``.
    seed : int, default=0
        Determines P.

    Raises
    ------
    ValueError
        If ``size`` is larger than ``n_columns``.
    """

    def __init__(self, n_columns, size, seed=0):
        super().__init__(n_columns, size, seed)
        if self.size > self.n_columns:
            raise ValueError(
                f"A cosine transform of {n_columns} columns has no more than as many "
                f"rows. Got size={size}; use IdentitySketch."
            )
        rng = stream(seed, 0)
        # Padding with zeros changes no product.
        self._length = scipy.fft.next_fast_len(self.n_columns, real=True)
        self._sign = _signs(rng, self.n_columns)
        self._order = rng.permutation(self.n_columns)
        self._chosen = rng.permutation(self._length)[: self.size]
        self._scale = (self._length / self.size) ** 0.5

    @property
    def orthogonal_share(self):
        return self.size / self._length

    def _project(self, array):
        out = np.empty((array.shape[0], self.size), dtype=floating(array))
        for rows in batches(len(out), 2 * out.itemsize * self._length):
            part = array[rows].toarray() if sp.issparse(array) else array[rows]
            signed = part[:, self._order].astype(out.dtype, copy=False)
            signed *= self._sign.astype(out.dtype)
            wave = scipy.fft.dct(signed, n=self._length, norm="ortho")
            out[rows] = wave[:, self._chosen]
            out[rows] *= self._scale
        return out

    def _project_tensor(self, tensor):
        # The array functions of the tensor's own library, which is imported already.
        library = sys.modules[type(tensor).__module__.split(".")[0]]
        n = self._length
        signed = tensor.new_zeros((tensor.shape[0], n))
        order = library.as_tensor(self._order, device=tensor.device)
        signed[:, : self.n_columns] = tensor[:, order] * tensor.new_tensor(self._sign)
        # A cosine transform of a row is the Fourier transform of its even entries
        # followed by its odd ones in reverse, with a turn (Makhoul, 1980).
        folded = library.cat([signed[:, ::2], signed[:, 1::2].flip(1)], dim=1)
        spectrum = library.fft.fft(folded, dim=1)
        angle = -np.pi * np.arange(n) / (2 * n)
        wave = spectrum.real * tensor.new_tensor(np.cos(angle))
        wave -= spectrum.imag * tensor.new_tensor(np.sin(angle))
        weight = np.where(np.arange(n) == 0, (1 / n) ** 0.5, (2 / n) ** 0.5)
        wave = wave * tensor.new_tensor(weight * self._scale)
        return wave[:, library.as_tensor(self._chosen, device=tensor.device)]

    def _lift(self, array):
        wave = np.zeros((array.shape[0], self._length), dtype=floating(array))
        wave[:, self._chosen] = array
        signed = scipy.fft.idct(wave, norm="ortho")[:, : self.n_columns]
        out = np.empty_like(signed)
        out[:, self._order] = signed * self._sign.astype(wave.dtype)
        return out * wave.dtype.type(self._scale)


def _signs(rng, size):
    """Independent signs, (size,), from one random bit each."""
    bits = np.unpackbits(rng.integers(0, 256, -(-size // 8), dtype=np.uint8))[:size]
    return 2 * bits.astype(np.float32) - 1
