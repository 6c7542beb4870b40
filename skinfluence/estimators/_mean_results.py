"""Results that are means over several fits."""

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.arrays import ranking
from skinfluence._utils.batching import batches
from skinfluence._utils.sklearn_private import _num_samples
from skinfluence._utils.validation import check_ranking, packed


class MeanResultsMixin:
    """Means over the fitted influence estimators ``estimators_``."""

    def _mean(self, method, *args, **settings):
        """Mean over the fits of what a method of them returns."""
        check_is_fitted(self)
        total = 0.0
        for fit in self.estimators_:
            total += getattr(fit, method)(*args, **settings)
        return total / len(self.estimators_)

    def influence(self, X, y=None, *, of="auto", sample_weight=None, reduce=None):
        """Mean influence of every training row on the loss or the prediction of queries.

        **Positive: more weight on that training row raises the query's loss (harmful); negative:
        helpful.**

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, influence on the prediction, of a classifier on that
            of the class which most of the trainings predict.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on, see :meth:`ExactInfluence.influence`.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries in ``reduce``.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries, at the cost of one solve for each training.

        Returns
        -------
        ndarray of shape (n_queries, n_train) or (n_train,)
            Scores in units of the loss (or of what ``of`` names) per unit of relative weight.

        Raises
        ------
        ValueError
            If a label is unknown to the model, the model has no probabilities, weights come
            without ``reduce``, or the queries are unfit.
        """
        asked = self._question(X, y, of)
        return self._mean("influence", X, **asked, sample_weight=sample_weight, reduce=reduce)

    def _question(self, X, y, of):
        """What all fits are asked: the class that most of them predict, where one is needed."""
        check_is_fitted(self)
        first = self.estimators_[0]
        if y is not None or of == "loss" or not is_classifier(first.estimator):
            return {"y": y, "of": of}
        if of in ("auto", "margin") and first.linearisation_.objective.has_measurement:
            return {"y": None, "of": of}
        predicted = np.stack([fit.estimator_.predict(X) for fit in self.estimators_])
        return {"y": _most_frequent(predicted), "of": "margin" if of == "auto" else of}

    def influence_on(self, functional, X, y=None, *, sample_weight=None):
        """Mean influence of every training row on one number computed from all queries.

        **Positive: more weight on that training row raises the number**, in the mean over the
        trainings.

        Parameters
        ----------
        functional : str or object
            A name or a functional, see :meth:`ExactInfluence.influence_on`.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets, for functionals that need them.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries, handed to the functional as ``sample_weight``.

        Returns
        -------
        ndarray of shape (n_train,)
            Scores in units of the number per unit of relative weight.
        """
        return self._mean("influence_on", functional, X, y, sample_weight=sample_weight)

    def leave_one_out_effect(self, X, y, *, reduce=None, refine="auto"):
        """Predicted change of the losses when a training row is left out, mean over trainings.

        **Positive: leaving the row out raises the loss (the row helps).**

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries.
        refine : {"auto", bool, int}, default="auto"
            How many rows go on from the Newton step to the minimum of the other rows, see
            :meth:`ExactInfluence.leave_one_out_effect`.

        Returns
        -------
        ndarray of shape (n_queries, n_train) or (n_train,)
            Change of the loss, in units of the loss.
        """
        return self._mean("leave_one_out_effect", X, y, reduce=reduce, refine=refine)

    def removal_effect(self, indices, X, y, *, scoring=None):
        """Predicted change when a set of training rows is dropped, mean over trainings.

        Parameters
        ----------
        indices : array-like of int of shape (n_rows,), or list of such arrays
            Training rows that are dropped together, or several such sets.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        scoring : str or callable, default=None
            A scorer of scikit-learn, or its name, for its change in place of that of the losses.

        Returns
        -------
        ndarray of shape (n_queries,) or (n_queries, n_sets), or float or ndarray (n_sets,)
            Change of the loss, or of the score; see :meth:`ExactInfluence.removal_effect`.
        """
        return self._mean("removal_effect", indices, X, y, scoring=scoring)

    def most_influential(self, X, y=None, k=10, *, of="auto", by="harmful"):
        """The training rows with the most influence on each query, by the mean influence.

        The full matrix of influences is never stored.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets; see `influence`.
        k : int, default=10
            How many rows, at most the number of training rows.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on; see `influence`.
        by : {"harmful", "helpful", "absolute"}, default="harmful"
            Largest, smallest or largest absolute influence first.

        Returns
        -------
        indices : ndarray of shape (n_queries, k)
            Training rows, the most influential first.
        values : ndarray of shape (n_queries, k)
            Their mean influence, signed as in `influence`.

        Raises
        ------
        ValueError
            If ``k`` exceeds the number of training rows, or ``by`` is unknown.
        """
        check_is_fitted(self)
        check_ranking(by, k, self.n_samples_)
        asked, X = self._question(X, y, of), packed(self.estimator, X)
        y = asked.pop("y")
        n_queries = _num_samples(X)
        indices = np.empty((n_queries, k), dtype=np.intp)
        values = np.empty((n_queries, k))
        for batch in batches(n_queries, 8 * 5 * self.n_samples_):
            targets = None if y is None else _safe_indexing(y, batch)
            scores = self._mean("influence", _safe_indexing(X, batch), targets, **asked)
            indices[batch], values[batch] = ranking(scores, k, by)
        return indices, values

    def self_influence(self):
        """Mean influence of every training row on its own loss, without the sign.

        Returns
        -------
        ndarray of shape (n_train,)
            Mean of ``g_p' H^{-1} g_p >= 0``, large for rows that the model fits against all
            others.
        """
        return self._mean("self_influence")

    def memorization(self):
        """How far each training row moves the parameters, mean over trainings.

        Returns
        -------
        ndarray of shape (n_train,)
            Mean of ``||H^{-1} g_p||_1``, see :meth:`ExactInfluence.memorization`.

        Raises
        ------
        ValueError
            If only products with the curvature are known ("cg", "lissa").
        """
        return self._mean("memorization")


def _most_frequent(labels):
    """The most frequent of the labels (n_fits, n, ...) of each sample, ties to the first fit."""
    votes = np.stack([(labels == own).sum(axis=0) for own in labels])
    return np.take_along_axis(labels, votes.argmax(axis=0)[None], axis=0)[0]
