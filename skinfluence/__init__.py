"""Influence functions for scikit-learn models."""

from skinfluence.exact import ExactInfluence

__all__ = ["ExactInfluence"]

__version__ = "0.1.0.dev0"
