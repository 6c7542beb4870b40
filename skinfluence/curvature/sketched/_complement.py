"""A basis for most of the curvature, and one number for its complement.

With orthonormal rows ``Q'`` of a sketch, ``F_Q = Q'FQ`` and a ridge that commutes with
``QQ'``, the inverse is approximated by

    H^{-1} = Q (F_Q + ridge)^{-1} Q' + (I - QQ') / (ridge + outside_curvature)

The second part needs only the inner products of the rows. ``outside_curvature`` is the mean
eigenvalue of F outside the basis, each weighted by itself, because gradients are long along
directions of large eigenvalues: ``tr(F_o^2) / tr(F_o)`` with ``F_o = (I - QQ') F (I - QQ')``. At
0, every direction outside would count as flat, and its influence would be overstated.
"""

from functools import cached_property

import numpy as np

from skinfluence._utils.batching import fits_in_memory
from skinfluence.curvature import Curvature
from skinfluence.curvature._eigenbasis import Eigenbasis, OutsideBasis
from skinfluence.curvature.sketched._complement_rows import BasisRows
from skinfluence.curvature.sketched._complement_system import ComplementSystem
from skinfluence.curvature.sketched._ritz import largest_ritz_value
from skinfluence.rows import CombinedRows, DenseRows


def curvature_outside(factor_rows, sketch, layer_shape, seed, *, n_signs=8):
    """``tr(F_o^2) / tr(F_o)`` of every output, by random signs, (c,).

    Parameters
    ----------
    factor_rows : Rows
        Rows ``C`` with ``C'C = F``.
    sketch : Sketch
        Sketch with orthonormal rows.
    layer_shape : tuple of int
        Outputs c and features d, whose columns come first.
    seed : int
        Draws the signs.
    n_signs : int, default=8
        Number of vectors of signs.

    Returns
    -------
    ndarray of shape (c,)
    """

    # For random signs z, z_o = (I - QQ') z and y = (I - QQ') F z_o = F_o z: E[y'y] = tr(F_o^2)
    # and E[y'z_o] = tr(F_o). The sums over the columns of one output are its own traces.
    def outside(vectors):
        return vectors - sketch.lift(vectors @ sketch)

    (c, d), rng = layer_shape, np.random.default_rng([seed, 2])
    vectors = outside(rng.choice([-1.0, 1.0], (n_signs, factor_rows.n_columns)))
    image = outside(factor_rows.gram_product(vectors))
    moments = [
        product[:, : c * d].reshape(n_signs, c, d).sum(axis=(0, 2))
        for product in (image * image, image * vectors)
    ]
    positive = moments[1] > 0
    return np.divide(*moments, out=np.zeros(c), where=positive)


def error_outside(factor_rows, sketch, ridge, outside_curvature, seed, *, enough, n_iterations):
    """Largest error of influences outside the basis alone, a lower bound of the uniform error.

    There the curvature that stands for F is one number for each output, so that products with F
    are enough: the moment on the basis and its eigenvectors need not be known.

    Parameters
    ----------
    factor_rows : Rows
        Rows ``C`` with ``C'C = F``.
    sketch : Sketch
        Sketch with orthonormal rows.
    ridge : ndarray of shape (c, d)
        Ridge on every sketched column, constant over the features.
    outside_curvature : ndarray of shape (c,)
        What stands for F outside the basis.
    seed : int
        Draws the first vectors.
    enough : float
        Value above which the search ends.
    n_iterations : int
        Most products with a block of vectors.

    Returns
    -------
    float
    """
    n_sketched = ridge.size
    level = np.repeat(outside_curvature, ridge.shape[1])
    root = np.sqrt(ridge.ravel() + level)

    def outside(vectors):
        return vectors - sketch.lift(vectors @ sketch)

    def images(vectors):
        # The unsketched columns belong to the basis, so that this leaves 0 there.
        scaled = outside(vectors)
        scaled[:, :n_sketched] /= root
        image = outside(factor_rows.gram_product(scaled))
        image[:, :n_sketched] = (image[:, :n_sketched] - level * scaled[:, :n_sketched]) / root
        return image, vectors, image

    vectors = outside(np.random.default_rng([seed, 4]).standard_normal((2, factor_rows.n_columns)))
    return largest_ritz_value(images, vectors, enough=enough, n_iterations=n_iterations)


