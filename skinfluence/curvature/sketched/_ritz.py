"""The eigenvalue of largest size, from few products."""

import numpy as np
from scipy.linalg import eigh

# Smallest norm to divide by, and the part of a unit vector that counts as new.
TINY, ROUNDING = np.finfo(np.float64).tiny, 1e-8


def largest_ritz_value(images, vectors, *, enough, n_iterations):
    """Lower bound of the spectral radius of a symmetric pencil, by block Krylov subspaces.

    All blocks of the iteration stay in the subspace: both ends of the spectrum are found then,
    where iteration of one block shows the more crowded end first.

    Parameters
    ----------
    images : callable
        ``images(V)`` gives ``A V``, ``B V`` and ``B^{-1} A V`` for rows V, where ``B`` is
        positive definite.
    vectors : ndarray of shape (n_vectors, n_columns)
        First block.
    enough : float
        Value above which the search ends.
    n_iterations : int
        Most blocks.

    Returns
    -------
    float
        Largest ``|v'Av| / v'Bv`` in the subspace.
    """
    block = np.linalg.qr(vectors.T)[0].T
    space, numerator, denominator = (np.empty((0, vectors.shape[1])) for _ in range(3))
    found = 0.0
    for _ in range(n_iterations):
        above, below, following = images(block)
        space = np.vstack([space, block])
        numerator, denominator = np.vstack([numerator, above]), np.vstack([denominator, below])
        ritz, metric = numerator @ space.T, denominator @ space.T
        values = eigh(ritz + ritz.T, metric + metric.T, eigvals_only=True)
        found = max(found, float(np.abs(values).max()))
        if found > enough:
            break
        # Columns after those of the subspace span what the new block adds to it.
        scaled = following / np.linalg.norm(following, axis=1, keepdims=True).clip(TINY)
        basis, triangle = np.linalg.qr(np.vstack([space, scaled]).T)
        added = np.abs(np.diag(triangle))[len(space) :] > ROUNDING
        if not added.any():
            # The subspace holds its own image.
            break
        block = basis.T[len(space) :][added]
    return found
