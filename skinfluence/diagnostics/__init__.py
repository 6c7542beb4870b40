"""What a fit says of its training set as a whole: functions of a fitted influence estimator."""

from skinfluence.diagnostics._frame import diagnostics_frame
from skinfluence.diagnostics._functional import functional_without_each

__all__ = [
    "diagnostics_frame",
    "functional_without_each",
]
