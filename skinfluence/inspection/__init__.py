"""Pictures of influences, and of how far they may be trusted.

A display keeps arrays, and ``plot`` draws them, on axes of one's own where ``ax`` is
given. ``from_estimator`` and its siblings compute the arrays and draw them at once.
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
