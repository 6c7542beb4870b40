"""The influence estimators, one file each."""

from skinfluence.estimators._averaged import AveragedInfluence
from skinfluence.estimators._classification_terms import classification_terms, dominant_partition
from skinfluence.estimators._exact import ExactInfluence
from skinfluence.estimators._head import ClassifierHeadInfluence
from skinfluence.estimators._kfac import KFACInfluence
from skinfluence.estimators._lep_conditions import LepConditions, row_sums
from skinfluence.estimators._loss_preservation import LepComparison
from skinfluence.estimators._relative import RelativeHessianInfluence
from skinfluence.estimators._sketched import SketchedInfluence
from skinfluence.estimators._sketched_cv import SketchedInfluenceCV
from skinfluence.estimators._weighted_subsets import SamplingOrder

__all__ = [
    "AveragedInfluence",
    "ClassifierHeadInfluence",
    "ExactInfluence",
    "KFACInfluence",
    "LepComparison",
    "LepConditions",
    "RelativeHessianInfluence",
    "SamplingOrder",
    "SketchedInfluence",
    "SketchedInfluenceCV",
    "classification_terms",
    "dominant_partition",
    "row_sums",
]
