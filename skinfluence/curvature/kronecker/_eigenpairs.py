"""Eigenpairs of the moments of a layer."""

import numpy as np
from scipy.linalg import eigh


def eigenpairs(moment, penalty):
    """Eigenpairs of a moment and, where it vanishes, those of the penalty inside.

    A basis of a null space is arbitrary, and the diagonal of a penalty depends on it.

    Parameters
    ----------
    moment : ndarray of shape (n, n)
        Symmetric, without negative eigenvalues.
    penalty : ndarray of shape (n,)
        Penalty on each coordinate.
    """
    values, vectors = eigh(moment)
    null = values <= np.finfo(np.float64).eps * len(values) * values[-1]
    if null.any() and np.ptp(penalty):
        inside = vectors[:, null]
        vectors[:, null] = inside @ eigh(inside.T @ (penalty[:, None] * inside))[1]
    return values, vectors
