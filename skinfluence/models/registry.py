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
        f"{', '.join(supported())}, and pipelines, searches and frozen estimators around "
        "them. Register a function for another class of models with "
        "skinfluence.models.objective.register."
    )


def supported():
    """Names of the classes whose objectives are known."""
    return sorted(cls.__name__ for cls in objective.registry if cls is not object)
