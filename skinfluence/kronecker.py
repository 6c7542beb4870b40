"""Curvatures that are Kronecker products, layer by layer.

Conventions
-----------
A layer with weight (c, d - 1) and bias is one matrix ``[W, b]`` of shape (c, d), applied to
``[u, 1]``. Its gradient is ``G = sum_t r_t [u_t, 1]'``, its curvature ``A (x) E`` with the
moments A (d, d) of the inputs and E (c, c) of the output gradients.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh

from skinfluence._batching import batches
from skinfluence.curvature import Curvature
from skinfluence.eigenbasis import Eigenbasis
from skinfluence.exceptions import NumericalWarning
from skinfluence.network_rows import SharedRows
from skinfluence.rows import BlockRows, DenseRows, KroneckerRows, Rows


def blocks_of(rows):
    """Blocks of columns of held rows."""
    return rows.blocks if isinstance(rows, BlockRows) else [rows]


def held_batches(rows):
    """Slices of samples and the blocks of their rows."""
    for batch in rows.batches():
        yield batch, blocks_of(rows[batch])


def is_layer(block):
    """Whether a block is a linear layer: with one bias for each output, or with none."""
    if isinstance(block, SharedRows):
        return block.scale is None
    if not isinstance(block, KroneckerRows):
        return False
    if block.free.shape[2] == 0:
        return True
    return block.free.shape == block.residual.shape and np.array_equal(block.free, block.residual)


def factors(block):
    """Output gradients (n, s, t, c) and inputs with a 1 for the bias, (n * t, d)."""
    residual = block.residual if isinstance(block, SharedRows) else block.residual[:, :, None]
    inputs = block.activation
    if _has_bias(block):
        one = np.ones((inputs.shape[0], 1))
        stack = sp.hstack if sp.issparse(inputs) else np.hstack
        inputs = stack([inputs, one])
    return residual, sp.csr_array(inputs) if sp.issparse(inputs) else inputs.astype(np.float64)


def rows_of(residual, inputs):
    """Rows of a layer without bias from its factors, as `factors` gives them."""
    if residual.shape[2] == 1:
        return KroneckerRows(residual[:, :, 0], inputs)
    return SharedRows(residual, inputs, bias=False)


def matrix_of(columns, shape, has_bias):
    """Columns ``[W.ravel(), b]`` (m, c * d) as matrices ``[W, b]`` (m, c, d)."""
    c, d = shape
    if not has_bias:
        return columns.reshape(-1, c, d)
    weights = columns[:, : c * (d - 1)].reshape(-1, c, d - 1)
    return np.concatenate([weights, columns[:, c * (d - 1) :, None]], axis=2)


def columns_of(matrices, has_bias):
    """Matrices ``[W, b]`` (m, c, d) as columns ``[W.ravel(), b]``."""
    m = len(matrices)
    if not has_bias:
        return matrices.reshape(m, -1)
    return np.hstack([matrices[:, :, :-1].reshape(m, -1), matrices[:, :, -1]])


@dataclass
class Moments:
    """Moments of one layer.

    Parameters
    ----------
    inputs : ndarray of shape (d, d)
        A, the mean over samples (and positions) of ``[u, 1][u, 1]'``.
    outputs : ndarray of shape (c, c)
        E, the mean over samples of the sum of ``r r'``.
    has_bias : bool
        Whether the last input is the 1 of the bias.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    has_bias: bool

    @property
    def shape(self):
        """Outputs and inputs, the bias counted in, (c, d)."""
        return len(self.outputs), len(self.inputs)


def moments(rows, weight, shared="expand"):
    """Moments of the layers of root rows; for other blocks the dense moment.

    Parameters
    ----------
    rows : Rows
        Root rows of the curvature, the weights of the samples included.
    weight : ndarray of shape (n_samples,)
        These weights, with the sum 1.
    shared : {"expand", "reduce"}
        How the positions of a shared weight enter; see `KFACInfluence`.

    Returns
    -------
    list of Moments or ndarray
    """
    totals = None
    for batch, blocks in held_batches(rows):
        parts = [_moments_of(block, weight[batch], shared) for block in blocks]
        totals = parts if totals is None else list(map(_added, totals, parts))
    return totals


def _moments_of(block, weight, shared):
    if not is_layer(block):
        return block.moment(np.ones(block.n_samples))
    residual, inputs = factors(block)
    n_samples, s, t, c = residual.shape
    if shared == "reduce":
        mean = sp.kron(sp.eye_array(n_samples), np.full((1, t), 1 / t), format="csr")
        inputs, residual, t = mean @ inputs, residual.sum(axis=2, keepdims=True), 1
    scaled = np.repeat(weight / t, t)
    if sp.issparse(inputs):
        moment = (inputs.T @ (sp.diags_array(scaled) @ inputs)).toarray()
    else:
        root = inputs * np.sqrt(scaled)[:, None]
        moment = root.T @ root
    flat = residual.reshape(-1, c).astype(np.float64)
    return Moments(moment, flat.T @ flat, _has_bias(block))


