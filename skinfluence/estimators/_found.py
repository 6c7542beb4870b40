"""What one looks at first after a fit: damping, effective dimension, sketch and convergence."""

from skinfluence.estimators._convergence import is_stationary
from skinfluence.models.convergence import STATIONARITY_TOLERANCE

# Multiplications that a representation may cost: some tenths of a second.
MAX_WORK = 2e9


def found_by(influence):
    """Name, value and remark of what an influence estimator has found.

    Parameters
    ----------
    influence : influence estimator
        Fitted.

    Returns
    -------
    list of (str, str, str)
    """
    given = getattr(influence, "damping", "auto") != "auto"
    return [
        (
            "curvature",
            influence.curvature_kind_,
            f"of {influence.n_samples_} rows and {influence.n_params_} parameters",
        ),
        ("damping", f"{influence.damping_:.4g}", "as given" if given else "found by the fit"),
        ("effective dimension", *_effective_dimension(influence)),
        ("sketch size", *_sketch_size(influence)),
        ("convergence", *_convergence(influence.linearisation_.objective)),
    ]


def _effective_dimension(influence):
    if influence.n_samples_ * influence.n_params_**2 > MAX_WORK:
        return "not computed here", "effective_dimension_ computes it"
    try:
        dimension = influence.effective_dimension_
    except ValueError as error:
        # A representation never fails.
        return "unknown", error
    return f"{dimension:.4g}", "directions that the data decide, not the ridge"


def _sketch_size(influence):
    size = getattr(influence, "sketch_size_", None)
    if size is None:
        return "none", "rows are not sketched as one"
    return str(size), f"numbers that stand for the {influence.n_params_} of a gradient"


def _convergence(objective):
    limit = f"{STATIONARITY_TOLERANCE:.0e}"
    remark = f"at the minimum: at most {limit}"
    if not is_stationary(objective):
        remark = f"not at the minimum: above {limit}, see the ConvergenceWarning of the fit"
    return f"relative gradient {objective.stationarity:.2e}", remark
