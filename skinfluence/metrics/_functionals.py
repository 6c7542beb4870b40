"""Numbers that are computed from the outputs of all queries, with their gradients.

Conventions
-----------
- ``outputs`` (n_queries, c) are the response that the functional names; ``y`` are targets, or the
  positions of labels in ``classes_``.
- Weights ``v_t`` of the queries add up to 1.
"""

from abc import ABC, abstractmethod

import numpy as np
from scipy.special import expit

from skinfluence._utils.batching import batches


class Functional(ABC):
    """A number computed from the outputs of all queries, and its gradient.

    A functional of one's own need not be a subclass: the two methods suffice, and the attribute
    ``response`` where it reads something else than "output".

    Attributes
    ----------
    response : {"output", "probability", "score", "prediction", "loss", "auto"}
        What it reads of each query. "output": what ``decision_function`` or the linear predictor
        gives, one column for two classes, else one for each class or target. "probability": one
        column for each class. "score": log-odds of the probabilities, one column for two
        classes; outputs where a model has no probabilities. "prediction": of a regression.
        "loss": the loss of each query, one column. "auto": the probabilities of a classifier,
        its outputs where it has none, or the predictions of a regression.
    """

    response = "output"

    @abstractmethod
    def _value_and_gradient(self, outputs, y, weight):
        """Value, and gradient (n_queries, c), for weights that add up to 1."""

    def value(self, outputs, y, sample_weight=None):
        """Value of the functional.

        Parameters
        ----------
        outputs : array-like of shape (n_queries, c)
            Response of the model to the queries.
        y : array-like of shape (n_queries,)
            Targets, or positions of the labels in ``classes_``.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries.

        Returns
        -------
        float
            The number.
        """
        return float(self._value_and_gradient(*_read(outputs, y, sample_weight))[0])

    def gradient(self, outputs, y, sample_weight=None):
        """Gradient by the outputs.

        Parameters
        ----------
        outputs : array-like of shape (n_queries, c)
            Response of the model to the queries.
        y : array-like of shape (n_queries,)
            Targets, or positions of the labels in ``classes_``.
        sample_weight : array-like of shape (n_queries,), default=None
            Weights of the queries.

        Returns
        -------
        ndarray of shape (n_queries, c)
            Derivatives of the number.
        """
        return self._value_and_gradient(*_read(outputs, y, sample_weight))[1]


def _read(outputs, y, sample_weight):
    outputs = np.asarray(outputs, dtype=np.float64)
    weight = np.ones(len(outputs)) if sample_weight is None else np.asarray(sample_weight)
    return outputs, y if y is None else np.asarray(y), weight / weight.sum()


class LogLoss(Functional):
    """Mean negative log probability of the classes in y, as `sklearn.metrics.log_loss`.

    Examples
    --------
    >>> from skinfluence.metrics import LogLoss
    >>> round(LogLoss().value([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
    0.4904
    """

    response = "probability"

    def _value_and_gradient(self, outputs, y, weight):
        own = _indicators(outputs, y)
        p = np.maximum((outputs * own).sum(axis=1), np.finfo(float).eps)
        return -weight @ np.log(p), -own * (weight / p)[:, None]


class Brier(Functional):
    """Mean squared error of the probabilities: of the second of two classes, else their sum.

    Examples
    --------
    >>> from skinfluence.metrics import Brier
    >>> Brier().value([[0.5, 0.5], [0.25, 0.75]], [0, 1])
    0.15625
    """

    response = "probability"

    def _value_and_gradient(self, outputs, y, weight):
        error = outputs - _indicators(outputs, y)
        # Both columns of two classes have the same error.
        weight = weight / 2 if error.shape[1] == 2 else weight
        return weight @ (error**2).sum(axis=1), 2 * weight[:, None] * error


