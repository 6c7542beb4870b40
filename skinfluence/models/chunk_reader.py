"""Reads training rows in pieces as a fitted model sees them."""

from copy import copy
from threading import local

import numpy as np

from skinfluence.data import stacked


class ChunkReader:
    """Features, targets and weights of some training rows, read when they are asked for.

    Parameters
    ----------
    chunks : Chunks
        Training rows, targets and weights, in front of all steps.
    steps : FittedModel
        Has the fitted steps in front of the model, ``featurize`` and ``read_targets``.
    n_jobs : int, default=None
        Number of parts that are read at once.
    """

    def __init__(self, chunks, steps, n_jobs=None):
        self.chunks = chunks
        self.steps = steps
        self.n_jobs = n_jobs
        self.edges = None
        self.forget()

    def __getstate__(self):
        # What can be read again is no part of the reader.
        return {name: value for name, value in vars(self).items() if name != "_last"}

    def __setstate__(self, state):
        vars(self).update(state)
        self.forget()

    def forget(self):
        """Read, and compare, every part again."""
        # Each thread has a last part of its own.
        self._last = local()

    def seen(self, chunk):
        """Features, targets and weights of a part as the model sees them."""
        X, y, weight = chunk
        features = self.steps.featurize(X)
        weight = np.ones(features.shape[0]) if weight is None else np.asarray(weight, dtype=float)
        return features, self.steps.read_targets(np.asarray(y)), weight

    def __call__(self, samples):
        """Some training rows.

        Parameters
        ----------
        samples : slice or ndarray of int
            Their positions, a slice with both ends.

        Returns
        -------
        tuple of (features, y, sample_weight)
        """
        if isinstance(samples, slice):
            slices = self._slices(samples.start, samples.stop)
            return _joined([_rows(self.part(i), rows) for i, rows in slices])
        if not len(samples):
            return _rows(self.part(0), slice(0, 0))
        order = np.argsort(samples, kind="stable")
        parts = np.searchsorted(self.edges, samples[order], side="right") - 1
        found = [
            _rows(self.part(i), samples[order[parts == i]] - self.edges[i])
            for i in np.unique(parts)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return _rows(_joined(found), back)

    def _slices(self, start, stop):
        """Parts between two rows, with the slice of each."""
        for i in self._parts(start, stop):
            left, right = self.edges[i], self.edges[i + 1]
            yield i, slice(max(start, left) - left, min(stop, right) - left)

    def _parts(self, start, stop):
        first = int(np.searchsorted(self.edges, start, side="right")) - 1
        return range(first, max(first + 1, int(np.searchsorted(self.edges, stop, side="left"))))

    def part(self, position):
        """All rows of a part, the last of which is kept for the batches that follow."""
        last = self._last.__dict__
        if position not in last:
            # Not two parts at once.
            last.clear()
            last[position] = self.seen(self.chunks.read(position))
        return last[position]

    def only(self, samples):
        """A reader of a slice of the rows alone, which can be sent to a worker."""
        return self.of_parts(self._parts(samples.start, samples.stop))

    def of_parts(self, positions):
        """A reader of some of the parts alone."""
        other = copy(self)
        other.forget()
        other.chunks = self.chunks.only(positions)
        return other


def _rows(part, rows):
    """Some rows of features, targets and weights."""
    return tuple(values[rows] for values in part)


def _joined(parts):
    return parts[0] if len(parts) == 1 else tuple(map(stacked, zip(*parts, strict=True)))
