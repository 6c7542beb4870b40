"""Confidence intervals of a mean over queries."""

from numbers import Integral, Real

import numpy as np
from scipy.stats import bootstrap
from sklearn.utils import Bunch, check_random_state

from skinfluence._utils.arrays import vector
from skinfluence._utils.sklearn_private import Interval, validate_params


@validate_params(
    {
        "values": ["array-like"],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "n_resamples": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def bootstrap_interval(values, *, confidence_level=0.95, n_resamples=9999, random_state=None):
    """Mean and its confidence interval, by resampling the queries.

    Parameters
    ----------
    values : array-like of shape (n_queries,)
        One score per query.
    confidence_level : float, default=0.95
        Chance with which such an interval covers the mean over all possible queries.
    n_resamples : int, default=9999
        Number of resamples.
    random_state : int, RandomState instance or None, default=None
        Determines the resamples. Pass an int for reproducible results.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        mean : float
            Mean of the values.
        low, high : float
            Ends of the interval, bias-corrected and accelerated (BCa).

    Raises
    ------
    ValueError
        If there are fewer than two values.

    Notes
    -----
    The interval covers the choice of the queries. It ignores that other subsets would
    have given other scores.

    References
    ----------
    .. [1] B. Efron, "Better Bootstrap Confidence Intervals", Journal of the American
       Statistical Association 82 (1987).

    Examples
    --------
    Means of resamples lie between the smallest and the largest value:

    >>> from skinfluence.metrics import bootstrap_interval
    >>> result = bootstrap_interval([0.8, 0.9, 1.0], random_state=0)
    >>> round(result.mean, 6), 0.8 <= result.low < 0.9 < result.high <= 1.0
    (0.9, True)
    """
    values = vector(values, "values")
    if len(values) < 2:
        raise ValueError("An interval needs the scores of at least two queries, got 1.")
    mean = float(values.mean())
    # All resamples of equal values are equal, for which BCa is not defined.
    if np.ptp(values) <= len(values) * np.finfo(float).eps * np.abs(values).max():
        return Bunch(mean=mean, low=mean, high=mean)
    interval = bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence_level,
        n_resamples=n_resamples,
        # Four million numbers at a time.
        batch=max(1, 2**22 // len(values)),
        random_state=check_random_state(random_state),
    ).confidence_interval
    return Bunch(mean=mean, low=float(interval.low), high=float(interval.high))
