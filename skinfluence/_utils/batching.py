"""Batches whose size follows scikit-learn's ``working_memory``."""

from dataclasses import dataclass

from joblib import effective_n_jobs
from sklearn import get_config

from skinfluence._utils.parallel import n_workers, run_in_threads
from skinfluence._utils.progress import reporting

# Numbers of so many bytes are still in the cache of a core when they are read again, and their
# memory is used again by the next slice, where fresh memory costs as much as a pass.
NEAR_BYTES = 2**20


def near_batches(n_rows, row_bytes, at_least=1):
    """Slices that cover ``range(n_rows)`` and stay in the cache while they are worked on.

    Parameters
    ----------
    n_rows : int
        Number of rows to cover.
    row_bytes : int
        Bytes that one row of the intermediate result needs.
    at_least : int, default=1
        Rows of a slice where these are more, as far as the working memory allows.

    Returns
    -------
    list of slice
    """
    return batches(n_rows, row_bytes, at_most=max(NEAR_BYTES, at_least * row_bytes))


def batches(n_rows, row_bytes, batch_size=None, *, at_least=0, at_most=float("inf")):
    """Slices that cover ``range(n_rows)``, each within the working memory.

    Parameters
    ----------
    n_rows : int
        Number of rows to cover.
    row_bytes : int
        Bytes that one row of the intermediate result needs.
    batch_size : int, default=None
        Rows in a batch; by default as many as ``working_memory`` allows.
    at_least : int, default=0
        Bytes that a batch may take even where ``working_memory`` is less.
    at_most : int, default=inf
        Bytes that a batch may take even where ``working_memory`` is more.

    Returns
    -------
    list of slice
    """
    if n_rows == 0:
        return []
    if batch_size is None:
        # A row larger than the working memory still has to be computed once.
        allowed = min(max(_working_bytes(), at_least), at_most)
        batch_size = min(n_rows, max(1, allowed // max(1, int(row_bytes))))
    # scikit-learn's gen_batches checks its arguments for longer than a small batch takes.
    size = int(batch_size)
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def fits_in_memory(n_bytes):
    """Whether a result of this size may be held within the working memory."""
    return n_bytes <= _working_bytes()


def _working_bytes():
    return get_config()["working_memory"] * 2**20


@dataclass(frozen=True)
class Schedule:
    """How work on many rows is divided.

    Parameters
    ----------
    batch_size : int, default=None
        Rows in a batch; by default as many as ``working_memory`` allows.
    n_jobs : int, default=None
        Threads over batches.
    verbose : int, default=0
        Above 0, progress is shown, by a bar where tqdm is installed, else by lines; the lines
        also go to the logger "skinfluence".
    """

    batch_size: int | None = None
    n_jobs: int | None = None
    verbose: int = 0

    @property
    def n_threads(self):
        """Number of threads."""
        return effective_n_jobs(self.n_jobs)

    @property
    def n_workers(self):
        """Number of threads, or of processes where those of the user's choice take the tasks."""
        return n_workers(self.n_jobs, prefer="threads")

    def batches(self, n_rows, row_bytes):
        """Slices that cover ``range(n_rows)``."""
        return batches(n_rows, row_bytes, self.batch_size)

    def run(self, function, tasks, what="batches"):
        """Call a function, which writes into shared results, for every task.

        Parameters
        ----------
        function : callable
            Takes one task.
        tasks : list
            The tasks.
        what : str, default="batches"
            What is done, in the plural, for the report.
        """
        with reporting(self.verbose):
            run_in_threads(function, tasks, what, self.n_jobs)
