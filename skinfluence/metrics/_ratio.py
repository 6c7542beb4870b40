"""Two sets of influences, up to a constant for each query."""

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import Bunch

from skinfluence._utils.arrays import correlation, matrix, require_shape, require_spread
from skinfluence._utils.sklearn_private import validate_params


@validate_params(
    {"influence": ["array-like"], "reference": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def influence_ratio(influence, reference):
    r"""Ratio of two sets of influences, and how uniform it is over the training rows.

    A ratio that is the same for all training rows preserves the order of their influences and, if
    positive, the signs: ranking and selecting rows needs no more. With such a ratio, relative
    influences are called loss estimate preserving in [1]_.

    Parameters
    ----------
    influence : array-like of shape (n_queries, n_train)
        Influences, for example from an approximate Hessian or on fewer parameters.
    reference : array-like of shape (n_queries, n_train)
        Influences to compare with, for example from the full Hessian.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        rho : ndarray of shape (n_queries,)
            Median over the training rows of ``reference / influence``.
        dispersion : ndarray of shape (n_queries,)
            Median of :math:`|r_p / \rho - 1|` over the training rows p, where :math:`r_p` is
            the ratio of row p: 0 when it is uniform, 0.1 when half of the ratios are within
            10 percent of their median. Infinite where the median is 0.
        spearman : ndarray of shape (n_queries,)
            Rank correlation of both influences over the training rows.
        sign_agreement : ndarray of shape (n_queries,)
            Share of training rows for which both have the same sign.

    Raises
    ------
    ValueError
        If shapes differ or the influences of a query are constant.

    References
    ----------
    .. [1] M. Kounavis, O. Dia, I. Ramazanli, "On Influence Functions, Classification
       Influence, Relative Influence, Memorization and Generalization", Theorem 2.

    Examples
    --------
    The second set is twice the first, except for the last row:

    >>> from skinfluence.metrics import influence_ratio
    >>> result = influence_ratio([[1.0, -2.0, 3.0]], [[2.0, -4.0, -6.0]])
    >>> result.rho, result.dispersion, result.spearman
    (array([2.]), array([0.]), array([-0.5]))
    >>> result.sign_agreement
    array([0.667])
    """
    influence, reference = matrix(influence, "influence"), matrix(reference, "reference")
    require_shape(influence, "influence", reference.shape, "that of reference")
    require_spread(influence, "influence")
    require_spread(reference, "reference")
    rho, dispersion = ratio_spread(influence, reference)
    return Bunch(
        rho=rho,
        dispersion=dispersion,
        spearman=correlation(rankdata(influence, axis=1), rankdata(reference, axis=1)),
        sign_agreement=np.mean(np.sign(influence) == np.sign(reference), axis=1),
    )


def ratio_spread(influence, reference):
    """``rho`` and ``dispersion`` of `influence_ratio`, without checks of the arrays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = reference / influence
        # A row without any influence has no ratio; a query of only such rows has the ratio 1.
        ratio[~(influence.any(axis=1) | reference.any(axis=1))] = 1.0
        missing = np.isnan(ratio)
        # nanmedian is much slower.
        median = np.nanmedian if missing.any() else np.median
        rho = median(ratio, axis=1)
        off = np.abs(ratio / rho[:, None] - 1)
    off[np.isnan(off) & ~missing] = np.inf
    return rho, median(off, axis=1)
