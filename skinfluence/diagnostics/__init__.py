"""What a fit says of its training set as a whole: functions of a fitted influence estimator."""

from skinfluence.diagnostics._contributions import column_contributions
from skinfluence.diagnostics._covariance import coefficient_table, parameter_covariance
from skinfluence.diagnostics._frame import diagnostics_frame
from skinfluence.diagnostics._functional import functional_without_each
from skinfluence.diagnostics._influence_frame import influence_frame
from skinfluence.diagnostics._leave_one_out import leave_one_out_predict, leave_one_out_score
from skinfluence.diagnostics._most_influential_set import most_influential_set
from skinfluence.diagnostics._removal_curve import removal_curve
from skinfluence.diagnostics._tokens import token_influence
from skinfluence.diagnostics._without import estimator_without

__all__ = [
    "coefficient_table",
    "column_contributions",
    "diagnostics_frame",
    "estimator_without",
    "functional_without_each",
    "influence_frame",
    "leave_one_out_predict",
    "leave_one_out_score",
    "most_influential_set",
    "parameter_covariance",
    "removal_curve",
    "token_influence",
]
