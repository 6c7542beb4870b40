"""The objective of a torch module."""

import numpy as np
import torch

from skinfluence._utils.bound import Bound
from skinfluence.models.network_objective import NetworkObjective
from skinfluence.models.torch._measurements import measurement_gradient
from skinfluence.models.torch._network import to_array
from skinfluence.models.torch._probe import check_rows, probe
from skinfluence.models.torch._rows import ModuleRows
from skinfluence.models.torch._tape import pulled_back


class TorchObjective(NetworkObjective):
    """The mean loss of a module, with an L2 penalty on its parameters.

    Parameters
    ----------
    network : Network
        The module.
    l2 : ndarray of shape (n_params,)
        Penalty of the mean objective on every parameter, in the module's own order.
    measurement : int, (int, int) or callable, default=None
        What a query asks without targets, see `TorchModel`.
    features, weighting, **settings
        Passed on to Objective.
    """

    def __init__(self, *, network, l2, features, weighting, measurement=None, **settings):
        self.measurement = measurement
        self.network, outputs = probe(network, features)
        network = self.network
        order = network.order
        theta, penalty = np.empty(len(order)), np.empty(len(order))
        theta[order] = network.theta
        # The objective is a mean: as a sum, its penalty is multiplied by the sum of the weights.
        penalty[order] = l2 * weighting.weight.sum()
        super().__init__(
            layers=network.names,
            order=order,
            sample_bytes=network.row_bytes(1),
            features=features,
            weighting=weighting,
            theta=theta,
            penalty=penalty,
            l1_gradient=np.zeros(len(order)),
            **settings,
        )
        if outputs is not None:
            # Known already: no pass through the network is needed for them.
            self.training_outputs = outputs

    @property
    def has_measurement(self):
        return self.measurement is not None

    def outputs(self, features):
        return self.network.outputs(features)

    def rows_of(self, features, of, targets=None):
        if of != "margin" or targets is not None or self.measurement is None:
            return super().rows_of(features, of, targets)
        # A target for every output belongs to one position.
        several = self.loss.classifies and 1 < self.targets.shape[1] < self.n_outputs
        if several and not callable(self.measurement):
            raise ValueError(
                f"measurement={self.measurement!r} names a class, but a sample has classes at "
                f"{self.targets.shape[1]} positions. Give a function of the outputs (n, "
                f"{self.n_outputs}), which are classes by positions, that returns one number for "
                "each sample."
            )
        gradient = measurement_gradient(self.measurement, self.outputs(features))
        return self.pullback(features, gradient[:, None, :])

    def describe_block(self, position):
        return self.network.describe_block(position)

    def pullback(self, features, vectors):
        if features is not self.features:
            # The training rows were checked when the objective was made.
            check_rows(self.network, features)
        return super().pullback(features, vectors)

    def bytes_of_rows(self, s):
        return self.network.row_bytes(s)

    def make_rows(self, features, vectors):
        return ModuleRows(self.network, features, vectors)

    def hessian_product(self, vectors):
        return self._product(vectors, self.loss.residual)

    def curvature_product(self, curvature):
        if curvature == "ggn" and self.has_many_outputs:
            return Bound(self, "gauss_newton_product")
        return super().curvature_product(curvature)

    def gauss_newton_product(self, vectors):
        """Products of vectors (m, n_coordinates) with the Gauss-Newton matrix."""
        # Without residuals, the Hessian has no other part.
        return self._product(vectors, lambda z, y: np.zeros_like(z))

    def _product(self, vectors, residual):
        """Products of vectors (m, n_coordinates) with the Hessian, for a residual of the loss."""
        network = self.network.in_double()
        own = np.asarray(vectors)[:, self.order]
        total = np.zeros_like(own)
        for samples in network.chunks(self.features.shape[0]):
            total += self._chunk_product(network, samples, own, residual)
        out = np.empty_like(total)
        out[:, self.order] = total
        return out / self.total_weight

    def _chunk_product(self, network, samples, vectors, residual):
        targets, weight = self.targets[samples], self.weight[samples, None]
        z = network(network.inputs(self.features[samples]))
        at = to_array(z).astype(np.float64)
        second = self.loss.hessian_product(at, targets)
        # The Taylor polynomial of second order in the outputs has the gradient and Hessian of
        # the loss, so torch needs to know no loss: NumPy's derivatives are enough.
        step = z - z.detach()
        quadratic = (_SymmetricProduct.apply(step, second, weight) * step).sum() / 2
        loss = (network.tensor(residual(at, targets) * weight) * step).sum() + quadratic
        chosen = list(network.selected.values())
        gradients = torch.autograd.grad(loss, chosen, create_graph=True, materialize_grads=True)
        flat = torch.cat([g.flatten() for g in gradients])
        if not flat.requires_grad:
            return np.zeros_like(vectors)
        rows = [_backward(flat, chosen, network.tensor(v)) for v in vectors]
        return np.stack(rows).astype(np.float64)


class _SymmetricProduct(torch.autograd.Function):
    """``weight * product(x)`` for a product of NumPy with symmetric matrices, its own gradient."""

    @staticmethod
    def forward(ctx, x, product, weight):
        ctx.product, ctx.weight = product, weight
        found = weight * product(to_array(x).astype(np.float64))
        return torch.as_tensor(found).to(x)

    @staticmethod
    def backward(ctx, gradient):
        return _SymmetricProduct.apply(gradient, ctx.product, ctx.weight), None, None


def _backward(flat, chosen, vector):
    return np.concatenate([to_array(p).ravel() for p in pulled_back(flat, chosen, vector)])
