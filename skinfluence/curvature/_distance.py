"""How far two curvatures are apart, relative to a third."""

import numpy as np
from scipy.linalg import LinAlgError

from skinfluence.rows import DenseRows

# Steps of the Lanczos iteration: the ends of a spectrum are found to some percent.
N_STEPS = 20

# Squared length, relative to the first, of what rounding leaves of a vector.
ROUNDING = 1e-20


def relative_distance(first, second, reference, damping, random_state):
    """Norm of ``H^{-1/2} (H_1 - H_2) H^{-1/2}``, by Lanczos iteration in the metric of H.

    Parameters
    ----------
    first, second : Curvature
        The curvatures, with a ``multiply``.
    reference : Curvature
        Whose H is the metric.
    damping : float
        Added to the eigenvalues of each curvature.
    random_state : RandomState
        Draws the start.

    Returns
    -------
    float
        The largest Ritz value: never above the norm, and a few percent below it. Infinite where H
        has a negative eigenvalue.
    """

    def difference(vectors):
        return first.multiply(vectors, damping) - second.multiply(vectors, damping)

    def solve(vectors):
        return reference.solve(DenseRows(vectors), damping).toarray()

    image = difference(random_state.standard_normal((1, len(reference.penalty))))
    # Vectors v that are orthonormal in the metric, with H v and (H_1 - H_2) v.
    basis = lifted = moved = np.empty((0, image.shape[1]))
    start = None
    while len(basis) < min(N_STEPS, image.shape[1]):
        try:
            vector = solve(image)
        except LinAlgError:
            return np.inf
        for _ in range(2):
            along = vector @ lifted.T
            vector, image = vector - along @ basis, image - along @ lifted
        energy = (vector @ image.T).item()
        start = energy if start is None else start
        if energy <= ROUNDING * start:
            break
        basis = np.vstack([basis, vector / np.sqrt(energy)])
        lifted = np.vstack([lifted, image / np.sqrt(energy)])
        image = difference(basis[-1:])
        moved = np.vstack([moved, image])
    if start < 0:
        return np.inf
    ritz = basis @ moved.T
    return float(np.abs(np.linalg.eigvalsh((ritz + ritz.T) / 2)).max(initial=0.0))
