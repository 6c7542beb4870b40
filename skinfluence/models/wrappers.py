"""Wrappers around a model: pipelines, searches, stacks, transformed targets, frozen models."""

from dataclasses import dataclass, field, replace
from functools import partial, singledispatch

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from skinfluence._utils.sklearn_private import BaseSearchCV, _routing_enabled
from skinfluence._utils.validation import encode_labels

# Their ``fit`` takes weights by metadata routing alone.
_ROUTED_ONLY = (OneVsRestClassifier, OneVsOneClassifier)


@dataclass
class Unwrapped:
    """A fitted model without its wrappers.

    Parameters
    ----------
    model : estimator
        The final model.
    featurizers : list of transformers
        Fitted steps before the model, which stay fixed.
    target_steps : list of callables
        Maps from the user's targets to the model's, which stay fixed.
    """

    model: object
    featurizers: list = field(default_factory=list)
    target_steps: list = field(default_factory=list)


@singledispatch
def unwrap(estimator):
    """Featurizers and final model of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator, maybe a Pipeline, a search, a TransformedTargetRegressor, a stack of
        frozen estimators or a FrozenEstimator.

    Returns
    -------
    Unwrapped
    """
    return Unwrapped(estimator)


@unwrap.register
def _(estimator: Pipeline):
    steps = [step for _, step in estimator.steps[:-1] if step not in (None, "passthrough")]
    for step in steps:
        if hasattr(step, "fit_resample"):
            raise TypeError(
                f"The step {type(step).__name__} changes the training rows, so their influence "
                "is not defined. Resample first, then wrap the steps that follow."
            )
    inner = unwrap(estimator.steps[-1][1])
    return replace(inner, featurizers=steps + inner.featurizers)


@unwrap.register
def _(estimator: FrozenEstimator):
    return unwrap(estimator.estimator)


@unwrap.register
def _(estimator: BaseSearchCV):
    if not hasattr(estimator, "best_estimator_"):
        raise ValueError(
            f"This {type(estimator).__name__} has no best_estimator_. Fit it with refit=True."
        )
    return unwrap(estimator.best_estimator_)


@unwrap.register
def _(estimator: TransformedTargetRegressor):
    inner = unwrap(estimator.regressor_)
    step = partial(_transformed, estimator.transformer_)
    return replace(inner, target_steps=[step, *inner.target_steps])


@unwrap.register(StackingClassifier)
@unwrap.register(StackingRegressor)
def _(estimator):
    if not knows_its_features(estimator):
        return Unwrapped(estimator)
    inner = unwrap(estimator.final_estimator_)
    steps = inner.target_steps
    if hasattr(estimator, "classes_"):
        # The final step knows the classes by their positions.
        steps = [partial(encode_labels, classes=estimator.classes_), *steps]
    return replace(inner, featurizers=[estimator, *inner.featurizers], target_steps=steps)


def knows_its_features(stack):
    """Whether the final step of a stack was fitted on the output of ``transform``.

    Otherwise it was fitted on cross-validated predictions, which no stack stores.
    """
    frozen = all(isinstance(base, FrozenEstimator) for base in stack.estimators_)
    return frozen or stack.cv == "prefit"


def _transformed(transformer, y):
    """Targets in the unit of the inner regressor."""
    y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    with np.errstate(all="ignore"):
        transformed = np.asarray(transformer.transform(y.reshape(len(y), -1)))
    if not np.isfinite(transformed).all():
        raise ValueError(
            "The transformer of the TransformedTargetRegressor gives NaN or infinity for some "
            f"targets: y, from {y.min():g} to {y.max():g}, leaves its domain. Leave those rows "
            "out, or omit y to get the influence on the prediction."
        )
    return transformed


def unfrozen(estimator):
    """The estimator inside wrappers that freeze it."""
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


@singledispatch
def _inside(estimator):
    """The unfitted estimator directly inside a wrapper, None for a model."""
    return None


@_inside.register
def _(estimator: Pipeline):
    return estimator.steps[-1][1]


@_inside.register(BaseSearchCV)
@_inside.register(OneVsRestClassifier)
@_inside.register(OneVsOneClassifier)
@_inside.register(MultiOutputClassifier)
@_inside.register(MultiOutputRegressor)
def _(estimator):
    return estimator.estimator


@_inside.register
def _(estimator: TransformedTargetRegressor):
    return LinearRegression() if estimator.regressor is None else estimator.regressor


@_inside.register(StackingClassifier)
@_inside.register(StackingRegressor)
def _(estimator):
    if estimator.final_estimator is not None:
        return estimator.final_estimator
    return LogisticRegression() if isinstance(estimator, StackingClassifier) else RidgeCV()


def innermost(estimator):
    """The unfitted model inside all wrappers; a frozen one stays in its FrozenEstimator."""
    while (inner := _inside(estimator)) is not None:
        estimator = inner
    return estimator


def fit_arguments(estimator, sample_weight):
    """Arguments of ``fit`` that pass ``sample_weight`` to the final model of an estimator.

    Raises
    ------
    TypeError
        If the final model takes no sample weights, or metadata routing does not reach it.
    """
    if sample_weight is None or isinstance(estimator, FrozenEstimator):
        return {}
    inner = _inside(estimator)
    if inner is not None and _routing_enabled():
        return _routed(estimator, sample_weight)
    if isinstance(estimator, _ROUTED_ONLY):
        raise TypeError(
            f"{type(estimator).__name__}.fit takes sample_weight by metadata routing alone. Turn "
            "it on with sklearn.set_config(enable_metadata_routing=True), and request the weights "
            "with set_fit_request(sample_weight=True) on the model inside."
        )
    if isinstance(estimator, (StackingClassifier, StackingRegressor)):
        return {"sample_weight": sample_weight}
    if isinstance(estimator, Pipeline):
        name = estimator.steps[-1][0]
        inner = fit_arguments(inner, sample_weight)
        return {f"{name}__{key}": value for key, value in inner.items()}
    if isinstance(estimator, (BaseSearchCV, TransformedTargetRegressor)):
        return fit_arguments(inner, sample_weight)
    return _own_argument(estimator, sample_weight)


def _own_argument(estimator, sample_weight):
    if not has_fit_parameter(estimator, "sample_weight"):
        raise TypeError(
            f"{type(estimator).__name__}.fit takes no sample_weight. Leave sample_weight out, "
            "or wrap a model that honours weights."
        )
    return {"sample_weight": sample_weight}


def _routed(wrapper, sample_weight):
    """Weights by metadata routing, which wrappers pass on to the estimators that request them."""
    model = innermost(wrapper)
    if isinstance(model, FrozenEstimator):
        return {}
    argument = _own_argument(model, sample_weight)
    if not get_routing_for_object(model).consumes("fit", argument):
        raise TypeError(
            f"Metadata routing is on, and the {type(model).__name__} in this "
            f"{type(wrapper).__name__} does not request sample_weight. Call "
            f"set_fit_request(sample_weight=True) on the {type(model).__name__}, or leave "
            "sample_weight out."
        )
    return argument
