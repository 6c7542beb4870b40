"""New labels of training rows, as the objective reads them."""

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_array

from skinfluence._utils.validation import encode_labels


def read_labels(linearisation, rows, y_new):
    """Targets and classes of training rows with other labels.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    rows : ndarray of int of shape (n_rows,)
        Training rows.
    y_new : array-like of shape (n_rows,) or (n_rows, n_targets)
        Their new labels or targets.

    Returns
    -------
    targets : ndarray of shape (n_rows, t)
        Targets as the objective has them.
    codes : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        Classes as the weighting has them.

    Raises
    ------
    TypeError
        If several outputs have class weights each.
    ValueError
        If ``y_new`` has another shape, or a label that no training row has.
    """
    fitted_model, objective = linearisation.fitted_model, linearisation.objective
    y = check_array(y_new, ensure_2d=False, dtype=None, ensure_min_samples=0, input_name="y_new")
    shape = (len(rows), *fitted_model.given_y.shape[1:])
    if y.shape != shape:
        raise ValueError(
            f"y_new must hold the new label of each of the {len(rows)} rows, of shape {shape}. "
            f"Got an array of shape {y.shape} instead."
        )
    weighting = objective.weighting
    y = fitted_model.read_targets(y)
    if is_classifier(fitted_model.model) and y.ndim == 1:
        # A row with a label has the target and the class that every row with that label has.
        labels, first = np.unique(fitted_model.y, return_index=True)
        like = first[encode_labels(y, labels)]
        return objective.targets[like], weighting.codes[like]
    if weighting.class_weight is not None:
        raise TypeError(
            f"Each output of {type(fitted_model.model).__name__} has class weights of its own, "
            "which the new labels would change. Expected one label for each row, or no class "
            "weights."
        )
    return objective.encode_queries(y, len(rows)), weighting.codes[rows]
