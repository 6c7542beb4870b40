"""Pictures of influences and of their errors, and a report.

A display stores arrays, and ``plot`` draws them, on given axes or on a new figure.
``from_estimator`` and ``from_predictions`` compute the arrays and draw them at once.
Drawing needs matplotlib, and the page of the report jinja2 too.
"""

from skinfluence.inspection._coefficients import CoefficientDisplay
from skinfluence.inspection._diagnostics import DiagnosticsDisplay
from skinfluence.inspection._effective_dimension import EffectiveDimensionDisplay
from skinfluence.inspection._image_examples import ImageExamplesDisplay
from skinfluence.inspection._influence import InfluenceDisplay
from skinfluence.inspection._memorization import MemorizationDisplay
from skinfluence.inspection._removal_curve import RemovalCurveDisplay
from skinfluence.inspection._retraining import RetrainingDisplay
from skinfluence.inspection._sketch_error import SketchErrorDisplay
from skinfluence.inspection._table_examples import TableExamplesDisplay
from skinfluence.inspection._text_examples import TextExamplesDisplay
from skinfluence.inspection.report import InfluenceReport, skore_checks

__all__ = [
    "CoefficientDisplay",
    "DiagnosticsDisplay",
    "EffectiveDimensionDisplay",
    "ImageExamplesDisplay",
    "InfluenceDisplay",
    "InfluenceReport",
    "MemorizationDisplay",
    "RemovalCurveDisplay",
    "RetrainingDisplay",
    "SketchErrorDisplay",
    "TableExamplesDisplay",
    "TextExamplesDisplay",
    "skore_checks",
]
