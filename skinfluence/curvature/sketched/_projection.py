"""What a sketch makes of rows and of their curvature."""

import warnings
from functools import cached_property

import numpy as np

from skinfluence.curvature import SpectralCurvature
from skinfluence.curvature.sketched._added_ridge import debiased_ridge, debiased_ridges
from skinfluence.curvature.sketched._complement import TailCurvature, TailRows, level_outside
from skinfluence.exceptions import NumericalWarning
from skinfluence.sketching import BlockSketch, IdentitySketch, KroneckerSketch


class Projection:
    """A setting with a sketch: projected rows and the curvature in their space.

    Parameters
    ----------
    setting : Setting
        What is sketched.
    sketch : Sketch
        Sketch of all columns.
    """

    def __init__(self, setting, sketch):
        self.setting = setting
        self.sketch = sketch
        self.is_exact = isinstance(sketch, IdentitySketch)
        self.scale = None if self.is_exact else self._find_scale()
        # An output that is left out is as curved as those that are kept: no ridge stands for it.
        whole = isinstance(self._parts[0], (IdentitySketch, type(None)))
        self.has_tail = (
            setting.tail and whole and self._is_orthonormal() and setting.ridge.min() > 0
        )

    @property
    def _parts(self):
        """Sketches of the outputs (None where there is none) and of the features."""
        whole = self.sketch
        inner = whole.sketches[0] if isinstance(whole, BlockSketch) else whole
        if isinstance(inner, KroneckerSketch):
            return inner.outputs, inner.features
        return None, inner

    @property
    def feature_sketch(self):
        """The sketch of the features."""
        return self._parts[1]

    def _is_orthonormal(self):
        parts = [part for part in self._parts if part is not None]
        return not self.is_exact and all(part.is_basis for part in parts)

    @cached_property
    def moment(self):
        """F in the coordinates of the sketch, (size, size)."""
        roots = self.setting.roots
        # Factored rows stay small; others are projected batch by batch.
        parts = [slice(None)] if self.setting.factorized else roots.batches()
        moment = np.zeros((self.sketch.size, self.sketch.size))
        for part in parts:
            projected = self._scaled(roots[part]) @ self.sketch
            moment += projected.moment(np.ones(projected.n_samples))
        return moment

    def _scaled(self, rows):
        return rows if self.scale is None else rows.rescaled(self.scale)

    def _find_scale(self):
        apart = isinstance(self._parts[0], IdentitySketch)
        return self.setting.scale_to_one_ridge(apart=apart)

    def project(self, rows):
        """Rows as the curvature sees them."""
        rows = self._scaled(rows)
        return TailRows(rows, self.sketch) if self.has_tail else rows @ self.sketch

    def lift(self, array):
        """Vectors (k, n_columns) of the model from those of the curvature."""
        lifted = array if self.has_tail else self.sketch.lift(array)
        return lifted if self.scale is None else lifted * self.scale

    @property
    def sketched_size(self):
        """Columns in the coordinates of the sketch that are not carried through."""
        return self.sketch.size - self.setting.n_carried

    @cached_property
    def penalty(self):
        """Penalty on every column of the curvature."""
        whole = self.has_tail or self.is_exact
        return self._scaled_penalty if whole else self.reduced_penalty

    @property
    def _scaled_penalty(self):
        setting = self.setting
        if self.scale is None:
            return setting.penalty
        return (setting.penalty + setting.damping) * self.scale**2 - setting.damping

    @property
    def reduced_penalty(self):
        """Penalty in the coordinates of the sketch, (size,)."""
        c, d = self.setting.layer_shape
        penalty = self._scaled_penalty
        first = penalty[: c * d].reshape(c, d)[:, 0]
        # One number for each output, or one for all of them.
        each = np.repeat(first, -(-self.sketched_size // c))[: self.sketched_size]
        return np.concatenate([each, penalty[c * d :]])

    @cached_property
    def curvature(self):
        """Curvature of the projected rows."""
        if self.has_tail:
            return self.tail_curvature()
        penalty = self.reduced_penalty
        if self.setting.debias and self.setting.ridge.min() > 0 and not self._is_orthonormal():
            penalty = np.diag(penalty)
            size = self.sketched_size
            penalty[:size, :size] = self._debiased_penalty()
        return SpectralCurvature(self.moment, penalty)

    def tail_curvature(self, *, leveled=True):
        """Curvature with the ridge (and the level of F) outside of an orthonormal sketch."""
        setting, reduced = self.setting, self.reduced_penalty
        roots = self._scaled(setting.roots)
        inside = SpectralCurvature(self.moment, reduced)
        level = np.zeros(setting.layer_shape[0])
        if leveled:
            level = level_outside(roots, self.sketch, setting.layer_shape, setting.seed)
        return TailCurvature(
            roots, self.sketch, inside, self._scaled_penalty, reduced, setting.n_carried, level
        )

    def _debiased_penalty(self):
        ridge = self.reduced_penalty[: self.sketched_size] + self.setting.damping
        moment = self.effective_moment()
        m_A, share = self._parts[1].size, self._parts[1].orthogonal_share
        if len(moment) == m_A:
            own = np.array([[debiased_ridge(np.linalg.eigvalsh(moment), ridge[0], share)]])
        else:
            own = debiased_ridges(moment, ridge[::m_A], share)
        if own is None or not np.linalg.eigvalsh(own)[0] > 0:
            warnings.warn(
                f"debias=True, but a sketch of size {self.sketched_size} adds more than the "
                f"whole ridge of {ridge.mean():.3g} by itself. The scores keep their bias; use "
                "a larger sketch_size or more damping.",
                NumericalWarning,
                stacklevel=6,
            )
            own = np.diag(ridge[::m_A])
        damping = self.setting.damping * np.eye(len(moment))
        return np.kron(own, np.eye(m_A)) - damping

    def effective_moment(self):
        """F on the sketched coordinates once the carried ones are solved for."""
        size = self.sketched_size
        inner, edge = self.moment[:size, :size], self.moment[:size, size:]
        if not edge.size:
            return inner
        corner = self.moment[size:, size:] + np.diag(
            self.reduced_penalty[size:] + self.setting.damping
        )
        return inner - edge @ np.linalg.pinv(corner, hermitian=True) @ edge.T
