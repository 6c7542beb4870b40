"""Predicted changes of losses against changes under refits."""

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import Bunch

from skinfluence._utils.arrays import (
    booleans,
    correlation,
    matrix,
    require_shape,
    require_spread,
    standardized,
    vector,
)
from skinfluence._utils.sklearn_private import validate_params


@validate_params(
    {
        "influence": ["array-like"],
        "subsets": ["array-like"],
        "losses": ["array-like"],
        "sample_weight": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def linear_datamodeling_score(influence, subsets, losses, *, sample_weight=None):
    r"""Rank correlation of predicted and measured losses over random subsets.

    For each query, two rankings order the models refitted on the subsets: by the loss
    of the query, and by the sum of the influences of their training rows. The score is
    Spearman's correlation of the two rankings: 1 when influence orders the refits
    perfectly, about 0 for noise, negative for influences of the opposite sign.

    Parameters
    ----------
    influence : array-like of shape (n_queries, n_train)
        Influence on the loss, positive = more weight on the training row raises the
        loss of the query. The score does not depend on its unit.
    subsets : array-like of bool of shape (n_subsets, n_train)
        The training rows of each refit, of equal or different number.
    losses : array-like of shape (n_queries, n_subsets)
        Loss of each query under the model refitted on each subset.
    sample_weight : array-like of shape (n_train,), default=None
        Training weights of the rows, which multiply the influences in the sum. None
        means 1.

    Returns
    -------
    score : ndarray of shape (n_queries,)
        Linear datamodeling score of each query, in [-1, 1]. The mean is the usual
        figure.

    Raises
    ------
    ValueError
        If shapes do not match, if there is only one subset, or if the losses or the
        predictions of a query are the same for all subsets.

    See Also
    --------
    bootstrap_interval : Confidence interval for the mean over queries.
    leave_one_out_correlation : The same question for single rows.

    References
    ----------
    .. [1] S. M. Park, K. Georgiev, A. Ilyas, G. Leclerc, A. Madry, "TRAK: Attributing
       Model Behavior at Scale", ICML 2023.

    Examples
    --------
    Three training rows, each left out once. The influences of the remaining rows add up
    to 3, 5 and 4, and the losses rise in the same order:

    >>> import numpy as np
    >>> from skinfluence.metrics import linear_datamodeling_score
    >>> influence = np.array([[3.0, 1.0, 2.0]])
    >>> subsets = ~np.eye(3, dtype=bool)
    >>> linear_datamodeling_score(influence, subsets, np.array([[0.1, 0.3, 0.2]]))
    array([1.])
    """
    influence, losses = matrix(influence, "influence"), matrix(losses, "losses")
    subsets = booleans(subsets, "subsets")
    (n_queries, n_train), n_subsets = influence.shape, len(subsets)
    require_shape(subsets, "subsets", (n_subsets, n_train), "(n_subsets, n_train)")
    require_shape(losses, "losses", (n_queries, n_subsets), "(n_queries, n_subsets)")
    if n_subsets < 2:
        raise ValueError(
            f"A rank correlation needs at least two subsets, got {n_subsets}. Refit on "
            "more of them."
        )
    if sample_weight is not None:
        sample_weight = vector(sample_weight, "sample_weight")
        require_shape(sample_weight, "sample_weight", (n_train,), "(n_train,)")
        influence = influence * sample_weight
    predicted = influence @ subsets.T.astype(float)
    # Equal sums of n terms still differ by the rounding of their additions.
    rounding = np.sqrt(n_train) * np.abs(influence).sum(axis=1)
    require_spread(predicted, "predicted sums", rounding)
    require_spread(losses, "losses")
    return correlation(rankdata(predicted, axis=1), rankdata(losses, axis=1))


@validate_params(
    {"predicted": ["array-like"], "actual": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def leave_one_out_correlation(predicted, actual):
    r"""Correlation and slope of predicted and measured leave-one-out changes.

    The correlation says whether the order and the proportions are right; the slope of
    the regression of the measured change on the predicted one says whether the scale
    is: 1 is perfect, 2 means that refitting changes the loss twice as much as
    predicted.

    Parameters
    ----------
    predicted : array-like of shape (n_queries, n_train) or (n_train,)
        Predicted change of each query's loss when a training row is left out, positive
        when the loss rises: :math:`-(s_p / N) I_{loss}`, with the opposite sign of the
        influence. One dimension means one query, so ``predicted.ravel()`` pools the
        queries into one correlation.
    actual : array-like of the same shape
        Changes measured by refitting without the row, in the same unit.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        pearson : ndarray of shape (n_queries,)
            Correlation of each query, in [-1, 1].
        slope : ndarray of shape (n_queries,)
            Slope of ``actual`` on ``predicted``, with an intercept.

    Raises
    ------
    ValueError
        If shapes differ, if fewer than two rows were left out, or if a query has
        constant values.

    References
    ----------
    .. [1] P. W. Koh, P. Liang, "Understanding Black-box Predictions via Influence
       Functions", ICML 2017.
    .. [2] M. Kounavis, O. Dia, I. Ramazanli, "On Influence Functions, Classification
       Influence, Relative Influence, Memorization and Generalization", relation (26).

    Examples
    --------
    Refitting changes the losses in the predicted proportions, but twice as much:

    >>> from skinfluence.metrics import leave_one_out_correlation
    >>> result = leave_one_out_correlation([[-1.0, 0.0, 2.0]], [[-2.0, 0.0, 4.0]])
    >>> result.pearson, result.slope
    (array([1.]), array([2.]))
    """
    predicted = matrix(np.atleast_2d(predicted), "predicted")
    actual = matrix(np.atleast_2d(actual), "actual")
    require_shape(actual, "actual", predicted.shape, "that of predicted")
    if predicted.shape[1] < 2:
        raise ValueError(
            "A correlation needs at least two rows left out per query, got 1. Leave "
            "out more rows, or pass `predicted.ravel()` and `actual.ravel()` to pool "
            "the queries."
        )
    require_spread(predicted, "predicted changes")
    require_spread(actual, "actual changes")
    pearson = correlation(predicted, actual)
    slope = pearson * standardized(actual)[1] / standardized(predicted)[1]
    return Bunch(pearson=pearson, slope=slope)


def agreement(predicted, measured, *, ranks=True):
    """Correlation over the refits, for every query whose losses the refits change.

    Parameters
    ----------
    predicted : ndarray of shape (n_queries, n_refits)
        Predicted losses, up to a constant and a positive factor.
    measured : ndarray of shape (n_queries, n_refits)
        Losses under the refits, up to a constant and a positive factor.
    ranks : bool, default=True
        Whether to correlate ranks (Spearman) or the values (Pearson).

    Returns
    -------
    ndarray of shape (n_defined,)

    Raises
    ------
    ValueError
        If the losses of every query are constant.
    """
    changes = _varies(measured)
    if not changes.any():
        raise ValueError(
            "The score is not defined: all refits give every query the same loss. A model that "
            "cannot be refitted (a torch module without a function to train it) has no ground "
            "truth; otherwise use other queries, or a smaller share."
        )
    score = np.zeros(len(measured))
    both = changes & _varies(predicted)
    if both.any():
        pair = predicted[both], measured[both]
        pair = [rankdata(values, axis=1) for values in pair] if ranks else pair
        score[both] = correlation(*pair)
    return score[changes]


def _varies(values):
    """Rows that are not constant up to rounding."""
    rounding = np.finfo(float).eps * np.abs(values).max(axis=1)
    return np.ptp(values, axis=1) > 16 * rounding
