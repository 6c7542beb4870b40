"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.kfac import KFACInfluence

__all__ = ["ExactInfluence", "KFACInfluence"]

__version__ = "0.1.0.dev0"
