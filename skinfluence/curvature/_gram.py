"""F by the inner products of its rows.

With ``F = C'C``, positive ``ridge = penalty + damping`` on the columns of C, and ``V = C
ridge^{-1/2} = U S W'``,

    (I + V'V)^{-1} = I - V'(I + VV')^{-1} V                  Woodbury, by Cholesky
                   = W (1 + S^2)^{-1} W' + (I - WW')          by the spectrum of VV'

The first is a difference, and loses as many digits as ``I + VV'`` has in its condition number.
Where that matters the second takes its place: the rows of W are never written out, and ``I - WW'``
is 0 for rows in their span, as gradients of training rows are. Columns without a ridge, such as
unpenalised intercepts, are eliminated by their Schur complement.
"""

from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular
from scipy.linalg.lapack import dlange, dpocon

from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._base import Curvature
from skinfluence.curvature._dense import (
    TELLING_ERROR,
    DenseCurvature,
    check_definite,
    factor_of,
    numbered,
)
from skinfluence.curvature._eigenbasis import Eigenbasis, OutsideBasis
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import CombinedRows, DenseRows, Rows

EPS = np.finfo(np.float64).eps

# Relative error that a difference may have.
ACCURATE = 1e-10

# Up to so many columns, F may be written out where its rows are too uneven.
WRITTEN_OUT = 4096

# Share of the squared length of a row outside a span that is rounding.
OUTSIDE = 1e-7


class GramCurvature(Curvature):
    """F by the inner products of its factor rows, for fewer rows than parameters.

    Parameters
    ----------
    rows : Rows
        Factor rows of the curvature.
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty.
    describe : callable, default=None
        ``describe(coordinates)`` names coordinates in messages.
    """

    solver = "gram"
    is_direct = True

    def __init__(self, rows, penalty, describe=None):
        self.rows = rows
        self.penalty = penalty
        self.describe = describe or numbered
        self._state = (None, None)

    def _factorised(self, damping):
        if self._state[0] != damping:
            ridge = self.penalty + damping
            self._state = (damping, self._solver(ridge, damping))
        return self._state[1]

    def _solver(self, ridge, damping):
        """What solves rows without a loss of digits."""
        gram = _cholesky_or_none(self.rows, ridge)
        if gram is not None:
            return _Bordered(gram, ridge, self.describe)
        gram = _SpectralGram(self.rows, ridge)
        if gram.error <= TELLING_ERROR and not _loses_columns(self.rows, ridge):
            return _Bordered(gram, ridge, self.describe)
        if len(ridge) <= WRITTEN_OUT:
            # A matrix of columns can be scaled, one of rows cannot.
            return _WrittenOut(self._written_out, damping)
        warn_user(
            "The columns of the gradients differ so much in scale that their inner products are "
            f"known to a relative error of about {gram.error:.0e} only. Scale the features, for "
            "example by StandardScaler in a Pipeline, or use damping > 0.",
            NumericalWarning,
        )
        return _Bordered(gram, ridge, self.describe)

    def solve(self, rows, damping):
        return self._factorised(damping).solve(rows)

    def whiten(self, rows, damping):
        # The embedding has as many columns as H, so H may as well be written out.
        return self._written_out.whiten(rows, damping)

    @cached_property
    def _written_out(self):
        moment = self.rows.moment()
        index = np.arange(len(moment))[None]
        return DenseCurvature(index, moment[None], self.penalty, self.describe)

    def eigenbasis(self, damping, query=None):
        ridge = self.penalty + damping
        unpenalised, ridge_values = np.flatnonzero(ridge <= 0), np.unique(ridge[ridge > 0])
        if len(ridge_values) > 1 or len(unpenalised) + self.rows.shape[0] >= len(ridge):
            return self._written_out.eigenbasis(damping, query)
        # Away from its factor rows and unpenalised coordinates, H is a multiple of the identity.
        spanned = np.concatenate([_unit_rows(unpenalised, len(ridge)), self.rows.toarray()])
        basis = np.linalg.qr(spanned.T)[0]
        inside = self.rows @ basis
        values, vectors = eigh(inside.T @ inside + basis.T @ (ridge[:, None] * basis))
        basis = basis @ vectors
        outside = OutsideBasis(ridge, lambda rows: (rows @ basis) @ basis.T, query)
        return Eigenbasis(
            np.concatenate([values, outside.values]),
            check_definite(values, damping),
            lambda rows: np.hstack([rows @ basis, outside.coordinates(rows)]),
        )

    def effective_dimension(self, damping):
        # tr(F H^-1) is the sum of the leverages of the factor rows.
        return float(np.einsum("iss->", self.leverages(self.rows, damping)))


class _WrittenOut:
    """H as a matrix, at one damping."""

    def __init__(self, curvature, damping):
        self.curvature = curvature
        self.damping = damping

    def solve(self, rows):
        return self.curvature.solve(rows, self.damping)


def _cholesky_or_none(rows, ridge):
    """The inverse by Cholesky, None if it loses digits."""
    try:
        gram = _CholeskyGram(rows, ridge)
    except LinAlgError:
        # The 1 of I + VV' is below the rounding of VV'.
        return None
    return gram if EPS / gram.rcond <= ACCURATE else None


def _loses_columns(rows, ridge):
    """Whether the largest columns of V drown others that count beside their ridge."""
    squares = rows.column_squares() * _inverse(ridge)
    drowned = squares < EPS / ACCURATE * squares.max(initial=0.0)
    return bool((drowned & (squares > ACCURATE)).any())


