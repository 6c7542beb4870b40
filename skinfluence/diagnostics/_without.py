"""The model itself, without some of its training rows."""

from copy import deepcopy

from sklearn.utils.validation import check_is_fitted

from skinfluence._utils.validation import check_indices
from skinfluence.models import add_to_parameters, unwrap
from skinfluence.refitting.removal import removal_of_sets


def estimator_without(influence, indices):
    """Fitted model as refitting without some training rows gives it.

    A copy of the fitted estimator whose parameters are moved to the minimum of the objective of
    the other rows. Steps in front of the model stay as they are.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator, over all parameters of its model.
    indices : array-like of int of shape (n_rows,)
        Training rows that are left out together.

    Returns
    -------
    estimator
        A fitted estimator of the class of ``influence.estimator_``. Its attribute
        ``remaining_gradient_`` is the norm of the gradient that is left at its parameters,
        relative to the sum of the norms of the terms of the gradient: about 1e-10 or less.

    Raises
    ------
    TypeError
        If the outputs of the model are not linear in its parameters, as of networks, or it is not
        known where it keeps them.
    ValueError
        If no model is left, or the rows are all that a class has.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import estimator_without
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = estimator_without(ExactInfluence(Ridge()).fit(X, y), [0, 1, 2])
    >>> refitted = Ridge().fit(X[3:], y[3:])
    >>> bool(np.abs(model.predict(X) - refitted.predict(X)).max() < 1e-9)
    True
    """
    check_is_fitted(influence)
    linearisation = influence.linearisation_
    linearisation.fitted_model.check_unchanged()
    objective = linearisation.objective
    model = linearisation.fitted_model.model
    if not objective.is_linear:
        raise TypeError(
            f"The outputs of {type(model).__name__} are not linear in its parameters, and no few "
            "steps lead to the minimum without some rows. Refit it on the other rows."
        )
    if objective.n_params != linearisation.fitted_model.objective.n_params:
        raise TypeError(
            f"{type(influence).__name__} studies some parameters of {type(model).__name__} only. "
            "Use ExactInfluence, over all of them."
        )
    rows = check_indices(indices, linearisation.n_samples)
    removed = removal_of_sets(linearisation, [rows], refine=True)
    if removed.removals.other_losses:
        raise ValueError(
            f"Without {removed.removals.named([0])} a class has no rows, and the model has other "
            "parameters. Keep a row of every class, or refit."
        )
    delta = removed.parameter_changes(slice(0, 1))
    change = objective.to_parameters(linearisation.space.lift(delta))[0]
    moved = deepcopy(linearisation.fitted_model.fitted)
    add_to_parameters(unwrap(moved).model, change)
    moved.remaining_gradient_ = removed.remaining_gradient(0)
    return moved
