"""Coefficients with the intervals of their sampling errors."""

import numpy as np

from skinfluence._utils.arrays import require_shape, vector
from skinfluence.diagnostics import coefficient_table
from skinfluence.inspection._axes import HARMFUL, HELPFUL, cut, label_colours, make_axes, model_of

# Colours by whether the interval holds 0.
MEANINGS = {"interval without 0": HARMFUL, "interval with 0": HELPFUL}


class CoefficientDisplay:
    """Coefficients with intervals of their sampling errors.

    The intervals are those of the penalised estimate around its own mean, which a penalty draws
    towards 0. Coefficients are in units of the output for a unit of the feature as the final model
    sees it.

    Parameters
    ----------
    estimate : array-like of shape (n_params,)
        Estimates of the parameters.
    lower, upper : array-like of shape (n_params,)
        Ends of their intervals.
    names : array-like of shape (n_params,), default=None
        Names of the parameters. None means their numbers.
    level : float, default=0.95
        Level of the intervals, for the horizontal axis.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    indices_ : ndarray of shape (k,)
        Parameters that are drawn, from the top.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    skinfluence.diagnostics.coefficient_table : The numbers.

    Examples
    --------
    >>> from skinfluence.inspection import CoefficientDisplay
    >>> display = CoefficientDisplay([0.1, 2.0], [-1.0, 1.5], [1.2, 2.5], names=["age", "dose"])
    >>> [label.get_text() for label in display.plot().ax_.get_yticklabels()]
    ['dose', 'age']
    """

    def __init__(self, estimate, lower, upper, *, names=None, level=0.95, title=None):
        self.estimate = vector(estimate, "estimate")
        self.lower, self.upper = vector(lower, "lower"), vector(upper, "upper")
        shape = self.estimate.shape
        for name in ("lower", "upper"):
            require_shape(getattr(self, name), name, shape, "(n_params,)")
        if names is not None:
            names = vector(names, "names", dtype=None)
            require_shape(names, "names", shape, "(n_params,)")
        self.names = names
        self.level = level
        self.title = title

    @classmethod
    def from_estimator(cls, estimator, *, kind="HC0", groups=None, level=0.95, k=20, ax=None):
        """Draw the parameters of a fitted influence estimator.

        Parameters
        ----------
        estimator : influence estimator
            Fitted; `coefficient_table` is computed.
        kind : {"HC0", "HC1", "HC2", "HC3", "jackknife"}, default="HC0"
            Kind of the covariance; see `parameter_covariance`.
        groups : array-like of shape (n_train,), default=None
            Clusters of rows that are drawn together.
        level : float, default=0.95
            Level of the intervals.
        k : int, default=20
            At most how many parameters are drawn.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : CoefficientDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator averages several trainings.
        """
        if len(estimator.fits_) > 1:
            raise TypeError(
                "Parameters of several trainings cannot be compared one by one. Pass one of the "
                f"estimators_ of {type(estimator).__name__}."
            )
        table = coefficient_table(estimator.fits_[0], kind=kind, groups=groups, level=level)
        return cls(
            table["estimate"],
            table["lower"],
            table["upper"],
            names=table.index.astype(str).to_numpy(dtype=object),
            level=level,
            title=type(model_of(estimator)).__name__,
        ).plot(ax, k=k)

    def plot(self, ax=None, *, k=20):
        """Draw the parameters that are largest for their errors.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.
        k : int, default=20
            At most how many parameters are drawn: those whose intervals are farthest from 0, for
            their widths.

        Returns
        -------
        display : CoefficientDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        width = np.maximum(self.upper - self.lower, np.finfo(float).tiny)
        largest = np.argsort(-np.abs(self.estimate) / width, kind="stable")[:k]
        self.indices_ = largest[np.argsort(-self.estimate[largest], kind="stable")]
        lower, upper = self.lower[self.indices_], self.upper[self.indices_]
        place, without_0 = np.arange(len(self.indices_)), (lower > 0) | (upper < 0)
        for meaning, colour in zip((without_0, ~without_0), MEANINGS.values(), strict=True):
            self.ax_.hlines(place[meaning], lower[meaning], upper[meaning], color=colour)
            centres = self.estimate[self.indices_][meaning]
            self.ax_.plot(centres, place[meaning], "o", color=colour, markersize=4)
        names = self.indices_ if self.names is None else self.names[self.indices_]
        small = {"fontsize": "small"} if len(place) > 12 else {}
        self.ax_.set_yticks(place, [cut(str(name)) for name in names], **small)
        self.ax_.set_ylim(len(place) - 0.4, -0.6)
        self.ax_.axvline(0, color="0.2", linewidth=0.8, zorder=0)
        shown = "" if len(place) == len(self.estimate) else f", {len(place)} of {len(width)}"
        interval = f"Estimate and {self.level:.0%} interval"
        self.ax_.set(xlabel=interval, ylabel="Parameter")
        self.ax_.set_title(f"{self.title or ''}{shown}".lstrip(", "))
        label_colours(self.ax_, MEANINGS)
        return self
