"""What a fit says of its training set as a whole: functions of a fitted influence estimator."""

from skinfluence.diagnostics._covariance import coefficient_table, parameter_covariance
from skinfluence.diagnostics._frame import diagnostics_frame
from skinfluence.diagnostics._functional import functional_without_each
from skinfluence.diagnostics._influence_frame import influence_frame

__all__ = [
    "coefficient_table",
    "diagnostics_frame",
    "functional_without_each",
    "influence_frame",
    "parameter_covariance",
]
