"""The one way in which loops run in parallel: by joblib, reported, without too many threads."""

from joblib import cpu_count
from joblib.parallel import get_active_backend
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits

from skinfluence._utils.progress import track


def results(calls, what, total, *, n_jobs=None, in_order=True, **settings):
    """Results of delayed calls as they come.

    Parameters
    ----------
    calls : iterable
        Calls of plain functions, by `sklearn.utils.parallel.delayed`.
    what : str
        What is done, in the plural, for the report.
    total : int
        Number of calls.
    n_jobs : int, default=None
        Number of calls that run at once. Inside ``joblib.parallel_config``, its backend runs
        them, on other machines too.
    in_order : bool, default=True
        Whether results come in the order of the calls, or in which they end.
    **settings
        Other settings of `joblib.Parallel`.

    Yields
    ------
    object
        The results.
    """
    as_they_come = "generator" if in_order else "generator_unordered"
    try:
        run = Parallel(n_jobs=n_jobs, return_as=as_they_come, **settings)
    except ValueError:
        # Backends of process pools return all results at once.
        run = Parallel(n_jobs=n_jobs, **settings)
    yield from track(run(calls), what, total)


def run_in_threads(function, tasks, what, n_jobs=None):
    """Call a function, which writes into shared results, for every task.

    Parameters
    ----------
    function : callable
        Takes one task.
    tasks : list
        The tasks.
    what : str
        What is done, in the plural, for the report.
    n_jobs : int, default=None
        Number of threads.
    """
    n_threads = min(_n_threads(n_jobs), len(tasks))
    if n_threads < 2:
        for task in track(tasks, what):
            function(task)
        return
    # BLAS and NumPy release the lock, and threads can write into one result. Each of them gets
    # its share of the cores for the threads of BLAS and torch.
    with threadpool_limits(max(1, cpu_count() // n_threads)):
        run = Parallel(n_jobs=n_jobs, return_as="generator_unordered", require="sharedmem")
        for _ in track(run(delayed(function)(task) for task in tasks), what, len(tasks)):
            pass


def _n_threads(n_jobs):
    # Another backend that the user has chosen, such as a cluster, shares no memory.
    backend, default = get_active_backend(require="sharedmem")
    return backend.effective_n_jobs(default if n_jobs is None else n_jobs)
