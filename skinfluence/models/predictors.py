"""From raw outputs to what the user's estimator predicts of them, by its own methods."""

from copy import copy
from functools import singledispatch

from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skinfluence._utils.sklearn_private import BaseSearchCV
from skinfluence.models.parameters import reader_of_scores
from skinfluence.models.wrappers import knows_its_features


@singledispatch
def predictor_of_scores(fitted, n_scores, kept=None):
    """The estimator that makes predictions of raw scores as ``fitted`` makes them of samples.

    Parameters
    ----------
    fitted : estimator
        A fitted estimator, maybe with wrappers around its final model.
    n_scores : int
        Number of scores of a sample, see `Loss.scores`.
    kept : ndarray of int of shape (n_kept,), default=None
        Positions of the classes that the scores stand for; all of them by default.

    Returns
    -------
    estimator
        A fitted estimator with the methods and classes of ``fitted``, for scores
        (n_samples, n_scores) in place of samples.

    Raises
    ------
    TypeError
        If the final model is not linear, and no perceptron of scikit-learn.
    """
    reader = reader_of_scores(fitted, n_scores)
    if kept is not None:
        reader.classes_ = fitted.classes_[kept]
    return reader


@predictor_of_scores.register
def _(fitted: Pipeline, n_scores, kept=None):
    return predictor_of_scores(fitted.steps[-1][1], n_scores, kept)


@predictor_of_scores.register
def _(fitted: FrozenEstimator, n_scores, kept=None):
    return predictor_of_scores(fitted.estimator, n_scores, kept)


@predictor_of_scores.register
def _(fitted: BaseSearchCV, n_scores, kept=None):
    return predictor_of_scores(fitted.best_estimator_, n_scores, kept)


@predictor_of_scores.register
def _(fitted: TransformedTargetRegressor, n_scores, kept=None):
    reader = copy(fitted)
    reader.regressor_ = predictor_of_scores(fitted.regressor_, n_scores, kept)
    return reader


@predictor_of_scores.register(StackingClassifier)
@predictor_of_scores.register(StackingRegressor)
def _(fitted, n_scores, kept=None):
    if not knows_its_features(fitted):
        return predictor_of_scores.dispatch(object)(fitted, n_scores, kept)
    reader = predictor_of_scores(fitted.final_estimator_, n_scores, kept)
    if hasattr(fitted, "classes_"):
        # The final step knows the classes by their positions.
        reader = copy(reader)
        reader.classes_ = fitted.classes_[reader.classes_]
    return reader
