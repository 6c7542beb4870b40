"""Training rows that outlive ``fit``, though their memory may be the user's."""

import zlib

import numpy as np
from scipy.sparse import issparse

# Rows that take at most so many bytes are copied.
SMALL = 2**26

# Rows whose bytes are compared where all of them are too many to copy.
N_COMPARED = 512


def kept_rows(features, given):
    """Rows to keep, and what tells whether they change.

    Parameters
    ----------
    features : {ndarray, CSR matrix} of shape (n_samples, d)
        Rows that were made from those of the user.
    given : object
        What the user gave.

    Returns
    -------
    features : {ndarray, CSR matrix} of shape (n_samples, d)
        A copy where the memory is the user's and small.
    fingerprint : int or None
        `fingerprint_of` rows that are the user's and were not copied.
    """
    values = _values(features)
    if not np.may_share_memory(values, _values(given)):
        return features, None
    if values.nbytes <= SMALL:
        return features.copy(), None
    return features, fingerprint_of(features)


def fingerprint_of(features):
    """Checksum of some of the rows, spread over all of them."""
    values = _values(features)
    some = np.unique(np.linspace(0, max(len(values) - 1, 0), N_COMPARED).astype(int))
    some = np.ascontiguousarray(values[some[: len(values)]])
    # An array of objects holds their addresses.
    return zlib.crc32(repr(some.tolist()).encode() if some.dtype.hasobject else some.tobytes())


def _values(rows):
    """The numbers of rows, in their own memory where they are an array or a sparse matrix."""
    rows = rows.data if issparse(rows) else rows
    # A data frame of one type may be a view on one array.
    return np.asarray(rows)
