"""Influence estimators with a sketch, and the errors of their scores."""

from functools import cached_property

from sklearn.utils.validation import check_is_fitted

from skinfluence.curvature import exact_curvature
from skinfluence.curvature.sketched import is_injective, of_curvature, of_factors
from skinfluence.estimators._fitted import FittedInfluence
from skinfluence.estimators._sketch_error import Probes


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
        self.factorized_ = projection.plan.factorized
        return super().learn(linearisation)

    def _forget(self):
        """Drop what was computed for an earlier fit."""
        for name, value in vars(SketchedScores).items():
            if isinstance(value, cached_property):
                vars(self).pop(name, None)

    # How good the sketch is.

    @cached_property
    def _probes(self):
        fit = self.linearisation_
        return Probes(fit.objective, fit.curvature_kind, self.damping_, fit.space.plan.seed)

    @cached_property
    def sketch_error_(self):
        """Errors of the scores of probe queries, see the attributes of the class."""
        check_is_fitted(self)
        return self._probes.report(self.linearisation_)

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

    def leakage(self, X, y=None):
        """Share of the gradient of every query that lies outside the range of F.

        No training row has moved the model in these directions, and exact influence ignores
        them. A random sketch mixes them in, with an error that falls like ``m^-1/2``;
        ``project_queries=True`` removes this error.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. Without targets, the gradient of the prediction.

        Returns
        -------
        ndarray of shape (n_queries,)
            Norm of the part outside over the norm of the gradient, from 0 to 1.

        Warns
        -----
        ConvergenceWarning
            If the range is too large to be found, so that the values are upper bounds.
        """
        features = self._features(X)
        fit = self.linearisation_
        return fit.space.range.leakage(fit.gradient_rows(features, y))
