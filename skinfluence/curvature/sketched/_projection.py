"""What a sketch makes of rows and of their curvature."""

import warnings
from functools import cached_property

import numpy as np

from skinfluence.curvature import SpectralCurvature
from skinfluence.curvature.sketched._added_ridge import debiased_ridge, debiased_ridges
from skinfluence.curvature.sketched._complement import (
    ComplementCurvature,
    ComplementRows,
    curvature_outside,
)
from skinfluence.exceptions import NumericalWarning
from skinfluence.sketching import BlockSketch, IdentitySketch, KroneckerSketch


class Projection:
    """A plan with a sketch: projected rows and the curvature in their space.

    Parameters
    ----------
    plan : SketchPlan
        What is sketched.
    sketch : Sketch
        Sketch of all columns.
    """

    def __init__(self, plan, sketch):
        self.plan = plan
        self.sketch = sketch
        self.is_exact = isinstance(sketch, IdentitySketch)
        self.scale = None if self.is_exact else self._find_scale()
        # An output that is left out is as curved as those that are kept: no ridge stands for it.
        whole = isinstance(self._parts[0], (IdentitySketch, type(None)))
        self.has_complement = (
            plan.complement and whole and self._is_orthonormal() and plan.ridge.min() > 0
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
        factor_rows = self.plan.factor_rows
        # Factored rows stay small; others are projected batch by batch.
        parts = [slice(None)] if self.plan.factorized else factor_rows.batches()
        moment = np.zeros((self.sketch.size, self.sketch.size))
        for part in parts:
            projected = self._scaled(factor_rows[part]) @ self.sketch
            moment += projected.moment(np.ones(projected.n_samples))
        return moment

    def _scaled(self, rows):
        return rows if self.scale is None else rows.rescaled(self.scale)

    def _find_scale(self):
        apart = isinstance(self._parts[0], IdentitySketch)
        return self.plan.scale_to_one_ridge(apart=apart)

    def project(self, rows):
        """Rows as the curvature sees them."""
        rows = self._scaled(rows)
        return ComplementRows(rows, self.sketch) if self.has_complement else rows @ self.sketch

    def lift(self, array):
        """Vectors (k, n_columns) of the model from those of the curvature."""
        lifted = array if self.has_complement else self.sketch.lift(array)
        return lifted if self.scale is None else lifted * self.scale

    @property
    def sketched_size(self):
        """Columns in the coordinates of the sketch that are not kept as they are."""
        return self.sketch.size - self.plan.n_unsketched

    @cached_property
    def penalty(self):
        """Penalty on every column of the curvature."""
        whole = self.has_complement or self.is_exact
        return self._scaled_penalty if whole else self.reduced_penalty

    @property
    def _scaled_penalty(self):
        plan = self.plan
        if self.scale is None:
            return plan.penalty
        return (plan.penalty + plan.damping) * self.scale**2 - plan.damping

    @property
    def reduced_penalty(self):
        """Penalty in the coordinates of the sketch, (size,)."""
        c, d = self.plan.layer_shape
        penalty = self._scaled_penalty
        first = penalty[: c * d].reshape(c, d)[:, 0]
        # One number for each output, or one for all of them.
        each = np.repeat(first, -(-self.sketched_size // c))[: self.sketched_size]
        return np.concatenate([each, penalty[c * d :]])

    @cached_property
    def curvature(self):
        """Curvature of the projected rows."""
        if self.has_complement:
            return self.complement_curvature()
        penalty = self.reduced_penalty
        if self.plan.debias and self.plan.ridge.min() > 0 and not self._is_orthonormal():
            penalty = np.diag(penalty)
            size = self.sketched_size
            penalty[:size, :size] = self._debiased_penalty()
        return SpectralCurvature(self.moment, penalty)

    def complement_curvature(self, *, with_curvature=True):
        """Curvature with the ridge (and the outside_curvature of F) outside of an orthonormal sketch."""
        plan, reduced = self.plan, self.reduced_penalty
        factor_rows = self._scaled(plan.factor_rows)
        inside = SpectralCurvature(self.moment, reduced)
        outside_curvature = np.zeros(plan.layer_shape[0])
        if with_curvature:
            outside_curvature = curvature_outside(
                factor_rows, self.sketch, plan.layer_shape, plan.seed
            )
        return ComplementCurvature(
            factor_rows,
            self.sketch,
            inside,
            self._scaled_penalty,
            reduced,
            plan.n_unsketched,
            outside_curvature,
        )

    def _debiased_penalty(self):
        ridge = self.reduced_penalty[: self.sketched_size] + self.plan.damping
        moment = self.effective_moment()
        m_A, share = self._parts[1].size, self._parts[1].orthogonal_share
        if len(moment) == m_A:
            own = np.array([[debiased_ridge(np.linalg.eigvalsh(moment), ridge[0], share)]])
        else:
            own = debiased_ridges(moment, ridge[::m_A], share)
        if own is None or not np.linalg.eigvalsh(own)[0] > 0:
            warnings.warn(
                f"debias=True, but a sketch of size {self.sketched_size} adds more than the "
                f"full ridge of {ridge.mean():.3g} by itself. The scores keep their bias; use "
                "a larger sketch_size or more damping.",
                NumericalWarning,
                stacklevel=6,
            )
            own = np.diag(ridge[::m_A])
        damping = self.plan.damping * np.eye(len(moment))
        return np.kron(own, np.eye(m_A)) - damping

    def effective_moment(self):
        """F on the sketched coordinates once the carried ones are solved for."""
        size = self.sketched_size
        inner, edge = self.moment[:size, :size], self.moment[:size, size:]
        if not edge.size:
            return inner
        corner = self.moment[size:, size:] + np.diag(
            self.reduced_penalty[size:] + self.plan.damping
        )
        return inner - edge @ np.linalg.pinv(corner, hermitian=True) @ edge.T
