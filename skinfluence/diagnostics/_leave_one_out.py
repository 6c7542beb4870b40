"""Each training row predicted by the model without it."""

import numpy as np
from sklearn.utils.validation import check_is_fitted, column_or_1d

from skinfluence._utils.validation import check_refine
from skinfluence._utils.warnings import warn_user
from skinfluence.exceptions import NumericalWarning
from skinfluence.models import predictor_of_scores
from skinfluence.refitting.moved_scores import OutputScorer
from skinfluence.refitting.removal import removal_of_sets

# Error of outputs as a share of their spread, far below what predictions show.
OUTPUT_TOLERANCE = 2e-8

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def leave_one_out_predict(influence, *, method="predict", groups=None, refine=True):
    """Predict each training row by the model that is fitted without it.

    Gives what ``cross_val_predict(model, X, y, cv=LeaveOneOut(), method=method)`` gives for the
    final model, whose parameters move to the minimum without the row: no model is fitted again.
    Steps in front of the model stay as they are. A solver that stops elsewhere, as that of
    SGDClassifier does by its nature, is not followed there. The outputs of a network are taken as
    linear in its parameters: a warning then says that no row is known to have reached a minimum.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.
    method : {"predict", "predict_proba", "predict_log_proba", "decision_function"}, \
            default="predict"
        Method of the model that predicts.
    groups : array-like of shape (n_train,), default=None
        Rows with the same group are left out together, as by ``LeaveOneGroupOut``.
    refine : {"auto", bool, int}, default=True
        How many rows (or groups) go on from the Newton step to the minimum of the other rows,
        those with the longest steps first: all of them, none, a number of them, or ("auto") as
        many as about a second of one core allows.

    Returns
    -------
    ndarray of shape (n_train,) or (n_train, n_outputs)
        Predictions, of the shape that the method of the model gives. NaN (None among labels that
        are no numbers) for rows without which there is no model.

    Raises
    ------
    ValueError
        If the method is unknown, or ``groups`` has another length.
    AttributeError
        If the model has no such method.
    TypeError
        If it is not known how the model makes its predictions of its raw outputs.

    Warns
    -----
    NumericalWarning
        Counts the rows that are not known to have reached the minimum without them.

    See Also
    --------
    leave_one_out_score : A scorer on these predictions.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import LeaveOneOut, cross_val_predict
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import leave_one_out_predict
    >>> X, y = load_diabetes(return_X_y=True)
    >>> influence = ExactInfluence(Ridge()).fit(X, y)
    >>> predicted = leave_one_out_predict(influence)
    >>> refitted = cross_val_predict(Ridge(), X, y, cv=LeaveOneOut())
    >>> bool(abs(predicted - refitted).max() < 1e-9)
    True
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}. Got {method!r} instead.")
    removed = _without_rows(influence, groups, refine)
    outputs = removed.own_outputs()
    fitted = influence.linearisation_.fitted_model.fitted
    loss = influence.linearisation_.objective.loss
    predictor = predictor_of_scores(fitted, loss.scores(outputs[:1]).shape[-1])
    _require(predictor, method)
    out = _predict(predictor, loss, method, outputs)
    for removal, other in removed.removals.other_losses.items():
        at = np.flatnonzero(removed.removals.removal == removal)
        if other is not None and not removed.refused[removal]:
            out[at] = _of_other_classes(fitted, other, method, outputs[at], out[at])
    rows = removed.removals.rows
    placed = np.empty_like(out)
    placed[rows] = out
    return placed


def leave_one_out_score(influence, scoring=None, *, groups=None, refine=True):
    """Score of the predictions of each training row by the model without it.

    Parameters
    ----------
    influence : influence estimator
        A fitted influence estimator.
    scoring : str or callable, default=None
        A scorer of scikit-learn, or its name; by default the ``score`` method of the model. It is
        computed once, from the predictions of all rows together.
    groups : array-like of shape (n_train,), default=None
        Rows with the same group are left out together.
    refine : {"auto", bool, int}, default=True
        See `leave_one_out_predict`.

    Returns
    -------
    float
        Higher is better, as with all scorers.

    Raises
    ------
    ValueError
        If the scorer needs predictions that the model does not make, or there is no model
        without some row.

    See Also
    --------
    leave_one_out_predict : The predictions.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.diagnostics import leave_one_out_score
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    >>> influence = ExactInfluence(model).fit(X, y)
    >>> round(leave_one_out_score(influence), 3)
    0.977
    """
    removed = _without_rows(influence, groups, refine)
    linearisation = influence.linearisation_
    outputs = np.empty_like(linearisation.objective.training_outputs)
    outputs[removed.removals.rows] = removed.own_outputs()
    other = [i for i, loss in removed.removals.other_losses.items() if loss is not None]
    if len(other) or removed.refused.any():
        missing = removed.removals.named(np.union1d(other, np.flatnonzero(removed.refused)))
        raise ValueError(
            f"Without {missing} there is no model of all classes, so no score of all rows. "
            "Expected at least two rows (or groups) of every class; leave such rows out."
        )
    fitted_model = linearisation.fitted_model
    scorer = OutputScorer(fitted_model, linearisation.objective.loss, scoring)
    return scorer(outputs, fitted_model.given_y)


def _without_rows(influence, groups, refine):
    """The models without each row, or each group of rows, reported on."""
    check_is_fitted(influence)
    linearisation = influence.linearisation_
    linearisation.fitted_model.check_unchanged()
    refine = check_refine(refine)
    if groups is None:
        removed = linearisation.without_each(refine, OUTPUT_TOLERANCE)
    else:
        removed = removal_of_sets(linearisation, _sets(groups, linearisation.n_samples), refine)
    short = ~removed.reached & ~removed.refused
    if short.any():
        advice = "Use refine=True, more damping, or a stronger penalty."
        if not linearisation.objective.is_linear:
            advice = "Its outputs were taken as linear in its parameters; refit to know."
        warn_user(
            f"{short.sum()} of {len(short)} removals are not known to have reached the minimum "
            f"without their rows, among them {removed.removals.named(np.flatnonzero(short))}. "
            f"{advice}",
            NumericalWarning,
        )
    return removed


def _sets(groups, n_samples):
    groups = column_or_1d(groups)
    if len(groups) != n_samples:
        raise ValueError(
            f"groups must hold one group for each of the {n_samples} training rows. Got "
            f"{len(groups)} instead."
        )
    _, code = np.unique(groups, return_inverse=True)
    n_groups = code.max() + 1
    if n_groups < 2:
        raise ValueError("All rows are of one group, and nothing is left without it.")
    return [np.flatnonzero(code == group) for group in range(n_groups)]


def _require(predictor, method):
    if not hasattr(predictor, method):
        raise AttributeError(
            f"{type(predictor).__name__} has no {method}. Choose another method, or a model that "
            "has it."
        )


def _predict(predictor, loss, method, outputs):
    """Predictions from outputs (m, k), NaN where these are NaN."""
    known = np.isfinite(outputs).all(axis=1)
    found = getattr(predictor, method)(loss.scores(outputs[known]))
    if known.all():
        return found
    blank = np.nan if found.dtype.kind in "fiub" else None
    out = np.full(
        (len(outputs), *found.shape[1:]), blank, dtype=np.result_type(found, type(blank))
    )
    out[known] = found
    return out


def _of_other_classes(fitted, loss, method, outputs, blank):
    """Predictions of a model that knows the classes ``loss.kept`` alone.

    As `cross_val_predict` fills them in: probability 0, or the smallest number, elsewhere.
    """
    scores = loss.scores(outputs)
    predictor = predictor_of_scores(fitted, scores.shape[-1], loss.kept)
    found = getattr(predictor, method)(scores)
    if method == "predict":
        return found
    if method == "decision_function" and len(loss.kept) == 2:
        # One score of two classes has no place among several.
        return np.full_like(blank, np.nan)
    out = np.full_like(blank, 0.0 if method == "predict_proba" else np.finfo(blank.dtype).min)
    out[:, loss.kept] = found
    return out
