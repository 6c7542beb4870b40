"""Losses of classifiers with one score for each binary problem: sums of losses of margins."""

import numpy as np
from scipy.special import expit, log_expit

from skinfluence._utils.validation import encode_labels
from skinfluence.models.families import Family
from skinfluence.models.losses._base import Loss
from skinfluence.models.losses._classification import ClassificationLoss


class OneVsRest(ClassificationLoss):
    """A sum over outputs of weights times a loss of the margin ``m = sign(y) z``.

    Binary problems have one output, others one for each class. Targets of training rows are
    signs times the weights of the row in each output, 0 where the row has no weight; targets of
    queries are signs alone.
    """

    def encode(self, y, classes):
        onehot = encode_labels(y, classes)[:, None] == np.arange(len(classes))
        columns = onehot[:, 1:] if len(classes) == 2 else onehot
        return np.where(columns, 1.0, -1.0)

    def value(self, z, y):
        return self.terms(z, y).sum(axis=-1)

    def terms(self, z, y):
        return np.abs(y) * self.of_margin(np.sign(y) * z)

    def residual(self, z, y):
        derivative = self.loss_derivative(np.sign(y) * z)
        derivative *= y
        return derivative

    def hessian(self, z, y):
        second = self.second_derivative(np.sign(y) * z)
        second *= np.abs(y)
        return second

    def of_remaining(self, kept):
        if len(kept) < 2:
            return None
        return _RemainingOneVsRest(self, kept)


class _RemainingOneVsRest(Loss):
    """A one-vs-rest loss of some of the classes, without the outputs of the others.

    Parameters
    ----------
    loss : OneVsRest
        Loss of several classes.
    kept : ndarray of int of shape (n_kept,)
        Positions of the remaining classes, at least 2.
    """

    def __init__(self, loss, kept):
        self.loss = loss
        self.kept = kept
        # Two classes are one problem, with the second class positive.
        self.columns = kept if len(kept) > 2 else kept[1:]

    def encode(self, y, classes):
        return self.loss.encode(y, classes)

    def value(self, z, y):
        known = (y[..., self.kept] > 0).any(axis=-1)
        z, y = z[..., self.columns], y[..., self.columns]
        return np.where(known, self.loss.value(z, y), np.inf)

    def residual(self, z, y):
        return self._on_columns(self.loss.residual(z, y))

    def hessian(self, z, y):
        return self._on_columns(self.loss.hessian(z, y))

    def scores(self, z):
        return z[..., self.columns]

    def _on_columns(self, derivative):
        out = np.zeros_like(derivative)
        out[..., self.columns] = derivative[..., self.columns]
        return out


class LogisticLoss(OneVsRest):
    """``log(1 + exp(-m))``: one logit for two classes, else one for each class.

    The derivative by a weight has the sign that the label gives it only where the feature is not
    0: there it is 0, and Lemma 2 of Kounavis, Dia and Ramazanli, with sign(0) = 1, does not hold.
    """

    family = Family(scale_is_known=True)

    def of_margin(self, m):
        return np.logaddexp(0, -m)

    def loss_derivative(self, m):
        # Several times as fast as expit, and as exact at every size of m.
        with np.errstate(over="ignore"):
            share = np.exp(m)
        share += 1
        return np.divide(-1, share, out=share)

    def second_derivative(self, m):
        # In the same memory: fresh memory costs as much as the exponential.
        share = np.abs(m)
        np.exp(np.negative(share, out=share), out=share)
        total = 1 + share
        total *= total
        return np.divide(share, total, out=share)

    def log_weights(self, outputs):
        return log_expit(outputs), expit(-outputs)

    def third_derivative(self, z, y):
        if z.shape[-1] > 1:
            return None
        p = expit(z)
        return np.abs(y) * p * (1 - p) * (1 - 2 * p)


class SquaredHinge(OneVsRest):
    """``max(0, 1 - m)^2`` with the generalised Hessian, 2 inside the margin."""

    def of_margin(self, m):
        return np.maximum(0, 1 - m) ** 2

    def loss_derivative(self, m):
        return -2 * np.maximum(0, 1 - m)

    def second_derivative(self, m):
        return np.where(m < 1, 2.0, 0.0)


class ModifiedHuber(OneVsRest):
    """``max(0, 1 - m)^2`` where ``m >= -1``, else ``-4 m``."""

    def of_margin(self, m):
        return np.where(m >= -1, np.maximum(0, 1 - m) ** 2, -4 * m)

    def loss_derivative(self, m):
        return np.where(m >= -1, -2 * np.maximum(0, 1 - m), -4.0)

    def second_derivative(self, m):
        return np.where((m >= -1) & (m < 1), 2.0, 0.0)


class SignedSquares(OneVsRest):
    """``(1 - m)^2 = (y - z)^2`` on labels -1 and 1: ridge classification."""

    quadratic = True

    def of_margin(self, m):
        return (1 - m) ** 2

    def loss_derivative(self, m):
        return -2 * (1 - m)

    def second_derivative(self, m):
        return np.full_like(m, 2.0)


class DelegatedLoss(OneVsRest):
    """The loss of the margin of another loss, for other targets.

    Parameters
    ----------
    loss : OneVsRest
        The other loss.
    labels : sequence, default=None
        Labels of which targets are made.
    """

    def __init__(self, loss, labels=None):
        self.loss = loss
        self.labels = labels

    @property
    def quadratic(self):
        """Whether the other loss is quadratic."""
        return self.loss.quadratic

    def of_margin(self, m):
        return self.loss.of_margin(m)

    def loss_derivative(self, m):
        return self.loss.loss_derivative(m)

    def second_derivative(self, m):
        return self.loss.second_derivative(m)


class MultilabelLoss(DelegatedLoss):
    """The loss of a binary classifier for each of several labels, added up.

    Parameters
    ----------
    loss : OneVsRest
        Loss of each label.
    labels : sequence of ndarray of shape (2,), default=None
        The two values of each label, the second one positive. By default targets are 0 and 1.
    """

    def encode(self, y, classes):
        y = np.asarray(y)
        y = y.reshape(len(y), -1)
        labels = [np.array([0, 1])] * y.shape[1] if self.labels is None else self.labels
        if y.shape[1] != len(labels):
            raise ValueError(
                f"y must hold one column for each of the {len(labels)} labels. Got "
                f"{y.shape[1]} column(s) instead."
            )
        codes = [encode_labels(*pair) for pair in zip(y.T, labels, strict=True)]
        return 2.0 * np.column_stack(codes) - 1.0

    def own(self, values):
        return np.where(values > 0, 1.0, -1.0)

    def margin(self, outputs, own=None):
        # Every label is predicted by the sign of its output.
        return own

    def choice(self, outputs, own=None):
        return np.ones_like(outputs)


class PairwiseLoss(DelegatedLoss):
    """The loss of a binary classifier, summed over the pairs that include the row's class.

    Parameters
    ----------
    loss : OneVsRest
        Loss of each pair.
    labels : ndarray of shape (n_classes,)
        The classes; pairs ``(i, j)`` with ``i < j`` are in lexicographic order, j positive.
    """

    def encode(self, y, classes):
        codes = encode_labels(y, self.labels)[:, None]
        first, second = np.triu_indices(len(self.labels), 1)
        return 1.0 * (codes == second) - (codes == first)

    def own(self, values):
        raise ValueError(
            "OneVsOneClassifier predicts by the votes of its pairs, which have no derivative. "
            "Give y, for influence on the loss."
        )