def _has_bias(block):
    return bool(block.bias if isinstance(block, SharedRows) else block.free.shape[2])


def _added(left, right):
    if isinstance(left, np.ndarray):
        return left + right
    return Moments(left.inputs + right.inputs, left.outputs + right.outputs, left.has_bias)


class KroneckerBasis:
    """Eigenbasis ``Q_A (x) Q_E`` of a layer, and the curvature's values in it."""

    def __init__(self, moments):
        self.has_bias = moments.has_bias
        self.shape = moments.shape
        alpha, self.inputs = eigh(moments.inputs)
        gamma, self.outputs = eigh(moments.outputs)
        self.values = np.clip(gamma, 0, None)[:, None] * np.clip(alpha, 0, None)

    def rotated(self, block):
        """Gradients in the basis, (n_rows, c, d), from a block of rows."""
        if not is_layer(block):
            return self.rotated_columns(block.toarray())
        residual, inputs = self._rotated_factors(block)
        n_samples, s, t, c = residual.shape
        inputs = inputs.reshape(n_samples, 1, t, -1)
        return np.matmul(residual.transpose(0, 1, 3, 2), inputs).reshape(n_samples * s, c, -1)

    def _rotated_factors(self, block):
        residual, inputs = factors(block)
        return residual @ self.outputs, inputs @ self.inputs

    def rotated_rows(self, block):
        """The same as rows, (n_rows, c * d), factored where the block is."""
        if is_layer(block):
            return rows_of(*self._rotated_factors(block))
        rotated = self.rotated(block)
        return DenseRows(rotated.reshape(len(rotated), -1), block.rows_per_sample)

    def rotated_columns(self, columns):
        """The same from written out rows."""
        matrices = matrix_of(columns, self.shape, self.has_bias)
        return self.outputs.T @ matrices @ self.inputs

    def unrotated_columns(self, rotated):
        """Columns of the rows from gradients in the basis."""
        return columns_of(self.outputs @ rotated @ self.inputs.T, self.has_bias)

    def second_moment(self, block):
        """Sum over the rows of the squares of their entries in the basis, (c, d)."""
        residual, inputs = self._rotated_factors(block)
        n_samples, s, t, c = residual.shape
        if t == 1:
            return (residual**2).sum(axis=(1, 2)).T @ inputs**2
        total = np.zeros(self.shape)
        for batch in batches(n_samples, 8 * s * self.values.size):
            part = residual[batch].transpose(0, 1, 3, 2)
            rotated = np.matmul(part, inputs.reshape(n_samples, 1, t, -1)[batch])
            total += np.einsum("nscd,nscd->cd", rotated, rotated)
        return total

    def ridge(self, penalty):
        """Diagonal of the penalty in the basis, exact where it is constant, (c, d)."""
        penalty = matrix_of(penalty[None], self.shape, self.has_bias)[0]
        return (self.outputs**2).T @ penalty @ self.inputs**2


class DenseBasis:
    """Eigenbasis of a block of parameters that are no linear layer."""

    def __init__(self, moment):
        values, self.vectors = eigh(moment)
        self.values = np.clip(values, 0, None)

    def rotated(self, block):
        """Rows in the basis, (n_rows, p)."""
        return self.rotated_columns(block.toarray())

    def rotated_rows(self, block):
        """The same as rows."""
        return DenseRows(self.rotated(block), block.rows_per_sample)

    def rotated_columns(self, columns):
        """The same from written out rows."""
        return columns @ self.vectors

    def unrotated_columns(self, rotated):
        """Columns of the rows from rows in the basis."""
        return rotated @ self.vectors.T

    def second_moment(self, block):
        """Sum over the rows of their squares in the basis, (p,)."""
        return np.einsum("np,np->p", *2 * [self.rotated(block)])

    def ridge(self, penalty):
        """Diagonal of the penalty in the basis, (p,)."""
        return (self.vectors**2).T @ penalty


class RotatedRows(Rows):
    """Rows in the eigenbases of their layers, rotated back only where they are written out.

    Inner products rotate the factors of the other rows instead, which are small.

    Parameters
    ----------
    bases : list of KroneckerBasis or DenseBasis
        Basis of each block of columns.
    parts : list of ndarray of shape (n_rows, ...)
        The blocks in these bases.
    rows_per_sample : int
        Rows of each sample.
    """

    def __init__(self, bases, parts, rows_per_sample):
        self.bases = bases
        self.parts = parts
        self._rows_per_sample = rows_per_sample

    @property
    def n_samples(self):
        return len(self.parts[0]) // self._rows_per_sample

    @property
    def rows_per_sample(self):
        return self._rows_per_sample

    @property
    def n_columns(self):
        return sum(basis.values.size for basis in self.bases)

    def __getitem__(self, samples):
        index = np.arange(self.shape[0]).reshape(self.n_samples, -1)[samples].ravel()
        parts = [part[index] for part in self.parts]
        return RotatedRows(self.bases, parts, self._rows_per_sample)

    def toarray(self):
        pairs = zip(self.bases, self.parts, strict=True)
        return np.hstack([basis.unrotated_columns(part) for basis, part in pairs])

    def inner(self, other, out=None):
        if not (isinstance(other, BlockRows) or len(self.bases) == 1):
            return DenseRows(self.toarray(), self._rows_per_sample).inner(other, out)
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        vectors = [part.reshape(len(part), -1) for part in self.parts]
        for batch, blocks in held_batches(other):
            terms = zip(self.bases, blocks, vectors, strict=True)
            out[:, other._row_slice(batch)] = sum(
                basis.rotated_rows(block).dotted_by(vector) for basis, block, vector in terms
            )
        return out


