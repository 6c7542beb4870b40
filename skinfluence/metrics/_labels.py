"""Influences and the labels of the rows."""

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import Bunch, column_or_1d

from skinfluence._utils.arrays import booleans, matrix, require_shape, vector
from skinfluence._utils.sklearn_private import validate_params


@validate_params(
    {"scores": ["array-like"], "is_mislabelled": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def mislabel_detection_auc(scores, is_mislabelled):
    r"""Area under the ROC curve of a score that should be high for mislabelled rows.

    Equals the chance that a mislabelled row has a higher score than a correctly
    labelled one, ties counting one half: 1 is perfect, 0.5 is guessing.

    Parameters
    ----------
    scores : array-like of shape (n_train,)
        Self-influence, memorization, or any score that is higher for more suspicious
        rows.
    is_mislabelled : array-like of bool of shape (n_train,)
        True for the rows whose label is known to be wrong.

    Returns
    -------
    auc : float
        Area under the curve, in [0, 1].

    Raises
    ------
    ValueError
        If shapes do not match, or if all rows or none are mislabelled.

    Examples
    --------
    The mislabelled row with score 3 is above both clean rows, the one with score 1
    above one of the two:

    >>> from skinfluence.metrics import mislabel_detection_auc
    >>> mislabel_detection_auc([3.0, 1.0, 2.0, 0.0], [True, True, False, False])
    0.75
    """
    scores = vector(scores, "scores")
    flags = booleans(column_or_1d(is_mislabelled), "is_mislabelled")
    require_shape(flags, "is_mislabelled", scores.shape, "that of scores")
    n_flagged = np.count_nonzero(flags)
    n_clean = len(flags) - n_flagged
    if not (n_flagged and n_clean):
        raise ValueError(
            "An AUC needs mislabelled and correctly labelled rows, got "
            f"{n_flagged} and {n_clean} in is_mislabelled."
        )
    # A flagged row's rank counts the clean rows below it and the flagged ones up to it.
    return float((rankdata(scores)[flags].mean() - (n_flagged + 1) / 2) / n_clean)


@validate_params(
    {"influence": ["array-like"], "y_query": ["array-like"], "y_train": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def label_sign_agreement(influence, y_query, y_train):
    r"""Share of training rows that help queries of their class and harm the others.

    This is the share of pairs for which

    .. math:: \operatorname{sign} I_{loss}(z_t, z_p) = 1(y_t \neq y_p) - 1(y_t = y_p),

    which Theorem 4 of [1]_ proves for all pairs when features are non-negative, the
    model is a single sigmoid unit and the inverse Hessian has almost positive elements
    (see :func:`almost_positive`).

    Parameters
    ----------
    influence : array-like of shape (n_queries, n_train)
        Influence on the loss, positive = more weight on the training row raises the
        loss of the query.
    y_query : array-like of shape (n_queries,)
        Labels of the queries, of any type; the theorem is about two classes.
    y_train : array-like of shape (n_train,)
        Labels of the training rows.

    Returns
    -------
    agreement : ndarray of shape (n_queries,)
        Share of training rows that obey the rule, for each query. The mean is the share
        of all pairs.

    Raises
    ------
    ValueError
        If shapes do not match, or if no query has a label of the training rows.

    Notes
    -----
    The hypothesis of the theorem is never met exactly: with non-negative features and a bias the
    Hessian is non-negative and has no zero in the row of the bias, and only a matrix with one
    entry in each row and column has a non-negative inverse. So `almost_positive` always finds
    negative elements, and this share is what can be measured.

    An influence of exactly 0 has neither sign and counts as not obeying the rule. (The
    source writes sign(0) = 1, but its relations (92) to (95) assign a change of 0 to
    equal labels.)

    References
    ----------
    .. [1] M. Kounavis, O. Dia, I. Ramazanli, "On Influence Functions, Classification
       Influence, Relative Influence, Memorization and Generalization", Theorem 4,
       relation (91).

    Examples
    --------
    The first row has the query's label and helps, the second and the fourth have the
    other label and harm, as they should; the third has the other label and helps:

    >>> from skinfluence.metrics import label_sign_agreement
    >>> label_sign_agreement([[-2.0, 1.0, -1.0, 3.0]], ["a"], ["a", "b", "b", "b"])
    array([0.75])
    """
    influence = matrix(influence, "influence")
    y_query, y_train = (
        vector(y_query, "y_query", None),
        vector(y_train, "y_train", None),
    )
    require_shape(y_query, "y_query", influence.shape[:1], "(n_queries,)")
    require_shape(y_train, "y_train", influence.shape[1:], "(n_train,)")
    same = y_query[:, None] == y_train
    if not same.any():
        raise ValueError(
            f"No label of y_query occurs in y_train, for example {y_query[0]!r}. Write "
            "the labels of both in the same way."
        )
    return np.mean(np.sign(influence) == np.where(same, -1, 1), axis=1)


@validate_params(
    {
        "inverse_hessian": ["array-like"],
        "gradients": ["array-like"],
        "query_gradients": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def almost_positive(inverse_hessian, gradients, *, query_gradients=None):
    r"""Distance of an inverse Hessian from having almost positive elements.

    Definition 9 of [1]_ asks for additive terms :math:`\delta_{ij}` that make every
    element :math:`h_{ij} + \delta_{ij}` of :math:`H^{-1}` non-negative, and whose
    effect :math:`\sum_{ij} g_i \delta_{ij} g'_j` on the influences is negligible. This
    function takes the smallest such matrix, :math:`\delta_{ij} = \max(-h_{ij}, 0)`, and
    measures its effect.

    Parameters
    ----------
    inverse_hessian : array-like of shape (n_params, n_params)
        The symmetric matrix :math:`H^{-1}`.
    gradients : array-like of shape (n_train, n_params)
        Gradient rows of the training rows, in the order of the parameters of
        ``inverse_hessian``.
    query_gradients : array-like of shape (n_queries, n_params), default=None
        Gradient rows of the queries. None means ``gradients``, in all pairs.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        negative_share : float
            Share of the elements that are negative.
        negative_mass : float
            :math:`\sum_{ij} \delta_{ij} / \sum_{ij} |h_{ij}|`, 0 when no element is
            negative.
        largest_effect : float
            Largest :math:`|g^\top \delta g'| / |g^\top H^{-1} g'|` over the pairs;
            infinite when a pair without influence has an effect.
        median_effect : float
            Median of the same ratio over the pairs.
        sign_changes : float
            Share of the pairs whose influence changes sign with :math:`H^{-1} +
            \delta`: for them the assumption of Theorem 4 decides the answer.

    Raises
    ------
    ValueError
        If shapes do not match, or if ``inverse_hessian`` is not symmetric or is zero.

    See Also
    --------
    label_sign_agreement : The conclusion of Theorem 4 from the assumption.

    Notes
    -----
    Without :math:`\delta` the assumption is empty: a Hessian of non-negative features with a bias
    always has negative elements in its inverse, see `label_sign_agreement`.

    References
    ----------
    .. [1] M. Kounavis, O. Dia, I. Ramazanli, "On Influence Functions, Classification
       Influence, Relative Influence, Memorization and Generalization", Definition 9,
       relation (90).

    Examples
    --------
    The two elements -1 of [[2, -1], [-1, 2]] are half of the elements and a third of
    the mass. For the gradient (1, 1) the influence is 2 and the effect of raising them
    to 0 is 2 as well:

    >>> from skinfluence.metrics import almost_positive
    >>> result = almost_positive([[2.0, -1.0], [-1.0, 2.0]], [[1.0, 1.0]])
    >>> result.negative_share, round(result.negative_mass, 3), result.largest_effect
    (0.5, 0.333, 1.0)
    """
    inverse = matrix(inverse_hessian, "inverse_hessian")
    _require_symmetric(inverse)
    train = matrix(gradients, "gradients")
    query = train
    if query_gradients is not None:
        query = matrix(query_gradients, "query_gradients")
    for rows, name in ((train, "gradients"), (query, "query_gradients")):
        require_shape(rows, name, (len(rows), len(inverse)), "(n_rows, n_params)")
    delta = np.maximum(-inverse, 0)
    influence, effect = query @ inverse @ train.T, query @ delta @ train.T
    relative = _ratio(np.abs(effect), np.abs(influence))
    return Bunch(
        negative_share=float(np.mean(inverse < 0)),
        negative_mass=float(delta.sum() / np.abs(inverse).sum()),
        largest_effect=float(relative.max()),
        median_effect=float(np.median(relative)),
        sign_changes=float(np.mean(np.sign(influence + effect) != np.sign(influence))),
    )


def _require_symmetric(inverse):
    """Raise a ValueError when `inverse` can be no inverse of a Hessian."""
    n_params = len(inverse)
    require_shape(inverse, "inverse_hessian", (n_params,) * 2, "(n_params, n_params)")
    size = np.abs(inverse).max()
    if size == 0 or np.abs(inverse - inverse.T).max() > 1e-6 * size:
        raise ValueError(
            "inverse_hessian must be a symmetric matrix other than zero. Pass the "
            "inverse of the Hessian, not a factor of it."
        )


def _ratio(numerator, denominator):
    """Quotient of non-negative arrays, with 0 / 0 = 0 and x / 0 = inf."""
    nowhere = np.where(numerator > 0, np.inf, 0.0)
    return np.divide(numerator, denominator, out=nowhere, where=denominator > 0)
