"""The influence estimators, one file each."""

from skinfluence.estimators._exact import ExactInfluence
from skinfluence.estimators._head import ClassifierHeadInfluence
from skinfluence.estimators._kfac import KFACInfluence
from skinfluence.estimators._relative import RelativeHessianInfluence
from skinfluence.estimators._sketched import SketchedInfluence
from skinfluence.estimators._sketched_cv import SketchedInfluenceCV

__all__ = [
    "ClassifierHeadInfluence",
    "ExactInfluence",
    "KFACInfluence",
    "RelativeHessianInfluence",
    "SketchedInfluence",
    "SketchedInfluenceCV",
]
