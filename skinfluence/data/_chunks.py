"""Training rows in pieces, each of which is read when it is needed."""

from collections import namedtuple
from copy import copy

import joblib
import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_consistent_length

from skinfluence._utils.batching import fits_in_memory
from skinfluence._utils.kept_rows import fingerprint_of
from skinfluence._utils.parallel import results
from skinfluence._utils.shared import Shared
from skinfluence._utils.sklearn_private import _num_samples
from skinfluence.data._sources import array_parts, dask_parts, parquet_parts

# Rows, targets and sample weights of one piece, weights None where there are none.
Chunk = namedtuple("Chunk", ["X", "y", "sample_weight"], defaults=[None])

EXPECTED = "(X, y) or (X, y, sample_weight), or a function without arguments that returns one"


class Chunks:
    """Training rows in pieces, which ``fit`` takes in place of X and y.

    Rows are numbered as in the concatenation of all parts. Each part is read when it is needed,
    and one at a time is held by each worker: twice by ``fit`` of a frozen linear model, once by
    `self_influence`, `influence` and `most_influential` for as many queries as fit into the
    working memory. Parts that differ when they are read again are refused.

    Parameters
    ----------
    parts : sequence
        Each part is ``(X, y)`` or ``(X, y, sample_weight)``, or a function without arguments that
        returns one. A function keeps the rows out of memory, and out of pickles if it can be
        pickled itself.

    See Also
    --------
    ExactInfluence : Takes them in ``fit``.

    Notes
    -----
    A model that is linear in its features and is fitted already, in a
    ``sklearn.frozen.FrozenEstimator``, is never given all rows: its curvature, the means of the
    columns and the gradient are sums over the parts. Any other model gets the concatenated rows,
    where they fit into scikit-learn's ``working_memory``. What has a result for each row by
    itself, such as `leave_one_out_effect` and `removal_effect`, also holds targets, weights and
    outputs of all rows, ``n_samples * n_outputs`` numbers each.

    Each pass is one call of joblib, whose workers read their own parts: ``n_jobs`` threads, or
    what ``joblib.parallel_config`` names. Sums are taken in the order of the parts, so that the
    number of workers changes no result.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import Chunks, ExactInfluence
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = FrozenEstimator(Ridge().fit(X, y))
    >>> chunks = Chunks([(X[:100], y[:100]), lambda: (X[100:], y[100:])])
    >>> len(chunks)
    442
    >>> influence = ExactInfluence(model).fit(chunks)
    >>> expected = ExactInfluence(model).fit(X, y).self_influence()
    >>> bool(np.allclose(influence.self_influence(), expected, rtol=1e-12))
    True
    """

    def __init__(self, parts):
        if not (hasattr(parts, "__len__") and hasattr(parts, "__getitem__")):
            raise TypeError(
                f"parts is of type {type(parts).__name__}, which can be read only once. Expected "
                f"a sequence, such as a list, whose items are {EXPECTED}."
            )
        if not len(parts):
            raise ValueError(f"parts is empty. Expected at least one part: {EXPECTED}.")
        self.parts = parts
        self._known = None

    @classmethod
    def from_array(cls, X, y, *, sample_weight=None, chunk_size=100_000):
        """Parts of arrays or memory maps, which are read slice by slice and never copied whole.

        Parameters
        ----------
        X : {ndarray, memory map, CSR matrix} of shape (n_samples, n_features)
            Training rows. Single precision stays so, on disk and in memory, until a product.
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : ndarray of shape (n_samples,), default=None
            Weights of the rows.
        chunk_size : int, default=100000
            Rows of each part.

        Returns
        -------
        Chunks
            Parts of ``chunk_size`` rows each, the last of the rest.
        """
        return cls(array_parts(X, y, sample_weight, chunk_size))

    @classmethod
    def from_dask(cls, X, y, sample_weight=None):
        """Parts of a dask array or data frame, its blocks along the rows.

        Parameters
        ----------
        X : dask array or data frame of shape (n_samples, n_features)
            Training rows.
        y : dask array or series of shape (n_samples,) or (n_samples, n_targets)
            Targets, in the same blocks; an array is rechunked to them.
        sample_weight : dask array or series of shape (n_samples,), default=None
            Weights of the rows, like ``y``.

        Returns
        -------
        Chunks
            Each part computes its block whenever it is read.
        """
        return cls(dask_parts(X, y, sample_weight))

    @classmethod
    def from_parquet(cls, path, *, target, columns=None, weight=None):
        """Parts of a Parquet file, its row groups.

        Parameters
        ----------
        path : str or path-like
            A file, read by pyarrow.
        target : str or list of str
            Column of the targets, or several.
        columns : list of str, default=None
            Columns of the features; by default all that are neither target nor weight.
        weight : str, default=None
            Column of the sample weights.

        Returns
        -------
        Chunks
            Each part reads its row group, as a pandas data frame, whenever it is needed.

        Raises
        ------
        ImportError
            If pyarrow is not installed.
        ValueError
            If a column is not in the file.
        """
        return cls(parquet_parts(path, target, columns, weight))

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Chunks hold the training rows of fit. Expected an array here, such as queries: give "
            "chunks.read(i).X, the rows of one part, or chunks.concatenated().X, all of them."
        )

    # Rows of the concatenation.

    def __len__(self):
        return self.n_samples

    @property
    def n_samples(self):
        """Rows of all parts; the first time, each is read."""
        return int(self.edges[-1])

    @property
    def edges(self):
        """First row of every part, and the number of all rows, (n_parts + 1,)."""
        if self._known is None:
            every = range(len(self.parts))
            tasks = [(Shared(self.only([position])), position) for position in every]
            self.know(results(_found, tasks, "chunks", prefer="threads"))
        return np.cumsum([0, *(n for n, _ in self._known)])

    def checksum(self):
        """Checksum of some of the rows of every part.

        Returns
        -------
        str
            The same for the same parts, whoever reads them.
        """
        if self._known is None:
            len(self)
        return joblib.hash(self._known)

    def know(self, found):
        """Remember what every part was, so that one that changes is refused.

        Parameters
        ----------
        found : iterable
            What `examined` tells of every part, in their order.
        """
        self._known = list(found)

    def read(self, position):
        """One part.

        Parameters
        ----------
        position : int
            Its place among the parts.

        Returns
        -------
        Chunk
            Rows, targets and weights, None without weights.

        Raises
        ------
        ValueError
            If it is not what it was when it was read first.
        """
        return self.examined(position)[0]

    def head(self, n_rows):
        """The first rows of the first part.

        Parameters
        ----------
        n_rows : int
            How many, at most.

        Returns
        -------
        Chunk
            Rows, targets and weights, None without weights.
        """
        return Chunk(*(None if x is None else x[:n_rows] for x in self.read(0)))

    def examined(self, position):
        """One part, and what tells whether it is the same when it is read again.

        Parameters
        ----------
        position : int
            Its place among the parts.

        Returns
        -------
        chunk : Chunk
            Rows, targets and weights, None without weights.
        found : tuple
            Its number of rows, and checksums of some of them.
        """
        part = self.parts[position]
        chunk = _chunk(part() if callable(part) else part, position)
        n_samples = _num_samples(chunk.X)
        found = n_samples, tuple(fingerprint_of(x) for x in chunk if x is not None)
        if self._known is not None and found != self._known[position]:
            raise ValueError(
                f"Part {position} of the chunks holds other rows than when it was read first: "
                f"{n_samples} rows now, {self._known[position][0]} then, or other numbers. "
                "Expected a part that never changes; fix seeds and the order of rows in the "
                "function that reads it, and make new Chunks after a change."
            )
        return chunk, found

    def only(self, positions):
        """The same chunks without the other parts, to be sent to a worker that reads its own.

        Parameters
        ----------
        positions : sequence of int
            Places of the parts that stay, under the same numbers.

        Returns
        -------
        Chunks
            Chunks that can read these parts alone.
        """
        other = copy(self)
        other.parts = {position: self.parts[position] for position in positions}
        if self._known is not None:
            other._known = {position: self._known[position] for position in positions}
        return other

    def concatenated(self):
        """All rows as one Chunk.

        Returns
        -------
        Chunk
            Rows, targets and weights of all parts.

        Raises
        ------
        MemoryError
            If they do not fit into the working memory of scikit-learn.
        """
        chunks, known, n_bytes = [], [], 0
        for position in range(len(self.parts)):
            chunk, found = self.examined(position)
            chunks.append(chunk)
            known.append(found)
            n_bytes += sum(_n_bytes(values) for values in chunk if values is not None)
            if not fits_in_memory(n_bytes):
                raise MemoryError(
                    f"The rows of the chunks take more than the working memory, {n_bytes:.3g} "
                    "bytes or more, and only a fitted model that is linear in its features does "
                    "without all of them at once. Expected a fitted one inside "
                    "sklearn.frozen.FrozenEstimator; or raise "
                    "sklearn.set_config(working_memory=...), in MiB."
                )
        self.know(known)
        given = [values for values in zip(*chunks, strict=True) if values[0] is not None]
        return Chunk(*map(stacked, given))


