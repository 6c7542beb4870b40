"""Curvatures: factorised once, then solved against rows.

Every curvature stands for ``H = F + diag(penalty) + damping I``, F the curvature of the mean
loss and ``penalty`` the model's own. ``solve`` returns rows again, so that a solution stays
factored where the rows are.
"""

from skinfluence.curvature._base import Curvature
from skinfluence.curvature._certificate import Certificate
from skinfluence.curvature._choice import (
    SOLVERS,
    choose_curvature,
    choose_solver,
    exact_curvature,
    make_curvature,
)
from skinfluence.curvature._conjugate_gradients import conjugate_gradients
from skinfluence.curvature._dense import DenseCurvature
from skinfluence.curvature._distance import contrast_norms
from skinfluence.curvature._eigenbasis import eigenspaces
from skinfluence.curvature._gram import GramCurvature
from skinfluence.curvature._matrix_free import MatrixFreeCurvature
from skinfluence.curvature._nystrom import NystromCurvature
from skinfluence.curvature._refined import RefinedCurvature
from skinfluence.curvature._space import Space
from skinfluence.curvature._spectral import SpectralCurvature
from skinfluence.curvature._spectral_measure import spectral_measure

__all__ = [
    "SOLVERS",
    "Certificate",
    "Curvature",
    "DenseCurvature",
    "GramCurvature",
    "MatrixFreeCurvature",
    "NystromCurvature",
    "RefinedCurvature",
    "Space",
    "SpectralCurvature",
    "choose_curvature",
    "choose_solver",
    "conjugate_gradients",
    "contrast_norms",
    "eigenspaces",
    "exact_curvature",
    "make_curvature",
    "spectral_measure",
]
