"""Linear systems as conjugate gradients see them."""

import numpy as np

from skinfluence.rows import DenseRows


class System:
    """``H x = b`` for many rows b, with an approximate inverse of H.

    Conjugate gradients add and scale arrays, and leave all else to the system. A subclass may
    hold vectors in other coordinates, in which the approximate inverse is cheaper: it overrides
    everything.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> H vectors`` for vectors (m, p), with a symmetric positive
        semidefinite H that may differ from row to row.
    precondition : callable
        ``precondition(vectors)`` approximates ``H^{-1} vectors``, symmetrically.
    """

    # Number of coordinates beyond the columns of the rows.
    n_extra = 0

    def __init__(self, product, precondition):
        self._product = product
        self.precondition = precondition

    def enter(self, rows):
        """Array (m, n_coordinates) that stands for rows."""
        return rows.toarray()

    def leave(self, array, rows_per_sample):
        """Rows for which an array stands."""
        return DenseRows(array, rows_per_sample)

    def dot(self, left, right):
        """Inner product of each vector with its own partner, (m,)."""
        return np.einsum("mp,mp->m", left, right)

    def push(self, vectors):
        """``v'Hv`` (m,), and a function to be called once that returns ``H v``.

        Where the product has two halves, the first is enough for ``v'Hv``.
        """
        image = self._product(vectors)
        return self.dot(vectors, image), lambda: image
