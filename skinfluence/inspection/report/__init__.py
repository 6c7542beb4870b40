"""One page on what a fit knows of its training rows."""

from skinfluence.inspection.report._report import InfluenceReport
from skinfluence.inspection.report._skore import skore_checks

__all__ = ["InfluenceReport", "skore_checks"]
