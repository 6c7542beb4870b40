"""Leverages and residuals of the training rows.

Conventions
-----------
``c`` losses make half a deviance (`Family.factor`), ``V`` is the variance of the targets up to the
scale, ``W = w l'' / c`` the observed weight of a row of weight w, ``W_E = w (dmu/dz)^2 / V`` its
expected weight, ``A = (X'WX + penalty)^{-1}`` and ``A_E`` with ``W_E``. One output, ``z = x'b``.
"""

from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.curvature import choose_solver, make_curvature
from skinfluence.diagnostics._parameters import inverse_in_own_layout, parameter_steps
from skinfluence.models.responses import respond


class Leverages:
    """How much the training rows draw the outputs to themselves.

    Parameters
    ----------
    fit : Linearisation
        Linearisation of a fitted model.

    Attributes
    ----------
    values : ndarray of shape (n_samples,)
        ``w tr(l'' J H^{-1} J') / N``, which add up to the effective dimension.
    spread : ndarray of shape (n_samples,)
        ``tr(J H^{-1} J') / N``.
    """

    def __init__(self, fit):
        objective = fit.objective
        second = objective.output_curvature(fit.curvature_kind)
        self.values, self.spread = np.empty((2, fit.n_samples))
        for batch, inner in inner_products(fit, fit.curvature):
            self.values[batch] = np.einsum("nab,nba->n", second[batch], inner)
            self.spread[batch] = np.einsum("naa->n", inner)
        self.values *= objective.weight

    @property
    def effective_dimension(self):
        """Sum of the leverages."""
        return self.values.sum()


def inner_products(fit, curvature):
    """``J_i H^{-1} J_i' / N`` of all training rows by batches.

    Parameters
    ----------
    fit : Linearisation
        Linearisation of a fitted model.
    curvature : Curvature
        Curvature in its coordinates.

    Yields
    ------
    tuple of (slice, ndarray of shape (n_batch, k, k))
    """
    features, total = fit.objective.features, fit.objective.total_weight
    k = fit.objective.training_outputs.shape[1]
    for batch in batches(fit.n_samples, 8 * 3 * k * fit.training_rows.n_columns):
        rows = fit.jacobian_rows(features[batch])
        yield batch, curvature.leverages(rows, fit.damping) / total


