"""The training rows with the most influence."""

import numpy as np

from skinfluence._utils.validation import check_ranking


class RankingMixin:
    """Ranks training rows by their influence, of estimators with ``linearisation_``."""

    def most_influential(self, X, y=None, k=10, *, of="auto", by="harmful"):
        """The training rows with the most influence on each query.

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
            Their influence, signed as in `influence`.

        Raises
        ------
        ValueError
            If ``k`` exceeds the number of training rows, or ``by`` is unknown.
        """
        self._check_fitted()
        check_ranking(by, k, self.n_samples_)
        queries, fit = self._query_rows(X, y, of), self.linearisation_
        indices = np.empty((len(queries), k), dtype=np.intp)
        values = np.empty((len(queries), k))
        # The leaders so far, those of a tile, and what sorts them.
        for group in fit.query_groups(queries, 8 * 8 * k):
            indices[group], values[group] = fit.training_pass(queries[group]).ranking(k, by)
        return indices, values
