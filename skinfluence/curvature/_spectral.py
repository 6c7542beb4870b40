"""F as a matrix that is written out, by its eigenvectors."""

import numpy as np
from scipy.linalg import eigh

from skinfluence._utils.arrays import with_fixed_signs
from skinfluence.curvature._base import Curvature, leverages_by_whitening
from skinfluence.curvature._dense import check_definite, check_positive
from skinfluence.curvature._eigenbasis import Eigenbasis
from skinfluence.rows import DenseRows


class SpectralCurvature(Curvature):
    """F as one dense matrix, by an eigendecomposition that serves every damping.

    Directions whose eigenvalue is 0 up to rounding are left out: the pseudo-inverse, exact for
    gradients in the range of F.

    Parameters
    ----------
    moment : ndarray of shape (n_coordinates, n_coordinates)
        F.
    penalty : ndarray of shape (n_coordinates,) or (n_coordinates, n_coordinates)
        Penalty on every coordinate, or a matrix of penalties.
    """

    def __init__(self, moment, penalty):
        # The driver whose eigenvectors are orthogonal to machine precision.
        if penalty.ndim == 1:
            self.values, vectors = eigh(moment + np.diag(penalty), driver="evd")
            of_penalty = penalty @ vectors**2
        else:
            self.values, vectors = eigh(moment + penalty, driver="evd")
            of_penalty = np.einsum("ij,ij->j", vectors, penalty @ vectors)
        self.vectors = with_fixed_signs(vectors)
        # What F, not the penalty, has in each direction.
        self._of_data = np.clip(self.values - of_penalty, 0, None)

    def _kept(self, damping):
        """Eigenvalues of H that are not 0, and which they are."""
        values = self.values + damping
        kept = values > check_positive(values, damping)
        return values[kept], kept

    def solve(self, rows, damping):
        values, kept = self._kept(damping)
        basis = self.vectors[:, kept]
        inside = rows @ basis
        return DenseRows((inside / values) @ basis.T, rows.rows_per_sample)

    def whiten(self, rows, damping):
        values, kept = self._kept(damping)
        # A direction that is left out keeps its column, so that their number is fixed.
        root = np.zeros_like(self.vectors)
        root[:, kept] = self.vectors[:, kept] / np.sqrt(values)
        return rows @ root

    def leverages(self, rows, damping):
        return leverages_by_whitening(self, rows, damping)

    def effective_dimension(self, damping):
        values, kept = self._kept(damping)
        return float(np.sum(self._of_data[kept] / values))

    def eigenbasis(self, damping, query=None):
        values = self.values + damping
        floor = check_definite(values, damping)
        return Eigenbasis(values, floor, lambda rows: rows @ self.vectors)

    def symmetric_root(self, rows, damping):
        """Array ``rows H^{-1/2}`` in the coordinates of the rows themselves."""
        return self.whiten(rows, damping) @ self.vectors.T

    def product(self, vectors, damping):
        """Products of H with vectors (m, n_coordinates)."""
        inside = vectors @ self.vectors
        return (inside * (self.values + damping)) @ self.vectors.T
