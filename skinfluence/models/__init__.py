"""One door from a fitted model to the rows and the curvature of the objective it minimised."""

from skinfluence.models import mlp
from skinfluence.models.linear import linear_objective
from skinfluence.models.objectives import Objective
from skinfluence.models.registry import fit_arguments, objective, supported, unwrap

__all__ = [
    "Objective",
    "fit_arguments",
    "linear_objective",
    "mlp",
    "objective",
    "supported",
    "unwrap",
]
