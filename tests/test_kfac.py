"""Kronecker-factored curvature where it is exact, and its sketches."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from numpy.testing import assert_allclose
from scipy.linalg import block_diag
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import spearmanr
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import HuberRegressor, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skinfluence import ExactInfluence, KFACInfluence
from skinfluence.curvature.kronecker import (
    KroneckerCurvature,
    describe,
    draw_layer_sketch,
    moments,
    sketch_sizes,
)
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import DenseRows, KroneckerRows, SharedRows
from tests.helpers import assert_close, dense_inverse, digits, iris

# The models are fitted for the tests' time, not to the last digit.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def perceptron(task, activation="tanh", seed=0, **params):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 5))
    settings = {"solver": "lbfgs", "alpha": 0.0, "random_state": 0, "max_iter": 50} | params
    if task == "real":
        y = X @ rng.standard_normal(5) + rng.standard_normal(60)
        cls = MLPRegressor
    else:
        y = rng.integers(0, 3, 60)
        cls = MLPClassifier
    return cls(hidden_layer_sizes=(4, 3), activation=activation, **settings).fit(X, y), X, y


def fitted(model, X, y, **params):
    return KFACInfluence(FrozenEstimator(model), **params).fit(X, y)


def column_order(c, d):
    """Positions in the matrix ``[W, b]`` (c, d) of the columns ``[W.ravel(), b]``."""
    index = np.arange(c * d).reshape(c, d)
    return np.concatenate([index[:, :-1].ravel(), index[:, -1]])


def in_its_basis(vectors, values, penalty):
    """H with the values and the diagonal of the penalty in a basis of eigenvectors."""
    return vectors * (values + vectors.T**2 @ penalty) @ vectors.T


def change_of_losses(influence, X, y, i):
    """Change of losses by the step for row i, at outputs moved to first order."""
    objective = influence.linearisation_.objective
    step = -influence.parameter_influence([i])[0] / influence.n_samples_
    coordinates = np.empty_like(step)
    coordinates[objective.order] = step
    outputs, targets = objective.outputs(X), objective.encode(y)
    moves = (objective.jacobian_rows(X) @ coordinates[:, None]).reshape(outputs.shape)
    return objective.loss.value(outputs + moves, targets) - objective.loss.value(outputs, targets)


def block_diagonal(influence, curvature="ggn"):
    matrix = influence.linearisation_.objective.hessian(curvature)[1][0]
    sizes = [int(np.prod(layer.shape)) for layer in influence.layers_]
    edges = np.cumsum([0, *sizes])
    return block_diag(*[matrix[a:b, a:b] for a, b in zip(edges, edges[1:], strict=False)])


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("fisher", ["true", "sampled"])
def test_a_deep_linear_network_with_squared_loss_has_its_ggn(
    correction, fisher, global_random_seed
):
    model, X, y = perceptron("real", "identity", seed=global_random_seed)
    settings = {"fisher": fisher, "damping": 0.3, "random_state": global_random_seed}
    influence = fitted(model, X, y, eigenvalue_correction=correction, **settings)
    expected = block_diagonal(influence) + 0.3 * np.eye(influence.n_params_)
    assert_close(np.linalg.inv(dense_inverse(influence)), expected, 1e-9)


@pytest.mark.parametrize("correction", [False, True])
def test_a_layer_with_constant_residuals_has_its_fisher(correction, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    residual = np.broadcast_to(rng.standard_normal((1, 1, 3)), (20, 1, 3))
    inputs, weight = rng.standard_normal((20, 4)), rng.dirichlet(np.ones(20))
    rows = KroneckerRows(residual, inputs, residual).weighted(np.sqrt(weight))
    curvature = KroneckerCurvature(rows, moments(rows, weight), np.zeros(15), correction)
    written = rows.toarray()
    solved = curvature.solve(DenseRows(np.eye(15)), 0.1).toarray()
    assert_allclose(np.linalg.inv(solved), written.T @ written + 0.1 * np.eye(15), atol=1e-10)


@pytest.mark.parametrize("sketch_size", [None, 6])
def test_every_factor_is_decomposed_once(sketch_size, monkeypatch):
    decomposed = []

    def counting(decompose):
        def count(matrix, *args, **more):
            decomposed.append(matrix)
            return decompose(matrix, *args, **more)

        return count

    for library in (scipy.linalg, np.linalg):
        for name in ("eigh", "eigvalsh"):
            monkeypatch.setattr(library, name, counting(getattr(library, name)))
    model, X, y = perceptron("real")
    influence = fitted(model, X, y, damping=0.1, sketch_size=sketch_size)
    # Two factors of every layer, and two of its sketch.
    n_factors = 2 * len(influence.layers_)
    assert len(decomposed) == (n_factors if sketch_size is None else 2 * n_factors)


def test_trace_of_a_softmax_factor_is_exact_where_classes_are_even():
    X = np.random.default_rng(0).standard_normal((40, 3))
    y = np.arange(40) % 4
    model = MLPClassifier((5,), max_iter=1, random_state=0).fit(X, y)
    model.coefs_[-1][:] = 0
    model.intercepts_[-1][:] = 0
    influence = fitted(model, X, y, damping=0.1)
    factor_rows = influence.linearisation_.objective.factor_rows("ggn")
    head = moments(factor_rows, np.full(40, 1 / 40))[-1]
    assert_allclose(np.trace(head.outputs), 1 - 1 / 4)
    assert_allclose(head.outputs, np.eye(4) / 4 - 1 / 16, atol=1e-12)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_a_layer_with_bias_is_its_dense_reference(solver, alpha, global_random_seed):
    model, X, y = perceptron("classes", solver=solver, seed=global_random_seed, alpha=alpha)
    influence = fitted(model, X, y, eigenvalue_correction=False, damping=0.2)
    objective = influence.linearisation_.objective
    factor_rows = objective.factor_rows("ggn")
    curvature, damped, start = [], [], 0
    for block in factor_rows.blocks:
        inputs = np.hstack([block.activation, np.ones((60, 1))])
        flat = block.residual.reshape(-1, block.residual.shape[2])
        (gamma, Q_E), (a, Q_A) = map(np.linalg.eigh, (flat.T @ flat, inputs.T @ inputs / 60))
        values, vectors = np.outer(gamma, a).ravel(), np.kron(Q_E, Q_A)
        vectors = vectors[column_order(len(gamma), len(a))]
        penalty = objective.l2_penalty[start : start + len(values)]
        start += len(values)
        curvature.append(vectors * values @ vectors.T)
        # Weights have a penalty and biases none: its diagonal in the basis is taken.
        damped.append(in_its_basis(vectors, values, penalty + 0.2))
    curvature, damped = block_diag(*curvature), block_diag(*damped)
    assert_close(np.linalg.inv(dense_inverse(influence)), damped, 1e-9)
    assert_allclose(
        influence.linearisation_.effective_dimension(),
        np.trace(curvature @ np.linalg.inv(damped)),
    )


def test_eigenvalue_correction_is_the_best_diagonal():
    model, X, y = perceptron("classes")
    exact = block_diagonal(fitted(model, X, y, damping=0.1))
    errors = []
    for correction in (False, True):
        influence = fitted(model, X, y, eigenvalue_correction=correction, damping=0.1)
        matrix = np.linalg.inv(dense_inverse(influence)) - 0.1 * np.eye(len(exact))
        errors.append(np.linalg.norm(matrix - exact))
        if correction:
            assert_allclose(np.trace(matrix), np.trace(exact))
    assert errors[1] < errors[0]


def test_a_linear_model_is_one_layer():
    X, y = (array[:300] for array in digits())
    for model in (LogisticRegression(C=0.1), LogisticRegression(fit_intercept=False, C=0.1)):
        model.fit(X, y)
        kfac = fitted(model, X, y, damping=1e-3).influence(X[:20], y[:20])
        exact = ExactInfluence(FrozenEstimator(model), damping=1e-3).fit(X, y)
        rank = spearmanr(kfac.ravel(), exact.influence(X[:20], y[:20]).ravel())
        assert rank.statistic > 0.7


def test_squared_loss_of_a_linear_model_is_exact(rng):
    X = rng.standard_normal((30, 4))
    y = X @ rng.standard_normal((4, 2)) + rng.standard_normal((30, 2))
    # The penalty leaves the intercept out, so its diagonal is exact without an intercept.
    model = Ridge(alpha=2.0, fit_intercept=False).fit(X, y)
    kfac, exact = fitted(model, X, y), ExactInfluence(FrozenEstimator(model)).fit(X, y)
    assert_allclose(kfac.influence(X, y), exact.influence(X, y))


def test_leaving_out_is_a_step_that_no_leverage_turns_around():
    X, y = (array[:200] for array in digits())
    model = MLPClassifier((10,), solver="lbfgs", alpha=0.1, random_state=0, max_iter=500)
    influence = fitted(model.fit(X, y), X, y, damping=1e-4)
    found = influence.leave_one_out_effect(X, y)
    assert (np.diag(found) > 0).all()
    for i in (0, 17):
        assert_close(found[:, i], change_of_losses(influence, X, y, i), 1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_other_blocks_are_dense(alpha, rng):
    X = rng.standard_normal((30, 3))
    y = X[:, 0] + rng.standard_normal(30)
    influence = fitted(HuberRegressor(alpha=alpha).fit(X, y), X, y, damping=0.1)
    objective = influence.linearisation_.objective
    F = objective.hessian("hessian")[1][0]
    values, vectors = np.linalg.eigh(F)
    # Intercept and scale have no penalty.
    assert np.ptp(objective.l2_penalty) > 0 or alpha == 0
    H = in_its_basis(vectors, values, objective.l2_penalty + 0.1)
    rows = objective.training_gradient_rows().toarray()
    assert_close(influence.influence(X, y), -rows @ np.linalg.solve(H, rows.T), 1e-9)


def shared_rows(rng, t=4):
    residual = rng.standard_normal((10, 2, t, 3))
    return SharedRows(residual, rng.standard_normal((10 * t, 5)), has_bias=True)


@pytest.mark.parametrize("shared", ["expand", "reduce"])
def test_moments_of_shared_weights_are_those_of_their_definition(shared, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    rows = shared_rows(rng)
    weight = np.full(10, 0.1)
    layer = moments(rows, weight, shared)[0]
    inputs = np.concatenate([rows.activation, np.ones((40, 1))], axis=1).reshape(10, 4, 6)
    r = rows.residual
    if shared == "expand":
        outputs = np.einsum("nstc,nstk->ck", r, r)
        expected = np.einsum("n,ntd,nte->de", weight, inputs, inputs) / 4
    else:
        outputs = np.einsum("nstc,nsuk->ck", r, r)
        expected = np.einsum("i,id,ie->de", weight, inputs.mean(1), inputs.mean(1))
    assert_allclose(layer.outputs, outputs)
    assert_allclose(layer.inputs, expected)


def test_correction_of_shared_weights_has_the_trace_of_the_fisher(global_random_seed):
    rows = shared_rows(np.random.default_rng(global_random_seed))
    layers = moments(rows, np.full(10, 0.1))
    curvature = KroneckerCurvature(rows, layers, np.zeros(18), True)
    written = rows.toarray()
    assert_allclose(curvature.bases[0].values.sum(), np.trace(written.T @ written))
    by_columns = curvature.bases[0].rotated_columns(written)
    assert_allclose(curvature.bases[0].rotated(rows), by_columns, atol=1e-12)
    again = curvature.bases[0].unrotated_columns(by_columns)
    assert_allclose(again, written, atol=1e-12)


def test_sparse_inputs_give_the_same_layer(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    residual = rng.standard_normal((10, 2, 3, 4))
    inputs = rng.standard_normal((30, 5)) * (rng.random((30, 5)) < 0.3)
    for bias in (False, True):
        results = []
        for kind in (np.asarray, sp.csr_array):
            rows = SharedRows(residual, kind(inputs), bias)
            layer = moments(rows, np.full(10, 0.1))
            results.append(KroneckerCurvature(rows, layer, np.zeros(rows.n_columns), True))
        assert_allclose(results[0].bases[0].values, results[1].bases[0].values, atol=1e-12)


def test_one_fit_serves_every_damping():
    model, X, y = perceptron("classes")
    influence = fitted(model, X, y, damping=1.0)
    other = fitted(model, X, y, damping=1e-2)
    influence.learn(influence.linearisation_.at_damping(1e-2))
    assert_allclose(influence.influence(X, y), other.influence(X, y))


def test_embedding_and_leverages_are_those_of_the_scores(global_random_seed):
    model, X, y = perceptron("classes", seed=global_random_seed, alpha=0.1)
    influence = fitted(model, X, y)
    scores = influence.influence(X, y)
    embedding = influence.transform(X, y)
    assert_close(embedding @ embedding.T, -scores, 1e-9)
    assert_allclose(influence.self_influence(), -np.diag(scores))
    gradients = influence.linearisation_.objective.to_parameters(
        influence.linearisation_.training_rows.toarray()
    )
    assert_close(gradients @ influence.parameter_influence([3, 4]).T, scores[:, [3, 4]], 1e-9)


def test_results_do_not_depend_on_batches():
    model, X, y = perceptron("classes")
    for size in (None, (3, 2)):
        expected = fitted(model, X, y, sketch_size=size).influence(X, y)
        with config_context(working_memory=5e-3):
            got = fitted(model, X, y, sketch_size=size, batch_size=7).influence(X, y)
        assert_close(got, expected, 1e-9)


# Softmax heads have a null direction, relus dead units: both are on purpose without damping.
@pytest.mark.filterwarnings("ignore::skinfluence.exceptions.NumericalWarning")
@pytest.mark.parametrize("sketch", ["nystrom", "gaussian"])
def test_a_full_sketch_loses_nothing(sketch):
    model, X, y = perceptron("classes")
    exact = fitted(model, X, y, damping=0.0 if sketch == "gaussian" else 0.01)
    full = fitted(
        model,
        X,
        y,
        damping=exact.damping_,
        sketch=sketch,
        sketch_size=(6, 4),
        eigenvalue_correction=sketch == "nystrom",
        random_state=0,
    )
    reference = exact
    if sketch == "gaussian":
        reference = fitted(model, X, y, damping=0.0, eigenvalue_correction=False)
    assert_allclose(full.influence(X, y), reference.influence(X, y), rtol=1e-5, atol=1e-9)
    if sketch == "nystrom":
        own, expected = (f.parameter_influence([0, 1]) for f in (full, reference))
        assert_allclose(own, expected, rtol=1e-4, atol=1e-8)


def test_sketches_are_factored_and_reported():
    model, X, y = perceptron("classes", alpha=0.1)
    influence = fitted(model, X, y, sketch_size=(3, 2), damping=0.05)
    assert [layer.sketch_shape for layer in influence.layers_] == [(2, 3)] * 3
    assert all(
        isinstance(block, KroneckerRows) for block in influence.linearisation_.training_rows.blocks
    )
    assert influence.n_components_ == 3 * 6
    for layer in influence.layers_:
        assert layer.effective_dimension <= layer.bound * (1 + 1e-9)
    embedding = influence.transform(X, y)
    assert embedding.shape == (60, 18)
    assert_close(embedding @ embedding.T, -influence.influence(X, y), 1e-9)
    effect = influence.leave_one_out_effect(X, y)
    for i in (0, 17):
        assert_close(effect[:, i], change_of_losses(influence, X, y, i), 1e-9)
    auto = fitted(model, X, y, sketch_size="auto", damping=0.05)
    assert auto.n_components_ <= influence.n_params_
    by_number = fitted(model, X, y, sketch_size=6, damping=0.05)
    assert all(np.prod(layer.sketch_shape) <= 6 for layer in by_number.layers_)


@pytest.mark.parametrize("sketch", ["nystrom", "gaussian"])
def test_automatic_sizes_hold_eps_on_the_kronecker_product(sketch):
    rng = np.random.default_rng(0)
    alpha, gamma = (np.arange(1, n + 1) ** -2.0 for n in (200, 100))
    inputs, outputs = (
        np.linalg.qr(rng.standard_normal((len(v), len(v))))[0] for v in (alpha, gamma)
    )
    # One sample for each pair of eigenvectors would do; the moments are enough.
    rows = KroneckerRows((outputs * np.sqrt(gamma)).T[None], np.zeros((1, 200)))
    (layer,) = moments(rows, np.ones(1))
    layer.inputs = inputs * alpha @ inputs.T
    ridge, eps = 0.05, 0.4
    report = describe("layer", layer, ridge)
    ((m_A, m_E),) = sketch_sizes("auto", [layer], [report], ridge, kind=sketch, eps=eps)
    assert 1 < m_A < 150 and 1 < m_E < 100
    drawn = draw_layer_sketch(layer, (m_A, m_E), sketch, np.random.RandomState(0))
    roots = [
        P @ (Q * np.sqrt(v))
        for P, Q, v in ((drawn.outputs, outputs, gamma), (drawn.inputs, inputs, alpha))
    ]
    (left, E, _), (right, A, _) = (np.linalg.svd(root, full_matrices=False) for root in roots)
    left, right = roots[0].T @ left, roots[1].T @ right
    shrunk = np.outer(E**2, A**2) + ridge
    values = np.outer(gamma, alpha)

    def error(vector):
        # psi(F^1/2 P'P F^1/2) - psi(F) in the eigenbasis of F.
        matrix = vector.reshape(values.shape)
        sketched = left @ ((left.T @ matrix @ right) / shrunk) @ right.T
        return (sketched - values / (values + ridge) * matrix).ravel()

    operator = LinearOperator(2 * (values.size,), matvec=error, dtype=float)
    start = np.ones(values.size)
    worst = abs(eigsh(operator, k=1, v0=start, tol=1e-3, return_eigenvectors=False)[0])
    assert worst <= eps
    if sketch == "nystrom":
        # No smaller size would do.
        assert alpha[m_A - 1] / (alpha[m_A - 1] + ridge) > eps


def test_the_data_aware_sketch_beats_the_random_one():
    X, y = (array[:400] for array in digits())
    model = MLPClassifier((20,), solver="lbfgs", alpha=1.0, random_state=0, max_iter=200)
    model.fit(X, y)
    exact = fitted(model, X, y).influence(X[:30], y[:30])

    def rank(sketch):
        influence = fitted(model, X, y, sketch_size=(12, 6), sketch=sketch, random_state=0)
        return spearmanr(influence.influence(X[:30], y[:30]).ravel(), exact.ravel()).statistic

    assert rank("nystrom") > max(0.6, rank("gaussian"))


def test_ek_fac_follows_the_exact_ggn():
    X, y = iris()
    model = MLPClassifier((10,), solver="lbfgs", alpha=0.5, random_state=0, max_iter=500)
    model.fit(X, y)
    exact = ExactInfluence(FrozenEstimator(model), curvature="ggn", damping=0.01).fit(X, y)
    scores = exact.influence(X, y)
    ranks = [
        spearmanr(
            fitted(model, X, y, damping=0.01, **params).influence(X, y).ravel(), scores.ravel()
        ).statistic
        for params in ({}, {"eigenvalue_correction": False}, {"fisher": "empirical"})
    ]
    # The blocks between layers are missing: what remains is a rough picture.
    assert min(ranks) > 0.3


def test_a_singular_curvature_warns():
    model, X, y = perceptron("classes")
    influence = fitted(model, X, y, damping=0.0)
    with pytest.warns(NumericalWarning, match="Use damping > 0"):
        influence.influence(X, y)


def test_a_share_keeps_the_directions_of_most_effective_dimension():
    model, X, y = perceptron("classes", alpha=0.1)
    whole = fitted(model, X, y, damping=0.05)
    objective = whole.linearisation_.objective
    ridge = 0.05 + objective.l2_penalty.mean()
    weight = objective.weight / objective.total_weight
    layers = moments(objective.factor_rows("ggn"), weight)
    sums = []
    for layer in layers:
        spectra = [np.linalg.eigvalsh(m) for m in (layer.outputs, layer.inputs)]
        dimension = np.outer(*spectra) / (np.outer(*spectra) + ridge)
        sums += [dimension.sum(axis=1), dimension.sum(axis=0)]
    for share in (0.25, 0.5, 0.8):
        influence = fitted(model, X, y, damping=0.05, sketch_size=share)
        sizes = np.ravel([layer.sketch_shape for layer in influence.layers_])
        smallest = np.sort(np.concatenate(sums))[-round(share * 25)]
        # Every layer keeps one direction at least.
        assert sizes.tolist() == [max(1, (side >= smallest).sum()) for side in sums]
    full = fitted(model, X, y, damping=0.05, sketch_size=0.999)
    assert_allclose(full.influence(X, y), whole.influence(X, y), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [(0, 2), (2,), ("a", 2), 0, 0.0, 1.0, "large"])
def test_sketch_sizes_are_checked(size):
    model, X, y = perceptron("classes")
    with pytest.raises(ValueError, match="sketch_size"):
        fitted(model, X, y, sketch_size=size)
