"""What happens to queries when training rows leave, or change their weight or label."""

from skinfluence._utils.validation import (
    check_indices,
    check_new_weights,
    check_reduce,
    check_refine,
    check_sets,
)
from skinfluence.refitting.moved_losses import moved_losses
from skinfluence.refitting.moved_scores import OutputScorer, moved_scores
from skinfluence.refitting.relabelling import read_labels
from skinfluence.refitting.removal import change_of_labels, change_of_weights, removal_of_sets


class EffectsMixin:
    """Effects on queries, of estimators with ``linearisation_`` and ``read_queries``."""

    def leave_one_out_effect(self, X, y, *, reduce=None, refine="auto"):
        """Predicted change of the losses when a training row is left out and the model refitted.

        A Newton step without the row, then the loss at the moved outputs. The step removes the
        row's curvature from the Hessian by Woodbury (its own share, from an approximate
        curvature), and changes class weights and the weight of the penalty as the estimator
        would. **Positive: leaving the row out raises the loss (the row helps)**; to first order
        the effect is ``-(weight / N)`` times `influence`.

        What does not depend on the queries is computed on the first call and kept, so that a
        later call costs about as much as `influence`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        reduce : {None, "mean", "sum"}, default=None
            Reduce over the queries.
        refine : {"auto", bool, int}, default="auto"
            How many rows go on from the Newton step to the minimum of the other rows, those with
            the longest steps first: as many as about a second of one core allows, all of them or
            none, or a number of rows.

        Returns
        -------
        ndarray of shape (n_queries, n_train) or (n_train,)
            Change of the loss, in units of the loss. Where a row is the last of its class, a
            linear model is refitted on the other classes, and queries of the lost class have
            an infinite loss; NaN if there is no such model. A network keeps its outputs.

        Raises
        ------
        ValueError
            If no row can be left out: nothing, or one class alone, would be left.

        Warns
        -----
        NumericalWarning
            Names the rows without which there is no refit, some queries have no finite loss, or
            the iteration did not converge, and rows with a leverage near 1, for which no single
            step can foresee the refit.
        """
        check_reduce(reduce)
        features = self._features(X)
        targets = self.linearisation_.targets(features, y)
        removed = self.linearisation_.without_each(check_refine(refine))
        return moved_losses(self.linearisation_, removed, features, targets, reduce)

    def removal_effect(self, indices, X, y, *, scoring=None):
        """Predicted change of the losses when a set of training rows is dropped at once.

        The Newton step without the rows, then on to the minimum of the other rows. For linear
        models that is the refitted model, however many rows leave; of networks the outputs are
        taken as linear in the parameters.

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
            Change of the loss; positive: dropping the rows raises the loss. Infinite for queries
            of a class that is left without rows, see `leave_one_out_effect`. With a scorer, the
            change of the score, a float for one set; positive: dropping the rows raises the
            score. NaN for sets, among several, that leave no model.

        Raises
        ------
        ValueError
            If the removal leaves nothing to fit, or empties a class where no model of the other
            classes is known; if the scorer needs predictions that the model does not make.
        TypeError
            If there is a scorer, and it is not known how the model predicts from its raw outputs.

        See Also
        --------
        reweighting_effect : Any other weights.
        relabel_effect : Other labels.
        """
        sets, are_several = check_sets(indices, self._checked().n_samples)
        removed = removal_of_sets(self.linearisation_, sets, refine=True)
        return self._effect(removed, X, y, scoring, are_several)

    def reweighting_effect(self, weights, X, y, *, scoring=None):
        """Predicted change of the losses when the training rows get other sample weights.

        All rows whose weight changes take one Newton step together, which goes on to the minimum
        with the new weights: the model that ``fit(X, y, sample_weight=weights)`` gives, balanced
        class weights and objectives that are means included. A weight of 0 takes a row out of the
        sum, but not out of the number of rows or the list of classes.

        Parameters
        ----------
        weights : array-like of shape (n_train,) or (n_sets, n_train)
            New sample weights in place of those of `fit`, not negative; or several sets of them.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        scoring : str or callable, default=None
            A scorer of scikit-learn, or its name, for its change in place of that of the losses.

        Returns
        -------
        ndarray of shape (n_queries,) or (n_queries, n_sets), or float or ndarray (n_sets,)
            Change of the loss, or of the score; see `removal_effect`.

        Raises
        ------
        ValueError
            If weights are negative or of another shape, a class loses all of its weight, or the
            scorer needs predictions that the model does not make.
        TypeError
            If there is a scorer, and it is not known how the model predicts from its raw outputs.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import Ridge
        >>> from skinfluence import ExactInfluence
        >>> X, y = load_diabetes(return_X_y=True)
        >>> influence = ExactInfluence(Ridge()).fit(X, y)
        >>> doubled = np.where(y > 200, 2.0, 1.0)
        >>> change = influence.reweighting_effect(doubled, X, y, scoring="r2")
        >>> refitted = Ridge().fit(X, y, sample_weight=doubled)
        >>> bool(abs(change - (refitted.score(X, y) - Ridge().fit(X, y).score(X, y))) < 1e-12)
        True
        """
        weights, are_several = check_new_weights(weights, self._checked().n_samples)
        removed = change_of_weights(self.linearisation_, weights)
        return self._effect(removed, X, y, scoring, are_several)

    def relabel_effect(self, indices, y_new, X, y, *, scoring=None):
        """Predicted change of the losses when training rows get other labels.

        The rows leave with their old labels and come back with the new ones in one Newton step,
        which goes on to the minimum.

        Parameters
        ----------
        indices : array-like of int of shape (n_rows,)
            Training rows.
        y_new : array-like of shape (n_rows,) or (n_rows, n_targets)
            Their new labels, among those of the training rows, or targets of a regression.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        scoring : str or callable, default=None
            A scorer of scikit-learn, or its name, for its change in place of that of the losses.

        Returns
        -------
        ndarray of shape (n_queries,) or float
            Change of the loss, or of the score; see `removal_effect`.

        Raises
        ------
        ValueError
            If there is not one label for each row, a label is unknown, or the scorer needs
            predictions that the model does not make.
        TypeError
            If several outputs have class weights each; if there is a scorer, and it is not known
            how the model predicts from its raw outputs.

        Examples
        --------
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.preprocessing import scale
        >>> from skinfluence import ExactInfluence
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> X, noisy = scale(X), y.copy()
        >>> noisy[:20] = 1 - y[:20]
        >>> influence = ExactInfluence(LogisticRegression()).fit(X, noisy)
        >>> round(influence.relabel_effect(range(20), y[:20], X, y, scoring="accuracy"), 3)
        0.026
        """
        linearisation = self._checked()
        rows = check_indices(indices, linearisation.n_samples)
        removed = change_of_labels(linearisation, rows, *read_labels(linearisation, rows, y_new))
        return self._effect(removed, X, y, scoring, False)

    def _checked(self):
        self._check_fitted()
        return self.linearisation_

    def _effect(self, removed, X, y, scoring, are_several):
        features = self._features(X)
        if scoring is None:
            targets = self.linearisation_.targets(features, y)
            change = moved_losses(self.linearisation_, removed, features, targets, None)
            return change if are_several else change[:, 0]
        loss, fitted_model = self.linearisation_.objective.loss, self.linearisation_.fitted_model
        scorer = OutputScorer(fitted_model, loss, scoring)
        _, change = moved_scores(self.linearisation_, removed, features, y, scorer)
        return change if are_several else float(change[0])
