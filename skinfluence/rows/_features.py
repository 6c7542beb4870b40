"""Features with their centre taken off, never written out as a whole.

A column with a large mean and a small spread (a year, a timestamp) loses its digits in products.
So dense features are shifted batch by batch before a product. Sparse ones keep their zeros,
``(X - 1 c') V = X V - 1 (c' V)``, but for columns without any zero: those are shifted too.
"""

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import near_batches
from skinfluence._utils.stored_once import StoredOnce


class CentredFeatures(StoredOnce):
    """Features ``x_i - centre``.

    Parameters
    ----------
    features : {array, CSR matrix} of shape (n_samples, d)
        Features as they came, in any precision; not copied.
    centre : ndarray of shape (d,)
        What is taken off.
    constant : ndarray of bool of shape (d,)
        Columns whose spread is rounding alone: they become 0.
    """

    # NumPy would otherwise compute products of arrays with these by itself.
    __array_ufunc__ = None

    def __init__(self, features, centre, constant):
        self.features = features
        self.centre = centre
        self.constant = constant

    @property
    def shape(self):
        """Samples and columns."""
        return self.features.shape

    @property
    def is_sparse(self):
        """Whether products keep the zeros of the features."""
        return sp.issparse(self.features)

    @property
    def size(self):
        """Numbers that are stored: those of dense features, the entries of sparse ones."""
        return self.features.size

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, samples):
        return CentredFeatures(self.features[samples], self.centre, self.constant)

    def __array__(self, dtype=None, copy=None):
        del copy
        dense = self.features.toarray() if self.is_sparse else self.features
        centred = np.asarray(dense, dtype=np.float64) - self.centre
        if self.constant.any():
            centred[:, self.constant] = 0.0
        return centred if dtype is None else centred.astype(dtype, copy=False)

    def __matmul__(self, matrix):
        """Product with an array (d, m) or a sketch of d columns."""
        if self.is_sparse:
            return np.asarray(self.features @ matrix) - self.centre[None] @ matrix
        parts = [np.asarray(self[batch]) @ matrix for batch in self._batches()]
        return np.concatenate(parts) if parts else np.asarray(self) @ matrix

    def __rmatmul__(self, matrix):
        """Product of an array (m, n_samples) with the features."""
        if self.is_sparse:
            return np.asarray(matrix @ self.features) - np.outer(matrix.sum(axis=1), self.centre)
        out = np.zeros((len(matrix), self.shape[1]))
        for batch in self._batches():
            out += matrix[:, batch] @ np.asarray(self[batch])
        return out

    def _batches(self):
        return near_batches(len(self), 8 * self.shape[1])

    def gram(self, other):
        """Inner products with other centred features, (n_samples, n_others)."""
        if not (self.is_sparse and other.is_sparse):
            return np.asarray(self) @ np.asarray(other).T
        inner = (self.features @ other.features.T).toarray()
        left, right = self.features @ self.centre, other.features @ self.centre
        return inner - left[:, None] - right + self.centre @ self.centre

    def squared_norms(self):
        """Squared Euclidean norm of every sample."""
        if self.is_sparse:
            squares = np.asarray(self.features.multiply(self.features).sum(axis=1)).ravel()
            return squares - 2 * (self.features @ self.centre) + self.centre @ self.centre
        norms = [
            np.einsum("nd,nd->n", x, x) for x in (np.asarray(self[b]) for b in self._batches())
        ]
        return np.concatenate(norms) if norms else np.empty(0)

    def weighted_gram(self, weight):
        """``(X - 1 c')' diag(weight) (X - 1 c')`` of sparse features, (d, d)."""
        scaled = self.features.multiply(weight[:, None]).tocsr()
        sums = np.asarray(scaled.sum(axis=0)).ravel()
        edge = np.outer(sums, self.centre)
        total = weight.sum() * np.outer(self.centre, self.centre)
        return np.asarray((self.features.T @ scaled).todense()) - edge - edge.T + total


class Centring:
    """Takes the weighted mean off features, of training rows and of queries alike.

    Parameters
    ----------
    moments : Moments
        Weighted means and spreads of the columns of the training rows.
    """

    def __init__(self, moments):
        mean, spread = moments.mean, moments.spread
        # What the subtraction leaves of a column that is constant.
        noise = 8 * np.finfo(np.float64).eps * np.abs(mean)
        self.constant = (spread > 0) & (spread <= noise)
        # Columns that never change.
        self.is_flat = spread <= noise
        self.centre = mean.copy()
        self.centre[~self.is_flat] = _rounded(mean[~self.is_flat], spread[~self.is_flat])
        self._full = np.zeros(len(mean), dtype=bool)
        if moments.are_sparse:
            self._full = moments.is_full
            self.constant &= self._full

    def __call__(self, features):
        """Centred features.

        Parameters
        ----------
        features : {array, CSR matrix} of shape (n_samples, d)
            Training rows or queries.

        Returns
        -------
        CentredFeatures
        """
        if not sp.issparse(features):
            return CentredFeatures(features, self.centre, self.constant)
        nowhere = np.zeros_like(self.constant)
        shifted = self._shifted(features) if self._full.any() else features
        return CentredFeatures(shifted, np.where(self._full, 0.0, self.centre), nowhere)

    def _shifted(self, features):
        """Sparse features whose columns without a zero are centred already."""
        columns = np.flatnonzero(self._full)
        block = features[:, columns].toarray() - self.centre[columns]
        block[:, self.constant[columns]] = 0.0
        rest = features @ sp.diags_array(1.0 - self._full)
        n, k = block.shape
        own = (block.ravel(), np.tile(columns, n), np.arange(n + 1) * k)
        return sp.csr_matrix(rest + sp.csr_matrix(own, shape=features.shape))


def _rounded(mean, spread):
    """Means to 40 of their 53 binary digits, or to a sixteenth of the spread where that is finer.

    Weights that are known up to rounding then give the same mean, and so do pieces of the rows.
    """
    digits = np.exp2(np.floor(np.log2(np.abs(mean) + np.finfo(float).tiny)) - 40)
    unit = np.minimum(digits, spread / 16)
    # A power of 2, so that nothing else is rounded.
    unit = np.exp2(np.floor(np.log2(np.maximum(unit, np.finfo(float).tiny))))
    return np.round(mean / unit) * unit
