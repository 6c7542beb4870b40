"""Projection of gradients on the range of the curvature."""

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, lsmr
from sklearn.exceptions import ConvergenceWarning

from skinfluence._utils.warnings import warn_user
from skinfluence.rows import DenseRows, KroneckerRows

# If both sides of the rows are longer, iteration takes over from eigenvectors.
MAX_EIGENBASIS = 4096

# Iterations for each row, and SciPy's code for having run out of them.
MAX_ITER = 500
OUT_OF_ITERATIONS = 7


class RangeProjector:
    """Orthogonal projection on ``range(F)``, the span of the rows ``C`` with ``C'C = F``.

    Parameters
    ----------
    factor_rows : Rows
        Rows ``C``.
    """

    def __init__(self, factor_rows):
        self.factor_rows = factor_rows
        factored = _inputs(factor_rows)
        self.is_factored = factored is not None
        self._span = _Span(factored if self.is_factored else factor_rows)

    def project(self, rows):
        """Rows in the range of F."""
        if not self.is_factored or not rows.is_factored:
            return DenseRows(self._projected(rows), rows.rows_per_sample)
        # The projection of r (x) u is r (x) Pu, with the 1 of the intercept as one more input.
        inputs = self._span.project(_with_one(rows.activation, rows.has_bias))
        activation = inputs[:, : rows.activation.shape[1]]
        intercept_columns = (
            rows.intercept_columns * inputs[:, None, -1:]
            if rows.has_bias
            else rows.intercept_columns
        )
        return KroneckerRows(rows.residual, activation, intercept_columns)

    def _projected(self, rows):
        if not self.is_factored:
            return self._span.project(rows)
        c = self.factor_rows.layer_shape[0]
        array = rows.toarray()
        n_intercepts = self.factor_rows.n_intercepts
        split = array.shape[1] - n_intercepts
        cube = array[:, :split].reshape(len(array), c, -1)
        if n_intercepts:
            cube = np.concatenate([cube, array[:, split:, None]], axis=2)
        flat = self._span.project(DenseRows(cube.reshape(len(array) * c, -1)))
        cube = flat.reshape(len(array), c, -1)
        if not n_intercepts:
            return cube.reshape(len(array), -1)
        return np.concatenate([cube[:, :, :-1].reshape(len(array), -1), cube[:, :, -1]], axis=1)

    def outside(self, rows):
        """Norm of the part of every row outside the range, and of the row, two (n_rows,)."""
        outside, size = np.empty((2, rows.shape[0]))
        for batch in rows.batches():
            part, place = rows[batch], rows.row_slice(batch)
            array = part.toarray()
            outside[place] = np.linalg.norm(array - self.project(part).toarray(), axis=1)
            size[place] = np.linalg.norm(array, axis=1)
        return outside, size


def _inputs(factor_rows):
    """Inputs that span the range of F for every output, or None if the range does not factor.

    The range factors if every sample that has curvature at all has it in all of its outputs.
    """
    if not (factor_rows.is_factored and factor_rows.is_layer):
        return None
    _, s, c = factor_rows.residual.shape
    if s != c:
        return None
    smallest = np.linalg.svd(factor_rows.residual, compute_uv=False).min(axis=1)
    counts = factor_rows.residual.any(axis=(1, 2))
    if not (smallest[counts] > 0).all():
        return None
    activation = factor_rows.activation if counts.all() else factor_rows.activation[counts]
    return _with_one(activation, factor_rows.has_bias)


def _with_one(activation, has_bias):
    """Inputs of a layer as rows, with a 1 for the bias."""
    one = np.ones((activation.shape[0], 1, 1))
    return KroneckerRows(one, activation, one[:, :, : int(has_bias)])


class _Span:
    """Span of rows, by eigenvectors of the smaller of their Gram matrices, or by iteration."""

    def __init__(self, rows):
        self.rows = rows
        n_rows, n_columns = rows.shape
        if min(n_rows, n_columns) > MAX_EIGENBASIS:
            self.project = self._by_iteration
        elif n_columns <= n_rows:
            self._basis, _ = _range(rows.moment())
            self.project = self._by_basis
        else:
            basis, values = _range(rows.inner(rows))
            self._root = basis / np.sqrt(values)
            self.project = self._by_coefficients

    def _by_basis(self, rows):
        return (rows @ self._basis) @ self._basis.T

    def _by_coefficients(self, rows):
        inside = rows.inner(self.rows) @ self._root
        return (inside @ self._root.T) @ self.rows

    def _by_iteration(self, rows):
        n_rows, n_columns = self.rows.shape
        transpose = LinearOperator(
            (n_columns, n_rows),
            matvec=lambda w: (np.reshape(w, (1, -1)) @ self.rows)[0],
            rmatvec=lambda v: (self.rows @ np.reshape(v, (-1, 1)))[:, 0],
            dtype=np.float64,
        )
        settings = {"atol": 1e-9, "btol": 1e-9, "maxiter": MAX_ITER}
        found = [lsmr(transpose, v, **settings)[:2] for v in rows.toarray()]
        if any(reason == OUT_OF_ITERATIONS for _, reason in found):
            warn_user(
                f"The projection on the range of F stopped after {MAX_ITER} iterations, so the "
                "part outside is overstated: leakage is at most the reported value.",
                ConvergenceWarning,
            )
        return np.array([fit for fit, _ in found]) @ self.rows


def _range(gram):
    values, vectors = eigh(gram)
    kept = values > len(gram) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept], values[kept]
