"""Vectors and matrices of parameters in the model's own layout, and the parameters' names."""

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.rows import DenseRows


def parameter_steps(fit, vectors):
    """``H^{-1} J_i' v_i / N`` of training rows for vectors ``v_i``.

    Parameters
    ----------
    fit : Linearisation
        Linearisation of a fitted model.
    vectors : ndarray of shape (n_samples, k)
        Vectors in the space of the raw outputs.

    Returns
    -------
    ndarray of shape (n_samples, n_params)
    """
    out = np.empty((len(vectors), fit.objective.n_params))
    for batch in batches(len(vectors), 8 * 4 * fit.training_rows.n_columns):
        solved = fit.solve(pulled(fit, vectors, batch)).toarray()
        out[batch] = in_own_layout(fit, solved / fit.objective.total_weight)
    return out


def pulled(fit, vectors, samples=slice(None)):
    """``J_i' v_i`` of training rows (slice or index array) in the curvature's coordinates."""
    objective = fit.objective
    rows = objective.pullback(objective.features[samples], vectors[samples, None])
    return fit.space.project(rows)


def in_own_layout(fit, array):
    """Vectors (m, n_columns) of the curvature's coordinates in the layout (m, n_params)."""
    return fit.objective.to_parameters(fit.space.lift(array))


def inverse_in_own_layout(fit, curvature):
    """``H^{-1} / N`` of a curvature in the model's own layout, (n_params, n_params)."""
    identity = DenseRows(np.eye(fit.training_rows.n_columns))
    inverse = curvature.solve(identity, fit.damping).toarray() / fit.objective.total_weight
    return in_own_layout(fit, in_own_layout(fit, inverse).T)


def parameter_names(fit):
    """Names of the parameters in the order of ``parameter_influence``.

    Parameters
    ----------
    fit : Linearisation
        Linearisation of a fitted model.

    Returns
    -------
    list of str
        Features, then "intercept"; with several outputs "class: feature", by the class or the
        number of the output. Other parameters, such as those of networks, have numbers.
    """
    model, n_params = fit.fitted_model.model, fit.objective.n_params
    if not fit.fitted_model.objective.is_linear:
        return [f"parameter {i}" for i in range(n_params)]
    names = feature_names(fit.fitted_model)
    linear = fit.fitted_model.objective
    n_outputs = len(linear.weights if linear.expand is None else linear.expand)
    rest = n_params - n_outputs * len(names)
    if n_outputs == 1:
        others = ["intercept", "scale"] if getattr(model, "fit_intercept", True) else ["scale"]
        return [*names, *others[:rest]]
    classes = getattr(model, "classes_", [])
    outputs = classes if len(classes) == n_outputs else range(n_outputs)
    every = [f"{output}: {name}" for output in outputs for name in names]
    return every + [f"{output}: intercept" for output in outputs][:rest]


def feature_names(fitted_model):
    """Names of the features of the final model, by the steps in front of it."""
    model, names = fitted_model.model, None
    default = [f"x{i}" for i in range(fitted_model.features.shape[1])]
    if hasattr(model, "feature_names_in_"):
        return list(model.feature_names_in_)
    for step in fitted_model.featurizers:
        if not hasattr(step, "get_feature_names_out"):
            return default
        names = step.get_feature_names_out(names)
    return default if names is None else list(names)
