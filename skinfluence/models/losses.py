"""Per-sample losses of raw outputs, with their first and second derivatives.

Conventions
-----------
- Raw outputs ``z`` have shape (..., n, k): leading axes stand for several models at once.
- Targets ``y``, as made by ``encode``, have shape (n, t) and broadcast against them.
- ``value`` is (..., n), ``residual = dl/dz`` (..., n, k); ``hessian = d2l/dz2`` is
  (..., n, k) for a loss that is a sum over its outputs (``separable``), else (..., n, k, k).

Losses are terms of the objective, without weights, penalty and constant factors.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.linalg import helmert
from scipy.special import expit, log_expit, logsumexp, xlogy

from skinfluence._utils.validation import column_or_2d, encode_labels
from skinfluence.models.families import Family

# Share of the way to the edge of a domain that a step may go, since the loss ends at the edge.
SHARE_OF_WAY = 0.9


class Loss(ABC):
    """A per-sample loss of raw outputs."""

    separable = True
    quadratic = False

    # Whether outputs are contrasts of the scores of the classes.
    has_contrasts = False

    # Whether adding a constant to all outputs changes nothing.
    ignores_shifts = False

    # Whether outputs are scores of classes.
    classifies = False

    @abstractmethod
    def encode(self, y, classes):
        """Targets as the loss reads them, (n, t) in float64."""

    @abstractmethod
    def value(self, z, y):
        """Loss of each sample."""

    @abstractmethod
    def residual(self, z, y):
        """First derivative with respect to the raw outputs."""

    @abstractmethod
    def hessian(self, z, y):
        """Second derivative with respect to the raw outputs."""

    def terms(self, z, y):
        """Terms of the loss of each sample: one for each output, (..., n, k), or (..., n, 1)."""
        return self.value(z, y)[..., None]

    def hessian_product(self, z, y):
        """Function that multiplies vectors (..., n, k) with the Hessian of each sample."""
        hessian = self.hessian(z, y)
        if self.separable:
            return lambda vectors: hessian * vectors
        return lambda vectors: np.matmul(hessian, vectors[..., None])[..., 0]

    def hessian_diagonal(self, z, y):
        """Diagonal of the Hessian of each sample, (..., n, k)."""
        hessian = self.hessian(z, y)
        return hessian if self.separable else np.einsum("...kk->...k", hessian)

    def hessian_factor(self, z, y):
        """Rows whose outer products add up to the Hessian, (n, s, k).

        Raises
        ------
        ValueError
            If the Hessian of a sample has a negative eigenvalue, so that no such rows exist.
        """
        hessian = self.hessian(z, y)
        if self.separable:
            _check_convex(hessian)
            root = np.sqrt(np.clip(hessian, 0, None))
            return root[..., None] * np.eye(root.shape[-1])
        values, vectors = np.linalg.eigh(hessian)
        _check_convex(values)
        root = np.sqrt(np.clip(values, 0, None))
        return root[..., None] * np.swapaxes(vectors, -1, -2)

    def sampled_factor(self, z, y, random_state):
        """One random row for each sample whose outer product has the mean Hessian, (n, 1, k).

        Raises
        ------
        ValueError
            If the Hessian of a sample has a negative eigenvalue.
        """
        factor = self.hessian_factor(z, y)
        # Independent signs make all cross terms vanish in the mean.
        signs = np.sign(random_state.standard_normal(factor.shape[:2]))
        return np.einsum("ns,nsk->nk", signs, factor)[:, None]

    def third_derivative(self, z, y):
        """Third derivative with respect to one raw output, (..., n, 1).

        None for losses of several outputs, and where it does not exist everywhere.
        """
        return np.zeros_like(z) if self.quadratic and z.shape[-1] == 1 else None

    def squared_residual(self, z, y):
        """``r' h^+ r`` of each sample, for its residual r and its Hessian h, (..., n)."""
        residual, hessian = self.residual(z, y), self.hessian(z, y)
        if self.separable:
            scaled = np.divide(residual, hessian, out=np.zeros_like(residual), where=hessian > 0)
        else:
            scaled = np.matmul(np.linalg.pinv(hessian, hermitian=True), residual[..., None])[
                ..., 0
            ]
        return np.einsum("...k,...k->...", residual, scaled)

    def largest_step(self, z, moves):
        """Largest shares, at most 1, of moves of the outputs that keep the loss finite.

        Parameters
        ----------
        z, moves : ndarray of shape (..., n, k)
            Outputs inside the domain of the loss, and their planned changes.

        Returns
        -------
        ndarray of shape (..., n)
        """
        return np.ones(moves.shape[:-1])

    # Positions of the classes that are left, None for all of them.
    kept = None

    def scores(self, z):
        """What the model's own methods make their predictions of, (..., n, n_scores).

        The outputs themselves, or the scores of the classes of which they are contrasts.
        """
        return z @ self.visible(z.shape[-1]).T

    # Distribution of the targets whose likelihood the loss is, None where there is none.
    family = None

    # What a user sees of the outputs, see `skinfluence.models.responses`.

    def visible(self, k):
        """Matrix (c, k) from raw outputs to those that a user sees."""
        return np.eye(k)

    def log_weights(self, outputs):
        """Logarithms of which probabilities are a softmax, and their derivatives, (n, c) each.

        None where the model has no probabilities with a derivative.
        """
        return None

    def own(self, values):
        """Class of each sample, from visible outputs or from targets; None in a regression."""
        return None

    def mean(self, outputs):
        """Predictions of a regression from its visible outputs."""
        return outputs

    def margin(self, outputs, own=None):
        """Derivative of the prediction under study by the visible outputs, (n, c).

        The prediction is that of a regression (the sum of several), or the margin of a
        classifier, the score of the class ``own`` minus the largest other score.
        """
        return np.ones_like(outputs)

    def choice(self, outputs, own=None):
        """Derivative of the output of the class ``own``, or of the sum of outputs, (n, c)."""
        return np.ones_like(outputs)


