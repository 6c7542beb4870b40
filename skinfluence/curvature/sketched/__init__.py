"""Curvatures of sketched rows.

A `SketchPlan` says what is sketched and how, `choose_projection` how large the sketch is. The
result is a `Projection`, the space in which the curvature is solved.
"""

from skinfluence.curvature.sketched._added_ridge import debiased_ridge, exact_effective_dimension
from skinfluence.curvature.sketched._complement_rows import ComplementRows
from skinfluence.curvature.sketched._effective_dimension import of_curvature, of_factors
from skinfluence.curvature.sketched._plan import SketchPlan
from skinfluence.curvature.sketched._projection import Projection
from skinfluence.curvature.sketched._rank import is_injective
from skinfluence.curvature.sketched._size import choose_projection

__all__ = [
    "ComplementRows",
    "Projection",
    "SketchPlan",
    "choose_projection",
    "debiased_ridge",
    "exact_effective_dimension",
    "is_injective",
    "of_curvature",
    "of_factors",
]
