"""Functionals as functions of a model's raw outputs."""

import numpy as np

from skinfluence.metrics._functionals import Brier, ExpectedCalibrationError, LogLoss, RocAuc
from skinfluence.metrics._group_functionals import GroupGap, WorstGroup
from skinfluence.models.responses import respond

FUNCTIONALS = {
    "log_loss": LogLoss,
    "brier": Brier,
    "roc_auc": RocAuc,
    "expected_calibration_error": ExpectedCalibrationError,
}
OF_GROUPS = {"group_gap": GroupGap, "worst_group": WorstGroup}

# Relative step of a difference, and how far a gradient may be from it: a difference of a function
# with large third derivatives is off by more than its rounding.
STEP = 1e-5
TOLERANCE = 1e-3

# Queries whose outputs are moved one by one.
N_CHECKED = 3


def find_functional(functional, methods=("value", "gradient")):
    """The functional that a user means.

    Parameters
    ----------
    functional : str or object
        A name, or an object with ``value(outputs, y)`` and ``gradient(outputs, y)``.
    methods : tuple of str
        Methods that the object needs.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        If it is no name, and lacks one of the methods.
    ValueError
        If the name is unknown, or stands for a functional with parameters.
    """
    if isinstance(functional, str):
        if functional in OF_GROUPS:
            raise ValueError(
                f"{functional!r} needs the groups of the queries. Hand over "
                f"skinfluence.metrics.{OF_GROUPS[functional].__name__}(groups)."
            )
        if functional not in FUNCTIONALS:
            raise ValueError(
                f"functional must be one of {', '.join(map(repr, FUNCTIONALS))}, or an object "
                f"with the methods {' and '.join(methods)}. Got {functional!r} instead."
            )
        return FUNCTIONALS[functional]()
    if isinstance(functional, type) or not all(hasattr(functional, name) for name in methods):
        raise TypeError(
            f"functional is {functional!r}. Expected a name, or an object with the methods "
            f"{' and '.join(f'{name}(outputs, y)' for name in methods)}."
        )
    return functional


class ModelFunctional:
    """A functional as a function of the raw outputs of a model.

    Parameters
    ----------
    functional : object
        With ``value(outputs, y)``, ``gradient(outputs, y)`` and maybe ``response``.
    loss : Loss
        Loss of the model.
    targets : ndarray of shape (n_queries, t) or None
        Targets of the queries as the loss reads them.
    sample_weight : ndarray of shape (n_queries,), default=None
        Weights of the queries.
    """

    def __init__(self, functional, loss, targets, sample_weight=None):
        self.functional = functional
        self.loss = loss
        self.targets = targets
        self.y = _as_users_know(loss, targets)
        self.weight = {} if sample_weight is None else {"sample_weight": sample_weight}

    def _respond(self, z):
        name = getattr(self.functional, "response", "output")
        return respond(self.loss, name, z, self.targets)

    def value(self, z):
        """Value at raw outputs (n_queries, k)."""
        return float(self._call(self.functional.value, self._respond(z).value))

    def gradient(self, z):
        """Gradient by the raw outputs, (n_queries, k)."""
        response = self._respond(z)
        gradient = np.asarray(self._call(self.functional.gradient, response.value), dtype=float)
        if gradient.shape != response.value.shape:
            raise ValueError(
                f"The gradient of {_name(self.functional)} has the shape {gradient.shape}. "
                f"Expected that of the outputs, {response.value.shape}."
            )
        return response.pull(gradient)

    def _call(self, method, outputs):
        try:
            return method(outputs, self.y, **self.weight)
        except TypeError as error:
            if self.weight and "sample_weight" in str(error):
                raise TypeError(
                    f"{_name(self.functional)} takes no weights of the queries. Leave "
                    "sample_weight out, or let value and gradient take it."
                ) from error
            raise

    def check(self, z, gradient):
        """Raise a ValueError if a gradient is not that of the value, by differences.

        Moved are all outputs together, along a random direction, and those of the queries with
        the largest, the median and the smallest gradient, one query at a time.

        Parameters
        ----------
        z : ndarray of shape (n_queries, k)
            Raw outputs.
        gradient : ndarray of shape (n_queries, k)
            What `gradient` returns there.

        Raises
        ------
        ValueError
            If a difference disagrees with the gradient.
        """
        rng = np.random.default_rng(0)
        size = np.abs(gradient).sum(axis=1)
        order = np.argsort(size, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, N_CHECKED).astype(int))]
        directions = [rng.standard_normal(z.shape)]
        for query in chosen:
            alone = np.zeros_like(z)
            alone[query] = rng.standard_normal(z.shape[1])
            directions.append(alone)
        step = STEP * max(1.0, float(np.abs(z).mean()))
        rounding = np.finfo(float).eps / step * max(1.0, abs(self.value(z)))
        for direction in directions:
            ahead, behind = self.value(z + step * direction), self.value(z - step * direction)
            found, expected = (gradient * direction).sum(), (ahead - behind) / (2 * step)
            allowed = TOLERANCE * (np.abs(gradient * direction).sum() + abs(expected))
            if not abs(found - expected) <= allowed + 10 * rounding:
                raise ValueError(
                    f"The gradient of {_name(self.functional)} disagrees with its value: along a "
                    f"direction of the outputs it gives {found:.6g}, where a difference of the "
                    f"values gives {expected:.6g}. Correct its gradient; a value that jumps or "
                    "has a kink at these outputs has none."
                )


def _as_users_know(loss, targets):
    """Targets, or positions of labels, one-dimensional where there is one for each query."""
    if targets is None:
        return None
    if loss.classifies:
        return loss.own(targets)
    return targets[:, 0] if targets.shape[1] == 1 else targets


def _name(functional):
    return type(functional).__name__
