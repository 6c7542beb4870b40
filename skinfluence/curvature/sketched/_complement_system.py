"""The full curvature in coordinates in which a basis and its complement cost nothing.

Conjugate gradients hold vectors ``e + Q w`` with orthonormal ``Q``, without adding up their
parts, and with them ``v = Q'e``. With ``R = CQ``, a ridge D of the full curvature ``C'C + D``,
one r of the approximation, and ``D_Q`` and ``r_Q``, the same in the coordinates of Q,

    C (e + Q w) = C e + R w
    H (e + Q w) = (C't + D e) + Q D_Q w        with v: R't + D_Q v, for t = C (e + Q w)
    M (e + Q w) = e / r + Q (w / r_Q + (H_Q^{-1} - 1 / r_Q) (v + w))        with v: v / r_Q

because ridges commute with QQ'. So no step multiplies vectors with Q or Q', which would cost about
as much as a product with as many rows of C as Q has columns.
"""

import numpy as np

from skinfluence.curvature._system import System
from skinfluence.curvature.sketched._complement_rows import BasisRows
from skinfluence.rows import CombinedRows, DenseRows


class ComplementSystem(System):
    """``H x = b`` for vectors ``[e, v, w]``.

    Parameters
    ----------
    factor_rows : Rows
        Rows C.
    reduced_rows : Rows
        Rows R.
    sketch : Sketch
        Sketch with the orthonormal rows Q'.
    inside : SpectralCurvature
        Solves ``H_Q``.
    ridges, inverses : tuple of ndarray
        ``D`` and ``1 / r``, on all columns and in the coordinates of the sketch.
    damping : float
        Added to the eigenvalues of the curvature.
    """

    def __init__(self, factor_rows, reduced_rows, sketch, inside, ridges, inverses, damping):
        self.factor_rows = factor_rows
        self.reduced_rows = reduced_rows
        self.sketch = sketch
        self.inside = inside
        self.damping = damping
        self.n_extra = 2 * sketch.size
        self.ridge, self.inverse = (
            np.concatenate([full, reduced, reduced]) for full, reduced in (ridges, inverses)
        )

    def _parts(self, array):
        p, m = self.sketch.n_columns, self.sketch.size
        return array[:, :p], array[:, p : p + m], array[:, p + m :]

    def enter(self, rows):
        out = np.zeros((rows.shape[0], self.sketch.n_columns + self.n_extra))
        outer, known, _ = self._parts(out)
        outer[...] = rows.toarray()
        known[...] = (rows @ self.sketch).toarray()
        return out

    def leave(self, array, rows_per_sample):
        outer, _, inner = self._parts(array)
        return CombinedRows(DenseRows(outer, rows_per_sample), inner, BasisRows(self.sketch))

    def dot(self, left, right):
        (e, v, w), (e2, v2, w2) = self._parts(left), self._parts(right)
        total = np.einsum("mp,mp->m", e, e2) + np.einsum("mk,mk->m", v, w2)
        return total + np.einsum("mk,mk->m", w, v2 + w2)

    def precondition(self, array):
        _, known, inner = self._parts(array)
        inside = known + inner
        out = array * self.inverse
        _, _, solved = self._parts(out)
        solved += self.inside.solve(DenseRows(inside), self.damping).array
        solved -= inside * self._parts(self.inverse[None])[1]
        return out

    def push(self, vectors):
        outer, _, inner = self._parts(vectors)
        moves = self.factor_rows.dotted_by(outer) + self.reduced_rows.dotted_by(inner)
        ridged = vectors * self.ridge

        def pull():
            image_outer, image_known, _ = self._parts(ridged)
            image_outer += moves @ self.factor_rows
            image_known += moves @ self.reduced_rows
            return ridged

        curved = np.einsum("mn,mn->m", moves, moves) + self.dot(vectors, ridged)
        return curved, pull
