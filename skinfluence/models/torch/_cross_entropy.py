"""Cross-entropy of every position of a sample, as torch defines it."""

import numpy as np
from scipy.special import logsumexp, softmax

from skinfluence._utils.validation import column_or_2d
from skinfluence.models.losses import ClassificationLoss


class CrossEntropy(ClassificationLoss):
    """Cross-entropy with class weights, label smoothing and targets to ignore.

    Outputs are scores (n, n_classes, t), flattened, for targets (n, t). With weights ``w`` of the
    classes and smoothing ``e``, position t has the loss ``sum_c a_tc (logsumexp(z_t) - z_tc)``
    with ``a_tc = (1 - e) w_c [c = y_t] + e w_c / n_classes``. The loss of a sample is their sum
    over ``sum_t w_(y_t)``, which is its weight in torch's mean, see `row_weight`.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    class_weight : ndarray of shape (n_classes,), default=None
        Weights of the classes, by default all 1.
    smoothing : float, default=0.0
        Label smoothing, from 0 to 1.
    ignored : int, default=-100
        Target whose position has no loss.
    """

    separable = False

    def __init__(self, n_classes, class_weight=None, smoothing=0.0, ignored=-100):
        self.n_classes = n_classes
        self.class_weight = np.ones(n_classes) if class_weight is None else class_weight
        self.smoothing = smoothing
        self.ignored = ignored

    def encode(self, y, classes):
        y = column_or_2d(y)
        self.check_labels(y)
        return y

    def check_labels(self, y):
        """Raise a ValueError if a target is no class, nor ignored."""
        known = (y == self.ignored) | ((y >= 0) & (y < self.n_classes) & (y == np.round(y)))
        if not known.all():
            raise ValueError(
                f"The cross-entropy expects labels from 0 to {self.n_classes - 1}, or "
                f"{self.ignored} to ignore a position. Got {np.unique(y[~known])[:10].tolist()} "
                "instead."
            )

    def row_weight(self, y):
        """Weight of each sample in the mean, (n,): the weights of the classes that it has."""
        return self._target_weight(y)[0].sum(axis=1)

    def _target_weight(self, y):
        """Weight of the class at every position, 0 where it is ignored, and the classes."""
        kept = y != self.ignored
        codes = np.where(kept, y, 0).astype(int)
        return self.class_weight[codes] * kept, codes

    def _coefficients(self, y):
        """``a`` over the weight of the sample, (n, t, n_classes)."""
        weight, codes = self._target_weight(y)
        smooth = self.smoothing / self.n_classes * self.class_weight
        a = (y != self.ignored)[:, :, None] * smooth
        own = (1 - self.smoothing) * weight
        np.put_along_axis(
            a, codes[:, :, None], np.take_along_axis(a, codes[:, :, None], 2) + own[:, :, None], 2
        )
        total = weight.sum(axis=1)
        return a / np.where(total > 0, total, 1.0)[:, None, None]

    def _scores(self, z):
        """Scores by position, (..., n, t, n_classes)."""
        return np.swapaxes(z.reshape(*z.shape[:-1], self.n_classes, -1), -1, -2)

    def _flat(self, scores):
        return np.swapaxes(scores, -1, -2).reshape(*scores.shape[:-2], -1)

    def _spread(self, z, y):
        """Probabilities (..., n, t, n_classes), and how much each position counts, (n, t)."""
        return softmax(self._scores(z), axis=-1), self._coefficients(y).sum(axis=-1)

    def value(self, z, y):
        scores, a = self._scores(z), self._coefficients(y)
        losses = a.sum(axis=-1) * logsumexp(scores, axis=-1) - (a * scores).sum(axis=-1)
        return losses.sum(axis=-1)

    def residual(self, z, y):
        a = self._coefficients(y)
        p = softmax(self._scores(z), axis=-1)
        return self._flat(a.sum(axis=-1, keepdims=True) * p - a)

    def hessian_product(self, z, y):
        p, total = self._spread(z, y)

        def product(vectors):
            scores = self._scores(vectors)
            scores = scores - (p * scores).sum(axis=-1, keepdims=True)
            return self._flat(total[..., None] * p * scores)

        return product

    def hessian(self, z, y):
        product = self.hessian_product(z, y)
        columns = [product(np.broadcast_to(e, z.shape)) for e in np.eye(z.shape[-1])]
        return np.stack(columns, axis=-1)

    def hessian_diagonal(self, z, y):
        p, total = self._spread(z, y)
        return self._flat(total[..., None] * (p - p**2))

    def hessian_factor(self, z, y):
        # diag(p) - p p' is the sum over c of p_c (e_c - p)(e_c - p)'.
        p, total = self._spread(z, y)
        n, t, c = p.shape
        rows = np.sqrt(total[:, :, None] * p)[..., None] * (np.eye(c) - p[:, :, None])
        factor = np.zeros((n, t, c, c, t))
        for i in range(t):
            factor[:, i, :, :, i] = rows[:, i]
        return factor.reshape(n, t * c, c * t)

    def sampled_factor(self, z, y, random_state):
        # Labels drawn from the model: the gradients p - e_c have the covariance diag(p) - p p'.
        p, total = self._spread(z, y)
        place = random_state.uniform(size=(*p.shape[:2], 1))
        drawn = np.minimum((p.cumsum(axis=-1) < place).sum(axis=-1), self.n_classes - 1)
        rows = p.copy()
        np.put_along_axis(
            rows, drawn[..., None], np.take_along_axis(p, drawn[..., None], 2) - 1, 2
        )
        return self._flat(np.sqrt(total)[..., None] * rows)[:, None]

    def own(self, values):
        # Scores of all classes, or labels: `margin` and `choice` see which by the width.
        return values

    def margin(self, outputs, own=None):
        chosen, counts = self._classes(outputs, own)
        others = np.where(chosen > 0, -np.inf, self._scores(outputs))
        next_best = np.eye(self.n_classes)[others.argmax(axis=-1)]
        return self._flat((chosen - next_best) * counts)

    def choice(self, outputs, own=None):
        chosen, counts = self._classes(outputs, own)
        return self._flat(chosen * counts)

    def _classes(self, outputs, own):
        """The class in question at every position, (n, t, n_classes), and whether it counts."""
        is_label = own.shape[1] < outputs.shape[1]
        labels = own if is_label else self._scores(own).argmax(axis=-1)
        counts = labels != self.ignored if is_label else np.ones(labels.shape, dtype=bool)
        codes = np.where(counts, labels, 0).astype(int)
        return np.eye(self.n_classes)[codes], counts[..., None]
