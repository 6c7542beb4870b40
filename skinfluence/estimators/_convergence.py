"""Whether a model is at the minimum of its objective, where influence is defined."""

from sklearn.exceptions import ConvergenceWarning

from skinfluence._utils.warnings import warn_user
from skinfluence.models.convergence import STATIONARITY_TOLERANCE, STEP_TOLERANCE

TO_CONVERGE = (
    "Influence is that of a model which is not at its minimum. Fit it longer or with a smaller "
    "tol; if a frozen model, check that it was fitted on these rows; if the columns differ so "
    "much in scale that its solver has lost some of them, scale them, for example by "
    "StandardScaler in a Pipeline"
)

IF_SEPARABLE = (
    "; if the classes are perfectly separable, there is no minimum without a penalty: give the "
    "model one, or raise damping"
)

# Networks are stopped early on purpose, and the damping that is found allows for it.
FOR_NETWORKS = (
    "Most networks are stopped early, and this warning alone is no reason to distrust the scores: "
    "influence is that of the parameters as they are, and damping='auto' grows with the gradient "
    "that is left. Whether it agrees with trainings tells score(X_valid, y_valid). To come closer "
    "to a minimum, let MLPClassifier and MLPRegressor use solver='lbfgs', or "
    "early_stopping=False with a larger max_iter and n_iter_no_change and a smaller tol; train a "
    "module of torch longer, with a falling learning rate, and check that l2 is the weight decay "
    "of its optimiser"
)


def is_stationary(objective):
    """Whether the gradient of an objective is as small as solvers leave it."""
    return objective.stationarity <= STATIONARITY_TOLERANCE


def check_stationarity(objective, model):
    """Warn if the gradient of the objective of a model is not small.

    Parameters
    ----------
    objective : Objective
        Objective at the fitted parameters.
    model : estimator
        The model, for the message.
    """
    if is_stationary(objective):
        return
    found = (
        f"{type(model).__name__} has not converged on these rows: the gradient of its objective "
        f"is {objective.stationarity:.2e} of the sum of its terms (expected at most "
        f"{STATIONARITY_TOLERANCE:.0e})."
    )
    advice = FOR_NETWORKS if objective.needs_damping else f"{TO_CONVERGE}{IF_SEPARABLE}"
    warn_user(f"{found} {advice}.", ConvergenceWarning)


def check_remaining_step(linearisation, model):
    """Warn if a model whose gradient is small is still a step away from its minimum.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of the fit.
    model : estimator
        The model, for the message.
    """
    objective = linearisation.objective
    if not is_stationary(objective):
        return
    step, tolerance = linearisation.remaining_step(), STEP_TOLERANCE[objective.loss.quadratic]
    if not step <= tolerance:
        warn_user(
            f"{type(model).__name__} has not converged on these rows: the step that is left to "
            f"its minimum has {step:.2e} of the length of its residuals (expected at most "
            f"{tolerance:.0e}), and effects have relative errors of that size or more. "
            f"{TO_CONVERGE}.",
            ConvergenceWarning,
        )
