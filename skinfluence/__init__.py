"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.head import ClassifierHeadInfluence
from skinfluence.kfac import KFACInfluence
from skinfluence.model_selection import SketchedInfluenceCV
from skinfluence.relative import RelativeHessianInfluence
from skinfluence.selection import FilteredEstimator, MemorizationSelector
from skinfluence.sketched import SketchedInfluence

__all__ = [
    "ClassifierHeadInfluence",
    "ExactInfluence",
    "FilteredEstimator",
    "KFACInfluence",
    "MemorizationSelector",
    "RelativeHessianInfluence",
    "SketchedInfluence",
    "SketchedInfluenceCV",
]

__version__ = "0.1.0.dev0"
