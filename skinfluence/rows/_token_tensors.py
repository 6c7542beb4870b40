"""Rows of an embedding on a device."""

import numpy as np

from skinfluence._utils.namespace import (
    beside,
    dot,
    in_double,
    is_tensor,
    n_numbers,
    namespace,
    to_numpy,
    zeros,
)
from skinfluence.rows._shared import SharedRows
from skinfluence.rows._tokens import TokenRows


def token_rows(residual, tokens, n_tokens):
    """Rows of an embedding, from arrays or from tensors.

    Parameters
    ----------
    residual : {ndarray, tensor} of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the embedding of each position.
    tokens : {ndarray, tensor} of int of shape (n_samples, t)
        The token at each position, -1 where the position counts for nothing.
    n_tokens : int
        Size of the vocabulary, v.

    Returns
    -------
    TokenRows or TokenTensorRows
    """
    return (TokenTensorRows if is_tensor(residual) else TokenRows)(residual, tokens, n_tokens)


class TokenTensorRows(SharedRows):
    """Rows ``sum_t residual_t (x) e_(token_t)`` of an embedding on a device.

    The products of `SharedRows` by factors, where one-hot vectors look up their tokens instead.

    Parameters
    ----------
    residual : tensor of shape (n_samples, rows_per_sample, t, c)
        Derivatives with respect to the embedding of each position.
    tokens : tensor of int of shape (n_samples, t)
        The token at each position, -1 where the position counts for nothing.
    n_tokens : int
        Size of the vocabulary, v.
    """

    has_bias = False
    reads_tokens = True
    is_layer = True
    scale = None

    def __init__(self, residual, tokens, n_tokens):
        self.residual = residual
        self.tokens = tokens
        self.n_tokens = n_tokens

    @property
    def n_stored(self):
        return (n_numbers(self.residual) + n_numbers(self.tokens)) / self.n_samples

    @property
    def layer_shape(self):
        return self.residual.shape[3], self.n_tokens

    def __getitem__(self, samples):
        return TokenTensorRows(self.residual[samples], self.tokens[samples], self.n_tokens)

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        residual = self.residual[samples, place][:, None]
        return TokenTensorRows(residual, self.tokens[samples], self.n_tokens)

    def mapped(self, matrix):
        """The same rows with residuals ``residual_t @ matrix``, for a matrix (c, m)."""
        residual = dot(self.residual, beside(matrix, self.residual))
        return TokenTensorRows(residual, self.tokens, self.n_tokens)

    def weighted(self, weight):
        weight = beside(np.asarray(weight), self.residual)[:, None, None, None]
        return TokenTensorRows(self.residual * weight, self.tokens, self.n_tokens)

    def on_host(self):
        return TokenRows(to_numpy(self.residual), to_numpy(self.tokens), self.n_tokens)

    # What products of `SharedRows` ask for.

    def _writes_more(self, m):
        return True

    def _activation_by(self, matrix):
        tokens = self.tokens.flatten()
        return matrix[tokens.clamp(min=0)] * (tokens >= 0)[:, None]

    def _transposed_by(self, matrix):
        tokens = self.tokens.flatten()
        total = matrix.new_zeros((self.n_tokens, matrix.shape[1]))
        return total.index_add_(0, tokens.clamp(min=0), matrix * (tokens >= 0)[:, None])

    # Numbers of the rows themselves, from one sum for each token of a sample.

    def _token_sums(self):
        """Samples and tokens, and the sums over their positions, (n_pairs, s, c) in double."""
        n_samples, s, t, c = self.residual.shape
        kept = (self.tokens >= 0).flatten()
        pairs = self._sample_of_each(t) * self.n_tokens + self.tokens.flatten()
        pairs, place = pairs[kept].unique(return_inverse=True)
        terms = in_double(self.residual).swapaxes(1, 2).reshape(n_samples * t, s, c)[kept]
        sums = terms.new_zeros((len(pairs), s, c)).index_add_(0, place, terms)
        return pairs // self.n_tokens, pairs % self.n_tokens, sums

    def _sample_of_each(self, t):
        index = namespace(self.tokens).arange(self.n_samples, device=self.tokens.device)
        return index.repeat_interleave(t)

    def written(self):
        samples, tokens, sums = self._token_sums()
        n_samples, s, _, c = self.residual.shape
        out = zeros((n_samples, self.n_tokens, s, c), self.residual)
        out[samples, tokens] = sums
        return out.permute(0, 2, 3, 1).reshape(n_samples * s, c * self.n_tokens)

    def column_squares(self):
        _, tokens, sums = self._token_sums()
        squares = namespace(sums).square(sums).sum(axis=1)
        total = squares.new_zeros((self.n_tokens, squares.shape[1]))
        return total.index_add_(0, tokens, squares).T.flatten()

    def squared_norms(self):
        samples, _, sums = self._token_sums()
        squares = namespace(sums).square(sums).sum(axis=2)
        total = squares.new_zeros((self.n_samples, squares.shape[1]))
        return to_numpy(total.index_add_(0, samples, squares).flatten())
