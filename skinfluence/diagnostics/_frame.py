"""The table of case diagnostics."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skinfluence.diagnostics._parameters import parameter_names
from skinfluence.diagnostics._residuals import Leverages, Residuals
from skinfluence.diagnostics._tables import index_of


def diagnostics_frame(influence, *, dfbetas=False, memorization=True):
    """Case diagnostics of the training rows: leverage, residuals, what each row moves.

    Without a penalty, columns equal those of ``statsmodels`` (``OLSInfluence`` for least squares,
    ``GLMInfluence`` for generalised linear models). With a penalty, the same formulas with the
    penalised Hessian: where least squares are penalised they still are what leaving the row out
    really changes.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.
    dfbetas : bool, default=False
        Whether to add a column ``"dfbetas <parameter>"`` for each parameter.
    memorization : bool, default=True
        Whether to add memorization. It needs the eigenvectors of the curvature, which take far
        longer than all other columns where parameters are many thousands, as of words.

    Returns
    -------
    pandas.DataFrame
        One line for each training row, with the index of the training frame (positions where
        there was none). For rows of weight w, mean mu, variance V(mu) of the distribution up to
        the scale phi:

        leverage
            ``w tr(l'' J H^{-1} J') / N`` with the second derivative l'' of the loss by the
            outputs (observed, as statsmodels' ``hat_matrix_diag``). Several outputs: the trace.
            Leverages h add up to the effective dimension p (of the Gauss-Newton matrix, in a
            network).
        residual, leave_one_out_residual
            Target minus mean, of the fitted model and of the model refitted without the row.
        standardised_residual
            ``r = (y - mu) sqrt(w / V) / sqrt(phi (1 - h))`` (``resid_studentized`` of
            GLMInfluence, ``resid_studentized_internal`` of OLSInfluence). phi is 1 for counts and
            classes, else the sum of squared Pearson residuals over ``n - p``.
        studentised_residual
            The same with phi without the row (``resid_studentized_external``), by the identity
            of least squares.
        cooks_distance
            ``r^2 h / (1 - h) / p``. Where the loss is no likelihood of one output, such as that
            of several classes: ``N d' H d / p`` of the Newton step d without the row, which is the
            same for canonical links, in units of the loss; NaN for the last row of a class.
        dffits_internal, dffits
            One step of the row's own output over its standard error
            (``d_fittedvalues_scaled`` of GLMInfluence, ``dffits_internal`` of OLSInfluence), with
            phi of all rows and without the row.
        loss, leave_one_out_loss
            Loss of the row under the fitted model, and under the model refitted without it;
            infinite where no row of its class is left, NaN where there is no refit.
        self_influence, memorization
            As the methods of the estimator; NaN where the curvature has no eigenvectors.
        dfbetas
            One step of each parameter over its standard error, with phi without the row for
            least squares (OLSInfluence), else with phi of all rows (GLMInfluence).

        Columns from ``residual`` on to ``studentised_residual``, ``dffits`` and ``dfbetas`` are
        left out where the loss is no likelihood of one output: several classes or targets,
        support vector machines, robust losses.

    Raises
    ------
    ValueError
        If ``dfbetas`` are asked of a model whose loss is no likelihood of one output.

    Warns
    -----
    NumericalWarning
        Names the rows without which there is no refit.

    References
    ----------
    Belsley, Kuh and Welsch, *Regression Diagnostics*, 1980. Pregibon, *Logistic Regression
    Diagnostics*, 1981.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import diagnostics_frame
    >>> X, y = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([0.0, 1.0, 3.0, 8.0])
    >>> frame = diagnostics_frame(ExactInfluence(LinearRegression()).fit(X, y))
    >>> frame["leverage"].round(3).tolist()
    [0.43, 0.33, 0.27, 0.97]
    """
    import pandas as pd

    check_is_fitted(influence)
    fit = influence.linearisation_
    fit.fitted_model.check_unchanged()
    leverages = Leverages(fit)
    residuals = Residuals.of(fit, leverages)
    removed = fit.without_each()
    outputs = removed.own_outputs()
    columns = {"leverage": leverages.values}
    if residuals is None:
        # Without a row that takes its class with it, or without a model, there is no such step.
        stays = removed.removals.keeps_loss & ~removed.refused
        length = np.where(stays, removed.steps.squared_length, np.nan)
        columns["cooks_distance"] = length / leverages.effective_dimension
    else:
        columns |= _of_residuals(residuals, outputs)
    columns |= _of_losses(fit, removed, outputs)
    columns["self_influence"] = fit.self_influence()
    if memorization:
        columns["memorization"] = _memorization(influence)
    frame = pd.DataFrame(columns, index=index_of(fit))
    return frame.join(_dfbetas(fit, residuals, frame.index)) if dfbetas else frame


def _of_residuals(residuals, outputs):
    return {
        "residual": residuals.raw,
        "leave_one_out_residual": residuals.targets - residuals.means(outputs),
        "standardised_residual": residuals.standardised,
        "studentised_residual": residuals.studentised,
        "cooks_distance": residuals.cooks_distance,
        "dffits_internal": residuals.dffits_internal,
        "dffits": residuals.dffits,
    }


def _of_losses(fit, removed, outputs):
    loss, targets = fit.objective.loss, fit.own_targets
    without = loss.value(outputs, targets)
    # A row that takes its class with it is of a class that the refit does not know.
    without[~removed.removals.keeps_loss & ~removed.refused] = np.inf
    return {
        "loss": loss.value(fit.objective.training_outputs, targets),
        "leave_one_out_loss": without,
    }


def _memorization(influence):
    try:
        return influence.memorization()
    except ValueError:
        return np.nan


def _dfbetas(fit, residuals, index):
    import pandas as pd

    if residuals is None:
        raise ValueError(
            "dfbetas need the standard error of the parameters, and the loss of this "
            f"{type(fit.fitted_model.model).__name__} is no likelihood of one output. Use "
            "parameter_influence, or coefficient_table for standard errors."
        )
    names = [f"dfbetas {name}" for name in parameter_names(fit)]
    return pd.DataFrame(residuals.dfbetas(), index=index, columns=names)
