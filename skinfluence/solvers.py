"""Which curvature suits an objective."""

from skinfluence.curvature import DenseCurvature, GramCurvature, MatrixFreeCurvature

# Beyond these sizes a dense Hessian (or Gram matrix) no longer fits and iteration takes over.
MAX_DENSE = 20_000

SOLVERS = {"auto", "direct", "gram", "cg", "lissa"}


def choose_solver(objective, curvature, solver):
    """Solver for an objective, one of "direct", "gram", "cg" and "lissa".

    Parameters
    ----------
    objective : Objective
        What was minimised.
    curvature : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    solver : {"auto", "direct", "gram", "cg", "lissa"}
        The solver that was asked for.
    """
    if solver != "auto":
        return solver
    n_coordinates, n_roots = len(objective.penalty), objective.features.shape[0]
    if curvature != "empirical_fisher":
        n_roots *= objective.training_outputs.shape[1]
    fewer = n_roots < n_coordinates and n_roots <= MAX_DENSE
    if fewer and objective.has_root_rows(curvature):
        return "gram"
    return "direct" if n_coordinates <= MAX_DENSE else "cg"


def make_curvature(objective, curvature, solver, random_state=None):
    """Curvature of an objective, ready to be solved with a chosen solver.

    Parameters
    ----------
    objective : Objective
        What was minimised.
    curvature : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    solver : {"direct", "gram", "cg", "lissa"}
        The solver.
    random_state : int, RandomState or None, default=None
        Draws the preconditioner of "cg" and "lissa".
    """
    penalty = objective.l2_penalty
    if solver == "direct":
        return DenseCurvature(*objective.hessian(curvature), penalty)
    if solver == "gram":
        return GramCurvature(objective.curvature_rows(curvature), penalty)
    product = objective.curvature_product(curvature)
    return MatrixFreeCurvature(product, penalty, solver, random_state=random_state)
