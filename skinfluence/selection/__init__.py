"""Which training rows to keep, to sample or to drop, and which parameters to take."""

from skinfluence.selection._filtered import FilteredEstimator
from skinfluence.selection._leave_one_out_search import LeaveOneOutSearch
from skinfluence.selection._selector import MemorizationSelector

__all__ = ["FilteredEstimator", "LeaveOneOutSearch", "MemorizationSelector"]
