"""F as a matrix that is written out, by Cholesky or by its eigenvectors.

H is factorised after its rows and columns are scaled to a unit diagonal. Cholesky would not mind
the units of the columns, but what counts as rounding, and so as rank, does.
"""

from copy import copy

import numpy as np
from scipy.linalg import LinAlgError, eigh, qr
from scipy.linalg.blas import dtrmm, dtrsm
from scipy.linalg.lapack import dlange, dpocon, dtrtri

from skinfluence._utils.arrays import with_fixed_signs
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._base import Curvature, leverages_by_whitening
from skinfluence.curvature._eigenbasis import Eigenbasis
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import DenseRows

# Above this relative error, what near collinearity leaves of double precision is worth a word.
TELLING_ERROR = 1e-6

# A factor of so many columns is inverted in no time.
SMALL = 1000


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
    describe : callable, default=None
        ``describe(coordinates)`` names coordinates in messages.
    """

    solver = "direct"
    is_direct = True

    def __init__(self, index, blocks, penalty, describe=None):
        self.index = index
        self.blocks = blocks
        self.penalty = penalty
        self.describe = describe or numbered
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
                factor_of(
                    block, self.penalty[index] + damping, lambda at, i=index: self.describe(i[at])
                )
                for index, block in zip(self.index, self.blocks, strict=True)
            ]
            self._factors = (damping, factors)
        return factors

    def plain(self, damping, n_rows):
        for factor in self._factorised(damping):
            factor.expect(n_rows)
        bare = copy(self)
        bare.describe = numbered
        return bare

    def solve(self, rows, damping):
        array, factors = rows.toarray(), self._factorised(damping)
        if self._is_one_block:
            out = factors[0].unwhiten(factors[0].whiten(array))
        else:
            out = np.empty_like(array)
            for index, factor in zip(self.index, factors, strict=True):
                out[:, index] = factor.unwhiten(factor.whiten(array[:, index]))
        return DenseRows(out, rows.rows_per_sample)

    def whiten(self, rows, damping):
        array, factors = rows.toarray(), self._factorised(damping)
        if self._is_one_block:
            return factors[0].whiten(array)
        pairs = zip(self.index, factors, strict=True)
        return np.concatenate([factor.whiten(array[:, i]) for i, factor in pairs], axis=1)

    @property
    def _is_one_block(self):
        """Whether the only block has all coordinates in their order, so that none are copied."""
        return len(self.index) == 1 and bool((np.diff(self.index[0]) == 1).all())

    def leverages(self, rows, damping):
        return leverages_by_whitening(self, rows, damping)

    def multiply(self, vectors, damping):
        out = vectors * (self.penalty + damping)
        for index, block in zip(self.index, self.blocks, strict=True):
            out[:, index] += vectors[:, index] @ block
        return out

    def averaged(self, other, share):
        if other.solver != self.solver:
            return None
        blocks = (1 - share) * self.blocks + share * other.blocks
        return DenseCurvature(self.index, blocks, self.penalty, self.describe)

    def effective_dimension(self, damping):
        # tr(F H^-1) = rank(H) - tr((penalty + damping) H^-1).
        total = 0.0
        for index, factor in zip(self.index, self._factorised(damping), strict=True):
            root = factor.whiten(np.eye(len(index)))
            ridge = self.penalty[index] + damping
            total += factor.rank - ridge @ np.einsum("ij,ij->i", root, root)
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

        floor = check_definite(values, damping)
        self._warn_of_lost_eigenvectors(values, floor, ridge)
        return Eigenbasis(values, floor, write)

    def _warn_of_lost_eigenvectors(self, values, floor, ridge):
        """Warn of eigenvalues that are 0 in these units, but not with a unit diagonal."""
        lost = int((values <= floor).sum())
        if lost:
            for index, block in zip(self.index, self.blocks, strict=True):
                scaled, _ = _unit_diagonal(block + np.diag(ridge[index]))
                own = eigh(scaled, eigvals_only=True)
                lost -= int((own <= _rounding(len(own)) * own[-1]).sum())
        if lost > 0:
            warn_user(
                f"In the model's own units the curvature has eigenvalues from {values.min():.3g} "
                f"to {values.max():.3g}, and {lost} of its eigenvectors are lost in rounding. "
                "Scale the features, for example by StandardScaler in a Pipeline.",
                NumericalWarning,
            )


class _CholeskyFactor:
    """``H^{-1} = D L^{-T} L^{-1} D`` for ``D H D = L L'``.

    Products with the inverse are twice as fast as substitutions, and what they lose is of the size
    of the rounding of H. A large factor is inverted once enough rows have come to pay for it.
    """

    def __init__(self, lower, scale):
        # L' in the order of LAPACK, or its inverse: a pair, so that no thread sees half a change.
        self._known = lower.T, False
        self._n_rows = 0
        self.scale = scale
        # A coordinate without curvature has the scale 0.
        self.rank = int(np.count_nonzero(scale))
        self.expect(0)

    def expect(self, n_rows):
        """Prepare for so many rows more."""
        self._n_rows += n_rows
        (upper, is_inverse), size = self._known, len(self.scale)
        if not is_inverse and (size <= SMALL or 3 * self._n_rows > size):
            # In memory of its own, since another thread may read the factor.
            self._known = dtrtri(upper, lower=0)[0], True

    def whiten(self, array):
        self.expect(len(array))
        return self._times((array * self.scale).T, trans_a=1, overwrite_b=1)

    def unwhiten(self, white):
        self.expect(len(white))
        solved = self._times(white.T)
        solved *= self.scale
        return solved

    def _times(self, columns, **settings):
        """The transpose of ``L^{-T}`` times columns, or with ``trans_a`` of ``L^{-1}``."""
        matrix, is_inverse = self._known
        return (dtrmm if is_inverse else dtrsm)(1.0, matrix, columns, **settings).T


class _SpectralFactor:
    """The pseudo-inverse ``H^+ = R R'``, from the spectrum of ``D H D``."""

    def __init__(self, values, vectors, null, scale):
        root = scale[:, None] * (vectors / np.sqrt(values))
        # P H^- P with any inverse H^- on the range, and P the projector on it, is H^+.
        basis = _graded_basis(scale[:, None] * null)
        self.root = root - basis @ (basis.T @ root)
        self.rank = len(values)

    def expect(self, n_rows):
        """The root serves any number of rows."""

    def whiten(self, array):
        return array @ self.root

    def unwhiten(self, white):
        return white @ self.root.T


