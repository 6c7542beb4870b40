"""Which objective each class of models minimises."""

from functools import singledispatch


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
    raise TypeError(
        f"The objective of {type(model).__name__} is not known, or not smooth. Supported: "
        f"{', '.join(supported())}; and pipelines, searches, frozen estimators, "
        "TransformedTargetRegressor, and stacks of frozen estimators around them. Register a "
        "function for another class of models with skinfluence.models.objective.register."
    )


class Refusal:
    """Stands for the objective of models that have none, and raises the reason.

    Parameters
    ----------
    reason : str
        Why there is no objective, and what to wrap instead.
    """

    def __init__(self, reason):
        self.reason = reason

    def __call__(self, model, X, y, sample_weight):
        raise TypeError(f"Influence on a {type(model).__name__} is not defined: {self.reason}")


def supported():
    """Names of the classes whose objectives are known."""
    known = {cls: make for cls, make in objective.registry.items() if cls is not object}
    return sorted(cls.__name__ for cls, make in known.items() if not isinstance(make, Refusal))
