"""Random projections of gradient rows, and the sizes that they need.

A sketch stands for a matrix ``P`` of shape (size, n_columns), drawn such that
``E[P'P] = I``, and ``rows @ sketch`` is ``rows P'``. Rows may be a NumPy array, a CSR
matrix, a torch tensor (the product stays on its device) or factored rows. The matrix
itself is not stored where that can be avoided: an integer seed reproduces it, for a sketch
that depends on the data together with the data.
"""

from skinfluence.sketching._base import IdentitySketch, Sketch
from skinfluence.sketching._dimension import effective_dimension, influence_min_dim
from skinfluence.sketching._landmarks import LandmarkSketch
from skinfluence.sketching._nystrom import NystromSketch
from skinfluence.sketching._oblivious import (
    GaussianSketch,
    RademacherSketch,
    SJLTSketch,
    SRDCTSketch,
)
from skinfluence.sketching._structured import BlockSketch, KroneckerSketch

__all__ = [
    "SKETCHES",
    "BlockSketch",
    "GaussianSketch",
    "IdentitySketch",
    "KroneckerSketch",
    "LandmarkSketch",
    "NystromSketch",
    "RademacherSketch",
    "SJLTSketch",
    "SRDCTSketch",
    "Sketch",
    "effective_dimension",
    "influence_min_dim",
]

# Kinds by the names that estimators take; ``draw(data, size, seed)`` draws each of them.
SKETCHES = {
    "gaussian": GaussianSketch,
    "identity": IdentitySketch,
    "landmarks": LandmarkSketch,
    "nystrom": NystromSketch,
    "rademacher": RademacherSketch,
    "sjlt": SJLTSketch,
    "srdct": SRDCTSketch,
}
