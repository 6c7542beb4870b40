"""Warnings of the package."""


class NumericalWarning(UserWarning):
    """A curvature is singular or close to it, so that small errors are enlarged."""
