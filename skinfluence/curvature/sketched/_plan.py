"""What is to be sketched, and what a sketch makes of it.

Conventions
-----------
- Rows have ``c * d`` columns that are sketched and, after them, ``f`` that are carried
  through: unpenalised parameters such as intercepts. Rows that do not stay factored have ``c = 1``.
- ``m_E`` and ``m_A`` are the sizes of the sketches of the c outputs and of the d features.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinfluence.rows import KroneckerRows, Rows, SelectedRows
from skinfluence.sketching import BlockSketch, IdentitySketch, KroneckerSketch, NystromSketch


@dataclass
class SketchPlan:
    """A curvature and the kind of sketch for it.

    Parameters
    ----------
    factor_rows : Rows
        Rows ``C`` with ``C'C = F``.
    penalty : ndarray of shape (n_columns,)
        Penalty of the mean objective on every column.
    damping : float
        What is added to it.
    draw : callable
        ``draw(data, size, seed) -> Sketch``.
    seed : int
        Determines the sketches.
    factorized : bool
        Whether features (and outputs) are sketched, or full gradients.
    complement : bool
        Whether the ridge stands for what an orthonormal sketch leaves out.
    debias : bool
        Whether the ridge that a random sketch adds is taken off.
    """

    factor_rows: Rows
    penalty: np.ndarray
    damping: float
    draw: callable
    seed: int
    factorized: bool
    complement: bool
    debias: bool

    @property
    def n_unsketched(self):
        """f, the last columns."""
        if isinstance(self.factor_rows, KroneckerRows):
            return self.factor_rows.intercept_columns.shape[2]
        if self.factor_rows.has_layers:
            # Every layer has its biases: damping makes one ridge of theirs and of the others.
            return 0
        # Unpenalised last columns, where others have a penalty.
        penalised = np.flatnonzero(self.penalty)
        return len(self.penalty) - 1 - penalised[-1] if len(penalised) else 0

    @property
    def layer_shape(self):
        """c and d."""
        if self.factorized:
            return self.factor_rows.layer_shape
        return 1, self.factor_rows.n_columns - self.n_unsketched

    @property
    def draws_basis(self):
        """Whether the kind of sketch is an orthonormal basis, which is held."""
        return self.draw == NystromSketch.draw

    @property
    def ridge(self):
        """Ridge on every sketched column, (c, d)."""
        c, d = self.layer_shape
        return self.penalty[: c * d].reshape(c, d) + self.damping

    @cached_property
    def features(self):
        """Rows of width d whose Gram matrix is the trace of F over the outputs.

        Without factors they are the rows that are sketched, scaled to one ridge.
        """
        if not self.factorized:
            return self._sketched_factor_rows
        weight = np.sqrt(
            np.einsum("nsc,nsc->n", self.factor_rows.residual, self.factor_rows.residual)
        )
        return KroneckerRows(weight[:, None, None], self.factor_rows.activation)

    @cached_property
    def outputs_moment(self):
        """E, the sum of the outer products of the residuals, (c, c)."""
        residual = self.factor_rows.residual.reshape(-1, self.layer_shape[0])
        return residual.T @ residual

    @property
    def _sketched_factor_rows(self):
        scale = self.scale_to_one_ridge(apart=False)
        factor_rows = self.factor_rows if scale is None else self.factor_rows.rescaled(scale)
        if not self.n_unsketched:
            return factor_rows
        if isinstance(factor_rows, KroneckerRows):
            return KroneckerRows(factor_rows.residual, factor_rows.activation)
        return SelectedRows(factor_rows, np.arange(factor_rows.n_columns - self.n_unsketched))

    def scale_to_one_ridge(self, *, apart):
        """Factors of the columns that make the ridge one number where a sketch mixes it.

        Parameters
        ----------
        apart : bool
            Whether outputs are not mixed with each other.

        Returns
        -------
        ndarray of shape (n_columns,) or None
            None where the ridge is one number already.
        """
        ridge = self.ridge
        spread = np.ptp(ridge, axis=1).max() if apart else np.ptp(ridge)
        if spread <= 1e-12 * ridge.max():
            return None
        if ridge.min() <= 0:
            raise ValueError(
                "Some of the parameters that are sketched together have no penalty and others "
                "have one, so that no ridge stands for both. Use damping > 0."
            )
        scale = np.ones(self.factor_rows.n_columns)
        scale[: ridge.size] = np.sqrt(ridge.mean() / ridge).ravel()
        return scale

    def sketch(self, m_A, m_E):
        """Sketch of all columns from sizes for the features and for the outputs."""
        inner = self.feature_sketch(m_A)
        outputs = self._output_sketch(m_E)
        if all(isinstance(part, IdentitySketch) for part in (inner, outputs)):
            return IdentitySketch(self.factor_rows.n_columns)
        if self.factorized:
            inner = KroneckerSketch(outputs, inner)
        if not self.n_unsketched:
            return inner
        return BlockSketch([inner, IdentitySketch(self.n_unsketched)])

    def feature_sketch(self, m_A):
        """Sketch of the d features."""
        d = self.layer_shape[1]
        if m_A >= d:
            return IdentitySketch(d)
        return self.draw(self.features, m_A, self.seed)

    def _output_sketch(self, m_E):
        c = self.layer_shape[0]
        if m_E >= c:
            return IdentitySketch(c)
        values, vectors = np.linalg.eigh(self.outputs_moment)
        root = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T
        # Factors of one seed would not be independent.
        return self.draw(root, m_E, self.seed + 1)
