"""Training rows as users give them to ``fit``: arrays, or chunks in place of all of them."""

from functools import singledispatch

import numpy as np
from sklearn.utils import indexable

from skinfluence._utils.parallel import results
from skinfluence._utils.shared import Shared
from skinfluence.data._chunks import Chunks


def check_alone(y, sample_weight):
    """Raise a ValueError if there are targets or weights beside `Chunks`."""
    if y is not None or sample_weight is not None:
        raise ValueError(
            "Chunks hold targets and sample weights themselves. Expected fit(chunks) alone. Got "
            "y or sample_weight too."
        )


@singledispatch
def training_set(X, y=None, sample_weight=None):
    """Training rows, targets and weights as the user gave them to ``fit``.

    Parameters
    ----------
    X, y, sample_weight : array-like
        Rows, targets and weights; or `Chunks` alone.

    Returns
    -------
    tuple of (X, y, sample_weight)
        What can be indexed, or `Chunks` and twice None.
    """
    return *indexable(X, y), sample_weight


@training_set.register
def _(chunks: Chunks, y=None, sample_weight=None):
    check_alone(y, sample_weight)
    return chunks, None, None


@singledispatch
def gathered(X, y=None, sample_weight=None):
    """`training_set` with all rows in memory, for what indexes them."""
    return training_set(X, y, sample_weight)


@gathered.register
def _(chunks: Chunks, y=None, sample_weight=None):
    check_alone(y, sample_weight)
    return tuple(chunks.concatenated())


@singledispatch
def targets(X, y=None):
    """Targets of all training rows, which `Chunks` hold themselves."""
    return y


@targets.register
def _(chunks: Chunks, y=None):
    del y
    tasks = [(Shared(chunks.only([i])), i) for i in range(len(chunks.parts))]
    return np.concatenate([*results(_targets, tasks, "chunks", prefer="threads")])


def _targets(shared, position):
    return np.asarray(shared.value.read(position).y)
