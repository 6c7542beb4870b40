"""Influence functions for scikit-learn models."""

__version__ = "0.1.0.dev0"