class KroneckerCurvature(Curvature):
    """F as one Kronecker product for each layer, diagonal in its eigenbasis.

    Blocks that are no linear layer (norms, parameters of a module's own) are held as dense
    matrices. Factorised once: every damping is added to the eigenvalues of the products.

    Parameters
    ----------
    rows : Rows
        Root rows of the curvature.
    layers : list of Moments or ndarray
        What `moments` gives for them.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty, of which the diagonal in the eigenbasis is taken.
    correction : bool
        Whether eigenvalues are replaced by the moments of the rows in the eigenbasis.
    """

    def __init__(self, rows, layers, penalty, correction):
        self.bases = [
            DenseBasis(m) if isinstance(m, np.ndarray) else KroneckerBasis(m) for m in layers
        ]
        self._edges = np.cumsum([basis.values.size for basis in self.bases])[:-1]
        if correction:
            self._correct(rows)
        parts = self._split(np.asarray(penalty)[None])
        self._ridges = [b.ridge(p[0]) for b, p in zip(self.bases, parts, strict=True)]
        self._warned = False

    def _correct(self, rows):
        totals = [np.zeros_like(basis.values) for basis in self.bases]
        for _, blocks in held_batches(rows):
            for total, basis, block in zip(totals, self.bases, blocks, strict=True):
                total += basis.second_moment(block)
        for basis, total in zip(self.bases, totals, strict=True):
            basis.values = total

    def _split(self, columns):
        return np.split(columns, self._edges, axis=1)

    def _totals(self, damping):
        """Eigenvalues of H in every block, and up to where they count as 0."""
        totals = [
            basis.values + ridge + damping
            for basis, ridge in zip(self.bases, self._ridges, strict=True)
        ]
        largest = max(total.max() for total in totals)
        return totals, np.finfo(np.float64).eps * max(map(np.size, totals)) * largest

    def _inverses(self, damping):
        """``1 / (eigenvalue + ridge)`` of every block, 0 where both vanish."""
        totals, floor = self._totals(damping)
        singular = sum(int((total <= floor).sum()) for total in totals)
        if singular and not self._warned:
            self._warned = True
            warnings.warn(
                f"The curvature is singular at damping={damping:g} in {singular} of "
                f"{sum(map(np.size, totals))} directions. Influence is taken on its range "
                "(pseudo-inverse). Use damping > 0.",
                NumericalWarning,
                stacklevel=3,
            )
        return [
            np.divide(1.0, total, out=np.zeros_like(total), where=total > floor)
            for total in totals
        ]

    def _rotated(self, rows):
        if isinstance(rows, BlockRows) or len(self.bases) == 1:
            pairs = zip(self.bases, blocks_of(rows), strict=True)
            return [basis.rotated(block) for basis, block in pairs]
        pairs = zip(self.bases, self._split(rows.toarray()), strict=True)
        return [basis.rotated_columns(columns) for basis, columns in pairs]

    def holding(self, rows):
        return None

    def solve(self, rows, damping):
        parts = zip(self._rotated(rows[:]), self._inverses(damping), strict=True)
        solved = [part * inverse for part, inverse in parts]
        return RotatedRows(self.bases, solved, rows.rows_per_sample)

    def whiten(self, rows, damping):
        out = np.empty(rows.shape)
        roots = [np.sqrt(inverse) for inverse in self._inverses(damping)]
        for batch in rows.batches():
            parts = zip(self._rotated(rows[batch]), roots, strict=True)
            white = [(part * root).reshape(len(part), -1) for part, root in parts]
            out[rows._row_slice(batch)] = np.hstack(white)
        return out

    def leverages(self, rows, damping):
        s = rows.rows_per_sample
        out = np.empty((rows.n_samples, s, s))
        for batch in rows.batches():
            white = self.whiten(rows[batch], damping).reshape(-1, s, rows.n_columns)
            out[batch] = white @ white.transpose(0, 2, 1)
        return out

    def effective_dimension(self, damping):
        pairs = zip(self.bases, self._inverses(damping), strict=True)
        return float(sum((basis.values * inverse).sum() for basis, inverse in pairs))

    def eigenbasis(self, damping, query=None):
        totals, floor = self._totals(damping)

        def write(rows):
            return np.hstack([part.reshape(len(part), -1) for part in self._rotated(rows)])

        return Eigenbasis(np.concatenate([total.ravel() for total in totals]), floor, write)
