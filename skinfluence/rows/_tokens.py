"""Rows of an embedding, whose inputs are one-hot vectors of tokens.

Conventions
-----------
As in ``skinfluence.rows``, with ``t`` positions of a sample and ``v`` tokens in the vocabulary.
Nothing here has ``v`` numbers for each position, and nothing ``v * v`` numbers at all.
"""

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import batches
from skinfluence._utils.namespace import to_numpy
from skinfluence.rows._base import Rows
from skinfluence.rows._shared import SharedRows


class TokenRows(Rows):
    """Rows ``sum_t residual_t (x) e_(token_t)`` of an embedding.

    Columns are ``W.ravel()`` with W of shape (c, v), as of a linear layer with one-hot inputs.

    Parameters
    ----------
    residual : ndarray of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the embedding of each position.
    tokens : ndarray of int of shape (n_samples, t)
        The token at each position, -1 where the position counts for nothing.
    n_tokens : int
        Size of the vocabulary, v.
    scale : ndarray of shape (n_columns,), default=None
        Factors of the columns.
    """

    has_bias = False
    reads_tokens = True

    def __init__(self, residual, tokens, n_tokens, scale=None):
        self.residual = residual
        self.tokens = tokens
        self.n_tokens = n_tokens
        self.scale = scale

    @property
    def n_samples(self):
        return self.residual.shape[0]

    @property
    def rows_per_sample(self):
        return self.residual.shape[1]

    @property
    def n_stored(self):
        return (self.residual.size + self.tokens.size) / self.n_samples

    @property
    def layer_shape(self):
        """Outputs and inputs, (c, v)."""
        return self.residual.shape[3], self.n_tokens

    @property
    def n_columns(self):
        return self.residual.shape[3] * self.n_tokens

    @property
    def is_layer(self):
        return self.scale is None

    @property
    def position_residuals(self):
        """Residuals by position, (n_samples, rows_per_sample, t, c)."""
        return self.residual

    @property
    def activation(self):
        """One-hot inputs, position after position, CSR of shape (n_samples * t, v)."""
        tokens = self.tokens.ravel()
        data = (tokens >= 0).astype(np.float64)
        shape = len(tokens), self.n_tokens
        return sp.csr_array((data, np.maximum(tokens, 0), np.arange(len(tokens) + 1)), shape)

    def _changed(self, residual, tokens=None):
        tokens = self.tokens if tokens is None else tokens
        return TokenRows(residual, tokens, self.n_tokens, self.scale)

    def mapped(self, matrix):
        """The same rows with residuals ``residual_t @ matrix``, for a matrix (c, m)."""
        return TokenRows(self.residual @ to_numpy(matrix), self.tokens, self.n_tokens)

    def restricted(self, kept):
        """The same rows on a part of the vocabulary.

        Parameters
        ----------
        kept : ndarray of int of shape (m,)
            Tokens that stay, in their new order.
        """
        place = np.full(self.n_tokens + 1, -1)
        place[kept] = np.arange(len(kept))
        # Position -1 of the table stands for the token -1.
        return TokenRows(self.residual, place[self.tokens], len(kept))

    def __getitem__(self, samples):
        return self._changed(self.residual[samples], self.tokens[samples])

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        return self._changed(self.residual[samples, place][:, None], self.tokens[samples])

    def concatenated(self, others):
        parts = [self, *others]
        residual = np.concatenate([rows.residual for rows in parts])
        return self._changed(residual, np.concatenate([rows.tokens for rows in parts]))

    def rescaled(self, scale):
        scale = scale if self.scale is None else scale * self.scale
        return TokenRows(self.residual, self.tokens, self.n_tokens, scale)

    def weighted(self, weight):
        return self._changed(self.residual * np.asarray(weight)[:, None, None, None])

    # The matrix is sparse: a row has c numbers for each of its tokens.

    def condensed(self):
        n, s, t, c = self.residual.shape
        tokens = self.tokens[:, None, :, None]
        index = np.maximum(tokens, 0) + self.n_tokens * np.arange(c)
        index = np.array(np.broadcast_to(index, self.residual.shape)).ravel()
        data = np.where(tokens >= 0, self.residual, 0).astype(np.float64).ravel()
        if self.scale is not None:
            data *= self.scale[index]
        edges = np.arange(n * s + 1) * t * c
        matrix = sp.csr_array((data, index, edges), shape=self.shape)
        # A token that comes twice in a sample has one sum.
        matrix.sum_duplicates()
        return matrix

    def sparse_batches(self):
        """Slices of samples and their CSR rows, with positions and copies."""
        for batch in batches(self.n_samples, 4 * 16 * self.residual[:1].size):
            yield batch, self[batch].condensed()

    def toarray(self):
        return self.condensed().toarray()

    def pieces(self):
        for _, matrix in self.sparse_batches():
            yield sp.csr_matrix(matrix)

    def __matmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return self._as_shared @ matrix

    def __rmatmul__(self, matrix):
        if not isinstance(matrix, np.ndarray):
            return NotImplemented
        return matrix @ self._as_shared

    def dotted_by(self, vectors, out=None):
        return self._as_shared.dotted_by(vectors, out)

    @property
    def _as_shared(self):
        """The same rows as those of a layer: products look tokens up, and sort none."""
        return SharedRows(self.residual, self.activation, has_bias=False, scale=self.scale)

    def inner(self, other, out=None):
        if not isinstance(other, TokenRows):
            return self.inner_by_parts(other, out)
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        for mine, left in self.sparse_batches():
            for theirs, right in other.sparse_batches():
                place = self.row_slice(mine), other.row_slice(theirs)
                out[place] = (left @ right.T).toarray()
        return out

    def moment(self):
        return sum((rows.T @ rows).toarray() for _, rows in self.sparse_batches())

    def column_squares(self):
        return sum(np.asarray(rows.power(2).sum(axis=0)) for _, rows in self.sparse_batches())

    def squared_norms(self):
        norms = [np.asarray(rows.power(2).sum(axis=1)) for _, rows in self.sparse_batches()]
        return np.concatenate(norms)
