"""Which curvature suits an objective."""

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from skinfluence._utils.bound import Bound
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._dense import DenseCurvature
from skinfluence.curvature._gram import GramCurvature
from skinfluence.curvature._matrix_free import MatrixFreeCurvature
from skinfluence.exceptions import NumericalWarning

# Above these sizes a dense Hessian (or Gram matrix) no longer fits into memory, and iteration
# takes over.
MAX_DENSE = 20_000

SOLVERS = {"auto", "direct", "gram", "cg", "lissa"}

# Number of Lanczos vectors, and of restarts.
N_LANCZOS, N_RESTARTS = 100, 3


def choose_curvature(objective, curvature, damping):
    """The requested curvature, or the GGN in place of an indefinite Hessian.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    curvature : {"hessian", "ggn", "empirical_fisher"}
        The requested curvature.
    damping : float
        Added to the eigenvalues of the curvature.

    Returns
    -------
    {"hessian", "ggn", "empirical_fisher"}
        A curvature without negative eigenvalues at this damping.
    """
    if objective.has_factor_rows(curvature):
        return curvature
    smallest = _smallest_eigenvalue(objective, curvature, damping)
    if smallest > 0:
        return curvature
    warn_user(
        f"The Hessian of the network has the smallest eigenvalue {smallest:.3g} at "
        f"damping={damping:.3g}, so the Gauss-Newton matrix takes its place. Use curvature='ggn' "
        f"to say so, or damping above {damping - smallest:.3g} to keep the Hessian.",
        NumericalWarning,
    )
    return "ggn"


def _smallest_eigenvalue(objective, curvature, damping):
    """Smallest eigenvalue of H by Lanczos iteration, 0 if the iteration does not converge."""
    multiply, ridge = objective.curvature_product(curvature), objective.l2_penalty + damping
    p = len(ridge)

    def product(vector):
        return multiply(vector.reshape(1, -1))[0] + ridge * vector.ravel()

    if p == 1:
        return float(product(np.ones(1))[0])
    operator = LinearOperator((p, p), matvec=product, dtype=np.float64)
    settings = {"ncv": min(N_LANCZOS, p), "maxiter": N_RESTARTS, "tol": 0.1}
    start = np.random.default_rng(0).standard_normal(p)
    try:
        found = eigsh(operator, k=1, which="SA", v0=start, return_eigenvectors=False, **settings)
    except ArpackNoConvergence:
        return 0.0
    return float(found[0])


def choose_solver(objective, curvature, solver, damping=0.0):
    """Solver for an objective, one of "direct", "gram", "cg" and "lissa".

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    curvature : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    solver : {"auto", "direct", "gram", "cg", "lissa"}
        The requested solver.
    damping : float, default=0.0
        Added to the eigenvalues of the curvature.
    """
    if solver != "auto":
        return solver
    n_coordinates, n_factor_rows = len(objective.penalty), objective.n_samples
    if curvature != "empirical_fisher":
        n_factor_rows *= objective.n_outputs
    fewer = n_factor_rows < n_coordinates and n_factor_rows <= MAX_DENSE
    # The Gram solver divides by the ridge of the columns, and needs some columns with a ridge.
    has_ridge = damping > 0 or objective.penalty.any()
    if fewer and has_ridge and objective.has_factor_rows(curvature):
        return "gram"
    return "direct" if n_coordinates <= MAX_DENSE else "cg"


def make_curvature(objective, curvature, solver, random_state=None):
    """Curvature of an objective, ready to solve with a chosen solver.

    Parameters
    ----------
    objective : Objective
        Objective of the fitted model.
    curvature : {"hessian", "ggn", "empirical_fisher"}
        Which curvature.
    solver : {"direct", "gram", "cg", "lissa"}
        The solver.
    random_state : int, RandomState or None, default=None
        Draws the preconditioner of "cg" and "lissa".
    """
    penalty, describe = objective.l2_penalty, Bound(objective, "describe")
    if solver == "direct":
        return DenseCurvature(*objective.hessian(curvature), penalty, describe)
    if solver == "gram":
        rows = objective.factor_rows(curvature).summed()
        return GramCurvature(rows, penalty, describe)
    product = objective.curvature_product(curvature)
    return MatrixFreeCurvature(product, penalty, solver, random_state=random_state)


def exact_curvature(objective, curvature, damping, random_state=None):
    """Curvature of an objective by the solver that suits it, see `make_curvature`."""
    solver = choose_solver(objective, curvature, "auto", damping)
    return make_curvature(objective, curvature, solver, random_state)
