"""Error of a sketch against its size."""

import numpy as np
from sklearn.utils import check_array, check_random_state

from skinfluence._utils.arrays import require_positive, require_shape, vector
from skinfluence._utils.sklearn_private import _num_samples
from skinfluence.inspection._axes import COLOURS, make_axes, model_of
from skinfluence.inspection._sketch_trials import SketchTrials, default_sizes

# So many sizes have room for a tick each.
MOST_TICKS = 8


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
    title : str, default=None
        Title of the picture.

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

    def __init__(self, sketch_sizes, errors, effective_dimension, *, title=None):
        self.sketch_sizes = vector(sketch_sizes, "sketch_sizes")
        require_positive(self.sketch_sizes, "sketch_sizes")
        self.errors = {name: self._checked(name, e) for name, e in errors.items()}
        if not errors:
            raise ValueError("errors must name at least one kind of sketch, got none.")
        if not effective_dimension > 0:
            raise ValueError(f"effective_dimension must be positive, got {effective_dimension}.")
        self.effective_dimension = effective_dimension
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        sketches=("gaussian", "sjlt"),
        sketch_sizes=None,
        n_repeats=3,
        random_state=0,
        ax=None,
    ):
        r"""Draw the errors that sketches of several sizes would have.

        The error is the 95th percentile over pairs of a query and a training row of
        :math:`|\tilde B - B| / \sqrt{\varphi \varphi'}`, with the exact scores and
        self-influences. The exact curvature is solved for all queries.

        Parameters
        ----------
        estimator : influence estimator
            Fitted, with or without a sketch: its model, kind of curvature and damping are used.
            Sketches of several trainings count as repeats.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,), default=None
            Their targets. None means the influence on the predictions.
        sketches : sequence of str, default=("gaussian", "sjlt")
            Kinds of sketch of full gradients, see `skinfluence.sketching`.
        sketch_sizes : array-like of int of shape (n_sizes,), default=None
            Numbers for each training row. None means five sizes, from the effective
            dimension to 16 times it, at most half of the parameters.
        n_repeats : int, default=3
            How many sketches of each size are drawn.
        random_state : int, RandomState instance or None, default=0
            Draws them.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : SketchErrorDisplay
            The display, drawn.

        See Also
        --------
        skinfluence.SketchedInfluence.sketch_error : The error of one sketch on queries.
        """
        trials = [SketchTrials(fit, X, y) for fit in estimator.fits_]
        dimension = np.mean([each.effective_dimension for each in trials])
        if sketch_sizes is None:
            sketch_sizes = default_sizes(dimension, trials[0].rows.n_columns)
        seeds = check_random_state(random_state).randint(2**31 - 1, size=n_repeats)
        errors = {
            name: [
                [each.error(name, int(size), int(seed)) for size in sketch_sizes]
                for each in trials
                for seed in seeds
            ]
            for name in sketches
        }
        title = f"{type(model_of(estimator)).__name__}, {_num_samples(X)} queries"
        return cls(sketch_sizes, errors, dimension, title=title).plot(ax)

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
        if len(ratio) <= MOST_TICKS:
            self.ax_.set_xticks(ratio, [f"{each:.2g}" for each in ratio])
            self.ax_.set_xticks([], minor=True)
        beyond = np.array([min(1, ratio.max()), ratio.max()])
        line = self._height() / np.sqrt(beyond)
        self.ax_.plot(beyond, line, "--", color="0.2", label="slope -1/2")
        label = r"$m = d_\lambda$"
        self.ax_.axvline(1, color="0.2", linewidth=0.8, linestyle=":", label=label)
        self.ax_.set(
            xlabel=r"Sketch size over effective dimension $m / d_\lambda$",
            ylabel="Error of the sketched influence",
        )
        self.ax_.set_title(self.title or "")
        self.ax_.legend()
        return self

    def _height(self):
        """Height at ratio 1 of the line of slope -1/2 that is closest to the medians."""
        ratio = self.sketch_sizes / self.effective_dimension
        # Below the effective dimension the error is flat.
        beyond = ratio >= min(1, ratio.max())
        medians = [np.median(error, axis=0) for error in self.errors.values()]
        return np.exp(np.mean(np.log(medians * np.sqrt(ratio))[:, beyond]))
