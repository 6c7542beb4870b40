"""The objective that a fitted model minimised, and the methods that define it.

    T(theta) = sum_i w_i l(z_i, theta) + 1/2 theta' diag(penalty) theta + l1_gradient' theta

at the training rows and the fitted parameters. ``l`` is a loss of the model's raw outputs, so
everything follows from the outputs and the products of their Jacobian with vectors. Influence
takes the Hessian of the mean objective, ``T`` over ``total_weight``, the sum of the weights.
"""

from abc import ABC, abstractmethod
from copy import copy
from functools import cached_property, partial

import numpy as np
from sklearn.utils import check_array

from skinfluence._utils.bound import Bound
from skinfluence._utils.stored_once import StoredOnce
from skinfluence.models.responses import derivative_of
from skinfluence.models.stationarity import StationarityMixin
from skinfluence.models.weighting import Weighting
from skinfluence.rows import SelectedRows


class Objective(StoredOnce, StationarityMixin, ABC):
    """The objective of a fitted model.

    Need to be defined: ``outputs``, ``pullback``, ``to_parameters``. Should be overridden for
    efficiency: ``hessian``.

    Parameters
    ----------
    loss : Loss
        Loss of the raw outputs.
    features : {array, CSR matrix} of shape (n_samples, n_features)
        Training rows as the model sees them.
    targets : ndarray of shape (n_samples, t)
        Targets as the loss reads them.
    weighting : Weighting
        Weights of the rows.
    penalty : ndarray of shape (n_coordinates,)
        L2 penalty of the objective on every coordinate, 0 where there is none.
    l1_gradient : ndarray of shape (n_coordinates,)
        Gradient of the L1 penalty on its active set, 0 without one.
    theta : ndarray of shape (n_coordinates,)
        Fitted parameters in the coordinates of the rows.
    n_params : int
        Number of parameters in the model's own layout.
    classes : ndarray, default=None
        Labels of a classifier.
    """

    def __init__(
        self,
        loss,
        features,
        targets,
        weighting,
        penalty,
        l1_gradient,
        theta,
        n_params,
        classes=None,
    ):
        self.loss = loss
        self.features = features
        self.targets = targets
        self.weighting = weighting
        self.penalty = penalty
        self.l1_gradient = l1_gradient
        self.theta = theta
        self.n_params = n_params
        self.classes = classes
        self.unconditioned = None

    @property
    def original(self):
        """The same objective in the model's own coordinates."""
        # No reference to itself: formats without cycles, as of skops, could not store it.
        return self if self.unconditioned is None else self.unconditioned

    # Need to be defined.

    @abstractmethod
    def outputs(self, features):
        """Raw outputs ``z``, (n, k)."""

    @abstractmethod
    def pullback(self, features, vectors):
        """Rows ``J_i' v_ij`` for vectors (n, s, k) in the space of the raw outputs."""

    @abstractmethod
    def to_parameters(self, coordinates):
        """Vectors (m, n_coordinates) in the model's own layout, (m, n_params)."""

    # May be overridden.

    def read(self, features):
        """Features of the model, as this objective reads them."""
        return features

    def conditioned(self, damping):
        """The same objective in coordinates in which its curvature is better conditioned.

        Parameters
        ----------
        damping : float
            Added to the eigenvalues of the curvature in the model's own coordinates.

        Returns
        -------
        Objective
        """
        return self

    def describe(self, coordinates):
        """Names of coordinates for messages.

        Parameters
        ----------
        coordinates : ndarray of int
            Positions of the coordinates.

        Returns
        -------
        str
        """
        return "parameters " + ", ".join(map(str, coordinates))

    def loss_without(self, classes):
        """Loss of the refit when some classes are left without rows.

        Parameters
        ----------
        classes : ndarray of int
            Positions of the empty classes.

        Returns
        -------
        Loss or None
            By default the loss itself, since a network keeps its outputs; None if there is no
            refit.
        """
        return self.loss

    # Follow from these.

    @cached_property
    def weight(self):
        """Weights of the training rows in the objective, class weights included."""
        return self.weighting.weight

    @cached_property
    def total_weight(self):
        """N, the sum of the weights, which divides the objective into a mean."""
        return self.weight.sum()

    @property
    def n_samples(self):
        """Number of training rows."""
        return self.features.shape[0]

    @property
    def n_target_columns(self):
        """Columns of the targets as the loss reads them, t."""
        return self.targets.shape[1]

    @cached_property
    def training_outputs(self):
        """Raw outputs of the training rows."""
        return self.outputs(self.features)

    def encode(self, y):
        """Targets of queries as the loss reads them."""
        return self.loss.encode(y, self.classes)

    def encode_queries(self, y, n_queries):
        """Targets of queries, checked against their number and the training targets.

        Raises
        ------
        ValueError
            If y has another length, other columns, or labels that the model does not know.
        """
        if y is None:
            raise ValueError("y is None. Expected the targets of the queries.")
        targets = self.encode(check_array(y, ensure_2d=False, dtype=None, input_name="y"))
        if targets.shape != (n_queries, self.n_target_columns):
            raise ValueError(
                f"y must hold one target for each of the {n_queries} queries, in "
                f"{self.n_target_columns} column(s). Got an array of shape {np.shape(y)} instead."
            )
        return targets

    def losses(self, features, targets):
        """Loss of every row, (n,)."""
        return self.loss.value(self.outputs(features), targets)

    @cached_property
    def n_outputs(self):
        """Number of raw outputs, k."""
        return self.outputs(self.features[:1]).shape[1]

    def pulled_rows(self, vectors_of, features, *arrays):
        """Rows ``J_i' v_ij`` for vectors that follow from the raw outputs.

        Parameters
        ----------
        vectors_of : callable
            ``vectors_of(outputs, *arrays)`` gives the vectors (n, s, k), sample by sample.
        features : array of shape (n_samples, d)
            Samples; the training rows are ``self.features``.
        *arrays : ndarray of shape (n_samples, ...)
            What else belongs to the samples, such as targets.

        Returns
        -------
        Rows
        """
        own = features is self.features
        outputs = self.training_outputs if own else self.outputs(features)
        return self.pullback(features, vectors_of(outputs, *arrays))

    def gradient_rows(self, features, targets):
        """Gradients of the losses, one row for each sample."""
        return self.pulled_rows(self._residuals, features, targets)

    def training_gradient_rows(self):
        """Gradients of the losses of the training rows."""
        return self.gradient_rows(self.features, self.targets)

    def term_rows(self, indices):
        """Gradients of the terms of the losses of training rows, one row for each term."""
        features, targets = self.features[indices], self.targets[indices]
        return self.pulled_rows(self.loss.residual_terms, features, targets)

    def _residuals(self, outputs, targets):
        return self.loss.residual(outputs, targets)[:, None, :]

    def rows_of(self, features, of, targets=None):
        """Gradients of what is asked of each query, one row for each.

        Parameters
        ----------
        features : array of shape (n_queries, d)
            Queries as this objective reads them.
        of : {"loss", "margin", "probability", "output"}
            What is asked.
        targets : ndarray of shape (n_queries, t), default=None
            Their targets as the loss reads them.

        Returns
        -------
        Rows
        """
        arrays = [] if targets is None else [targets]
        return self.pulled_rows(partial(self._derivatives, of), features, *arrays)

    def _derivatives(self, of, outputs, targets=None):
        return derivative_of(self.loss, outputs, of, targets)[:, None, :]

    def jacobian_rows(self, features):
        """Gradients of the raw outputs, k rows for each sample."""
        shape = features.shape[0], self.n_outputs, self.n_outputs
        identity = np.broadcast_to(np.eye(self.n_outputs), shape)
        return self.pullback(features, identity).as_jacobian()

    def factor_rows(self, curvature):
        """Rows ``C`` with ``C'C = F``, the curvature of the mean loss.

        Parameters
        ----------
        curvature : {"hessian", "ggn", "empirical_fisher"}
            Which curvature.

        Returns
        -------
        Rows
        """
        if curvature == "empirical_fisher":
            rows = self.training_gradient_rows()
        else:
            self.check_curvature()
            rows = self.pulled_rows(self.loss.hessian_factor, self.features, self.targets)
        return rows.weighted(np.sqrt(self.weight / self.total_weight))

    def sampled_factor_rows(self, random_state):
        """One random row for each sample, whose outer products have the GGN as their mean.

        Parameters
        ----------
        random_state : RandomState
            Draws the rows.

        Returns
        -------
        Rows
        """
        self.check_curvature()
        draws = self.loss.draws(self.features.shape[0], self.n_outputs, random_state)
        sampled = self.loss.sampled_factor
        rows = self.pulled_rows(sampled, self.features, self.targets, draws)
        return rows.weighted(np.sqrt(self.weight / self.total_weight))

    def check_curvature(self):
        """Raise a ValueError where the loss must have curvature in the outputs, but has none."""
        return None

    def describe_block(self, position):
        """Name of a block of columns, for messages."""
        return f"block {position}"

    def has_factor_rows(self, curvature):
        """Whether a curvature is a sum of outer products of rows."""
        return True

    def curvature_product(self, curvature):
        """Function that multiplies vectors (m, n_coordinates) with the curvature F."""
        return Bound(self.factor_rows(curvature).summed(), "gram_product")

    def hessian(self, curvature):
        """The curvature F of the mean loss as independent blocks.

        Returns
        -------
        index : ndarray of shape (n_blocks, size)
            Coordinates of each block; every coordinate is in one block.
        blocks : ndarray of shape (n_blocks, size, size)
            F on these coordinates; F is 0 between blocks.
        """
        rows = self.factor_rows(curvature)
        moment = rows.moment()
        return np.arange(len(moment))[None], moment[None]

    # Whether outputs are so many that products with the GGN are cheaper than its factor rows.
    has_many_outputs = False

    def residual_length(self):
        """Length of the residuals in the metric of the curvature.

        Returns
        -------
        float or None
            Root of ``sum_i w_i r_i' h_i^{-1} r_i + theta' diag(penalty) theta``, an upper bound
            of the length of a Newton step with the Hessian of a convex loss. None where the
            outputs are not linear.
        """
        return None

    def restricted(self, weight):
        """The objective on some of its rows, with the same penalty.

        Parameters
        ----------
        weight : ndarray of shape (n_samples,)
            Weights of the training rows; rows of weight 0 are left out. With weights that add
            up to ``total_weight``, the mean objective keeps its penalty too.

        Returns
        -------
        Objective
        """
        index = np.flatnonzero(weight)
        part = copy(self)
        for name in ("weight", "total_weight", "stationarity"):
            part.__dict__.pop(name, None)
        part.features, part.targets = self.features[index], self.targets[index]
        if "training_outputs" in vars(self):
            part.training_outputs = self.training_outputs[index]
        part.weighting = Weighting(weight[index])
        return part

    def without_rows(self):
        """The same objective for queries alone, which holds nothing of the training rows.

        Raises
        ------
        ValueError
            If it is not known to do without them.
        """
        raise ValueError(
            f"keep_rows=False is for linear models whose rows are in memory, and "
            f"{type(self).__name__} reads the training rows again. Use keep_rows=True."
        )

    def output_curvature(self, curvature, outputs=None, targets=None):
        """Curvature of rows, by default the training rows, by their outputs, (n, k, k)."""
        outputs = self.training_outputs if outputs is None else outputs
        targets = self.targets if targets is None else targets
        if curvature == "empirical_fisher":
            residual = self.loss.residual(outputs, targets)
            return residual[:, :, None] * residual[:, None, :]
        second = self.loss.hessian(outputs, targets)
        return second[:, :, None] * np.eye(second.shape[1]) if self.loss.separable else second

    def mean_eigenvalue(self, curvature):
        """Mean eigenvalue of the curvature F."""
        rows = self.factor_rows(curvature).summed()
        return float(rows.squared_norms().sum() / rows.n_columns)

    @property
    def strictly_convex(self):
        """Whether the model's own penalty makes the objective strictly convex."""
        return False

    # Whether outputs are linear in the features, with coordinates ``[W.ravel(), b]``.
    is_linear = False

    # Whether the user has said what a query without targets asks of the outputs.
    has_measurement = False

    # Whether the curvature may be indefinite, or nearly flat in directions that the data hardly
    # determine, as a network's is.
    needs_damping = False

    @property
    def l2_penalty(self):
        """Penalty of the mean objective on every coordinate, (n_coordinates,)."""
        return self.penalty / self.total_weight


def select(rows, active):
    """Rows on the active coordinates, all of them where ``active`` is None."""
    return rows if active is None else SelectedRows(rows, active)
