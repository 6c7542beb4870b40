"""What may be the matter with a training row, by what leaving it out changes."""

import numpy as np

from skinfluence.models.responses import respond

# A studentised residual beyond this, and a loss so many quartile ranges above the third quartile.
FAR_RESIDUAL = 3.0
FAR_LOSS = 3.0

# A leverage so many times the mean is that of a row with few like it.
FAR_LEVERAGE = 3.0

# Root mean square standard errors by which dropping all redundant rows may move the parameters.
NEGLIGIBLE = 0.1


def suggestions(fit, frame, outputs):
    """A word for each training row, see `influence_frame`.

    Parameters
    ----------
    fit : Linearisation
        Linearisation of a fitted model.
    frame : pandas.DataFrame
        Diagnostics of its rows.
    outputs : ndarray of shape (n_samples, k)
        Raw outputs of each row by the model without it.

    Returns
    -------
    ndarray of str of shape (n_samples,)
    """
    leverage = frame["leverage"].to_numpy()
    conditions = [
        _is_mislabelled(fit, frame, outputs),
        leverage > FAR_LEVERAGE * leverage.mean(),
        _is_redundant(frame["cooks_distance"].to_numpy()),
    ]
    return np.select(conditions, ["mislabelled", "isolated", "redundant"], "")


def _is_mislabelled(fit, frame, outputs):
    loss = fit.objective.loss
    if loss.classifies and loss.log_weights(loss.scores(outputs)) is not None:
        return _is_confidently_another(fit, respond(loss, "probability", outputs).value)
    if "studentised_residual" in frame:
        return np.abs(frame["studentised_residual"].to_numpy()) > FAR_RESIDUAL
    losses = frame["leave_one_out_loss"].to_numpy()
    lower, upper = np.nanquantile(losses[np.isfinite(losses)], [0.25, 0.75])
    return losses > upper + FAR_LOSS * (upper - lower)


def _is_confidently_another(fit, p):
    """Whether another class is likeliest, and as likely as it is for rows of that class."""
    own = fit.objective.loss.own(fit.own_targets)
    # Rows without a refit have no probabilities, and are not suspected.
    known = np.isfinite(p).all(axis=1)
    p = np.where(known[:, None], p, 0.0)
    member = known[:, None] & (own[:, None] == np.arange(p.shape[1]))
    typical = (p * member).sum(axis=0) / np.maximum(member.sum(axis=0), 1)
    likeliest = p.argmax(axis=1)
    sure = p[np.arange(len(own)), likeliest] >= typical[likeliest]
    return known & sure & (likeliest != own)


def _is_redundant(distance):
    """Rows whose steps all together, by the triangle inequality, are negligible."""
    size = np.sqrt(np.maximum(np.nan_to_num(distance, nan=np.inf), 0.0))
    order = np.argsort(size, kind="stable")
    redundant = np.empty(len(size), dtype=bool)
    redundant[order] = np.cumsum(size[order]) <= NEGLIGIBLE
    return redundant
