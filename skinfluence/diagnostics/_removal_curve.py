"""How a score changes as more and more training rows leave."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_array
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.validation import check_indices, check_queries, reads_raw_data
from skinfluence.refitting.moved_scores import OutputScorer, moved_scores
from skinfluence.refitting.removal import removal_of_sets


def removal_curve(influence, order, X, y, scoring=None, *, n_steps=20, ks=None):
    """Score of queries after dropping the first k training rows of an order, without refitting.

    Each point is that of the model at the minimum of the objective of the other rows, as
    refitting gives it for a linear model. The outputs of a network are taken as linear in its
    parameters.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.
    order : array-like of int of shape (n_rows,)
        Training rows, the first to leave first: the most harmful ones, for example.
    X : {array-like, sparse matrix} of shape (n_queries, n_features)
        Queries.
    y : array-like of shape (n_queries,)
        Their targets.
    scoring : str or callable, default=None
        A scorer of scikit-learn, or its name; by default the ``score`` method of the model.
    n_steps : int, default=20
        Steps of equal size, up to all rows of ``order`` or half of the training rows.
    ks : array-like of int of shape (n_points,), default=None
        Numbers of rows to drop, in place of equal steps.

    Returns
    -------
    sklearn.utils.Bunch
        ``k``, ndarray of int of shape (n_points,): how many rows are dropped, from 0 unless
        ``ks`` says otherwise. ``score``, ndarray of shape (n_points,): the score then, NaN where
        no model is left.

    Raises
    ------
    ValueError
        If ``order`` names no training rows, ``ks`` exceeds it, or the scorer needs predictions
        that the model does not make.

    See Also
    --------
    skinfluence.inspection : Curves of removals that are really refitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import scale
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import removal_curve
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X, noisy = scale(X), y.copy()
    >>> noisy[:60] = 1 - y[:60]
    >>> influence = ExactInfluence(LogisticRegression()).fit(X[:300], noisy[:300])
    >>> harm = influence.influence(X[300:], y[300:], reduce="mean")
    >>> curve = removal_curve(influence, np.argsort(-harm), X[300:], y[300:], ks=[0, 20, 40])
    >>> curve.score.round(2)
    array([0.96, 0.96, 0.97])
    """
    check_is_fitted(influence)
    linearisation = influence.linearisation_
    linearisation.fitted_model.check_unchanged()
    order = check_indices(order, linearisation.n_samples)
    ks = _grid(len(order), linearisation.n_samples, n_steps) if ks is None else _checked(ks, order)
    features = linearisation.read(
        check_queries(influence, X, numeric=not reads_raw_data(influence))
    )
    removed = removal_of_sets(linearisation, [order[:k] for k in ks], refine=True)
    scorer = OutputScorer(linearisation.fitted_model, linearisation.objective.loss, scoring)
    before, change = moved_scores(linearisation, removed, features, y, scorer)
    return Bunch(k=ks, score=before + change)


def _grid(n_rows, n_samples, n_steps):
    if not isinstance(n_steps, Integral) or n_steps < 1:
        raise ValueError(f"n_steps must be an integer of at least 1. Got {n_steps!r} instead.")
    last = min(n_rows, n_samples // 2)
    return np.unique(np.linspace(0, last, n_steps + 1).round().astype(int))


def _checked(ks, order):
    ks = check_array(ks, ensure_2d=False, dtype=None, input_name="ks")
    if ks.ndim != 1 or ks.dtype.kind not in "iu" or ks.min() < 0 or ks.max() > len(order):
        raise ValueError(
            f"ks must be a 1-d array of integers from 0 to {len(order)}, the rows of order. Got "
            f"{ks!r} instead."
        )
    return ks
