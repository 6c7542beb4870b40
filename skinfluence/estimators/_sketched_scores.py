"""Influence estimators with a sketch, and the errors of their scores."""

from functools import cached_property

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skinfluence.curvature import exact_curvature
from skinfluence.curvature.sketched import is_injective, of_curvature, of_factors
from skinfluence.estimators._fitted import FittedInfluence
from skinfluence.estimators._sketch_error import measured_error

# Training rows over which `SketchedScores.leakage` averages its error.
N_SOLVED = 256


class SketchedScores(FittedInfluence):
    """Influence functions of a model whose linearisation is sketched."""

    def learn(self, linearisation):
        """Adopt the linearisation of a fitted model.

        Parameters
        ----------
        linearisation : Linearisation
            Linearisation of a fit.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        self._forget()
        projection = linearisation.space
        self.sketch_ = projection.sketch
        self.sketch_size_ = projection.sketched_size
        self.tried_sizes_ = projection.tried_sizes
        self.factorized_ = projection.plan.factorized
        return super().learn(linearisation)

    def _forget(self):
        """Drop what was computed for an earlier fit."""
        for name, value in vars(SketchedScores).items():
            if isinstance(value, cached_property):
                vars(self).pop(name, None)

    # How good the sketch is.

    def sketch_error(self, X=None, y=None):
        r"""Error of the scores of queries, measured against exact scores.

        Exact scores of the queries come from conjugate gradients with the full curvature, which
        costs about as much as :class:`ExactInfluence` with ``solver="cg"`` on them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features), default=None
            Queries. By default some training rows, drawn by ``random_state``. Their gradients lie
            in the range of F, so that they say nothing of queries outside it, see `leakage`:
            give the queries that the scores are for.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, the gradient of the prediction.

        Returns
        -------
        error : Bunch
            With the attributes

            - ``relative``: relative error of the scores of each query,
              :math:`\|\tilde b - b\| / \|b\|` over the training rows. ``median`` and
              ``percentile_95`` have ``value`` and ``low`` and ``high``, a 95 % interval by order
              statistics for queries drawn like these; ``max`` is a number; ``values`` has all,
              (n_queries,). The upper limit is infinite where the queries are too few for one.
            - ``spearman``: rank correlation of each query's scores with the exact ones, as
              ``median``, ``percentile_5``, ``min`` and ``values``.
            - ``operator``: the error that the theory bounds by ``eps``, the largest
              :math:`|\tilde B(g, g') - B(g, g')| / \sqrt{\varphi_0(g) \varphi_0(g')}` over all
              gradients g, g' in the range of F, with :math:`\varphi_0(g) = g' F^{+} g`. It is
              found by iteration from below: an estimate, no bound. It does not depend on X.
            - ``pairwise``: the same quotient for pairs of a query (its part in the range, in
              :math:`\varphi_0`) with a training row: ``median``, ``percentile_95`` with its
              interval, ``max``. A typical pair's error is smaller than ``operator`` by a factor
              of 10 to 100, and no theorem bounds it so.
            - ``n_queries``: number of queries.

        Raises
        ------
        ValueError
            If there are targets without queries.
        """
        check_is_fitted(self)
        if X is None:
            if y is not None:
                raise ValueError("sketch_error got targets y without queries X. Give both.")
            return measured_error(self.linearisation_)
        features = self._features(X)
        return measured_error(self.linearisation_, self.linearisation_.gradient_rows(features, y))

    @cached_property
    def _dimension(self):
        fit = self.linearisation_
        seed = fit.space.plan.seed
        return of_curvature(
            fit.space,
            lambda: exact_curvature(fit.objective, fit.curvature_kind, fit.damping, seed),
        )

    @property
    def effective_dimension_(self):
        """``tr(F H^{-1})``: how many directions the data, not the ridge, decide."""
        check_is_fitted(self)
        return self._dimension[0]

    @property
    def effective_dimension_error_(self):
        """Half the width of the interval of `effective_dimension_`, or its standard error."""
        check_is_fitted(self)
        return self._dimension[1]

    @cached_property
    def factor_effective_dimensions_(self):
        """Effective dimensions of features and outputs, see the attributes of the class."""
        check_is_fitted(self)
        if not self.factorized_:
            raise AttributeError("Full gradients are sketched: there are no factors.")
        return of_factors(self.linearisation_.space)

    @cached_property
    def sketch_is_injective_(self):
        """Whether the sketch is known to lose nothing of the range of F."""
        check_is_fitted(self)
        return is_injective(self.linearisation_.space)

    def leakage(self, X, y=None, *, unit="share"):
        """Part of the gradient of every query that lies outside the range of F.

        No training row has moved the model in these directions, and exact influence ignores
        them. A random sketch mixes them in, with an error that falls like ``m^-1/2``;
        ``project_queries=True`` removes this error.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, the gradient of the prediction.
        unit : {"share", "score"}, default="share"
            "share": norm of the part outside, ``||v_K||``, over the norm of the gradient, from 0
            to 1. "score": the error that this part adds to a score, in units of `influence`.

        Returns
        -------
        ndarray of shape (n_queries,)
            The share; or an estimate of the error, as root mean square over some training rows
            g: ``m^-1/2 ||x|| ||v_K||`` with the solution x of ``(PFP' + ridge) x = Pg`` and, for
            factored rows, the m of the features. As ``||x||^2 <= phi(g) / ridge``, this is at
            most ``m^-1/2 sqrt(phi) ||v_K|| / sqrt(ridge)``. With c outputs it may be too large
            by up to ``sqrt(c)``. It is 0 for a basis, whose directions lie in the range, and
            where queries are projected.

        Raises
        ------
        ValueError
            If the unit is unknown.

        Warns
        -----
        ConvergenceWarning
            If the range is too large to be found, so that the values are upper bounds.
        """
        if unit not in ("share", "score"):
            raise ValueError(f"unit must be 'share' or 'score'. Got {unit!r} instead.")
        features = self._features(X)
        fit = self.linearisation_
        outside, size = fit.space.range.outside(fit.gradient_rows(features, y))
        if unit == "share":
            return np.divide(outside, size, out=np.zeros_like(size), where=size > 0)
        if fit.space.plan.project_queries or fit.space.is_orthonormal or self.sketch_.is_identity:
            return np.zeros_like(outside)
        some = np.unique(np.linspace(0, self.n_samples_ - 1, N_SOLVED).astype(int))
        solved = fit.solve(fit.training_rows[some]).toarray()[:, : self.sketch_size_]
        mean_square = (solved**2).sum(axis=1).mean()
        return outside * np.sqrt(mean_square / fit.space.feature_sketch.size)
