"""Reads training rows in pieces as a fitted model sees them."""

from copy import copy

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
    """

    def __init__(self, chunks, steps):
        self.chunks = chunks
        self.steps = steps
        self.edges = None
        self.forget()

    def __getstate__(self):
        # What can be read again is no part of the reader.
        return vars(self) | {"_last": (None, None)}

    def forget(self):
        """Read, and compare, every part again."""
        self._last = None, None

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
        known, part = self._last
        if known != position:
            # Not two parts at once.
            self.forget()
            part = self.seen(self.chunks.read(position))
            self._last = position, part
        return part

    def only(self, samples):
        """A reader of a slice of the rows alone, which can be sent to a worker."""
        other = copy(self)
        other.forget()
        other.chunks = self.chunks.only(self._parts(samples.start, samples.stop))
        return other


def _rows(part, rows):
    """Some rows of features, targets and weights."""
    return tuple(values[rows] for values in part)


def _joined(parts):
    return parts[0] if len(parts) == 1 else tuple(map(stacked, zip(*parts, strict=True)))
