"""Cross-entropy of every position of a sample, as torch defines it."""

import numpy as np

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
        """The coefficients ``a`` over the weight of the sample, without an array of them.

        Returns
        -------
        codes : ndarray of int of shape (n, t)
            Class at every position.
        own : ndarray of shape (n, t)
            What the class has of ``a`` beyond the smoothing.
        smooth : ndarray of shape (n, t)
            What all classes have, times their weights.
        """
        weight, codes = self._target_weight(y)
        total = weight.sum(axis=1, keepdims=True)
        share = 1 / np.where(total > 0, total, 1.0)
        smooth = (y != self.ignored) * (self.smoothing / self.n_classes) * share
        return codes, (1 - self.smoothing) * weight * share, smooth

    def _counts(self, y):
        """How much each position counts, the sum of ``a`` over the classes, (n, 1, t)."""
        _, own, smooth = self._coefficients(y)
        return (own + smooth * self.class_weight.sum())[:, None]

    def _scores(self, z):
        """Scores by class and position, (..., n, n_classes, t)."""
        return z.reshape(*z.shape[:-1], self.n_classes, -1)

    def _exponentials(self, z):
        """``exp(z - max)`` over the classes, and the maximum, (..., n, 1, t)."""
        scores = self._scores(z)
        largest = scores.max(axis=-2, keepdims=True)
        e = scores - largest
        return np.exp(e, out=e), largest

    def _probabilities(self, z):
        """Probabilities by class and position, (..., n, n_classes, t)."""
        p, _ = self._exponentials(z)
        p /= p.sum(axis=-2, keepdims=True)
        return p

    def value(self, z, y):
        codes, own, smooth = self._coefficients(y)
        e, largest = self._exponentials(z)
        scores = self._scores(z)
        logs = np.log(e.sum(axis=-2)) + largest[..., 0, :]
        counts = self._counts(y)[:, 0]
        losses = counts * logs - own * _taken(scores, codes)
        if self.smoothing:
            losses -= smooth * np.einsum("c,...ct->...t", self.class_weight, scores)
        return losses.sum(axis=-1)

    def residual(self, z, y):
        codes, own, smooth = self._coefficients(y)
        rows = self._probabilities(z)
        rows *= self._counts(y)
        if self.smoothing:
            rows -= self.class_weight[:, None] * smooth[:, None]
        _subtract(rows, codes, own)
        return rows.reshape(z.shape)

    def residual_terms(self, z, y):
        by_position = np.swapaxes(self._scores(self.residual(z, y)), 1, 2)
        n, t, c = by_position.shape
        terms = np.zeros((n, t, c, t))
        terms[:, np.arange(t), :, np.arange(t)] = np.swapaxes(by_position, 0, 1)
        return terms.reshape(n, t, -1)

    def hessian_product(self, z, y):
        p, counts = self._probabilities(z), self._counts(y)

        def product(vectors):
            scores = self._scores(vectors)
            scores = scores - np.einsum("...ct,...ct->...t", p, scores)[..., None, :]
            scores *= p
            scores *= counts
            return scores.reshape(vectors.shape)

        return product

    def hessian(self, z, y):
        product = self.hessian_product(z, y)
        columns = [product(np.broadcast_to(e, z.shape)) for e in np.eye(z.shape[-1])]
        return np.stack(columns, axis=-1)

    def hessian_diagonal(self, z, y):
        p = self._probabilities(z)
        return (self._counts(y) * (p - p**2)).reshape(z.shape)

    def hessian_factor(self, z, y):
        # Positions have a block each, diag(p) - p p', the sum over c of p_c (e_c - p)(e_c - p)'.
        p = np.swapaxes(self._probabilities(z), 1, 2)
        n, t, c = p.shape
        roots = np.sqrt(np.swapaxes(self._counts(y), 1, 2) * p)
        factor = np.zeros((n, t, c, c, t))
        for i in range(t):
            factor[:, i, :, :, i] = roots[:, i, :, None] * (np.eye(c) - p[:, i, None])
        return factor.reshape(n, t * c, c * t)

    def draws(self, n_samples, n_outputs, random_state):
        return random_state.uniform(size=(n_samples, n_outputs // self.n_classes))

    def sampled_factor(self, z, y, draws):
        # Labels drawn from the model: the gradients p - e_c have the covariance diag(p) - p p'.
        rows = self._probabilities(z)
        drawn = (np.cumsum(rows, axis=1) < draws[:, None]).sum(axis=1)
        _subtract(rows, np.minimum(drawn, self.n_classes - 1), np.ones(draws.shape))
        rows *= np.sqrt(self._counts(y))
        return rows.reshape(len(z), 1, -1)

    def own(self, values):
        # Scores of all classes, or labels: `margin` and `choice` see which by the width.
        return values

    def margin(self, outputs, own=None):
        codes, counts = self._classes(outputs, own)
        others = self._scores(outputs).copy()
        _subtract(others, codes, np.full(codes.shape, np.inf))
        chosen = self._one_hot(codes, counts)
        _subtract(chosen, others.argmax(axis=1), counts)
        return chosen.reshape(outputs.shape)

    def choice(self, outputs, own=None):
        return self._one_hot(*self._classes(outputs, own)).reshape(outputs.shape)

    def _classes(self, outputs, own):
        """The class in question at every position, (n, t), and whether it counts, 0 or 1."""
        is_label = own.shape[1] < outputs.shape[1]
        labels = own if is_label else self._scores(own).argmax(axis=1)
        counts = labels != self.ignored if is_label else np.ones(labels.shape, dtype=bool)
        return np.where(counts, labels, 0).astype(int), counts.astype(np.float64)

    def _one_hot(self, codes, values):
        """Values (n, t) at the classes of their positions, (n, n_classes, t)."""
        rows = np.zeros((len(codes), self.n_classes, codes.shape[1]))
        _subtract(rows, codes, -values)
        return rows


def _place(rows, codes):
    """Index of the classes (n, t) in rows (..., n, n_classes, t)."""
    return codes.reshape((1,) * (rows.ndim - 3) + (len(codes), 1, -1))


def _taken(rows, codes):
    """Numbers of the classes (n, t) in rows (..., n, n_classes, t), (..., n, t)."""
    return np.take_along_axis(rows, _place(rows, codes), axis=-2)[..., 0, :]


def _subtract(rows, codes, values):
    """Subtract values (n, t) at the classes (n, t) from rows (..., n, n_classes, t)."""
    left = _taken(rows, codes) - values
    np.put_along_axis(rows, _place(rows, codes), left[..., None, :], axis=-2)
