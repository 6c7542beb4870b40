"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.selection import FilteredEstimator, MemorizationSelector

__all__ = ["ExactInfluence", "FilteredEstimator", "MemorizationSelector"]

__version__ = "0.1.0.dev0"
