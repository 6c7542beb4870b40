"""Weighted means and spreads of the columns of features, piece by piece."""

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import near_batches

# Distance of a mean from 0, in standard deviations, up to which products lose fewer than three of
# sixteen digits.
FAR = 30.0

# Distance of a mean from there, in standard deviations, from which on sums are taken again, around
# the mean; and what rounding leaves of the distance for a column that is constant.
TOO_FAR, ROUNDING = 1e4, 1e-10


class Moments:
    """Weighted sums of the columns of features, and of their squares, around given values.

    Around values near the means, neither sum loses digits, and pieces of the features add up to
    the same numbers whatever their sizes.

    Parameters
    ----------
    origin : ndarray of shape (d,)
        Values around which sums are taken.

    Attributes
    ----------
    n_samples : int
        Number of samples.
    total : float
        Sum of their weights.
    are_sparse : bool
        Whether the features are sparse.
    """

    # First rows, which tell about where the values of a column lie.
    n_first = 256

    def __init__(self, origin):
        self.origin = origin
        self.n_samples, self.total, self.are_sparse = 0, 0.0, False
        self._first, self._second = np.zeros((2, len(origin)))
        self._n_entries = np.zeros(len(origin), dtype=np.int64)

    @classmethod
    def near(cls, features):
        """Empty sums around values of the first rows, 0 for sparse columns with zeros there."""
        return cls(_first_values(features))

    def __add__(self, other):
        """Sums over these samples and others, around the same values."""
        both = Moments(self.origin)
        both.are_sparse = self.are_sparse or other.are_sparse
        for name in ("n_samples", "total", "_first", "_second", "_n_entries"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    @classmethod
    def of(cls, pieces):
        """Moments of all pieces.

        Parameters
        ----------
        pieces : callable
            ``pieces()`` gives features (n, d) and their weights (n,), piece by piece. Called
            twice where the first rows are far from most others.

        Returns
        -------
        Moments
        """
        found = None
        for features, weight in pieces():
            found = cls.near(features) if found is None else found
            found.add(features, weight)
        if not found.are_close:
            around = cls(found.mean)
            for features, weight in pieces():
                around.add(features, weight)
            return around
        return found

    def add(self, features, weight):
        """Take in more samples.

        Parameters
        ----------
        features : {array, CSR matrix} of shape (n_samples, d)
            Features.
        weight : ndarray of shape (n_samples,)
            Their weights, non-negative.
        """
        self.n_samples += len(weight)
        self.total += weight.sum()
        if getattr(features, "is_sparse", sp.issparse(features)):
            self.are_sparse = True
            self._add_sparse(features[:], weight)
            return
        self._n_entries += len(weight)
        for batch in near_batches(len(weight), 8 * features.shape[1]):
            part = np.asarray(features[batch], dtype=np.float64) - self.origin
            self._first += weight[batch] @ part
            self._second += weight[batch] @ np.square(part, out=part)

    def _add_sparse(self, features, weight):
        entries = np.bincount(features.indices, minlength=features.shape[1])
        first, second = features.T @ weight, features.multiply(features).T @ weight
        second += self.origin * (weight.sum() * self.origin - 2 * first)
        first -= weight.sum() * self.origin
        # Columns with zeros spread about as far as their mean, others perhaps not at all.
        full = np.flatnonzero(entries == len(weight))
        part = features[:, full].toarray() - self.origin[full]
        first[full], second[full] = weight @ part, weight @ np.square(part)
        self._first += first
        self._second += second
        self._n_entries += entries

    @property
    def _distance(self):
        """Means, from where sums are taken."""
        return self._first / self.total

    @property
    def mean(self):
        """Weighted mean of every column, (d,)."""
        return self.origin + self._distance

    @property
    def spread(self):
        """Weighted standard deviation of every column, (d,)."""
        return np.sqrt(np.maximum(self._second / self.total - self._distance**2, 0.0))

    @property
    def is_full(self):
        """Columns that hold a number in every row, as all dense ones do, bool (d,)."""
        return self._n_entries == self.n_samples

    @property
    def are_close(self):
        """Whether the sums lose no digit that a spread needs."""
        near = TOO_FAR * self.spread + ROUNDING * np.abs(self.origin)
        return bool(((np.abs(self._distance) <= near) | ~self.is_full).all())

    @property
    def are_far_from_0(self):
        """Whether the mean of some column is so far from 0 that products lose digits."""
        return bool((np.abs(self.mean) > FAR * self.spread).any())


def _first_values(features):
    first = features[: Moments.n_first]
    if not getattr(first, "is_sparse", sp.issparse(first)):
        return np.asarray(first, dtype=np.float64).mean(axis=0)
    full = np.bincount(first.indices, minlength=first.shape[1]) == first.shape[0]
    return np.where(full, np.asarray(first.mean(axis=0)).ravel(), 0.0)
