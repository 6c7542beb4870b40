"""The objective of a linear model whose training rows come in pieces.

Everything that a fit needs of the training rows is a sum over them:

    first pass     sizes of the classes, sum of the weights, gradient and its terms, means and
                   spreads of the columns (around values near the first rows, so that no digits
                   are lost and no second pass is needed)
    second pass    H, gradient and squared residuals around the means

Balanced class weights follow from the sizes of the classes, and take one more pass.
"""

from functools import cached_property, partial

import numpy as np

from skinfluence._utils.parallel import results
from skinfluence._utils.progress import track
from skinfluence.models.linear_objective import LinearObjective
from skinfluence.models.objectives import select
from skinfluence.models.pieces import FirstSums
from skinfluence.models.weighting import Weighting
from skinfluence.rows import ChunkedFeatures, ChunkedRows, Moments


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
        pieces.total_weight = self._first.total_weight

    def _hold_features(self, edges):
        self.features = ChunkedFeatures(partial(_features_of, self), edges)

    def piece(self, samples):
        """Objective on a slice or an index array of the rows, in the same coordinates."""
        return self.pieces[samples]

    def _in_pieces(self):
        return map(self.piece, track(self.features.slices(), "chunks"))

    def centred(self, centring):
        part = super().centred(centring)
        part.pieces = self.pieces.centred(centring)
        for name in ("_first", "_distance"):
            part.__dict__.pop(name, None)
        part._hold_features(self.features.edges)
        return part

    # Sums over all rows.

    @cached_property
    def _first(self):
        if self.pieces.sums is not None:
            return self.pieces.sums
        sums = FirstSums()
        for piece in self._in_pieces():
            sums.add(piece)
        return sums

    @property
    def total_weight(self):
        return self.pieces.total_weight

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
        sums = self._second_sums(curvature)
        index, blocks, self._distance = next(sums)
        for _, more_blocks, more_distance in sums:
            blocks = blocks + more_blocks
            self._distance = self._distance + more_distance
        return index, blocks

    def _second_sums(self, curvature):
        """Sums over the rows of each task, which runs where joblib is told to run it."""
        tasks = self.features.tasks()
        spans = (slice(task[0].start, task[-1].stop) for task in tasks)
        pairs = zip(spans, tasks, strict=True)
        plain = [(self.pieces.only(span), task, curvature) for span, task in pairs]
        return results(_second_sums, plain, "chunks")

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


def _second_sums(pieces, task, curvature):
    """Coordinates and blocks of F, and `_distance_sums`, over slices of rows."""
    blocks, distance = 0.0, np.zeros(2, dtype=object)
    for samples in task:
        piece = pieces[samples]
        index, own = piece.hessian(curvature)
        blocks, distance = blocks + own, distance + _distance_sums(piece)
    return index, blocks, distance


def _distance_sums(piece):
    """Sums over rows that tell how far the minimum is."""
    return np.array([piece.loss_gradient(), piece.squared_residuals()], dtype=object)
