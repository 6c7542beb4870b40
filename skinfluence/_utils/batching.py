"""Batches whose size follows scikit-learn's ``working_memory``."""

from sklearn import get_config
from sklearn.utils import gen_batches


def batches(n_rows, row_bytes, batch_size=None):
    """Slices that cover ``range(n_rows)``, each within the working memory.

    Parameters
    ----------
    n_rows : int
        Number of rows to cover.
    row_bytes : int
        Bytes that one row of the intermediate result needs.
    batch_size : int, default=None
        Rows in a batch; by default as many as ``working_memory`` holds.

    Returns
    -------
    list of slice
    """
    if n_rows == 0:
        return []
    if batch_size is None:
        # A row larger than the working memory still has to be held once.
        fitting = max(1, _working_bytes() // max(1, int(row_bytes)))
        batch_size = min(n_rows, fitting)
    return list(gen_batches(n_rows, int(batch_size)))


def _working_bytes():
    return get_config()["working_memory"] * 2**20
