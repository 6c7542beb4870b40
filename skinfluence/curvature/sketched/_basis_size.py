"""The smallest basis whose error, which can be measured, is small enough."""

import numpy as np

from skinfluence._utils.progress import tell
from skinfluence.curvature.sketched._projection import Projection
from skinfluence.curvature.sketched._rank import is_injective

# Features up to which all eigenvectors of their moment cost less than passes over the data.
MAX_EIGENBASIS = 1024

# Columns that are found at once, over the size that is asked for.
SPARE = 4

# Share of the error that is aimed at outside the basis; what couples it to the inside adds as
# much.
SHARE_OUTSIDE = 1 / 2


class Projections:
    """Projections of all sizes; a basis is the leading part of one that is found once.

    Parameters
    ----------
    plan : SketchPlan
        Plan of the sketch.
    sizes : list of int
        Sizes to try for the features, increasing.

    Attributes
    ----------
    tried_sizes : tuple of int
        Numbers for each row that were tried.
    """

    def __init__(self, plan, sizes):
        self.plan = plan
        self.sizes = sizes
        self.tried_sizes = ()
        self._last = self._widest = None

    def __getitem__(self, m_A):
        plan, c = self.plan, self.plan.layer_shape[0]
        if self.tried_sizes[-1:] != (c * m_A,):
            tell(f"trying a sketch of {c * m_A} numbers for each row")
            features = self._leading(m_A) if plan.draws_basis else None
            self._last = Projection(plan, plan.sketch(m_A, c, features))
            self.tried_sizes += (c * m_A,)
        return self._last

    def _leading(self, m_A):
        if self._widest is None or m_A > self._widest.size:
            self._widest = self._found(m_A)
        return self._widest.leading(m_A)

    def _found(self, m_A):
        plan = self.plan
        d = plan.layer_shape[1]
        # Rounding hides directions whose curvature is far below any ridge.
        if d <= min(MAX_EIGENBASIS, plan.features.n_samples) and plan.ridge.min() > 0:
            return plan.eigenbasis()
        return plan.feature_sketch(min(SPARE * m_A, self.sizes[-1]))


def smallest_basis(projections, eps):
    """Projection on a small basis whose uniform error is at most eps.

    Products alone tell the sizes that are too small. Errors fall by about the same factor with
    each number, so that the size between the last of these and the next is interpolated, and
    measured in full.

    Parameters
    ----------
    projections : Projections
        Projections to choose from.
    eps : float
        Largest uniform error.

    Returns
    -------
    Projection or None
        None if no size up to the largest has the error.
    """
    size, rate = _first_candidate(projections, eps)
    while size is not None:
        projection = projections[size]
        error = _uniform_error(projection, eps)
        if error <= eps:
            return projection
        size = _next_size(size, np.log(error / eps), rate, projections.sizes[-1])
    return None


def _first_candidate(projections, eps):
    """First size to measure in full, and the logarithm that the error falls by a number."""
    goal, below, error_below = SHARE_OUTSIDE * eps, 0, None
    if projections.plan.ridge.min() <= 0:
        return projections.sizes[0], 1.0
    for size in projections.sizes:
        error = _error_outside(projections[size], eps)
        if error <= eps:
            break
        below, error_below = size, error
    else:
        return None, 1.0
    if error_below is None:
        # No decay is known yet: that of an error that falls like 1 / size.
        return size, 1 / size
    rate = np.log(error_below / max(error, np.finfo(np.float64).tiny)) / (size - below)
    return min(size, below + int(np.ceil(np.log(error_below / goal) / rate))), rate


def _next_size(size, excess, rate, largest):
    """A size at which the error is smaller by ``excess``, a logarithm; None after the largest."""
    if size >= largest:
        return None
    return min(largest, size + int(np.ceil(np.clip(excess / rate, size / 8, size))))


def _error_outside(projection, eps):
    """Lower bound of the uniform error of a basis, by products alone."""
    tail = projection.has_complement
    part = 1 if tail else 2
    return part * projection.error_outside(with_curvature=tail, enough=eps / part)


def _uniform_error(projection, eps):
    """Bound of the uniform error of a projection on a basis, exact up to twice eps."""
    plan = projection.plan
    if plan.ridge.min() <= 0:
        return 0.0 if is_injective(projection) else np.inf
    if projection.has_complement:
        return projection.curvature.uniform_error(plan.damping, enough=2 * eps)
    # Without the term (I - QQ') / ridge outside the basis, the error at most doubles.
    tail = projection.complement_curvature(with_curvature=False)
    return 2 * tail.uniform_error(plan.damping, enough=eps)
