"""Rows in an orthonormal eigenbasis of a curvature, and eigenspaces of equal eigenvalues."""

import numpy as np

# Eigenvalues closer than this, relative to their size, count as equal; so do eigenvalues that
# differ by less than the rounding of the largest one.
EQUAL = np.sqrt(np.finfo(np.float64).eps)


class Eigenbasis:
    """Eigenvalues of H, and the coordinates of rows along its eigenvectors.

    Parameters
    ----------
    values : ndarray of shape (n_vectors,)
        Eigenvalues in any order.
    floor : float
        Eigenvalues up to this number count as 0: their eigenvectors are left out, as by a
        pseudo-inverse.
    write : callable
        ``write(rows)`` gives the coordinates (n_rows, n_vectors) of rows in the same order.
    """

    def __init__(self, values, floor, write):
        ascending = np.argsort(values, kind="stable")
        self._columns = ascending[values[ascending] > floor]
        self._write = write
        self.values = values[self._columns]

    def coordinates(self, rows):
        """Rows in the eigenbasis, (n_rows, len(values)), by ascending eigenvalue."""
        return self._write(rows)[:, self._columns]


class OutsideBasis:
    """The parts of rows outside a subspace, where H is only a ridge.

    Outside, all vectors of one ridge are eigenvectors. So each row may have its own basis there:
    the direction of the query, and the direction of the rest of the row. The norms of rows and
    their inner products with the query are the same in any basis.

    Parameters
    ----------
    ridge : ndarray of shape (n_columns,)
        Ridge on every column outside, 0 on columns that lie inside.
    inside : callable
        ``inside(rows)`` gives the parts inside, an array (n_rows, n_columns).
    query : Rows or None
        One row.
    """

    def __init__(self, ridge, inside, query):
        self._inside = inside
        self.values = np.repeat(np.unique(ridge[ridge > 0]), 2)
        self._masks = ridge == self.values[::2, None]
        self._directions = np.zeros_like(self._masks, dtype=np.float64)
        if query is not None:
            parts = self._rest(query) * self._masks
            size = np.linalg.norm(parts, axis=1, keepdims=True)
            np.divide(parts, size, out=self._directions, where=size > 0)

    def _rest(self, rows):
        return rows.toarray() - self._inside(rows)

    def coordinates(self, rows):
        """Two columns for each ridge, in the order of ``values``."""
        rest = self._rest(rows)
        columns = []
        for mask, direction in zip(self._masks, self._directions, strict=True):
            along = rest @ direction
            columns += [along, np.linalg.norm(rest * mask - along[:, None] * direction, axis=1)]
        return np.column_stack(columns) if columns else np.empty((len(rest), 0))


def eigenspaces(values):
    """Positions at which eigenspaces begin among ascending eigenvalues.

    Parameters
    ----------
    values : ndarray of shape (n_vectors,)
        Positive eigenvalues, ascending.

    Returns
    -------
    ndarray of int of shape (n_eigenspaces,)
    """
    rounding = len(values) * np.finfo(np.float64).eps * values[-1]
    new = np.diff(values) > np.maximum(EQUAL * values[1:], rounding)
    return np.flatnonzero(np.concatenate([[True], new]))