class ComplementCurvature(Curvature):
    """The curvature on a basis, and one number on its complement.

    Parameters
    ----------
    factor_rows : Rows
        Rows ``C`` with ``C'C = F``.
    sketch : Sketch
        Sketch with orthonormal rows.
    inside : SpectralCurvature
        F in the coordinates of the sketch, with the penalty there.
    penalty : ndarray of shape (n_columns,)
        Penalty on every column.
    reduced_penalty : ndarray of shape (size,)
        Penalty in the coordinates of the sketch.
    n_unsketched : int
        Number of last columns, which stay unsketched and lie inside the basis.
    outside_curvature : ndarray of shape (n_outputs,)
        Mean eigenvalue of F outside the basis, one for each output.
    """

    def __init__(
        self,
        factor_rows,
        sketch,
        inside,
        penalty,
        reduced_penalty,
        n_unsketched,
        outside_curvature,
    ):
        self.factor_rows = factor_rows
        self.sketch = sketch
        self.inside = inside
        self.penalty = penalty
        self.reduced_penalty = reduced_penalty
        self.n_unsketched = n_unsketched
        self.outside_curvature = outside_curvature

    def __getstate__(self):
        # What can be computed again is no part of the fit.
        return {name: value for name, value in vars(self).items() if name != "_reduced_rows"}

    @cached_property
    def _reduced_rows(self):
        return self.factor_rows @ self.sketch

    def _outside(self, damping):
        """Ridge plus outside_curvature, on all columns and in the coordinates of the sketch."""
        ridges = []
        for penalty in (self.penalty, self.reduced_penalty):
            ridge = penalty + damping
            n_sketched = len(penalty) - self.n_unsketched
            ridge[:n_sketched] += np.repeat(
                self.outside_curvature, n_sketched // len(self.outside_curvature)
            )
            ridges.append(ridge)
        return ridges

    def _inverses(self, ridges):
        """Inverses of ridges, 0 on unsketched columns."""
        inverses = []
        for ridge in ridges:
            inverse = np.zeros_like(ridge)
            sketched = slice(0, len(ridge) - self.n_unsketched)
            inverse[sketched] = 1 / ridge[sketched]
            inverses.append(inverse)
        return inverses

    def system(self, product, damping):
        n_rows, n_columns = self.factor_rows.shape
        # With few columns, products with the basis cost less than with the sketched factor rows.
        if n_columns < n_rows or not fits_in_memory(8 * n_rows * self.sketch.size):
            return super().system(product, damping)
        # The product is that of the factor rows, which also have it by halves.
        return ComplementSystem(
            self.factor_rows,
            self._reduced_rows,
            self.sketch,
            self.inside,
            (self.penalty + damping, self.reduced_penalty + damping),
            self._inverses(self._outside(damping)),
            damping,
        )

    def exact_part(self, rows):
        return self.inside, rows @ self.sketch

    def solve(self, rows, damping):
        full, reduced = self._inverses(self._outside(damping))
        inside = rows @ self.sketch
        solved = self.inside.solve(inside, damping).array
        # (I - QQ') / r + Q H_Q^{-1} Q' = 1 / r + Q (H_Q^{-1} - 1 / r) Q'.
        solved -= inside.toarray() * reduced
        return CombinedRows(rows.rescaled(full), solved, BasisRows(self.sketch))

    def whiten(self, rows, damping):
        full, reduced = map(np.sqrt, self._inverses(self._outside(damping)))
        inside = rows @ self.sketch
        # The symmetric root has the same coordinates as Q, so both parts can be added.
        white = self.inside.symmetric_root(inside, damping) - inside.toarray() * reduced
        return rows.toarray() * full + self.sketch.lift(white)

    def eigenbasis(self, damping, query=None):
        inside = self.inside.eigenbasis(damping)
        ridge, _ = self._outside(damping)
        ridge[len(ridge) - self.n_unsketched :] = 0

        def part_inside(rows):
            return self.sketch.lift((rows @ self.sketch).toarray())

        def write(rows):
            reduced = rows @ self.sketch
            return np.hstack([inside.coordinates(reduced), outside.coordinates(rows)])

        outside = OutsideBasis(ridge, part_inside, query)
        return Eigenbasis(np.concatenate([inside.values, outside.values]), 0.0, write)

    def effective_dimension(self, damping):
        return sum(self.effective_dimension_parts(damping))

    def effective_dimension_parts(self, damping):
        """``tr(F H^{-1})`` on the basis and outside it.

        The second, ``tr(F - Q F_Q Q') / ridge``, is an upper bound of the true part.
        """
        (full,) = self._inverses([self.penalty + damping])
        scaled = self.factor_rows.rescaled(np.sqrt(full))
        outside = scaled.squared_norms().sum() - (scaled @ self.sketch).squared_norms().sum()
        return self.inside.effective_dimension(damping), max(0.0, float(outside))

    def uniform_error(self, damping, *, enough=np.inf, n_vectors=2, n_iterations=8, seed=0):
        """Largest error of any influence, relative to the self-influences.

        ``sup |B~ - B| / sqrt(phi phi')`` over all gradients is the spectral radius of
        ``H~^{-1} H - I``, with H~ this curvature and H the exact one. A block Krylov subspace
        finds it from below, by products alone, and ends once it exceeds ``enough``.
        """

        def images(vectors):
            approximate = self._product(vectors, damping)
            gap = self._exact_product(vectors, damping) - approximate
            return gap, approximate, self.solve(DenseRows(gap), damping).toarray()

        vectors = np.random.default_rng(seed).standard_normal((n_vectors, len(self.penalty)))
        return largest_ritz_value(images, vectors, enough=enough, n_iterations=n_iterations)

    def _exact_product(self, vectors, damping):
        return self.factor_rows.gram_product(vectors) + vectors * (self.penalty + damping)

    def _product(self, vectors, damping):
        full, reduced = self._outside(damping)
        inside = vectors @ self.sketch
        image = self.inside.product(inside, damping) - inside * reduced
        return vectors * full + self.sketch.lift(image)
