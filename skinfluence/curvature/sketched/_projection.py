"""Sketched rows, and the curvature in the space of the sketch."""

from copy import copy
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from skinfluence._utils.left_out import LeftOut
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature._space import Space
from skinfluence.curvature._spectral import SpectralCurvature
from skinfluence.curvature.sketched._added_ridge import debiased_ridge
from skinfluence.curvature.sketched._complement import (
    ComplementCurvature,
    curvature_outside,
    error_outside,
)
from skinfluence.curvature.sketched._complement_rows import ComplementRows
from skinfluence.curvature.sketched._range import RangeProjector
from skinfluence.exceptions import NumericalWarning


class Projection(Space):
    """A plan with a sketch: projected rows and the curvature in their space.

    Parameters
    ----------
    plan : SketchPlan
        Plan of the sketch.
    sketch : Sketch
        Sketch of all columns.
    """

    # Sizes that were tried before this one was taken.
    tried_sizes = ()

    def __init__(self, plan, sketch):
        self.plan = plan
        self.sketch = sketch
        outputs, features = sketch.factors
        parts = [part for part in (outputs, features) if part is not None]
        self.is_orthonormal = not sketch.is_identity and all(part.is_basis for part in parts)
        keeps_outputs = outputs is None or outputs.is_identity
        apart = outputs is not None and outputs.is_identity
        self.scale = None if sketch.is_identity else plan.scale_to_one_ridge(apart=apart)
        # Dropped outputs have as much curvature as the others, so a ridge cannot replace them.
        self.has_complement = (
            plan.complement and keeps_outputs and self.is_orthonormal and plan.ridge.min() > 0
        )
        super().__init__(self._full_penalty if self.is_full else self.reduced_penalty)

    @property
    def feature_sketch(self):
        """The sketch of the features."""
        return self.sketch.factors[1]

    @property
    def is_identity(self):
        return self.sketch.is_identity

    @property
    def is_full(self):
        """Whether projected rows have all columns."""
        return self.has_complement or self.sketch.is_identity

    def without_rows(self):
        """The same space for queries alone, which holds nothing of the training rows.

        Raises
        ------
        ValueError
            If projected rows are the rows themselves, or are solved with them.
        """
        inner = self.feature_sketch
        is_own = inner.is_basis and not inner.is_written_out
        if self.is_full or inner.is_identity or is_own or self.plan.project_queries:
            raise ValueError(
                "keep_rows=False needs a sketch that leaves the features out. Expected tail=False "
                "or a random sketch, a sketch_size below the number of features, and neither "
                "sketch='landmarks' nor project_queries=True; else use keep_rows=True."
            )
        bare = copy(self)
        bare.plan = replace(self.plan, factor_rows=LeftOut())
        vars(bare).pop("range", None)
        return bare

    @cached_property
    def range(self):
        """Projector on the range of F."""
        return RangeProjector(self.plan.factor_rows)

    @cached_property
    def moment(self):
        """F in the coordinates of the sketch, (size, size)."""
        factor_rows = self.plan.factor_rows
        # Factored rows stay small; others are projected batch by batch.
        parts = [slice(None)] if self.plan.factorized else factor_rows.batches()
        moment = np.zeros((self.sketch.size, self.sketch.size))
        for part in parts:
            projected = self._scaled(factor_rows[part]) @ self.sketch
            moment += projected.moment()
        return moment

    def _scaled(self, rows):
        return rows if self.scale is None else rows.rescaled(self.scale)

    def project(self, rows):
        rows = self._scaled(rows)
        return ComplementRows(rows, self.sketch) if self.has_complement else rows @ self.sketch

    def project_queries(self, rows):
        return self.project(self.range.project(rows) if self.plan.project_queries else rows)

    def lift(self, array):
        lifted = array if self.has_complement else self.sketch.lift(array)
        return lifted if self.scale is None else lifted * self.scale

    def product(self, multiply):
        if self.scale is None:
            return multiply
        return partial(_scaled_product, multiply, self.scale)

    @property
    def sketched_size(self):
        """Number of sketched columns in the coordinates of the sketch."""
        return self.sketch.size - self.plan.n_unsketched

    @property
    def _full_penalty(self):
        """Penalty on all columns, after they are scaled."""
        plan = self.plan
        if self.scale is None:
            return plan.penalty
        return (plan.penalty + plan.damping) * self.scale**2 - plan.damping

    @property
    def reduced_penalty(self):
        """Penalty in the coordinates of the sketch, (size,)."""
        c, d = self.plan.layer_shape
        penalty = self._full_penalty
        first = penalty[: c * d].reshape(c, d)[:, 0]
        # One number for each output, or one number for all outputs.
        each = np.repeat(first, -(-self.sketched_size // c))[: self.sketched_size]
        return np.concatenate([each, penalty[c * d :]])

    @cached_property
    def curvature(self):
        """Curvature of the projected rows."""
        if self.has_complement:
            return self.complement_curvature()
        penalty = self.reduced_penalty
        if self.plan.debias and self.plan.ridge.min() > 0 and not self.is_orthonormal:
            penalty[: self.sketched_size] = self._debiased_ridge() - self.plan.damping
        return SpectralCurvature(self.moment, penalty)

    @cached_property
    def outside_curvature(self):
        """One number for F outside the basis, for every output, (c,)."""
        factor_rows = self._scaled(self.plan.factor_rows)
        return curvature_outside(factor_rows, self.sketch, self.plan.layer_shape, self.plan.seed)

    def _level(self, with_curvature):
        return self.outside_curvature if with_curvature else np.zeros(self.plan.layer_shape[0])

    def error_outside(self, *, with_curvature=True, enough=np.inf, n_iterations=5):
        """Lower bound of the uniform error of `complement_curvature`, by products alone."""
        plan = self.plan
        (c, d), ridge = plan.layer_shape, self._full_penalty + plan.damping
        return error_outside(
            self._scaled(plan.factor_rows),
            self.sketch,
            ridge[: c * d].reshape(c, d),
            self._level(with_curvature),
            plan.seed,
            enough=enough,
            n_iterations=n_iterations,
        )

    def complement_curvature(self, *, with_curvature=True):
        """Curvature with the ridge, and maybe one number for F, outside the basis."""
        plan, reduced = self.plan, self.reduced_penalty
        factor_rows = self._scaled(plan.factor_rows)
        inside = SpectralCurvature(self.moment, reduced)
        outside_curvature = self._level(with_curvature)
        return ComplementCurvature(
            factor_rows,
            self.sketch,
            inside,
            self._full_penalty,
            reduced,
            plan.n_unsketched,
            outside_curvature,
        )

    def _debiased_ridge(self):
        """The ridge in the sketch that stands for the exact one."""
        ridge = self.reduced_penalty[0] + self.plan.damping
        share = self.feature_sketch.orthogonal_share
        own = debiased_ridge(np.linalg.eigvalsh(self._effective_moment()), ridge, share)
        if own > 0:
            return own
        warn_user(
            f"debias=True, but a sketch of size {self.sketched_size} adds more than the "
            f"full ridge of {ridge:.3g} by itself. The scores keep their bias; use a larger "
            "sketch_size or more damping.",
            NumericalWarning,
        )
        return ridge

    def _effective_moment(self):
        """F on the sketched coordinates once the unsketched coordinates are eliminated."""
        size = self.sketched_size
        inner, edge = self.moment[:size, :size], self.moment[:size, size:]
        corner = self.moment[size:, size:] + np.diag(
            self.reduced_penalty[size:] + self.plan.damping
        )
        return inner - edge @ np.linalg.pinv(corner, hermitian=True) @ edge.T


# A function of the module rather than a closure, so that a fit can be pickled.


def _scaled_product(multiply, scale, vectors):
    return multiply(vectors * scale) * scale
