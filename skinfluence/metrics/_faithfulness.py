"""Sketched influences against exact influences."""

from numbers import Real

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import Bunch

from skinfluence._utils.arrays import (
    correlation,
    matrix,
    require_positive,
    require_shape,
    require_spread,
    vector,
)
from skinfluence._utils.sklearn_private import Interval, validate_params


@validate_params(
    {
        "sketched": ["array-like"],
        "exact": ["array-like"],
        "sketched_self_influence": ["array-like"],
        "exact_self_influence": ["array-like"],
        "query_scale": ["array-like"],
        "train_scale": ["array-like", None],
        "quantile": [Interval(Real, 0, 1, closed="right")],
    },
    prefer_skip_nested_validation=True,
)
def faithfulness(
    sketched,
    exact,
    *,
    sketched_self_influence,
    exact_self_influence,
    query_scale,
    train_scale=None,
    quantile=0.95,
):
    r"""Distance of sketched influences from exact influences.

    With :math:`B` the bilinear form :math:`g^\top (F + \lambda I)^{-1} g'`, a tilde for
    its sketched version, and :math:`\phi(g) = B(g, g)`, the theory bounds
    :math:`|\tilde B - B|` by :math:`\varepsilon \sqrt{\phi_0(g) \phi_0(g')}` for all
    pairs at once, with :math:`\phi_0` the self-influence without ridge. This uniform
    error and the relative error of the scores are far apart where eigenvalues decay
    slowly, so the function returns both.

    Parameters
    ----------
    sketched, exact : array-like of shape (n_queries, n_train)
        Sketched and exact influences, both :math:`B` or both :math:`I_{loss} = -B`.
    sketched_self_influence, exact_self_influence : array-like of shape (n_train,)
        :math:`\tilde\phi` and :math:`\phi` of the training rows.
    query_scale : array-like of shape (n_queries,)
        :math:`\phi` of the queries, the first factor of the scale of the error:
        :math:`\phi_0` to compare with the theorem, :math:`\phi_\lambda` for a stricter
        figure.
    train_scale : array-like of shape (n_train,), default=None
        :math:`\phi` of the training rows. None means ``exact_self_influence``.
    quantile : float, default=0.95
        Which quantile of the error over the pairs to return.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with these entries.

        error_quantile : float
            The quantile of :math:`|\tilde B - B| / \sqrt{\phi \phi'}` over all pairs.
        self_influence_ratio : float
            Mean of :math:`\tilde\phi / \phi`: below 1 when the sketch shrinks.
        relative_error : ndarray of shape (n_queries,)
            :math:`\|\tilde B - B\| / \|B\|`, Euclidean norms over the training rows.
        spearman : ndarray of shape (n_queries,)
            Rank correlation of sketched and exact influences.

    Raises
    ------
    ValueError
        If shapes do not match, if a scale or exact self-influence is not positive, or
        if the influences of a query are constant.

    References
    ----------
    .. [1] P. Hu, Y. Hu, J. Ma, H. Zhao, "A Unified Theory of Random Projection for
       Influence Functions", arXiv:2602.10449.

    Examples
    --------
    One query; the sketch halves all of its influences:

    >>> from skinfluence.metrics import faithfulness
    >>> result = faithfulness(
    ...     [[1.0, 2.0]], [[2.0, 4.0]], query_scale=[4.0], quantile=1.0,
    ...     sketched_self_influence=[0.5, 2.0], exact_self_influence=[1.0, 4.0])
    >>> result.error_quantile, result.self_influence_ratio
    (0.5, 0.5)
    >>> result.relative_error, result.spearman
    (array([0.5]), array([1.]))
    """
    sketched, exact = matrix(sketched, "sketched"), matrix(exact, "exact")
    require_shape(sketched, "sketched", exact.shape, "that of exact")
    n_queries, n_train = exact.shape
    if train_scale is None:
        train_scale = exact_self_influence
    phi_tilde = vector(sketched_self_influence, "sketched_self_influence")
    require_shape(phi_tilde, "sketched_self_influence", (n_train,), "(n_train,)")
    phi = _scale(exact_self_influence, "exact_self_influence", n_train, "(n_train,)")
    train = _scale(train_scale, "train_scale", n_train, "(n_train,)")
    query = _scale(query_scale, "query_scale", n_queries, "(n_queries,)")
    require_spread(sketched, "sketched influences")
    require_spread(exact, "exact influences")
    error = np.abs(sketched - exact)
    uniform = error / np.sqrt(query)[:, None] / np.sqrt(train)
    return Bunch(
        error_quantile=float(np.quantile(uniform, quantile)),
        self_influence_ratio=float(np.mean(phi_tilde / phi)),
        relative_error=np.linalg.norm(error, axis=1) / np.linalg.norm(exact, axis=1),
        spearman=correlation(rankdata(sketched, axis=1), rankdata(exact, axis=1)),
    )


def _scale(values, name, length, meaning):
    """One-dimensional array of `length` positive floats."""
    values = vector(values, name)
    require_shape(values, name, (length,), meaning)
    advice = "A row without gradient has no influence to compare: leave it out."
    require_positive(values, name, advice)
    return values
