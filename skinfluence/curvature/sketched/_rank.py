"""What the spectrum of a sketch says of the rank of the features."""

import numpy as np


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
