"""Number of directions of the curvature that the data decide, against the damping."""

import numpy as np

from skinfluence._utils.arrays import require_positive, require_shape, vector
from skinfluence.inspection._axes import HARMFUL, HELPFUL, NEUTRAL, make_axes, model_of
from skinfluence.sketching import effective_dimension

# Dampings of a curve, and its ends relative to the mean eigenvalue of the curvature.
N_DAMPINGS, SMALLEST, LARGEST = 25, 1e-6, 1e2


class EffectiveDimensionDisplay:
    r"""Effective dimension of a curvature against the damping.

    The effective dimension :math:`d_\lambda = \mathrm{tr}\, F (F + P + \lambda I)^{-1}`, with the
    curvature :math:`F` and the model's own penalty :math:`P`, is a smoothed count of the
    directions that the data decide, not the ridge. A sketch needs a multiple of it, so the curve
    says what a damping costs.

    Parameters
    ----------
    dampings : array-like of shape (n_dampings,)
        Positive dampings, ascending.
    effective_dimensions : array-like of shape (n_dampings,)
        The effective dimension at each damping.
    damping : float, default=None
        Damping to mark. None, and 0 on the logarithmic axis, mark nothing.
    marked_dimension : float, default=None
        The effective dimension there; None takes it from the curve.
    eigenvalues : array-like of shape (n_eigenvalues,), default=None
        Eigenvalues of the curvature, whose count above each damping is drawn too.
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
    At a damping equal to both eigenvalues, each counts one half; at a damping three times
    as large, one quarter:

    >>> from skinfluence.inspection import EffectiveDimensionDisplay
    >>> display = EffectiveDimensionDisplay.from_eigenvalues([2.0, 2.0], dampings=[2.0, 6.0])
    >>> display.effective_dimensions
    array([1. , 0.5])
    """

    def __init__(
        self,
        dampings,
        effective_dimensions,
        *,
        damping=None,
        marked_dimension=None,
        eigenvalues=None,
        title=None,
    ):
        self.dampings = vector(dampings, "dampings")
        require_positive(self.dampings, "dampings")
        self.effective_dimensions = vector(effective_dimensions, "effective_dimensions")
        require_shape(
            self.effective_dimensions,
            "effective_dimensions",
            self.dampings.shape,
            "(n_dampings,)",
        )
        self.damping = damping
        self.marked_dimension = marked_dimension
        self.eigenvalues = None if eigenvalues is None else vector(eigenvalues, "eigenvalues")
        self.title = title

    @classmethod
    def from_eigenvalues(cls, eigenvalues, *, dampings=None, damping=None, title=None, ax=None):
        """Draw the effective dimension of a spectrum, without a penalty.

        Parameters
        ----------
        eigenvalues : array-like of shape (n_eigenvalues,)
            Eigenvalues of the curvature, without the damping. Negative ones can only be
            rounding and count as 0.
        dampings : array-like of shape (n_dampings,), default=None
            Positive dampings of the curve. None means a range somewhat wider than the range
            of the eigenvalues.
        damping : float, default=None
            Damping to mark.
        title : str, default=None
            Title of the picture.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : EffectiveDimensionDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If no eigenvalue is positive.
        """
        eigenvalues = np.maximum(vector(eigenvalues, "eigenvalues"), 0)
        if not eigenvalues.any():
            raise ValueError(
                "eigenvalues must have a positive one, got none. Pass the eigenvalues "
                "of the curvature."
            )
        if dampings is None:
            dampings = _wide_range(eigenvalues, damping)
        dampings = vector(dampings, "dampings")
        require_positive(dampings, "dampings")
        return cls(
            dampings,
            effective_dimension(eigenvalues, dampings),
            damping=damping,
            marked_dimension=effective_dimension(eigenvalues, damping) if damping else None,
            eigenvalues=eigenvalues,
            title=title,
        ).plot(ax)

    @classmethod
    def from_estimator(cls, estimator, *, dampings=None, ax=None):
        """Draw the effective dimension of the curvature of a fitted influence estimator.

        Parameters
        ----------
        estimator : influence estimator
            Fitted. Iterative solvers ("cg", "lissa") estimate each point by random signs. Of
            several trainings the mean is drawn.
        dampings : array-like of shape (n_dampings,), default=None
            Positive dampings of the curve, on top of the model's own penalty. None means a
            range around the mean eigenvalue of the curvature.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : EffectiveDimensionDisplay
            The display, drawn; `damping_` of the estimator is marked.
        """
        # A damping is defined in the model's own coordinates.
        fits = [each.linearisation_.in_model_coordinates() for each in estimator.fits_]
        first = fits[0]
        if dampings is None:
            scale = first.objective.mean_eigenvalue(first.curvature_kind)
            dampings = np.geomspace(SMALLEST * scale, LARGEST * scale, N_DAMPINGS)
        dampings = vector(dampings, "dampings")
        require_positive(dampings, "dampings")
        curves = [
            [fit.at_damping(damping).effective_dimension() for damping in dampings] for fit in fits
        ]
        return cls(
            dampings,
            np.mean(curves, axis=0),
            damping=np.mean([fit.damping for fit in fits]),
            marked_dimension=np.mean([fit.effective_dimension() for fit in fits]),
            title=type(model_of(estimator)).__name__,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : EffectiveDimensionDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        if self.eigenvalues is not None:
            label = "eigenvalues above the damping"
            above = _count_above(self.eigenvalues, self.dampings)
            self.ax_.step(self.dampings, above, color=NEUTRAL, label=label)
        self.ax_.loglog(
            self.dampings, self.effective_dimensions, color=HELPFUL, label="effective dimension"
        )
        if self.damping:
            marked = self._marked()
            label = f"{marked:.3g} at damping {self.damping:.3g}"
            self.ax_.plot(self.damping, marked, "o", color=HARMFUL, label=label)
        self.ax_.set(xlabel=r"Damping $\lambda$", ylabel=r"Effective dimension $d_\lambda$")
        self.ax_.set_title(self.title or "")
        self.ax_.legend()
        return self

    def _marked(self):
        if self.marked_dimension is not None:
            return self.marked_dimension
        return float(np.interp(self.damping, self.dampings, self.effective_dimensions))


def _count_above(eigenvalues, dampings):
    """Number of eigenvalues above each damping, NaN in place of 0 for logarithmic axes."""
    count = np.sum(eigenvalues > dampings[:, None], axis=1)
    return np.where(count > 0, count, np.nan)


def _wide_range(eigenvalues, damping):
    """Dampings from below the smallest eigenvalue to above the largest."""
    # Smaller eigenvalues are the rounding of the largest.
    floor = len(eigenvalues) * np.finfo(float).eps * eigenvalues.max()
    inside = [*eigenvalues[eigenvalues > floor], damping or eigenvalues.max()]
    return np.geomspace(min(inside) / 10, max(inside) * 10, 200)
