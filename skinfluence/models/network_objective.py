"""Objectives of networks: one block of columns for each layer, and an indefinite Hessian."""

from abc import abstractmethod
from functools import partial

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence._utils.bound import Bound
from skinfluence.models.objectives import Objective
from skinfluence.rows._streamed import StreamedRows


class NetworkObjective(Objective):
    """The objective of a network whose layers are blocks of columns.

    Need to be defined: ``outputs``, ``make_rows``, ``hessian_product``.

    Parameters
    ----------
    layers : list of str
        Names of the layers, one for each block of columns.
    order : ndarray of int of shape (n_params,)
        Coordinate of each parameter of the model's own layout.
    sample_bytes : int
        Bytes of the factored rows of one sample, a single row.
    **settings
        Passed on to Objective.
    """

    needs_damping = True

    def __init__(self, *, layers, order, sample_bytes, **settings):
        super().__init__(n_params=len(order), **settings)
        self.layers = layers
        self.order = order
        self.sample_bytes = sample_bytes

    @abstractmethod
    def make_rows(self, features, vectors):
        """BlockRows ``J_i' v_ij``, with one block for each layer."""

    @abstractmethod
    def hessian_product(self, vectors):
        """Products of vectors (m, n_coordinates) with the Hessian of the mean loss."""

    def pullback(self, features, vectors):
        n_samples, s = vectors.shape[:2]
        make = partial(self._make_rows, features, vectors)
        rows = StreamedRows(make, n_samples, s, len(self.theta), s * self.sample_bytes)
        # Rows that fit into the working memory are computed once.
        return rows if len(rows.batches()) > 1 else make(slice(None))

    def _make_rows(self, features, vectors, samples):
        return self.make_rows(features[samples], vectors[samples])

    def checked_factor(self, factor):
        if factor.size and not factor.any():
            raise ValueError(
                "The loss has no curvature in the outputs of the module, so its Gauss-Newton "
                "matrix is 0: scores would be products of gradients alone. So it is for a module "
                "that returns its own loss, and for absolute errors. Use the empirical Fisher: "
                "curvature='empirical_fisher', which KFACInfluence calls fisher='empirical'; or "
                "let the module return logits and give the loss to TorchModel."
            )
        return factor

    def describe_block(self, position):
        return self.layers[position]

    def has_factor_rows(self, curvature):
        return curvature != "hessian"

    def factor_rows(self, curvature):
        if not self.has_factor_rows(curvature):
            raise ValueError(
                "The Hessian of a network has negative eigenvalues, so it is no sum of outer "
                "products of rows. Use curvature='ggn' or 'empirical_fisher', or "
                "solver='direct' or 'cg' with enough damping."
            )
        return super().factor_rows(curvature)

    def curvature_product(self, curvature):
        if curvature == "hessian":
            return Bound(self, "hessian_product")
        return super().curvature_product(curvature)

    def hessian(self, curvature):
        if curvature != "hessian":
            return super().hessian(curvature)
        p = len(self.theta)
        matrix = np.concatenate(
            [self.hessian_product(np.eye(p)[batch]) for batch in batches(p, 8 * p)]
        )
        return np.arange(p)[None], (matrix + matrix.T)[None] / 2

    def mean_eigenvalue(self, curvature):
        # The trace of the Hessian can be negative; the trace of the GGN gives its scale.
        return super().mean_eigenvalue("ggn" if curvature == "hessian" else curvature)

    def to_parameters(self, coordinates):
        return coordinates[:, self.order]
