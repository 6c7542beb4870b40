"""Influence of training rows on queries."""

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.validation import check_dtype, check_out, check_reduce, check_weights
from skinfluence.metrics._model_functional import find_functional
from skinfluence.rows import DenseRows


class InfluenceMixin:
    """Scores of queries, of estimators with ``linearisation_``."""

    def influence(
        self,
        X,
        y=None,
        *,
        of="auto",
        sample_weight=None,
        reduce=None,
        return_error=False,
        dtype=None,
        out=None,
    ):
        """Influence of every training row on the loss or the prediction of queries.

        ``I_loss(z_t, z_p) = -g_t' H^{-1} g_p``: the derivative of the loss at query t with
        respect to the weight of training row p in the mean objective. **Positive: more weight
        on that training row raises the query's loss (harmful); negative: helpful.** Several
        other libraries return the opposite sign.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, influence on the prediction: the margin of the
            predicted class over the next, or the output of a regression; positive then
            means that more weight on the row raises the prediction.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on: "auto" is the loss with y, the margin without. "margin":
            the score of the class in y (without y of the predicted class) over the largest
            other score, or the prediction of a regression. "probability": of that class, as
            ``predict_proba`` gives it. "output": what ``decision_function`` or the linear
            predictor gives, of that class where each class has an output, else the sum of the
            outputs. Positive: more weight on the row raises that number.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries in ``reduce``.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries, at the cost of one solve.
        return_error : bool, default=False
            Whether to return bounds on the errors of the scores too.
        dtype : {np.float32, np.float64}, default=None
            Precision of the scores; None means double. Single precision halves the memory of the
            result and takes products at twice the speed where that costs a relative error of at
            most 1e-4, measured on some of the scores of each group of queries. Factors and
            solutions are those of double precision.
        out : ndarray of shape (n_queries, n_train) or (n_train,), default=None
            Where the scores are written, such as a memory map; by default a new array.

        Returns
        -------
        influence : ndarray of shape (n_queries, n_train) or (n_train,)
            Scores in units of the loss (or of what ``of`` names) per unit of relative weight.
        bounds : ndarray of shape (n_queries, n_train) or (n_train,)
            Only with ``return_error=True``: at least the distance of each score from the score
            by the full curvature of the same kind, up to rounding; 0 where that is solved
            directly. They hold for queries of any kind, and for the reduced scores with
            ``reduce``; they follow from the residual of each solution, see Notes. Without a
            penalty or damping, a curvature that is singular up to rounding has no such bounds
            outside the range that the approximation finds.

        Raises
        ------
        ValueError
            If a label is unknown to the model, the model has no probabilities, weights come
            without ``reduce``, ``dtype`` is another, ``out`` has another shape or type, or the
            queries are unfit.

        Warns
        -----
        NumericalWarning
            If no lower bound of the full curvature is found, so that all bounds are infinite; if
            single precision is too little for these scores, which then have the error of double.

        Notes
        -----
        A solution ``x`` with the residual ``r = g_t - H x`` has the error ``r' H^{-1} g_p``.
        Where all eigenvalues of ``M H`` lie in ``[l, u]``, M the inverse of the approximate
        curvature, that is at most ``c |r' M g_p| + h sqrt(r' M r) sqrt(g_p' M g_p)`` with ``c``
        the centre of ``[1/u, 1/l]`` and ``h`` half its width. This is proven; the interval is
        estimated, by Lanczos iteration from random starts, and widened by the residuals of both
        ends and 5 percent. A sketch that leaves directions out borrows another M, the
        Nystroem approximation of rank 100.

        References
        ----------
        Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, 2017.
        """
        features, fit = self._features(X), self.linearisation_
        weight = _reduction(reduce, features.shape[0], sample_weight)
        gradients = fit.gradient_rows(features, y, of)
        queries = _reduced(fit.space.project_queries(gradients), weight)
        shape = (len(queries), self.n_samples_) if reduce is None else (self.n_samples_,)
        out = check_out(out, shape, check_dtype(dtype))
        scores = out.reshape(len(queries), -1)
        if not return_error:
            fit.fill_influence(queries, scores)
            return out
        bounds = np.empty_like(scores)
        fit.fill_influence_and_bounds(_reduced(gradients, weight), queries, scores, bounds)
        return out, bounds.reshape(shape)

    def iter_influence(self, X, y=None, *, of="auto", dtype=None):
        """Influence of every training row, some queries at a time.

        For results that are larger than memory: each block, with the solutions behind it, fits
        into scikit-learn's ``working_memory``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets; see `influence`.
        of : {"auto", "loss", "margin", "probability", "output"}, default="auto"
            What the influence is on; see `influence`.
        dtype : {np.float32, np.float64}, default=None
            Precision of the scores; None means double. Single precision halves the memory of the
            result and takes products at twice the speed where that costs a relative error of at
            most 1e-4, measured on some of the scores of each group of queries. Factors and
            solutions are those of double precision.

        Yields
        ------
        queries : slice
            The queries of the block.
        scores : ndarray of shape (n_queries_of_block, n_train)
            Their scores, signed as in `influence`.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import Ridge
        >>> from skinfluence import ExactInfluence
        >>> X, y = load_diabetes(return_X_y=True)
        >>> influence = ExactInfluence(Ridge()).fit(X, y)
        >>> harmful = [0] * len(y)
        >>> for queries, scores in influence.iter_influence(X, y):
        ...     harmful[queries] = (scores > 0).sum(axis=1)
        >>> len(harmful)
        442
        """
        queries, fit, dtype = self._query_rows(X, y, of), self.linearisation_, check_dtype(dtype)
        row_bytes = 8 * max(self.n_samples_, 2 * queries.n_columns)
        for batch in batches(len(queries), row_bytes):
            scores = np.empty((batch.stop - batch.start, self.n_samples_), dtype)
            yield batch, fit.fill_influence(queries[batch], scores)

    def influence_on(self, functional, X, y=None, *, sample_weight=None):
        """Influence of every training row on one number computed from all queries.

        ``-(sum_t J_t' dM/dz_t)' H^{-1} g_p`` for a functional M of the raw outputs ``z_t``, with
        Jacobians ``J_t``. **Positive: more weight on that training row raises the number**;
        leaving the row out changes it by ``-weight / N`` times this, to first order. See
        `skinfluence.diagnostics.functional_without_each` for the number at the moved outputs.

        Parameters
        ----------
        functional : str or object
            A name ("log_loss", "brier", "roc_auc", "expected_calibration_error"), a functional
            of `skinfluence.metrics` such as ``GroupGap(groups)``, or an object of one's own
            with the methods ``value(outputs, y)`` and ``gradient(outputs, y)``, which return a
            float and an array of the shape of ``outputs``. ``outputs`` (n_queries, c) are what
            ``decision_function`` or the linear predictor gives, unless an attribute ``response``
            of the object names another response, see `skinfluence.metrics.Functional`.
            ``y`` are targets, or the positions of labels in ``classes_``.
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

        Raises
        ------
        TypeError
            If the functional lacks a method, or takes no weights although there are some.
        ValueError
            If its gradient disagrees with its value, checked by differences on a few outputs;
            if the model has no such response; or if the queries are unfit.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.linear_model import LogisticRegression
        >>> from skinfluence import ExactInfluence
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> model = LogisticRegression(solver="newton-cholesky")
        >>> influence = ExactInfluence(model).fit(X[::2], y[::2])
        >>> influence.influence_on("roc_auc", X[1::2], y[1::2]).shape
        (285,)

        A functional of one's own in five lines:

        >>> class MeanOutput:
        ...     def value(self, outputs, y):
        ...         return outputs.mean()
        ...     def gradient(self, outputs, y):
        ...         return np.full(outputs.shape, 1 / outputs.size)
        >>> found = influence.influence_on(MeanOutput(), X[1::2])
        >>> bool(np.allclose(found, influence.influence(X[1::2], of="output", reduce="mean")))
        True
        """
        features, fit, weight = self._features(X), self.linearisation_, sample_weight
        if weight is not None:
            weight = check_weights(sample_weight, np.empty((features.shape[0], 1)))
        row = fit.functional_row(features, find_functional(functional), y, weight)
        return fit.fill_influence(row, np.empty((1, self.n_samples_)))[0]


def _reduction(reduce, n_queries, sample_weight):
    """Weights of queries in a reduction over them, None without one."""
    if check_reduce(reduce) is None:
        if sample_weight is None:
            return None
        raise ValueError(
            "sample_weight weighs the queries in a reduction over them. Give reduce='mean' or "
            "'sum', or leave sample_weight out."
        )
    weight = check_weights(sample_weight, np.empty((n_queries, 1)))
    return weight if reduce == "sum" else weight / weight.sum()


def _reduced(rows, weight):
    return rows if weight is None else DenseRows(weight[None] @ rows)
