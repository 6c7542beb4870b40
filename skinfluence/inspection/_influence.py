"""The training rows that matter most for queries."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_array

from skinfluence._utils.arrays import require_shape, vector
from skinfluence._utils.sklearn_private import (
    Interval,
    StrOptions,
    _num_samples,
    validate_params,
)
from skinfluence.inspection._axes import (
    HARMFUL,
    HELPFUL,
    cut,
    label_colours,
    make_axes,
    model_of,
    names_of,
    short_ticks,
)

# Names with more characters take half of the picture.
WIDE_NAME = 20

_SELECTION = {
    "k": [Interval(Integral, 1, None, closed="left")],
    "by": [StrOptions({"both", "harmful", "helpful", "absolute"})],
}


# By the quantity that is influenced: what the axis says, and what bars to either side mean.
_QUANTITIES = {
    "loss": ("Influence on the loss", "harmful: raises the loss", "helpful: lowers the loss"),
    "prediction": (
        "Influence on the prediction",
        "raises the prediction",
        "lowers the prediction",
    ),
}


class InfluenceDisplay:
    """Bars of the training rows with the largest influence of either sign.

    For the loss, a bar to the right is a harmful row: more weight on it raises the loss. A bar
    to the left is a helpful one. For the prediction, a bar to the right is a row that raises it,
    which may be good or bad.

    Parameters
    ----------
    influence : array-like of shape (n_train,)
        Influence of each training row on the loss (or the prediction) of a query, or on its mean
        over several; positive raises it. Several other libraries use the opposite sign.
    row_labels : array-like of shape (n_train,), default=None
        Names of the training rows. None means their numbers.
    quantity : {"loss", "prediction"}, default="loss"
        What is influenced.
    title : str, default=None
        Title of the picture, such as the model and the queries.

    Attributes
    ----------
    indices_ : ndarray of shape (n_bars,)
        Training rows of the bars, from the top: the largest influence first, the smallest for
        ``by="helpful"``, the largest absolute one for ``by="absolute"``.
    bars_ : matplotlib BarContainer
        The bars.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    MemorizationDisplay : Rows that matter most for themselves.

    Examples
    --------
    >>> from skinfluence.inspection import InfluenceDisplay
    >>> display = InfluenceDisplay([0.5, -2.0, 3.0, -0.1]).plot(k=1)
    >>> display.indices_
    array([2, 1])
    """

    @validate_params(
        {
            "influence": "no_validation",
            "row_labels": "no_validation",
            "quantity": [StrOptions(set(_QUANTITIES))],
            "title": [str, None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(self, influence, *, row_labels=None, quantity="loss", title=None):
        self.influence = vector(influence, "influence")
        self.quantity = quantity
        self.title = title
        if row_labels is not None:
            row_labels = vector(row_labels, "row_labels", dtype=None)
            require_shape(row_labels, "row_labels", self.influence.shape, "(n_train,)")
        self.row_labels = row_labels

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, k=5, by="both", row_labels=None, ax=None):
        """Draw the mean influence of the training rows on queries.

        Parameters
        ----------
        estimator : influence estimator
            Fitted; its ``influence(X, y, reduce="mean")`` is called.
        X : array-like of shape (n_queries, n_features)
            A query, or a validation set.
        y : array-like of shape (n_queries,), default=None
            Targets of the queries. None means the influence on the predictions, which is drawn
            under that name.
        k : int, default=5
            Number of rows to draw, at each end for ``by="both"``.
        by : {"both", "harmful", "helpful", "absolute"}, default="both"
            Which rows to draw, as for ``most_influential``; "both" are the most harmful
            and the most helpful.
        row_labels : array-like of shape (n_train,), default=None
            Names of the training rows. None means the index of the training table, and their
            numbers where it has none.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : InfluenceDisplay
            The display, drawn.
        """
        influence = estimator.influence(X, y, reduce="mean")
        model = type(model_of(estimator)).__name__
        n_queries = _num_samples(X)
        queries = "one query" if n_queries == 1 else f"mean of {n_queries} queries"
        return cls(
            influence,
            row_labels=names_of(estimator) if row_labels is None else row_labels,
            quantity="prediction" if y is None else "loss",
            title=f"{model}, {queries}",
        ).plot(ax, k=k, by=by)

    @classmethod
    def from_predictions(cls, influence, *, k=5, by="both", row_labels=None, ax=None):
        """Draw the mean over queries of given influences.

        Parameters
        ----------
        influence : array-like of shape (n_queries, n_train)
            Influence of each training row on the loss of each query.
        k : int, default=5
            Number of rows to draw, at each end for ``by="both"``.
        by : {"both", "harmful", "helpful", "absolute"}, default="both"
            Which rows to draw.
        row_labels : array-like of shape (n_train,), default=None
            Names of the training rows. None means their numbers.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : InfluenceDisplay
            The display, drawn.
        """
        influence = check_array(influence, input_name="influence").mean(axis=0)
        return cls(influence, row_labels=row_labels).plot(ax, k=k, by=by)

    @validate_params(_SELECTION, prefer_skip_nested_validation=True)
    def plot(self, ax=None, *, k=5, by="both"):
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.
        k : int, default=5
            Number of rows to draw, at each end for ``by="both"``.
        by : {"both", "harmful", "helpful", "absolute"}, default="both"
            Which rows to draw.

        Returns
        -------
        display : InfluenceDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        self.indices_ = _selected(self.influence, k, by)
        values = self.influence[self.indices_]
        position = np.arange(len(values), dtype=float)
        if by == "both" and len(values) < len(self.influence):
            # A gap stands for the rows between the two ends.
            position[k:] += 0.7
        axis, raises, lowers = _QUANTITIES[self.quantity]
        colours = np.where(values > 0, HARMFUL, HELPFUL)
        self.bars_ = self.ax_.barh(position, values, color=colours)
        names = self.indices_ if self.row_labels is None else self.row_labels[self.indices_]
        names = [cut(str(name)) for name in names]
        self.ax_.set_yticks(position, names)
        self.ax_.invert_yaxis()
        self.ax_.axvline(0, color="0.2", linewidth=0.8)
        short_ticks(self.ax_, "x")
        # Long names leave little room for what stands below the bars.
        is_narrow = max(map(len, names)) > WIDE_NAME
        unit = "for each unit of relative weight"
        self.ax_.set_xlabel(f"{axis},\n{unit}" if is_narrow else f"{axis}, {unit}")
        self.ax_.set_ylabel("Training row")
        self.ax_.set_title(self.title or "")
        meanings = {raises: HARMFUL, lowers: HELPFUL}
        place = {"ncols": 1, "below": 0.22} if is_narrow else {}
        label_colours(self.ax_, meanings, **place)
        return self


def _selected(influence, k, by):
    """Rows to draw, the largest bars first; for "both", in descending order."""
    if by == "absolute":
        return np.argsort(-np.abs(influence), kind="stable")[:k]
    descending = np.argsort(-influence, kind="stable")
    if by == "harmful":
        return descending[:k]
    if by == "helpful":
        return descending[::-1][:k]
    n_train = len(influence)
    return descending if 2 * k >= n_train else np.r_[descending[:k], descending[-k:]]
