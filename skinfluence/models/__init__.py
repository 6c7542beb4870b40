"""From a fitted model to the objective that it minimised.

`objective` and `head` are the two doors. ``objective.register`` registers a new class of models;
for a model that is linear in its features, `linear_objective`, `Weighting` and the module
`losses` are all that its function needs.
"""

from skinfluence.models import linear, losses, mlp, per_output, refused
from skinfluence.models.chunked_model import ChunkedModel, can_read_pieces
from skinfluence.models.doors import head, objective
from skinfluence.models.fitted_model import FittedModel
from skinfluence.models.heads import Head
from skinfluence.models.linear_objective import LinearObjective, linear_objective
from skinfluence.models.objectives import Objective
from skinfluence.models.parameters import add_to_parameters, reader_of_scores
from skinfluence.models.predictors import predictor_of_scores
from skinfluence.models.registry import supported
from skinfluence.models.weighting import Weighting
from skinfluence.models.wrappers import fit_arguments, innermost, unfrozen, unwrap

__all__ = [
    "ChunkedModel",
    "FittedModel",
    "Head",
    "LinearObjective",
    "Objective",
    "Weighting",
    "add_to_parameters",
    "can_read_pieces",
    "fit_arguments",
    "head",
    "innermost",
    "linear",
    "linear_objective",
    "losses",
    "mlp",
    "objective",
    "per_output",
    "predictor_of_scores",
    "reader_of_scores",
    "refused",
    "supported",
    "unfrozen",
    "unwrap",
]
