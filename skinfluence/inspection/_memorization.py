"""The rows that a model memorizes."""

import numpy as np

from skinfluence._utils.arrays import vector
from skinfluence.inspection._axes import HARMFUL, HELPFUL, make_axes, model_of

# Smallest value in the picture, relative to the largest.
SMALLEST = 1e-8


class MemorizationDisplay:
    """Memorization of the training rows in descending order, with its threshold.

    Rows above the threshold are memorizable, the others generalizable. The steep start of
    the curve shows isolated rows, often mislabelled ones. Both axes are logarithmic: the first
    rows and the long tail are seen alike. Values below a hundred millionth of the largest are
    left out of the picture, and so is 0, which has no place on such an axis.

    Parameters
    ----------
    memorization : array-like of shape (n_train,)
        Memorization or self-influence of each training row.
    threshold : float, default=None
        Rows above the threshold are marked. None marks none.
    name : str, default="Memorization"
        Name of the measure, for the vertical axis.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    indices_ : ndarray of shape (n_memorizable,)
        Training rows above the threshold, the largest value first.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    Examples
    --------
    >>> from skinfluence.inspection import MemorizationDisplay
    >>> display = MemorizationDisplay([0.2, 5.0, 0.1, 7.0], threshold=1.0).plot()
    >>> display.indices_
    array([3, 1])
    """

    def __init__(self, memorization, *, threshold=None, name="Memorization", title=None):
        self.memorization = vector(memorization, "memorization")
        self.threshold = threshold
        self.name = name
        self.title = title

    @classmethod
    def from_estimator(cls, estimator, *, threshold=None, ax=None):
        """Draw the memorization of a selector, or the self-influence of an estimator.

        Parameters
        ----------
        estimator : MemorizationSelector or influence estimator
            Fitted, with ``memorization_`` and ``threshold_``, or else with
            ``self_influence()``.
        threshold : float, default=None
            Rows above the threshold are marked. None means ``threshold_`` of a selector,
            and no threshold for an influence estimator.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : MemorizationDisplay
            The display, drawn.
        """
        if hasattr(estimator, "memorization_"):
            threshold = estimator.threshold_ if threshold is None else threshold
            title = type(model_of(estimator.influence_)).__name__
            return cls(estimator.memorization_, threshold=threshold, title=title).plot(ax)
        return cls(
            estimator.self_influence(),
            threshold=threshold,
            name="Self-influence",
            title=type(model_of(estimator)).__name__,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the sorted values.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : MemorizationDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        order = np.argsort(-self.memorization, kind="stable")
        values, rank = self.memorization[order], np.arange(1, len(order) + 1)
        limit = np.inf if self.threshold is None else self.threshold
        above = values > limit
        self.indices_ = order[above]
        self.ax_.plot(rank[~above], values[~above], ".", color=HELPFUL)
        if self.threshold is not None:
            label = f"memorizable: {above.sum()} of {len(order)} rows"
            self.ax_.plot(rank[above], values[above], ".", color=HARMFUL, label=label)
            self.ax_.axhline(limit, color="0.2", linestyle="--", label=f"threshold {limit:.3g}")
            self.ax_.legend()
        if self.memorization.any():
            self.ax_.set(xscale="log", yscale="log")
            smallest = max(values[values > 0].min(), SMALLEST * values.max())
            self.ax_.set_ylim(smallest / 2, values.max() * 2)
        self.ax_.set(xlabel="Training rows in descending order", ylabel=self.name)
        self.ax_.set_title(self.title or "")
        return self
