"""The curvature of an embedding, whose inputs are one-hot vectors of tokens.

The moment A of one-hot inputs is diagonal: the frequencies of the tokens. So its eigenvectors are
the tokens themselves, and nothing here has more than ``c * v`` numbers for c outputs and a
vocabulary of v tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinfluence._utils.namespace import beside, in_double, like, namespace, to_numpy
from skinfluence.curvature.kronecker._eigenpairs import Eigenpairs
from skinfluence.rows import DenseRows


@dataclass
class TokenMoments:
    """Moments of an embedding.

    Parameters
    ----------
    inputs : {ndarray, tensor} of shape (v,)
        The diagonal of A: how often each token comes, a mean over samples and positions.
    outputs : {ndarray, tensor} of shape (c, c)
        E, the mean over samples of the sum of ``r r'``.
    """

    inputs: np.ndarray
    outputs: np.ndarray

    is_layer = reads_tokens = True
    has_bias = False

    @property
    def shape(self):
        """Outputs and tokens, (c, v)."""
        return len(self.outputs), len(self.inputs)

    @cached_property
    def eigenpairs(self):
        """Eigenpairs of E."""
        return Eigenpairs.of(self.outputs)

    @property
    def spectra(self):
        """Eigenvalues of A and of E, ascending."""
        return [np.sort(to_numpy(self.inputs)), self.eigenpairs.values]

    def leading(self, n_tokens, n_outputs):
        """The most frequent tokens, and the leading eigenvectors of E, (n_outputs, c)."""
        tokens = np.argsort(-to_numpy(self.inputs), kind="stable")[:n_tokens]
        return tokens, self.eigenpairs.leading(n_outputs)

    def __add__(self, other):
        return TokenMoments(self.inputs + other.inputs, self.outputs + other.outputs)


def token_moments(block, weight):
    """Moments of an embedding.

    Parameters
    ----------
    block : TokenRows or TokenTensorRows
        Factor rows.
    weight : ndarray of shape (n_samples,)
        Weights of the samples.
    """
    _, _, t, c = block.residual.shape
    kept = block.tokens >= 0
    scaled = beside(np.repeat(weight[:, None] / t, t, axis=1), block.residual)
    count = namespace(kept).bincount
    inputs = count(block.tokens[kept], scaled[kept], minlength=block.n_tokens)
    flat = in_double(block.residual.reshape(-1, c))
    return TokenMoments(inputs, flat.T @ flat)


class TokenBasis:
    """Eigenbasis ``I (x) Q_E`` of an embedding, and the eigenvalues of the curvature in it.

    Parameters
    ----------
    moments : TokenMoments
        Moments of the embedding.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty on its columns.
    """

    def __init__(self, moments, penalty):
        self.shape = moments.shape
        penalty = penalty.reshape(self.shape)
        gamma, self.outputs = moments.eigenpairs.chosen_by(penalty.mean(axis=1))
        self.values = np.clip(gamma, 0, None)[:, None] * to_numpy(moments.inputs)
        self.ridge = to_numpy((self.outputs**2).T @ like(penalty, self.outputs))

    def rotated(self, block):
        """Gradients in the basis, (n_rows, c, v), from a block of rows."""
        if not block.is_layer:
            return self.rotated_columns(block.written())
        return self.rotated_rows(block).written().reshape(-1, *self.shape)

    def rotated_rows(self, block):
        """Rows in the basis, (n_rows, c * v), factored as the rows of an embedding are."""
        return block.mapped(self.outputs)

    def rotated_columns(self, columns):
        """The same from written out rows."""
        return self.outputs.T @ beside(columns, self.outputs).reshape(-1, *self.shape)

    def unrotated_columns(self, rotated):
        """Columns of the rows from gradients in the basis."""
        return (like(self.outputs, rotated) @ rotated).reshape(len(rotated), -1)

    def second_moment(self, block):
        """Sum over the rows of the squares of their entries in the basis, (c, v)."""
        return self.rotated_rows(block).column_squares().reshape(self.shape)


class TokenSketch:
    """``P_A (x) P_E`` of an embedding, where ``P_A`` keeps some of the tokens.

    Parameters
    ----------
    tokens : ndarray of int of shape (m_A,)
        Tokens that are kept.
    outputs : ndarray of shape (m_E, c)
        ``P_E``.
    shape : (int, int)
        Outputs and tokens of the embedding, (c, v).
    """

    def __init__(self, tokens, outputs, shape):
        self.tokens = tokens
        self.outputs = outputs
        self.shape = shape

    @property
    def lengths(self):
        """Columns of the embedding's rows, and of their sketch."""
        c, v = self.shape
        return c * v, len(self.outputs) * len(self.tokens)

    def project(self, block):
        """Rows of the kept tokens with the residuals ``P_E r``."""
        if block.is_layer:
            return block.on_host().restricted(self.tokens).mapped(self.outputs.T)
        sketched = self.outputs @ self._kept(block.toarray())
        return DenseRows(sketched.reshape(len(sketched), -1), block.rows_per_sample)

    def _kept(self, columns):
        return columns.reshape(len(columns), *self.shape)[:, :, self.tokens]

    def lift(self, columns):
        """``P'`` times vectors."""
        m = len(columns)
        out = np.zeros((m, *self.shape))
        sketched = columns.reshape(m, len(self.outputs), len(self.tokens))
        out[:, :, self.tokens] = self.outputs.T @ sketched
        return out.reshape(m, -1)

    def penalty(self, columns):
        """Penalty on the sketched columns, its mean weighted by each row of the sketch."""
        shares = self.outputs**2 / (self.outputs**2).sum(axis=1, keepdims=True)
        return (shares @ self._kept(columns)).reshape(len(columns), -1)
