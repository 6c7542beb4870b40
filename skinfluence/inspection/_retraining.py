"""Predicted changes of losses against changes under real refits."""

import numpy as np
from sklearn.utils import check_array

from skinfluence._utils.arrays import require_shape
from skinfluence.inspection._axes import HELPFUL, make_axes, model_of, short_ticks
from skinfluence.metrics import InfluenceScorer, leave_one_out_correlation


class RetrainingDisplay:
    """Predicted changes of losses against changes measured by refitting.

    Each point is one query and one removal. On the identity line the prediction is
    exact. The legend gives the slope of measured on predicted changes, 1 when the scale
    is right, and Pearson's correlation, 1 when the proportions are right.

    Parameters
    ----------
    predicted : array-like of shape (n_queries, n_removals)
        Predicted change of each query's loss for each removal of training rows,
        positive when the loss rises.
    actual : array-like of shape (n_queries, n_removals)
        The changes measured by refitting.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    skinfluence.metrics.leave_one_out_correlation : Slope and correlation as numbers.

    Examples
    --------
    >>> from skinfluence.inspection import RetrainingDisplay
    >>> display = RetrainingDisplay([[-1.0, 0.0, 2.0]], [[-2.0, 0.0, 4.0]]).plot()
    >>> display.ax_.get_legend().get_texts()[0].get_text()
    'slope 2.00, Pearson 1.000'
    """

    def __init__(self, predicted, actual, *, title=None):
        self.predicted = check_array(predicted, input_name="predicted", dtype=float)
        self.actual = check_array(actual, input_name="actual", dtype=float)
        require_shape(self.actual, "actual", self.predicted.shape, "that of predicted")
        self.title = title

    @classmethod
    def from_estimator(
        cls, estimator, X, y, actual=None, *, indices=None, n_removals=30, random_state=0, ax=None
    ):
        """Draw the leave-one-out effects that a fitted influence estimator predicts.

        Parameters
        ----------
        estimator : influence estimator
            Fitted; its ``leave_one_out_effect(X, y)`` is called.
        X : array-like of shape (n_queries, n_features)
            The queries.
        y : array-like of shape (n_queries,)
            Targets of the queries.
        actual : array-like of shape (n_queries, n_removals), default=None
            Changes of the queries' losses measured by refitting without a training row. None
            measures them here, by really refitting the model without random rows.
        indices : array-like of shape (n_removals,), default=None
            The training rows left out of the refits of ``actual``. None means all, in their
            order. Not used without ``actual``.
        n_removals : int, default=30
            How many refits are made without ``actual``.
        random_state : int, RandomState instance or None, default=0
            Draws the rows for them.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : RetrainingDisplay
            The display, drawn.
        """
        if actual is None:
            scorer = InfluenceScorer("loo", n_subsets=n_removals, random_state=random_state)
            truth = scorer.ground_truth(estimator, X, y)
            indices, losses = truth.rows, truth.losses
            actual = losses[:, :-1] - losses[:, -1:]
        predicted = estimator.leave_one_out_effect(X, y)
        if indices is not None:
            predicted = predicted[:, indices]
        n_queries, n_shown = np.shape(predicted)
        title = f"{type(model_of(estimator)).__name__}, {n_queries} queries, {n_shown} removals"
        return cls(predicted, actual, title=title).plot(ax)

    @classmethod
    def from_predictions(cls, predicted, actual, *, ax=None):
        """Draw given changes.

        Parameters
        ----------
        predicted : array-like of shape (n_queries, n_removals)
            Predicted changes.
        actual : array-like of shape (n_queries, n_removals)
            The changes measured by refitting.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : RetrainingDisplay
            The display, drawn.
        """
        return cls(predicted, actual).plot(ax)

    def plot(self, ax=None):
        """Draw the points, the identity line and the numbers.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : RetrainingDisplay
            The display itself.
        """
        predicted, actual = self.predicted.ravel(), self.actual.ravel()
        fit = leave_one_out_correlation(predicted, actual)
        label = f"slope {fit.slope[0]:.2f}, Pearson {fit.pearson[0]:.3f}"
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        self.ax_.scatter(
            predicted, actual, s=16, alpha=0.6, color=HELPFUL, linewidths=0, zorder=2, label=label
        )
        self.ax_.axline((0, 0), slope=1, color="0.5", linewidth=0.8, zorder=1, label="identity")
        short_ticks(self.ax_, "both")
        self.ax_.set_aspect("equal", adjustable="datalim")
        self.ax_.set(
            xlabel="Predicted change of the loss",
            ylabel="Change of the loss after refitting",
        )
        self.ax_.set_title(self.title or "")
        self.ax_.legend()
        return self
