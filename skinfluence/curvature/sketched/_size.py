"""The size of a sketch."""

from numbers import Integral

import numpy as np

from skinfluence._utils.progress import tell
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature.sketched._added_ridge import exact_effective_dimension
from skinfluence.curvature.sketched._basis_size import Projections, smallest_basis
from skinfluence.curvature.sketched._projection import Projection
from skinfluence.curvature.sketched._rank import feature_eigenvalues, numerical_rank
from skinfluence.exceptions import NumericalWarning
from skinfluence.sketching import influence_min_dim

# A dense eigendecomposition of more columns takes minutes.
MAX_SIZE = 8192

# Numbers of a basis up to which its moment and eigendecomposition take seconds, not minutes.
# A larger basis is taken where `max_sketch_size` allows it.
MAX_BASIS_SIZE = 2048

# Bytes of memory that a basis may take, whose vectors are as long as the features.
MAX_BASIS = 2**30

START = 16

# Share of the features up to which a basis is cheaper than the exact solution: eigenvectors of m
# columns take about 9 m^3 operations, a Cholesky factor of p columns p^3 / 3.
WORTHWHILE = 1 / 3

# Multiple of the rounding of the largest column that all other columns have to exceed.
LOST = 1e4


def choose_projection(plan, sketch_size, *, eps, delta, relative_error=None):
    """Projection of the requested size.

    Parameters
    ----------
    plan : SketchPlan
        Plan of the sketch.
    sketch_size : {"auto", "certified"}, int or (int, int)
        As `SketchedInfluence` takes it.
    eps, delta : float
        Largest error, and the share of seeds that may exceed it.
    relative_error : callable, default=None
        Measured relative error of a projection, for "certified": a high quantile over held-out
        rows.

    Returns
    -------
    Projection
    """
    if _loses_columns(plan):
        c, d = plan.layer_shape
        warn_user(
            "The features differ so much in scale that a sketch in double precision would lose "
            "the small ones. The exact solution is used. Scale the features, for example by "
            "StandardScaler in a Pipeline, to sketch them.",
            NumericalWarning,
        )
        return Projection(plan, plan.sketch(d, c))
    if sketch_size == "auto":
        return by_theorem(plan, eps, delta)
    if sketch_size == "certified":
        return by_certificate(plan, eps, relative_error)
    c, d = plan.layer_shape
    if isinstance(sketch_size, tuple):
        return Projection(plan, plan.sketch(*_checked_pair(plan, sketch_size)))
    if sketch_size > plan.n_params:
        warn_user(
            f"sketch_size={sketch_size} is larger than the {plan.n_params} parameters of the "
            "model. The exact solution is used.",
            UserWarning,
        )
    m_A = d if sketch_size >= plan.factor_rows.n_columns else max(1, sketch_size // c)
    return Projection(plan, plan.sketch(m_A, c))


def _loses_columns(plan):
    """Whether the rounding of the largest columns is above the smallest ones and the ridge."""
    if plan.factor_rows.has_layers:
        return False
    squares = plan.factor_rows.column_squares()
    rounding = LOST * np.finfo(np.float64).eps * squares.max(initial=0.0)
    smallest = squares[squares > 0].min(initial=np.inf)
    return bool(max(smallest, plan.ridge.min()) < rounding)


def _checked_pair(plan, sizes):
    integers = all(isinstance(size, Integral) and size >= 1 for size in sizes)
    if len(sizes) != 2 or not integers:
        raise ValueError(
            "sketch_size must be 'auto', 'certified', an integer of at least 1 or a pair "
            f"(m_A, m_E) of them. Got {sizes!r} instead."
        )
    if not plan.factorized:
        raise ValueError(
            f"sketch_size={sizes!r} sizes the sketches of features and outputs, but the "
            "rows are not factorised. Use one integer, or factorized=True."
        )
    return sizes


def by_theorem(plan, eps, delta):
    """Projection whose uniform error is at most eps, from its own spectrum.

    A random sketch grows until it has as many rows as the theorem requires for the effective
    dimension that its own spectrum shows; a basis grows until its error, which can be measured,
    is small enough.
    """
    sizes = _cheap_sizes(plan)
    projections = Projections(plan, sizes)
    projection = None
    if sizes:
        is_basis = projections[sizes[0]].feature_sketch.is_basis
        projection = (
            smallest_basis(projections, eps)
            if is_basis
            else _large_enough(projections, eps, delta)
        )
    if projection is None:
        m_A = _last_resort(plan, sizes, f"the uniform error eps={eps:g}")
        projection = (
            projections[m_A]
            if m_A in sizes
            else Projection(plan, plan.sketch(m_A, plan.layer_shape[0]))
        )
    projection.tried_sizes = projections.tried_sizes
    return projection


def _large_enough(projections, eps, delta):
    """Projection of the size that the theorem requires, None if no sketch is large enough."""
    plan = projections.plan
    for m_A in projections.sizes:
        needed = _needed(plan, projections[m_A].feature_sketch, eps, delta)
        if needed <= m_A:
            return Projection(plan, plan.sketch(needed, plan.layer_shape[0]))
    return None


def _cheap_sizes(plan):
    """Sizes whose trial costs less than the exact solution, or than a given budget allows."""
    sizes, (c, d) = _sizes(plan), plan.layer_shape
    if not plan.draws_basis or plan.max_size is not None:
        return sizes
    largest = max(1, MAX_BASIS_SIZE // c)
    if plan.ridge.min() > 0 and c * d <= MAX_SIZE:
        # Eigenvectors of a larger basis cost more than the exact solution, which is affordable.
        return [m for m in sizes if m <= min(largest, d * WORTHWHILE)]
    return [m for m in sizes if m < largest] + (
        [largest] if sizes and sizes[-1] >= largest else []
    )


def by_certificate(plan, eps, relative_error):
    """Projection whose scores are within eps of the exact scores on most held-out rows.

    Parameters
    ----------
    plan : SketchPlan
        Plan of the sketch.
    eps : float
        Largest relative error.
    relative_error : callable
        Measured relative error of a projection.

    Returns
    -------
    Projection
    """
    c, d = plan.layer_shape
    cheapest = min(plan.factor_rows.shape)
    sizes = [m for m in _sizes(plan) if c * m + plan.n_unsketched < cheapest]
    for k, m_A in enumerate(sizes):
        tell(f"trying a sketch of {c * m_A} numbers for each row")
        projection = Projection(plan, plan.sketch(m_A, c))
        projection.tried_sizes = tuple(c * m for m in sizes[: k + 1])
        if relative_error(projection) <= eps:
            return projection
    if plan.max_size is not None and sizes:
        _warn_out_of_reach(c * sizes[-1], f"the relative error eps={eps:g}")
        return projection
    warn_user(
        f"sketch_size='certified': no sketch that is cheaper than the exact solution has a "
        f"relative error of at most eps={eps:g}. The exact solution is used.",
        UserWarning,
    )
    return Projection(plan, plan.sketch(d, c))


def _sizes(plan):
    """Sizes to try for the features, each twice the one before, and the largest."""
    c, d = plan.layer_shape
    largest = min(d - 1, MAX_SIZE // c)
    if plan.draws_basis:
        largest = min(largest, MAX_BASIS // (8 * d))
    if plan.max_size is not None:
        largest = max(1, min(largest, plan.max_size // c))
    sizes = START * 2 ** np.arange(32)
    return [*sizes[sizes < largest].tolist(), largest] if largest >= 1 else []


def _last_resort(plan, sizes, goal):
    """All features if they are few enough, else the largest size with a warning."""
    c, d = plan.layer_shape
    affordable = c * d <= MAX_SIZE or min(plan.factor_rows.shape) <= MAX_SIZE
    if not sizes or (affordable and plan.max_size is None):
        return d
    _warn_out_of_reach(c * sizes[-1], goal)
    return sizes[-1]


def _warn_out_of_reach(size, goal):
    warn_user(
        f"A sketch of {size} numbers for each row, the largest that is tried, does not reach "
        f"{goal}. See sketch_error(X, y) for its error; set sketch_size or max_sketch_size to "
        "grow it.",
        NumericalWarning,
    )


def _needed(plan, sketch, eps, delta):
    """Size that the theorem requires, by the spectrum of a sketch of the features."""
    values = feature_eigenvalues(plan, sketch)
    if plan.feature_ridge > 0:
        dimension = exact_effective_dimension(values, plan.feature_ridge, sketch.orthogonal_share)
        return influence_min_dim(dimension, eps=eps, delta=delta) if dimension < np.inf else np.inf
    rank = numerical_rank(values)
    return rank + 1 if rank < sketch.size else np.inf
