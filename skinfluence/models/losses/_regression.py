"""Losses of regressions."""

from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from skinfluence._utils.validation import column_or_2d
from skinfluence.models.families import Family
from skinfluence.models.losses._base import Loss

# Share of the way to the edge of a domain that a step may go, since the loss ends at the edge.
SHARE_OF_WAY = 0.9


class RegressionLoss(Loss):
    """A loss of real targets, one column for each output."""

    def encode(self, y, classes):
        y = column_or_2d(y)
        self.check_domain(y)
        return y

    def check_domain(self, y):
        """Raise a ValueError if a target lies where the loss is not defined."""

    @staticmethod
    def _total(terms):
        return terms.sum(axis=-1)


@dataclass
class SquaredLoss(RegressionLoss):
    """``factor (y - z)^2``, added over the outputs."""

    factor: float = 1.0
    quadratic = True

    @property
    def family(self):
        return Family(factor=2 * self.factor)

    def value(self, z, y):
        return self._total(self.factor * (y - z) ** 2)

    def residual(self, z, y):
        return 2 * self.factor * (z - y)

    def hessian(self, z, y):
        return np.full(np.broadcast_shapes(z.shape, y.shape), 2 * self.factor)


@dataclass
class SquaredEpsilonInsensitive(RegressionLoss):
    """``max(0, |y - z| - epsilon)^2`` with the generalised Hessian, 2 outside the tube."""

    epsilon: float

    def value(self, z, y):
        return self._total(np.maximum(0, np.abs(y - z) - self.epsilon) ** 2)

    def residual(self, z, y):
        return 2 * np.sign(z - y) * np.maximum(0, np.abs(y - z) - self.epsilon)

    def hessian(self, z, y):
        return np.where(np.abs(y - z) > self.epsilon, 2.0, 0.0)


@dataclass
class FixedHuber(RegressionLoss):
    """``(y - z)^2 / 2`` up to ``epsilon``, then linear: the Huber loss of SGDRegressor."""

    epsilon: float

    def value(self, z, y):
        size = np.abs(y - z)
        tail = self.epsilon * (size - self.epsilon / 2)
        return self._total(np.where(size <= self.epsilon, size**2 / 2, tail))

    def residual(self, z, y):
        return np.clip(z - y, -self.epsilon, self.epsilon)

    def hessian(self, z, y):
        return np.where(np.abs(y - z) <= self.epsilon, 1.0, 0.0)


@dataclass
class ConcomitantHuber(RegressionLoss):
    """``sigma + sigma rho((y - z) / sigma)`` of the two outputs ``(z, sigma)``.

    ``rho(t)`` is ``t^2`` up to ``epsilon`` and ``2 epsilon |t| - epsilon^2`` beyond: the loss
    of HuberRegressor, in which the scale is a parameter. Jointly convex.
    """

    epsilon: float
    separable = False

    def _ratio(self, z, y):
        t = (y[..., 0] - z[..., 0]) / z[..., 1]
        return t, np.abs(t) <= self.epsilon

    def value(self, z, y):
        t, inside = self._ratio(z, y)
        rho = np.where(inside, t**2, 2 * self.epsilon * np.abs(t) - self.epsilon**2)
        # The loss is defined for positive scales, and its formula is unbounded below elsewhere.
        return np.where(z[..., 1] > 0, z[..., 1] * (1 + rho), np.inf)

    def residual(self, z, y):
        t, _ = self._ratio(z, y)
        clipped = np.clip(t, -self.epsilon, self.epsilon)
        return np.stack([-2 * clipped, 1 - clipped**2], axis=-1)

    def hessian(self, z, y):
        t, inside = self._ratio(z, y)
        direction = np.stack([np.ones_like(t), t], axis=-1)
        factor = np.where(inside, 2 / z[..., 1], 0.0)[..., None, None]
        return factor * direction[..., :, None] * direction[..., None, :]

    def largest_step(self, z, moves):
        return _share_that_stays_positive(z[..., 1], moves[..., 1])

    def visible(self, k):
        # The scale is no output.
        return np.array([[1.0, 0.0]])


