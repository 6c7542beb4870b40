"""A fitted linear model whose training rows come in pieces."""

from copy import copy
from functools import cached_property

import numpy as np
from sklearn.base import clone

from skinfluence._utils.progress import track
from skinfluence.models.chunk_reader import ChunkReader
from skinfluence.models.chunked_objective import ChunkedObjective
from skinfluence.models.fitted_model import FittedModel
from skinfluence.models.pieces import Pieces
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
        # The steps alone go to workers.
        self._reader = ChunkReader(chunks, copy(self))
        self.chunks = chunks
        pieces = None
        for position, chunk in enumerate(track(chunks.scan(), "chunks", len(chunks.parts))):
            try:
                check(*chunk)
                if pieces is None:
                    template = first_row(given, fitted, chunk).objective
                    pieces = Pieces(self.model, self._reader, template)
                pieces.add(*self._reader.seen(chunk))
            except ValueError as error:
                raise ValueError(f"Part {position} of the chunks: {error}") from error
        check.check_all(pieces.n_samples, pieces.total)
        self._reader.edges = chunks.edges
        self.objective = ChunkedObjective(pieces, chunks.edges)
        self.table = self.features = self.objective.features

    def __getstate__(self):
        # What can be read again is no part of the model.
        lazy = ("given_y", "y", "sample_weight", "_weights_and_targets")
        return {name: value for name, value in vars(self).items() if name not in lazy}

    def check_unchanged(self):
        # Every part is compared whenever it is read.
        self._reader.forget()

    def checksum(self):
        return self.chunks.checksum()

    # What is held of all rows, for what has a result for each row by itself.

    @cached_property
    def _weights_and_targets(self):
        every = range(len(self.chunks.parts))
        given = [np.asarray(self.chunks.read(i).y) for i in every]
        weights = [self._reader.part(i)[2] for i in every]
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
