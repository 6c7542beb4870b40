"""How far the gradient of an objective is from 0, relative to its terms."""

from functools import cached_property

import numpy as np

# Residuals of this size, relative to the outputs, are rounding and no sign of a bad fit.
ROUNDING = 1e-10


class StationarityMixin:
    """Gradients of objectives at the fitted parameters, by sums over the training rows."""

    def loss_gradient(self):
        """Gradient of the losses of the training rows, ``sum_i w_i g_i``, (n_coordinates,)."""
        return (self.weight[None] @ self.training_gradient_rows().summed())[0]

    def gradient_and_size(self):
        """Gradient of the losses, and the size of its terms; both are sums over the rows.

        Returns
        -------
        gradient : ndarray of shape (n_coordinates,)
            ``sum_i w_i g_i``.
        size : float or ndarray of shape (n_coordinates,)
            Sum of the norms of the terms, or of their sizes in each coordinate.
        """
        rows = self.training_gradient_rows().summed()
        size = self.weight @ np.sqrt(rows.squared_norms())
        if self.loss.quadratic:
            # After a perfect fit, all terms are rounding errors of the outputs.
            outputs = self.pulled_rows(_as_vectors, self.features)
            size += ROUNDING * (self.weight @ np.sqrt(outputs.squared_norms()))
        return (self.weight[None] @ rows)[0], size

    @cached_property
    def stationarity(self):
        """Gradient of the objective relative to its terms, a float.

        Norm of the gradient over the sum of the norms of its terms. Where sizes are known in
        each coordinate, root of the mean of the squares of the gradient over the sizes.
        """
        gradient, size = self.gradient_and_size()
        own = self.penalty * self.theta + self.l1_gradient
        tiny = np.finfo(float).tiny
        if np.ndim(size):
            shares = (gradient + own) / np.maximum(size + np.abs(own), tiny)
            return float(np.sqrt(np.mean(shares**2)))
        return float(np.linalg.norm(gradient + own) / max(size, tiny))


def _as_vectors(outputs):
    return outputs[:, None, :]