def _found(shared, position):
    return shared.value.examined(position)[1]


def _chunk(part, position):
    """A part that was read, checked by itself."""
    if not isinstance(part, tuple | list) or len(part) not in (2, 3):
        raise TypeError(
            f"Part {position} of the chunks is of type {type(part).__name__}. Expected {EXPECTED}."
        )
    chunk = Chunk(*part)
    if chunk.y is None:
        raise ValueError(f"Part {position} of the chunks has y=None. Expected targets.")
    try:
        check_consistent_length(*chunk)
    except ValueError as error:
        raise ValueError(f"Part {position} of the chunks: {error}") from error
    if _num_samples(chunk.X) == 0:
        raise ValueError(
            f"Part {position} of the chunks has no rows. Expected at least one; leave it out."
        )
    return chunk


def stacked(pieces):
    """Consecutive rows of one kind as one array, matrix or data frame."""
    if sp.issparse(pieces[0]):
        return sp.vstack(pieces, format="csr")
    if hasattr(pieces[0], "iloc"):
        import pandas

        return pandas.concat(pieces)
    return np.concatenate([np.asarray(piece) for piece in pieces])


def _n_bytes(values):
    if sp.issparse(values):
        return values.data.nbytes + values.indices.nbytes
    return getattr(values, "nbytes", np.asarray(values).nbytes)
