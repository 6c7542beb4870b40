"""Objectives of networks: one block of columns for each layer, and an indefinite Hessian."""

from abc import abstractmethod
from functools import cached_property, partial

import numpy as np

from skinfluence._utils.batching import batches, fits_in_memory
from skinfluence._utils.bound import Bound
from skinfluence.models.objectives import Objective
from skinfluence.models.output_vectors import OutputVectors
from skinfluence.rows._streamed import StreamedRows

# Arrays of the size of the outputs that a loss takes to differentiate itself.
N_COPIES = 4

# With more outputs, products with the Gauss-Newton matrix are cheaper than one row for each.
MANY_OUTPUTS = 512

# Samples that are looked at together for any curvature of their losses.
N_LOOKED_AT = 256


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
        n_samples, s, k = vectors.shape
        make = partial(self._make_rows, features, vectors)
        row_bytes = self.bytes_of_rows(s) + 8 * s * k
        return StreamedRows(make, n_samples, s, len(self.theta), row_bytes).made()

    def bytes_of_rows(self, s):
        """Bytes of the factored rows of one sample, s of them."""
        return s * self.sample_bytes

    @cached_property
    def _gradient_rows(self):
        return super().training_gradient_rows()

    def training_gradient_rows(self):
        # One value for a fit, so that a pass through the network serves all that asks for it.
        return self._gradient_rows

    def restricted(self, weight):
        part = super().restricted(weight)
        vars(part).pop("_gradient_rows", None)
        return part

    def _make_rows(self, features, vectors, samples):
        return self.make_rows(features[samples], vectors[samples])

    def pulled_rows(self, vectors_of, features, *arrays):
        n_samples, k = features.shape[0], self.n_outputs
        if fits_in_memory(8 * N_COPIES * n_samples * k):
            return super().pulled_rows(vectors_of, features, *arrays)
        make = partial(self._vectors, vectors_of, features, arrays)
        return self.pullback(features, OutputVectors(make, n_samples))

    def _vectors(self, vectors_of, features, arrays, samples):
        outputs = self.outputs(features[samples])
        return vectors_of(outputs, *(array[samples] for array in arrays))

    @property
    def has_many_outputs(self):
        return self.n_outputs > MANY_OUTPUTS

    def check_curvature(self):
        n_samples = self.features.shape[0]
        few = min(N_LOOKED_AT, batches(N_LOOKED_AT, 8 * N_COPIES * self.n_outputs)[0].stop)
        known = vars(self).get("training_outputs")
        for batch in batches(n_samples, 0, few):
            outputs = self.outputs(self.features[batch]) if known is None else known[batch]
            if self.loss.hessian_diagonal(outputs, self.targets[batch]).any():
                return
        if n_samples:
            raise ValueError(
                "The loss has no curvature in the outputs of the module, so its Gauss-Newton "
                "matrix is 0: scores would be products of gradients alone. So it is for a module "
                "that returns its own loss, and for absolute errors. Use the empirical Fisher: "
                "curvature='empirical_fisher', which KFACInfluence calls fisher='empirical'; or "
                "let the module return logits and give the loss to TorchModel."
            )

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
        k = self.n_outputs
        if curvature == "ggn" and not fits_in_memory(8 * k**2):
            raise ValueError(
                f"The Gauss-Newton matrix has a row for each of the {k} outputs of a sample, and "
                "those of one sample do not fit into the working memory. Use "
                "KFACInfluence(fisher='sampled'), which draws labels, or 'empirical' in place of "
                "'true' or 'ggn'."
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
        if curvature == "empirical_fisher":
            return super().mean_eigenvalue(curvature)
        if not self.has_many_outputs:
            # The trace of the Hessian can be negative; the trace of the GGN gives its scale.
            return super().mean_eigenvalue("ggn")
        rows = self.sampled_factor_rows(np.random.RandomState(0))
        return float(rows.squared_norms().sum() / rows.n_columns)

    def to_parameters(self, coordinates):
        return coordinates[:, self.order]
