"""A fitted linear model whose training rows come in pieces."""

from contextlib import contextmanager
from copy import copy
from functools import cached_property

import numpy as np
from sklearn.base import clone

from skinfluence._utils.parallel import results
from skinfluence._utils.shared import Shared
from skinfluence.models.chunk_reader import ChunkReader
from skinfluence.models.chunked_objective import ChunkedObjective
from skinfluence.models.fitted_model import FittedModel
from skinfluence.models.pieces import Pieces
from skinfluence.models.wrappers import unfrozen
from skinfluence.rows import Moments


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
    n_jobs : int, default=None
        Number of parts that are read at once.

    Attributes
    ----------
    features : ChunkedFeatures of shape (n_samples, d)
        Training rows as the model sees them.
    """

    def __init__(self, given, fitted, chunks, check, n_jobs=None):
        self._unwrap(given, fitted)
        # The steps alone go to workers.
        self._reader = ChunkReader(chunks, copy(self), n_jobs)
        self.chunks = chunks
        pieces = self._first_pass(check)
        check.check_all(pieces.counts.n_samples, pieces.counts.total)
        self._reader.edges = chunks.edges
        self.objective = ChunkedObjective(pieces)
        self.table = self.features = self.objective.features

    def _first_pass(self, check):
        """Pieces of the rows, after one joblib call that checks every part and adds it up."""
        chunks, reader = self.chunks, self._reader
        head = chunks.head(Moments.n_first)
        with _naming_part(0):
            check(*head)
            template = first_row(self.given, self.fitted, head).objective
            origin = Moments.near(reader.seen(head)[0]).origin
        pieces = Pieces(self.model, reader, template, origin)
        every = range(len(chunks.parts))
        tasks = [(Shared((pieces.reading(reader.of_parts([i])), check)), i) for i in every]
        known, n_jobs = [], reader.n_jobs
        for found, sums in results(_added_up, tasks, "chunks", n_jobs=n_jobs, prefer="threads"):
            known.append(found)
            pieces.take_in(*sums)
        chunks.know(known)
        return pieces

    def __getstate__(self):
        # What can be read again is no part of the model.
        lazy = ("given_y", "y", "sample_weight", "_weights_and_targets")
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in lazy}

    def check_unchanged(self):
        # Every part is compared whenever it is read.
        self._reader.forget()

    def checksum(self):
        return self.chunks.checksum()

    # What is held of all rows, for what has a result for each row by itself.

    @cached_property
    def _weights_and_targets(self):
        every = range(len(self.chunks.parts))
        tasks = [(Shared(self._reader.of_parts([i])), i) for i in every]
        n_jobs = self._reader.n_jobs
        found = results(_weights_and_targets, tasks, "chunks", n_jobs=n_jobs, prefer="threads")
        return tuple(map(np.concatenate, zip(*found, strict=True)))

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


# Plain functions, which can be sent to a worker.


def _added_up(shared, position):
    """What tells whether a part is the same when it is read again, and its sums."""
    pieces, check = shared.value
    chunk, found = pieces.read.chunks.examined(position)
    with _naming_part(position):
        check(*chunk)
        return found, pieces.first_sums(*pieces.read.seen(chunk))


def _weights_and_targets(shared, position):
    """Targets of a part as the user gave them, and its weights."""
    y, weight = shared.value.chunks.read(position)[1:]
    return np.asarray(y), np.ones(len(y)) if weight is None else np.asarray(weight, dtype=float)


@contextmanager
def _naming_part(position):
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Part {position} of the chunks: {error}") from error


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
    known = first_row(estimator, clone(estimator), chunks.head(1)).known_objective
    return known is not None and known.is_linear


def first_row(given, fitted, chunk):
    """The fitted model on the first row of a part alone, with weight 1."""
    return FittedModel(given, fitted, chunk.X[:1], np.asarray(chunk.y)[:1], np.ones(1))
