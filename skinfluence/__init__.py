"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.kfac import KFACInfluence
from skinfluence.model_selection import SketchedInfluenceCV
from skinfluence.selection import FilteredEstimator, MemorizationSelector
from skinfluence.sketched import SketchedInfluence

__all__ = [
    "ExactInfluence",
    "FilteredEstimator",
    "KFACInfluence",
    "MemorizationSelector",
    "SketchedInfluence",
    "SketchedInfluenceCV",
]

__version__ = "0.1.0.dev0"
