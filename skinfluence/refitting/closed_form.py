"""Refits of linear models by Newton steps on their objective, for many subsets together."""

from functools import cached_property

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.refitting.decorrelation import decorrelated
from skinfluence.refitting.newton_cg import DiagonalPreconditioner, Refit

# Refits in a block: wide enough for fast products, narrow enough to share among workers.
BLOCK = 32


class ClosedForm:
    """Refits for blocks of subsets by Newton steps, and the losses of the queries under them.

    Parameters
    ----------
    objective : LinearObjective
        Objective of the model that was fitted on all rows.
    query_features : {ndarray, CSR matrix} of shape (n_queries, n_features)
        Queries as the model sees them.
    y_query : ndarray of shape (n_queries,) or (n_queries, n_targets)
        Their targets.
    tol : float
        Relative norm of the gradient at which a refit has converged.
    """

    def __init__(self, objective, query_features, y_query, tol):
        self.given, self.given_queries, self.tol = objective, query_features, tol
        self.targets = objective.encode_queries(y_query, query_features.shape[0])

    def __getstate__(self):
        # Another process turns the features itself: those that were given may be in a file.
        names = ("given", "given_queries", "tol", "targets")
        return {name: self.__dict__[name] for name in names}

    @cached_property
    def turned(self):
        """The objective in coordinates that make its curvature close to diagonal."""
        return decorrelated(self.given)

    @property
    def objective(self):
        """The objective in these coordinates."""
        return self.turned.objective

    @cached_property
    def query_features(self):
        """Queries in these coordinates."""
        return self.turned.turn(self.given_queries)

    @cached_property
    def refits(self):
        """Newton steps from the model that was fitted on all rows."""
        objective, features = self.objective, self.objective.features
        identity = np.eye(objective.training_outputs.shape[1])
        identity = np.broadcast_to(identity, (features.shape[0], *identity.shape))
        squares = objective.pullback(_squared(features), identity)
        return Refit(
            objective,
            objective.jacobian_rows(features),
            DiagonalPreconditioner(squares),
            objective.penalty,
            balance=-objective.penalty * objective.theta,
        )

    def blocks(self, index):
        """Positions of subsets, in blocks that are refitted together."""
        n_train, k = self.given.training_outputs.shape
        # Outputs, their derivatives and the vectors of conjugate gradients.
        columns = 12 * n_train * (k + 1) + 12 * len(self.given.theta)
        fit_bytes = 8 * (columns + 4 * self.given_queries.shape[0] * k)
        fitting = batches(BLOCK, fit_bytes)[0].stop
        return [index[part] for part in batches(len(index), fit_bytes, fitting)]

    def refit(self, subsets):
        """Losses and, in the last column, relative gradient norms, (m, n_queries + 1)."""
        weight, factor = self.objective.weighting.of_subsets(subsets)
        start = np.zeros((len(subsets), len(self.objective.theta)))
        delta, norms = self.refits.minimise(weight, factor, start, tol=self.tol)
        theta = self.objective.theta + delta
        c, d = self.objective.weights.shape
        weights, intercepts = theta[:, : c * d].reshape(-1, c, d), theta[:, c * d :]
        outputs = self.objective.shifted_outputs(self.query_features, weights, intercepts)
        return np.column_stack([self.objective.loss.value(outputs, self.targets), norms])


def _squared(features):
    return features**2 if isinstance(features, np.ndarray) else features.multiply(features).tocsr()
