"""Number of directions of the curvature above a damping."""

import numpy as np

from skinfluence._utils.arrays import require_positive, vector
from skinfluence.inspection._axes import HARMFUL, HELPFUL, NEUTRAL, make_axes
from skinfluence.sketching import effective_dimension


class EffectiveDimensionDisplay:
    r"""Effective dimension of a curvature against the damping.

    The effective dimension :math:`d_\lambda = \sum_i \mu_i / (\mu_i + \lambda)` is a
    smoothed count of the eigenvalues :math:`\mu_i` above the damping :math:`\lambda`. A
    sketch needs a multiple of it, so the curve says what a damping costs.

    Parameters
    ----------
    eigenvalues : array-like of shape (n_eigenvalues,)
        Eigenvalues of the curvature, without the damping. Negative ones can only be
        rounding and count as 0.
    dampings : array-like of shape (n_dampings,), default=None
        Positive dampings of the curve. None means a range somewhat wider than the range
        of the eigenvalues.
    damping : float, default=None
        Damping to mark. None, and 0 on the logarithmic axis, mark nothing.

    Attributes
    ----------
    effective_dimensions_ : ndarray of shape (n_dampings,)
        Heights of the curve.
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
    >>> display = EffectiveDimensionDisplay([2.0, 2.0], dampings=[2.0, 6.0]).plot()
    >>> display.effective_dimensions_
    array([1. , 0.5])
    """

    def __init__(self, eigenvalues, *, dampings=None, damping=None):
        self.eigenvalues = np.maximum(vector(eigenvalues, "eigenvalues"), 0)
        if not self.eigenvalues.any():
            raise ValueError(
                "eigenvalues must have a positive one, got none. Pass the eigenvalues "
                "of the curvature."
            )
        self.damping = damping
        self.dampings = _wide_range(self.eigenvalues, damping)
        if dampings is not None:
            self.dampings = vector(dampings, "dampings")
        require_positive(self.dampings, "dampings")

    @classmethod
    def from_estimator(cls, estimator, *, dampings=None, ax=None):
        """Draw the effective dimension of a fitted influence estimator.

        Parameters
        ----------
        estimator : influence estimator
            Fitted, with the eigenvalues ``eigenvalues_`` of its curvature, and ``damping_``.
        dampings : array-like of shape (n_dampings,), default=None
            Positive dampings of the curve. None means a range somewhat wider than the
            range of the eigenvalues.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : EffectiveDimensionDisplay
            The display, drawn.
        """
        if not hasattr(estimator, "eigenvalues_"):
            raise TypeError(
                f"{type(estimator).__name__} has no attribute eigenvalues_. Pass the "
                "eigenvalues of its curvature to EffectiveDimensionDisplay."
            )
        damping = estimator.damping_
        return cls(estimator.eigenvalues_, dampings=dampings, damping=damping).plot(ax)

    def plot(self, ax=None, *, spectrum=True):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.
        spectrum : bool, default=True
            Whether to draw the number of eigenvalues above each damping too.

        Returns
        -------
        display : EffectiveDimensionDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        if spectrum:
            label = "eigenvalues above the damping"
            above = _count_above(self.eigenvalues, self.dampings)
            self.ax_.step(self.dampings, above, color=NEUTRAL, label=label)
        dimensions = effective_dimension(self.eigenvalues, self.dampings)
        self.effective_dimensions_ = dimensions
        self.ax_.loglog(self.dampings, dimensions, color=HELPFUL, label="effective dimension")
        if self.damping:
            marked = effective_dimension(self.eigenvalues, self.damping)
            label = f"{marked:.3g} at damping {self.damping:.3g}"
            self.ax_.plot(self.damping, marked, "o", color=HARMFUL, label=label)
        self.ax_.set(xlabel=r"Damping $\lambda$", ylabel=r"Effective dimension $d_\lambda$")
        self.ax_.legend()
        return self


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
