"""Algebra of the theorems on classification influence and on relative influence.

Conventions
-----------
- Gradients are rows: ``g_t`` (q, p) of the queries, ``g_p`` (n, p) of training rows. The
  coordinates of the classifier come first, c of them.
- Equation numbers are those of M. Kounavis, O. Dia, I. Ramazanli, "On Influence Functions,
  Classification Influence, Relative Influence, Memorization and Generalization".
"""

import numpy as np
from scipy.linalg import eigh
from sklearn.utils import Bunch


def dominant_partition(values, vectors, n_head):
    """Eigenpairs for the classifier: those that weigh most in the inverse on its coordinates.

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

    Eigenvalues that are 0 to rounding are left out of the inverse, which is exact for gradients
    in the range of the Hessian.

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
        coordinates of the classifier's eigenvectors, ``t1_share`` the norm of T1 over that of
        the classifier's Hessian.
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
    """Reciprocals, 0 for what is 0 to rounding."""
    tolerance = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    kept = np.abs(values) > tolerance
    return np.divide(1.0, values, out=np.zeros_like(values), where=kept)


def _pseudo_inverse(matrix):
    values, vectors = eigh(matrix)
    return (vectors * _inverse(values)) @ vectors.T


def multiply_by_g(delta, gradient, vectors):
    """Rows ``G(delta, z_t) v`` of vectors (m, p), ``G = 1 g_t' + delta I`` as in (57)."""
    return (vectors @ gradient)[:, None] + delta * vectors


def solve_with_g(delta, gradient, vectors):
    """Rows ``G(delta, z_t)^{-1} v`` by Sherman and Morrison."""
    return (vectors - (vectors @ gradient / (delta + gradient.sum()))[:, None]) / delta


def row_sums(delta, query_gradients, carried_ones):
    """Row sums of ``G H_m H^{-1} G^{-1}``, the proof's value (66) of rho.

    ``G^{-1} 1 = 1 / (delta + 1'g_t)``, so that the sums are G times one vector.

    Parameters
    ----------
    delta : ndarray of shape (q,)
        One for each query.
    query_gradients : ndarray of shape (q, p)
        Gradients of the queries.
    carried_ones : ndarray of shape (p,)
        ``H_m H^{-1} 1``.

    Returns
    -------
    ndarray of shape (q, p)
    """
    total = query_gradients.sum(axis=1) + delta
    sums = (query_gradients @ carried_ones)[:, None] + delta[:, None] * carried_ones
    return sums / total[:, None]


class LepConditions:
    """The two conditions of Theorem 2 as relative sizes, 0 where they hold exactly.

    With ``W = G H_m H^{-1} G^{-1}`` and ``u_p = H^{-1} g_p - r_p H_m^{-1} g_p``, which is
    orthogonal to ``g_t`` by the definition of ``r_p``, so that ``G^{-1} u_p = u_p / delta``:

        W (1 g_t'g_p + delta g_p) = r_p (1 g_t'g_p + delta g_p) + G b_p,    b_p = H_m u_p

    The first condition drops ``G b_p = G N g_p``, the second one both terms ``delta g_p``; what
    is left says that the row sums of W are ``r_p``. Their relative distance from it, as a mean
    square, is at most ``first (1 + second) + second``.

    Parameters
    ----------
    query_gradients : ndarray of shape (q, p)
        Gradients of the queries.
    gradients : ndarray of shape (n, p)
        Gradients of training rows.
    carried : ndarray of shape (n, p)
        ``H_m H^{-1} g_p``.
    carried_ones : ndarray of shape (p,)
        ``H_m H^{-1} 1``.
    ratio : ndarray of shape (q, n)
        ``r_p``, full over relative influence.
    """

    def __init__(self, query_gradients, gradients, carried, carried_ones, ratio):
        self.n_params = gradients.shape[1]
        self.size = np.abs(ratio)
        self.inner = query_gradients @ gradients.T
        self._total = query_gradients.sum(axis=1)[:, None]
        self._gradients = gradients.sum(axis=1), _squares(gradients)
        self._carried = carried.sum(axis=1), _squares(carried)
        self._ones = carried_ones.sum(), carried_ones @ carried_ones, carried @ carried_ones
        self._on_queries = query_gradients @ carried.T
        self._ones_on_queries = (query_gradients @ carried_ones)[:, None]
        (sums, squares), (c_sums, c_squares) = self._gradients, self._carried
        mixed = np.einsum("np,np->n", carried, gradients)
        b_squares = c_squares - 2 * ratio * mixed + ratio**2 * squares
        self._b = self._on_queries - ratio * self.inner, c_sums - ratio * sums, b_squares

    def _norm(self, inner, delta, sums, squares):
        """``|1 inner + delta v|`` from the sum and the square of v."""
        square = self.n_params * inner**2 + 2 * delta * inner * sums + delta**2 * squares
        return np.sqrt(np.maximum(square, 0))

    def first(self, delta):
        """``|G N g_p| / |r_p G g_p|``, (q, n), for one delta (q,) for each query."""
        delta = np.asarray(delta)[:, None]
        inner, sums, squares = self._b
        whole = self.size * self._norm(self.inner, delta, *self._gradients)
        return _share(self._norm(inner, delta, sums, squares), whole)

    def second(self, delta):
        """``(|W delta g_p| + |r_p delta g_p|) / |r_p 1 g_t'g_p|``, (q, n).

        The product with W is measured as a whole: the elements of W grow like 1 / delta, so that
        a small ``delta g_p`` alone says nothing.
        """
        delta = np.asarray(delta)[:, None]
        (c_sums, c_squares), (sum_of_ones, square_of_ones, mixed) = self._carried, self._ones
        # W delta g_p = G H_m H^{-1} g_p - g_t'g_p W 1, and W 1 = G H_m H^{-1} 1 / (delta + 1'g_t).
        share = self.inner / (delta + self._total)
        moved = self._norm(
            self._on_queries - share * self._ones_on_queries,
            delta,
            c_sums - share * sum_of_ones,
            c_squares - 2 * share * mixed + share**2 * square_of_ones,
        )
        own = self.size * np.abs(delta) * np.sqrt(self._gradients[1])
        return _share(moved + own, self.size * np.abs(self.inner) * np.sqrt(self.n_params))

    @property
    def scale(self):
        """Size of delta at which ``delta g_p`` is as large as ``1 g_t'g_p``, (q,)."""
        length = np.sqrt(self._gradients[1] / self.n_params)
        return np.median(_share(np.abs(self.inner), length), axis=1)


def _squares(rows):
    return np.einsum("np,np->n", rows, rows)


def _share(part, whole):
    nowhere = np.where(part > 0, np.inf, 0.0)
    return np.divide(part, whole, out=nowhere, where=whole > 0)
