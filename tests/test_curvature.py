"""Curvatures by products alone, against the dense matrix, and eigenspaces."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skinfluence.curvature import MatrixFreeCurvature, eigenspaces
from skinfluence.rows import DenseRows
from tests.helpers import assert_close


@pytest.mark.parametrize("rank", [1, 3, 20, 60])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("method", ["cg", "lissa"])
def test_iteration_solves_whatever_the_preconditioner_leaves(method, scale, rank, rng):
    # A preconditioner of low rank leaves a spectrum that is far from 1.
    vectors = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    F = scale * vectors * np.geomspace(1, 30, 60) @ vectors.T
    penalty = scale * rng.uniform(1, 3, 60)
    curvature = MatrixFreeCurvature(lambda v: v @ F, penalty, method, rank=rank, random_state=0)
    rows = DenseRows(rng.standard_normal((5, 60)))
    H = F + np.diag(penalty + 0.1 * scale)
    found = curvature.solve(rows, 0.1 * scale).toarray()
    assert_close(found, np.linalg.solve(H, rows.array.T).T, 1e-8)


def test_equal_eigenvalues_are_one_eigenspace():
    values = np.array([1e-20, 1.0, 1.0 + 1e-12, 1.0 + 1e-6, 5.0, 5.0])
    assert_array_equal(eigenspaces(values), [0, 1, 3, 4])
