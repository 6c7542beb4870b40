"""The objective of a linear model whose training rows come in pieces.

Everything that a fit needs of the training rows is a sum over them:

    first pass     sizes of the classes, sum of the weights, gradient and its terms, means and
                   spreads of the columns (around values near the first rows, so that no digits
                   are lost and no second pass is needed)
    second pass    H, gradient and squared residuals around the means

Balanced class weights follow from the sizes of the classes, and take one more pass.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from skinfluence.models.linear_objective import LinearObjective
from skinfluence.models.objectives import select
from skinfluence.models.pieces import FirstSums, Reading, moments
from skinfluence.models.weighting import Weighting
from skinfluence.rows import ChunkedFeatures, ChunkedRows, each, total


class ChunkedObjective(LinearObjective):
    """The objective of a linear model, by sums over pieces of its training rows.

    Parameters
    ----------
    pieces : Pieces
        Objectives on pieces of the rows, all of which have been taken in.
    """

    def __init__(self, pieces):
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
        self._hold_features()
        # Read when they are asked for.
        del self.targets, self.weighting
        pieces.total_weight = self._first.total_weight

    def _hold_features(self):
        self.features = ChunkedFeatures(Reading(self.pieces, _features_of))

    def piece(self, samples):
        """Objective on a slice or an index array of the rows, in the same coordinates."""
        return self.pieces[samples]

    def centred(self, centring):
        part = super().centred(centring)
        part.pieces = self.pieces.centred(centring)
        for name in ("_first", "_distance"):
            part.__dict__.pop(name, None)
        part._hold_features()
        return part

    # Sums over all rows.

    def _total(self, function):
        """Sum of a function of the objectives on slices of the rows, in one joblib call."""
        return total(function, Reading(self.pieces, _piece_of), self.features.slices())

    @cached_property
    def _first(self):
        if self.pieces.sums is not None:
            return self.pieces.sums
        return self._total(partial(FirstSums.of, origin=self.pieces.origin))

    @property
    def total_weight(self):
        return self.pieces.total_weight

    def gradient_and_size(self):
        return self._first.gradient, self._first.size

    @property
    def moments(self):
        found, is_curved = self._first.curved, self._first.curved.total > 0
        if not is_curved:
            found = self._moments_around(self.pieces.origin, is_curved)
        return found if found.are_close else self._moments_around(found.mean, is_curved)

    def _moments_around(self, origin, is_curved):
        return self._total(partial(moments, origin=origin, is_curved=is_curved))

    def hessian(self, curvature):
        sums = self._total(partial(_SecondSums.of, curvature))
        self._distance = sums.distance
        return sums.index, sums.blocks

    @cached_property
    def _distance(self):
        return self._total(_distance_sums)

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
        return select(ChunkedRows(Reading(self.pieces, make), self.features), self.active)

    # What is held of all rows at once, for what has a result for each row by itself.

    @cached_property
    def _of_each_row(self):
        pieces = Reading(self.pieces, _piece_of)
        found = each(_targets_and_weighting, pieces, self.features.slices())
        targets, weightings = zip(*found, strict=True)
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
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in lazy}

    def without_rows(self):
        # They are not in memory, and sketched ones are made anew from them.
        return super(LinearObjective, self).without_rows()

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


# Plain functions, which can be pickled with an objective and sent to a worker.


def _piece_of(pieces, samples):
    return pieces[samples]


def _features_of(pieces, samples):
    features = pieces.read(samples)[0]
    return features if pieces.centring is None else pieces.centring(features)


def _gradient_rows(pieces, samples):
    return _unselected(pieces[samples]).training_gradient_rows()


def _factor_rows(curvature, pieces, samples):
    return _unselected(pieces[samples]).factor_rows(curvature)


def _unselected(piece):
    """The objective with all of its coordinates, of which an active set is chosen later."""
    piece.active = None
    return piece


@dataclass
class _SecondSums:
    """Coordinates and blocks of F, and `_distance_sums`."""

    index: np.ndarray
    blocks: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, curvature, piece):
        return cls(*piece.hessian(curvature), _distance_sums(piece))

    def __add__(self, other):
        distance = self.distance + other.distance
        return _SecondSums(self.index, self.blocks + other.blocks, distance)


def _distance_sums(piece):
    """Sums over rows that tell how far the minimum is."""
    return np.array([piece.loss_gradient(), piece.squared_residuals()], dtype=object)


def _targets_and_weighting(piece):
    return piece.targets, piece.weighting
