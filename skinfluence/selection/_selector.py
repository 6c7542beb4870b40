"""Splitting training rows into memorizable and generalizable ones."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.sklearn_private import HasMethods, Interval, StrOptions, _fit_context
from skinfluence._utils.warnings import warn_user
from skinfluence.data import gathered, targets, training_set
from skinfluence.estimators._exact import ExactInfluence
from skinfluence.selection._held_out import scores_by_folds, scores_by_set


class MemorizationSelector(VersionedMixin, MetaEstimatorMixin, BaseEstimator):
    """Keep the training rows to memorize and sample the others, or drop the memorized ones.

    A row is memorizable if it moves the parameters by more than a threshold D,
    ``||H^{-1} g_p||_1 > D`` in the eigenbasis of H, and generalizable otherwise. Isolated and
    mislabelled rows are memorizable; rows among many similar ones are generalizable.

    The selector only changes the rows that a model learns from. It is no transformer, because a
    Pipeline of scikit-learn would silently keep every row: put the selector into a
    `FilteredEstimator`, or into a Pipeline of imbalanced-learn.

    Parameters
    ----------
    influence : influence estimator, default=None
        An influence estimator of this package around the model that judges; a clone is fitted.
        Inside a `FilteredEstimator`, None means ``ExactInfluence`` around the filtered
        estimator. Elsewhere it means ``ExactInfluence(LogisticRegression())``, or
        ``ExactInfluence(Ridge())`` where y has floating-point numbers with more than two values.
    criterion : {"norm", "sign"}, default="norm"
        "norm": rows above the threshold are memorizable. "sign": only those that also harm
        held-out rows, ``I_loss > 0``.
    threshold : {"auto"}, str or float, default="auto"
        D, in units of the parameters, or a quantile of the memorization such as "q0.9". "auto"
        is Tukey's fence ``Q3 + 1.5 (Q3 - Q1)`` on the quartiles for "norm"; for "sign", where
        held-out rows are further evidence, it is the larger of ``Q3`` and D+.
    keep : {"memorizable", "generalizable"}, default="memorizable"
        "memorizable" keeps all memorizable rows and samples the others. "generalizable" drops
        the memorizable rows, which cleans the training set.
    generalizable_fraction : float, default=0.5
        Share of the generalizable rows to sample, within each class and at least one of each,
        for ``keep="memorizable"``.
    validation : int, cross-validation splitter or tuple (X, y), default=5
        Held-out rows for "sign": a validation set, or folds of the training rows, each of
        which judges the rows outside it. Their labels may be wrong too.
    random_state : int, RandomState or None, default=None
        Draws the sample.

    Attributes
    ----------
    influence_ : influence estimator
        Fitted on all rows.
    memorization_ : ndarray of shape (n_samples,)
        ``||H^{-1} g_p||_1`` of each row; the mean over the fits for "sign" with folds.
    threshold_ : float
        D, the memorization above which a row is memorizable.
    memorizable_ : ndarray of bool of shape (n_samples,)
        Rows to memorize.
    support_ : ndarray of bool of shape (n_samples,)
        Mask of the kept rows.
    sample_indices_ : ndarray of int of shape (n_kept,)
        Positions of the kept rows, ascending.
    sample_weight_ : ndarray of shape (n_kept,)
        Number of rows that each kept row represents: 1, or for sampled rows the inverse of the
        sampled share of its class.
    validation_influence_ : ndarray of shape (n_samples,)
        For "sign": mean influence on the bounded loss ``1 - exp(-loss)`` of the held-out rows.
        Positive: more weight on the row raises this loss (harmful).
    sign_thresholds_ : tuple of float
        For "sign": D+ and D- of Theorem 3. A row with positive influence has a memorization
        above D+, one with negative influence above D-. With folds, the smallest of the fits.
    guaranteed_ : ndarray of shape (n_samples,)
        For "sign": a lower bound of each row's memorization that follows from the sign alone,
        relation (72); at least D+ or D-.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    FilteredEstimator : Fit an estimator on what a selector keeps.
    skinfluence.inspection.MemorizationDisplay : Draw memorization and threshold.

    Notes
    -----
    Eigenvectors of a repeated eigenvalue are not unique, and neither is an L1 norm along them.
    Eigenvalues that agree to 8 digits count as equal, and the part of a row in their eigenspace
    counts with its Euclidean norm, the smallest L1 norm in any basis: a row above D is above D
    in every eigenbasis. Theorem 3 is unchanged, eigenspace by eigenspace.

    Any row whose influence is not 0 is D-memorizable by the theorem, whatever the sign. D+ and D-
    are minima over all training rows, and on real data orders of magnitude below the
    median memorization: the theorem is true, but says little. The bounds of single rows in
    ``guaranteed_`` are between a twentieth and a tenth of the memorization at the median.

    No class is ever lost: a selection that empties a class raises an error.

    References
    ----------
    Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
    Influence, Memorization and Generalization*, Definitions 6 and 7, Theorem 3.

    Examples
    --------
    The fourth row is far from the line through the others.

    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import ExactInfluence, MemorizationSelector
    >>> X, y = np.arange(6.0)[:, None], np.array([0.0, 1.0, 2.0, 9.0, 4.0, 5.0])
    >>> selector = MemorizationSelector(ExactInfluence(Ridge()), keep="generalizable")
    >>> selector.fit(X, y).get_support()
    array([ True,  True,  True, False,  True,  True])
    >>> X_kept, y_kept = selector.fit_resample(X, y)
    >>> y_kept
    array([0., 1., 2., 4., 5.])
    """

    _parameter_constraints: dict = {
        "influence": [HasMethods(["fit", "memorization"]), None],
        "criterion": [StrOptions({"norm", "sign"})],
        "threshold": [str, Interval(Real, 0, None, closed="left")],
        "keep": [StrOptions({"memorizable", "generalizable"})],
        "generalizable_fraction": [Interval(Real, 0, 1, closed="both")],
        "validation": [Interval(Integral, 2, None, closed="left"), HasMethods("split"), tuple],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        influence=None,
        *,
        criterion="norm",
        threshold="auto",
        keep="memorizable",
        generalizable_fraction=0.5,
        validation=5,
        random_state=None,
    ):
        self.influence = influence
        self.criterion = criterion
        self.threshold = threshold
        self.keep = keep
        self.generalizable_fraction = generalizable_fraction
        self.validation = validation
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Judge the rows and choose those to keep.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or Chunks
            Training rows, handed to the influence estimator as they are; or `Chunks`, of which
            folds hold all rows at once, and the criterion "norm" or a validation set does not.
        y : array-like of shape (n_samples,), default=None
            Targets; None with `Chunks` alone.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the model that judges. Rows of weight 0 take no part in its
            fit, and are judged like the others.

        Returns
        -------
        self : object
            The fitted selector.

        Raises
        ------
        ValueError
            If no row, or no row of some class, is kept; if the threshold is no number, quantile
            or "auto"; if y is missing, or the validation set is invalid.
        """
        by_folds = self.criterion == "sign" and not isinstance(self.validation, tuple)
        X, y, sample_weight = (gathered if by_folds else training_set)(X, y, sample_weight)
        labels = targets(X, y)
        influence = _default_influence(labels) if self.influence is None else self.influence
        self.influence_ = clone(influence).fit(X, y, sample_weight=sample_weight)
        if hasattr(self.influence_, "classes_"):
            self.classes_ = self.influence_.classes_
        self.n_features_in_ = self.influence_.n_features_in_
        if hasattr(self.influence_, "feature_names_in_"):
            self.feature_names_in_ = self.influence_.feature_names_in_
        self._judge(X, y, sample_weight)
        self._select(self._groups(labels))
        return self

    def _judge(self, X, y, sample_weight):
        if self.criterion == "norm":
            self.memorization_ = self.influence_.memorization()
            self.threshold_ = self._resolve_threshold()
            self.memorizable_ = self.memorization_ > self.threshold_
            return
        if isinstance(self.validation, tuple):
            scores = scores_by_set(self.influence_, *_check_set(self.validation))
        else:
            weight = None if sample_weight is None else np.asarray(sample_weight)
            scores = scores_by_folds(self.influence_, X, y, weight, self.validation)
        self.memorization_ = scores.memorization
        self.validation_influence_ = scores.values
        self.sign_thresholds_ = scores.thresholds
        self.guaranteed_ = scores.bounds
        self.threshold_ = self._resolve_threshold()
        harmful = self.validation_influence_ > 0
        self.memorizable_ = harmful & (self.memorization_ > self.threshold_)

    def _resolve_threshold(self):
        values = self.memorization_
        if self.threshold == "auto":
            first, third = np.quantile(values, [0.25, 0.75])
            if self.criterion == "norm":
                return float(third + 1.5 * (third - first))
            return float(max(third, self.sign_thresholds_[0]))
        if isinstance(self.threshold, str):
            return float(np.quantile(values, _read_quantile(self.threshold)))
        if self.threshold >= values.max():
            warn_user(
                f"threshold={self.threshold:g} is not below the largest memorization, "
                f"{values.max():.4g}, so no row is memorizable. Lower it, or give a quantile "
                "such as 'q0.9'.",
                UserWarning,
            )
        return float(self.threshold)

    def _groups(self, y):
        """Class of each row as an integer; one group for a regression."""
        if not hasattr(self, "classes_"):
            return np.zeros(len(self.memorization_), dtype=np.intp)
        return np.searchsorted(self.classes_, np.ravel(np.asarray(y)))

    def _select(self, groups):
        weight = np.where(self.memorizable_, 0.0, 1.0)
        if self.keep == "memorizable":
            weight = self._sample(groups)
        self.support_ = weight > 0
        self._check_groups(groups)
        self.sample_indices_ = np.flatnonzero(self.support_)
        self.sample_weight_ = weight[self.support_]

    def _sample(self, groups):
        """Weights: 1 of memorizable rows, the inverse share of sampled ones, else 0."""
        random_state = check_random_state(self.random_state)
        weight = self.memorizable_.astype(np.float64)
        for group in np.unique(groups):
            rest = np.flatnonzero((groups == group) & ~self.memorizable_)
            if not len(rest) or self.generalizable_fraction == 0:
                continue
            size = max(1, round(self.generalizable_fraction * len(rest)))
            weight[random_state.choice(rest, size, replace=False)] = len(rest) / size
        return weight

    def _check_groups(self, groups):
        if not self.support_.any():
            raise ValueError(f"The selector keeps no row at all. {self._advice()}")
        lost = np.setdiff1d(groups, groups[self.support_])
        if len(lost):
            raise ValueError(
                f"No row of the class(es) {self.classes_[lost].tolist()} would be kept. "
                f"{self._advice()}"
            )

    def _advice(self):
        share = f"{self.memorizable_.mean():.0%} of the rows are memorizable"
        if self.keep == "generalizable":
            return f"{share} at threshold {self.threshold_:.4g} and dropped; raise threshold."
        return (
            f"{share} at threshold {self.threshold_:.4g} and none of the others is sampled; lower "
            "threshold, or use generalizable_fraction > 0."
        )

    def fit_resample(self, X, y=None):
        """Fit, and return the kept rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or Chunks
            Training rows; all rows of `Chunks` are held at once.
        y : array-like of shape (n_samples,), default=None
            Targets; None with `Chunks` alone.

        Returns
        -------
        X_kept : {array-like, sparse matrix} of shape (n_kept, n_features)
            The kept rows, in the given container and in the order of the data.
        y_kept : array-like of shape (n_kept,)
            Their targets.
        """
        X, y, sample_weight = gathered(X, y)
        self.fit(X, y, sample_weight)
        return _safe_indexing(X, self.sample_indices_), _safe_indexing(y, self.sample_indices_)

    def get_support(self, indices=False):
        """Mask or positions of the kept rows.

        Parameters
        ----------
        indices : bool, default=False
            Return positions instead of a mask.

        Returns
        -------
        ndarray of bool of shape (n_samples,) or of int of shape (n_kept,)
            Mask, or ascending positions, of the kept rows.
        """
        check_is_fitted(self)
        return self.sample_indices_ if indices else self.support_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        default = ExactInfluence(LogisticRegression())
        wrapped = get_tags(default if self.influence is None else self.influence)
        tags.input_tags = wrapped.input_tags
        tags.target_tags = wrapped.target_tags
        tags.target_tags.required = True
        return tags


def _default_influence(y):
    if y is None:
        raise ValueError("MemorizationSelector requires y to be passed, but the target y is None.")
    y = np.asarray(y)
    if y.dtype.kind == "f" and not type_of_target(y) == "binary":
        return ExactInfluence(Ridge())
    return ExactInfluence(LogisticRegression())


def _read_quantile(threshold):
    try:
        quantile = float(threshold.removeprefix("q"))
    except ValueError:
        quantile = np.nan
    if not (threshold.startswith("q") and 0 <= quantile <= 1):
        raise ValueError(
            "threshold must be 'auto', a number, or a quantile from 'q0' to 'q1' such as 'q0.9'. "
            f"Got {threshold!r} instead."
        )
    return quantile


def _check_set(validation):
    if len(validation) != 2:
        raise ValueError(
            "validation must be a number of folds, a splitter, or a tuple (X, y). Got a tuple of "
            f"length {len(validation)} instead."
        )
    return validation
