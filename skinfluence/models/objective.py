"""The objective that a fitted model minimised: what every kind of model has to tell.

    T(theta) = sum_i w_i l(z_i, theta) + 1/2 theta' diag(penalty) theta + slope' theta

at the training rows and the fitted parameters. ``l`` is a loss of the model's raw outputs, so
that everything follows from two things, the outputs and the products of their Jacobian with
vectors. Divided by ``total_weight``, the sum of the weights, it is the mean objective of which
influence takes the Hessian.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from skinfluence.rows import SelectedRows


class Objective(ABC):
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
    slope : ndarray of shape (n_coordinates,)
        Gradient of the rest of the penalty: of an L1 penalty on its active set, else 0.
    theta : ndarray of shape (n_coordinates,)
        Fitted parameters in the coordinates of the rows.
    n_params : int
        Number of parameters in the model's own layout.
    classes : ndarray, default=None
        Labels of a classifier.
    """

    def __init__(
        self, loss, features, targets, weighting, penalty, slope, theta, n_params, classes=None
    ):
        self.loss = loss
        self.features = features
        self.targets = targets
        self.weighting = weighting
        self.penalty = penalty
        self.slope = slope
        self.theta = theta
        self.n_params = n_params
        self.classes = classes

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

    # Follow from these.

    @cached_property
    def weight(self):
        """Weights of the training rows in the objective, class weights included."""
        return self.weighting.weight

    @property
    def total_weight(self):
        """N, the sum of the weights: what turns the objective into a mean."""
        return self.weight.sum()

    @cached_property
    def training_outputs(self):
        """Raw outputs of the training rows."""
        return self.outputs(self.features)

    def encode(self, y):
        """Targets of queries as the loss reads them."""
        return self.loss.encode(y, self.classes)

    def losses(self, features, targets):
        """Loss of every row, (n,)."""
        return self.loss.value(self.outputs(features), targets)

    def gradient_rows(self, features, targets):
        """Gradients of the losses, one row for each sample."""
        residual = self.loss.residual(self.outputs(features), targets)
        return self.pullback(features, residual[:, None, :])

    def training_gradient_rows(self):
        """Gradients of the losses of the training rows."""
        residual = self.loss.residual(self.training_outputs, self.targets)
        return self.pullback(self.features, residual[:, None, :])

    def prediction_rows(self, features):
        """Gradients of the predictions: the output, or the margin of the predicted class."""
        margin = self.loss.margin(self.outputs(features))
        return self.pullback(features, margin[:, None, :])

    def jacobian_rows(self, features):
        """Gradients of the raw outputs, k rows for each sample."""
        n_outputs = self.training_outputs.shape[1]
        identity = np.broadcast_to(np.eye(n_outputs), (features.shape[0], n_outputs, n_outputs))
        return self.pullback(features, identity)

    def curvature_rows(self, curvature):
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
            root = self.loss.hessian_root(self.training_outputs, self.targets)
            rows = self.pullback(self.features, root)
        return rows.weighted(np.sqrt(self.weight / self.total_weight))

    def hessian(self, curvature):
        """The curvature F of the mean loss as independent blocks.

        Returns
        -------
        index : ndarray of shape (n_blocks, size)
            Coordinates of each block; together they are all of them.
        blocks : ndarray of shape (n_blocks, size, size)
            F on these coordinates; it is 0 between blocks.
        """
        rows = self.curvature_rows(curvature)
        moment = rows.moment(np.ones(rows.n_samples))
        return np.arange(len(moment))[None], moment[None]

    @property
    def l2_penalty(self):
        """Penalty of the mean objective on every coordinate, (n_coordinates,)."""
        return self.penalty / self.total_weight

    @cached_property
    def stationarity(self):
        """Norm of the gradient of the objective over the sum of the norms of its terms."""
        rows = self.training_gradient_rows()
        gradient = (self.weight[None] @ rows)[0] 
        gradient += self.penalty * self.theta + self.slope
        size = self.weight @ np.sqrt(rows.squared_norms())
        return float(np.linalg.norm(gradient) / max(size, np.finfo(float).tiny))


def select(rows, active):
    """Rows on the active coordinates, all of them where ``active`` is None."""
    return rows if active is None else SelectedRows(rows, active)
