"""Curvatures: factorised once, then solved against rows.

Every curvature stands for ``H = F + diag(penalty) + damping I``, F the curvature of the mean
loss and ``penalty`` the model's own. ``solve`` returns rows again, so that a solution stays
factored where the rows are.
"""

import warnings
from abc import ABC, abstractmethod

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular
from scipy.linalg.lapack import dpocon
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skinfluence._batching import batches
from skinfluence.eigenbasis import Eigenbasis, OutsideBasis
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import CombinedRows, DenseRows


class Curvature(ABC):
    """A damped curvature that can be solved against rows.

    Need to be defined: ``solve``, ``effective_dimension``. May be defined: ``whiten``,
    ``eigenbasis``. Should be overridden for efficiency: ``leverages``.
    """

    @abstractmethod
    def solve(self, rows, damping):
        """Rows ``H^{-1} v`` for every row ``v``."""

    @abstractmethod
    def effective_dimension(self, damping):
        """``tr(F H^{-1})``."""

    def precondition(self, vectors, damping):
        """About ``H^{-1} v`` for vectors (m, n_coordinates), cheaply and symmetrically."""
        return self.solve(DenseRows(vectors), damping).toarray()

    def whiten(self, rows, damping):
        """Array (n_rows, c) with ``w.w' = v' H^{-1} v'`` for rows ``v, v'``."""
        raise ValueError(
            f"{type(self).__name__} holds no square root of the curvature, so it has no "
            "embedding. Use solver='direct', or a sketch."
        )

    def eigenbasis(self, damping, query=None):
        """`Eigenbasis` of H, in which inner products with the row ``query`` may be taken."""
        raise ValueError(
            f"{type(self).__name__} holds no eigenvectors of the curvature, which memorization "
            "asks for. Use solver='direct' or 'gram', or a sketch."
        )

    def leverages(self, rows, damping):
        """``v_ij' H^{-1} v_ik`` within every sample i, (n_samples, s, s)."""
        s = rows.rows_per_sample
        out = np.empty((rows.n_samples, s, s))
        for batch in batches(rows.n_samples, 8, batch_size=max(1, 256 // s)):
            part = rows[batch]
            inner = self.solve(part, damping).inner(part)
            size = part.n_samples
            cube = inner.reshape(size, s, size, s)
            out[batch] = cube[np.arange(size), :, np.arange(size)]
        return out


def _leverages_by_whitening(curvature, rows, damping):
    s = rows.rows_per_sample
    out = np.empty((rows.n_samples, s, s))
    for batch in rows.batches():
        white = curvature.whiten(rows[batch], damping)
        white = white.reshape(-1, s, white.shape[1])
        out[batch] = white @ white.transpose(0, 2, 1)
    return out


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
                _factor(block, self.penalty[index] + damping, damping)
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
        return _leverages_by_whitening(self, rows, damping)

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

        return Eigenbasis(values, _check_definite(values, damping), write)


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


def _factor(block, ridge, damping):
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


def _check_definite(values, damping):
    """Size up to which eigenvalues count as 0, where they are those of a curvature."""
    if not values.any():
        raise LinAlgError(
            f"The curvature is zero at damping={damping:g}: the model is saturated or the "
            "features are all zero. Expected a positive curvature; use damping > 0."
        )
    return _check_positive(values, damping)


def _spectral_factor(matrix, damping):
    values, vectors = eigh(matrix)
    kept = values > _check_definite(values, damping)
    warnings.warn(
        f"The curvature is singular at damping={damping:g}: rank {kept.sum()} of {len(kept)}, "
        f"eigenvalues from {values[0]:.3g} to {values[-1]:.3g}. Influence is taken on its range "
        "(pseudo-inverse). Use damping > 0, or give the model a penalty.",
        NumericalWarning,
        stacklevel=2,
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

    def rank(self, damping):
        """Number of eigenvalues of H that are not 0 up to rounding."""
        return int(self._kept(damping)[1].sum())

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
        return _leverages_by_whitening(self, rows, damping)

    def effective_dimension(self, damping):
        values, kept = self._kept(damping)
        return float(np.sum(self._of_data[kept] / values))

    def eigenbasis(self, damping, query=None):
        values = self.values + damping
        floor = _check_definite(values, damping)
        return Eigenbasis(values, floor, lambda rows: rows @ self.vectors)

    def symmetric_root(self, rows, damping):
        """Array ``rows H^{-1/2}`` in the coordinates of the rows themselves."""
        return self.whiten(rows, damping) @ self.vectors.T

    def product(self, vectors, damping):
        """Products of H with vectors (m, n_coordinates)."""
        inside = vectors @ self.vectors
        return (inside * (self.values + damping)) @ self.vectors.T


class GramCurvature(Curvature):
    """F by the inner products of its root rows, for fewer rows than parameters.

    With ``F = C'C`` and positive ``ridge = penalty + damping`` on the columns of ``C``, and
    ``V = C ridge^{-1/2}``, Woodbury gives ``H^{-1} = ridge^{-1/2} (I - V'(I + V V')^{-1} V)
    ridge^{-1/2}``. Columns without a ridge, such as unpenalised intercepts, are eliminated by
    their Schur complement.

    Parameters
    ----------
    rows : Rows
        Root rows of the curvature.
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
        free = np.flatnonzero(ridge <= 0)
        inverse = np.divide(1.0, ridge, out=np.zeros_like(ridge), where=ridge > 0)
        scaled = self.rows.rescaled(np.sqrt(inverse))
        gram = scaled.inner(scaled)
        gram[np.diag_indices_from(gram)] += 1.0
        # LAPACK works in place only on columns, and the matrix is its own transpose.
        lower = cholesky(gram.T, lower=True, overwrite_a=True)
        edge = self.rows.columns(free)
        white = solve_triangular(lower, edge, lower=True)
        schur = _factor(white.T @ white, np.zeros(len(free)), 0.0) if len(free) else None
        return free, inverse, lower, white, schur

    def solve(self, rows, damping):
        free, inverse, lower, edge, schur = self._factorised(damping)
        base = rows.rescaled(inverse)
        # white = L^{-1} C ridge^{-1} v, of the rows' penalised part.
        white = solve_triangular(lower, self.rows.inner(base), lower=True)
        if len(free):
            gap = rows.columns(free) - white.T @ edge
            on_free = schur.unwhiten(schur.whiten(gap))
            white = white + edge @ on_free.T
        back = solve_triangular(lower, white, lower=True, trans=1).T
        solution = CombinedRows(base, -back, self.rows.rescaled(inverse))
        if len(free):
            solution = CombinedRows(solution, on_free, DenseRows(_unit_rows(free, rows.n_columns)))
        return solution

    def whiten(self, rows, damping):
        # The embedding has as many columns as H, so H may as well be written out.
        return self._written_out().whiten(rows, damping)

    def _written_out(self):
        moment = self.rows.moment(np.ones(self.rows.n_samples))
        return DenseCurvature(np.arange(len(moment))[None], moment[None], self.penalty)

    def eigenbasis(self, damping, query=None):
        ridge = self.penalty + damping
        free, levels = np.flatnonzero(ridge <= 0), np.unique(ridge[ridge > 0])
        if len(levels) > 1 or len(free) + self.rows.shape[0] >= len(ridge):
            return self._written_out().eigenbasis(damping, query)
        # H is a multiple of the identity away from its root rows and the free coordinates.
        spanned = np.concatenate([_unit_rows(free, len(ridge)), self.rows.toarray()])
        basis = np.linalg.qr(spanned.T)[0]
        root = self.rows @ basis
        values, vectors = eigh(root.T @ root + basis.T @ (ridge[:, None] * basis))
        basis = basis @ vectors
        outside = OutsideBasis(ridge, lambda rows: (rows @ basis) @ basis.T, query)
        return Eigenbasis(
            np.concatenate([values, outside.values]),
            _check_definite(values, damping),
            lambda rows: np.hstack([rows @ basis, outside.coordinates(rows)]),
        )

    def effective_dimension(self, damping):
        # tr(F H^-1) is the sum of the leverages of the root rows.
        return float(np.einsum("iss->", self.leverages(self.rows, damping)))


def _unit_rows(index, n_columns):
    rows = np.zeros((len(index), n_columns))
    rows[np.arange(len(index)), index] = 1.0
    return rows


class MatrixFreeCurvature(Curvature):
    """H by its products with vectors alone, solved by iteration.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> F vectors`` for vectors (m, n_coordinates).
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty.
    method : {"cg", "lissa"}
        Conjugate gradients, or the Neumann series of LiSSA; both preconditioned.
    tol : float, default=1e-10
        Relative residual at which the iteration stops.
    max_iter : int, default=1000
        Iterations at most.
    rank : int, default=100
        Rank of the randomised Nystroem preconditioner.
    random_state : int or RandomState, default=None
        Draws the preconditioner's test vectors.
    """

    def __init__(
        self, product, penalty, method, *, tol=1e-10, max_iter=1000, rank=100, random_state=None
    ):
        self.product = product
        self.penalty = penalty
        self.method = method
        self.tol = tol
        self.max_iter = max_iter
        self._sketch(rank, check_random_state(random_state))

    def _sketch(self, rank, random_state):
        """Leading eigenpairs of F, from one block product (Nystroem approximation)."""
        p = len(self.penalty)
        test = np.linalg.qr(random_state.standard_normal((p, min(rank, p))))[0].T
        image = self.product(test)
        # A shift keeps the small core matrix positive definite in floating point.
        shift = np.sqrt(p) * np.finfo(np.float64).eps * np.linalg.norm(image)
        image += shift * test
        # The Hessian of a network may bend down: the preconditioner is for what bends up.
        values, vectors = eigh((test @ image.T + image @ test.T) / 2)
        kept = values > max(shift, 0.0)
        kept[-1] = True
        root = vectors[:, kept] / np.sqrt(np.where(values > 0, values, 1.0)[kept])
        factor = root.T @ image
        _, singular, self._basis = np.linalg.svd(factor, full_matrices=False)
        self._values = np.maximum(0, singular**2 - shift)

    def precondition(self, vectors, damping):
        floor = np.median(self.penalty) + damping
        # All of the spectrum that the basis misses lies below its last eigenvalue.
        complete = len(self._values) == len(self.penalty)
        last = floor + (0 if complete else self._values[-1])
        last = last if last > 0 else 1.0
        inside = vectors @ self._basis.T
        ratio = last / np.maximum(self._values + floor, 1e-300) - 1
        return (vectors + (inside * ratio) @ self._basis) / last

    def _apply(self, vectors, damping):
        return self.product(vectors) + vectors * (self.penalty + damping)

    def solve(self, rows, damping):
        right = rows.toarray()
        solver = {"cg": self._cg, "lissa": self._neumann}[self.method]
        solution, residual = solver(right, damping)
        worst = residual.max(initial=0.0)
        if not worst <= self.tol:
            warnings.warn(
                f"{self.method} stopped after {self.max_iter} iterations at a relative residual "
                f"of {worst:.2e} (tol={self.tol:.0e}, damping={damping:g}). Use more damping, or "
                "another solver.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return DenseRows(solution, rows.rows_per_sample)

    def _cg(self, right, damping):
        solution = np.zeros_like(right)
        residual = right.copy()
        scale = np.maximum(np.linalg.norm(right, axis=1), np.finfo(float).tiny)
        direction = preconditioned = self.precondition(residual, damping)
        energy = np.einsum("mp,mp->m", residual, preconditioned)
        for _ in range(self.max_iter):
            size = np.linalg.norm(residual, axis=1) / scale
            running = size > self.tol
            if not running.any():
                break
            image = self._apply(direction, damping)
            bend = np.einsum("mp,mp->m", direction, image)
            step = np.where(running, energy / np.where(bend > 0, bend, np.inf), 0.0)[:, None]
            solution = solution + step * direction
            residual = residual - step * image
            preconditioned = self.precondition(residual, damping)
            before, energy = energy, np.einsum("mp,mp->m", residual, preconditioned)
            ratio = energy / np.where(before > 0, before, np.inf)
            direction = preconditioned + ratio[:, None] * direction
        return solution, np.linalg.norm(residual, axis=1) / scale

    def _neumann(self, right, damping):
        # v <- v + s P^{-1}(b - H v) sums the Neumann series of the preconditioned Hessian.
        step = 1.0 / self._largest(damping)
        solution = np.zeros_like(right)
        residual = right
        scale = np.maximum(np.linalg.norm(right, axis=1), np.finfo(float).tiny)
        for _ in range(self.max_iter):
            solution = solution + step * self.precondition(residual, damping)
            residual = right - self._apply(solution, damping)
            if (np.linalg.norm(residual, axis=1) <= self.tol * scale).all():
                break
        return solution, np.linalg.norm(residual, axis=1) / scale

    def _largest(self, damping):
        """Largest eigenvalue of the preconditioned H, by power iteration, with a margin."""
        vector = np.ones((1, len(self.penalty)))
        for _ in range(20):
            vector /= np.linalg.norm(vector)
            vector = self.precondition(self._apply(vector, damping), damping)
        return 1.1 * float(np.linalg.norm(vector))

    def effective_dimension(self, damping):
        """``tr(F H^{-1})`` by Hutchinson's estimator with 30 random signs."""
        signs = np.sign(check_random_state(0).standard_normal((30, len(self.penalty))))
        solved = self.solve(DenseRows(signs), damping).array
        return float(np.einsum("mp,mp->", self.product(signs), solved) / len(signs))