class RocAuc(Functional):
    """Area under the ROC curve, by its pairwise logistic surrogate.

    The area is the share of pairs of a query of the class and one of another whose scores are in
    the right order. A share has no derivative, so here a pair counts
    ``1 / (1 + exp(-(s_i - s_j) / width))`` instead of 0 or 1. Several classes: the mean over the
    classes of the area of each against the rest. The scores are log-odds, or outputs where a
    model has no probabilities.

    Parameters
    ----------
    width : float, default=0.1
        Difference of scores at which a pair counts 0.73. The smaller, the nearer is the
        surrogate to the area, and the fewer pairs decide its gradient.

    References
    ----------
    Yan, Dodier, Mozer and Wolniewicz, *Optimizing Classifier Performance via an Approximation to
    the Wilcoxon-Mann-Whitney Statistic*, 2003.

    Examples
    --------
    The positive query is far above one of the others and equal to the second.

    >>> from skinfluence.metrics import RocAuc
    >>> round(RocAuc().value([[-9.0], [1.0], [1.0]], [0, 0, 1]), 6)
    0.75
    """

    response = "score"

    def __init__(self, width=0.1):
        self.width = width

    def _value_and_gradient(self, outputs, y, weight):
        _require_labels(y)
        classes = [1] if outputs.shape[1] == 1 else range(outputs.shape[1])
        value, gradient = 0.0, np.zeros_like(outputs)
        for column, own in enumerate(classes):
            area, gradient[:, column] = self._one_class(outputs[:, column], y == own, weight)
            value += area
        return value / len(classes), gradient / len(classes)

    def _one_class(self, scores, positive, weight):
        if not (weight[positive].any() and weight[~positive].any()):
            raise ValueError(
                "The area under the ROC curve needs queries of every class and of others. Got "
                f"{positive.sum()} of {len(positive)} queries of one class."
            )
        below, above = scores[~positive], scores[positive]
        under, over = weight[~positive], weight[positive]
        pairs = under.sum() * over.sum()
        value, of_above, of_below = 0.0, np.empty_like(above), np.zeros_like(below)
        for part in batches(len(above), 8 * 4 * len(below)):
            order = expit((above[part, None] - below) / self.width)
            value += over[part] @ order @ under
            density = order * (1 - order) / self.width
            of_above[part] = over[part] * (density @ under)
            of_below -= under * (over[part] @ density)
        gradient = np.empty_like(scores)
        gradient[positive], gradient[~positive] = of_above, of_below
        return float(value / pairs), gradient / pairs


class ExpectedCalibrationError(Functional):
    """Expected calibration error of the probabilities of each class, smoothed.

    With sharp bins, ``sum_b |sum_{t in b} v_t (p_t - 1(y_t = class))|``: the difference between
    the mean probability and the frequency of the class in each bin of probabilities, weighted by
    the bin. It jumps where a probability passes the edge of a bin, so here a query belongs to all
    bins, with shares that fall like a Gaussian of the distance of its probability to the middle
    of the bin, half a bin wide; and ``|x|`` is ``sqrt(x^2 + rounding^2)``. Two classes: of the
    second; else the mean over the classes (class-wise calibration, which unlike that of the
    predicted class does not jump with a prediction).

    Parameters
    ----------
    n_bins : int, default=10
        Number of bins of equal width.
    rounding : float, default=1e-3
        How far from 0 the absolute value is rounded.

    References
    ----------
    Kull et al., *Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities
    with Dirichlet calibration*, 2019 (class-wise). Karandikar et al., *Soft Calibration
    Objectives for Neural Networks*, 2021 (soft bins).

    Examples
    --------
    Half of the queries with probability 0.75 are of the class.

    >>> from skinfluence.metrics import ExpectedCalibrationError
    >>> p = [[0.25, 0.75]] * 4
    >>> round(ExpectedCalibrationError(rounding=0.0).value(p, [0, 0, 1, 1]), 4)
    0.25
    """

    response = "probability"

    def __init__(self, n_bins=10, *, rounding=1e-3):
        self.n_bins = n_bins
        self.rounding = rounding

    def _value_and_gradient(self, outputs, y, weight):
        own = _indicators(outputs, y)
        classes = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
        value, gradient = 0.0, np.zeros_like(outputs)
        for code in classes:
            error, gradient[:, code] = self._one_class(outputs[:, code], own[:, code], weight)
            value += error
        return value / len(classes), gradient / len(classes)

    def _one_class(self, p, own, weight):
        middles = (np.arange(self.n_bins) + 0.5) / self.n_bins
        distance = 2 * self.n_bins * (p[:, None] - middles)
        member = np.exp(-0.5 * (distance**2 - (distance**2).min(axis=1, keepdims=True)))
        member /= member.sum(axis=1, keepdims=True)
        # d log(member) / dp, without the part that all bins share.
        slope = -2 * self.n_bins * distance
        slope -= (member * slope).sum(axis=1, keepdims=True)
        excess = weight * (p - own)
        gaps = excess @ member
        size = np.sqrt(gaps**2 + self.rounding**2)
        sign = np.divide(gaps, size, out=np.zeros_like(gaps), where=size > 0)
        gradient = weight * (member @ sign) + excess * ((member * slope) @ sign)
        return float((size - self.rounding).sum()), gradient


def _require_labels(y):
    if y is None:
        raise ValueError("y is None. Expected the labels of the queries.")
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise ValueError(
            "This number needs one label for each query, by its position among the classes. Got "
            f"an array of shape {y.shape} and dtype {y.dtype}: targets of a regression, or "
            "several labels."
        )


def _indicators(outputs, y):
    _require_labels(y)
    return 1.0 * (y[:, None] == np.arange(outputs.shape[1]))
