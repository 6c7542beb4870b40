"""The base class of all sketches, and the identity."""

from abc import ABC, abstractmethod

import numpy as np
import scipy.sparse as sp

from skinfluence.rows import DenseRows, KroneckerRows, Rows


class Sketch(ABC):
    """A matrix P of shape (size, n_columns), used through its products.

    Need to be defined: ``_project``, ``_lift``. Should be overridden for efficiency:
    ``_project_rows``, ``_project_tensor``.

    Parameters
    ----------
    n_columns : int
        Columns of the rows that are sketched.
    size : int
        Rows of P: numbers that are stored for each row.
    seed : int, default=0
        Determines P.
    """

    # Whether the rows of P are orthonormal.
    is_basis = False

    # Whether P itself is stored.
    is_written_out = False

    # Whether P is the identity.
    is_identity = False

    # NumPy would otherwise take ``array @ sketch`` for a product of two arrays.
    __array_ufunc__ = None

    def __init__(self, n_columns, size, seed=0):
        self.n_columns = int(n_columns)
        self.size = int(size)
        self.seed = seed

    @classmethod
    def draw(cls, data, size, seed=0, **options):
        """Draw a sketch of this kind for given rows.

        Parameters
        ----------
        data : {ndarray, CSR matrix, Rows} of shape (n_rows, n_columns)
            Rows whose curvature the sketch should preserve. A random sketch reads only their
            shape.
        size : int
            Rows of P.
        seed : int, default=0
            Determines P.
        **options
            Options of the kind.

        Returns
        -------
        Sketch
        """
        return cls(data.shape[1], size, seed, **options)

    @property
    def factors(self):
        """Sketch of the outputs, None where they are not sketched, and of the features."""
        return None, self

    @property
    def orthogonal_share(self):
        """Share of the rows of an orthogonal matrix that P has, 0 for independent rows."""
        return 0.0

    @abstractmethod
    def _project(self, array):
        """``array @ P'`` for an ndarray or CSR matrix."""

    @abstractmethod
    def _lift(self, array):
        """``array @ P`` for an ndarray."""

    def lift(self, array):
        """Products ``array @ P``, back among the original columns.

        Parameters
        ----------
        array : ndarray of shape (n, size)
            Rows in sketched coordinates.

        Returns
        -------
        ndarray of shape (n, n_columns)
            The rows in the span of the rows of P.
        """
        return self._lift(array)

    def toarray(self):
        """Write out P.

        Returns
        -------
        ndarray of shape (size, n_columns)
            The matrix that the sketch stands for.
        """
        return self.lift(np.eye(self.size))

    def __rmatmul__(self, rows):
        if rows.shape[1] != self.n_columns:
            raise ValueError(
                f"The sketch takes rows with {self.n_columns} columns. Got rows with "
                f"{rows.shape[1]} columns instead."
            )
        if isinstance(rows, Rows):
            return self._project_rows(rows)
        if hasattr(rows, "new_tensor"):
            return self._project_tensor(rows)
        return self._project(rows.tocsr() if sp.issparse(rows) else rows)

    def _project_rows(self, rows):
        parts = [np.empty((0, self.size))]
        parts += [_array(piece @ self) for piece in rows.pieces()]
        return DenseRows(np.concatenate(parts), rows.rows_per_sample)

    def _project_tensor(self, tensor):
        return tensor @ tensor.new_tensor(self.toarray().T)


class IdentitySketch(Sketch):
    """Nothing is projected away: P is the identity.

    Parameters
    ----------
    n_columns : int
        Columns of the rows.
    size : int, default=None
        Ignored: the identity has all columns.
    seed : int, default=0
        Ignored.
    """

    is_basis = True
    is_identity = True

    def __init__(self, n_columns, size=None, seed=0):
        super().__init__(n_columns, n_columns, seed)

    def _project(self, array):
        return array.toarray() if sp.issparse(array) else array

    def _project_rows(self, rows):
        return rows

    def _project_tensor(self, tensor):
        return tensor

    def _lift(self, array):
        return array


def stream(seed, index):
    """Generator of one part of a sketch."""
    # A seed alone would give the very numbers that users draw their data from, and so would
    # [seed, 0], since NumPy takes [0, 0] for 0.
    return np.random.default_rng([0x736B6574, seed, index])


def floating(array):
    """Single precision for arrays that have it, else double precision."""
    return np.float32 if array.dtype == np.float32 else np.float64


def as_rows(data):
    """Rows from an array, a CSR matrix or rows."""
    if isinstance(data, Rows):
        return data
    if sp.issparse(data):
        return KroneckerRows(np.ones((data.shape[0], 1, 1)), data)
    return DenseRows(data)


def _array(product):
    """A product on the CPU, as an array."""
    return product.cpu().numpy() if hasattr(product, "cpu") else product
