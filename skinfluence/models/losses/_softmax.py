"""The softmax loss, in scores or in their contrasts."""

import numpy as np
from scipy.linalg import helmert
from scipy.special import logsumexp

from skinfluence._utils.validation import encode_labels
from skinfluence.models.losses._classification import ClassificationLoss


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

    def draws(self, n_samples, n_outputs, random_state):
        return random_state.choice([-1.0, 1.0], size=(n_samples, len(self.contrasts)))

    def sampled_factor(self, z, y, draws):
        # sum_c s_c sqrt(p_c) (e_c - p) for random signs s_c has the covariance diag(p) - p p', as
        # the gradient for a label drawn from the model has. But that is nearly 0 for almost all
        # labels of a model that is sure, and varies far more.
        p = self._probabilities(z)
        rows = np.sqrt(p) * draws
        rows -= p * rows.sum(axis=1, keepdims=True)
        return _times(rows, self.contrasts)[:, None]

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
