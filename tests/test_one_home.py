"""Mathematics that several rooms share has one home, which is tested here by itself."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skinfluence.curvature import MatrixFreeCurvature, conjugate_gradients
from skinfluence.sketching import effective_dimension


def definite(rng, p, rank=None):
    root = rng.standard_normal((p, p if rank is None else rank))
    return root @ root.T


def identity(vectors):
    return vectors


def test_conjugate_gradients_solve_every_row_with_a_matrix_of_its_own(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    matrices = np.stack([definite(rng, 6) + np.eye(6) for _ in range(3)])
    right = rng.standard_normal((3, 6))

    def product(vectors):
        return np.einsum("mpq,mq->mp", matrices, vectors)

    found, norms = conjugate_gradients(product, right, identity, np.full(3, 1e-11), max_iter=60)
    assert_allclose(found, np.linalg.solve(matrices, right[:, :, None])[:, :, 0], rtol=1e-8)
    assert (norms <= 1e-11).all()


def test_conjugate_gradients_stop_row_by_row(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    matrix = definite(rng, 8) + 0.1 * np.eye(8)
    right = rng.standard_normal((3, 8))
    right[1] = 0
    target = np.array([1e-2, 0.0, 1e-10]) * np.linalg.norm(right, axis=1)
    alone, _ = conjugate_gradients(
        lambda v: v @ matrix, right[:1], identity, target[:1], max_iter=60
    )
    found, norms = conjugate_gradients(lambda v: v @ matrix, right, identity, target, max_iter=60)
    # The first row stands where it would stand by itself; the row without a right-hand side
    # never moves.
    assert_allclose(found[0], alone[0])
    assert 1e-10 < norms[0] / np.linalg.norm(right[0]) <= 1e-2
    assert not found[1].any()
    assert_allclose(found[2], np.linalg.solve(matrix, right[2]), rtol=1e-7)


def test_a_good_preconditioner_ends_conjugate_gradients_at_once(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    matrix = definite(rng, 8) + 1e-3 * np.eye(8)
    right = rng.standard_normal((2, 8))
    products = []

    def product(vectors):
        products.append(len(vectors))
        return vectors @ matrix

    inverse = np.linalg.inv(matrix)
    found, _ = conjugate_gradients(
        product, right, lambda v: v @ inverse, np.full(2, 1e-6), max_iter=60
    )
    assert len(products) <= 2
    assert_allclose(found, right @ inverse, rtol=1e-5)


def test_conjugate_gradients_stop_where_the_preconditioner_leaves_directions_out():
    matrix = np.diag([1.0, 2.0, 3.0, 5.0])
    right = np.array([[1.0, 1.0, 1.0, 1.0]])
    kept = np.array([1.0, 1.0, 1.0, 0.0])
    products = []

    def product(vectors):
        products.append(len(vectors))
        return vectors @ matrix

    found, norms = conjugate_gradients(
        product, right, lambda v: v * kept, np.full(1, 1e-12), max_iter=50, exhausted=1e-24
    )
    assert_allclose(found, [[1, 1 / 2, 1 / 3, 0]], atol=1e-10)
    assert norms == pytest.approx(1.0)
    assert len(products) < 10


def test_conjugate_gradients_leave_the_right_hand_side_alone():
    right = np.array([[1.0, 2.0]])
    conjugate_gradients(lambda v: v * [1.0, 3.0], right, identity, np.zeros(1), max_iter=5)
    assert_allclose(right, [[1.0, 2.0]])


def test_effective_dimension_at_several_dampings_is_that_at_each():
    values, dampings = np.array([3.0, 1.0, 0.2, 0.0]), np.array([[0.0, 0.1], [1.0, 5.0]])
    expected = [[effective_dimension(values, damping) for damping in row] for row in dampings]
    assert_allclose(effective_dimension(values, dampings), expected)
    assert isinstance(effective_dimension(values, 0.1), float)
    with pytest.raises(ValueError, match="at least 0"):
        effective_dimension(values, [0.1, -0.1])


def test_effective_dimension_without_damping_is_the_rank(global_random_seed):
    matrix = definite(np.random.default_rng(global_random_seed), 40, rank=7)
    values = np.linalg.eigvalsh(matrix)
    assert (values > 0).sum() > 7
    assert effective_dimension(values, 0.0) == 7
    assert effective_dimension(np.zeros(3), 0.0) == 0


def test_random_signs_find_the_effective_dimension_within_their_error(global_random_seed):
    matrix = definite(np.random.default_rng(global_random_seed), 60)
    curvature = MatrixFreeCurvature(lambda v: v @ matrix, np.zeros(60), "cg", random_state=0)
    expected = effective_dimension(np.linalg.eigvalsh(matrix), 20.0)
    value, error = curvature.estimated_effective_dimension(20.0, global_random_seed)
    assert 0 < error < 0.1 * expected
    assert abs(value - expected) < 5 * error
    assert curvature.effective_dimension(20.0) == curvature.estimated_effective_dimension(20.0)[0]
