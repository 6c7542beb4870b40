"""The damping of a network, found from its own training.

A network does not answer a change of its rows along directions that its training hardly followed.
Gradient flow for a time T on a quadratic with curvature H, from a start at distance d of the
minimum, moves the share ``1 - exp(-T h)`` of d along an eigenvector with eigenvalue h and leaves
the gradient

    s = H exp(-T H) d

A ridge of ``1 / T`` moves the share ``h / (h + 1 / T)``, nearly the same. So the gradient that
training has left tells the damping: ``1 / T``, with the fitted parameters in place of d. A long
training leaves little gradient and little damping.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from skinfluence.curvature import conjugate_gradients, spectral_measure
from skinfluence.rows import BlockRows, DenseRows, Rows

# Products with the curvature; the result has two digits by then.
N_STEPS = 15

# Rows that stand for all in these products.
MAX_ROWS = 2000

# Outputs of these rows, which are fewer where each has many, as a text has.
MAX_OUTPUTS = 2**24

# A gradient of this size, relative to that of the start, is rounding.
ROUNDING = 1e-10

# Sums of gradients with random signs that an approximation is compared on, multiples of the full
# curvature's damping that are tried for it, and iterations to the full curvature's answer.
N_PROBES = 2
MULTIPLES = 10.0 ** np.arange(-3, 0.6, 0.25)
N_ITERATIONS = 10


def network_damping(objective, kind, full):
    """Damping at which a quadratic answers like a network that was trained for as long.

    Parameters
    ----------
    objective : Objective
        Objective of the network.
    kind : {"hessian", "ggn", "empirical_fisher"}
        Which curvature will be damped.
    full : FullByRows or FullByProducts
        The Gauss-Newton matrix, as `full_curvature` gives it.

    Returns
    -------
    float
        The damping of the Gauss-Newton matrix, in proportion to the mean eigenvalue where the
        empirical Fisher takes its place.
    """
    gradient = objective.weight[None] @ objective.training_gradient_rows().summed()
    gradient = (gradient[0] + objective.l1_gradient) / objective.total_weight
    gradient += objective.l2_penalty * objective.theta
    values, weights = spectral_measure(full.multiply, objective.theta, N_STEPS)
    damping = _inverse_time(values, weights, np.linalg.norm(gradient))
    if not damping:
        # The parameters are 0, or no row moves them: only a scale is known.
        return objective.mean_eigenvalue(kind)
    if kind == "empirical_fisher":
        damping *= objective.mean_eigenvalue(kind) / objective.mean_eigenvalue("ggn")
    return float(damping)


def _inverse_time(values, weights, left):
    """The number ``1 / T`` for which ``||H exp(-T H) d|| = left``, at most the largest value.

    Parameters
    ----------
    values, weights : ndarray of shape (n_values,)
        Spectral measure of d.
    left : float
        Norm of the gradient that is left.
    """
    start = np.sqrt(weights @ values**2)
    if not start:
        return 0.0
    left = max(left, ROUNDING * start)

    def excess(logarithm):
        remaining = values * np.exp(-values / np.exp(logarithm))
        return np.sqrt(weights @ remaining**2) - left

    low, high = np.log(values[-1]) + np.log([ROUNDING, 1.0])
    if excess(high) <= 0:
        return values[-1]
    return np.exp(low if excess(low) >= 0 else brentq(excess, low, high))


def matched_damping(objective, curvature, space, damping, full):
    """Damping at which an approximate curvature answers most like the full one.

    Both solve for the same random sums of training gradients, and the answers are compared as
    changes of the training outputs, by their correlation in the metric of F:

        (x' F y)^2 / (x' F x)(y' F y),  x by the approximation,  y by the full curvature

    Parameters
    ----------
    objective : Objective
        Objective of the network.
    curvature : Curvature
        The approximation.
    space : Space
        Its coordinates.
    damping : float
        Damping of the full curvature.
    full : FullByRows or FullByProducts
        The curvature that is approximated, as `full_curvature` gives it.

    Returns
    -------
    float
        A multiple of ``damping``, between 0.001 and 3.
    """
    if not damping:
        return damping
    n_rows = objective.features.shape[0]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(N_PROBES, n_rows))
    sums = (signs * objective.weight) @ objective.training_gradient_rows().summed()
    blocks = objective.training_gradient_rows()[:1].device_blocks
    edges = np.cumsum([block.n_columns for block in blocks])[:-1]

    def solve(vectors, damping):
        blocks = map(DenseRows, np.split(vectors, edges, axis=1))
        rows = space.project(BlockRows(blocks))
        return space.lift(curvature.solve(rows, damping).toarray())

    answer, _ = conjugate_gradients(
        lambda vectors: full.multiply(vectors) + damping * vectors,
        sums,
        lambda vectors: solve(vectors, damping),
        1e-2 * np.linalg.norm(sums, axis=1),
        max_iter=N_ITERATIONS,
    )
    correlation = full.correlation_with(answer)
    tried = damping * MULTIPLES
    return float(tried[np.argmax([correlation(solve(sums, d)) for d in tried])])


def _single(vectors):
    """Vectors in single precision, which is enough for the two digits of a damping.

    Products with rows that have it too then take half the time.
    """
    return vectors.astype(np.float32)


def full_curvature(objective, kind):
    """F with the model's own penalty, its products and correlations in its metric.

    Of a large training set some rows stand for all, the same ones each time.

    Parameters
    ----------
    objective : Objective
        Objective of the network.
    kind : {"ggn", "empirical_fisher"}
        Which curvature.

    Returns
    -------
    FullByRows or FullByProducts
    """
    n_rows, penalty = objective.features.shape[0], objective.l2_penalty
    max_rows = min(MAX_ROWS, max(1, MAX_OUTPUTS // objective.n_outputs))
    if n_rows > max_rows:
        chosen = np.random.default_rng(0).choice(n_rows, max_rows, replace=False)
        weight = np.zeros(n_rows)
        weight[chosen] = objective.weight[chosen]
        objective = objective.restricted(weight)
    if kind == "ggn" and objective.has_many_outputs:
        return FullByProducts(objective.curvature_product(kind), penalty)
    return FullByRows(objective.factor_rows(kind).summed(), penalty)


@dataclass
class FullByRows:
    """F from its factor rows."""

    rows: Rows
    penalty: np.ndarray

    def multiply(self, vectors):
        """Products of vectors (m, n_coordinates) with F and the penalty."""
        return self.rows.gram_product(_single(vectors)) + self.penalty * vectors

    def correlation_with(self, right):
        """Function that correlates vectors with those on the right, in the metric of F."""
        moved = self.rows.dotted_by(_single(right))

        def correlation(left):
            own = self.rows.dotted_by(_single(left))
            return np.sum(own * moved) / np.sqrt(np.sum(own**2) * np.sum(moved**2))

        return correlation


@dataclass
class FullByProducts:
    """F by its products with vectors alone."""

    product: Callable
    penalty: np.ndarray

    def multiply(self, vectors):
        """Products of vectors (m, n_coordinates) with F and the penalty."""
        return self.product(vectors) + self.penalty * vectors

    def correlation_with(self, right):
        """Function that correlates vectors with those on the right, in the metric of F."""
        moved = self.product(right)

        def correlation(left):
            own = np.sum(left * self.product(left))
            return np.sum(left * moved) / np.sqrt(own * np.sum(right * moved))

        return correlation
