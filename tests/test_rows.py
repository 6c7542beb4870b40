"""Every kind of rows is its matrix, alone and with every other kind."""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.neural_network import MLPClassifier

from skinfluence.curvature.sketched import ComplementRows
from skinfluence.models import objective
from skinfluence.rows import (
    BlockRows,
    Centring,
    CombinedRows,
    DenseRows,
    KroneckerRows,
    Moments,
    Rows,
    SelectedRows,
    SharedRows,
    StreamedRows,
    TokenRows,
)
from skinfluence.sketching import BlockSketch, IdentitySketch, KroneckerSketch, NystromSketch

# Samples, rows of each, positions; outputs and inputs of a layer with a bias; columns.
N, S, T, C, D = 7, 2, 3, 3, 4
P = C * (D + 1)


def layer(rng, sparse=False):
    residual, activation = rng.standard_normal((N, S, C)), rng.standard_normal((N, D))
    return KroneckerRows(residual, sp.csr_matrix(activation) if sparse else activation, residual)


def shared(rng):
    residual, inputs = rng.standard_normal((N, S, T, C)), rng.standard_normal((N * T, D))
    return SharedRows(residual, inputs, has_bias=True)


def tokens(rng):
    # Every sample has a token twice, and some have positions that count for nothing.
    place = rng.integers(-1, D + 1, (N, T))
    place[:, 1] = place[:, 0]
    return TokenRows(rng.standard_normal((N, S, T, C)), place, D + 1)


def dense(rng, n_columns=P):
    return DenseRows(rng.standard_normal((N * S, n_columns)), S)


def blocks(rng):
    weights = KroneckerRows(rng.standard_normal((N, S, C)), rng.standard_normal((N, D)))
    return BlockRows([weights, dense(rng, C)])


def streamed(rng):
    return StreamedRows(partial(_taken, layer(rng)), N, S, P, 8 * S * P)


def _taken(rows, samples):
    return rows[samples]


def combined(rng):
    return CombinedRows(
        layer(rng), rng.standard_normal((N * S, 5)), dense(rng)[:2].picked([0] * 5)
    )


def complement(rng):
    rows = layer(rng)
    return ComplementRows(rows, NystromSketch.draw(rows, 6))


KINDS = {
    "layer": layer,
    "sparse layer": partial(layer, sparse=True),
    "shared": shared,
    "tokens": tokens,
    "dense": dense,
    "blocks": blocks,
    "streamed": streamed,
    "selected": lambda rng: SelectedRows(dense(rng, P + 2), np.arange(2, P + 2)),
    "combined": combined,
    "complement": complement,
}

