"""The objective of a linear model whose training rows come in pieces.

Everything that a fit needs of the training rows is a sum over them:

    first pass     sizes of the classes, sum of the weights, gradient and its terms, means and
                   spreads of the columns (around values near the first rows, so that no digits
                   are lost and no second pass is needed)
    second pass    H, gradient and squared residuals around the means

Balanced class weights follow from the sizes of the classes, and take one more pass.
"""

import warnings
from contextlib import nullcontext
from functools import cached_property, partial

import numpy as np
from scipy.sparse import issparse

from skinfluence._utils.progress import track
from skinfluence.models.doors import objective
from skinfluence.models.linear_objective import LinearObjective
from skinfluence.models.objectives import select
from skinfluence.models.weighting import Weighting
from skinfluence.rows import ChunkedFeatures, ChunkedRows, Moments


class Pieces:
    """Objectives on pieces of the training rows of one fitted model.

    Parameters
    ----------
    model : estimator
        The fitted model, without wrappers.
    read : callable
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
        return piece

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


class ChunkedObjective(LinearObjective):
    """The objective of a linear model, by sums over pieces of its training rows.

    Parameters
    ----------
    pieces : Pieces
        Objectives on pieces of the rows, all of which have been taken in.
    edges : ndarray of int of shape (n_pieces + 1,)
        First row of every piece, and the number of all rows.
    """

    def __init__(self, pieces, edges):
        template, factor = pieces.template, pieces.penalty_factor
        super().__init__(
            loss=template.loss,
            features=None,
            targets=None,
            weighting=None,
            classes=template.classes,
            weights=template.weights,
            intercepts=template.intercepts,
            feature_outputs=template.feature_outputs,
            intercept_outputs=template.intercept_outputs,
            ridge=template.ridge * factor,
            intercept_ridge=template.intercept_ridge * factor,
            expand=template.expand,
            lasso=None if template.lasso is None else template.lasso * factor,
            intercept_lasso=template.intercept_lasso * factor,
        )
        self.feature_names = template.feature_names
        self.pieces = pieces
        self._hold_features(edges)
        # Read when they are asked for.
        del self.targets, self.weighting

    def _hold_features(self, edges):
        self.features = ChunkedFeatures(partial(_features_of, self), edges)

    def piece(self, samples):
        """Objective on a slice or an index array of the rows, in the same coordinates."""
        piece = self.pieces[samples]
        piece.total_weight = self.total_weight
        return self._as_centred(piece)

    def _as_centred(self, piece):
        if self.centring is None:
            return piece
        piece = piece.centred(self.centring)
        piece.features = _written_out(piece.features)
        return piece

    def _in_pieces(self):
        return map(self.piece, track(self.features.slices(), "chunks"))

    def centred(self, centring):
        part = super().centred(centring)
        part.total_weight = self.total_weight
        for name in ("_first", "_distance"):
            part.__dict__.pop(name, None)
        part._hold_features(self.features.edges)
        return part

    # Sums over all rows.

    @cached_property
    def _first(self):
        if self.pieces.sums is not None and self.centring is None:
            return self.pieces.sums
        sums = FirstSums()
        for samples in track(self.features.slices(), "chunks"):
            sums.add(self._as_centred(self.pieces[samples]))
        return sums

    @cached_property
    def total_weight(self):
        return self._first.total_weight

    def gradient_and_size(self):
        return self._first.gradient, self._first.size

    @property
    def moments(self):
        curved = self._first.curved
        if curved.total > 0 and curved.are_close:
            return curved
        return Moments.of(self._weighted_features)

    def _weighted_features(self):
        is_curved = self._first.curved.total > 0
        for piece in self._in_pieces():
            yield piece.features, piece.curvature_of_rows() if is_curved else piece.weight

    def hessian(self, curvature):
        blocks, distance = 0.0, np.zeros(2, dtype=object)
        for piece in self._in_pieces():
            index, own = piece.hessian(curvature)
            blocks = blocks + own
            distance += _distance_sums(piece)
        self._distance = distance
        return index, blocks

    @cached_property
    def _distance(self):
        return sum(map(_distance_sums, self._in_pieces()), np.zeros(2, dtype=object))

    def loss_gradient(self):
        return self._distance[0]

    def squared_residuals(self):
        return self._distance[1]

    @property
    def n_target_columns(self):
        return self.pieces.template.targets.shape[1]

    # Rows, made whenever a product needs them.

    def training_gradient_rows(self):
        return self._rows(_gradient_rows)

    def factor_rows(self, curvature):
        return self._rows(partial(_factor_rows, curvature))

    def _rows(self, make):
        return select(ChunkedRows(partial(make, self), self.features), self.active)

    # What is held of all rows at once, for what has a result for each row by itself.

    @cached_property
    def _of_each_row(self):
        pieces = [(piece.targets, piece.weighting) for piece in self._in_pieces()]
        targets, weightings = zip(*pieces, strict=True)
        return np.concatenate(targets), Weighting.of_all(weightings)

    @cached_property
    def targets(self):
        """Targets of all rows as the loss reads them, (n_samples, t)."""
        return self._of_each_row[0]

    @cached_property
    def weighting(self):
        """Weights of all rows."""
        return self._of_each_row[1]

    def __getstate__(self):
        # What can be computed again is no part of the objective.
        lazy = ("_of_each_row", "targets", "weighting", "weight", "training_outputs")
        return {name: value for name, value in vars(self).items() if name not in lazy}

    def restricted(self, weight):
        index = np.flatnonzero(weight)
        part = self.piece(index)
        for name in ("weight", "total_weight", "stationarity"):
            part.__dict__.pop(name, None)
        penalties = ("penalty", "ridge", "intercept_ridge", "l1_gradient", "lasso")
        for name in (*penalties, "intercept_lasso"):
            setattr(part, name, getattr(self, name))
        part.weighting = Weighting(weight[index])
        return part


# Functions of the module rather than closures, so that objectives can be pickled.


def _features_of(objective, samples):
    features = objective.pieces.read(samples)[0]
    return features if objective.centring is None else objective.centring(features)


def _gradient_rows(objective, samples):
    return _unselected(objective.piece(samples)).training_gradient_rows()


def _factor_rows(curvature, objective, samples):
    return _unselected(objective.piece(samples)).factor_rows(curvature)


def _unselected(piece):
    """The objective with all of its coordinates, of which an active set is chosen later."""
    piece.active = None
    return piece


def _written_out(features):
    """Dense features in double precision: a piece of them is small, and read several times."""
    if getattr(features, "is_sparse", issparse(features)):
        return features
    return np.asarray(features, dtype=np.float64)


def _distance_sums(piece):
    """Sums over rows that tell how far the minimum is."""
    return np.array([piece.loss_gradient(), piece.squared_residuals()], dtype=object)