@dataclass
class HalfTweedieLoss(RegressionLoss):
    """Half the Tweedie deviance of the mean ``mu``, with ``mu = exp(z)`` or ``mu = z``.

    Its Hessian is the observed one: for a Gamma distribution ``y / mu``.
    """

    power: float
    log_link: bool = True

    @property
    def family(self):
        # The canonical link has the derivative mean^power.
        canonical = self.power == (1 if self.log_link else 0)
        variance = None if canonical else lambda mean: mean**self.power
        return Family(variance, scale_is_known=self.power == 1)

    def check_domain(self, y):
        if self.power < 1:
            return
        positive = self.power >= 2
        outside = y <= 0 if positive else y < 0
        if outside.any():
            raise ValueError(
                f"y must be {'positive' if positive else 'non-negative'}: the model has the "
                f"Tweedie deviance of power {self.power:g}{_family(self.power)}, which is not "
                f"defined elsewhere. Got {y[outside][0]:g} among {outside.sum()} such target(s); "
                "leave those rows out, or omit y to get the influence on the prediction."
            )

    def _mean(self, z):
        return np.exp(z) if self.log_link else z

    @property
    def _needs_positive_outputs(self):
        return not self.log_link and self.power != 0

    def value(self, z, y):
        if not self._needs_positive_outputs:
            return self._deviance(z, y)
        # The deviance is defined for positive means.
        inside = z > 0
        deviance = self._deviance(np.where(inside, z, 1.0), y)
        return np.where(inside.all(axis=-1), deviance, np.inf)

    def _deviance(self, z, y):
        mu, p = self._mean(z), self.power
        if p == 0:
            deviance = (y - mu) ** 2
        elif p == 1:
            deviance = 2 * (xlogy(y, y / mu) - y + mu)
        elif p == 2:
            deviance = 2 * (np.log(mu / y) + y / mu - 1)
        else:
            # y^(2 - p) is finite only for y > 0, or for p < 2; only p < 0 allows a negative y.
            own = np.maximum(y, 0) ** (2 - p) / ((1 - p) * (2 - p))
            deviance = 2 * (own - y * mu ** (1 - p) / (1 - p) + mu ** (2 - p) / (2 - p))
        return self._total(deviance / 2)

    def residual(self, z, y):
        mu, p = self._mean(z), self.power
        loss_derivative = (mu - y) * mu ** (-p)
        return loss_derivative * mu if self.log_link else loss_derivative

    def hessian(self, z, y):
        mu, p = self._mean(z), self.power
        if self.log_link:
            return (2 - p) * mu ** (2 - p) + (p - 1) * y * mu ** (1 - p)
        return (1 - p) * mu ** (-p) + p * y * mu ** (-p - 1)

    def third_derivative(self, z, y):
        if z.shape[-1] > 1:
            return None
        mu, p = self._mean(z), self.power
        if self.log_link:
            return (2 - p) ** 2 * mu ** (2 - p) - (p - 1) ** 2 * y * mu ** (1 - p)
        return -p * (1 - p) * mu ** (-p - 1) - p * (p + 1) * y * mu ** (-p - 2)

    def largest_step(self, z, moves):
        if self._needs_positive_outputs:
            return _share_that_stays_positive(z, moves).min(axis=-1)
        return super().largest_step(z, moves)

    def mean(self, outputs):
        return self._mean(outputs)

    def margin(self, outputs, own=None):
        # A user sees the mean, not the raw output.
        return self._mean(outputs) if self.log_link else np.ones_like(outputs)


def _family(power):
    names = {1: "Poisson", 2: "Gamma", 3: "inverse Gaussian"}
    return f" ({names[power]})" if power in names else ""


def _share_that_stays_positive(z, moves):
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(moves < 0, -SHARE_OF_WAY * z / moves, 1.0)
    return np.clip(share, 0, 1)