class _CholeskyGram:
    """``(C'C + ridge)^{-1}`` on the columns with a ridge, by the Cholesky factor of I + VV'."""

    def __init__(self, rows, ridge):
        self.rows = rows
        self.inverse = _inverse(ridge)
        scaled = rows.rescaled(np.sqrt(self.inverse))
        gram = scaled.inner(scaled)
        gram[np.diag_indices_from(gram)] += 1.0
        norm = dlange("1", gram.T)
        # LAPACK works in place only on columns, and the matrix is its own transpose.
        self.lower = cholesky(gram.T, lower=True, overwrite_a=True)
        self.rcond = dpocon(self.lower, norm, uplo="L")[0]
        self._lifted = rows.rescaled(self.inverse)

    def half(self, right):
        """``M^{-1/2} right`` for ``M = I + VV'``: products of these are those with M^{-1}."""
        return solve_triangular(self.lower, right, lower=True)

    def project(self, rows):
        """What `solved` and the border need of rows: here rescaled rows, and ``M^{-1/2} V v``."""
        base = rows.rescaled(self.inverse)
        return base, self.half(self.rows.inner(base))

    def solved(self, base, white, border=0.0):
        """Solved rows, less ``ridge^{-1/2} V' M^{-1/2} border``."""
        back = solve_triangular(self.lower, white + border, lower=True, trans=1).T
        return CombinedRows(base, -back, self._lifted)


class _SpectralGram:
    """The same by the spectrum of VV', without a difference of large numbers."""

    def __init__(self, rows, ridge):
        self.rows = rows
        self.inverse = _inverse(ridge)
        scaled = rows.rescaled(np.sqrt(self.inverse))
        values, self.vectors = eigh(scaled.inner(scaled))
        kept = values > 16 * max(len(values), 32) * EPS * values[-1]
        values = np.where(kept, values, 0.0)
        self.root = np.sqrt(1.0 + values)
        self.span = _SpanRows(rows, self.inverse, self.vectors[:, kept], np.sqrt(values[kept]))
        self._kept = kept
        # What the rounding of the largest eigenvalue does to the smallest.
        self.error = EPS * values[-1] / (1.0 + values[kept].min(initial=values[-1]))

    def half(self, right):
        return (self.vectors.T @ right) / self.root[:, None]

    def project(self, rows):
        base = rows.rescaled(self.inverse)
        along = self.span.from_inner(self.rows.inner(base))
        # V = U S W' has nothing in other directions, but for the rounding of large numbers.
        white = np.zeros((len(self.root), along.shape[1]))
        white[self._kept] = along * (self.span.size / self.root[self._kept])[:, None]
        return _Split(rows, base, along, self.inverse), white

    def solved(self, split, white, border=0.0):
        del white
        size, root = self.span.size[:, None], self.root[self._kept, None]
        border = border if np.isscalar(border) else border[self._kept]
        coefficients = (split.along / root - size * border) / root
        coefficients[:, split.is_outside] -= split.along[:, split.is_outside]
        return CombinedRows(split.outside, coefficients.T, self.span)


class _Split:
    """Rows as what they are along a span, and what those that leave it are themselves."""

    def __init__(self, rows, base, along, inverse):
        self.along = along
        length = rows.rescaled(np.sqrt(inverse)).squared_norms()
        left = length - np.einsum("kq,kq->q", along, along)
        self.is_outside = left > OUTSIDE * length
        self.outside = base.masked(self.is_outside)


class _SpanRows(Rows):
    """Rows ``W' ridge^{-1/2}`` of the right singular vectors of V, known by V alone."""

    def __init__(self, rows, inverse, vectors, size):
        self.rows = rows
        self.inverse = inverse
        self.vectors = vectors
        self.size = size

    n_samples = property(lambda self: len(self.size))
    n_columns = property(lambda self: self.rows.n_columns)

    def __getitem__(self, samples):
        return DenseRows(self.toarray()[samples])

    def toarray(self):
        return np.eye(len(self.size)) @ self

    def __rmatmul__(self, matrix):
        back = (matrix / self.size) @ self.vectors.T
        return (back @ self.rows) * self.inverse

    def from_inner(self, inner):
        """Coordinates along W from the inner products of C with rescaled rows."""
        return (self.vectors.T @ inner) / self.size[:, None]

    def inner(self, other, out=None):
        product = self.from_inner(self.rows.inner(other.rescaled(self.inverse)))
        if out is None:
            return product
        out[...] = product
        return out


class _Bordered:
    """The inverse with the columns that have no ridge, by their Schur complement."""

    def __init__(self, gram, ridge, describe):
        self.gram = gram
        self.unpenalised = np.flatnonzero(ridge <= 0)
        if len(self.unpenalised):
            self.edge = gram.half(gram.rows.columns(self.unpenalised))
            corner = self.edge.T @ self.edge
            own = np.zeros(len(corner))
            self.schur = factor_of(corner, own, lambda at: describe(self.unpenalised[at]))

    def solve(self, rows):
        base, white = self.gram.project(rows)
        if not len(self.unpenalised):
            return self.gram.solved(base, white)
        gap = rows.columns(self.unpenalised) - white.T @ self.edge
        on_unpenalised = self.schur.unwhiten(self.schur.whiten(gap))
        solution = self.gram.solved(base, white, self.edge @ on_unpenalised.T)
        units = DenseRows(_unit_rows(self.unpenalised, rows.n_columns))
        return CombinedRows(solution, on_unpenalised, units)


def _inverse(ridge):
    return np.divide(1.0, ridge, out=np.zeros_like(ridge), where=ridge > 0)


def _unit_rows(index, n_columns):
    rows = np.zeros((len(index), n_columns))
    rows[np.arange(len(index)), index] = 1.0
    return rows
