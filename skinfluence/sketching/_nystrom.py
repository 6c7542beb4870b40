"""The sketch whose rows span most of the data."""

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cholesky, solve_triangular

from skinfluence.sketching._base import Sketch, as_rows, floating, stream


class NystromSketch(Sketch):
    """Orthonormal rows that capture the range of given data.

    P = Q', where the columns of Q approximate the leading right singular vectors of
    the data, found by a randomised range finder with power iterations [1]_. Unlike for a
    random sketch, E[P'P] is not the identity but a projection.

    Parameters
    ----------
    basis : ndarray of shape (n_columns, size)
        Q, with orthonormal columns.
    seed : int, default=0
        Seed that drew the test vectors of Q.

    See Also
    --------
    NystromSketch.draw : Finds the basis.

    References
    ----------
    .. [1] Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review
       53(2), 2011.
    """

    is_basis = True
    is_written_out = True

    def __init__(self, basis, seed=0):
        super().__init__(*basis.shape, seed)
        self.basis = basis

    @classmethod
    def draw(cls, data, size, seed=0, *, oversampling=10, n_power_iterations=2):
        """Find a basis for the range of the Gram matrix of given rows.

        Parameters
        ----------
        data : {ndarray, CSR matrix, Rows} of shape (n_rows, n_columns)
            Rows whose Gram matrix ``data' data`` the sketch should preserve.
        size : int
            Columns of the basis, at most ``n_columns``.
        seed : int, default=0
            Draws the test vectors.
        oversampling : int, default=10
            Additional test vectors; only the best combinations of all of them enter Q.
        n_power_iterations : int, default=2
            Additional passes over the data, each of which sharpens a slow decay.

        Returns
        -------
        NystromSketch
        """
        data = as_rows(data).condensed()
        n_rows, n_columns = data.shape
        width = min(size + oversampling, n_columns)
        rng = stream(seed, 0)
        if width <= n_rows < n_columns:
            # Test vectors of length n_rows cost less, and one more pass maps them to the columns.
            test = rng.standard_normal((n_rows, width))
            for _ in range(n_power_iterations + 1):
                test = np.linalg.qr(np.asarray(data @ _adjoint(data, test)))[0]
            return cls(_leading(_adjoint(data, test), size), seed)
        basis = np.linalg.qr(rng.standard_normal((n_columns, width)))[0]
        for _ in range(n_power_iterations):
            basis = np.linalg.qr(_adjoint(data, np.asarray(data @ basis)))[0]
        image = _adjoint(data, np.asarray(data @ basis))
        # The leading left singular vectors of G Q approximate the leading eigenvectors of
        # the Gram matrix G, without another pass over the data.
        return cls(_leading_by_svd(image, size), seed)

    @classmethod
    def of_gram(cls, gram, seed=0):
        """All eigenvectors of a Gram matrix, those of the largest eigenvalues first.

        Parameters
        ----------
        gram : ndarray of shape (n_columns, n_columns)
            Gram matrix ``data' data``.
        seed : int, default=0
            Kept as the attribute; nothing is drawn.

        Returns
        -------
        NystromSketch
        """
        return cls(np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1]), seed)

    def leading(self, size):
        """The sketch with only the leading directions.

        Parameters
        ----------
        size : int
            Number of directions.

        Returns
        -------
        NystromSketch
            A sketch of the first directions.
        """
        return NystromSketch(np.ascontiguousarray(self.basis[:, :size]), self.seed)

    def _project(self, array):
        basis = self.basis.astype(floating(array), copy=False)
        return np.asarray(array @ basis)

    def _lift(self, array):
        return array @ self.basis.T


def _adjoint(data, matrix):
    """``data' matrix`` as an array (n_columns, w)."""
    if sp.issparse(data):
        return np.asarray(data.T @ matrix)
    return np.ascontiguousarray((np.ascontiguousarray(matrix.T) @ data).T)


def _leading_by_svd(image, size):
    left = np.linalg.svd(image, full_matrices=False)[0]
    return np.ascontiguousarray(left[:, :size])


def _leading(image, size):
    """Leading left singular vectors, by the small Gram matrix where that is safe."""
    values, vectors = np.linalg.eigh(image.T @ image)
    values, vectors = values[::-1][:size], vectors[:, ::-1][:, :size]
    if not values[-1] > 1e-8 * values[0]:
        return _leading_by_svd(image, size)
    basis = image @ (vectors / np.sqrt(values))
    # A second pass, in place, removes the non-orthogonality that rounding has left.
    lower = cholesky(basis.T @ basis, lower=True)
    return solve_triangular(lower, basis.T, lower=True, overwrite_b=True, check_finite=False).T
