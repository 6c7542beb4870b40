"""Curvatures by products alone, against the dense matrix, and eigenspaces."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression

from skinfluence import ExactInfluence
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


@pytest.mark.parametrize("solver", ["direct", "gram", "cg"])
def test_products_are_the_inverse_of_solutions(solver, rng):
    X, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    influence = ExactInfluence(LogisticRegression(), solver=solver, damping=0.01).fit(X, y)
    curvature, damping = influence.linearisation_.curvature, influence.linearisation_.damping
    vectors = rng.standard_normal((3, influence.linearisation_.training_rows.n_columns))
    solved = curvature.solve(DenseRows(curvature.multiply(vectors, damping)), damping)
    assert_close(solved.toarray(), vectors, 1e-8)


def test_the_mean_of_two_dense_curvatures_is_their_matrices_mean(rng):
    X, y = rng.standard_normal((30, 4)), rng.integers(0, 2, 30)
    fits = [
        ExactInfluence(LogisticRegression(C=C), solver=solver, damping=0.01).fit(X, y)
        for C, solver in ((1, "direct"), (10, "direct"), (1, "gram"))
    ]
    one, other, by_rows = (fit.linearisation_.curvature for fit in fits)
    vectors = rng.standard_normal((3, 5))
    moments = [curvature.multiply(vectors, -curvature.penalty) for curvature in (one, other)]
    mean = one.averaged(other, 0.25)
    assert_close(
        mean.multiply(vectors, -mean.penalty), 0.75 * moments[0] + 0.25 * moments[1], 1e-12
    )
    assert one.averaged(by_rows, 0.25) is None


def test_a_large_factor_serves_few_rows_and_many(rng):
    # Few rows are substituted; for many, a factor of more than a thousand columns is inverted.
    X, y = rng.standard_normal((60, 1200)), rng.integers(0, 2, 60)
    model = LogisticRegression(C=0.01, solver="newton-cholesky")
    influence = ExactInfluence(model, solver="direct", damping=0.01).fit(X, y)
    curvature, damping = influence.linearisation_.curvature, 0.01
    H = curvature.blocks[0] + np.diag(curvature.penalty + damping)
    for n_rows in (1, 3, 500, 2):
        vectors = rng.standard_normal((n_rows, len(H)))
        solved = curvature.solve(DenseRows(vectors), damping).toarray()
        assert_close(solved, np.linalg.solve(H, vectors.T).T, 1e-10)
        white = curvature.whiten(DenseRows(vectors), damping)
        assert_close(white @ white.T, vectors @ solved.T, 1e-10)


def test_equal_eigenvalues_are_one_eigenspace():
    values = np.array([1e-20, 1.0, 1.0 + 1e-12, 1.0 + 1e-6, 5.0, 5.0])
    assert_array_equal(eigenspaces(values), [0, 1, 3, 4])
