"""Training rows that are kept on disk."""

import joblib
import numpy as np

from skinfluence.refitting.fingerprints import versions
from skinfluence.rows import StoredRows

# Training rows, and products of each, by which rows of another sketch are told.
N_COMPARED, N_PRODUCTS = 4, 4


def stored_rows(storage, fitted_model, objective, space, batch_size):
    """Training rows in the coordinates of a space, from a folder.

    A space that projects rows stores the projected ones; another stores the gradients.

    Parameters
    ----------
    storage : str or path-like
        The folder.
    fitted_model : FittedModel
        The fitted model with its training data.
    objective : Objective
        Objective that the parameters under study minimise.
    space : Space
        Coordinates of the curvature.
    batch_size : int or None
        Rows of a part.

    Returns
    -------
    Rows
    """
    rows = objective.training_gradient_rows()
    keep = _unchanged if space.is_full else space.project
    identity = {
        "versions": versions(),
        "data": fitted_model.checksum(),
        "model": f"{type(fitted_model.model).__name__}-{joblib.hash(objective.theta)}",
        "sketch": _products(keep, rows),
    }
    stored = StoredRows.of(storage, rows, keep, identity, batch_size)
    return space.project(stored) if space.is_full else stored


def _unchanged(rows):
    return rows


def _products(keep, rows):
    """Products of some rows, as they are kept, with fixed random vectors."""
    index = np.unique(np.linspace(0, rows.n_samples - 1, N_COMPARED).astype(int))
    some = keep(rows[index])
    vectors = np.random.default_rng(0).standard_normal((some.n_columns, N_PRODUCTS))
    return (some @ vectors).ravel().tolist()
