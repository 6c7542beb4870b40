"""Factorised sketches of the layers of a network, and their sizes."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch

from skinfluence._utils.namespace import beside, dot
from skinfluence.curvature._space import Space
from skinfluence.curvature.kronecker._factors import (
    block_batches,
    columns_of,
    factors,
    matrix_of,
)
from skinfluence.curvature.kronecker._tokens import TokenSketch
from skinfluence.rows import BlockRows, DenseRows, layer_rows
from skinfluence.sketching import effective_dimension, influence_min_dim


def describe(name, layer, ridge):
    """Shape and effective dimensions of a layer, or of another block.

    Parameters
    ----------
    name : str
        Name of the block.
    layer : LayerMoments, TokenMoments, DenseMoment or DiagonalMoment
        Moments of the block.
    ridge : float
        Added to the eigenvalues of the curvature.

    Returns
    -------
    Bunch
    """
    if not layer.is_layer:
        dimension = effective_dimension(layer.spectrum, ridge)
        return Bunch(
            name=name,
            shape=layer.shape,
            sketch_shape=None,
            inputs_dimension=None,
            outputs_dimension=dimension,
            product=dimension,
            bound=dimension,
            effective_dimension=dimension,
        )
    alpha, gamma = layer.spectra
    of_inputs = effective_dimension(alpha * gamma[-1], ridge)
    of_outputs = effective_dimension(gamma * alpha[-1], ridge)
    largest = max(alpha[-1] * gamma[-1], np.finfo(np.float64).tiny)
    return Bunch(
        name=name,
        shape=layer.shape,
        sketch_shape=None,
        inputs_dimension=of_inputs,
        outputs_dimension=of_outputs,
        product=of_inputs * of_outputs,
        # f(xy / M) <= (1 + ridge / M) f(x) f(y) for f(x) = x / (x + ridge), x, y <= M.
        bound=of_inputs * of_outputs * (1 + ridge / largest),
        effective_dimension=effective_dimension(np.outer(alpha, gamma).ravel(), ridge),
    )


def sketch_sizes(sketch_size, layers, reports, ridge, *, kind="nystrom", eps=0.25, delta=0.05):
    """Sizes ``(m_A, m_E)`` of the sketches of all layers, None for other blocks.

    Parameters
    ----------
    sketch_size : {"auto"}, float, int or (int, int)
        As `KFACInfluence` takes it.
    layers : list of LayerMoments, TokenMoments, DenseMoment or DiagonalMoment
        Moments of the blocks.
    reports : list of Bunch
        Reports of `describe` on the blocks.
    ridge : float
        Added to the eigenvalues of the curvature.
    kind : {"nystrom", "gaussian"}, default="nystrom"
        Kind of sketch, for "auto".
    eps, delta : float
        Largest error for "auto", and the share of seeds that may exceed it.

    Returns
    -------
    list of (int, int) or None
    """
    if isinstance(sketch_size, float):
        wanted = _by_share(sketch_size, layers, ridge)
    elif sketch_size == "auto":
        wanted = [
            _by_error(layer, report, ridge, kind, eps, delta) if layer.is_layer else None
            for layer, report in zip(layers, reports, strict=True)
        ]
    else:
        wanted = [
            _of_layer(sketch_size, layer, report) if layer.is_layer else None
            for layer, report in zip(layers, reports, strict=True)
        ]
    return [
        pair and tuple(np.clip(pair, 1, layer.shape[::-1]).tolist())
        for pair, layer in zip(wanted, layers, strict=True)
    ]


def _by_share(share, layers, ridge):
    """Sizes that add up to a share of all directions and keep most effective dimension.

    Let ``f_ij`` be the effective dimension of input direction i with output direction j. Leaving
    out a direction loses at most the sum of its ``f`` over the other factor, so the directions
    with the largest sums are kept.
    """
    sums = [_sums(layer, ridge) if layer.is_layer else None for layer in layers]
    every = np.sort(np.concatenate([side for pair in sums if pair for side in pair]))[::-1]
    smallest = every[max(1, round(share * len(every))) - 1]
    return [pair and [np.count_nonzero(side >= smallest) for side in pair] for pair in sums]


def _sums(layer, ridge):
    """Effective dimension of each direction of the inputs and of the outputs."""
    spectra = [np.clip(values, 0, None) for values in layer.spectra]
    products = np.outer(*spectra)
    dimension = np.divide(products, products + ridge, out=products, where=products > 0)
    return dimension.sum(axis=1), dimension.sum(axis=0)


def _by_error(layer, report, ridge, kind, eps, delta):
    """Sizes whose uniform error, relative to the self-influences without a ridge, is below eps.

    Random sketches follow the rule of `influence_min_dim` for each factor. Eigenvectors that are
    left out have the error ``x / (x + ridge)``, with x their largest eigenvalue in ``A (x) E``.
    """
    if kind == "gaussian":
        dimensions = report.inputs_dimension, report.outputs_dimension
        return [influence_min_dim(d, eps=eps, delta=delta) for d in dimensions]
    alpha, gamma = layer.spectra
    smallest = ridge * eps / (1 - eps)
    return [np.count_nonzero(x > smallest) for x in (alpha * gamma[-1], gamma * alpha[-1])]


def _of_layer(sketch_size, layer, report):
    dimensions = np.array([report.inputs_dimension, report.outputs_dimension])
    if isinstance(sketch_size, tuple):
        return _checked_pair(sketch_size)
    of_inputs, of_outputs = np.maximum(dimensions, 1)
    m_outputs = round(np.sqrt(sketch_size * of_outputs / of_inputs))
    m_outputs = int(np.clip(m_outputs, 1, layer.shape[0]))
    return sketch_size // m_outputs, m_outputs


def _checked_pair(pair):
    if len(pair) != 2 or not all(isinstance(size, Integral) and size >= 1 for size in pair):
        raise ValueError(
            "sketch_size must be None, 'auto', a share, an integer of at least 1 or a pair "
            f"(m_A, m_E) of them. Got {pair!r} instead."
        )
    return pair


def draw_layer_sketch(layer, sizes, kind, random_state):
    """Sketch of a layer, or an `UnsketchedBlock` for other parameters.

    Parameters
    ----------
    layer : LayerMoments, TokenMoments, DenseMoment or DiagonalMoment
        Moments of the block.
    sizes : (int, int) or None
        ``(m_A, m_E)``, None for a dense block.
    kind : {"nystrom", "gaussian"}
        Leading eigenvectors of the moments, or random matrices.
    random_state : RandomState
        Draws random matrices.
    """
    if sizes is None:
        return UnsketchedBlock(*layer.shape)
    if layer.reads_tokens and kind == "nystrom":
        return TokenSketch(*layer.leading(*sizes), layer.shape)
    if kind == "nystrom":
        sides = zip(layer.eigenpairs, sizes, strict=True)
        pair = [pairs.leading(size) for pairs, size in sides]
    else:
        sides = zip(reversed(layer.shape), sizes, strict=True)
        pair = [random_state.standard_normal((m, n)) / np.sqrt(m) for n, m in sides]
    return LayerSketch(*pair, layer.has_bias)


class UnsketchedBlock:
    """A block of parameters that is no linear layer and stays unsketched."""

    def __init__(self, size):
        self.lengths = (size, size)

    def project(self, block):
        """The rows themselves."""
        return block.on_host()

    def lift(self, columns):
        """The columns themselves."""
        return columns

    penalty = lift


class LayerSketch:
    """``P_A (x) P_E`` of one layer, never multiplied out.

    Parameters
    ----------
    inputs : ndarray of shape (m_A, d)
        ``P_A``.
    outputs : ndarray of shape (m_E, c)
        ``P_E``.
    has_bias : bool
        Whether the last input is the 1 of the bias.
    """

    def __init__(self, inputs, outputs, has_bias):
        self.inputs = inputs
        self.outputs = outputs
        self.has_bias = has_bias

    @property
    def lengths(self):
        """Columns of the layer's rows, and of their sketch."""
        (m_inputs, d), (m_outputs, c) = self.inputs.shape, self.outputs.shape
        return c * d, m_outputs * m_inputs

    def project(self, block):
        """Rows with the factors ``P_E r`` and ``P_A u``."""
        if not block.is_layer:
            matrices = matrix_of(block.toarray(), self._shape, self.has_bias)
            sketched = self.outputs @ matrices @ self.inputs.T
            return DenseRows(sketched.reshape(len(sketched), -1), block.rows_per_sample)
        residual, inputs = factors(block)
        sides = zip((residual, inputs), self._pair, strict=True)
        return layer_rows(*(dot(side, beside(matrix, side).T) for side, matrix in sides)).on_host()

    @property
    def _shape(self):
        return self.outputs.shape[1], self.inputs.shape[1]

    def lift(self, columns):
        """``P'`` times vectors."""
        sketched = columns.reshape(len(columns), len(self.outputs), len(self.inputs))
        return columns_of(self.outputs.T @ sketched @ self.inputs, self.has_bias)

    def penalty(self, columns):
        """Penalty on the sketched columns, its mean weighted by each row of the sketch."""
        matrices = matrix_of(columns, self._shape, self.has_bias)
        rows, columns = (p**2 / (p**2).sum(axis=1, keepdims=True) for p in self._pair)
        return (rows @ matrices @ columns.T).reshape(len(matrices), -1)

    @property
    def _pair(self):
        return self.outputs, self.inputs


