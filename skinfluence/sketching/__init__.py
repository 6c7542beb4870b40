"""Random projections of gradient rows, and how large they have to be.

A sketch stands for a matrix ``P`` of shape (size, n_columns), drawn such that
``E[P'P] = I``, and ``rows @ sketch`` is ``rows P'``. Rows may be a NumPy array, a CSR
matrix, a torch tensor (the product stays on its device) or factored rows. The matrix
itself is never held where it need not be: an integer seed gives it back, and for a sketch
that looks at the data the data do.
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

# Kinds by the names that estimators take; each is drawn by ``draw(data, size, seed)``.
SKETCHES = {
    "gaussian": GaussianSketch,
    "identity": IdentitySketch,
    "landmarks": LandmarkSketch,
    "nystrom": NystromSketch,
    "rademacher": RademacherSketch,
    "sjlt": SJLTSketch,
    "srdct": SRDCTSketch,
}
