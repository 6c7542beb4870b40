"""Training rows as tables, with the index of the table that the user gave."""

import numpy as np
from scipy.sparse import issparse


def index_of(fit):
    """Index of the training rows: of a pandas object the user's own, else their positions."""
    import pandas as pd

    index = getattr(fit.fitted_model.table, "index", None)
    return index if isinstance(index, pd.Index) else pd.RangeIndex(fit.n_samples)


def training_table(influence):
    """Training rows as a pandas table with the user's names and index.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.

    Returns
    -------
    pandas.DataFrame
        Without columns for a sparse matrix or for samples with several axes.
    """
    import pandas as pd

    fit = influence.linearisation_
    table, index = fit.fitted_model.table, index_of(fit)
    if isinstance(table, pd.DataFrame):
        return table
    names = list(getattr(influence, "feature_names_in_", []))
    if names:
        return pd.DataFrame({name: np.asarray(table[name]) for name in names}, index=index)
    if issparse(table) or np.ndim(table) != 2:
        return pd.DataFrame(index=index)
    values = np.asarray(table)
    return pd.DataFrame(values, index=index, columns=[f"x{i}" for i in range(values.shape[1])])
