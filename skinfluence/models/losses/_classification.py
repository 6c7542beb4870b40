"""What every loss of a classifier is asked."""

import numpy as np

from skinfluence._utils.validation import encode_labels
from skinfluence.models.losses._base import Loss


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
