"""Which tokens of a training text teach a query what it asks."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.validation import check_indices, check_queries, reads_raw_data


def token_influence(influence, X, y=None, indices=None, *, of="auto"):
    """Influence of every target of some training rows, such as the tokens of a text.

    The loss of a training row of a language model is a sum over its positions, of what each of
    its tokens costs, and so is its gradient. So its influence is a sum too, and here are the
    terms: ``-g_t' H^{-1} g_pj`` for the part ``g_pj`` of the gradient that belongs to target j.
    **Positive: more weight on that token raises the query's loss (harmful); negative: helpful.**

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.
    X : array-like of shape (n_queries, ...)
        Queries.
    y : array-like of shape (n_queries,) or (n_queries, t), default=None
        Their targets; without targets the influence is on the prediction, or on what the model's
        ``measurement`` asks.
    indices : array-like of int of shape (n_rows,), default=None
        Training rows whose targets are told apart; all of them by default. Each takes a backward
        pass for each of its targets.
    of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
        What the influence is on, as in ``influence.influence``.

    Returns
    -------
    ndarray of shape (n_queries, n_rows, t)
        Influence of each target, in units of the loss per unit of relative weight, 0 where it is
        ignored. The sums over the last axis are the scores of ``influence.influence``. A loss
        that is no sum over positions has one term for each row.

    Raises
    ------
    ValueError
        If an index is no training row, or queries or targets are unfit.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skinfluence import KFACInfluence
    >>> from skinfluence.diagnostics import token_influence
    >>> from skinfluence.models.torch import TorchModel
    >>> _ = torch.manual_seed(0)
    >>> text = np.array([[0, 1, 2, 3], [2, 3, 0, 1], [1, 2, 3, 0], [3, 0, 1, 2]])
    >>> X, y = text[:, :-1], text[:, 1:]
    >>> layers = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4)
    >>> model = TorchModel(
    ...     torch.nn.Sequential(*layers), outputs=lambda out: out.transpose(1, 2), l2=0.1
    ... )
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     influence = KFACInfluence(model, damping=0.1).fit(X, y)
    >>> found = token_influence(influence, X[:2], y[:2], indices=[3, 0])
    >>> found.shape
    (2, 2, 3)
    >>> bool(np.allclose(found.sum(axis=2), influence.influence(X[:2], y[:2])[:, [3, 0]]))
    True
    """
    check_is_fitted(influence)
    fit = influence.linearisation_
    fit.fitted_model.check_unchanged()
    indices = check_indices(indices, fit.n_samples)
    X = check_queries(influence, X, numeric=not reads_raw_data(influence))
    queries = fit.query_rows(fit.read(X), y, of)
    terms = fit.space.project(fit.objective.term_rows(indices))
    out = np.empty((len(queries), terms.shape[0]))
    for group in fit.query_groups(queries):
        out[group] = -fit.solve(queries[group]).inner(terms)
    return out.reshape(len(queries), len(indices), -1)
