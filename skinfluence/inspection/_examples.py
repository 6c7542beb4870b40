"""A query and the training rows that matter most for it."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils import _safe_indexing

from skinfluence._utils.sklearn_private import _num_samples
from skinfluence.inspection._axes import HARMFUL, HELPFUL, cut, model_of, names_of


@dataclass
class Examples:
    """The training rows that are shown beside a query.

    Parameters
    ----------
    indices : ndarray of int of shape (n_rows,)
        Training rows, the most harmful first and the most helpful last.
    influence : ndarray of shape (n_rows,)
        Their influence.
    captions : list of str
        Name, label and influence of each.
    query_caption : str
        What the query is.
    quantity : {"loss", "prediction"}
        What is influenced.
    title : str
        Model, and what is influenced.
    """

    indices: np.ndarray
    influence: np.ndarray
    captions: list
    query_caption: str
    quantity: str
    title: str

    @classmethod
    def of(cls, estimator, X, y, k):
        """The k most harmful and the k most helpful training rows for one query.

        Parameters
        ----------
        estimator : influence estimator
            Fitted.
        X : {array-like, sparse matrix} of shape (1, n_features)
            The query.
        y : array-like of shape (1,) or None
            Its target. None means influence on the prediction.
        k : int
            How many rows of each sign.

        Raises
        ------
        ValueError
            If there is not one query.
        """
        if _num_samples(X) != 1:
            raise ValueError(
                f"Examples are shown beside one query. Got {_num_samples(X)} rows; pass X[[i]] "
                "and y[[i]]."
            )
        influence = estimator.influence(X, y)[0]
        order = np.argsort(-influence, kind="stable")
        indices = np.r_[order[:k], order[-k:]] if len(order) > 2 * k else order
        fit = estimator.fits_[0].linearisation_
        names, labels = names_of(estimator)[indices], fit.fitted_model.given_y[indices]
        captions = [
            f"{cut(str(name))}, {_label(label)}: {value:+.3g}"
            for name, label, value in zip(names, labels, influence[indices], strict=True)
        ]
        query = "query" if y is None else f"query, {_label(np.asarray(y)[0])}"
        of = "prediction" if y is None else "loss"
        title = f"{type(model_of(estimator)).__name__}, influence on the {of} of one query"
        return cls(indices, influence[indices], captions, query, of, title)


def training_rows(estimator, indices):
    """Training rows as the user gave them."""
    return _safe_indexing(estimator.fits_[0].linearisation_.fitted_model.table, indices)


def colour_of(value):
    """Colour of an influence by its sign."""
    return HARMFUL if value > 0 else HELPFUL


def _label(label):
    if np.ndim(label):
        return "targets " + ", ".join(_label(each) for each in label)
    return f"{label:.4g}" if isinstance(label, (float, np.floating)) else cut(str(label))
