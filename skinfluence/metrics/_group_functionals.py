"""Numbers that compare groups of queries, with their gradients."""

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.utils import column_or_1d

from skinfluence.metrics._functionals import Functional


class _OfGroups(Functional):
    """A function of the mean responses of groups of queries.

    Needs to be defined: ``_of_means``, the value and its derivative.
    """

    def __init__(self, groups, of, column):
        self.groups = groups
        self.of = of
        self.column = column

    @property
    def response(self):
        """What is read of each query: the parameter ``of``."""
        return self.of

    def _value_and_gradient(self, outputs, y, weight):
        share = self._shares(weight)
        means = share @ outputs[:, self.column]
        value, derivative = self._of_means(means)
        gradient = np.zeros(outputs.shape)
        gradient[:, self.column] = derivative @ share
        return value, gradient

    def _shares(self, weight):
        """Share of each query in each group, (n_groups, n_queries)."""
        groups = column_or_1d(self.groups)
        if len(groups) != len(weight):
            raise ValueError(
                f"groups must name the group of each of the {len(weight)} queries. Got "
                f"{len(groups)} instead."
            )
        share = weight * (np.unique(groups)[:, None] == groups)
        total = share.sum(axis=1, keepdims=True)
        if not total.all():
            raise ValueError("A group has queries of weight 0 alone. Leave it out of the queries.")
        return share / total


class GroupGap(_OfGroups):
    """Difference of a mean between two groups of queries.

    Mean probabilities give the demographic gap, mean losses the gap of errors.

    Parameters
    ----------
    groups : array-like of shape (n_queries,)
        Group of each query, two different values. The gap is the mean of the second, in the
        order of sorting, minus the mean of the first.
    of : {"auto", "output", "probability", "score", "prediction", "loss"}, default="auto"
        What is averaged; "auto" is the probabilities of a classifier (outputs where it has
        none), or the predictions of a regression.
    column : int, default=-1
        Which class or output, by its position; the last one by default, the second of two.

    Examples
    --------
    >>> from skinfluence.metrics import GroupGap
    >>> gap = GroupGap(["a", "b", "b"])
    >>> gap.value([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]], None)
    0.25
    """

    def __init__(self, groups, *, of="auto", column=-1):
        if len(np.unique(groups)) != 2:
            raise ValueError(
                f"groups must hold two different values. Got {len(np.unique(groups))}; take "
                "WorstGroup, or True for one group and False for all others."
            )
        super().__init__(groups, of, column)

    def _of_means(self, means):
        return means[1] - means[0], np.array([-1.0, 1.0])


class WorstGroup(_OfGroups):
    """Largest of the mean losses of groups of queries.

    Parameters
    ----------
    groups : array-like of shape (n_queries,)
        Group of each query.
    of : {"loss", "output", "probability", "score", "prediction", "auto"}, default="loss"
        What is averaged.
    temperature : float, default=0.0
        0: the mean of the group that is worst at present, whose gradient alone counts. Larger:
        the soft maximum ``temperature * log(sum_g exp(mean_g / temperature))``, which all groups
        move, and which is above the maximum by at most ``temperature * log(n_groups)``.
    column : int, default=-1
        Which class or output, by its position.

    Examples
    --------
    >>> from skinfluence.metrics import WorstGroup
    >>> WorstGroup(["a", "b", "b"]).value([[0.5], [0.25], [1.0]], None)
    0.625
    """

    def __init__(self, groups, *, of="loss", temperature=0.0, column=-1):
        super().__init__(groups, of, column)
        self.temperature = temperature

    def _of_means(self, means):
        if self.temperature == 0:
            return means.max(), 1.0 * (np.arange(len(means)) == means.argmax())
        scaled = means / self.temperature
        return self.temperature * logsumexp(scaled), softmax(scaled)
