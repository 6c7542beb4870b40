"""Residual against leverage, with the rows that move the model."""

import numpy as np

from skinfluence._utils.arrays import require_shape, vector
from skinfluence.diagnostics import diagnostics_frame
from skinfluence.inspection._axes import HARMFUL, HELPFUL, NEUTRAL, cut, make_axes, model_of

# Cook's distances whose contours are drawn.
CONTOURS = (0.5, 1.0)

# Areas of markers, in square points: of a row that moves nothing, and of the one that moves most.
SMALLEST, LARGEST = 8, 150

# Longer names of rows are cut.
NAME = 20

# Residuals by their columns in the table of diagnostics.
STANDARDISED, DEVIANCE = "Standardised residual", "Root of twice the loss"


class DiagnosticsDisplay:
    """Residual of each training row against its leverage, with Cook's distance as area.

    A row far right draws the model to itself, one far up or down is not met by it; what moves the
    model is both, Cook's distance. Rows beyond a contour move the parameters by more than its
    value. The rows of the largest distance are named.

    Parameters
    ----------
    leverage : array-like of shape (n_train,)
        Leverage of each training row.
    residual : array-like of shape (n_train,)
        A residual of each training row. NaN leaves a row out.
    cooks_distance : array-like of shape (n_train,)
        What leaving the row out moves. NaN is drawn as 0.
    n_directions : float, default=None
        Effective dimension, for the contours of Cook's distance, which need standardised
        residuals of one output. None draws none.
    residual_name : str, default="Standardised residual"
        Name of the vertical axis.
    row_labels : array-like of shape (n_train,), default=None
        Names of the training rows. None means their numbers.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    indices_ : ndarray of shape (k,)
        Training rows that are named, the largest distance first.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    skinfluence.diagnostics.diagnostics_frame : The numbers.

    Examples
    --------
    >>> from skinfluence.inspection import DiagnosticsDisplay
    >>> display = DiagnosticsDisplay([0.1, 0.9, 0.2], [0.5, -1.0, 2.0], [0.1, 5.0, 0.6])
    >>> display.plot(k=1).indices_
    array([1])
    """

    def __init__(
        self,
        leverage,
        residual,
        cooks_distance,
        *,
        n_directions=None,
        residual_name=STANDARDISED,
        row_labels=None,
        title=None,
    ):
        self.leverage = vector(leverage, "leverage")
        self.residual = np.asarray(residual, dtype=float)
        self.cooks_distance = np.nan_to_num(np.asarray(cooks_distance, dtype=float))
        for name in ("residual", "cooks_distance"):
            require_shape(getattr(self, name), name, self.leverage.shape, "(n_train,)")
        self.n_directions = n_directions
        self.residual_name = residual_name
        if row_labels is not None:
            row_labels = vector(row_labels, "row_labels", dtype=None)
            require_shape(row_labels, "row_labels", self.leverage.shape, "(n_train,)")
        self.row_labels = row_labels
        self.title = title

    @classmethod
    def from_estimator(cls, estimator, *, k=3, ax=None):
        """Draw the diagnostics of a fitted influence estimator.

        Parameters
        ----------
        estimator : influence estimator
            Fitted; `diagnostics_frame` is computed, and its mean over several trainings.
        k : int, default=3
            How many rows are named, by the index of the training table.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : DiagnosticsDisplay
            The display, drawn.
        """
        frames = [diagnostics_frame(fit) for fit in estimator.fits_]
        title = type(model_of(estimator)).__name__
        return cls.from_frame(sum(frames) / len(frames), k=k, title=title, ax=ax)

    @classmethod
    def from_frame(cls, frame, *, k=3, title=None, ax=None):
        """Draw a table of diagnostics.

        Parameters
        ----------
        frame : pandas.DataFrame
            As `diagnostics_frame` gives it. Without standardised residuals, as of several classes,
            the root of twice the loss takes their place, which is the deviance residual of a
            classifier, without its sign.
        k : int, default=3
            How many rows are named, by the index of the table.
        title : str, default=None
            Title of the picture.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : DiagnosticsDisplay
            The display, drawn.
        """
        if "standardised_residual" in frame:
            residual, name = frame["standardised_residual"], STANDARDISED
            n_directions = frame["leverage"].sum()
        else:
            residual, name, n_directions = np.sqrt(2 * frame["loss"].clip(lower=0)), DEVIANCE, None
        return cls(
            frame["leverage"],
            residual,
            frame["cooks_distance"],
            n_directions=n_directions,
            residual_name=name,
            row_labels=frame.index.astype(str).to_numpy(dtype=object),
            title=title,
        ).plot(ax, k=k)

    def plot(self, ax=None, *, k=3):
        """Draw the points and the contours.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.
        k : int, default=3
            How many rows are named.

        Returns
        -------
        display : DiagnosticsDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        distance = self.cooks_distance
        self.indices_ = np.argsort(-distance, kind="stable")[:k]
        area = SMALLEST + (LARGEST - SMALLEST) * distance / max(distance.max(), 1e-300)
        is_named = np.isin(np.arange(len(distance)), self.indices_)
        colour = np.where(is_named, HARMFUL, HELPFUL)
        self.ax_.scatter(
            self.leverage, self.residual, s=area, c=colour, alpha=0.6, linewidths=0,
            label="area: Cook's distance",
        )  # fmt: skip
        if np.nanmin(self.residual) < 0:
            self.ax_.axhline(0, color=NEUTRAL, linewidth=0.8, zorder=0)
        self._draw_contours()
        self._name_rows()
        self.ax_.set(xlabel="Leverage", ylabel=self.residual_name)
        self.ax_.set_title(self.title or "")
        self.ax_.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=3,
            fontsize="small",
            columnspacing=1.0,
            frameon=False,
        )
        return self

    def _draw_contours(self):
        """Curves of equal Cook's distance inside the limits that the points set."""
        if self.n_directions is None:
            return
        limits = self.ax_.get_xlim(), self.ax_.get_ylim()
        last = min(limits[0][1], 1 - 1e-6)
        leverage = np.linspace(max(last, 1e-9) / 500, last, 500)
        for distance, style in zip(CONTOURS, ("--", "-"), strict=True):
            height = np.sqrt(distance * self.n_directions * (1 - leverage) / leverage)
            if height.min() > np.abs(limits[1]).max():
                continue
            label = f"Cook's distance {distance:g}"
            for sign in (1, -1):
                self.ax_.plot(
                    leverage, sign * height, style, color="0.2", linewidth=0.8,
                    label=label if sign > 0 else None,
                )  # fmt: skip
        self.ax_.set(xlim=limits[0], ylim=limits[1])

    def _name_rows(self):
        middle = np.mean(self.ax_.get_xlim())
        for row in self.indices_:
            name = str(row) if self.row_labels is None else cut(str(self.row_labels[row]), NAME)
            is_left = self.leverage[row] < middle
            self.ax_.annotate(
                name,
                (self.leverage[row], self.residual[row]),
                xytext=(8 if is_left else -8, 4),
                textcoords="offset points",
                ha="left" if is_left else "right",
                fontsize="small",
            )
