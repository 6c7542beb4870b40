"""The factors of layers: their rows taken apart, and their moments."""

from dataclasses import dataclass
from functools import cached_property, partial
from operator import add

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence._utils.namespace import astype, beside, in_double, namespace, to_numpy, zeros
from skinfluence._utils.progress import track
from skinfluence.curvature.kronecker._eigenpairs import Eigenpairs
from skinfluence.curvature.kronecker._tokens import token_moments

# Bytes of factors, in double precision, that are taken apart at once: at most, and at least even
# where the working memory is smaller, as products of fewer would be spent on the other factor.
FACTOR_BYTES = 2**25
MANY_BYTES = 2**23

# Slices of so many bytes stay in the cache between their conversion and their products.
CACHED_BYTES = 2**20


def block_batches(rows):
    """Slices of samples and the blocks of their rows, whose factors are few."""
    if not len(rows):
        return
    sample_bytes = 8 * rows[:1].n_stored
    parts = batches(rows.n_samples, sample_bytes, at_least=MANY_BYTES, at_most=FACTOR_BYTES)
    for batch in track(parts, "batches of rows"):
        yield batch, rows[batch].device_blocks


def factors(block):
    """Output gradients (n, s, t, c) and inputs with a 1 for the bias, (n * t, d)."""
    residual, inputs = block.position_residuals, block.activation
    if block.has_bias:
        one = namespace(residual).ones_like(residual[:, 0, :, :1]).reshape(-1, 1)
        stack = sp.hstack if sp.issparse(inputs) else partial(namespace(one).concatenate, axis=1)
        inputs = stack([inputs, one])
    if sp.issparse(inputs):
        return residual, sp.csr_array(inputs)
    return residual, astype(inputs, residual.dtype)


def by_samples(residual):
    """Whether products with output gradients (n, s, t, c) are taken sample by sample.

    As one matrix, those of a convolution would be copied: their positions lie last in memory. With
    few positions, NumPy would take longer over the samples than over the copy.
    """
    return residual.shape[2] > residual.shape[3]


def matrix_of(columns, shape, has_bias):
    """Columns ``[W.ravel(), b]`` (m, c * d) as matrices ``[W, b]`` (m, c, d)."""
    c, d = shape
    if not has_bias:
        return columns.reshape(-1, c, d)
    weights = columns[:, : c * (d - 1)].reshape(-1, c, d - 1)
    parts = [weights, columns[:, c * (d - 1) :, None]]
    return namespace(columns).concatenate(parts, axis=2)


def columns_of(matrices, has_bias):
    """Matrices ``[W, b]`` (m, c, d) as columns ``[W.ravel(), b]``."""
    m = len(matrices)
    if not has_bias:
        return matrices.reshape(m, -1)
    parts = [matrices[:, :, :-1].reshape(m, -1), matrices[:, :, -1]]
    return namespace(matrices).concatenate(parts, axis=1)


@dataclass
class LayerMoments:
    """Moments of one layer.

    Parameters
    ----------
    inputs : {ndarray, tensor} of shape (d, d)
        A, the mean over samples (and positions) of ``[u, 1][u, 1]'``.
    outputs : {ndarray, tensor} of shape (c, c)
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
    def eigenpairs(self):
        """Eigenpairs of A and of E."""
        return Eigenpairs.of(self.inputs), Eigenpairs.of(self.outputs)

    @property
    def spectra(self):
        """Eigenvalues of A and of E, ascending."""
        return [pairs.values for pairs in self.eigenpairs]

    def __add__(self, other):
        return LayerMoments(
            self.inputs + other.inputs, self.outputs + other.outputs, self.has_bias
        )


@dataclass
class DenseMoment:
    """Moment of a block of parameters that is no linear layer.

    Parameters
    ----------
    matrix : {ndarray, tensor} of shape (p, p)
        The sum of the outer products of the rows.
    """

    matrix: np.ndarray

    is_layer = False

    @property
    def shape(self):
        """Number of parameters, (p,)."""
        return self.matrix.shape[:1]

    @cached_property
    def eigenpairs(self):
        """Eigenpairs of the matrix."""
        return Eigenpairs.of(self.matrix)

    @property
    def spectrum(self):
        """Eigenvalues, (p,)."""
        return self.eigenpairs.values

    def __add__(self, other):
        return DenseMoment(self.matrix + other.matrix)


@dataclass
class DiagonalMoment:
    """The diagonal of a `DenseMoment`.

    Parameters
    ----------
    values : {ndarray, tensor} of shape (p,)
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
        return to_numpy(self.values)

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
        inputs, residual, t = _position_means(inputs, t), residual.sum(axis=2, keepdims=True), 1
    scaled = np.repeat(weight / t, t)
    if sp.issparse(inputs):
        moment = (inputs.T @ (sp.diags_array(scaled) @ inputs)).toarray()
    else:
        # Double precision, whatever the factors have, so that a null space shows as one.
        root = inputs * beside(np.sqrt(scaled), inputs)[:, None]
        moment = root.T @ root
    return LayerMoments(moment, _outer_sum(residual), block.has_bias)


def _position_means(inputs, t):
    """Means of the inputs (n * t, d) over the positions of each sample, (n, d)."""
    n_samples = inputs.shape[0] // t
    if sp.issparse(inputs):
        return sp.kron(sp.eye_array(n_samples), np.full((1, t), 1 / t), format="csr") @ inputs
    return inputs.reshape(n_samples, t, -1).mean(axis=1, dtype=namespace(inputs).float64)


def _outer_sum(residual):
    """Sum of ``r r'`` over samples, rows and positions, (c, c), in double precision."""
    n_samples, s, t, c = residual.shape
    found = zeros((c, c), residual)
    # Of fewer rows than columns, adding the product would take longer than the product.
    at_most = max(CACHED_BYTES, 8 * 4 * c * c)
    for batch in batches(n_samples, 8 * s * t * c, at_most=at_most):
        part = in_double(residual[batch])
        if by_samples(part):
            found += (part.swapaxes(2, 3) @ part).sum(axis=(0, 1))
        else:
            flat = part.reshape(-1, c)
            found += flat.T @ flat
    return found
