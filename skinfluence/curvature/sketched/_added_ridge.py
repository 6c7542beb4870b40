"""The ridge that a sketch adds, and the effective dimension behind a sketched spectrum.

A random sketch shrinks: its resolvent with the ridge ``l`` behaves like the exact resolvent with
the larger ridge ``mu = m / tr((P F P' + l I)^{-1})`` [1]_. A sketch that takes a share ``a`` of
the rows of an orthogonal matrix adds less, ``a l + (1 - a) m / tr(...)``, by the law of a free
compression.

References
----------
.. [1] LeJeune, Patil, Javanmard, Baraniuk, Tibshirani, "Asymptotics of the sketched
   pseudoinverse", 2022.
"""

import numpy as np
from scipy.optimize import brentq

from skinfluence.sketching import effective_dimension


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
        Infinite where the sketch is too small for an estimate.
    """
    own = debiased_ridge(eigenvalues, ridge, share)
    if own == 0.0:
        return np.inf
    return effective_dimension(eigenvalues, own)