def _share_that_stays_positive(z, moves):
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(moves < 0, -SHARE_OF_WAY * z / moves, 1.0)
    return np.clip(share, 0, 1)


def _check_convex(values):
    if values.min(initial=0) < -1e-10 * max(1.0, values.max(initial=0)):
        raise ValueError(
            "The loss of some samples has negative curvature in the outputs, so its Hessian is "
            "no sum of squares. Use ExactInfluence with curvature='hessian' and "
            "solver='direct', or the empirical Fisher: curvature='empirical_fisher', which "
            "KFACInfluence calls fisher='empirical'."
        )


class ClassificationLoss(Loss):
    """A loss of the scores of the classes."""

    classifies = True

    def encode(self, y, classes):
        return encode_labels(y, classes).astype(np.float64)[:, None]

    def of_remaining(self, kept):
        """Loss of the model that scikit-learn fits when only some of the classes have rows.

        Parameters
        ----------
        kept : ndarray of int of shape (n_kept,)
            Positions of the classes that have rows, ascending.

        Returns
        -------
        Loss or None
            Loss of the same outputs with the same penalty, infinite for samples of the other
            classes; None if there is no such model, for example with one class alone.
        """
        return None

    def own(self, values):
        return (values[:, 0] > 0).astype(int) if values.shape[1] == 1 else values.argmax(axis=1)

    def mean(self, outputs):
        raise ValueError(
            "A classifier predicts labels, which have no derivative. Use 'probability', 'output' "
            "or 'loss'."
        )

    def margin(self, outputs, own=None):
        if outputs.shape[1] == 1:
            return np.where(own == 1, 1.0, -1.0)[:, None]
        margin = self.choice(outputs, own)
        next_best = np.where(margin > 0, -np.inf, outputs).argmax(axis=1)
        margin[np.arange(len(outputs)), next_best] = -1.0
        return margin

    def choice(self, outputs, own=None):
        c = outputs.shape[1]
        return np.ones_like(outputs) if c == 1 else np.eye(c)[own]


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
        return y * self.loss_derivative(np.sign(y) * z)

    def hessian(self, z, y):
        return np.abs(y) * self.second_derivative(np.sign(y) * z)

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
        share = np.exp(-np.abs(m))
        return share / (1 + share) ** 2

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


