"""Pairs of training rows that are nearly equal."""

import numpy as np
from scipy.sparse import issparse
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

# Rows are nearly equal at this share of the median distance between two random rows.
NEAR = 0.1

# Neighbours of each row that are looked at, and random pairs that give the median distance.
N_NEIGHBOURS, N_PAIRS = 5, 1000


def near_pairs(features):
    """Pairs of rows whose features, in units of their standard deviations, are nearly equal.

    Parameters
    ----------
    features : {ndarray, CSR matrix} of shape (n_samples, ...)
        Rows as the model sees them.

    Returns
    -------
    ndarray of int of shape (n_pairs, 2)
        The first of a pair comes first among the rows. The nearest pairs come first.
    """
    if not issparse(features):
        features = np.reshape(features, (len(features), -1))
    scaled = StandardScaler(with_mean=False).fit_transform(features)
    search = NearestNeighbors(n_neighbors=min(N_NEIGHBOURS, scaled.shape[0] - 1)).fit(scaled)
    distance, neighbour = search.kneighbors()
    row, column = np.nonzero(distance <= NEAR * _typical_distance(scaled))
    pairs = np.sort(np.column_stack([row, neighbour[row, column]]), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return pairs[np.argsort(distance[row, column][first], kind="stable")]


def _typical_distance(features):
    """Median distance between two random rows."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, features.shape[0], (2, N_PAIRS))
    difference = features[left] - features[right]
    squares = difference.multiply(difference) if issparse(difference) else difference**2
    return np.median(np.sqrt(np.asarray(squares.sum(axis=1)).ravel()[left != right]))