class LayerSpace(Space):
    """The sketches of all layers side by side.

    Parameters
    ----------
    sketches : list of LayerSketch, TokenSketch or UnsketchedBlock
        One for each block of columns.
    penalty : ndarray of shape (n_coordinates,)
        Penalty of the mean objective.
    """

    is_identity = is_full = False

    def __init__(self, sketches, penalty):
        self.sketches = sketches
        lengths = [sketch.lengths[0] for sketch in sketches]
        parts = np.split(penalty[None], np.cumsum(lengths)[:-1], axis=1)
        pairs = zip(sketches, parts, strict=True)
        super().__init__(np.hstack([sketch.penalty(part) for sketch, part in pairs])[0])

    def project(self, rows):
        parts = [
            [sketch.project(block) for sketch, block in zip(self.sketches, blocks, strict=True)]
            for _, blocks in block_batches(rows)
        ]
        pieces = zip(*parts, strict=True)
        return BlockRows([same[0].concatenated(same[1:]) for same in pieces])

    def lift(self, array):
        lengths = [sketch.lengths[1] for sketch in self.sketches]
        parts = np.split(array, np.cumsum(lengths)[:-1], axis=1)
        pairs = zip(self.sketches, parts, strict=True)
        return np.hstack([sketch.lift(part) for sketch, part in pairs])