def _times(stack, matrix):
    """``stack @ matrix`` as one product of matrices, faster than one for each model."""
    product = stack.reshape(-1, len(matrix)) @ matrix
    return product.reshape(*stack.shape[:-1], matrix.shape[1])


class SoftmaxLoss(ClassificationLoss):
    """``logsumexp(s) - s_y`` of ``n_classes`` scores, in ``n_classes - 1`` contrasts.

    Adding a constant to all scores does not change the loss. With orthonormal contrasts ``B``
    (columns orthogonal to the constant) the loss is a function of ``z = B's`` alone, so these
    coordinates do not have the direction in which the Hessian is singular.

    Parameters
    ----------
    n_classes : int
        Number of classes, at least 2.
    contrasts : ndarray of shape (n_classes, k), default=None
        Scores from the outputs, ``s = B z``; orthonormal contrasts by default.
    """

    separable = False
    has_contrasts = True

    def __init__(self, n_classes, contrasts=None):
        self.contrasts = helmert(n_classes).T if contrasts is None else contrasts
        self.ignores_shifts = self.contrasts.shape[0] == self.contrasts.shape[1]

    def encode(self, y, classes):
        return 1.0 * (encode_labels(y, classes)[:, None] == np.arange(len(classes)))

    def value(self, z, y):
        scores = z @ self.contrasts.T
        return logsumexp(scores, axis=-1) - (scores * y).sum(axis=-1)

    def residual(self, z, y):
        return _times(self._probabilities(z) - y, self.contrasts)

    def _probabilities(self, z):
        scores = _times(z, self.contrasts.T)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= _times(scores, np.ones((scores.shape[-1], 1)))
        return scores

    def hessian(self, z, y):
        p = self._probabilities(z)
        mean = p @ self.contrasts
        spread = np.einsum("...k,ka,kb->...ab", p, self.contrasts, self.contrasts, optimize=True)
        return spread - mean[..., :, None] * mean[..., None, :]

    def hessian_product(self, z, y):
        p = self._probabilities(z)

        def product(vectors):
            # (diag(p) - p p') s without a matrix for every sample.
            scores = vectors @ self.contrasts.T
            scores -= np.einsum("...k,...k->...", p, scores)[..., None]
            scores *= p
            return scores @ self.contrasts

        return product

    def squared_residual(self, z, y):
        # v' (diag(p) - p p')^+ v = sum_k v_k^2 / p_k for v = p - y, whose sum is 0: 1 / p_y - 1.
        return np.expm1(self.value(z, y))

    def hessian_diagonal(self, z, y):
        p = self._probabilities(z)
        return p @ self.contrasts**2 - (p @ self.contrasts) ** 2

    def visible(self, k):
        return self.contrasts

    def log_weights(self, outputs):
        return outputs, np.ones_like(outputs)

    def of_remaining(self, kept):
        n_classes, k = self.contrasts.shape
        # Only in contrasts does the penalty equal the penalty of the smaller model.
        if len(kept) < 2 or k == n_classes:
            return None
        return _RemainingSoftmax(self.contrasts[kept], kept)


class _RemainingSoftmax(SoftmaxLoss):
    """A softmax of some of the classes.

    Parameters
    ----------
    contrasts : ndarray of shape (n_kept, k)
        Scores of these classes from the outputs.
    kept : ndarray of int of shape (n_kept,)
        Positions of these classes among the targets, at least 2.
    """

    def __init__(self, contrasts, kept):
        # Two scores that differ by w have the penalty |W|^2 = |w|^2 / 2, and a binary model has
        # |w|^2: the penalties agree if its w is 1 / sqrt(2) times as long.
        super().__init__(len(kept), contrasts / np.sqrt(2) if len(kept) == 2 else contrasts)
        self.kept = kept

    def scores(self, z):
        scores = super().scores(z)
        # Two classes have one score, of the second class.
        return scores if len(self.kept) > 2 else scores[..., 1:] - scores[..., :1]

    def value(self, z, y):
        known = y[..., self.kept]
        scores = z @ self.contrasts.T
        values = logsumexp(scores, axis=-1) - (scores * known).sum(axis=-1)
        return np.where(known.any(axis=-1), values, np.inf)

    def residual(self, z, y):
        return super().residual(z, y[..., self.kept])


