"""The size of a sketch."""

from numbers import Integral

import numpy as np

from skinfluence._utils.warnings import warn_user
from skinfluence.curvature.sketched._added_ridge import exact_effective_dimension
from skinfluence.curvature.sketched._projection import Projection
from skinfluence.exceptions import NumericalWarning
from skinfluence.sketching import influence_min_dim

# A dense eigendecomposition of more columns takes minutes.
MAX_SIZE = 8192

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
    sizes, (c, d) = _sizes(plan), plan.layer_shape
    has_choice = plan.ridge.min() > 0 and plan.max_size is None
    if plan.draws_basis and has_choice and c * d <= MAX_SIZE:
        # Eigenvectors of a larger basis cost more than the exact solution.
        sizes = [m for m in sizes if m <= d * WORTHWHILE]
    tried = []
    for m_A in sizes:
        tried.append(c * m_A)
        projection = Projection(plan, plan.sketch(m_A, c))
        sketch = projection.feature_sketch
        if sketch.is_basis:
            if _is_accurate(projection, eps):
                break
        else:
            needed = _needed(plan, sketch, eps, delta)
            if needed <= m_A:
                projection = Projection(plan, plan.sketch(needed, c))
                break
    else:
        m_A = _last_resort(plan, sizes, f"the uniform error eps={eps:g}")
        if m_A not in sizes:
            projection = Projection(plan, plan.sketch(m_A, c))
    projection.tried_sizes = tuple(tried)
    return projection


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


def _is_accurate(projection, eps):
    """Whether the uniform error of a basis is at most eps."""
    plan = projection.plan
    if plan.ridge.min() > 0:
        tail = projection.has_complement
        outside = projection.error_outside(with_curvature=tail, enough=eps if tail else eps / 2)
        # A basis that is too small is told by products alone.
        if outside > (eps if tail else eps / 2):
            return False
    return _basis_error(projection, eps) <= eps


def _basis_error(projection, enough):
    """Bound of the uniform error of a projection on a basis, exact up to ``enough``."""
    plan = projection.plan
    if plan.ridge.min() <= 0:
        return 0.0 if is_injective(projection) else np.inf
    if projection.has_complement:
        return projection.curvature.uniform_error(plan.damping, enough=enough)
    # Without the term (I - QQ') / ridge outside the basis, the error at most doubles.
    tail = projection.complement_curvature(with_curvature=False)
    return 2 * tail.uniform_error(plan.damping, enough=enough / 2)


def _needed(plan, sketch, eps, delta):
    """Size that the theorem requires, by the spectrum of a sketch of the features."""
    values = feature_eigenvalues(plan, sketch)
    if plan.feature_ridge > 0:
        dimension = exact_effective_dimension(values, plan.feature_ridge, sketch.orthogonal_share)
        return influence_min_dim(dimension, eps=eps, delta=delta) if dimension < np.inf else np.inf
    rank = numerical_rank(values)
    return rank + 1 if rank < sketch.size else np.inf


def feature_eigenvalues(plan, sketch):
    """Eigenvalues of the sketched moment of the features, which bounds F."""
    projected = plan.bounding_features @ sketch
    return np.linalg.eigvalsh(projected.moment())


def numerical_rank(values):
    """Number of eigenvalues that are not 0 up to rounding."""
    tolerance = len(values) * np.finfo(np.float64).eps * np.abs(values).max(initial=0)
    return int((values > tolerance).sum())


def is_injective(projection):
    """Whether the sketch is known to lose nothing of the range of F.

    A rank below the size of the sketch is the rank of F itself, for almost all sketches.
    """
    plan, sketch = projection.plan, projection.feature_sketch
    d = plan.layer_shape[1]
    if sketch.size >= min(d, plan.features.shape[0]):
        return True
    return numerical_rank(feature_eigenvalues(plan, sketch)) < sketch.size
