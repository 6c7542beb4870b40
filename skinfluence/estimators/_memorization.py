"""Memorization of training rows: ``||H^{-1} g_p||_1`` in the eigenbasis of H, and its bounds.

Conventions
-----------
- ``h`` eigenvalues of H, ascending; ``chi`` and ``psi`` coordinates of a training row's and of
  a query's gradient along the orthonormal eigenvectors of H.
- An eigenspace is the span of the eigenvectors whose eigenvalues are numerically equal. A
  rotation inside an eigenspace changes its eigenvectors and the L1 norm along them, but not
  the Euclidean norm of the part in the eigenspace, which is the smallest L1 norm of that part
  over all orthonormal bases. Norms here are sums of these Euclidean norms: the L1 norm where
  eigenvalues are distinct, so a row above a threshold is above it in every eigenbasis.
"""

import numpy as np

from skinfluence.curvature._eigenbasis import eigenspaces


def memorization(linearisation):
    """``||H^{-1} g_p||_1`` of every training row, (n_train,)."""
    rows = linearisation.training_rows
    basis = linearisation.eigenbasis()
    starts = eigenspaces(basis.values)
    out = np.empty(len(rows))
    for batch in rows.batches():
        solved = basis.coordinates(rows[batch]) / basis.values
        out[batch] = _norms(solved, starts).sum(axis=1)
    return out


def sign_bounds(linearisation, query):
    """Bounds of memorization that follow from the sign of the influence on one query.

    In an eigenspace ``E`` let ``c_E`` be the inner product of the parts of ``g_p`` and of
    ``g_t``. With eigenvectors for eigenspaces, ``c_E`` is ``chi_i psi_i`` and the following is
    Theorem 3 of Kounavis, Dia and Ramazanli; its proof holds with the inequality of
    Cauchy-Schwarz for ``|chi_i psi_i| <= |chi_i| |psi_i|``.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    query : Rows
        One projected gradient row ``g_t``.

    Returns
    -------
    memorized : ndarray of shape (n_train,)
        Memorization.
    values : ndarray of shape (n_train,)
        ``I_loss = -sum_E c_E / h_E``.
    bounds : ndarray of shape (n_train,)
        Lower bounds of memorization where ``values`` is not 0: ``sum_E |c_E| / h_E`` over the
        eigenspaces whose terms have the other sign, divided by the largest norm of ``g_t`` in
        an eigenspace, relation (72).
    thresholds : tuple of float
        D+ and D- of the theorem, which apply to all training rows at once.
    """
    rows = linearisation.training_rows
    basis = linearisation.eigenbasis(query)
    starts = eigenspaces(basis.values)
    psi = basis.coordinates(query)[0]
    inverse = 1.0 / basis.values[starts]
    largest = max(_norms(psi[None], starts).max(), np.finfo(float).tiny)
    parts = []
    for batch in rows.batches():
        chi = basis.coordinates(rows[batch])
        products = np.add.reduceat(chi * psi, starts, axis=1)
        helping, harming = np.maximum(products, 0), np.maximum(-products, 0)
        columns = [helping @ inverse, harming @ inverse, helping.sum(axis=1), harming.sum(axis=1)]
        memorized = _norms(chi / basis.values, starts).sum(axis=1)
        parts.append(np.column_stack([memorized, *columns]))
    memorized, helping, harming, plus, minus = np.concatenate(parts).T
    values = harming - helping
    bounds = np.where(values > 0, helping, harming) / largest
    smallest = inverse.min() / largest
    return memorized, values, bounds, (plus.min() * smallest, minus.min() * smallest)


def _norms(coordinates, starts):
    """Euclidean norms within eigenspaces, (n_rows, n_eigenspaces)."""
    return np.sqrt(np.add.reduceat(coordinates**2, starts, axis=1))
