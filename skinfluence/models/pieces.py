"""Objectives on pieces of the training rows, and what a first pass over them adds up."""

import warnings
from contextlib import nullcontext
from copy import copy

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
    """

    def __init__(self, model, read, template):
        self.model = model
        self.read = read
        self.template = template
        self.sizes = 0.0
        self.sums = None if template.weighting.is_balanced else FirstSums()
        self.n_samples, self.total = 0, 0.0
        self.total_weight = self.centring = None

    def add(self, features, y, sample_weight):
        """Take in the next rows, once each."""
        piece = self._objective(features, y, sample_weight)
        self.sizes = self.sizes + piece.weighting.sizes
        self.n_samples += len(sample_weight)
        self.total += sample_weight.sum()
        if self.sums is not None:
            self.sums.add(piece)

    def __getitem__(self, samples):
        """Objective on some of the rows, with their weights in the objective of all."""
        features, y, sample_weight = self.read(samples)
        piece = self._objective(features, y, sample_weight)
        piece.weighting = piece.weighting.of_piece(self.sizes)
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
        return other

    def only(self, samples):
        """The same for a slice of the rows alone, which can be sent to a worker."""
        other = copy(self)
        other.read, other.sums = self.read.only(samples), None
        return other

    def _objective(self, features, y, sample_weight):
        # The first row alone has issued the warning of an L1 penalty.
        has_warned = self.template.active is not None
        with warnings.catch_warnings() if has_warned else nullcontext():
            if has_warned:
                warnings.simplefilter("ignore", UserWarning)
            return objective(self.model, _written_out(features), y, sample_weight)

    @property
    def penalty_factor(self):
        """Penalty of the objective of all rows, over that of the template."""
        return self.template.weighting.penalty_of_all(self.n_samples, self.total)


class FirstSums:
    """Sums over all rows that need no centre.

    Attributes
    ----------
    total_weight : float
        Sum of the weights.
    gradient, size : ndarray of shape (n_coordinates,), or float
        As `Objective.gradient_and_size` gives them.
    curved : Moments
        Of the features, by the curvature of the rows.
    """

    def __init__(self):
        self.total_weight, self.gradient, self.size = 0.0, 0.0, 0.0
        self.curved = None

    def add(self, piece):
        """Take in the objective on more rows."""
        if self.curved is None:
            self.curved = Moments.near(piece.features)
        self.total_weight += piece.weight.sum()
        gradient, size = piece.gradient_and_size()
        self.gradient, self.size = self.gradient + gradient, self.size + size
        self.curved.add(piece.features, piece.curvature_of_rows())


def _written_out(features):
    """Dense features in double precision: a piece of them is small, and read several times."""
    if getattr(features, "is_sparse", issparse(features)):
        return features
    return np.asarray(features, dtype=np.float64)
