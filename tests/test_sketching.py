"""Every sketch against the dense matrix that it stands for, and the sizes it needs.

One test lowers the module constant ``BLOCK_ENTRIES``, so that a small matrix is drawn in blocks.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from skinfluence.rows import BlockRows, DenseRows, KroneckerRows, SelectedRows
from skinfluence.sketching import (
    SKETCHES,
    BlockSketch,
    IdentitySketch,
    KroneckerSketch,
    LandmarkSketch,
    NystromSketch,
    SJLTSketch,
    SRDCTSketch,
    effective_dimension,
    influence_min_dim,
)

N, C, D, F = 7, 3, 10, 2
P = C * D + F
BASES = {"nystrom", "landmarks"}
OBLIVIOUS = sorted(set(SKETCHES) - BASES - {"identity"})


def random_matrix(n_rows, n_columns, seed=0):
    return np.random.default_rng(seed).standard_normal((n_rows, n_columns))


def draw(name, n_columns, size, seed=0):
    data = random_matrix(4 * n_columns, n_columns, seed=5)
    return SKETCHES[name].draw(data, size, seed)


def kronecker(seed):
    # Factors of one seed would not be independent.
    outputs, features = 2 * seed, 2 * seed + 1
    return KroneckerSketch(draw("rademacher", C, 2, outputs), draw("sjlt", D, 6, features))


def blocks(seed):
    return BlockSketch([kronecker(seed), IdentitySketch(F)])


# Each case draws a sketch of rows with P columns from a seed.
CASES = {
    **{name: lambda seed, name=name: draw(name, P, 12, seed) for name in SKETCHES},
    "two non-zeros": lambda seed: SJLTSketch(P, 9, seed, nonzeros=2),
    "more non-zeros than rows": lambda seed: SJLTSketch(P, 3, seed),
    "blocks": blocks,
}
EXPECT_IDENTITY = sorted(set(CASES) - BASES)


def layer_rows(sparse=False, rows_per_sample=2, seed=1):
    rng = np.random.default_rng(seed)
    activation = rng.standard_normal((N, D)) * (rng.random((N, D)) < 0.5)
    return KroneckerRows(
        rng.standard_normal((N, rows_per_sample, C)),
        sp.csr_matrix(activation) if sparse else activation,
        rng.standard_normal((N, rows_per_sample, F)),
    )


ROWS = {
    "dense": lambda: DenseRows(random_matrix(N, P)),
    "layer": layer_rows,
    "sparse layer": lambda: layer_rows(sparse=True),
    "layers": lambda: BlockRows(
        [
            KroneckerRows(layer_rows().residual, layer_rows().activation),
            DenseRows(random_matrix(2 * N, F), 2),
        ]
    ),
    "selected": lambda: SelectedRows(DenseRows(random_matrix(N, P + 3)), np.arange(3, P + 3)),
}


@pytest.mark.parametrize("case", CASES)
class TestLaws:
    def test_sketch_is_its_matrix(self, case, global_random_seed):
        sketch, array = CASES[case](global_random_seed), random_matrix(N, P)
        matrix = sketch.toarray()
        assert matrix.shape == (sketch.size, P)
        assert_allclose(array @ sketch, array @ matrix.T, rtol=0, atol=1e-12)
        sparse = sp.csr_matrix(array)
        assert_allclose(sparse @ sketch, array @ matrix.T, rtol=0, atol=1e-12)
        assert_allclose(sparse.tocsc() @ sketch, array @ matrix.T, rtol=0, atol=1e-12)

    def test_lift_is_the_transpose(self, case, global_random_seed):
        sketch = CASES[case](global_random_seed)
        back = random_matrix(N, sketch.size)
        dense = np.eye(P) @ sketch
        assert_allclose(sketch.lift(back), back @ dense.T, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("kind", ROWS)
    def test_factored_rows_are_sketched_as_if_written_out(self, case, kind, global_random_seed):
        sketch, rows = CASES[case](global_random_seed), ROWS[kind]()
        projected = rows @ sketch
        assert projected.rows_per_sample == rows.rows_per_sample
        expected = rows.toarray() @ sketch.toarray().T
        assert_allclose(projected.toarray(), expected, rtol=0, atol=1e-12)

    def test_tensors_are_sketched_like_arrays(self, case, global_random_seed):
        torch = pytest.importorskip("torch")
        sketch, array = CASES[case](global_random_seed), random_matrix(N, P)
        for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
            tensor = torch.as_tensor(array, dtype=dtype)
            projected = tensor @ sketch
            assert projected.dtype == dtype and projected.device == tensor.device
            assert_allclose(projected.numpy(), array @ sketch, atol=tolerance)

    def test_single_precision_stays_single(self, case, global_random_seed):
        sketch, array = CASES[case](global_random_seed), random_matrix(N, P)
        projected = array.astype(np.float32) @ sketch
        assert projected.dtype == np.float32
        assert_allclose(projected, array @ sketch, atol=1e-5)

    def test_integers_are_sketched_as_numbers(self, case, global_random_seed):
        array = np.arange(N * P).reshape(N, P) % 7
        sketch = CASES[case](global_random_seed)
        assert_allclose(array @ sketch, array @ sketch.toarray().T, atol=1e-5)

    def test_seed_determines_the_sketch(self, case, global_random_seed):
        first, again, other = (
            CASES[case](global_random_seed + more).toarray() for more in (0, 0, 1)
        )
        assert_array_equal(first, again)
        if case not in ("identity", "nystrom"):
            assert np.abs(first - other).max() > 0

    def test_number_of_columns_is_checked(self, case):
        with pytest.raises(ValueError, match=f"{P} columns. Got rows with {P + 1}"):
            random_matrix(N, P + 1) @ CASES[case](0)


@pytest.mark.parametrize("case", EXPECT_IDENTITY)
def test_expectation_of_the_gram_matrix_is_the_identity(case):
    grams = []
    for seed in range(300):
        matrix = CASES[case](seed).toarray()
        grams.append(matrix.T @ matrix)
    error = np.abs(np.mean(grams, axis=0) - np.eye(P))
    # A floor for entries that are the same for every seed, up to rounding.
    deviation = np.maximum(np.std(grams, axis=0, ddof=1), 1e-6)
    assert (error <= 5 * deviation / np.sqrt(len(grams))).all()


@pytest.mark.parametrize("name", ["gaussian", "rademacher", "srdct"])
def test_a_larger_sketch_begins_with_the_rows_of_a_smaller_one(name, global_random_seed):
    small, large = (draw(name, P, size, global_random_seed).toarray() for size in (6, 13))
    assert_allclose(np.sqrt(13) * large[:6], np.sqrt(6) * small, atol=1e-6)


@pytest.mark.parametrize("entries", [3 * P, P // 2])
@pytest.mark.parametrize("name", ["gaussian", "rademacher"])
def test_a_matrix_too_large_to_hold_is_drawn_in_blocks(
    name, entries, monkeypatch, global_random_seed
):
    seed = global_random_seed
    whole = draw(name, P, 12, seed).toarray()
    monkeypatch.setattr("skinfluence.sketching._oblivious.BLOCK_ENTRIES", entries)
    assert_array_equal(draw(name, P, 12, seed).toarray(), whole)
    rows = layer_rows(seed=seed)
    assert_allclose((rows @ draw(name, P, 12, seed)).array, rows.toarray() @ whole.T, atol=1e-12)


def test_sketch_is_independent_of_data_drawn_with_its_seed():
    data = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    matrix = draw("gaussian", 1000, 5, seed=0).toarray()
    assert np.abs(np.corrcoef(matrix, data[None])[-1, :-1]).max() < 0.15


def test_sjlt_has_its_number_of_nonzeros_in_every_column(global_random_seed):
    matrix = SJLTSketch(50, 11, seed=global_random_seed, nonzeros=3).toarray()
    assert_array_equal(np.count_nonzero(matrix, axis=0), 3)
    assert_allclose(np.abs(matrix[matrix != 0]), 3**-0.5)
    # One in each of three groups of rows.
    assert_array_equal(np.count_nonzero(matrix[:3], axis=0), 1)


def test_srdct_has_no_more_rows_than_columns():
    with pytest.raises(ValueError, match="use IdentitySketch"):
        SRDCTSketch(5, 6)


def test_kronecker_sketch_is_a_kronecker_product_and_keeps_the_factors(global_random_seed):
    sketch = kronecker(global_random_seed)
    expected = np.kron(sketch.outputs.toarray(), sketch.features.toarray())
    assert_allclose(sketch.toarray(), expected, rtol=0, atol=1e-12)
    projected = layer_rows() @ blocks(0)
    assert isinstance(projected, KroneckerRows)
    assert projected.layer_shape == (2, 6)


@pytest.mark.parametrize("name", sorted(SKETCHES))
def test_no_rows_are_sketched_to_no_rows(name):
    sketch = draw(name, P, P)
    assert (layer_rows()[:0] @ sketch).toarray().shape == (0, sketch.size)


def test_identity_keeps_the_rows_themselves():
    rows = layer_rows()
    assert rows @ IdentitySketch(P) is rows


@pytest.mark.parametrize("kind", ROWS)
def test_picked_rows_are_rows_of_the_matrix(kind):
    rows, index = ROWS[kind](), np.array([5, 0, 6, 3])
    picked = rows.picked(index)
    assert (picked.n_samples, picked.rows_per_sample) == (4, 1)
    assert type(picked) is type(rows)
    assert_array_equal(picked.toarray(), rows.toarray()[index])


class TestLandmarks:
    def test_rows_are_orthonormal_and_span_rows_of_the_data(self, global_random_seed):
        data = random_matrix(50, 30, global_random_seed)
        matrix = LandmarkSketch.draw(data, 12, global_random_seed).toarray()
        assert_allclose(matrix @ matrix.T, np.eye(12), rtol=0, atol=1e-12)
        missed = np.linalg.norm(data - data @ matrix.T @ matrix, axis=1)
        assert (missed < 1e-12).sum() == 12

    @pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, DenseRows])
    def test_range_of_low_rank_data_is_captured(self, make):
        data = random_matrix(50, 4, seed=1) @ random_matrix(4, 30, seed=2)
        sketch = LandmarkSketch.draw(make(data), 10)
        assert sketch.size == 4
        projected = make(data) @ sketch
        array = projected.array if isinstance(projected, DenseRows) else projected
        assert_allclose(sketch.lift(array), data, atol=1e-10)

    def test_rows_are_never_written_out(self, monkeypatch):
        rows = ROWS["layers"]()
        sketch = LandmarkSketch.draw(rows, 6)
        expected = rows.toarray() @ sketch.toarray().T
        monkeypatch.setattr(KroneckerRows, "toarray", None)
        monkeypatch.setattr(BlockRows, "toarray", None)
        # Landmarks are drawn, and rows sketched, as they were when they could be written out.
        again = rows @ LandmarkSketch.draw(rows, 6)
        assert_allclose(again.array, expected, atol=1e-12)
        assert_allclose((rows @ sketch).array, expected, atol=1e-12)

    def test_a_smaller_sketch_has_the_first_landmarks_of_a_larger_one(self, global_random_seed):
        data, seed = random_matrix(50, 30), global_random_seed
        large, small = (LandmarkSketch.draw(data, size, seed) for size in (20, 5))
        assert_allclose(large.leading(5).toarray(), small.toarray(), atol=1e-12)

    def test_long_rows_are_drawn_in_proportion_to_their_squares(self):
        data = np.diag([1.0, 2.0, 3.0, 0.0])
        counts = np.zeros(4)
        for seed in range(2000):
            counts += LandmarkSketch.draw(data, 1, seed).toarray()[0] > 0
        assert_allclose(counts / 2000, np.array([1, 4, 9, 0]) / 14, atol=0.04)

    def test_rows_that_come_twice_count_once(self):
        data = np.repeat(random_matrix(6, 30), 2, axis=0)
        sketch = LandmarkSketch.draw(data, 6)
        assert sketch.size >= 5
        matrix = sketch.toarray()
        assert_allclose(matrix @ matrix.T, np.eye(sketch.size), rtol=0, atol=1e-12)

    def test_single_precision_rows_have_a_definite_gram_matrix(self):
        rng = np.random.default_rng(0)
        residual = rng.standard_normal((300, 1, 2)).astype(np.float32)
        activation = (rng.standard_normal((300, 9)) * 10.0 ** -np.arange(9)).astype(np.float32)
        rows = KroneckerRows(residual, activation)
        matrix = LandmarkSketch.draw(rows, 18).toarray()
        assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), rtol=0, atol=1e-5)


class TestNystrom:
    def test_basis_is_orthonormal(self):
        matrix = draw("nystrom", P, 12).toarray()
        assert_allclose(matrix @ matrix.T, np.eye(12), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("sparse", [False, True])
    def test_range_of_low_rank_data_is_captured(self, sparse):
        data = random_matrix(50, 4, seed=1) @ random_matrix(4, 30, seed=2)
        sketch = NystromSketch.draw(sp.csr_matrix(data) if sparse else data, 4)
        assert_allclose(sketch.lift(data @ sketch), data, atol=1e-10)

    def test_factored_rows_are_read_without_writing_them_out(self):
        rows = layer_rows()
        sketch = NystromSketch.draw(rows, N * 2)
        assert_allclose(sketch.lift((rows @ sketch).array), rows.toarray(), atol=1e-10)

    def test_basis_is_as_good_as_the_leading_singular_vectors(self, global_random_seed):
        decay = np.arange(1, 101) ** -1.0
        data = np.linalg.qr(random_matrix(300, 100, global_random_seed))[0] * decay
        sketch = NystromSketch.draw(data, 20, global_random_seed)
        missed = np.linalg.norm(data - sketch.lift(data @ sketch), ord=2)
        assert decay[20] <= missed * (1 + 1e-12) and missed < 1.1 * decay[20]

    @pytest.mark.parametrize("sparse", [False, True])
    def test_wide_data_are_read_by_their_rows(self, sparse):
        decay = np.arange(1, 41) ** -1.0
        data = (np.linalg.qr(random_matrix(200, 40))[0] * decay).T
        kind = KroneckerRows(np.full((40, 1, 1), 2.0), sp.csr_matrix(data)) if sparse else data
        sketch = NystromSketch.draw(kind, 10, seed=3)
        assert_allclose(sketch.basis.T @ sketch.basis, np.eye(10), atol=1e-12)
        missed = np.linalg.norm(data - sketch.lift(data @ sketch), ord=2)
        assert decay[10] <= missed * (1 + 1e-12) and missed < 1.1 * decay[10]

    def test_wide_data_of_low_rank_have_a_basis_all_the_same(self):
        data = random_matrix(20, 3, seed=1) @ random_matrix(3, 60, seed=2)
        sketch = NystromSketch.draw(data, 8, oversampling=2)
        assert_allclose(sketch.basis.T @ sketch.basis, np.eye(8), atol=1e-10)
        assert_allclose(sketch.lift(data @ sketch), data, atol=1e-10)

    def test_more_columns_than_the_data_have_is_all_of_them(self):
        assert NystromSketch.draw(random_matrix(20, 5), 9).size == 5


def test_effective_dimension_is_the_trace_of_the_smoother(global_random_seed):
    matrix = random_matrix(30, 8, global_random_seed)
    curvature = matrix.T @ matrix
    values = np.linalg.eigvalsh(curvature)
    expected = np.trace(curvature @ np.linalg.inv(curvature + 2.5 * np.eye(8)))
    assert effective_dimension(values, 2.5) == pytest.approx(expected)
    assert effective_dimension([2.0, 1.0, 0.0, -1e-18], 0.0) == 2.0
    assert effective_dimension([], 1.0) == 0.0


def test_effective_dimension_refuses_a_negative_damping():
    with pytest.raises(ValueError, match="at least 0. Got -1.0 instead"):
        effective_dimension([1.0], -1.0)


def test_min_dim_follows_the_theorem():
    sizes = influence_min_dim([50, 100, 200], eps=0.1)
    assert sizes.dtype == np.int64
    assert_allclose(np.diff(sizes), [50 / 0.1**2 * k for k in _slopes()], rtol=1e-3)
    # Half the error needs four times the rows.
    small = influence_min_dim(100, eps=0.2, delta=0.01)
    assert influence_min_dim(100, eps=0.1, delta=0.01) == pytest.approx(4 * small, abs=4)
    assert influence_min_dim(100, delta=0.01) > influence_min_dim(100, delta=0.1)


def test_min_dim_is_the_rule_that_was_calibrated():
    table = Path(__file__).parents[1] / "benchmarks" / "results" / "sketch_calibration.md"
    cells = [line.split("|") for line in table.read_text(encoding="utf-8").splitlines()]
    measured = [(int(row[2]), float(row[3]), int(row[4])) for row in cells if "sjlt" in str(row)]
    assert len(measured) > 10
    for dimension, eps, size in measured:
        assert influence_min_dim(dimension, eps=eps, delta=0.05) == size


def _slopes():
    one, two = (influence_min_dim(d, eps=0.1) for d in (0, 1000))
    slope = (two - one) * 0.1**2 / 1000
    return [slope, 2 * slope]


@pytest.mark.parametrize("bad", [{"eps": 0}, {"eps": 1.0}, {"delta": 0}, {"delta": 2}])
def test_min_dim_refuses_errors_outside_0_1(bad):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        influence_min_dim(10, **bad)


def test_min_dim_refuses_a_negative_dimension():
    with pytest.raises(ValueError, match="at least 0"):
        influence_min_dim(-1)
