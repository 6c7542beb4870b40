"""Distributions of targets, as far as residuals need them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A distribution whose negative log likelihood is a loss.

    Parameters
    ----------
    variance : callable, default=None
        Variance of a target with a given mean, up to the scale; of arrays. None where it is the
        derivative of the mean by the output, which makes the link canonical: observed and
        expected curvature are then the same.
    scale_is_known : bool, default=False
        Whether the scale is 1, as for counts and classes; else the residuals tell it.
    factor : float, default=1.0
        The loss is this number times half the deviance.
    """

    variance: Callable | None = None
    scale_is_known: bool = False
    factor: float = 1.0
