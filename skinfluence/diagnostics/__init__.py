"""What a fit says of its training set as a whole: functions of a fitted influence estimator."""

from skinfluence.diagnostics._leave_one_out import leave_one_out_predict, leave_one_out_score
from skinfluence.diagnostics._without import estimator_without

__all__ = ["estimator_without", "leave_one_out_predict", "leave_one_out_score"]
