"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence
from skinfluence.sketched import SketchedInfluence

__all__ = ["ExactInfluence", "SketchedInfluence"]

__version__ = "0.1.0.dev0"
