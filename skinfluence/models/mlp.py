"""Multi-layer perceptrons of scikit-learn in closed form.

Conventions
-----------
Layer ``l`` computes ``a_l = W_l h_l + b_l`` from ``h_l = phi(a_(l - 1))``, with ``h_0`` the
features; the last ``a_l`` are the raw outputs. scikit-learn's ``coefs_`` are the transposed
``W_l``. Derivatives of ``phi`` are functions of its value ``h``.
"""

import numpy as np
from scipy.special import expit
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skinfluence._utils.batching import batches
from skinfluence._utils.warnings import warn_user
from skinfluence.models import losses
from skinfluence.models.network_objective import NetworkObjective
from skinfluence.models.registry import objective
from skinfluence.models.weighting import Weighting
from skinfluence.rows import BlockRows, KroneckerRows

# phi(a), phi'(a) and phi''(a), the latter two as functions of h = phi(a).
ACTIVATIONS = {
    "identity": (lambda a: a, np.ones_like, np.zeros_like),
    "logistic": (expit, lambda h: h * (1 - h), lambda h: h * (1 - h) * (1 - 2 * h)),
    "tanh": (np.tanh, lambda h: 1 - h**2, lambda h: -2 * h * (1 - h**2)),
    "relu": (lambda a: np.maximum(a, 0), lambda h: 1.0 * (h > 0), np.zeros_like),
}


class MLPObjective(NetworkObjective):
    """Outputs of a perceptron, with coordinates ``[W_0.ravel(), b_0, W_1.ravel(), ...]``.

    Parameters
    ----------
    weights : list of ndarray of shape (c_l, d_l)
        Weights of the layers.
    biases : list of ndarray of shape (c_l,)
        Their biases.
    activation : {"identity", "logistic", "tanh", "relu"}
        Activation function between the layers.
    alpha : float
        L2 penalty of the objective on the weights.
    **settings
        Passed on to Objective.
    """

    def __init__(self, *, weights, biases, activation, alpha, **settings):
        self.weights = weights
        self.biases = biases
        self.activation = activation
        shapes = [w.shape for w in weights]
        penalty = [np.repeat([alpha, 0.0], [c * d, c]) for c, d in shapes]
        super().__init__(
            layers=[f"layer {i}" for i in range(len(weights))],
            order=_own_order(shapes),
            sample_bytes=8 * sum(c + d for c, d in shapes),
            penalty=np.concatenate(penalty),
            l1_gradient=np.zeros(sum(map(len, penalty))),
            theta=np.concatenate(
                [np.append(w.ravel(), b) for w, b in zip(weights, biases, strict=True)]
            ),
            **settings,
        )

    # Functions are looked up by name, so that the objective can be pickled.

    @property
    def phi(self):
        """Activation function between the layers."""
        return ACTIVATIONS[self.activation][0]

    @property
    def derivative_of(self):
        """Derivative of the activation, as a function of its value."""
        return ACTIVATIONS[self.activation][1]

    @property
    def second_derivative_of(self):
        """Second derivative of the activation, as a function of its value."""
        return ACTIVATIONS[self.activation][2]

    def _forward(self, features):
        """Inputs of every layer, and the raw outputs."""
        inputs = []
        h = features
        for weight, bias in zip(self.weights, self.biases, strict=True):
            inputs.append(h)
            a = np.asarray(h @ weight.T) + bias
            h = self.phi(a)
        return inputs, a

    def outputs(self, features):
        return np.concatenate(
            [
                self._forward(features[batch])[1]
                for batch in batches(features.shape[0], self.sample_bytes)
            ]
        )

    def hidden(self, features):
        """Inputs of the last layer, (n, d)."""
        return np.concatenate(
            [
                self._forward(features[batch])[0][-1]
                for batch in batches(features.shape[0], self.sample_bytes)
            ]
        )

    def make_rows(self, features, vectors):
        inputs, _ = self._forward(features)
        delta = np.asarray(vectors)
        blocks = []
        for weight, h in zip(self.weights[::-1], inputs[::-1], strict=True):
            blocks.append(KroneckerRows(delta, h, delta))
            if h is not features:
                delta = (delta @ weight) * self.derivative_of(h)[:, None]
        return BlockRows(blocks[::-1])

    def hessian_product(self, vectors):
        out = np.zeros(np.shape(vectors))
        for batch in batches(self.features.shape[0], 6 * self.sample_bytes):
            state = self._state(batch)
            for vector, row in zip(vectors, out, strict=True):
                row += self._second_derivative(state, self._unflatten(vector))
        return out / self.total_weight

    def _state(self, batch):
        """Inputs, errors and output Hessians of a batch, which all products share."""
        inputs, z = self._forward(self.features[batch])
        targets, weight = self.targets[batch], self.weight[batch]
        second = self.loss.hessian(z, targets)
        if self.loss.separable:
            second = second[:, :, None] * np.eye(second.shape[1])
        deltas = [self.loss.residual(z, targets) * weight[:, None]]
        for layer in range(len(self.weights) - 1, 0, -1):
            back = deltas[0] @ self.weights[layer]
            deltas.insert(0, back * self.derivative_of(inputs[layer]))
        return inputs, deltas, second * weight[:, None, None]

    def _second_derivative(self, state, direction):
        """Derivative of the gradient along a direction (Pearlmutter's R operator)."""
        inputs, deltas, second = state
        *moved_before, moved = self._moved_forward(inputs, direction)
        moved = np.einsum("nab,nb->na", second, moved)
        parts = []
        for layer in range(len(self.weights) - 1, -1, -1):
            h, weight, delta = inputs[layer], self.weights[layer], deltas[layer]
            gradient = np.asarray((h.T @ moved).T)
            if layer:
                gradient += delta.T @ (self.derivative_of(h) * moved_before[layer])
            parts[:0] = [gradient.ravel(), moved.sum(axis=0)]
            if layer:
                turned = (delta @ weight) * self.second_derivative_of(h) * moved_before[layer]
                back = moved @ weight + delta @ direction[layer][0]
                moved = back * self.derivative_of(h) + turned
        return np.concatenate(parts)

    def _moved_forward(self, inputs, direction):
        """Derivatives along a direction of every ``a_l``, the raw outputs z included.

        Entry ``l`` belongs to ``a_(l - 1)``; the first is None, the last belongs to z.
        """
        moved = [None]
        for layer, (weight, bias) in enumerate(direction):
            derivative = np.asarray(inputs[layer] @ weight.T) + bias
            if layer:
                entering = self.derivative_of(inputs[layer]) * moved[layer]
                derivative += entering @ self.weights[layer].T
            moved.append(derivative)
        return moved

    def _unflatten(self, vector):
        edges = np.cumsum([w.size + len(w) for w in self.weights])[:-1]
        return [
            (part[: w.size].reshape(w.shape), part[w.size :])
            for part, w in zip(np.split(vector, edges), self.weights, strict=True)
        ]


