"""Eigenpairs of the moments of a layer."""

import numpy as np

from skinfluence._utils.namespace import eigh, like


def eigenpairs(moment, penalty):
    """Eigenpairs of a moment and, where it vanishes, those of the penalty inside.

    A basis of a null space is arbitrary, and the diagonal of a penalty depends on it.

    Parameters
    ----------
    moment : {ndarray, tensor} of shape (n, n)
        Symmetric, without negative eigenvalues.
    penalty : ndarray of shape (n,)
        Penalty on each coordinate.

    Returns
    -------
    values : ndarray of shape (n,)
        Eigenvalues, ascending.
    vectors : {ndarray, tensor} of shape (n, n)
        Eigenvectors, one in each column.
    """
    values, vectors = eigh(moment)
    null = values <= np.finfo(np.float64).eps * len(values) * values[-1]
    if null.any() and np.ptp(penalty):
        # Eigenvalues ascend, so that these come first.
        n_null = np.count_nonzero(null)
        inside = vectors[:, :n_null]
        own = like(penalty, vectors)[:, None] * inside
        vectors[:, :n_null] = inside @ eigh(inside.T @ own)[1]
    return values, vectors
