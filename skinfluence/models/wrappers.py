"""What stands around a model: pipelines, searches, frozen estimators."""

from functools import singledispatch

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from skinfluence._utils.sklearn_private import BaseSearchCV


@singledispatch
def unwrap(estimator):
    """Featurizers and final model of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator, maybe a Pipeline, a search or a FrozenEstimator.

    Returns
    -------
    featurizers : list of transformers
        Fitted steps before the model, held fixed.
    model : estimator
        The final model.
    """
    return [], estimator


@unwrap.register
def _(estimator: Pipeline):
    steps = [step for _, step in estimator.steps[:-1] if step not in (None, "passthrough")]
    for step in steps:
        if hasattr(step, "fit_resample"):
            raise TypeError(
                f"The step {type(step).__name__} changes the training rows, so influence on "
                "them is not defined. Resample first, then wrap the steps that follow."
            )
    featurizers, model = unwrap(estimator.steps[-1][1])
    return steps + featurizers, model


@unwrap.register
def _(estimator: FrozenEstimator):
    return unwrap(estimator.estimator)


@unwrap.register
def _(estimator: BaseSearchCV):
    if not hasattr(estimator, "best_estimator_"):
        raise ValueError(
            f"This {type(estimator).__name__} holds no best_estimator_. Fit it with refit=True."
        )
    return unwrap(estimator.best_estimator_)


def unfrozen(estimator):
    """The estimator inside wrappers that freeze it."""
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


def fit_arguments(estimator, sample_weight):
    """Arguments that hand ``sample_weight`` to the final model of an unfitted estimator.

    Raises
    ------
    TypeError
        If the final model takes no sample weights.
    """
    if sample_weight is None:
        return {}
    if isinstance(estimator, FrozenEstimator):
        return {}
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = fit_arguments(last, sample_weight)
        return {f"{name}__{key}": value for key, value in inner.items()}
    if isinstance(estimator, BaseSearchCV):
        return fit_arguments(estimator.estimator, sample_weight)
    if not has_fit_parameter(estimator, "sample_weight"):
        raise TypeError(
            f"{type(estimator).__name__}.fit takes no sample_weight. Leave sample_weight out, "
            "or wrap a model that honours weights."
        )
    return {"sample_weight": sample_weight}
