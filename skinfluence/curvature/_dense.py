"""F as a matrix that is written out, by Cholesky or by its eigenvectors."""

import numpy as np
from scipy.linalg import LinAlgError, eigh, solve_triangular
from scipy.linalg.lapack import dpocon

from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._base import Curvature, leverages_by_whitening
from skinfluence.curvature._eigenbasis import Eigenbasis
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import DenseRows


class DenseCurvature(Curvature):
    """F as independent dense blocks, solved by Cholesky.

    A singular block is inverted on its range only, with a warning: exact for gradients in the
    range of F.

    Parameters
    ----------
    index : ndarray of shape (n_blocks, size)
        Coordinates of the blocks.
    blocks : ndarray of shape (n_blocks, size, size)
        F on these coordinates.
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty.
    """

    def __init__(self, index, blocks, penalty):
        self.index = index
        self.blocks = blocks
        self.penalty = penalty
        self._factors = (None, None)

    def matrix(self, damping):
        """H itself, (n_coordinates, n_coordinates)."""
        full = np.diag(self.penalty + damping)
        for index, block in zip(self.index, self.blocks, strict=True):
            full[np.ix_(index, index)] += block
        return full

    def _factorised(self, damping):
        known, factors = self._factors
        if known != damping:
            factors = [
                factor_of(block, self.penalty[index] + damping, damping)
                for index, block in zip(self.index, self.blocks, strict=True)
            ]
            self._factors = (damping, factors)
        return factors

    def solve(self, rows, damping):
        array = rows.toarray()
        out = np.empty_like(array)
        for index, factor in zip(self.index, self._factorised(damping), strict=True):
            out[:, index] = factor.unwhiten(factor.whiten(array[:, index]))
        return DenseRows(out, rows.rows_per_sample)

    def whiten(self, rows, damping):
        array = rows.toarray()
        pairs = zip(self.index, self._factorised(damping), strict=True)
        return np.concatenate([factor.whiten(array[:, i]) for i, factor in pairs], axis=1)

    def leverages(self, rows, damping):
        return leverages_by_whitening(self, rows, damping)

    def averaged(self, other):
        if not isinstance(other, DenseCurvature):
            return None
        return DenseCurvature(self.index, (self.blocks + other.blocks) / 2, self.penalty)

    def effective_dimension(self, damping):
        # tr(F H^-1) = rank(H) - tr((penalty + damping) H^-1).
        total = 0.0
        for index, factor in zip(self.index, self._factorised(damping), strict=True):
            root = factor.whiten(np.eye(len(index)))
            ridge = self.penalty[index] + damping
            total += root.shape[1] - ridge @ np.einsum("ij,ij->i", root, root)
        return float(total)

    def eigenbasis(self, damping, query=None):
        ridge = self.penalty + damping
        pairs = zip(self.index, self.blocks, strict=True)
        spectra = [eigh(block + np.diag(ridge[index])) for index, block in pairs]
        values = np.concatenate([values for values, _ in spectra])

        def write(rows):
            array = rows.toarray()
            pairs = zip(self.index, spectra, strict=True)
            return np.concatenate([array[:, index] @ v for index, (_, v) in pairs], axis=1)

        return Eigenbasis(values, check_definite(values, damping), write)


class _CholeskyFactor:
    """``H^{-1} = L^{-T} L^{-1}``."""

    def __init__(self, lower):
        self.lower = lower

    def whiten(self, array):
        return solve_triangular(self.lower, array.T, lower=True, check_finite=False).T

    def unwhiten(self, white):
        return solve_triangular(self.lower, white.T, lower=True, trans=1, check_finite=False).T


class _SpectralFactor:
    """``H^+ = R R'`` with ``R = Q diag(values)^{-1/2}`` on the range."""

    def __init__(self, values, vectors):
        self.root = vectors / np.sqrt(values)

    def whiten(self, array):
        return array @ self.root

    def unwhiten(self, white):
        return white @ self.root.T


def factor_of(block, ridge, damping):
    matrix = block + np.diag(ridge)
    try:
        # NumPy's, like the products around it: two BLAS libraries that take turns wait for
        # each other's threads.
        lower = np.linalg.cholesky(matrix)
    except LinAlgError:
        lower = None
    tolerance = len(matrix) * np.finfo(np.float64).eps
    if lower is not None:
        norm = np.abs(matrix).sum(axis=0).max()
        rcond, _ = dpocon(lower, norm, uplo="L")
        if rcond > tolerance:
            return _CholeskyFactor(lower)
    return _spectral_factor(matrix, damping)


def _check_positive(values, damping):
    """Size up to which eigenvalues count as 0, where none of them is negative."""
    tolerance = len(values) * np.finfo(np.float64).eps
    smallest, largest = values.min(initial=0), np.abs(values).max(initial=0)
    if smallest < -np.sqrt(tolerance) * largest:
        raise LinAlgError(
            f"The curvature has the negative eigenvalue {smallest:.3g} at damping={damping:g}: "
            "the model is not at a minimum. Expected a positive definite curvature; raise "
            f"damping above {damping - smallest:.3g}, or use curvature='ggn'."
        )
    return tolerance * largest


def check_definite(values, damping):
    """Size up to which eigenvalues count as 0, where they are those of a curvature."""
    if not values.any():
        raise LinAlgError(
            f"The curvature is zero at damping={damping:g}: the model is saturated or the "
            "features are all zero. Expected a positive curvature; use damping > 0."
        )
    return _check_positive(values, damping)


def _spectral_factor(matrix, damping):
    values, vectors = eigh(matrix)
    kept = values > check_definite(values, damping)
    warn_user(
        f"The curvature is singular at damping={damping:g}: rank {kept.sum()} of {len(kept)}, "
        f"eigenvalues from {values[0]:.3g} to {values[-1]:.3g}. Influence is taken on its range "
        "(pseudo-inverse). Use damping > 0, or give the model a penalty.",
        NumericalWarning,
    )
    return _SpectralFactor(values[kept], vectors[:, kept])


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
        ridge = np.diag(penalty) if penalty.ndim == 1 else penalty
        # The driver whose eigenvectors are orthogonal to machine precision.
        self.values, self.vectors = eigh(moment + ridge, driver="evd")
        # What F, not the penalty, has in each direction.
        bent = np.einsum("ij,ij->j", self.vectors, ridge @ self.vectors)
        self._of_data = np.clip(self.values - bent, 0, None)

    def _kept(self, damping):
        """Eigenvalues of H that are not 0, and which they are."""
        values = self.values + damping
        kept = values > _check_positive(values, damping)
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
