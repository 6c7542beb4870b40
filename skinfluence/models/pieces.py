"""Objectives on pieces of the training rows, and the sums of a first pass over them."""

import warnings
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import issparse

from skinfluence.models.doors import objective
from skinfluence.rows import Moments


class Pieces:
    """Objectives on pieces of the training rows of one fitted model.

    Parameters
    ----------
    model : estimator
        The fitted model, without wrappers.
    read : ChunkReader
        ``read(samples)`` gives features, targets and weights of a slice or an index array.
    template : LinearObjective
        The objective on one row of weight 1.
    origin : ndarray of shape (d,)
        Values near the first rows.
    """

    def __init__(self, model, read, template, origin):
        self.model = model
        self.read = read
        self.template = template
        self.origin = origin
        self.counts = self.sums = self.total_weight = self.centring = None

    def first_sums(self, features, y, sample_weight):
        """`Counts` of some rows, and their `FirstSums` where class weights are known by then."""
        piece = self.objective(features, y, sample_weight)
        sizes, n_samples = piece.weighting.sizes, len(sample_weight)
        counts = Counts(sizes, n_samples, sample_weight.sum())
        is_known = not self.template.weighting.is_balanced
        return counts, FirstSums.of(piece, self.origin) if is_known else None

    def take_in(self, counts, sums):
        """Take in what `first_sums` gives of the next rows."""
        self.counts = counts if self.counts is None else self.counts + counts
        self.sums = sums if self.sums is None or sums is None else self.sums + sums

    def __getitem__(self, samples):
        """Objective on some of the rows, with their weights in the objective of all."""
        features, y, sample_weight = self.read(samples)
        piece = self.objective(features, y, sample_weight)
        piece.weighting = piece.weighting.of_piece(self.counts.sizes)
        piece.targets = piece.weighting.weigh(piece.encode(y))
        if self.total_weight is not None:
            piece.total_weight = self.total_weight
        if self.centring is not None:
            piece = piece.centred(self.centring)
            piece.features = _written_out(piece.features)
        return piece

    def centred(self, centring):
        """The same for features that a `Centring` has shifted."""
        other = copy(self)
        other.centring, other.sums = centring, None
        other.origin = np.zeros_like(self.origin)
        return other

    def reading(self, read):
        """The same with another reader, such as one that is sent to a worker."""
        other = copy(self)
        other.read, other.sums = read, None
        return other

    def objective(self, features, y, sample_weight):
        """Objective on rows that were read, with their weights in the objective of these alone."""
        # The first row alone has issued the warning of an L1 penalty.
        has_warned = self.template.active is not None
        with warnings.catch_warnings() if has_warned else nullcontext():
            if has_warned:
                warnings.simplefilter("ignore", UserWarning)
            return objective(self.model, _written_out(features), y, sample_weight)

    @property
    def penalty_factor(self):
        """Penalty of the objective of all rows, over that of the template."""
        counts = self.counts
        return self.template.weighting.penalty_of_all(counts.n_samples, counts.total)


@dataclass
class Reading:
    """What is read of some rows, as a function that can be sent without the other rows.

    Parameters
    ----------
    pieces : Pieces
        Objectives on pieces.
    function : callable
        ``function(pieces, samples)``, a plain function.
    """

    pieces: Pieces
    function: object

    def __call__(self, samples):
        return self.function(self.pieces, samples)

    def only(self, samples):
        """The same for a slice of the rows alone."""
        pieces = self.pieces
        return Reading(pieces.reading(pieces.read.only(samples)), self.function)

    @property
    def edges(self):
        """First row of every piece, and the number of all rows, (n_pieces + 1,)."""
        return self.pieces.read.edges

    @property
    def n_jobs(self):
        """Number of pieces that are read at once."""
        return self.pieces.read.n_jobs


class Sums:
    """Sums over rows, which add up over pieces of them."""

    def __add__(self, other):
        names = [field.name for field in fields(self)]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass
class Counts(Sums):
    """Sizes of all groups of rows, see `Weighting.sizes`; number and sum of the user's weights."""

    sizes: np.ndarray
    n_samples: int
    total: float


@dataclass
class FirstSums(Sums):
    """Sums over rows that need no centre.

    Parameters
    ----------
    total_weight : float
        Sum of the weights.
    gradient, size : ndarray of shape (n_coordinates,), or float
        As `Objective.gradient_and_size` gives them.
    curved : Moments
        Of the features, by the curvature of the rows.
    """

    total_weight: float
    gradient: np.ndarray
    size: np.ndarray
    curved: Moments

    @classmethod
    def of(cls, piece, origin):
        """The sums of the objective on some rows."""
        curved = moments(piece, origin, is_curved=True)
        return cls(piece.weight.sum(), *piece.gradient_and_size(), curved)


def moments(piece, origin, *, is_curved):
    """`Moments` of the features of some rows, by the curvature of the rows or by their weights."""
    found = Moments(origin)
    found.add(piece.features, piece.curvature_of_rows() if is_curved else piece.weight)
    return found


def _written_out(features):
    """Dense features in double precision: a piece of them is small, and read several times."""
    if getattr(features, "is_sparse", issparse(features)):
        return features
    return np.asarray(features, dtype=np.float64)
