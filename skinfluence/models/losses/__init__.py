"""Per-sample losses of raw outputs, with their first and second derivatives.

Conventions
-----------
- Raw outputs ``z`` have shape (..., n, k): leading axes stand for several models at once.
- Targets ``y``, as made by ``encode``, have shape (n, t) and broadcast against them.
- ``value`` is (..., n), ``residual = dl/dz`` (..., n, k); ``hessian = d2l/dz2`` is
  (..., n, k) for a loss that is a sum over its outputs (``separable``), else (..., n, k, k).

Losses are terms of the objective, without weights, penalty and constant factors.
"""

from skinfluence.models.losses._base import Loss
from skinfluence.models.losses._classification import ClassificationLoss
from skinfluence.models.losses._margins import (
    DelegatedLoss,
    LogisticLoss,
    ModifiedHuber,
    MultilabelLoss,
    OneVsRest,
    PairwiseLoss,
    SignedSquares,
    SquaredHinge,
)
from skinfluence.models.losses._regression import (
    ConcomitantHuber,
    FixedHuber,
    HalfTweedieLoss,
    RegressionLoss,
    SquaredEpsilonInsensitive,
    SquaredLoss,
)
from skinfluence.models.losses._softmax import SoftmaxLoss, SoftmaxScores

__all__ = [
    "ClassificationLoss",
    "ConcomitantHuber",
    "DelegatedLoss",
    "FixedHuber",
    "HalfTweedieLoss",
    "LogisticLoss",
    "Loss",
    "ModifiedHuber",
    "MultilabelLoss",
    "OneVsRest",
    "PairwiseLoss",
    "RegressionLoss",
    "SignedSquares",
    "SoftmaxLoss",
    "SoftmaxScores",
    "SquaredEpsilonInsensitive",
    "SquaredHinge",
    "SquaredLoss",
]