def _own_order(shapes):
    """Coordinates in the order of ``coefs_`` and then ``intercepts_``."""
    edges = np.cumsum([c * d + c for c, d in shapes])
    blocks = np.split(np.arange(edges[-1]), edges[:-1])
    pairs = list(zip(blocks, shapes, strict=True))
    coefs = [block[: c * d].reshape(c, d).T.ravel() for block, (c, d) in pairs]
    return np.concatenate([*coefs, *(block[c * d :] for block, (c, d) in pairs)])


def _mlp(model, X, y, loss, weighting, classes=None):
    if getattr(model, "early_stopping", False) and model.solver != "lbfgs":
        warn_user(
            f"{type(model).__name__}(early_stopping=True) held out "
            f"{model.validation_fraction:.0%} of the rows, which never entered its objective. "
            "Influence treats them as training rows; use early_stopping=False.",
            UserWarning,
        )
    alpha, kind = _penalty(model, X.shape[0])
    return MLPObjective(
        weights=[np.asarray(w, dtype=np.float64).T for w in model.coefs_],
        biases=[np.asarray(b, dtype=np.float64) for b in model.intercepts_],
        activation=model.activation,
        alpha=alpha,
        loss=loss,
        features=X,
        targets=loss.encode(y, classes),
        weighting=Weighting(weighting, kind=kind),
        classes=classes,
    )


def _penalty(model, n_samples):
    """Penalty on the weights relative to the sum of the losses, and how it scales."""
    if model.solver == "lbfgs":
        return model.alpha, "sum"
    # Every step divides the same penalty by the size of its batch. On average over the steps of
    # an epoch this equals the penalty alpha * n * mean(1 / size) on the sum of all losses.
    size = min(200, n_samples) if model.batch_size == "auto" else model.batch_size
    size = min(size, n_samples)
    full, rest = divmod(n_samples, size)
    sizes = np.array([size] * full + [rest] * (rest > 0))
    return model.alpha * n_samples * float(np.mean(1 / sizes)), "count"


@objective.register(MLPClassifier)
def _(model, X, y, sample_weight):
    if np.ndim(y) == 2 and np.shape(y)[1] > 1:
        loss, classes = losses.MultilabelLoss(losses.LogisticLoss()), None
    elif len(model.classes_) == 2:
        loss, classes = losses.LogisticLoss(), model.classes_
    else:
        loss, classes = losses.SoftmaxScores(len(model.classes_)), model.classes_
    return _mlp(model, X, y, loss, sample_weight, classes)


@objective.register(MLPRegressor)
def _(model, X, y, sample_weight):
    if getattr(model, "loss", "squared_error") == "poisson":
        return _mlp(model, X, y, losses.HalfTweedieLoss(1.0), sample_weight)
    if model.n_outputs_ > 1:
        warn_user(
            f"MLPRegressor averages the squared errors of its {model.n_outputs_} outputs in its "
            "loss but adds them up in its gradient (scikit-learn issue 8349). Influence is taken "
            "for the sum; the solver 'lbfgs' reaches neither minimum.",
            UserWarning,
        )
    return _mlp(model, X, y, losses.SquaredLoss(factor=0.5), sample_weight)
