"""Error of a sketch against its size."""

import numpy as np
from sklearn.utils import check_array

from skinfluence._utils.arrays import require_positive, require_shape, vector
from skinfluence.inspection._axes import COLOURS, make_axes


class SketchErrorDisplay:
    r"""Error of sketched influences against the sketch size over effective dimension.

    The theory promises an error that falls like :math:`(m / d_\lambda)^{-1/2}` once the
    sketch size :math:`m` exceeds the effective dimension :math:`d_\lambda`: a line of
    slope -1/2 on logarithmic axes, drawn for comparison.

    Parameters
    ----------
    sketch_sizes : array-like of shape (n_sizes,)
        Numbers stored per training row, :math:`m`.
    errors : dict of str to array-like of shape (n_sizes,) or (n_repeats, n_sizes)
        Positive errors of each kind of sketch, for example ``error_quantile`` of
        :func:`skinfluence.metrics.faithfulness`. For several repeats the line is the
        median, and the band reaches from the smallest to the largest.
    effective_dimension : float
        Effective dimension :math:`d_\lambda` of the curvature at the damping.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    References
    ----------
    .. [1] P. Hu, Y. Hu, J. Ma, H. Zhao, "A Unified Theory of Random Projection for
       Influence Functions", arXiv:2602.10449.

    Examples
    --------
    >>> from skinfluence.inspection import SketchErrorDisplay
    >>> display = SketchErrorDisplay([10, 40, 160], {"sjlt": [0.8, 0.4, 0.2]}, 10)
    >>> display.plot().ax_.get_ylabel()
    'Error of the sketched influence'
    """

    def __init__(self, sketch_sizes, errors, effective_dimension):
        self.sketch_sizes = vector(sketch_sizes, "sketch_sizes")
        require_positive(self.sketch_sizes, "sketch_sizes")
        self.errors = {name: self._checked(name, e) for name, e in errors.items()}
        if not errors:
            raise ValueError("errors must name at least one kind of sketch, got none.")
        if not effective_dimension > 0:
            raise ValueError(f"effective_dimension must be positive, got {effective_dimension}.")
        self.effective_dimension = effective_dimension

    def _checked(self, name, error):
        name = f"errors[{name!r}]"
        error = check_array(np.atleast_2d(error), input_name=name, dtype=float)
        shape = (len(error), len(self.sketch_sizes))
        require_shape(error, name, shape, "(n_repeats, n_sizes)")
        require_positive(error.ravel(), name)
        return error

    def plot(self, ax=None):
        """Draw the errors of each kind of sketch.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : SketchErrorDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        ratio = self.sketch_sizes / self.effective_dimension
        self.ax_.set(xscale="log", yscale="log")
        for index, (name, error) in enumerate(self.errors.items()):
            colour = COLOURS[index % len(COLOURS)]
            self.ax_.plot(ratio, np.median(error, axis=0), "o-", color=colour, label=name)
            self.ax_.fill_between(
                ratio, error.min(axis=0), error.max(axis=0), color=colour, alpha=0.15
            )
        beyond = np.array([min(1, ratio.max()), ratio.max()])
        line = self._height() / np.sqrt(beyond)
        self.ax_.plot(beyond, line, "--", color="0.2", label="slope -1/2")
        label = r"$m = d_\lambda$"
        self.ax_.axvline(1, color="0.2", linewidth=0.8, linestyle=":", label=label)
        self.ax_.set(
            xlabel=r"Sketch size over effective dimension $m / d_\lambda$",
            ylabel="Error of the sketched influence",
        )
        self.ax_.legend()
        return self

    def _height(self):
        """Height at ratio 1 of the line of slope -1/2 that is closest to the medians."""
        ratio = self.sketch_sizes / self.effective_dimension
        # Below the effective dimension the error is flat.
        beyond = ratio >= min(1, ratio.max())
        medians = [np.median(error, axis=0) for error in self.errors.values()]
        return np.exp(np.mean(np.log(medians * np.sqrt(ratio))[:, beyond]))
