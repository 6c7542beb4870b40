"""The one way in which loops run in parallel: by joblib, reported, without too many threads."""

from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial

from joblib import cpu_count
from joblib.parallel import BACKENDS, get_active_backend
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import ThreadpoolController

from skinfluence._utils.processes import begun_here
from skinfluence._utils.progress import track

# How often tasks are given to the workers that are left.
N_TRIES = 3


def results(function, tasks, what, *, n_jobs=None, in_order=True, **settings):
    """Results of a function for every task, as they come.

    Parameters
    ----------
    function : callable
        A plain function, which can be pickled.
    tasks : list of tuple
        Its arguments: plain data. What all tasks need is a `Shared`.
    what : str
        What is done, in the plural, for the report.
    n_jobs : int, default=None
        Number of tasks that run at once. Inside ``joblib.parallel_config``, its backend runs
        them, on other machines too. Processes of joblib's own (loky) are started only where that
        saves time, by that of the first tasks.
    in_order : bool, default=True
        Whether results come in the order of the tasks, or in which they end.
    **settings
        Other settings of `joblib.Parallel`.

    Yields
    ------
    object
        The results.

    Raises
    ------
    RuntimeError
        If workers with data of the tasks are lost again and again.
    """
    settings |= {"n_jobs": n_jobs, "return_as": f"generator{'' if in_order else '_unordered'}"}
    hints = {name: settings[name] for name in ("prefer", "require") if name in settings}
    n_at_once = n_workers(n_jobs, **hints)
    with _shared_cores(_n_threads(n_jobs, **hints)) as limited:
        run = partial(_until_all_are_done, limited(function), settings)
        if n_at_once > 1 and type(get_active_backend(**hints)[0]) is BACKENDS["loky"]:
            found = begun_here(function, tasks, run, n_at_once, in_order=in_order)
        else:
            found = run(tasks)
        yield from track(found, what, len(tasks))


def _until_all_are_done(function, settings, tasks):
    """Results as they come; tasks whose data a lost worker has held are given out again."""
    left = dict(enumerate(tasks))
    for _ in range(N_TRIES):
        try:
            # Each argument by itself: a scheduler sends a large one to each worker once.
            calls = [delayed(_numbered)(i, function, *task) for i, task in left.items()]
            for number, result in _run(settings)(calls):
                del left[number]
                yield result
        except CancelledError as error:
            lost = error
        else:
            return
    raise RuntimeError(
        f"Workers were lost {N_TRIES} times, with the data that they held, and {len(left)} of "
        f"{len(tasks)} tasks are not done. Results of refits that have ended are stored: run the "
        "same again, on workers with more memory if they were killed for want of it."
    ) from lost


def _numbered(number, function, *task):
    return number, function(*task)


def _run(settings):
    try:
        return Parallel(**settings)
    except ValueError:
        # Backends of process pools return all results at once.
        return Parallel(**settings | {"return_as": "list"})


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
    n_threads = min(_n_threads(n_jobs, require="sharedmem"), len(tasks))
    if n_threads < 2:
        for task in track(tasks, what):
            function(task)
        return
    # BLAS and NumPy release the lock, and threads can write into one result.
    with _shared_cores(n_threads) as limited:
        run = Parallel(n_jobs=n_jobs, return_as="generator_unordered", require="sharedmem")
        calls = (delayed(limited(function))(task) for task in tasks)
        for _ in track(run(calls), what, len(tasks)):
            pass


def n_workers(n_jobs, **hints):
    """Number of tasks that run at once.

    Parameters
    ----------
    n_jobs : int or None
        As the user gave it; inside ``joblib.parallel_config``, None is the number there.
    **hints
        ``prefer`` and ``require`` of `joblib.Parallel`.

    Returns
    -------
    int
    """
    backend, default = get_active_backend(**hints)
    return backend.effective_n_jobs(default if n_jobs is None else n_jobs)


def _n_threads(n_jobs, **hints):
    """Threads of this process that run tasks, 1 where other processes do."""
    backend, _ = get_active_backend(**hints)
    return n_workers(n_jobs, **hints) if getattr(backend, "supports_sharedmem", False) else 1


@contextmanager
def _shared_cores(n_threads):
    """Give each thread its share of the cores for the threads of BLAS, OpenMP and torch.

    Yields
    ------
    callable
        Turns a function into one that keeps to the share.
    """
    if n_threads < 2:
        yield lambda function: function
        return
    pools, share = ThreadpoolController(), max(1, cpu_count() // n_threads)
    with pools.limit(limits=share):
        # OpenMP counts by itself in each thread.
        yield lambda function: pools.wrap(limits=share, user_api="openmp")(function)
