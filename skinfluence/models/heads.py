"""The head of a fitted model: a linear model on the features that the rest computes."""

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skinfluence.models.linear_objective import LinearObjective
from skinfluence.models.losses import SoftmaxLoss
from skinfluence.models.registry import objective


@dataclass
class Head:
    """The linear head of a model.

    Parameters
    ----------
    objective : LinearObjective
        What the parameters of the head minimise while the featurizer is held fixed.
    layer : str or None
        Name of the head among the layers of the model's objective, None where it is all of it.
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
            Those of the weights, output by output, then those of the intercepts.

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
                "parameters, and do not share those of the head with other layers."
            )
        nothing = np.zeros((1, 1, full.training_outputs.shape[1]))
        sizes = [b.n_columns for b in full.pullback(full.features[:1], nothing).blocks]
        position = full.layers.index(self.layer)
        return sum(sizes[:position]) + np.arange(sizes[position])


class LayerObjective(LinearObjective):
    """The objective of a last layer, in a model whose other layers were fitted with it.

    Parameters
    ----------
    featurize : callable
        What goes into the layer, from features of the model.
    **settings
        Passed on to LinearObjective.
    """

    # In the head alone the curvature may be definite, but the model's is not: directions fixed
    # only by the small penalty carry no information about the model.
    needs_damping = True

    def __init__(self, *, featurize, **settings):
        self.featurize = featurize
        super().__init__(**settings)

    def read(self, features):
        return super().read(self.featurize(features))

    def loss_without(self, classes):
        # The layer is one of a network, which keeps its outputs.
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
        Name of the layer; the last linear one by default.

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
            f"{type(model).__name__} has no linear head that is known. Supported: linear models, "
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
    return Head(linear_head(full, full.hidden, weight, bias, penalty), last)


def check_name(name, known, model):
    """Raise a ValueError if a head has another name than those that are known."""
    if name not in known:
        raise ValueError(
            f"head={name!r} is not found in this {model}. Expected one of "
            f"{', '.join(map(repr, known))}."
        )


def linear_head(full, featurize, weight, bias, penalty):
    """Objective of a last layer whose outputs are those of the model.

    Parameters
    ----------
    full : Objective
        Objective of the model, or of some of its parameters.
    featurize : callable
        What goes into the layer, (n, d), from features of the model.
    weight : ndarray of shape (c, d)
        Weights of the layer.
    bias : ndarray of shape (c,) or (0,)
        Its intercepts, maybe none.
    penalty : ndarray of shape (c * d + len(bias),)
        L2 penalty of the objective on them.

    Returns
    -------
    LayerObjective
    """
    loss, expand = full.loss, None
    ridge = penalty[: weight.size].reshape(weight.shape)[:, 0]
    intercept_ridge = penalty[-1] if len(bias) else 0.0
    if loss.ignores_shifts:
        # A constant that is added to all scores changes nothing: leave it out, so that the
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
