"""Queries of a model, and their losses under refits on fewer rows."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_array

from skinfluence._utils.validation import column_or_2d, encode_labels
from skinfluence._utils.warnings import warn_user


@dataclass
class Queries:
    """Queries as a model sees them, and their targets.

    Parameters
    ----------
    features : {ndarray, CSR matrix} of shape (n_queries, n_features)
        Queries as the steps before the model transform them.
    y : ndarray of shape (n_queries,) or (n_queries, n_targets)
        Their targets.
    have_labels : bool
        Whether a target is the label of one class.
    """

    features: object
    y: np.ndarray
    have_labels: bool

    @classmethod
    def of(cls, fitted_model, X, y):
        """Queries of a fitted model, checked.

        Parameters
        ----------
        fitted_model : FittedModel
            The fitted model with its training data.
        X : array-like of shape (n_queries, n_features)
            Queries as the user gave them, before all steps.
        y : array-like of shape (n_queries,) or (n_queries, n_targets)
            Their targets.

        Returns
        -------
        Queries

        Raises
        ------
        TypeError
            If the loss of the model is not known.
        ValueError
            If the targets do not match the queries or the training targets.
        """
        model, known = fitted_model.model, fitted_model.known_objective
        _require_loss(model, known, fitted_model.y)
        features = fitted_model.featurize(X)
        y = _like(fitted_model.y, fitted_model.read_targets(y), features.shape[0])
        queries = cls(features, y, is_classifier(model) and y.ndim == 1)
        if queries.have_labels:
            encode_labels(y, _classes(model, known))
        return queries

    @property
    def n(self):
        """Number of queries."""
        return self.features.shape[0]

    def losses_under(self, model, known):
        """Losses under a model; infinite for queries of a class that it does not know.

        Parameters
        ----------
        model : estimator
            A fitted model.
        known : Objective or None
            The model's objective, where it is known.

        Returns
        -------
        ndarray of shape (n_queries,)
        """
        seen = np.ones(self.n, dtype=bool)
        if self.have_labels:
            seen = np.isin(self.y, _classes(model, known))
        losses = np.full(self.n, np.inf)
        if seen.any():
            X, y = self.features[seen], self.y[seen]
            losses[seen] = (
                _plain_losses(model, X, y)
                if known is None
                else known.losses(X, known.encode_queries(y, X.shape[0]))
            )
        return losses


def _plain_losses(model, X, y):
    """Log loss of the probabilities of a classifier, squared error of a regressor."""
    if not is_classifier(model):
        return ((column_or_2d(y) - column_or_2d(model.predict(X))) ** 2).sum(axis=1)
    probabilities = model.predict_proba(X)
    own = np.where(y[:, None] == model.classes_, probabilities, 0.0).sum(axis=1)
    return -np.log(np.maximum(own, np.finfo(probabilities.dtype).eps))


def _classes(model, known):
    classes = getattr(known, "classes", None)
    return model.classes_ if classes is None else classes


def _require_loss(model, known, y):
    """Raise a TypeError if neither the objective nor probabilities tell the losses."""
    if known is not None or not is_classifier(model):
        return
    name = type(model).__name__
    if y.ndim > 1 and y.shape[1] > 1:
        raise TypeError(
            f"The loss of this {name} is not known: it has {y.shape[1]} outputs. Expected a "
            "classifier of one output; refit one for each column of y."
        )
    if not hasattr(model, "predict_proba"):
        raise TypeError(
            f"The loss of this {name} is not known: its objective is not smooth, or not known, "
            "and it has no predict_proba for the log loss. Expected a classifier with "
            "probabilities; wrap it in CalibratedClassifierCV."
        )


def _like(y_train, y, n):
    """Targets of n queries in the layout of the training targets."""
    if y is None:
        raise ValueError("y_query is None. Expected the targets of the queries.")
    y = check_array(y, ensure_2d=False, dtype=None, input_name="y_query")
    shape = (n, *y_train.shape[1:])
    if shape == (n, 1):
        shape = (n,)
    if shape == (n,) and y.shape == (n, 1):
        if y_train.ndim == 1:
            warn_user(
                "The targets of the queries are a column, the training targets are not. "
                f"Expected the shape ({n},); use y_query.ravel().",
                DataConversionWarning,
            )
        y = y[:, 0]
    if y.shape != shape:
        raise ValueError(
            f"The targets of the {n} queries must have the shape {shape}, like the training "
            f"targets. Got an array of shape {y.shape} instead."
        )
    return y