@dataclass
class Residuals:
    """Residuals of a model of one output with a known distribution.

    Parameters
    ----------
    fit : Linearisation
        Linearisation of the fitted model.
    leverages : Leverages
        Leverages of its rows.
    """

    fit: object
    leverages: Leverages

    @classmethod
    def of(cls, fit, leverages):
        """The residuals, or None where the model has several outputs or no distribution."""
        if fit.objective.loss.family is None or fit.objective.training_outputs.shape[1] > 1:
            return None
        return cls(fit, leverages)

    @property
    def family(self):
        """Distribution of the targets."""
        return self.fit.objective.loss.family

    def means(self, outputs):
        """Mean of each target, at outputs (n_samples, 1)."""
        return self._response(outputs).value[:, -1]

    def _response(self, outputs):
        return respond(self.fit.objective.loss, "auto", outputs)

    @cached_property
    def targets(self):
        """Targets, 0 and 1 for two classes."""
        targets = self.fit.own_targets[:, 0]
        return 1.0 * (targets > 0) if self.fit.objective.loss.classifies else targets

    @cached_property
    def raw(self):
        """Target minus mean."""
        return self.targets - self.means(self.fit.objective.training_outputs)

    @cached_property
    def slope(self):
        """Derivative of the mean by the output."""
        response = self._response(self.fit.objective.training_outputs)
        last = np.zeros_like(response.value)
        last[:, -1] = 1.0
        return response.pull(last)[:, 0]

    @cached_property
    def observed_weight(self):
        """``W``."""
        objective = self.fit.objective
        second = objective.output_curvature(self.fit.curvature_kind)[:, 0, 0]
        return objective.weight * second / self.family.factor

    @cached_property
    def _variance(self):
        if self.family.variance is None:
            # Probabilities next to 0 and 1 have a variance that is no float.
            return np.maximum(self.slope, np.finfo(float).tiny)
        return self.family.variance(self.means(self.fit.objective.training_outputs))

    @cached_property
    def pearson(self):
        """Residual over the standard deviation of the target, up to the scale."""
        return self.raw * np.sqrt(self.fit.objective.weight / self._variance)

    @cached_property
    def left(self):
        """``1 - leverage``, NaN where that is no positive number."""
        left = 1 - self.leverages.values
        return np.where(left > 0, left, np.nan)

    @cached_property
    def degrees_of_freedom(self):
        """Rows with a weight, minus the effective dimension."""
        n_rows = np.count_nonzero(self.fit.objective.weight)
        return n_rows - self.leverages.effective_dimension

    @cached_property
    def scale(self):
        """Scale of the distribution: known, or of the residuals."""
        if self.family.scale_is_known:
            return 1.0
        return _positive((self.pearson**2).sum() / self.degrees_of_freedom)

    @cached_property
    def scale_without(self):
        """The scale without each row."""
        if self.family.scale_is_known:
            return np.ones_like(self.pearson)
        others = (self.pearson**2).sum() - self.pearson**2 / self.left
        return _positive(others / (self.degrees_of_freedom - 1))

    @property
    def standardised(self):
        """``pearson / sqrt(scale (1 - leverage))``."""
        return self.pearson / np.sqrt(self.scale * self.left)

    @property
    def studentised(self):
        """The same with the scale without the row."""
        return self.pearson / np.sqrt(self.scale_without * self.left)

    @property
    def cooks_distance(self):
        """``standardised^2 leverage / (1 - leverage) / effective dimension``."""
        ratio = self.leverages.values / self.left
        return self.standardised**2 * ratio / self.leverages.effective_dimension

    @property
    def dffits_internal(self):
        """Change of the own output by one step, over its standard error."""
        spread = self.family.factor * self.leverages.spread
        expected = self.family.factor * self._expected_spread
        change = spread * np.sqrt(self.observed_weight) * self.pearson / self.left
        return change / np.sqrt(self.scale * expected)

    @property
    def dffits(self):
        """The same with the scale without the row."""
        return self.dffits_internal * np.sqrt(self.scale / self.scale_without)

    @cached_property
    def _expected_spread(self):
        if self.expected_curvature is self.fit.curvature:
            return self.leverages.spread
        parts = inner_products(self.fit, self.expected_curvature)
        return np.concatenate([inner[:, 0, 0] for _, inner in parts])

    @cached_property
    def expected_curvature(self):
        """Curvature with the expected weights; the fit's own if it is that, or no exact one."""
        if self.family.variance is None or self.fit.curvature.solver is None:
            return self.fit.curvature
        objective = copy(self.fit.objective)
        second = self.family.factor * self.slope**2 / self._variance
        objective.loss = _WithSecondDerivative(objective.loss, second[:, None])
        solver = choose_solver(objective, "hessian", "auto", self.fit.damping)
        return make_curvature(objective, "hessian", solver)

    def dfbetas(self):
        """One step of each parameter, over its standard error, (n_samples, n_params)."""
        step = np.sqrt(self.observed_weight) * self.pearson / self.left
        changes = parameter_steps(self.fit, self.family.factor * step[:, None])
        scale = self.scale_without if self.fit.objective.loss.quadratic else self.scale
        covariance = inverse_in_own_layout(self.fit, self.expected_curvature) * self.family.factor
        return changes / np.sqrt(np.multiply.outer(scale, np.diag(covariance)))


class _WithSecondDerivative:
    """A loss with another second derivative at the training rows.

    Parameters
    ----------
    loss : Loss
        The loss.
    second : ndarray of shape (n_samples, 1)
        The other second derivative.
    """

    def __init__(self, loss, second):
        self.loss, self.second = loss, second

    def __getattr__(self, name):
        return getattr(self.loss, name)

    def hessian(self, z, y):
        return self.second

    def hessian_factor(self, z, y):
        return np.sqrt(self.second)[:, :, None]


def _positive(value):
    return np.where(value > 0, value, np.nan)
