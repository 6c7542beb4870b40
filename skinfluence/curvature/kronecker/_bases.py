"""Eigenbases of the blocks of a curvature.

Eigenvectors, and rows in the basis, are tensors where the moments are; eigenvalues are arrays.
"""

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.namespace import beside, like, namespace, to_numpy, zeros
from skinfluence.curvature.kronecker._factors import (
    FACTOR_BYTES,
    DenseMoment,
    DiagonalMoment,
    LayerMoments,
    by_samples,
    columns_of,
    factors,
    matrix_of,
)
from skinfluence.curvature.kronecker._tokens import TokenBasis, TokenMoments
from skinfluence.rows import layer_rows


class KroneckerBasis:
    """Eigenbasis ``Q_A (x) Q_E`` of a layer, and the eigenvalues of the curvature in it.

    Parameters
    ----------
    moments : LayerMoments
        Moments of the layer.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty on its columns.
    """

    def __init__(self, moments, penalty):
        self.has_bias = moments.has_bias
        self.shape = moments.shape
        penalty = self._as_matrix(penalty)
        of_inputs, of_outputs = moments.eigenpairs
        alpha, self.inputs = of_inputs.chosen_by(penalty.mean(axis=0))
        gamma, self.outputs = of_outputs.chosen_by(penalty.mean(axis=1))
        self.values = np.clip(gamma, 0, None)[:, None] * np.clip(alpha, 0, None)
        # The diagonal of the penalty in the basis, exact where it is constant.
        ridge = (self.outputs**2).T @ like(penalty, self.outputs) @ self.inputs**2
        self.ridge = to_numpy(ridge)

    def _as_matrix(self, column):
        return matrix_of(column[None], self.shape, self.has_bias)[0]

    def rotated(self, block):
        """Gradients in the basis, (n_rows, c, d), from a block of rows."""
        if not block.is_layer:
            return self.rotated_columns(block.written())
        residual, inputs = self._rotated_factors(block)
        n_samples, s, t, c = residual.shape
        if t == 1:
            rotated = residual[:, :, 0, :, None] * inputs[:, None, None, :]
        else:
            inputs = inputs.reshape(n_samples, 1, t, -1)
            rotated = namespace(residual).matmul(residual.swapaxes(2, 3), inputs)
        return rotated.reshape(n_samples * s, c, -1)

    def _rotated_factors(self, block):
        residual, inputs = (beside(part, self.outputs) for part in factors(block))
        outputs, own = self._in_precision(residual)
        flat = residual if by_samples(residual) else residual.reshape(-1, residual.shape[3])
        return (flat @ outputs).reshape(residual.shape), inputs @ own

    def _in_precision(self, array):
        """Eigenvectors of both factors, in the precision of an array."""
        return [like(part, array) for part in (self.outputs, self.inputs)]

    def rotated_rows(self, block):
        """Rows in the basis, (n_rows, c * d), factored as the rows of a layer are."""
        return layer_rows(*self._rotated_factors(block))

    def rotated_columns(self, columns):
        """The same from written out rows."""
        matrices = matrix_of(beside(columns, self.outputs), self.shape, self.has_bias)
        return self.outputs.T @ matrices @ self.inputs

    def unrotated_columns(self, rotated):
        """Columns of the rows from gradients in the basis."""
        outputs, inputs = self._in_precision(rotated)
        return columns_of(outputs @ rotated @ inputs.T, self.has_bias)

    def second_moment(self, block):
        """Sum over the rows of the squares of their entries in the basis, (c, d)."""
        residual, inputs = self._rotated_factors(block)
        n_samples, s, t, c = residual.shape
        if t == 1:
            return (residual**2).sum(axis=(1, 2)).T @ inputs**2
        total, library = zeros(self.shape, residual), namespace(residual)
        for batch in batches(n_samples, 8 * s * self.values.size, at_most=FACTOR_BYTES):
            part = residual[batch].swapaxes(2, 3)
            rotated = library.matmul(part, inputs.reshape(n_samples, 1, t, -1)[batch])
            squares = library.square(rotated, out=rotated).reshape(-1, self.values.size)
            total += (library.ones_like(squares[:, 0]) @ squares).reshape(self.shape)
        return total


class DenseBasis:
    """Eigenbasis of a block of parameters that is no linear layer.

    Parameters
    ----------
    moments : DenseMoment
        Moment of the block.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty on its columns.
    """

    def __init__(self, moments, penalty):
        values, self.vectors = moments.eigenpairs.chosen_by(penalty)
        self.values = np.clip(values, 0, None)
        self.ridge = to_numpy((self.vectors**2).T @ like(penalty, self.vectors))

    def rotated(self, block):
        """Rows in the basis, (n_rows, p)."""
        return self.rotated_columns(block.written())

    def rotated_columns(self, columns):
        """The same from written out rows."""
        return beside(columns, self.vectors) @ self.vectors

    def unrotated_columns(self, rotated):
        """Columns of the rows from rows in the basis."""
        return rotated @ self.vectors.T

    def second_moment(self, block):
        """Sum over the rows of their squares in the basis, (p,)."""
        rotated = self.rotated(block)
        return namespace(rotated).einsum("np,np->p", rotated, rotated)


class DiagonalBasis:
    """The coordinates themselves, in which a diagonal moment is diagonal.

    Parameters
    ----------
    moments : DiagonalMoment
        Moment of the block.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty on its columns.
    """

    def __init__(self, moments, penalty):
        self.values = to_numpy(moments.values)
        self.ridge = penalty

    def rotated(self, block):
        """Rows in the basis, (n_rows, p)."""
        return block.written()

    def rotated_columns(self, columns):
        """The columns themselves."""
        return columns

    unrotated_columns = rotated_columns

    def second_moment(self, block):
        """Sum over the rows of their squares, (p,)."""
        return block.column_squares()


def basis_of(moments, penalty):
    """Eigenbasis of a block.

    Parameters
    ----------
    moments : LayerMoments, TokenMoments, DenseMoment or DiagonalMoment
        Moments of the block.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty on its columns.
    """
    return _BASES[type(moments)](moments, penalty)


_BASES = {
    LayerMoments: KroneckerBasis,
    DenseMoment: DenseBasis,
    DiagonalMoment: DiagonalBasis,
    TokenMoments: TokenBasis,
}
