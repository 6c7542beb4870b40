"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.kfac import KFACInfluence
from skinfluence.model_selection import SketchedInfluenceCV
from skinfluence.sketched import SketchedInfluence

__all__ = ["ExactInfluence", "KFACInfluence", "SketchedInfluence", "SketchedInfluenceCV"]

__version__ = "0.1.0.dev0"
