"""The factors of layers: their rows taken apart, and their moments."""

from dataclasses import dataclass
from functools import cached_property
from operator import add

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence._utils.progress import track
from skinfluence.curvature.kronecker._tokens import token_moments
from skinfluence.rows import KroneckerRows, SharedRows

# Factors of so many bytes, in double precision, are taken apart at once.
FACTOR_BYTES = 2**25

# Slices of so many bytes stay in the cache between their conversion and their products.
CACHED_BYTES = 2**20


def block_batches(rows):
    """Slices of samples and the blocks of their rows, whose factors are few."""
    if not len(rows):
        return
    sample_bytes = 8 * rows[:1].n_stored
    parts = batches(rows.n_samples, sample_bytes, at_most=FACTOR_BYTES)
    for batch in track(parts, "batches of rows"):
        yield batch, rows[batch].blocks


def factors(block):
    """Output gradients (n, s, t, c) and inputs with a 1 for the bias, (n * t, d)."""
    residual, inputs = block.position_residuals, block.activation
    if block.has_bias:
        one = np.ones((inputs.shape[0], 1), residual.dtype)
        stack = sp.hstack if sp.issparse(inputs) else np.hstack
        inputs = stack([inputs, one])
    return residual, sp.csr_array(inputs) if sp.issparse(inputs) else inputs.astype(residual.dtype)


def by_samples(residual):
    """Whether products with output gradients (n, s, t, c) are taken sample by sample.

    As one matrix, those of a convolution would be copied: their positions lie last in memory. With
    few positions, NumPy would take longer over the samples than over the copy.
    """
    return residual.shape[2] > residual.shape[3]


def rows_of(residual, inputs):
    """Rows of a layer without bias, from factors as `factors` gives them."""
    if residual.shape[2] == 1:
        return KroneckerRows(residual[:, :, 0], inputs)
    return SharedRows(residual, inputs, has_bias=False)


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
class LayerMoments:
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

    is_layer = True
    reads_tokens = False

    @property
    def shape(self):
        """Outputs and inputs, counting the bias, (c, d)."""
        return len(self.outputs), len(self.inputs)

    @cached_property
    def spectra(self):
        """Eigenvalues of A and of E, ascending."""
        return np.linalg.eigvalsh(self.inputs), np.linalg.eigvalsh(self.outputs)

    def __add__(self, other):
        return LayerMoments(
            self.inputs + other.inputs, self.outputs + other.outputs, self.has_bias
        )


@dataclass
class DenseMoment:
    """Moment of a block of parameters that is no linear layer.

    Parameters
    ----------
    matrix : ndarray of shape (p, p)
        The sum of the outer products of the rows.
    """

    matrix: np.ndarray

    is_layer = False

    @property
    def shape(self):
        """Number of parameters, (p,)."""
        return self.matrix.shape[:1]

    @property
    def spectrum(self):
        """Eigenvalues, (p,)."""
        return np.linalg.eigvalsh(self.matrix)

    def __add__(self, other):
        return DenseMoment(self.matrix + other.matrix)


@dataclass
class DiagonalMoment:
    """The diagonal of a `DenseMoment`.

    Parameters
    ----------
    values : ndarray of shape (p,)
        The sum of the squares of the rows.
    """

    values: np.ndarray

    is_layer = False

    @property
    def shape(self):
        """Number of parameters, (p,)."""
        return self.values.shape

    @property
    def spectrum(self):
        """Eigenvalues, (p,)."""
        return self.values

    def __add__(self, other):
        return DiagonalMoment(self.values + other.values)


def moments(rows, weight, shared="expand", unfactored="dense"):
    """Moments of the layers of factor rows; for other blocks dense or diagonal moments.

    Parameters
    ----------
    rows : Rows
        Factor rows of the curvature, including the weights of the samples.
    weight : ndarray of shape (n_samples,)
        Weights of the samples, with the sum 1.
    shared : {"expand", "reduce"}
        How the positions of a shared weight enter; see `KFACInfluence`.
    unfactored : {"dense", "diagonal"}
        Moments of the other blocks; see `KFACInfluence`.

    Returns
    -------
    list of LayerMoments, TokenMoments, DenseMoment or DiagonalMoment
    """
    totals = None
    for batch, blocks in block_batches(rows):
        parts = [_moments_of(block, weight[batch], shared, unfactored) for block in blocks]
        totals = parts if totals is None else list(map(add, totals, parts))
    return totals


def _moments_of(block, weight, shared, unfactored):
    if not block.is_layer and unfactored == "diagonal":
        return DiagonalMoment(block.column_squares())
    if not block.is_layer:
        return DenseMoment(block.moment())
    if block.reads_tokens:
        return token_moments(block, weight)
    residual, inputs = factors(block)
    n_samples, _, t, _ = residual.shape
    if shared == "reduce":
        mean = sp.kron(sp.eye_array(n_samples), np.full((1, t), 1 / t), format="csr")
        inputs, residual, t = mean @ inputs, residual.sum(axis=2, keepdims=True), 1
    scaled = np.repeat(weight / t, t)
    if sp.issparse(inputs):
        moment = (inputs.T @ (sp.diags_array(scaled) @ inputs)).toarray()
    else:
        # Double precision, whatever the factors have, so that a null space shows as one.
        root = inputs * np.sqrt(scaled)[:, None]
        moment = root.T @ root
    return LayerMoments(moment, _outer_sum(residual), block.has_bias)


def _outer_sum(residual):
    """Sum of ``r r'`` over samples, rows and positions, (c, c), in double precision."""
    n_samples, s, t, c = residual.shape
    total = np.zeros((c, c))
    for batch in batches(n_samples, 8 * s * t * c, at_most=CACHED_BYTES):
        part = residual[batch].astype(np.float64)
        if by_samples(part):
            total += np.matmul(part.transpose(0, 1, 3, 2), part).sum(axis=(0, 1))
        else:
            flat = part.reshape(-1, c)
            total += flat.T @ flat
    return total
