"""Effective dimensions of a plan, exact where that is cheap, else with an error."""

import numpy as np

from skinfluence.curvature import MatrixFreeCurvature
from skinfluence.curvature.sketched._added_ridge import exact_effective_dimension
from skinfluence.curvature.sketched._rank import feature_eigenvalues
from skinfluence.sketching import effective_dimension

# If either side of the rows is at most this long, their spectrum is computed exactly.
MAX_EXACT = 2048


def of_curvature(projection, exact_curvature):
    """``tr(F H^{-1})`` and its error.

    Parameters
    ----------
    projection : Projection
        A plan with its sketch.
    exact_curvature : callable
        Makes the exact curvature.

    Returns
    -------
    value : float
        The effective dimension.
    error : float
        0 for an exact value; else half the width of an interval that contains the effective
        dimension, or the standard error of a stochastic trace.
    """
    plan = projection.plan
    if projection.sketch.is_identity or min(plan.factor_rows.shape) <= MAX_EXACT:
        return exact_curvature().effective_dimension(plan.damping), 0.0
    if projection.has_complement:
        # The trace of a concave function of F is at most the sum of the traces of its blocks
        # inside and outside the basis, and at least the trace of the block inside.
        inside, outside = projection.curvature.effective_dimension_parts(plan.damping)
        return inside + outside / 2, outside / 2
    curvature = MatrixFreeCurvature(
        plan.factor_rows.gram_product, plan.penalty, "cg", tol=1e-6, random_state=plan.seed
    )
    return curvature.estimated_effective_dimension(plan.damping, plan.seed)


def of_factors(projection):
    """Effective dimensions of the features and of the outputs of a layer.

    Of M, the moment that bounds the features of F, at the ridge, and of E, the sum over the
    samples of the curvature of the outputs, at ``ridge ||E|| / ||M||``. For ``F = E (x) A`` these
    are A at ``ridge / ||E||`` and E at ``ridge / ||A||``.

    Returns
    -------
    tuple of float
    """
    plan = projection.plan
    values, ridge = _feature_spectrum(projection), plan.feature_ridge
    sketch = projection.feature_sketch
    if not sketch.is_basis and len(values) == sketch.size and ridge > 0:
        of_features = exact_effective_dimension(values, ridge, sketch.orthogonal_share)
    else:
        of_features = effective_dimension(values, ridge)
    outputs, largest = np.linalg.eigvalsh(plan.outputs_moment), values.max(initial=0)
    ridge_of_outputs = ridge * outputs[-1] / largest if largest > 0 else 0.0
    return of_features, effective_dimension(outputs, ridge_of_outputs)


def _feature_spectrum(projection):
    features = projection.plan.bounding_features
    n_samples, d = features.shape
    if d <= MAX_EXACT:
        return np.linalg.eigvalsh(features.moment())
    if n_samples <= MAX_EXACT:
        return np.linalg.eigvalsh(features.inner(features))
    return feature_eigenvalues(projection.plan, projection.feature_sketch)
