"""Checks of the arrays that metrics take, and correlations of their rows."""

import numpy as np
from sklearn.utils import check_array, column_or_1d

# What is compared to rank scores, the largest first.
SORT_KEYS = {"harmful": np.asarray, "helpful": np.negative, "absolute": np.abs}


def matrix(values, name):
    """Two-dimensional array of finite floats."""
    return check_array(values, input_name=name, dtype=float)


def vector(values, name, dtype=float):
    """One-dimensional array without missing values."""
    values = column_or_1d(values)
    return check_array(values, input_name=name, dtype=dtype, ensure_2d=False)


def booleans(values, name):
    """Array of booleans: numbers could be indices, or labels."""
    values = np.asarray(values)
    if values.dtype != bool:
        raise ValueError(
            f"{name} must be an array of booleans, got dtype {values.dtype}. Make a "
            "mask of it: True for the rows that you mean, False for the others."
        )
    return values


def require_shape(values, name, shape, meaning):
    """Raise a ValueError that says what was expected and what came."""
    if values.shape != shape:
        raise ValueError(
            f"{name} must have the shape {meaning} = {shape}, got {values.shape}. Its "
            "axes must stand for the same things in the same order as the axes of the "
            "other arrays: select rows, or transpose."
        )


def require_positive(values, name, advice=""):
    """Raise a ValueError that names the first row that is not positive."""
    if np.any(values <= 0):
        row = np.argmax(values <= 0)
        raise ValueError(f"{name} must be positive, got {values[row]:.3g} in row {row}. {advice}")


def require_spread(values, name, magnitude=None):
    """Raise a ValueError when a row is constant, up to the rounding of `magnitude`."""
    magnitude = np.abs(values).max(axis=1) if magnitude is None else magnitude
    constant = np.ptp(values, axis=1) <= np.finfo(float).eps * magnitude
    if constant.any():
        raise ValueError(
            f"The correlation is not defined: the {name} of query {constant.argmax()} "
            f"are constant ({np.count_nonzero(constant)} of {len(values)} queries). "
            "Leave those queries out."
        )


def standardized(values):
    """Rows centred and divided by their Euclidean norms, and those norms."""
    centred = values - values.mean(axis=1, keepdims=True)
    # Squares of very small or large values leave the range of floats.
    largest = np.abs(centred).max(axis=1, keepdims=True)
    scaled = centred / largest
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / norms, (norms * largest)[:, 0]


def correlation(left, right):
    """Pearson correlation of each row of `left` with the same row of `right`."""
    left, right = standardized(left)[0], standardized(right)[0]
    return np.clip(np.einsum("qn,qn->q", left, right), -1, 1)


def with_fixed_signs(vectors):
    """Columns times -1 or 1, so that the entry of largest size is positive.

    An eigenvector is known up to its sign, and a library may choose another sign for each fit.
    """
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return vectors * np.where(signs == 0, 1.0, signs)


def ranking(scores, k, by):
    """The k scores of each row that come first, and their positions.

    Parameters
    ----------
    scores : ndarray of shape (m, n)
        Scores.
    k : int
        How many of each row.
    by : {"harmful", "helpful", "absolute"}
        Largest, smallest or largest absolute score first.

    Returns
    -------
    indices, values : ndarray of shape (m, k)
        Positions, and the scores there.
    """
    indices = largest(SORT_KEYS[by](scores), k)
    return indices, np.take_along_axis(scores, indices, axis=1)


def largest(values, k):
    """Positions of the k largest of each row, in descending order; of equal ones the first."""
    kth = np.partition(values, -k, axis=1)[:, -k]
    row, column = np.nonzero(values >= kth[:, None])
    order = np.lexsort((column, -values[row, column], row))
    first = np.searchsorted(row, np.arange(len(values)))
    return column[order][first[:, None] + np.arange(k)]
