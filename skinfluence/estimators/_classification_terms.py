"""The terms of Theorem 1: influence over a classifier against influence over all parameters.

Conventions
-----------
Gradients are rows: ``g_t`` (q, p) of the queries, ``g_p`` (n, p) of training rows. The
coordinates of the classifier come first, c of them. Equation numbers refer to M. Kounavis,
O. Dia, I. Ramazanli, "On Influence Functions, Classification Influence, Relative Influence,
Memorization and Generalization".
"""

import numpy as np
from scipy.linalg import eigh
from sklearn.utils import Bunch


def dominant_partition(values, vectors, n_head):
    """Choose the eigenpairs of the classifier, which dominate the inverse on its coordinates.

    Parameters
    ----------
    values : ndarray of shape (p,)
        Eigenvalues of the Hessian.
    vectors : ndarray of shape (p, p)
        Eigenvectors as columns.
    n_head : int
        Number c of parameters of the classifier.

    Returns
    -------
    ndarray of bool of shape (p,)
        True for the c eigenpairs with the largest ``|v_C|^2 / |value|``.
    """
    weight = np.einsum("ij,ij->j", vectors[:n_head], vectors[:n_head]) * _inverse(np.abs(values))
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-weight, kind="stable")[:n_head]] = True
    return chosen


def classification_terms(hessian, n_head, query_gradients, gradients, partition=None):
    """Both sides of the ratio (39) and its terms T1 (42) and T2 (43).

    The inverse leaves out eigenvalues that are 0 up to rounding, and is exact for gradients in
    the range of the Hessian.

    Parameters
    ----------
    hessian : ndarray of shape (p, p)
        Hessian of all parameters.
    n_head : int
        Number c of parameters of the classifier.
    query_gradients : ndarray of shape (q, p)
        Gradients of the queries.
    gradients : ndarray of shape (n, p)
        Gradients of training rows.
    partition : ndarray of bool of shape (p,), default=None
        Which eigenpairs, in ascending order of the eigenvalues, belong to the classifier, c of
        them. By default the dominant ones.

    Returns
    -------
    Bunch
        ``t1`` (c, c), ``t2`` (q, n), ``head_part`` (q, n) ``= g_t' Q_C' L_C^{-1} Q_C g_p``,
        ``classification`` (q, n) the numerator of (39), ``partition`` (p,), and how dominant it
        is: ``inverse_share`` of the trace of the inverse, ``coordinate_share`` of the squared
        coordinates of the classifier's eigenvectors, ``t1_share`` the norm of T1 over the norm
        of the classifier's Hessian.
    """
    values, vectors = eigh(hessian)
    if partition is None:
        partition = dominant_partition(values, vectors, n_head)
    inverse = _inverse(values)
    own, rest = values[partition], values[~partition]
    own_inverse, rest_inverse = inverse[partition], inverse[~partition]
    Q_C, alpha = np.split(vectors.T[partition], [n_head], axis=1)
    beta, gamma = np.split(vectors.T[~partition], [n_head], axis=1)
    t1 = (beta.T * rest) @ beta
    F1 = (beta.T * rest_inverse) @ beta
    F2 = (Q_C.T * own_inverse) @ alpha + (beta.T * rest_inverse) @ gamma
    F3 = (alpha.T * own_inverse) @ alpha + (gamma.T * rest_inverse) @ gamma
    g_t, f_t = np.split(query_gradients, [n_head], axis=1)
    g_p, f_p = np.split(gradients, [n_head], axis=1)
    t2 = g_t @ F1 @ g_p.T + g_t @ F2 @ f_p.T + f_t @ F2.T @ g_p.T + f_t @ F3 @ f_p.T
    block = (Q_C.T * own) @ Q_C + t1
    return Bunch(
        t1=t1,
        t2=t2,
        head_part=(g_t @ Q_C.T * own_inverse) @ (Q_C @ g_p.T),
        classification=g_t @ _pseudo_inverse(block) @ g_p.T,
        partition=partition,
        inverse_share=float(np.abs(own_inverse).sum() / np.abs(inverse).sum()),
        coordinate_share=float(np.square(Q_C).sum() / n_head),
        t1_share=float(np.linalg.norm(t1) / np.linalg.norm(block)),
    )


def _inverse(values):
    """Reciprocals, 0 for values that are 0 up to rounding."""
    tolerance = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    kept = np.abs(values) > tolerance
    return np.divide(1.0, values, out=np.zeros_like(values), where=kept)


def _pseudo_inverse(matrix):
    values, vectors = eigh(matrix)
    return (vectors * _inverse(values)) @ vectors.T
