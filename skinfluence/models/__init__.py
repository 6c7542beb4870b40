"""One door from a fitted model to the rows and the curvature of the objective it minimised."""

from skinfluence.models import mlp
from skinfluence.models.heads import Head, head
from skinfluence.models.linear import linear_objective
from skinfluence.models.objectives import Objective
from skinfluence.models.registry import fit_arguments, objective, supported, unwrap

__all__ = [
    "Head",
    "Objective",
    "fit_arguments",
    "head",
    "linear_objective",
    "mlp",
    "objective",
    "supported",
    "unwrap",
]
