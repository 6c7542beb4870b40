"""The door from a fitted estimator to the objective that it minimised."""

from functools import singledispatch
from importlib import import_module

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from skinfluence._compat import BaseSearchCV


@singledispatch
def objective(model, X, y, sample_weight):
    """Objective that a fitted model minimised on its training data.

    Register a function for a new class of models with ``objective.register(cls)``.

    Parameters
    ----------
    model : estimator
        A fitted model, no wrapper.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Training rows as the model sees them.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : ndarray of shape (n_samples,)
        Weights that the model was fitted with.

    Returns
    -------
    Objective

    Raises
    ------
    TypeError
        If no function is registered for the class of the model.
    """
    if load_torch_models(model, objective):
        return objective(model, X, y, sample_weight)
    raise TypeError(
        f"The objective of {type(model).__name__} is not known, or not smooth. Supported: "
        f"{', '.join(supported())}, and pipelines, searches and frozen estimators around "
        "them. Register a function for another class of models with "
        "skinfluence.models.objective.register."
    )


def _comes_from(model, *packages):
    return any(cls.__module__.split(".")[0] in packages for cls in type(model).__mro__)


def load_torch_models(model, door):
    """Whether the models of torch had to be imported for a door to know the model."""
    if not _comes_from(model, "torch", "skorch"):
        return False
    before = door.dispatch(type(model))
    import_module("skinfluence.models.torch")
    return door.dispatch(type(model)) is not before


def supported():
    """Names of the classes whose objectives are known."""
    return sorted(cls.__name__ for cls in objective.registry if cls is not object)


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
