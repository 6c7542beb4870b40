"""One page on what a fit knows of its training rows."""

from skinfluence.inspection.report._report import InfluenceReport

__all__ = ["InfluenceReport"]
