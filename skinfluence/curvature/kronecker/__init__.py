"""Curvatures that are Kronecker products, layer by layer.

Conventions
-----------
A layer with weight (c, d - 1) and bias is one matrix ``[W, b]`` of shape (c, d), applied to
``[u, 1]``. Its gradient is ``G = sum_t r_t [u_t, 1]'``, its curvature ``A (x) E`` with the
moments A (d, d) of the inputs and E (c, c) of the output gradients.
"""

from skinfluence.curvature.kronecker._curvature import KroneckerCurvature
from skinfluence.curvature.kronecker._factors import moments
from skinfluence.curvature.kronecker._layer_sketch import (
    LayerSpace,
    describe,
    draw_layer_sketch,
    sketch_sizes,
)

__all__ = [
    "KroneckerCurvature",
    "LayerSpace",
    "describe",
    "draw_layer_sketch",
    "moments",
    "sketch_sizes",
]