class SoftmaxScores(SoftmaxLoss):
    """``logsumexp(z) - z_y`` of one output for each class, as networks have them.

    Parameters
    ----------
    n_classes : int
        Number of classes, at least 2.
    """

    def __init__(self, n_classes):
        super().__init__(n_classes, contrasts=np.eye(n_classes))
        self._reduced = SoftmaxLoss(n_classes)

    def hessian_factor(self, z, y):
        # The Hessian is 0 along the constant, so n_classes - 1 rows are enough.
        basis = self._reduced.contrasts
        return self._reduced.hessian_factor(z @ basis, y) @ basis.T


class RegressionLoss(Loss):
    """A loss of real targets, one column for each output."""

    def encode(self, y, classes):
        y = column_or_2d(y)
        self.check_domain(y)
        return y

    def check_domain(self, y):
        """Raise a ValueError if a target lies where the loss is not defined."""

    @staticmethod
    def _total(terms):
        return terms.sum(axis=-1)


@dataclass
class SquaredLoss(RegressionLoss):
    """``factor (y - z)^2``, added over the outputs."""

    factor: float = 1.0
    quadratic = True

    @property
    def family(self):
        return Family(factor=2 * self.factor)

    def value(self, z, y):
        return self._total(self.factor * (y - z) ** 2)

    def residual(self, z, y):
        return 2 * self.factor * (z - y)

    def hessian(self, z, y):
        return np.full(np.broadcast_shapes(z.shape, y.shape), 2 * self.factor)


@dataclass
class SquaredEpsilonInsensitive(RegressionLoss):
    """``max(0, |y - z| - epsilon)^2`` with the generalised Hessian, 2 outside the tube."""

    epsilon: float = 0.0

    def value(self, z, y):
        return self._total(np.maximum(0, np.abs(y - z) - self.epsilon) ** 2)

    def residual(self, z, y):
        return 2 * np.sign(z - y) * np.maximum(0, np.abs(y - z) - self.epsilon)

    def hessian(self, z, y):
        return np.where(np.abs(y - z) > self.epsilon, 2.0, 0.0)


@dataclass
class FixedHuber(RegressionLoss):
    """``(y - z)^2 / 2`` up to ``epsilon``, then linear: the Huber loss of SGDRegressor."""

    epsilon: float = 0.1

    def value(self, z, y):
        size = np.abs(y - z)
        tail = self.epsilon * (size - self.epsilon / 2)
        return self._total(np.where(size <= self.epsilon, size**2 / 2, tail))

    def residual(self, z, y):
        return np.clip(z - y, -self.epsilon, self.epsilon)

    def hessian(self, z, y):
        return np.where(np.abs(y - z) <= self.epsilon, 1.0, 0.0)


@dataclass
class ConcomitantHuber(RegressionLoss):
    """``sigma + sigma rho((y - z) / sigma)`` of the two outputs ``(z, sigma)``.

    ``rho(t)`` is ``t^2`` up to ``epsilon`` and ``2 epsilon |t| - epsilon^2`` beyond: the loss
    of HuberRegressor, in which the scale is a parameter. Jointly convex.
    """

    epsilon: float = 1.35
    separable = False

    def _ratio(self, z, y):
        t = (y[..., 0] - z[..., 0]) / z[..., 1]
        return t, np.abs(t) <= self.epsilon

    def value(self, z, y):
        t, inside = self._ratio(z, y)
        rho = np.where(inside, t**2, 2 * self.epsilon * np.abs(t) - self.epsilon**2)
        # The loss is defined for positive scales, and its formula is unbounded below elsewhere.
        return np.where(z[..., 1] > 0, z[..., 1] * (1 + rho), np.inf)

    def residual(self, z, y):
        t, _ = self._ratio(z, y)
        clipped = np.clip(t, -self.epsilon, self.epsilon)
        return np.stack([-2 * clipped, 1 - clipped**2], axis=-1)

    def hessian(self, z, y):
        t, inside = self._ratio(z, y)
        direction = np.stack([np.ones_like(t), t], axis=-1)
        factor = np.where(inside, 2 / z[..., 1], 0.0)[..., None, None]
        return factor * direction[..., :, None] * direction[..., None, :]

    def largest_step(self, z, moves):
        return _share_that_stays_positive(z[..., 1], moves[..., 1])

    def visible(self, k):
        # The scale is no output.
        return np.array([[1.0, 0.0]])


