"""Processes for a loop, started only where what is left of it is worth their start."""

import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context

from sklearn import config_context, get_config

# Seconds that a process takes to start and to import scikit-learn.
START = 1.5


def begun_here(function, tasks, elsewhere, n_workers, *, in_order):
    """Results of a function for every task, the first of them made in this process.

    The rest goes elsewhere as soon as that saves more time than other processes take to start, by
    the time of the tasks so far. A task that takes longer than their start goes on beside them.

    Parameters
    ----------
    function : callable
        The function.
    tasks : list of tuple
        Its arguments.
    elsewhere : callable
        ``elsewhere(tasks)`` gives the results of other processes.
    n_workers : int
        Number of these processes.
    in_order : bool
        Whether results come in the order of the tasks.

    Yields
    ------
    object
        The results.
    """
    spent = 0.0
    with ThreadPoolExecutor(1) as own:
        for n_done, task in enumerate(tasks, 1):
            begin = time.monotonic()
            here = own.submit(copy_context().run, _call, get_config(), function, task)
            if not wait([here], START).done:
                yield from _beside(here, elsewhere(tasks[n_done:]), in_order)
                return
            spent += time.monotonic() - begin
            yield here.result()
            if spent / n_done * (len(tasks) - n_done) * (1 - 1 / n_workers) > START:
                yield from elsewhere(tasks[n_done:])
                return


def _call(config, function, task):
    # The configuration of scikit-learn belongs to a thread.
    with config_context(**config):
        return function(*task)


def _beside(here, others, in_order):
    """The result of a task that still runs, and those of later ones."""
    if in_order:
        # They run meanwhile.
        others = list(others)
        yield here.result()
        yield from others
    else:
        yield from others
        yield here.result()
