"""The ridge that a sketch adds, and the effective dimension behind a sketched spectrum.

A random sketch shrinks: its resolvent with the ridge ``l`` behaves like the exact one with
the ridge ``mu = m / tr((P F P' + l I)^{-1})``, which is larger [1]_. A sketch that takes a share
``a`` of the rows of an orthogonal matrix adds less, ``a l + (1 - a) m / tr(...)``, the law of a
free compression. A sketch of features alone, with c outputs carried along, does the same with
matrices (c, c) for ridges and the partial trace over the features.

References
----------
.. [1] LeJeune, Patil, Javanmard, Baraniuk, Tibshirani, "Asymptotics of the sketched
   pseudoinverse", 2022.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq


def added_ridge(eigenvalues, ridge, share=0.0):
    """The exact ridge that ``ridge`` in the sketch stands for, ``mu``.

    Parameters
    ----------
    eigenvalues : ndarray of shape (m,)
        All eigenvalues of ``P F P'``.
    ridge : float
        Ridge in the sketch.
    share : float, default=0.0
        Share ``a`` of an orthogonal matrix.

    Returns
    -------
    float
    """
    shifted = np.clip(eigenvalues, 0, None) + ridge
    if (shifted <= 0).any():
        return share * ridge
    return share * ridge + (1 - share) * len(shifted) / np.sum(1 / shifted)


def debiased_ridge(eigenvalues, ridge, share=0.0):
    """The ridge in the sketch that stands for the exact ``ridge``.

    Returns
    -------
    float
        At most ``ridge``; 0 where the sketch is too small for it.
    """
    if added_ridge(eigenvalues, 0.0, share) >= ridge:
        return 0.0

    def gap(own):
        return added_ridge(eigenvalues, own, share) - ridge

    return brentq(gap, 0.0, ridge, xtol=1e-12 * ridge)


def exact_effective_dimension(eigenvalues, ridge, share=0.0):
    """Effective dimension of F from the eigenvalues of ``P F P'``, without the bias of P.

    Returns
    -------
    float
        Infinite where the sketch is too small to tell.
    """
    own = debiased_ridge(eigenvalues, ridge, share)
    if own == 0.0:
        return np.inf
    values = np.clip(eigenvalues, 0, None)
    return float(np.sum(values / (values + own)))


def debiased_ridges(moment, ridges, share=0.0, *, tol=1e-4, max_iter=50):
    """The matrix of ridges on c outputs that stands for exact ones, features being sketched.

    Parameters
    ----------
    moment : ndarray of shape (c * m, c * m)
        F in sketched coordinates, ``k * m + j`` for output k.
    ridges : ndarray of shape (c,)
        Exact ridge of every output.
    share : float, default=0.0
        Share ``a`` of an orthogonal matrix.
    tol : float, default=1e-4
        Relative error of the ridges at which the iteration stops.
    max_iter : int, default=50
        Iterations at most.

    Returns
    -------
    ndarray of shape (c, c) or None
        None where the sketch is too small.
    """
    c = len(ridges)
    m = len(moment) // c
    own = np.diag(ridges.astype(float))
    for _ in range(max_iter):
        inverse = _inverse(moment + np.kron(own, np.eye(m)))
        if inverse is None:
            return None
        cube = inverse.reshape(c, m, c, m)
        stands_for = m * np.linalg.inv(np.einsum("kjlj->kl", cube))
        stands_for = share * own + (1 - share) * stands_for
        gap = np.diag(ridges) - stands_for
        if np.linalg.norm(gap) <= tol * np.linalg.norm(ridges):
            return own
        # The slope of the scalar equation, at least 1, keeps the step from overshooting.
        slope = m * np.einsum("kjli,kjli->", cube, cube) / c
        slope /= np.trace(np.einsum("kjlj->kl", cube) @ np.einsum("kjlj->kl", cube)) / c
        own = own + gap / max(1.0, slope)
    return None


def _inverse(matrix):
    try:
        factor = cho_factor(matrix, lower=True)
    except np.linalg.LinAlgError:
        return None
    return cho_solve(factor, np.eye(len(matrix)))
