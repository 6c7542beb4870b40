r"""Measures of the quality of influences: arrays in, floats or arrays out.

Conventions
-----------
- ``influence[t, p]`` is :math:`I_{loss}(z_t, z_p) = -g_t^\top H^{-1} g_p`: positive
  when more weight on training row ``p`` raises the loss of query ``t`` (harmful),
  negative when it lowers it (helpful). Several other libraries return the opposite
  sign.
- A measure with one value per query returns all values, of shape (n_queries,): their
  mean is the usual figure, and :func:`bootstrap_interval` gives its interval.
- A score that is not defined (constant losses, one subset, one class of flags) raises
  an error that names the reason, and is never NaN.
"""

from skinfluence.metrics._agreement import leave_one_out_correlation, linear_datamodeling_score
from skinfluence.metrics._bootstrap import bootstrap_interval
from skinfluence.metrics._faithfulness import faithfulness
from skinfluence.metrics._functionals import (
    Brier,
    ExpectedCalibrationError,
    Functional,
    LogLoss,
    RocAuc,
)
from skinfluence.metrics._group_functionals import GroupGap, WorstGroup
from skinfluence.metrics._labels import (
    almost_positive,
    label_sign_agreement,
    mislabel_detection_auc,
)
from skinfluence.metrics._ratio import influence_ratio
from skinfluence.metrics._scorer import InfluenceScorer
from skinfluence.refitting.retraining import retrain_on_subsets

__all__ = [
    "Brier",
    "ExpectedCalibrationError",
    "Functional",
    "GroupGap",
    "InfluenceScorer",
    "LogLoss",
    "RocAuc",
    "WorstGroup",
    "almost_positive",
    "bootstrap_interval",
    "faithfulness",
    "influence_ratio",
    "label_sign_agreement",
    "leave_one_out_correlation",
    "linear_datamodeling_score",
    "mislabel_detection_auc",
    "retrain_on_subsets",
]