def _graded_basis(vectors):
    """Orthonormal basis of the span of columns, each row with digits of its own.

    Householder reflections with pivots have an error relative to each row if the largest rows
    come first.
    """
    order = np.argsort(-np.abs(vectors).max(axis=1, initial=0.0), kind="stable")
    basis = np.empty_like(vectors)
    basis[order] = qr(vectors[order], mode="economic", pivoting=True)[0]
    return basis


def numbered(coordinates):
    """Coordinates by their numbers."""
    return "coordinates " + ", ".join(map(str, coordinates))


def factor_of(block, ridge, describe=numbered):
    """Factor of ``block + diag(ridge)``, on its range where that is singular.

    Parameters
    ----------
    block : ndarray of shape (size, size)
        Symmetric matrix.
    ridge : ndarray of shape (size,)
        What is added to its diagonal.
    describe : callable
        Names coordinates in messages.
    """
    matrix = block.copy()
    matrix[np.diag_indices_from(matrix)] += ridge
    scaled, scale = _unit_diagonal(matrix)
    curved = scale > 0
    if matrix[~curved].any():
        # The matrix is indefinite, which its eigenvalues say.
        check_definite(eigh(matrix, eigvals_only=True), 0.0)
    try:
        # NumPy's, like the products around it: two BLAS libraries that take turns wait for
        # each other's threads.
        lower = np.linalg.cholesky(scaled)
    except LinAlgError:
        return _spectral_factor(matrix, scaled, scale, describe)
    if not curved.all():
        _warn_of_collinearity(np.diag(1.0 * ~curved), describe, "as if they were left out")
    # Transposes are in the order of LAPACK, and are not copied.
    rcond, _ = dpocon(lower.T, dlange("1", scaled.T), uplo="U")
    if rcond <= _rounding(len(scaled)):
        return _spectral_factor(matrix, scaled, scale, describe)
    if curved.any() and np.finfo(np.float64).eps / rcond > TELLING_ERROR:
        values, vectors = eigh(scaled, subset_by_index=(0, 0))
        _warn_of_collinearity(
            vectors, describe, f"to a relative error of about {1e-16 / rcond:.0e}"
        )
    return _CholeskyFactor(lower, scale)


def _unit_diagonal(matrix):
    """The matrix scaled to a unit diagonal, and the scale of its rows and columns."""
    diagonal = np.diag(matrix)
    curved = diagonal > 0
    scale = np.divide(1.0, np.sqrt(np.abs(diagonal)), out=np.zeros_like(diagonal), where=curved)
    scaled = matrix * scale
    scaled *= scale[:, None]
    # A coordinate without curvature gets one that its scale of 0 hides.
    scaled[~curved, ~curved] = 1.0
    return scaled, scale


def _rounding(size):
    """Relative size of eigenvalues that rounding alone may leave of 0."""
    return 16 * max(size, 32) * np.finfo(np.float64).eps


def _spectral_factor(matrix, scaled, scale, describe):
    values, vectors = eigh(scaled)
    flat = scale == 0
    if flat.all():
        check_definite(values * 0.0, 0.0)
    tolerance = _rounding(len(values)) * values[-1]
    if values[0] < -np.sqrt(tolerance):
        check_definite(eigh(matrix, eigvals_only=True), 0.0)
    null = values <= tolerance
    _warn_of_collinearity(
        vectors[:, null], describe, "on what the others span, by the pseudo-inverse"
    )
    # Vectors of coordinates without curvature are units along them, which the scale takes out.
    kept = ~null & (np.abs(vectors[~flat]).sum(axis=0) > 0)
    vectors = with_fixed_signs(vectors)
    return _SpectralFactor(values[kept], vectors[:, kept], vectors[:, null], scale)


def _warn_of_collinearity(null_vectors, describe, consequence):
    """Name the coordinates that take part in directions without curvature."""
    size = np.abs(null_vectors).max(axis=1, initial=0.0)
    named = np.flatnonzero(size > 0.05 * size.max(initial=0.0))
    names = describe(named[:8]) if len(named) else ""
    if not names:
        return
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    warn_user(
        f"The data cannot tell these apart: {names}{more}. One is a combination of "
        f"the others up to rounding, or never changes. Influence is taken {consequence}. Leave "
        "some of them out, give the model a penalty, or use damping > 0.",
        NumericalWarning,
    )


def check_positive(values, damping):
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
    return check_positive(values, damping)
