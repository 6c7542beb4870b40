"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.head import ClassifierHeadInfluence
from skinfluence.kfac import KFACInfluence
from skinfluence.relative import RelativeHessianInfluence

__all__ = [
    "ClassifierHeadInfluence",
    "ExactInfluence",
    "KFACInfluence",
    "RelativeHessianInfluence",
]

__version__ = "0.1.0.dev0"
