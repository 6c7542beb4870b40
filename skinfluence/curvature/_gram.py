"""F by the inner products of its rows."""

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular

from skinfluence.curvature._base import Curvature
from skinfluence.curvature._dense import DenseCurvature, check_definite, factor_of
from skinfluence.curvature._eigenbasis import Eigenbasis, OutsideBasis
from skinfluence.rows import CombinedRows, DenseRows


class GramCurvature(Curvature):
    """F by the inner products of its factor rows, for fewer rows than parameters.

    With ``F = C'C`` and positive ``ridge = penalty + damping`` on the columns of ``C``, and
    ``V = C ridge^{-1/2}``, Woodbury gives ``H^{-1} = ridge^{-1/2} (I - V'(I + V V')^{-1} V)
    ridge^{-1/2}``. Columns without a ridge, such as unpenalised intercepts, are eliminated by
    their Schur complement.

    Parameters
    ----------
    rows : Rows
        Factor rows of the curvature.
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty.
    """

    def __init__(self, rows, penalty):
        self.rows = rows
        self.penalty = penalty
        self._state = (None, None)

    def _factorised(self, damping):
        if self._state[0] != damping:
            self._state = (damping, self._factorise(self.penalty + damping))
        return self._state[1]

    def _factorise(self, ridge):
        unpenalised = np.flatnonzero(ridge <= 0)
        inverse = np.divide(1.0, ridge, out=np.zeros_like(ridge), where=ridge > 0)
        scaled = self.rows.rescaled(np.sqrt(inverse))
        gram = scaled.inner(scaled)
        gram[np.diag_indices_from(gram)] += 1.0
        # LAPACK works in place only on columns, and the matrix is its own transpose.
        lower = cholesky(gram.T, lower=True, overwrite_a=True)
        edge = self.rows.columns(unpenalised)
        white = solve_triangular(lower, edge, lower=True)
        schur = (
            factor_of(white.T @ white, np.zeros(len(unpenalised)), 0.0)
            if len(unpenalised)
            else None
        )
        return unpenalised, inverse, lower, white, schur

    def solve(self, rows, damping):
        unpenalised, inverse, lower, edge, schur = self._factorised(damping)
        base = rows.rescaled(inverse)
        # white = L^{-1} C ridge^{-1} v, of the rows' penalised part.
        white = solve_triangular(lower, self.rows.inner(base), lower=True)
        if len(unpenalised):
            gap = rows.columns(unpenalised) - white.T @ edge
            on_unpenalised = schur.unwhiten(schur.whiten(gap))
            white = white + edge @ on_unpenalised.T
        back = solve_triangular(lower, white, lower=True, trans=1).T
        solution = CombinedRows(base, -back, self.rows.rescaled(inverse))
        if len(unpenalised):
            solution = CombinedRows(
                solution, on_unpenalised, DenseRows(_unit_rows(unpenalised, rows.n_columns))
            )
        return solution

    def whiten(self, rows, damping):
        # The embedding has as many columns as H, so H may as well be written out.
        return self._written_out().whiten(rows, damping)

    def _written_out(self):
        moment = self.rows.moment(np.ones(self.rows.n_samples))
        return DenseCurvature(np.arange(len(moment))[None], moment[None], self.penalty)

    def eigenbasis(self, damping, query=None):
        ridge = self.penalty + damping
        unpenalised, ridge_values = np.flatnonzero(ridge <= 0), np.unique(ridge[ridge > 0])
        if len(ridge_values) > 1 or len(unpenalised) + self.rows.shape[0] >= len(ridge):
            return self._written_out().eigenbasis(damping, query)
        # Away from its factor rows and unpenalised coordinates, H is a multiple of the identity.
        spanned = np.concatenate([_unit_rows(unpenalised, len(ridge)), self.rows.toarray()])
        basis = np.linalg.qr(spanned.T)[0]
        root = self.rows @ basis
        values, vectors = eigh(root.T @ root + basis.T @ (ridge[:, None] * basis))
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


def _unit_rows(index, n_columns):
    rows = np.zeros((len(index), n_columns))
    rows[np.arange(len(index)), index] = 1.0
    return rows
