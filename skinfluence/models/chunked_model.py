"""A fitted linear model whose training rows come in pieces."""

from functools import cached_property

import numpy as np
from sklearn.base import clone

from skinfluence._utils.progress import track
from skinfluence.data import stacked
from skinfluence.models.chunked_objective import ChunkedObjective, Pieces
from skinfluence.models.fitted_model import FittedModel
from skinfluence.models.wrappers import unfrozen


class ChunkedModel(FittedModel):
    """A model that is fitted already, and training rows that are read again for every pass.

    Parameters
    ----------
    given, fitted : estimator
        The estimator as the user gave it, and the fitted one.
    chunks : Chunks
        Training rows, targets and weights, in front of all steps.
    check : callable
        ``check(X, y, sample_weight)`` raises an error if a part is unfit; called once for each,
        and ``check.check_all(n_samples, total_weight)`` at the end.

    Attributes
    ----------
    features : ChunkedFeatures of shape (n_samples, d)
        Training rows as the model sees them.
    """

    def __init__(self, given, fitted, chunks, check):
        self._unwrap(given, fitted)
        self.chunks = chunks
        self._last = None, None
        self._pieces = None
        for position, chunk in enumerate(track(chunks.scan(), "chunks", len(chunks.parts))):
            try:
                check(*chunk)
                self._take_in(chunk)
            except ValueError as error:
                raise ValueError(f"Part {position} of the chunks: {error}") from error
        self._edges = chunks.edges
        check.check_all(self._pieces.n_samples, self._pieces.total)
        self.objective = ChunkedObjective(self._pieces, self._edges)
        self.table = self.features = self.objective.features

    def __getstate__(self):
        # What can be read again is no part of the model.
        lazy = ("given_y", "y", "sample_weight", "_weights_and_targets")
        kept = {name: value for name, value in vars(self).items() if name not in lazy}
        return kept | {"_last": (None, None)}

    def check_unchanged(self):
        # Every part is compared whenever it is read.
        self._last = None, None

    def checksum(self):
        return self.chunks.checksum()

    def _take_in(self, chunk):
        if self._pieces is None:
            template = first_row(self.given, self.fitted, chunk).objective
            self._pieces = Pieces(self.model, self.read, template)
        self._pieces.add(*self._seen(chunk))

    def _seen(self, chunk):
        """Features, targets and weights as the model sees them."""
        X, y, weight = chunk
        features = self.featurize(X)
        weight = np.ones(features.shape[0]) if weight is None else np.asarray(weight, dtype=float)
        return features, self.read_targets(np.asarray(y)), weight

    def read(self, samples):
        """Features, targets and weights of some training rows as the model sees them.

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
            return _joined([_rows(self._part(i), rows) for i, rows in slices])
        if not len(samples):
            return _rows(self._part(0), slice(0, 0))
        order = np.argsort(samples, kind="stable")
        parts = np.searchsorted(self._edges, samples[order], side="right") - 1
        found = [
            _rows(self._part(i), samples[order[parts == i]] - self._edges[i])
            for i in np.unique(parts)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return _rows(_joined(found), back)

    def _slices(self, start, stop):
        """Parts between two rows, with the slice of each."""
        first = np.searchsorted(self._edges, start, side="right") - 1
        last = max(first + 1, np.searchsorted(self._edges, stop, side="left"))
        for i in range(first, last):
            left, right = self._edges[i], self._edges[i + 1]
            yield i, slice(max(start, left) - left, min(stop, right) - left)

    def _part(self, position):
        """The rows of a part, the last of which is kept for the batches that follow."""
        known, part = self._last
        if known != position:
            # Not two parts at once.
            self._last = None, None
            part = self._seen(self.chunks.read(position))
            self._last = position, part
        return part

    # What is held of all rows, for what has a result for each row by itself.

    @cached_property
    def _weights_and_targets(self):
        every = range(len(self._edges) - 1)
        given = [np.asarray(self.chunks.read(i).y) for i in every]
        weights = [self._part(i)[2] for i in every]
        return np.concatenate(given), np.concatenate(weights)

    @cached_property
    def given_y(self):
        """Targets as the user gave them."""
        return self._weights_and_targets[0]

    @cached_property
    def y(self):
        """Targets as the model sees them."""
        return self.read_targets(self.given_y)

    @cached_property
    def sample_weight(self):
        """Weights of the training rows, (n_samples,)."""
        return self._weights_and_targets[1]

    def gathered(self):
        X, y, weight = self.chunks.concatenated()
        weight = np.ones(len(y)) if weight is None else weight
        return FittedModel(self.given, self.fitted, X, y, weight)


def can_read_pieces(estimator, chunks):
    """Whether all that is needed of the training rows is a sum over pieces of them.

    Parameters
    ----------
    estimator : estimator
        The estimator as the user gave it.
    chunks : Chunks
        Training rows.

    Returns
    -------
    bool
        True for a frozen model that is linear in its features.
    """
    if unfrozen(estimator) is estimator:
        return False
    known = first_row(estimator, clone(estimator), chunks.read(0)).known_objective
    return known is not None and known.is_linear


def first_row(given, fitted, chunk):
    """The fitted model on the first row of a part alone, with weight 1."""
    return FittedModel(given, fitted, chunk.X[:1], np.asarray(chunk.y)[:1], np.ones(1))


def _rows(part, rows):
    """Some rows of features, targets and weights."""
    return tuple(values[rows] for values in part)


def _joined(parts):
    return parts[0] if len(parts) == 1 else tuple(map(stacked, zip(*parts, strict=True)))
