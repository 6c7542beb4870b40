"""Pictures of influences, and of their errors.

A display stores arrays, and ``plot`` draws them, on given axes or on a new figure.
``from_estimator`` and ``from_predictions`` compute the arrays and draw them at once.
Drawing needs matplotlib.
"""

from skinfluence.inspection._effective_dimension import EffectiveDimensionDisplay
from skinfluence.inspection._influence import InfluenceDisplay
from skinfluence.inspection._memorization import MemorizationDisplay
from skinfluence.inspection._retraining import RetrainingDisplay
from skinfluence.inspection._sketch_error import SketchErrorDisplay

__all__ = [
    "EffectiveDimensionDisplay",
    "InfluenceDisplay",
    "MemorizationDisplay",
    "RetrainingDisplay",
    "SketchErrorDisplay",
]