@dataclass
class HalfTweedieLoss(RegressionLoss):
    """Half the Tweedie deviance of the mean ``mu``, with ``mu = exp(z)`` or ``mu = z``.

    Its Hessian is the observed one: for a Gamma distribution ``y / mu``.
    """

    power: float
    log_link: bool = True

    @property
    def family(self):
        # The canonical link has the derivative mean^power.
        canonical = self.power == (1 if self.log_link else 0)
        variance = None if canonical else lambda mean: mean**self.power
        return Family(variance, scale_is_known=self.power == 1)

    def check_domain(self, y):
        if self.power < 1:
            return
        positive = self.power >= 2
        outside = y <= 0 if positive else y < 0
        if outside.any():
            raise ValueError(
                f"y must be {'positive' if positive else 'non-negative'}: the model has the "
                f"Tweedie deviance of power {self.power:g}{_family(self.power)}, which is not "
                f"defined elsewhere. Got {y[outside][0]:g} among {outside.sum()} such target(s); "
                "leave those rows out, or omit y to get the influence on the prediction."
            )

    def _mean(self, z):
        return np.exp(z) if self.log_link else z

    @property
    def _needs_positive_outputs(self):
        return not self.log_link and self.power != 0

    def value(self, z, y):
        if not self._needs_positive_outputs:
            return self._deviance(z, y)
        # The deviance is defined for positive means.
        inside = z > 0
        deviance = self._deviance(np.where(inside, z, 1.0), y)
        return np.where(inside.all(axis=-1), deviance, np.inf)

    def _deviance(self, z, y):
        mu, p = self._mean(z), self.power
        if p == 0:
            deviance = (y - mu) ** 2
        elif p == 1:
            deviance = 2 * (xlogy(y, y / mu) - y + mu)
        elif p == 2:
            deviance = 2 * (np.log(mu / y) + y / mu - 1)
        else:
            # y^(2 - p) is finite only for y > 0, or for p < 2; only p < 0 allows a negative y.
            own = np.maximum(y, 0) ** (2 - p) / ((1 - p) * (2 - p))
            deviance = 2 * (own - y * mu ** (1 - p) / (1 - p) + mu ** (2 - p) / (2 - p))
        return self._total(deviance / 2)

    def residual(self, z, y):
        mu, p = self._mean(z), self.power
        loss_derivative = (mu - y) * mu ** (-p)
        return loss_derivative * mu if self.log_link else loss_derivative

    def hessian(self, z, y):
        mu, p = self._mean(z), self.power
        if self.log_link:
            return (2 - p) * mu ** (2 - p) + (p - 1) * y * mu ** (1 - p)
        return (1 - p) * mu ** (-p) + p * y * mu ** (-p - 1)

    def third_derivative(self, z, y):
        if z.shape[-1] > 1:
            return None
        mu, p = self._mean(z), self.power
        if self.log_link:
            return (2 - p) ** 2 * mu ** (2 - p) - (p - 1) ** 2 * y * mu ** (1 - p)
        return -p * (1 - p) * mu ** (-p - 1) - p * (p + 1) * y * mu ** (-p - 2)

    def largest_step(self, z, moves):
        if self._needs_positive_outputs:
            return _share_that_stays_positive(z, moves).min(axis=-1)
        return super().largest_step(z, moves)

    def mean(self, outputs):
        return self._mean(outputs)

    def margin(self, outputs, own=None):
        # A user sees the mean, not the raw output.
        return self._mean(outputs) if self.log_link else np.ones_like(outputs)


def _family(power):
    names = {1: "Poisson", 2: "Gamma", 3: "inverse Gaussian"}
    return f" ({names[power]})" if power in names else ""
