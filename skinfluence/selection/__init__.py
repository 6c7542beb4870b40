"""Which training rows to keep, to sample or to drop, inside pipelines and searches."""

from skinfluence.selection._filtered import FilteredEstimator
from skinfluence.selection._selector import MemorizationSelector

__all__ = ["FilteredEstimator", "MemorizationSelector"]
