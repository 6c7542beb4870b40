"""Influence from a sketch of the gradients."""

from skinfluence.sketched._influence import SketchedInfluence

__all__ = ["SketchedInfluence"]
