"""One pass over the training rows for many queries: training rows outside, queries inside."""

from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np

from skinfluence._utils.arrays import SORT_KEYS, largest
from skinfluence._utils.batching import Schedule, batches
from skinfluence._utils.progress import reporting
from skinfluence._utils.warnings import warn_user
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import Rows

# A tile of scores of this many bytes is still in the cache when its numbers are compared.
TILE_BYTES = 2**22

# So many tasks for each worker, so that none waits long for the last one.
TASKS_OF_WORKER = 4

# Fewer queries are not worth the rows that single precision writes out.
FEW = 32

# The first leaders are found among fewer than so many rows for each of them.
FIRST = 8

# Relative error of scores up to which single precision is taken, and how many training rows, and
# queries, it is measured on.
SINGLE_ERROR = 1e-4
N_CHECKED = 128


@dataclass
class TrainingPass:
    """Inner products of the solutions of some queries with all training rows.

    Every training row is made once, whatever the number of queries.

    Parameters
    ----------
    solved : Rows
        Solutions, one row for each query.
    rows : Rows
        Training rows.
    schedule : Schedule
        Divides training rows into batches and threads.
    dtype : type
        Precision of the products. In single precision they are taken where their errors, as
        measured on some of them, are small, and where that is faster: for many queries whose
        solutions are written out.
    """

    solved: Rows
    rows: Rows
    schedule: Schedule
    dtype: type

    def __post_init__(self):
        self._products = _Products(self.solved, self._in_single_precision(), self.dtype)

    def _in_single_precision(self):
        """Solutions in single precision, None where products stay in double precision."""
        few = len(self.solved) < FEW or not self.solved.is_written_out
        if self.dtype == np.float64 or few or self.rows[:1].is_sparse:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            single = self.solved.array.astype(self.dtype)
            error = self._error_of(single)
        if error <= SINGLE_ERROR:
            return single
        warn_user(
            f"In single precision the scores would have relative errors of {error:.0e}, since "
            "parts of the gradients cancel: columns far from 0, or nearly collinear. Products "
            "stay in double precision. Scale the features, for example by StandardScaler in a "
            "Pipeline, or leave dtype out.",
            NumericalWarning,
        )
        return None

    def _error_of(self, single):
        """Relative error of the products of some queries with some training rows."""
        rows = self.rows[_spread(len(self.rows))].toarray()
        some = _spread(len(single))
        exact = self.solved.array[some] @ rows.T
        error = np.linalg.norm(single[some] @ rows.astype(self.dtype).T - exact, axis=1)
        size = np.linalg.norm(exact, axis=1)
        return (error / np.maximum(size, np.finfo(np.float64).tiny)).max()

    def fill(self, out):
        """Write the products into ``out`` (n_queries, n_train)."""
        write = self._products.write
        if self.rows.reads_pieces:
            # Results take more memory than pieces, which are read again for each of their slices.
            slices = self._fitting()
            found = self._of_tasks(self._products.written, [[part] for part in slices])
            for part, products in zip(slices, found, strict=True):
                out[:, part] = products
            return
        parts = [part for span in self._spans() for part in self._parts(span)]
        self.schedule.run(lambda part: write(self.rows[part], out[:, part]), parts)

    def ranking(self, k, by):
        """The k products of each query that come first, and the training rows.

        Parameters
        ----------
        k : int
            How many of each query.
        by : {"harmful", "helpful", "absolute"}
            Largest, smallest or largest absolute product first.

        Returns
        -------
        indices, values : ndarray of shape (n_queries, k)
            Training rows, of equal products the first ones first, and the products.
        """
        search = partial(_leaders, self._products, k, SORT_KEYS[by])
        if self.rows.reads_pieces:
            return self._joined(self._of_tasks(search, self._few_groups(), _start))
        found = {}

        def search_span(span):
            parts = ((self.rows[part], part.start) for part in self._parts(span))
            found[span.start] = search(parts)

        self.schedule.run(search_span, self._spans())
        return self._joined(found[start] for start in sorted(found))

    @staticmethod
    def _joined(found):
        """Indices and values of the leaders of consecutive rows, (n_queries, k)."""
        first, *others = found
        leaders = first.copy()
        for other in others:
            leaders.take_in(other)
        return leaders.indices, leaders.values

    def _of_tasks(self, function, groups, *arguments):
        """Results of workers that read their own pieces of the training rows."""
        with reporting(self.schedule.verbose):
            yield from self.rows.of_tasks(function, groups, *arguments)

    def _few_groups(self):
        """Consecutive slices in a few groups, since each task begins without leaders."""
        slices = self._fitting()
        size = -(-len(slices) // (TASKS_OF_WORKER * self.schedule.n_workers))
        return [slices[i : i + size] for i in range(0, len(slices), size)]

    def _spans(self):
        """Slices of training rows, one for each thread."""
        share = -(-len(self.rows) // self.schedule.n_threads)
        return batches(len(self.rows), 0, share)

    def _parts(self, span):
        """Slices of a slice of training rows that fit into the working memory."""
        parts = [slice(max(p.start, span.start), min(p.stop, span.stop)) for p in self._fitting()]
        return [part for part in parts if part.start < part.stop]

    def _fitting(self):
        # Rows may be read in pieces of several sizes.
        return self.rows.parts(len(self.solved), self.schedule.batch_size)


@dataclass
class _Products:
    """Products of the solutions of some queries with training rows, as plain data.

    Parameters
    ----------
    solved : Rows
        Solutions, one row for each query.
    single : ndarray of shape (n_queries, n_columns) or None
        The same in single precision, None where products stay in double precision.
    dtype : type
        Precision of the results.
    """

    solved: Rows
    single: np.ndarray | None
    dtype: type

    def write(self, rows, out):
        """Write the products with some training rows into ``out`` (n_queries, n_rows)."""
        if self.single is None:
            self.solved.inner(rows, out=out)
            return
        for batch in rows.batches(cached=True):
            written = rows[batch].toarray().astype(self.dtype)
            np.matmul(self.single, written.T, out=out[:, rows.row_slice(batch)])

    def written(self, parts):
        """The products with the only part of a task, (n_queries, n_rows)."""
        ((rows,),) = parts
        out = np.empty((len(self.solved), len(rows)), self.dtype)
        self.write(rows, out)
        return out

    def tiles(self, rows, k):
        """Slices of rows and the products with them, all in the same memory."""
        n_queries = len(self.solved)
        # Fewer rows than are looked for would be compared with these again and again.
        size = min(len(rows), max(k, TILE_BYTES // (8 * n_queries)))
        memory = np.empty(n_queries * size, self.dtype)
        for tile in batches(len(rows), 0, size):
            n_rows = tile.stop - tile.start
            products = memory[: n_queries * n_rows].reshape(n_queries, n_rows)
            self.write(rows[tile], products)
            yield tile, products


def _leaders(products, k, key, parts):
    """`_Leaders` of the training rows of some parts, each with the place of its first row."""
    leaders = _Leaders(len(products.solved), k, key)
    for rows, start in parts:
        for tile, values in products.tiles(rows, k):
            leaders.compare(values, start + tile.start)
    return leaders


def _start(part):
    return (part.start,)


def _spread(n_rows):
    """Some positions, spread over all of them."""
    return np.unique(np.linspace(0, n_rows - 1, N_CHECKED).astype(int))


class _Leaders:
    """The k numbers of each query with the largest keys so far, largest first."""

    def __init__(self, n_queries, k, key):
        self.key = key
        self.keys = np.full((n_queries, k), -np.inf)
        self.values = np.zeros((n_queries, k))
        self.indices = np.zeros((n_queries, k), dtype=np.intp)

    def compare(self, values, start):
        """Let numbers (n_queries, n_rows) of the training rows from ``start`` on take places."""
        n_rows, k = values.shape[1], self.keys.shape[1]
        if n_rows > FIRST * k and np.isneginf(self.keys).all():
            # Of the second half few come before the leaders of the first, so little is sorted.
            self.compare(values[:, : n_rows // 2], start)
            values, start = values[:, n_rows // 2 :], start + n_rows // 2
        keys = self.key(values)
        query, place = self._candidates(keys)
        self._take(query, keys[query, place], values[query, place], place + start)

    def _candidates(self, keys):
        """Queries and places of the numbers that may come before the last leaders."""
        n_queries, k = self.keys.shape
        if np.isneginf(self.keys[:, 0]).all() and keys.shape[1] > k:
            return np.repeat(np.arange(n_queries), k), largest(keys, k).ravel()
        last = self.keys[:, -1]
        # Most queries have no such number here.
        rows = np.flatnonzero(keys.max(axis=1) > last)
        query, place = np.divmod(np.flatnonzero(keys[rows] > last[rows, None]), keys.shape[1])
        return rows[query], place

    def copy(self):
        """The same leaders in memory of their own, since that of workers may be read-only."""
        other = copy(self)
        for name in ("keys", "values", "indices"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def take_in(self, other):
        """Let the leaders of later rows take places."""
        n_queries, k = self.keys.shape
        query = np.repeat(np.arange(n_queries), k)
        self._take(query, other.keys.ravel(), other.values.ravel(), other.indices.ravel())

    def _take(self, query, keys, values, indices):
        """Let numbers of some queries take places among their leaders."""
        if not len(query):
            return
        rows, k = np.unique(query), self.keys.shape[1]
        query = np.concatenate([np.repeat(rows, k), query])
        found = [
            np.concatenate([mine[rows].ravel(), new])
            for mine, new in ((self.keys, keys), (self.values, values), (self.indices, indices))
        ]
        # Of equal keys, the leaders before the new ones.
        order = np.lexsort((-found[0], query))
        first = np.searchsorted(query[order], rows)
        kept = order[first[:, None] + np.arange(k)]
        self.keys[rows], self.values[rows], self.indices[rows] = (part[kept] for part in found)
