"""Random subsets of the training rows."""

import numpy as np


def draw_subsets(strata, n_subsets, share, random_state):
    """Subsets that hold the same share of every stratum, up to whole rows.

    The first subsets do not depend on how many are drawn.

    Parameters
    ----------
    strata : ndarray of int of shape (n_train,)
        Stratum of each training row.
    n_subsets : int
        Number of subsets.
    share : float
        Share of the rows that each subset keeps.
    random_state : RandomState
        Draws the subsets.

    Returns
    -------
    ndarray of bool of shape (n_subsets, n_train)
    """
    n_train = len(strata)
    counts = np.bincount(strata)
    kept = np.zeros((n_subsets, n_train), dtype=bool)
    for subset in kept:
        order = random_state.permutation(n_train)
        order = order[np.argsort(strata[order], kind="stable")]
        rank = np.arange(n_train) - np.repeat(np.cumsum(counts) - counts, counts)
        sizes = _sizes(counts, share, random_state)
        subset[order] = rank < np.repeat(sizes, counts)
    return kept


def _sizes(counts, share, random_state):
    """Rows that a subset takes of each stratum: one at least, the same number in all."""
    exact = share * counts
    sizes = np.floor(exact).astype(int)
    missing = round(exact.sum()) - sizes.sum()
    # The rows that are left over by rounding down go to the largest remainders, ties by chance.
    order = np.lexsort((random_state.permutation(len(counts)), sizes - exact))
    sizes[order[:missing]] += 1
    return np.maximum(sizes, np.minimum(counts, 1))
