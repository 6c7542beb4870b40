"""Random subsets of the training rows."""

import numpy as np


def draw_subsets(strata, n_subsets, share, random_state):
    """Subsets with the same share of every stratum, rounded to rows.

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
    counts = np.bincount(strata)
    kept = np.zeros((n_subsets, len(strata)), dtype=bool)
    for subset in kept:
        order, rank = shuffled_by_stratum(np.arange(len(strata)), strata, random_state)
        sizes = _sizes(counts, share, random_state)
        subset[order] = rank < sizes[strata[order]]
    return kept


def shuffled_by_stratum(rows, strata, random_state):
    """Rows in random order, one stratum after the other, and their ranks within the strata.

    Parameters
    ----------
    rows : ndarray of int of shape (n_rows,)
        Positions of rows.
    strata : ndarray of int of shape (n_train,)
        Stratum of each training row.
    random_state : RandomState
        Draws the order.

    Returns
    -------
    order : ndarray of int of shape (n_rows,)
        The rows.
    rank : ndarray of int of shape (n_rows,)
        Number of earlier rows of the same stratum.
    """
    order = random_state.permutation(rows)
    order = order[np.argsort(strata[order], kind="stable")]
    counts = np.bincount(strata[order])
    return order, np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)


def _sizes(counts, share, random_state):
    """Rows that a subset takes of each stratum, at least one; the sum is the same for all."""
    exact = share * counts
    sizes = np.floor(exact).astype(int)
    missing = round(exact.sum()) - sizes.sum()
    # Rounding down leaves rows over: the largest remainders get them, ties by chance.
    order = np.lexsort((random_state.permutation(len(counts)), sizes - exact))
    sizes[order[:missing]] += 1
    return np.maximum(sizes, np.minimum(counts, 1))
