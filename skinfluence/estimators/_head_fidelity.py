"""Influence over a head against influence over all parameters of a model."""

import numpy as np
from sklearn.utils import Bunch

from skinfluence.curvature._choice import make_curvature
from skinfluence.estimators._classification_terms import classification_terms
from skinfluence.metrics import influence_ratio

# Above these numbers of parameters, or of entries of all gradients, an eigendecomposition of the
# Hessian takes minutes or does not fit into memory.
MAX_PARAMS, MAX_NUMBERS = 2000, 5e7


class FullModel:
    """All parameters of a model, of which some are the head's.

    Parameters
    ----------
    objective : Objective
        Objective of the model.
    head : Head
        Its head.
    curvature : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    damping : float
        Added to the eigenvalues of the curvature.
    random_state : int, RandomState or None
        Draws the preconditioner where the curvature is used through products only.
    """

    def __init__(self, objective, head, curvature, damping, random_state):
        self.objective = objective
        self.head = head
        self.curvature = curvature
        self.damping = damping
        self.random_state = random_state
        self.rows = objective.training_gradient_rows()
        small = len(objective.theta) <= MAX_PARAMS
        self.is_decomposed = small and np.prod(self.rows.shape, dtype=float) <= MAX_NUMBERS

    def compare(self, queries, classification):
        """Compute what `ClassifierHeadInfluence.head_fidelity` returns, without ``queries``.

        Parameters
        ----------
        queries : Rows
            Gradients of the queries, in all parameters.
        classification : ndarray of shape (n_queries, n_train)
            Their influences over the head.
        """
        curvature = self._make_curvature()
        full = -curvature.solve(queries, self.damping).inner(self.rows)
        terms = self._terms(curvature, queries) if self.is_decomposed else _no_terms()
        if terms.t2 is not None:
            size = np.abs(full)
            share = np.divide(np.abs(terms.t2), size, out=np.zeros_like(size), where=size > 0)
            terms.t2_share = np.median(share, axis=1)
        return Bunch(
            classification=classification,
            full=full,
            ratio=np.divide(classification, full, out=np.full_like(full, np.nan), where=full != 0),
            **influence_ratio(full, classification),
            damping=self.damping,
            **terms,
        )

    def _make_curvature(self):
        solver = "direct" if self.is_decomposed else "cg"
        return make_curvature(self.objective, self.curvature, solver, self.random_state)

    def _terms(self, curvature, queries):
        own = self.head.coordinates(self.objective)
        order = np.append(own, np.setdiff1d(np.arange(len(self.objective.theta)), own))
        terms = classification_terms(
            curvature.matrix(self.damping)[np.ix_(order, order)],
            len(own),
            queries.toarray()[:, order],
            self.rows.toarray()[:, order],
        )
        kept = ("t1", "t2", "t1_share", "partition", "inverse_share", "coordinate_share")
        return Bunch(**{name: terms[name] for name in kept})


def _no_terms():
    names = ("t1", "t2", "t1_share", "t2_share", "partition", "inverse_share", "coordinate_share")
    return Bunch(**dict.fromkeys(names))
