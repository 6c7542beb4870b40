"""The head of a fitted model: a linear model on the features that the rest computes."""

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skinfluence._utils.bound import Bound
from skinfluence.models.linear_objective import LinearObjective
from skinfluence.models.losses import SoftmaxLoss
from skinfluence.models.registry import objective


@dataclass
class Head:
    """The linear head of a model.

    Parameters
    ----------
    objective : LinearObjective
        Objective of the head's parameters while the featurizer stays fixed.
    layer : str or None
        Name of the head among the layers of the model's objective, None where the model is its
        own head.
    """

    objective: LinearObjective
    layer: str | None = None

    def coordinates(self, full):
        """Coordinates of the head in the objective of the full model.

        Parameters
        ----------
        full : Objective
            Objective of the full model.

        Returns
        -------
        ndarray of int
            Coordinates of the weights, output by output, then of the intercepts.

        Raises
        ------
        ValueError
            If the objective has no block of its own for the head.
        """
        if self.layer is None:
            return np.arange(len(full.theta))
        if self.layer not in full.layers:
            raise ValueError(
                f"The parameters of the head {self.layer!r} have no block of their own in the "
                f"objective of the model, whose blocks are {', '.join(full.layers)}. Explain all "
                "parameters, and do not share the head's with other layers."
            )
        nothing = np.zeros((1, 1, full.n_outputs))
        sizes = [b.n_columns for b in full.pullback(full.features[:1], nothing).blocks]
        position = full.layers.index(self.layer)
        return sum(sizes[:position]) + np.arange(sizes[position])


class LayerObjective(LinearObjective):
    """The objective of a last layer that was fitted together with the other layers.

    Parameters
    ----------
    featurize : callable
        Maps features of the model to inputs of the layer.
    **settings
        Passed on to LinearObjective.
    """

    # The head's own curvature may be definite where the model's is not: directions fixed only by
    # the small penalty carry no information about the model.
    needs_damping = True

    def __init__(self, *, featurize, **settings):
        self.featurize = featurize
        super().__init__(**settings)

    def read(self, features):
        return super().read(self.featurize(features))

    def loss_without(self, classes):
        # A network keeps its outputs, and so does its last layer.
        return self.loss

    @property
    def strictly_convex(self):
        return False


@singledispatch
def head(model, X, y, sample_weight, name="auto"):
    """Linear head of a fitted model.

    Register a function for a new class of models with ``head.register(cls)``.

    Parameters
    ----------
    model : estimator
        A fitted model, no wrapper.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Training rows as the model sees them.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : ndarray of shape (n_samples,)
        Weights that the model was fitted with.
    name : str, default="auto"
        Name of the layer; "auto" is the last linear layer.

    Returns
    -------
    Head

    Raises
    ------
    TypeError
        If the model has no linear head, or no function is registered for its class.
    ValueError
        If no layer has that name, or it is not the last one.
    """
    full = objective(model, X, y, sample_weight)
    if not full.is_linear:
        raise TypeError(
            f"{type(model).__name__} has no known linear head. Supported: linear models, "
            "perceptrons, TorchModel and skorch nets with a last linear layer. Register a "
            "function for another class of models with skinfluence.models.head.register."
        )
    check_name(name, ["auto"], type(model).__name__)
    return Head(full)


@head.register(MLPClassifier)
@head.register(MLPRegressor)
def _(model, X, y, sample_weight, name="auto"):
    full = objective(model, X, y, sample_weight)
    check_name(name, ["auto", *full.layers], type(model).__name__)
    last = full.layers[-1]
    if name not in ("auto", last):
        raise ValueError(
            f"The layer {name!r} of this {type(model).__name__} is not its head: its outputs go "
            f"through further layers. Use {last!r}, or head='auto'."
        )
    weight, bias = full.weights[-1], full.biases[-1]
    penalty = full.penalty[-weight.size - len(bias) :]
    return Head(linear_head(full, Bound(full, "hidden"), weight, bias, penalty), last)


def check_name(name, known, model):
    """Raise a ValueError if the name of a head is not among the known ones."""
    if name not in known:
        raise ValueError(
            f"head={name!r} is not found in this {model}. Expected one of "
            f"{', '.join(map(repr, known))}."
        )


def linear_head(full, featurize, weight, bias, penalty):
    """Objective of a last layer, whose outputs are the model's.

    Parameters
    ----------
    full : Objective
        Objective of the model, or of some of its parameters.
    featurize : callable
        Maps features of the model to inputs of the layer, (n, d).
    weight : ndarray of shape (c, d)
        Weights of the layer.
    bias : ndarray of shape (c,) or (0,)
        Intercepts of the layer, maybe none.
    penalty : ndarray of shape (c * d + len(bias),)
        L2 penalty of the objective on weights and intercepts.

    Returns
    -------
    LayerObjective
    """
    loss, expand = full.loss, None
    ridge = penalty[: weight.size].reshape(weight.shape)[:, 0]
    intercept_ridge = penalty[-1] if len(bias) else 0.0
    if loss.ignores_shifts:
        # Adding a constant to all scores changes nothing. Leave that direction out, so that the
        # Hessian is not singular.
        loss = SoftmaxLoss(len(weight))
        expand = loss.contrasts
        weight = expand.T @ weight
        bias = expand.T @ bias if len(bias) else bias
        ridge = ridge[: len(weight)]
    outputs = np.arange(len(weight))
    return LayerObjective(
        featurize=featurize,
        weights=weight,
        intercepts=bias,
        feature_outputs=outputs,
        intercept_outputs=outputs[: len(bias)],
        ridge=ridge,
        intercept_ridge=intercept_ridge,
        expand=expand,
        loss=loss,
        features=featurize(full.features),
        targets=full.targets,
        weighting=full.weighting,
        classes=full.classes,
    )
