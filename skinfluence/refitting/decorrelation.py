"""Linear objectives in coordinates that make the curvature close to diagonal."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import issparse

from skinfluence.models.linear_objective import LinearObjective
from skinfluence.models.losses import SoftmaxLoss

# Above this number of directions an eigenbasis costs more than it saves.
MAX_DIRECTIONS = 2000


@dataclass
class Decorrelated:
    """A linear objective whose features and outputs were rotated.

    Parameters
    ----------
    objective : LinearObjective
        The same objective, of rotated features.
    centre : ndarray of shape (n_features,)
        Subtracted from the features, 0 where intercepts cannot make up for it.
    basis : ndarray of shape (n_features, n_directions) or None
        Orthonormal directions that span all training rows; None for the features themselves.
    """

    objective: LinearObjective
    centre: np.ndarray
    basis: np.ndarray | None

    def turn(self, features):
        """Features as ``objective`` sees them."""
        return _turn(features, self.centre, self.basis)


def decorrelated(objective):
    """Rotate a linear objective into the eigenbasis of its curvature, taken as a product.

    The penalty of the weights is the same for all features, and a softmax is invariant under an
    orthogonal change of its contrasts. So a rotation of both changes neither the minimum nor the
    losses there, but makes the diagonal of the Hessian a good approximation of the Hessian.

    Parameters
    ----------
    objective : LinearObjective
        Objective without an L1 penalty.

    Returns
    -------
    Decorrelated
    """
    second_derivative = objective.weight[:, None] * objective.loss.hessian_diagonal(
        objective.training_outputs, objective.targets
    )
    centre = _centre(objective, second_derivative.sum(axis=1))
    basis = _basis(objective.features, centre, second_derivative.sum(axis=1))
    turned = _turn(objective.features, centre, basis)
    weights, intercepts = objective.weights, objective.intercepts.copy()
    for row, output in zip(weights, objective.feature_outputs, strict=True):
        intercepts[objective.intercept_outputs == output] += row @ centre
    weights = weights if basis is None else weights @ basis
    loss = objective.loss
    if loss.has_contrasts:
        second = loss.hessian(objective.training_outputs, objective.targets)
        _, turn = eigh(np.einsum("n,nab->ab", objective.weight, second))
        loss = SoftmaxLoss(len(loss.contrasts), contrasts=loss.contrasts @ turn)
        weights = turn.T @ weights
        intercepts = turn.T @ intercepts if len(intercepts) else intercepts
    return Decorrelated(_with(objective, turned, loss, weights, intercepts), centre, basis)


def _with(objective, features, loss, weights, intercepts):
    return LinearObjective(
        loss=loss,
        features=features,
        targets=objective.targets,
        weighting=objective.weighting,
        classes=objective.classes,
        weights=weights,
        intercepts=intercepts,
        feature_outputs=objective.feature_outputs,
        intercept_outputs=objective.intercept_outputs,
        ridge=objective.ridge,
        intercept_ridge=objective.intercept_ridge,
    )


def _centre(objective, second_derivative):
    c, d = objective.weights.shape
    movable = set(objective.feature_outputs) <= set(objective.intercept_outputs)
    penalised = objective.penalty[objective.weights.size :].any()
    if issparse(objective.features) or penalised or not movable or not second_derivative.any():
        return np.zeros(d)
    return second_derivative @ objective.features / second_derivative.sum()


def _basis(features, centre, second_derivative):
    n, d = features.shape
    if issparse(features) or min(n, d) > MAX_DIRECTIONS:
        return None
    centred = features - centre
    if d <= n:
        return eigh((centred * second_derivative[:, None]).T @ centred)[1]
    # Other directions are orthogonal to all rows, so the penalty keeps them at 0.
    return np.linalg.svd(centred, full_matrices=False)[2].T


def _turn(features, centre, basis):
    if basis is None:
        return features if issparse(features) else features - centre
    return features @ basis - centre @ basis
