"""The factors of layers: their rows taken apart, and their moments."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from skinfluence.rows import BlockRows, KroneckerRows
from skinfluence.rows._shared import SharedRows


def blocks_of(rows):
    """Blocks of columns of held rows."""
    return rows.blocks if isinstance(rows, BlockRows) else [rows]


def block_batches(rows):
    """Slices of samples and the blocks of their rows."""
    for batch in rows.batches():
        yield batch, blocks_of(rows[batch])


def is_layer(block):
    """Whether a block is a linear layer: with one bias for each output, or with none."""
    if isinstance(block, SharedRows):
        return block.scale is None
    if not isinstance(block, KroneckerRows):
        return False
    if block.intercept_columns.shape[2] == 0:
        return True
    return block.intercept_columns.shape == block.residual.shape and np.array_equal(
        block.intercept_columns, block.residual
    )


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
    """Moments of the layers of factor rows; for other blocks the dense moment.

    Parameters
    ----------
    rows : Rows
        Factor rows of the curvature, the weights of the samples included.
    weight : ndarray of shape (n_samples,)
        These weights, with the sum 1.
    shared : {"expand", "reduce"}
        How the positions of a shared weight enter; see `KFACInfluence`.

    Returns
    -------
    list of Moments or ndarray
    """
    totals = None
    for batch, blocks in block_batches(rows):
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
    return bool(block.bias if isinstance(block, SharedRows) else block.intercept_columns.shape[2])


def _added(left, right):
    if isinstance(left, np.ndarray):
        return left + right
    return Moments(left.inputs + right.inputs, left.outputs + right.outputs, left.has_bias)