# Solutions, which are never the second factor of a product.
SECOND = sorted(set(KINDS) - {"combined"})


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_matrix(kind, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    rows = KINDS[kind](rng)
    matrix = rows.toarray()
    assert matrix.shape == rows.shape == (N * S, P)
    assert (len(rows), rows.n_samples, rows.rows_per_sample) == (N, N, S)
    right, left = rng.standard_normal((P, 2)), rng.standard_normal((2, N * S))
    assert_allclose(rows @ right, matrix @ right, atol=1e-12)
    assert_allclose(left @ rows, left @ matrix, atol=1e-12)
    for vectors in (right.T, rng.standard_normal((S * P + 1, P))):
        assert_allclose(rows.dotted_by(vectors), vectors @ matrix.T, atol=1e-12)
    assert_allclose(rows.gram_product(right.T), right.T @ matrix.T @ matrix, atol=1e-11)
    assert_allclose(rows.squared_norms(), (matrix**2).sum(axis=1), rtol=1e-12)
    assert_allclose(rows.columns([1, 3]), matrix[:, [1, 3]], atol=1e-12)
    weight, scale = rng.uniform(1, 2, N), rng.uniform(1, 2, P)
    assert_allclose(rows.moment(), matrix.T @ matrix, atol=1e-11)
    assert_allclose(rows.weighted(weight).toarray(), matrix * np.repeat(weight, S)[:, None])
    assert_allclose(rows.rescaled(scale).toarray(), matrix * scale)
    chosen = np.array([4, 0])
    assert_allclose(rows[chosen].toarray(), matrix.reshape(N, S, P)[chosen].reshape(-1, P))
    assert_allclose(rows.picked(chosen).toarray(), matrix[chosen])


@pytest.mark.parametrize("other", SECOND)
@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_those_of_the_matrices(kind, other, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    left, right = KINDS[kind](rng), KINDS[other](rng)
    expected = left.toarray() @ right.toarray().T
    assert_allclose(left.inner(right), expected, atol=1e-12)
    out = np.full((N * S, N * S), np.nan)
    left.inner(right, out=out)
    assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["layer", "sparse layer", "blocks"])
def test_blocks_side_by_side_are_the_rows_again(kind, global_random_seed):
    rows = KINDS[kind](np.random.default_rng(global_random_seed))
    parts = rows.split([C * D, C])
    assert [part.shape for part in parts] == [(N * S, C * D), (N * S, C)]
    assert_allclose(rows.joined(parts).toarray(), rows.toarray())
    written = [DenseRows(part.toarray(), S) for part in parts]
    assert rows.joined(written).is_written_out
    assert_allclose(rows.joined(written).toarray(), rows.toarray())
    assert rows.split([C, C * D]) is None


@pytest.mark.parametrize("d", [1, D])
def test_layers_rescaled_by_output_stay_layers(d, rng):
    residual, activation = rng.standard_normal((N, S, C)), rng.standard_normal((N, d))
    rows = KroneckerRows(residual, activation, residual)
    scale = np.concatenate([np.repeat(rng.uniform(1, 2, C), d), rng.uniform(1, 2, C)])
    rescaled = rows.rescaled(scale)
    assert rescaled.is_factored
    assert_allclose(rescaled.toarray(), rows.toarray() * scale)


def test_the_smallest_class_of_rows_has_all_products(rng):
    class Smallest(Rows):
        n_samples, n_columns = N, P

        def __init__(self, array):
            self.array = array

        def __getitem__(self, samples):
            return DenseRows(self.array[samples])

        def toarray(self):
            return self.array.copy()

    array, right, left = (rng.standard_normal(shape) for shape in ((N, P), (P, 2), (2, N)))
    rows = Smallest(array)
    assert rows.shape == (N, P)
    assert_allclose(rows @ right, array @ right)
    assert_allclose(left @ rows, left @ array)
    assert_allclose(rows.inner(DenseRows(array)), array @ array.T)
    assert_allclose(rows.weighted(np.arange(N)).toarray(), array * np.arange(N)[:, None])


def test_batches_hold_all_rows_of_their_samples_in_the_working_memory():
    # 64 samples of 4 rows with 128 numbers of 8 bytes are 2**18 bytes.
    rows = DenseRows(np.zeros((256, 128)), rows_per_sample=4)
    with config_context(working_memory=2**16 / 2**20):
        assert [batch.stop - batch.start for batch in rows.batches()] == [16] * 4


def test_rows_without_blocks_are_one_block(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    for kind in ("layer", "shared", "dense", "streamed", "selected", "complement"):
        rows = KINDS[kind](rng)
        assert rows.blocks == [rows]
        assert rows.split([P]) is None


def test_a_sketched_layer_stays_a_layer_with_its_intercepts(global_random_seed):
    rows = layer(np.random.default_rng(global_random_seed))
    features = NystromSketch.draw(rows.activation, 2)
    pair = [KroneckerSketch(IdentitySketch(C), features), IdentitySketch(C)]
    projected = rows @ BlockSketch(pair)
    assert projected.is_factored
    assert projected.layer_shape == (C, 2)
    assert_allclose(projected.intercept_columns, rows.intercept_columns)


def test_rows_that_come_with_their_sketch_do_not_make_it_again(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    rows = complement(rng)
    assert rows @ rows.sketch is rows.reduced
    other = NystromSketch.draw(dense(rng), 3)
    assert_allclose((rows @ other).toarray(), rows.toarray() @ other.toarray().T, atol=1e-12)


def test_only_layers_have_one_bias_for_each_output(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    rows = layer(rng)
    assert rows.is_layer and rows.has_bias
    bare = KroneckerRows(rows.residual, rows.activation)
    assert bare.is_layer and not bare.has_bias
    assert not KroneckerRows(rows.residual, rows.activation, 2 * rows.residual).is_layer
    assert not KroneckerRows(rows.residual, rows.activation, rows.residual[:, :, :1]).is_layer
    assert shared(rng).is_layer and not shared(rng).rescaled(np.ones(P)).is_layer
    assert not dense(rng).is_layer


def test_sparse_rows_condense_to_a_sparse_matrix(global_random_seed):
    rows = KINDS["sparse layer"](np.random.default_rng(global_random_seed))
    assert sp.issparse(rows.condensed())
    assert_allclose(rows.condensed().toarray(), rows.toarray())
    bare = layer(np.random.default_rng(0))
    assert bare.condensed() is bare


@pytest.mark.parametrize("intercept", [False, True])
def test_a_jacobian_leaves_its_identity_out_of_products(intercept, global_random_seed):
    X, y = load_wine(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    model = LogisticRegression(fit_intercept=intercept).fit(X, y)
    rows = objective(model, X, y, np.ones(len(y))).jacobian_rows(X)
    assert rows.is_jacobian and rows[3:9].is_jacobian
    assert not rows.weighted(np.full(len(X), 2.0)).is_jacobian
    rng = np.random.default_rng(global_random_seed)
    right, left = rng.standard_normal((rows.n_columns, 2)), rng.standard_normal((2, len(X) * 2))
    assert_allclose(rows @ right, rows.toarray() @ right, atol=1e-11)
    assert_allclose(left @ rows, left @ rows.toarray(), atol=1e-10)


def test_other_rows_are_no_jacobian():
    X, y = load_iris(return_X_y=True)
    weight = np.ones(len(y))
    with pytest.warns(UserWarning, match="active set"):
        lasso = objective(Lasso(0.1).fit(X, y), X, y, weight).jacobian_rows(X)
    assert lasso.rows.is_jacobian
    model = LogisticRegression(max_iter=1000).fit(X, y)
    assert not objective(model, X, y, weight).gradient_rows(X, y[:, None]).is_jacobian
    net = MLPClassifier((3,), max_iter=1000, solver="lbfgs", alpha=1, random_state=0).fit(X, y)
    rows = objective(net, X, y, weight).jacobian_rows(X)
    assert not any(block.is_jacobian for block in rows.blocks)


def test_residuals_that_are_an_identity_once_are_no_jacobian(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    residual = np.tile(np.eye(C), (N, 1, 1))
    residual[-1] = rng.standard_normal((C, C))
    rows = KroneckerRows(residual, rng.standard_normal((N, D))).as_jacobian()
    assert not rows.is_jacobian
    right = rng.standard_normal((C * D, 2))
    assert_allclose(rows @ right, rows.toarray() @ right, atol=1e-12)


def test_columns_that_change_in_their_last_digit_are_zero_once_centred(rng):
    values = rng.uniform(0.1, 10.0, 40)
    features = np.where(rng.random((37, 40)) < 0.5, values, np.nextafter(values, 20.0))
    features = np.column_stack([features, rng.standard_normal(37)])
    weight = rng.uniform(0.5, 2.0, 37)
    centred = np.asarray(Centring(Moments.of(lambda: [(features, weight)]))(features))
    assert_array_equal(centred[:, :40], 0.0)
    expected = features[:, 40] - np.average(features[:, 40], weights=weight)
    assert_allclose(centred[:, 40], expected, atol=1e-14)


def test_rows_of_tokens_are_those_of_their_one_hot_inputs(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    rows = tokens(rng)
    same = SharedRows(rows.residual, rows.activation.toarray(), has_bias=False)
    assert_allclose(rows.toarray(), same.toarray(), atol=1e-12)
    assert_allclose(rows.column_squares(), same.column_squares(), atol=1e-12)
    matrix, kept = rng.standard_normal((C, 2)), np.array([3, 0])
    mapped = SharedRows(rows.residual @ matrix, same.activation, has_bias=False)
    assert_allclose(rows.mapped(matrix).toarray(), mapped.toarray(), atol=1e-12)
    part = same.toarray().reshape(N * S, C, D + 1)[:, :, kept].reshape(N * S, -1)
    assert_allclose(rows.restricted(kept).toarray(), part, atol=1e-12)
    written = np.concatenate([np.asarray(piece.todense()) for piece in rows.pieces()])
    assert_allclose(written, same.toarray(), atol=1e-12)


def test_inner_products_of_sparse_features_and_others_are_centred(rng):
    features = rng.poisson(0.7, (37, 5)) * rng.uniform(1.0, 100.0, 5)
    centring = Centring(Moments.of(lambda: [(sp.csr_matrix(features), np.ones(37))]))
    left, right = centring(sp.csr_matrix(features[:20])), centring(sp.csr_matrix(features[20:]))
    expected = (features[:20] - features.mean(axis=0)) @ (features[20:] - features.mean(axis=0)).T
    assert_allclose(left.gram(right), expected, atol=1e-9 * np.abs(expected).max())


def test_sparse_pieces_tell_which_columns_have_no_zeros(rng):
    X = rng.standard_normal((40, 3)) * (rng.random((40, 3)) < [1.0, 0.5, 1.0])
    X[:20, 2] = 0.0
    pieces = [(sp.csr_matrix(X[part]), np.ones(20)) for part in (slice(20), slice(20, 40))]
    moments = Moments.of(lambda: pieces)
    assert_array_equal(moments.is_full, [True, False, False])
    assert_allclose(moments.mean, X.mean(axis=0), atol=1e-12)


def test_products_make_as_many_rows_at_once_as_the_vectors_take(rng):
    array, made = rng.standard_normal((40, 6)), []

    def make(samples):
        made.append(len(array[samples]))
        return DenseRows(array[samples])

    rows = StreamedRows(make, 40, 1, 6, sample_bytes=48)
    vectors = rng.standard_normal((10, 6))
    with config_context(working_memory=1e-4):
        found = rows.gram_product(vectors)
    assert_allclose(found, vectors @ array.T @ array, rtol=1e-12)
    # The working memory takes two rows.
    assert made == [10] * 4


@pytest.mark.parametrize("factor", [1.0, -2.5, None])
def test_intercepts_that_are_multiples_of_residuals_are_no_product_of_their_own(factor, rng):
    pair = []
    for own in (1.0, 3.0):
        residual, activation = rng.standard_normal((N, S, C)), rng.standard_normal((N, D))
        multiple = rng.standard_normal((N, S, C)) if factor is None else factor * own * residual
        pair.append(KroneckerRows(residual, activation, multiple))
    left, right = pair
    assert left.bias_factor == factor
    assert right.bias_factor == (None if factor is None else pytest.approx(3 * factor, rel=1e-15))
    assert_allclose(left.inner(right), left.toarray() @ right.toarray().T, rtol=1e-11, atol=1e-12)
