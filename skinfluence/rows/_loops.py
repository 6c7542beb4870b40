"""Loops over samples that are read in pieces: one joblib call, of workers that read their own."""

from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np

from skinfluence._utils.parallel import results
from skinfluence._utils.shared import Shared


class Span:
    """A reader of some samples, sent to another process with what these need alone.

    Parameters
    ----------
    read : callable
        ``read(samples)`` reads a slice; ``read.only(samples)`` is the same for these alone.
    samples : slice
        The samples.
    """

    def __init__(self, read, samples):
        self.read = read
        self.samples = samples

    def __reduce__(self):
        return Span, (self.read.only(self.samples), self.samples)


def further(arguments, samples):
    """Further arguments of a function of some samples, a tuple."""
    return () if arguments is None else arguments(samples)


def of_tasks(function, read, groups, arguments=None):
    """Results of a function of the slices of each task, in their order.

    Parameters
    ----------
    function : callable
        ``function(parts)``, a plain function; ``parts`` yields, for each slice of the task, what
        was read, and then the further arguments.
    read : callable
        ``read(samples)`` reads a slice of samples, with ``only``, ``edges`` and ``n_jobs``.
    groups : list of list of slice
        Consecutive slices of samples, those of each task.
    arguments : callable, default=None
        ``arguments(samples)`` gives a tuple of further arguments; none by default.

    Yields
    ------
    object
        The results.
    """
    shared = Shared(function)
    tasks = [
        (
            Shared(Span(read, slice(group[0].start, group[-1].stop))),
            [(samples, *further(arguments, samples)) for samples in group],
            shared,
        )
        for group in groups
    ]
    return results(_call, tasks, "chunks", n_jobs=read.n_jobs, prefer="threads")


def _call(span, slices, function):
    read = span.value.read
    return function.value((read(samples), *others) for samples, *others in slices)


def each(function, read, slices, arguments=None):
    """Results of a function of every slice, ``function(what_was_read, *arguments)``."""
    for found in of_tasks(_Each(function), read, _by_piece(slices, read.edges), arguments):
        yield from found


def total(function, read, slices, arguments=None):
    """Sum of the results of a function of every slice, of which sums travel alone."""
    return reduce(add, of_tasks(_Total(function), read, _by_piece(slices, read.edges), arguments))


class _Each:
    """The results of a function, as a function of the slices of a task."""

    def __init__(self, function):
        self.function = function

    def __call__(self, parts):
        return [self.function(*part) for part in parts]


class _Total(_Each):
    """Their sum."""

    def __call__(self, parts):
        return reduce(add, (self.function(*part) for part in parts))


def _by_piece(slices, edges):
    """The same slices, together where they begin in one piece, which is then read once."""
    piece = np.searchsorted(edges, [part.start for part in slices], side="right")
    cuts = np.flatnonzero(np.diff(piece)) + 1
    return [slices[i:j] for i, j in pairwise([0, *cuts.tolist(), len(slices)])]
