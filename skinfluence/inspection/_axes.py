"""Axes of the displays, and colours that the colour-blind can tell apart."""

import numpy as np

HARMFUL = "#d55e00"
HELPFUL = "#0072b2"
NEUTRAL = "0.55"
COLOURS = [HELPFUL, HARMFUL, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "0.2"]

# Longer names of rows are cut.
MAX_NAME = 40


def make_axes(ax=None):
    """The given axes, or the axes of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib. Install it with `pip install 'skinfluence[plot]'`."
        ) from error
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def short_ticks(ax, axis):
    """Few tick labels, and a common power of ten for small and large numbers."""
    ax.locator_params(axis=axis, nbins=6)
    ax.ticklabel_format(axis=axis, scilimits=(-2, 3))


def label_colours(ax, colours, *, ncols=2, below=0.16):
    """A legend of colours by their meaning, outside the picture."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=label) for label, colour in colours.items()]
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -below), ncols=ncols)


def cut(name, length=MAX_NAME):
    """A name as text, cut where it is too long for a picture."""
    short = name if len(name) <= length else f"{name[: length - 3]}..."
    # Between two dollar signs matplotlib reads formulas.
    return short.replace("$", r"\$")


def names_of(estimator):
    """Names of the training rows: the index of the user's table, else their positions."""
    fit = estimator.fits_[0].linearisation_
    table = fit.fitted_model.table
    # A list has a method of this name.
    return np.asarray(table.index) if hasattr(table, "iloc") else np.arange(fit.n_samples)


def model_of(estimator):
    """The model whose influence an estimator gives, the last of all steps."""
    return estimator.fitted_model_.model
