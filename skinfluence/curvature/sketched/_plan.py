"""What to sketch, and how.

Conventions
-----------
- Rows have ``c * d`` sketched columns and, after them, ``f`` unsketched columns: unpenalised
  parameters such as intercepts. Rows that do not stay factored have ``c = 1``.
- ``m_E`` and ``m_A`` are the sizes of the sketches of the c outputs and of the d features.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinfluence.rows import KroneckerRows, Rows, SelectedRows
from skinfluence.sketching import SKETCHES, BlockSketch, IdentitySketch, KroneckerSketch


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
        Added to the penalty.
    sketch_kind : type or callable
        A class of `skinfluence.sketching`, or ``sketch_kind(data, size, seed) -> Sketch``.
    seed : int
        Determines the sketches.
    factorized : bool
        Whether features (and outputs) are sketched, or full gradients.
    complement : bool
        Whether the ridge stands for the complement of an orthonormal sketch.
    debias : bool
        Whether the ridge that a random sketch adds is subtracted.
    project_queries : bool
        Whether gradients of queries are projected on the range of F first.
    n_params : int
        Parameters of the model.
    held_out : ndarray of int, default=None
        Samples that a basis is not built from, so that they can judge it.
    max_size : int, default=None
        Most numbers for each row of a size that is found.
    """

    factor_rows: Rows
    penalty: np.ndarray
    damping: float
    sketch_kind: object
    seed: int
    factorized: bool
    complement: bool = True
    debias: bool = False
    project_queries: bool = False
    n_params: int | None = None
    held_out: np.ndarray | None = None
    max_size: int | None = None

    @classmethod
    def of(cls, objective, kind, damping, *, sketch, factorized="auto", debias=False, **settings):
        """Plan for the curvature of an objective.

        Parameters
        ----------
        objective : Objective
            Objective of the fitted model.
        kind : {"hessian", "ggn", "empirical_fisher"}
            Which curvature.
        damping : float
            Added to the eigenvalues of the curvature.
        sketch : str or callable
            Kind of sketch: a name in `SKETCHES`, "auto", or a callable that draws one.
        factorized : {"auto"} or bool, default="auto"
            Whether features are sketched, or full gradients; "auto" where rows are factored.
        debias : bool, default=False
            Whether the ridge that a random sketch adds is subtracted. It is one number for full
            gradients and for the features of a single output.
        **settings
            The other attributes of a plan.

        Raises
        ------
        ValueError
            If ``factorized=True`` but rows are no products, or ``debias=True`` but outputs have
            several ridges.
        """
        factor_rows = objective.factor_rows(kind).summed()
        if factorized is True and not factor_rows.is_factored:
            raise ValueError(
                "factorized=True needs rows that are products of residuals and features. The "
                f"rows of this model are {type(factor_rows).__name__}; use factorized='auto'."
            )
        one_ridge = not factor_rows.is_factored or factor_rows.layer_shape[0] == 1
        if factorized == "auto":
            factorized = factor_rows.is_factored and (one_ridge or not debias)
        if factorized and debias and not one_ridge:
            raise ValueError(
                f"debias=True takes one ridge off the sketch, but each of the "
                f"{factor_rows.layer_shape[0]} outputs of this model has its own where features "
                "are sketched. Use factorized=False, or debias=False."
            )
        if sketch == "auto":
            in_layers = "landmarks" if factor_rows.has_layers else "sjlt"
            sketch = "nystrom" if factorized else in_layers
        sketch = SKETCHES[sketch] if isinstance(sketch, str) else sketch
        penalty = objective.l2_penalty
        settings["n_params"] = objective.n_params
        return cls(
            factor_rows, penalty, damping, sketch, factorized=factorized, debias=debias, **settings
        )

    @property
    def n_unsketched(self):
        """Number of unsketched columns, f, which come last."""
        if self.factor_rows.is_factored:
            return self.factor_rows.n_intercepts
        if self.factor_rows.has_layers:
            # Every layer has biases, which are sketched with the weights: damping gives both a
            # ridge.
            return 0
        # The unpenalised columns at the end, where others have a penalty.
        penalised = np.flatnonzero(self.penalty)
        return len(self.penalty) - 1 - penalised[-1] if len(penalised) else 0

    @property
    def layer_shape(self):
        """Outputs and features, (c, d)."""
        if self.factorized:
            return self.factor_rows.layer_shape
        return 1, self.factor_rows.n_columns - self.n_unsketched

    @property
    def draw(self):
        """Function ``draw(data, size, seed) -> Sketch``."""
        return getattr(self.sketch_kind, "draw", self.sketch_kind)

    @property
    def draws_basis(self):
        """Whether the sketch is an orthonormal basis that is written out."""
        return getattr(self.sketch_kind, "is_written_out", False)

    @property
    def ridge(self):
        """Ridge on every sketched column, (c, d)."""
        c, d = self.layer_shape
        return self.penalty[: c * d].reshape(c, d) + self.damping

    @cached_property
    def features(self):
        """Rows of width d whose Gram matrix is the trace of F over the outputs.

        Without factors they are the sketched rows, scaled to one ridge.
        """
        if not self.factorized:
            return self._sketched_factor_rows
        residual = self.factor_rows.residual
        return self._weighted_features(np.sqrt(np.einsum("nsc,nsc->n", residual, residual)))

    @property
    def _seen_features(self):
        if self.held_out is None:
            return self.features
        seen = np.ones(self.features.n_samples)
        seen[self.held_out] = 0.0
        return self.features.weighted(seen)

    @cached_property
    def bounding_features(self):
        """Rows of width d whose Gram matrix M bounds F: ``F <= I (x) M``.

        ``M = sum_i ||R_i||^2 x_i x_i'``, with the spectral norm of the residuals ``R_i`` of every
        sample. Then ``F^1/2 = K (I (x) M^1/2)`` with ``||K|| <= 1``, and what a sketch of the
        features promises of M at a ridge holds of F at the same ridge. For ``F = E (x) A`` with
        the same residuals everywhere, ``M = ||E|| A``.
        """
        if not self.factorized:
            return self._sketched_factor_rows
        return self._weighted_features(_spectral_norms(self.factor_rows.residual))

    def _weighted_features(self, weight):
        return KroneckerRows(weight[:, None, None], self.factor_rows.activation)

    @property
    def feature_ridge(self):
        """Ridge on the features: the smallest of the outputs, or the one of full gradients."""
        return self.ridge.min() if self.factorized else self.ridge.mean()

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
        if factor_rows.is_factored:
            return KroneckerRows(factor_rows.residual, factor_rows.activation)
        return SelectedRows(factor_rows, np.arange(factor_rows.n_columns - self.n_unsketched))

    def scale_to_one_ridge(self, *, apart):
        """Factors of the columns that make the ridge constant over columns that a sketch mixes.

        Parameters
        ----------
        apart : bool
            Whether the sketch keeps outputs apart.

        Returns
        -------
        ndarray of shape (n_columns,) or None
            None where the ridge is constant already.
        """
        ridge = self.ridge
        spread = np.ptp(ridge, axis=1).max() if apart else np.ptp(ridge)
        if spread <= 1e-12 * ridge.max():
            return None
        if ridge.min() <= 0:
            raise ValueError(
                "Some of the parameters that are sketched together have no penalty and others "
                "have one, so no ridge stands for both. Use damping > 0."
            )
        scale = np.ones(self.factor_rows.n_columns)
        scale[: ridge.size] = np.sqrt(ridge.mean() / ridge).ravel()
        return scale

    def sketch(self, m_A, m_E, features=None):
        """Sketch of all columns, from the sizes for features and outputs.

        Parameters
        ----------
        m_A, m_E : int
            Sizes.
        features : Sketch, default=None
            Sketch of the features of size m_A, where one is known already.
        """
        inner = self.feature_sketch(m_A) if features is None else features
        outputs = self._output_sketch(m_E)
        if inner.is_identity and outputs.is_identity:
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
        return self.draw(self._seen_features, m_A, self.seed)

    def eigenbasis(self):
        """Basis of all d features, by eigenvectors."""
        return self.sketch_kind.of_gram(self._seen_features.moment(), self.seed)

    def _output_sketch(self, m_E):
        c = self.layer_shape[0]
        if m_E >= c:
            return IdentitySketch(c)
        values, vectors = np.linalg.eigh(self.outputs_moment)
        root = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T
        # With the same seed, the sketches of features and outputs would not be independent.
        return self.draw(root, m_E, self.seed + 1)


def _spectral_norms(residual):
    """Spectral norms of matrices (n, s, c), shape (n,)."""
    _, s, c = residual.shape
    transposed = residual.transpose(0, 2, 1)
    gram = residual @ transposed if s < c else transposed @ residual
    return np.sqrt(np.clip(np.linalg.eigvalsh(gram)[:, -1], 0, None))
