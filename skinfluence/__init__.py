"""Influence functions for scikit-learn models."""

from skinfluence._utils.persistence import trusted_types
from skinfluence.data import Chunks
from skinfluence.estimators._averaged import AveragedInfluence
from skinfluence.estimators._exact import ExactInfluence
from skinfluence.estimators._head import ClassifierHeadInfluence
from skinfluence.estimators._kfac import KFACInfluence
from skinfluence.estimators._relative import RelativeHessianInfluence
from skinfluence.estimators._sketched import SketchedInfluence
from skinfluence.estimators._sketched_cv import SketchedInfluenceCV
from skinfluence.selection import FilteredEstimator, LeaveOneOutSearch, MemorizationSelector

__all__ = [
    "AveragedInfluence",
    "Chunks",
    "ClassifierHeadInfluence",
    "ExactInfluence",
    "FilteredEstimator",
    "KFACInfluence",
    "LeaveOneOutSearch",
    "MemorizationSelector",
    "RelativeHessianInfluence",
    "SketchedInfluence",
    "SketchedInfluenceCV",
    "trusted_types",
]

__version__ = "0.1.0.dev0"
