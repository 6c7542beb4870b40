"""The conditions of Theorem 2, under which a relative influence preserves loss estimates.

Conventions
-----------
Gradients are rows: ``g_t`` (q, p) of the queries, ``g_p`` (n, p) of training rows. ``G = 1 g_t'
+ delta I`` for one query, ``H`` is the reference Hessian and ``H_m`` the subset's. Equation
numbers refer to M. Kounavis, O. Dia, I. Ramazanli, "On Influence Functions, Classification
Influence, Relative Influence, Memorization and Generalization".
"""

import numpy as np


def row_sums(delta, query_gradients, transported_ones):
    """Row sums of ``G H_m H^{-1} G^{-1}``, the proof's value (66) of rho.

    ``G^{-1} 1 = 1 / (delta + 1'g_t)``, so the sums are G times one vector.

    Parameters
    ----------
    delta : ndarray of shape (q,)
        One for each query.
    query_gradients : ndarray of shape (q, p)
        Gradients of the queries.
    transported_ones : ndarray of shape (p,)
        ``H_m H^{-1} 1``.

    Returns
    -------
    ndarray of shape (q, p)
    """
    total = query_gradients.sum(axis=1) + delta
    sums = (query_gradients @ transported_ones)[:, None] + delta[:, None] * transported_ones
    return sums / total[:, None]


class LepConditions:
    """The two conditions of Theorem 2 as relative sizes, 0 where they are met exactly.

    With ``W = G H_m H^{-1} G^{-1}`` and ``u_p = H^{-1} g_p - r_p H_m^{-1} g_p``, which is
    orthogonal to ``g_t`` by the definition of ``r_p``, so that ``G^{-1} u_p = u_p / delta``:

        W (1 g_t'g_p + delta g_p) = r_p (1 g_t'g_p + delta g_p) + G b_p,    b_p = H_m u_p

    The first condition drops ``G b_p = G N g_p``, the second one both terms ``delta g_p``; the
    rest says that the row sums of W are ``r_p``. The relative distance of the row sums from
    ``r_p``, as a mean square, is at most ``first (1 + second) + second``.

    Parameters
    ----------
    query_gradients : ndarray of shape (q, p)
        Gradients of the queries.
    gradients : ndarray of shape (n, p)
        Gradients of training rows.
    transported : ndarray of shape (n, p)
        ``H_m H^{-1} g_p``.
    transported_ones : ndarray of shape (p,)
        ``H_m H^{-1} 1``.
    ratio : ndarray of shape (q, n)
        ``r_p``, full over relative influence.
    """

    def __init__(self, query_gradients, gradients, transported, transported_ones, ratio):
        self.n_params = gradients.shape[1]
        self.size = np.abs(ratio)
        self.inner = query_gradients @ gradients.T
        self._total = query_gradients.sum(axis=1)[:, None]
        self._gradients = gradients.sum(axis=1), _squares(gradients)
        self._transported = transported.sum(axis=1), _squares(transported)
        self._ones = (
            transported_ones.sum(),
            transported_ones @ transported_ones,
            transported @ transported_ones,
        )
        self._on_queries = query_gradients @ transported.T
        self._ones_on_queries = (query_gradients @ transported_ones)[:, None]
        # G b_p = 1 g_t'b_p + delta b_p with b_p = H_m H^{-1} g_p - r_p g_p: its length needs only
        # three numbers of b_p, namely g_t'b_p, 1'b_p and b_p'b_p, and never an array (q, n, p).
        (sums, squares), (c_sums, c_squares) = self._gradients, self._transported
        mixed = np.einsum("np,np->n", transported, gradients)
        b_squares = c_squares - 2 * ratio * mixed + ratio**2 * squares
        self._b = self._on_queries - ratio * self.inner, c_sums - ratio * sums, b_squares

    def _norm(self, inner, delta, sums, squares):
        """``|1 inner + delta v|`` from the sum and the square of v."""
        # |1 a + delta v|^2 = p a^2 + 2 delta a 1'v + delta^2 v'v; rounding may leave it below 0.
        square = self.n_params * inner**2 + 2 * delta * inner * sums + delta**2 * squares
        return np.sqrt(np.maximum(square, 0))

    def first(self, delta):
        """``|G N g_p| / |r_p G g_p|``, (q, n), for one delta (q,) for each query."""
        delta = np.asarray(delta)[:, None]
        inner, sums, squares = self._b
        full = self.size * self._norm(self.inner, delta, *self._gradients)
        return _share(self._norm(inner, delta, sums, squares), full)

    def second(self, delta):
        """``(|W delta g_p| + |r_p delta g_p|) / |r_p 1 g_t'g_p|``, (q, n).

        The product with W is measured, not its factors: the elements of W grow like 1 / delta,
        so a small ``delta g_p`` alone says nothing.
        """
        delta = np.asarray(delta)[:, None]
        (c_sums, c_squares), (sum_of_ones, square_of_ones, mixed) = self._transported, self._ones
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


def _share(part, full):
    nowhere = np.where(part > 0, np.inf, 0.0)
    return np.divide(part, full, out=nowhere, where=full > 0)
