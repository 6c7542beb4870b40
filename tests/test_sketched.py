"""SketchedInfluence against written-out formulas, its guarantees and its bad input.

Some tests lower module constants (``MAX_SIZE``, ``MAX_EXACT``, ``MAX_DENSE``, ``MAX_ITER``,
``REFINING``) or raise ``N_PROBES``, to reach with small data what large data do.
"""

import copy
import functools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import eigh
from scipy.stats import spearmanr
from sklearn import linear_model as lm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.curvature import DenseCurvature, SpectralCurvature
from skinfluence.curvature.sketched import (
    SketchPlan,
    choose_projection,
    debiased_ridge,
    exact_effective_dimension,
)
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import CentredFeatures, DenseRows, KroneckerRows, Rows
from skinfluence.sketching import SKETCHES, IdentitySketch, SJLTSketch, effective_dimension
from tests import helpers
from tests.helpers import NEWTON, assert_close, cancer

ROOM = "skinfluence.curvature.sketched"
LR = functools.partial(lm.LogisticRegression, **NEWTON)
RANDOM = ["gaussian", "rademacher", "sjlt", "srdct"]
BASES = ["nystrom", "landmarks"]
KINDS = [*RANDOM, *BASES]


@parametrize_with_checks(
    [
        SketchedInfluence(lm.Ridge(), sketch="sjlt", sketch_size=3),
        SketchedInfluence(lm.LogisticRegression(), sketch_size=1, random_state=0),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def digits():
    X, y = helpers.digits(4)
    return X[:, 4:], y


def two_targets():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 30)) * np.arange(1, 31) ** -0.5
    return X, X @ rng.standard_normal((30, 2)) + rng.standard_normal((200, 2))


MODELS = {
    "binary": (cancer, LR(C=0.1)),
    "no intercept": (cancer, LR(C=0.1, fit_intercept=False)),
    "multinomial": (digits, LR(C=0.1)),
    "two ridges": (two_targets, lm.Ridge(alpha=np.array([1.0, 5.0]), tol=1e-12)),
    "active set": (two_targets, lm.ElasticNet(alpha=0.02, tol=1e-12, max_iter=100_000)),
}


@functools.cache
def problem(name):
    """Training rows, queries and a model."""
    load, model = MODELS[name]
    X, y = load()
    if name == "active set":
        y = y[:, 0]
    return X[:150], y[:150], X[150:170], y[150:170], model


def fit(name, **settings):
    X, y, Xq, yq, model = problem(name)
    settings = {"random_state": 0, **settings}
    influence = SketchedInfluence(model, **settings)
    if name == "active set":
        with pytest.warns(UserWarning, match="L1 penalty"):
            return influence.fit(X, y), Xq, yq
    return influence.fit(X, y), Xq, yq


def written_out(influence, Xq, yq):
    """Gradients of training rows and queries, F and the ridge, as dense arrays."""
    objective = influence.linearisation_.objective
    factor_rows = objective.factor_rows(influence.curvature).toarray()
    queries = objective.gradient_rows(objective.read(Xq), objective.encode(yq)).toarray()
    ridge = objective.l2_penalty + influence.damping_
    return (
        objective.training_gradient_rows().toarray(),
        queries,
        factor_rows.T @ factor_rows,
        ridge,
    )


def exact_influence(influence, Xq, yq):
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    return -queries @ np.linalg.solve(F + np.diag(ridge), rows.T)


# ---------------------------------------------------------------------------
# Formulas
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("factorized", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["binary", "no intercept", "multinomial"])
def test_scores_are_those_of_the_sketched_rows(name, kind, factorized, global_random_seed):
    settings = {"sketch": kind, "factorized": factorized, "random_state": global_random_seed}
    influence, Xq, yq = fit(name, sketch_size=24, tail=False, damping=0.01, **settings)
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    P = influence.sketch_.toarray()
    # The ridge is one number on what is sketched, and P is the identity on the rest.
    free = np.flatnonzero(ridge != ridge[0])
    sketched_ridge = np.full(len(P), ridge[0])
    sketched_ridge[len(P) - len(free) :] = ridge[free]
    assert_allclose(P[len(P) - len(free) :][:, free], np.eye(len(free)))
    H = P @ F @ P.T + np.diag(sketched_ridge)
    expected = -(queries @ P.T) @ np.linalg.solve(H, P @ rows.T)
    assert influence.sketch_size_ == 24
    assert influence.n_components_ == len(P) == 24 + len(free)
    assert_close(influence.influence(Xq, yq), expected, 1e-9)
    own = np.einsum("ij,ij->i", rows @ P.T, np.linalg.solve(H, P @ rows.T).T)
    assert_allclose(influence.self_influence(), own, rtol=1e-8)


@pytest.mark.parametrize("factorized", [True, False])
@pytest.mark.parametrize("name", ["binary", "multinomial"])
def test_tail_is_one_number_outside_of_the_basis(name, factorized, global_random_seed):
    settings = {"factorized": factorized, "random_state": global_random_seed}
    influence, Xq, yq = fit(name, sketch="nystrom", sketch_size=18, **settings)
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    Q = influence.sketch_.toarray().T
    assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=1e-12)
    inside = (queries @ Q) @ np.linalg.solve(Q.T @ (F + np.diag(ridge)) @ Q, Q.T @ rows.T)
    n_free = int((ridge != ridge[0]).sum())
    outside_curvature = np.repeat(
        influence.linearisation_.curvature.outside_curvature,
        (len(ridge) - n_free) // len(influence.linearisation_.curvature.outside_curvature),
    )
    left_out = (np.eye(len(Q)) - Q @ Q.T)[: len(outside_curvature)]
    outside = (queries @ left_out.T / (ridge[0] + outside_curvature)) @ (left_out @ rows.T)
    expected = -(inside + outside)
    scale = np.abs(expected).max()
    assert_allclose(influence.influence(Xq, yq), expected, atol=1e-9 * scale)
    embedding, training = influence.transform(Xq, yq), influence.transform(*problem(name)[:2])
    assert embedding.shape[1] == influence.n_components_ == rows.shape[1]
    assert_allclose(-embedding @ training.T, expected, atol=1e-8 * scale)
    own = np.einsum("ij,ij->i", training, training)
    assert_allclose(influence.self_influence(), own, rtol=1e-7)


def test_level_outside_is_the_mean_curvature_that_gradients_meet():
    influence, Xq, yq = fit("multinomial", sketch_size=24)
    _, _, F, _ = written_out(influence, Xq, yq)
    Q = influence.sketch_.toarray().T
    left_out = np.eye(len(Q)) - Q @ Q.T
    F_out = left_out @ F @ left_out
    d = (len(F) - 3) // 3
    for k, found in enumerate(influence.linearisation_.curvature.outside_curvature):
        block = slice(k * d, (k + 1) * d)
        expected = np.diag(F_out @ F_out)[block].sum() / np.diag(F_out)[block].sum()
        assert found == pytest.approx(expected, rel=0.3)


def test_tail_brings_the_scores_closer():
    errors = []
    for tail in (True, False):
        influence, Xq, yq = fit("multinomial", sketch_size=48, tail=tail)
        exact = exact_influence(influence, Xq, yq)
        errors.append(np.linalg.norm(influence.influence(Xq, yq) - exact) / np.linalg.norm(exact))
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("settings", [{}, {"sketch": "gaussian"}, {"factorized": False}])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*has an L1 penalty:UserWarning")
def test_all_parameters_kept_is_exact(name, settings):
    X, y, Xq, yq, model = problem(name)
    exact = ExactInfluence(model).fit(X, y)
    influence, *_ = fit(name, sketch_size=exact.n_params_, **settings)
    for method in ("influence", "leave_one_out_effect"):
        expected = getattr(exact, method)(Xq, yq)
        atol = 1e-8 * np.abs(expected).max()
        assert_allclose(getattr(influence, method)(Xq, yq), expected, rtol=0, atol=atol)
    assert_allclose(influence.self_influence(), exact.self_influence(), rtol=1e-8)
    assert_allclose(
        influence.parameter_influence([0, 3]), exact.parameter_influence([0, 3]), atol=1e-8
    )


@pytest.mark.parametrize("name", MODELS)
def test_dense_and_sparse_features_give_the_same(name):
    if name == "active set":
        pytest.skip("scikit-learn fits other coefficients to sparse features.")
    X, y, Xq, yq, model = problem(name)
    dense, *_ = fit(name, sketch_size=20)
    sparse = SketchedInfluence(model, sketch_size=20, random_state=0).fit(sp.csr_matrix(X), y)
    expected = dense.influence(Xq, yq)
    found = sparse.influence(sp.csr_matrix(Xq), yq)
    assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("settings", [{"sketch": "gaussian"}, {"tail": False}, {}])
def test_every_output_keeps_its_own_ridge(settings, global_random_seed):
    # The two targets are two problems of their own, solved with one sketch of the features.
    influence, Xq, yq = fit(
        "two ridges", sketch_size=20, random_state=global_random_seed, **settings
    )
    X, y, *_ = problem("two ridges")
    P = influence.sketch_.sketches[0].features.toarray()
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    expected = np.zeros((len(Xq), len(X)))
    for k, slope in enumerate((slice(0, 30), slice(30, 60))):
        index = np.r_[slope, 60 + k]
        B = np.zeros((11, 31))
        B[:10, :30], B[10, 30] = P, 1.0
        H = B @ F[np.ix_(index, index)] @ B.T + np.diag(np.r_[np.full(10, ridge[slope][0]), 0.0])
        z, zq = rows[:, index] @ B.T, queries[:, index] @ B.T
        expected -= zq @ np.linalg.solve(H, z.T)
        if influence.linearisation_.space.has_complement:
            tail = queries[:, slope] @ rows[:, slope].T - zq[:, :10] @ z[:, :10].T
            expected -= tail / (
                ridge[slope][0] + influence.linearisation_.curvature.outside_curvature[k]
            )
    assert_close(influence.influence(Xq, yq), expected, 1e-9)


@pytest.mark.parametrize("settings", [{"factorized": False}, {"sketch_size": (10, 1)}])
def test_ridges_that_are_mixed_are_made_one_first(settings, global_random_seed):
    settings = {"sketch": "gaussian", "sketch_size": 20, **settings}
    influence, Xq, yq = fit("two ridges", random_state=global_random_seed, **settings)
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    scale = np.append(np.sqrt(ridge[:60].mean() / ridge[:60]), [1.0, 1.0])
    P = influence.sketch_.toarray()
    moment = P @ (scale * F * scale[:, None]) @ P.T
    H = moment + np.diag(np.append(np.full(len(P) - 2, ridge[:60].mean()), [0.0, 0.0]))
    expected = -(queries * scale @ P.T) @ np.linalg.solve(H, P @ (rows * scale).T)
    assert_close(influence.influence(Xq, yq), expected, 1e-9)
    lifted = -np.linalg.solve(H, P @ (rows[:2] * scale).T).T @ P * scale
    lifted = influence.linearisation_.objective.to_parameters(lifted)
    assert_allclose(influence.parameter_influence([0, 1]), lifted, atol=1e-9)


def test_sketches_of_features_and_outputs(global_random_seed):
    settings = {"sketch": "gaussian", "random_state": global_random_seed}
    influence, Xq, yq = fit("multinomial", sketch_size=(12, 2), **settings)
    assert influence.sketch_size_ == 24
    inner = influence.sketch_.sketches[0]
    assert (inner.features.size, inner.outputs.size) == (12, 2)
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    P = influence.sketch_.toarray()
    penalty = np.append(np.full(24, ridge[0]), ridge[-3:])
    H = P @ F @ P.T + np.diag(penalty)
    expected = -(queries @ P.T) @ np.linalg.solve(H, P @ rows.T)
    assert_close(influence.influence(Xq, yq), expected, 1e-9)


def test_both_sketches_are_drawn_for_roots_of_the_factors():
    given = []

    def draw(data, size, seed):
        given.append(data)
        return SJLTSketch.draw(data, size, seed)

    influence, *_ = fit("multinomial", sketch_size=(12, 2), sketch=draw)
    second = influence.linearisation_.objective.output_curvature("hessian") / 150
    X = np.asarray(influence.linearisation_.objective.features)
    # Data whose second moments are those of the features, by the trace of what their rows curve,
    # and of the outputs.
    features, outputs = given
    traces = np.einsum("nkk->n", second)
    assert_close(features.moment(), (X.T * traces) @ X, 1e-12)
    assert_close(outputs.T @ outputs, second.sum(axis=0), 1e-12)


def test_a_callable_draws_the_sketch():
    draw = functools.partial(SJLTSketch.draw, nonzeros=2)
    influence, *_ = fit("binary", sketch=draw, sketch_size=10)
    assert influence.sketch_.sketches[0].features.nonzeros == 2
    assert influence.sketch_size_ == 10
    by_class, Xq, yq = fit("binary", sketch=SJLTSketch, sketch_size=10)
    by_name, *_ = fit("binary", sketch="sjlt", sketch_size=10)
    assert_array_equal(by_class.influence(Xq, yq), by_name.influence(Xq, yq))


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
def test_curvature_is_the_one_that_was_asked_for(curvature):
    influence, Xq, yq = fit("binary", curvature=curvature, sketch_size=28, damping=0.1)
    expected = exact_influence(influence, Xq, yq)
    assert_close(influence.influence(Xq, yq), expected, 0.02)


@pytest.mark.parametrize("kind", ["nystrom", "sjlt"])
def test_results_do_not_depend_on_batches_or_jobs(kind):
    whole, Xq, yq = fit("multinomial", sketch=kind, sketch_size=24)
    parts, *_ = fit("multinomial", sketch=kind, sketch_size=24, batch_size=7, n_jobs=2)
    for method in ("influence", "leave_one_out_effect"):
        expected = getattr(whole, method)(Xq, yq)
        assert_allclose(getattr(parts, method)(Xq, yq), expected, atol=1e-9)


def test_seed_determines_the_scores():
    first, Xq, yq = fit("binary", sketch="sjlt", sketch_size=10)
    X, y, *_, model = problem("binary")
    again = clone(first).fit(X, y)
    assert_array_equal(again.influence(Xq, yq), first.influence(Xq, yq))
    other = clone(first).set_params(random_state=1).fit(X, y)
    assert np.abs(other.influence(Xq, yq) - first.influence(Xq, yq)).max() > 0
    copy = pickle.loads(pickle.dumps(first))
    assert_array_equal(copy.influence(Xq, yq), first.influence(Xq, yq))


def test_leave_one_out_effect_is_close_to_the_exact_one():
    X, y, Xq, yq, model = problem("multinomial")
    expected = ExactInfluence(model).fit(X, y).leave_one_out_effect(Xq, yq)
    influence, *_ = fit("multinomial", sketch_size=120)
    found = influence.leave_one_out_effect(Xq, yq)
    # Every step is refined to the minimum, which the sketch can reach.
    assert_close(found, expected, 1e-7)


@pytest.mark.parametrize("kind", BASES)
def test_leverages_outside_of_a_basis_do_not_turn_steps_around(kind, monkeypatch):
    # No step is refined, which would hide them.
    monkeypatch.setattr("skinfluence.refitting.refinement.REFINING", 0)
    X, y = helpers.digits()
    X, y, Xq, yq = X[:300], y[:300], X[300:330], y[300:330]
    model = LR(C=100.0, max_iter=1000)
    expected = ExactInfluence(model).fit(X, y).leave_one_out_effect(Xq, yq)
    influence = SketchedInfluence(model, sketch=kind, sketch_size=200, random_state=0)
    influence.fit(X, y)
    rows = influence.linearisation_.space.project(
        influence.linearisation_.objective.jacobian_rows(X)
    )
    leverages = influence.linearisation_.curvature.leverages(rows, influence.damping_) / 300
    bend = influence.linearisation_.objective.output_curvature("hessian")
    assert np.linalg.eigvals(bend @ leverages).real.max() > 1
    found = influence.leave_one_out_effect(Xq, yq)
    # Measured: 0.34 of a basis of the features, 0.50 of landmarks.
    most = {"nystrom": 0.4, "landmarks": 0.6}[kind]
    assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


# ---------------------------------------------------------------------------
# Without a ridge
# ---------------------------------------------------------------------------


def low_rank():
    rng = np.random.default_rng(1)
    factor = rng.standard_normal((8, 40))
    X = rng.standard_normal((60, 8)) @ factor
    return X, X[:, 0] + rng.standard_normal(60), rng.standard_normal((5, 8)) @ factor


@pytest.mark.parametrize("kind", RANDOM)
def test_without_a_ridge_a_sketch_of_the_rank_is_exact(kind, global_random_seed):
    X, y, Xq = low_rank()
    model = lm.LinearRegression(fit_intercept=False)
    with pytest.warns(NumericalWarning, match="cannot tell these apart"):
        exact = ExactInfluence(model, damping=0.0).fit(X, y)
        expected = exact.influence(Xq, np.zeros(5))
    settings = {"damping": 0.0, "sketch": kind, "random_state": global_random_seed}
    influence = SketchedInfluence(model, sketch_size=9, **settings).fit(X, y)
    assert influence.sketch_is_injective_
    assert_allclose(influence.influence(Xq, np.zeros(5)), expected, rtol=1e-6)
    found = SketchedInfluence(model, **settings).fit(X, y)
    assert found.sketch_size_ == 9
    # One number less and nothing more can be said, though the answer is still exact.
    with pytest.warns(NumericalWarning, match="full rank 8"):
        saturated = clone(influence).set_params(sketch_size=8).fit(X, y)
    assert not saturated.sketch_is_injective_
    assert_allclose(saturated.influence(Xq, np.zeros(5)), expected, rtol=1e-6)


def test_a_saturated_sketch_is_wrong():
    X, y, Xq = low_rank()
    model = lm.LinearRegression(fit_intercept=False)
    settings = {"damping": 0.0, "sketch": "gaussian", "random_state": 0}
    exact = SketchedInfluence(model, sketch_size=20, **settings).fit(X, y)
    with pytest.warns(NumericalWarning, match="saturated"):
        small = SketchedInfluence(model, sketch_size=5, **settings).fit(X, y)
    expected = exact.influence(Xq, np.zeros(5))
    error = np.linalg.norm(small.influence(Xq, np.zeros(5)) - expected)
    assert error > 0.1 * np.linalg.norm(expected)


def test_a_basis_without_a_ridge_is_grown_to_the_rank():
    X, y, Xq = low_rank()
    model = lm.LinearRegression(fit_intercept=False)
    influence = SketchedInfluence(model, damping=0.0, random_state=0).fit(X, y)
    assert influence.sketch_size_ < X.shape[1] and influence.sketch_is_injective_
    expected = SketchedInfluence(model, damping=0.0, sketch_size=20, sketch="gaussian").fit(X, y)
    assert_allclose(
        influence.influence(Xq, np.zeros(5)), expected.influence(Xq, np.zeros(5)), rtol=1e-6
    )


# ---------------------------------------------------------------------------
# Size, effective dimension, bias
# ---------------------------------------------------------------------------


@functools.cache
def wide():
    """A ridge regression of 400 features whose moments decay like 1 / i."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((600, 400)) * np.arange(1, 401) ** -0.5
    return X, X[:, 0] + rng.standard_normal(600), lm.Ridge(alpha=60.0, fit_intercept=False)


def operator_error(influence, X, y):
    """``|| psi(F^1/2 P'P F^1/2) - psi(F) ||`` with ``psi(x) = x / (x + ridge)``."""
    _, _, F, ridge = written_out(influence, X[:2], y[:2])
    values, vectors = eigh(F)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    white = influence.linearisation_.space.project(DenseRows(root.T))
    white = influence.linearisation_.curvature.solve(white, influence.damping_).inner(white)
    exact = np.diag(np.clip(values, 0, None) / (np.clip(values, 0, None) + ridge[0]))
    return np.linalg.norm(white - exact, ord=2)


@pytest.mark.parametrize("kind", KINDS)
def test_automatic_size_keeps_the_uniform_error_below_eps(kind):
    X, y, model = wide()
    for eps in (0.45, 0.6):
        influence = SketchedInfluence(model, sketch=kind, eps=eps, random_state=0).fit(X, y)
        assert influence.sketch_size_ < 400
        assert operator_error(influence, X, y) <= eps


def unlike_outputs(c=20, d=300):
    """Factor rows that are no Kronecker product: the first output curves in 120 directions.

    Each other output curves a little along one; the residuals of all have the same trace.
    """
    inputs = np.linalg.qr(np.random.default_rng(0).standard_normal((d, 120 + c - 1)))[0].T
    inputs *= np.sqrt(np.append(np.full(120, 60), np.full(c - 1, 0.1)))[:, None]
    residual = np.zeros((120 + c - 1, 1, c))
    residual[:120, 0, 0] = np.sqrt(1 / 120)
    residual[120:, 0, 1:] = np.eye(c - 1)
    return KroneckerRows(residual, inputs)


@pytest.mark.parametrize(("eps", "c", "d"), [(0.4, 20, 300), (0.25, 8, 1100)])
def test_automatic_size_holds_eps_where_the_curvature_is_no_kronecker_product(eps, c, d):
    rows = unlike_outputs(c, d)
    gram = rows.inner(rows)
    exact = np.linalg.solve(gram + np.eye(len(gram)), gram)
    errors = []
    for seed in range(20):
        draw = SKETCHES["gaussian"].draw
        plan = SketchPlan(rows, np.ones(rows.n_columns), 0.0, draw, seed, factorized=True)
        projection = choose_projection(plan, "auto", eps=eps, delta=0.05)
        assert not projection.sketch.is_identity
        sketched = projection.project(rows)
        sketched = sketched.inner(sketched)
        shrunk = np.linalg.solve(sketched + np.eye(len(gram)), sketched)
        # || psi(CP'PC') - psi(CC') || is the error in whitened coordinates.
        errors.append(np.linalg.norm(shrunk - exact, ord=2))
    assert max(errors) <= eps


def test_a_basis_alone_is_the_smallest_whose_error_is_below_eps():
    X, y, model = wide()

    def bound(**size):
        influence = SketchedInfluence(model, sketch="nystrom", tail=False, random_state=0, **size)
        fit = influence.fit(X, y).linearisation_
        # Without the ridge outside of the basis, as much again is missing at most.
        basis = fit.space.complement_curvature(with_curvature=False)
        return influence.sketch_size_, 2 * basis.uniform_error(influence.damping_)

    size, error = bound(eps=0.3)
    assert error <= 0.3 < bound(sketch_size=size // 2)[1]


def test_a_smaller_eps_needs_a_larger_sketch():
    X, y, model = wide()
    sizes = [
        SketchedInfluence(model, sketch="sjlt", eps=eps, random_state=0).fit(X, y).sketch_size_
        for eps in (0.6, 0.45)
    ]
    assert sizes[1] == pytest.approx(sizes[0] * (0.6 / 0.45) ** 2, rel=0.05)


def test_certified_size_keeps_the_relative_error_of_most_unseen_rows_below_eps():
    X, y, model = wide()
    train, test = slice(0, 450), slice(450, 600)
    for kind, eps in (("nystrom", 0.1), ("landmarks", 0.3)):
        influence = SketchedInfluence(
            model, sketch=kind, sketch_size="certified", eps=eps, random_state=0
        ).fit(X[train], y[train])
        assert influence.sketch_size_ < 400
        error = influence.sketch_error(X[test], y[test]).relative
        assert np.mean(error["values"] <= eps) >= 0.9
        assert error.percentile_95.value < 1.1 * eps


def test_certified_basis_is_not_built_from_the_rows_that_judge_it():
    seen = []

    def draw(data, size, seed):
        seen.append(np.count_nonzero(data.squared_norms()))
        return SKETCHES["landmarks"].draw(data, size, seed)

    X, y, model = wide()
    SketchedInfluence(model, sketch=draw, sketch_size="certified", eps=0.3).fit(X, y)
    assert set(seen) == {600 - 72}


def test_certified_size_says_when_exact_is_cheaper():
    X, y, model = wide()
    influence = SketchedInfluence(model, sketch="gaussian", sketch_size="certified", eps=0.01)
    with pytest.warns(UserWarning, match="The exact solution is used"):
        influence.fit(X, y)
    assert isinstance(influence.sketch_, IdentitySketch)
    assert influence.sketch_size_ == 400


def test_a_sketch_of_more_rows_than_samples_is_not_cheaper(rng):
    # From 64 rows on a sketch holds all that 40 samples span, and has no error at all.
    X, y = rng.standard_normal((40, 200)), rng.standard_normal(40)
    influence = SketchedInfluence(lm.Ridge(), sketch_size="certified", eps=1e-6, random_state=0)
    with pytest.warns(UserWarning, match="no sketch that is cheaper"):
        influence.fit(X, y)
    assert isinstance(influence.sketch_, IdentitySketch)


def test_a_size_that_is_out_of_reach_is_said(monkeypatch):
    X, y, model = wide()
    monkeypatch.setattr(f"{ROOM}._size.MAX_SIZE", 100)
    with pytest.warns(NumericalWarning, match="eps=0.2"):
        influence = SketchedInfluence(model, sketch="sjlt", eps=0.2).fit(X, y)
    assert influence.sketch_size_ <= 100


def test_a_budget_of_numbers_is_kept_and_the_sizes_tried_are_told():
    X, y, model = wide()
    free = SketchedInfluence(model, random_state=0, eps=0.3).fit(X, y)
    assert free.tried_sizes_[-1] == free.sketch_size_ > 16
    # A basis of more than a third of the features costs more than the exact solution.
    exact = SketchedInfluence(model, random_state=0, eps=0.01).fit(X, y)
    assert exact.sketch_size_ == 400 and max(exact.tried_sizes_) <= 400 / 3
    for size in ("auto", "certified"):
        with pytest.warns(NumericalWarning, match="A sketch of 50 numbers .* does not reach"):
            tight = SketchedInfluence(
                model, sketch_size=size, max_sketch_size=50, random_state=0, eps=0.05
            ).fit(X, y)
        assert tight.sketch_size_ == 50 and tight.tried_sizes_ == (16, 32, 50)
    assert SketchedInfluence(model, sketch_size=20).fit(X, y).tried_sizes_ == ()


@pytest.mark.parametrize("eps", [0.08, 0.2, 0.34])
def test_the_size_of_a_basis_holds_eps_and_two_thirds_of_it_do_not(eps):
    X, y, model = wide()

    def fitted(**settings):
        influence = SketchedInfluence(model, random_state=0, **settings).fit(X, y)
        curvature = influence.linearisation_.curvature
        return influence, curvature.uniform_error(influence.damping_, n_iterations=50)

    auto, error = fitted(eps=eps)
    _, error_of_fewer = fitted(sketch_size=auto.sketch_size_ * 2 // 3)
    # Fewer iterations measure the error from below.
    assert error <= 1.05 * eps < 1.05 * error_of_fewer
    assert auto.sketch_size_ == auto.tried_sizes_[-1] < 134


def test_a_basis_of_many_outputs_has_a_default_budget(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 120)), rng.integers(0, 3, 300)
    model = lm.LogisticRegression(C=10, max_iter=1000)
    monkeypatch.setattr(f"{ROOM}._size.MAX_SIZE", 200)
    monkeypatch.setattr(f"{ROOM}._size.MAX_BASIS_SIZE", 90)
    with pytest.warns(NumericalWarning, match="does not reach the uniform error eps=0.05"):
        influence = SketchedInfluence(model, random_state=0, eps=0.05).fit(X, y)
    assert influence.tried_sizes_[-1] == influence.sketch_size_ <= 90
    with pytest.warns(NumericalWarning, match="max_sketch_size"):
        larger = SketchedInfluence(model, random_state=0, eps=0.05, max_sketch_size=150).fit(X, y)
    assert 90 < larger.sketch_size_ <= 150


@pytest.mark.parametrize("name", ["binary", "multinomial", "two ridges"])
def test_error_outside_of_a_basis_is_a_lower_bound_of_its_uniform_error(name):
    influence, Xq, yq = fit(name, sketch_size=16)
    _, _, F, ridge = written_out(influence, Xq, yq)
    projection = influence.linearisation_.space
    c, d = projection.plan.layer_shape
    Q = influence.sketch_.toarray()[: c * (16 // c), : c * d].T
    left_out = np.eye(c * d) - Q @ Q.T
    level = np.repeat(projection.outside_curvature, d)
    root = np.sqrt(ridge[: c * d] + level)
    operator = left_out @ (F[: c * d, : c * d] - np.diag(level)) @ left_out
    expected = np.linalg.norm(operator / np.outer(root, root), 2)
    found = projection.error_outside(n_iterations=60)
    assert 0.98 * expected < found <= expected * (1 + 1e-9)
    largest = influence.linearisation_.curvature.uniform_error(influence.damping_, n_iterations=50)
    assert found <= largest * (1 + 1e-6)


@pytest.mark.parametrize("name", ["binary", "multinomial"])
def test_uniform_error_of_a_basis_is_the_spectral_radius(name):
    influence, Xq, yq = fit(name, sketch_size=15)
    rows, _, F, ridge = written_out(influence, Xq, yq)
    Q = influence.sketch_.toarray().T
    R = np.diag(ridge)
    outside_curvature = influence.linearisation_.curvature.outside_curvature
    outside = np.eye(len(F)) - Q @ Q.T
    outside[: len(F) - len(outside_curvature)] *= np.repeat(
        outside_curvature, (len(F) - len(outside_curvature)) // len(outside_curvature)
    )[:, None]
    H_tilde = Q @ Q.T @ F @ Q @ Q.T + R + outside
    expected = np.abs(eigh(F + R, H_tilde, eigvals_only=True) - 1).max()
    found = influence.linearisation_.curvature.uniform_error(influence.damping_, n_iterations=50)
    assert found == pytest.approx(expected, rel=1e-3)
    # Eight iterations are enough for two digits.
    assert influence.linearisation_.curvature.uniform_error(influence.damping_) > 0.9 * expected


@pytest.mark.parametrize("kind", ["nystrom", "sjlt"])
def test_effective_dimension_is_exact_for_small_models(kind):
    influence, Xq, yq = fit("multinomial", sketch=kind, sketch_size=15)
    _, _, F, ridge = written_out(influence, Xq, yq)
    expected = np.trace(np.linalg.solve(F + np.diag(ridge), F))
    assert influence.effective_dimension_ == pytest.approx(expected)
    assert influence.effective_dimension_error_ == 0


@pytest.mark.parametrize("kind, n_errors", [("nystrom", 1), ("sjlt", 4)])
def test_effective_dimension_of_large_models_has_its_error(kind, n_errors, monkeypatch):
    influence, Xq, yq = fit("multinomial", sketch=kind, sketch_size=90)
    exact = influence.effective_dimension_
    monkeypatch.setattr(f"{ROOM}._effective_dimension.MAX_EXACT", 0)
    estimated, *_ = fit("multinomial", sketch=kind, sketch_size=90)
    error = estimated.effective_dimension_error_
    assert 0 < error < 0.1 * exact
    assert abs(estimated.effective_dimension_ - exact) <= n_errors * error


def test_effective_dimensions_of_the_factors():
    influence, Xq, yq = fit("multinomial", sketch_size=90)
    objective = influence.linearisation_.objective
    second = objective.output_curvature("hessian") / 150
    X = np.asarray(influence.linearisation_.objective.features)
    M = (X.T * np.linalg.norm(second, 2, axis=(1, 2))) @ X
    E, ridge = second.sum(axis=0), objective.l2_penalty[0]
    expected = (
        effective_dimension(np.linalg.eigvalsh(M), ridge),
        effective_dimension(np.linalg.eigvalsh(E), ridge * np.linalg.norm(E, 2) / eigh(M)[0][-1]),
    )
    assert influence.factor_effective_dimensions_ == pytest.approx(expected)
    # What bounds F has at least its effective dimension.
    assert influence.effective_dimension_ <= 3 * expected[0] + 3
    whole, *_ = fit("multinomial", sketch_size=90, factorized=False)
    assert not hasattr(whole, "factor_effective_dimensions_")


def test_effective_dimensions_of_the_factors_of_a_kronecker_product():
    X, y = two_targets()
    model = lm.Ridge(alpha=3.0, fit_intercept=False)
    influence = SketchedInfluence(model, sketch_size=20, random_state=0).fit(X, y)
    _, _, F, ridge = written_out(influence, X[:2], y[:2])
    A, E = F[:30, :30], np.eye(2)
    assert_allclose(F, np.kron(E, A), atol=1e-12)
    found = influence.factor_effective_dimensions_
    largest = np.linalg.norm(A, 2)
    assert found[0] == pytest.approx(effective_dimension(np.linalg.eigvalsh(A), ridge[0]))
    assert found[1] == pytest.approx(2 / (1 + ridge[0] / largest))
    # Without the factor (1 + ridge / (||A|| ||E||)) the product may be less.
    price = 1 + ridge[0] / largest
    assert price * np.prod(found) >= influence.effective_dimension_
    huge = clone(influence).set_params(damping=10 * largest).fit(X, y)
    assert np.prod(huge.factor_effective_dimensions_) < huge.effective_dimension_


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_effective_dimension_behind_a_sketched_spectrum(decay):
    values = np.arange(1, 1001) ** -decay
    ridge = 0.3 * values[40]
    expected = effective_dimension(values, ridge)
    m = int(2 * expected)
    P = np.random.default_rng(0).standard_normal((m, 1000)) / np.sqrt(m)
    seen = np.linalg.eigvalsh(P * values @ P.T)
    assert exact_effective_dimension(seen, ridge) == pytest.approx(expected, rel=0.05)
    assert effective_dimension(seen, ridge) < 0.9 * expected
    assert debiased_ridge(seen, ridge) == pytest.approx(ridge * (1 - expected / m), rel=0.05)
    # A sketch smaller than the effective dimension cannot tell it.
    few = np.sqrt(m / (m // 4)) * P[: m // 4]
    assert exact_effective_dimension(np.linalg.eigvalsh(few * values @ few.T), ridge) == np.inf


@pytest.mark.parametrize("kind", RANDOM)
def test_debiased_self_influence_is_right_on_average(kind):
    X, y, model = wide()
    exact = ExactInfluence(model).fit(X, y)
    size = int(np.ceil(1.5 * exact.effective_dimension_))
    ratios = {True: [], False: []}
    for debias in ratios:
        for seed in range(8):
            influence = SketchedInfluence(
                model, sketch=kind, sketch_size=size, debias=debias, random_state=seed
            ).fit(X, y)
            ratios[debias].append(np.mean(influence.self_influence() / exact.self_influence()))
    assert np.mean(ratios[False]) < 0.8
    assert np.mean(ratios[True]) == pytest.approx(1, abs=0.02)


def test_debiasing_serves_several_outputs_and_a_carried_intercept():
    exact = ExactInfluence(LR(C=0.1)).fit(*digits())
    influence = SketchedInfluence(
        LR(C=0.1), sketch="gaussian", sketch_size=3 * 40, debias=True, random_state=0
    ).fit(*digits())
    ratio = np.mean(influence.self_influence() / exact.self_influence())
    assert ratio == pytest.approx(1, abs=0.05)
    biased = clone(influence).set_params(debias=False).fit(*digits())
    assert np.mean(biased.self_influence() / exact.self_influence()) < 0.9


def test_the_ridge_is_debiased_by_the_curvature_without_the_intercept(rng):
    X = rng.standard_normal((200, 40))
    X[:, 0] += 3.0
    y = 2 * X[:, 0] + rng.standard_normal(200) > 8.0
    influence = SketchedInfluence(
        LR(C=0.002, tol=1e-10), sketch="gaussian", sketch_size=30, debias=True, random_state=0
    ).fit(X, y)
    fit = influence.linearisation_
    root = fit.space.project(fit.objective.factor_rows("hessian")).toarray()
    moment = root.T @ root
    edge = moment[:30, 30]
    assert np.linalg.norm(edge) > 0.1 * np.sqrt(moment[30, 30] * np.trace(moment[:30, :30]))
    effective = moment[:30, :30] - np.outer(edge, edge) / moment[30, 30]
    ridge = debiased_ridge(np.linalg.eigvalsh(effective), fit.objective.l2_penalty[0])
    H = moment + np.diag(np.append(np.full(30, ridge), 0.0))
    rows = fit.training_rows.toarray()
    assert_close(influence.influence(X, y), -rows @ np.linalg.solve(H, rows.T), 1e-8)


@pytest.mark.parametrize("name, factorized", [("binary", True), ("multinomial", False)])
def test_debiasing_sketches_features_where_there_is_one_ridge(name, factorized):
    settings = {"sketch": "gaussian", "sketch_size": 24, "debias": True}
    found, Xq, yq = fit(name, **settings)
    expected, *_ = fit(name, factorized=factorized, **settings)
    assert_close(found.influence(Xq, yq), expected.influence(Xq, yq), 1e-12)
    if not factorized:
        with pytest.raises(ValueError, match="has its own where features are sketched"):
            fit(name, factorized=True, **settings)


# Half of the penalty is not what the frozen model was fitted with.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"sketch": "gaussian", "debias": True},
        {"sketch": "gaussian", "debias": True, "factorized": False},
        {"sketch": "sjlt", "factorized": False},
        {"sketch": "nystrom"},
        {"sketch": "nystrom", "tail": False},
    ],
)
def test_damping_and_penalty_are_one_ridge(settings, rng):
    X = rng.standard_normal((80, 40)) * np.arange(1, 41) ** -0.5
    y = rng.standard_normal(80)
    model = lm.Ridge(4.0, fit_intercept=False).fit(X, y)
    settings = {"sketch_size": 30, "random_state": 0, **settings}
    full = SketchedInfluence(FrozenEstimator(model), **settings).fit(X, y)
    damping = full.linearisation_.objective.l2_penalty[0] / 2
    half = FrozenEstimator(copy.deepcopy(model).set_params(alpha=2.0))
    found = SketchedInfluence(half, damping=damping, **settings).fit(X, y)
    assert_close(found.influence(X, y), full.influence(X, y), 1e-10)
    assert_close(found.self_influence(), full.self_influence(), 1e-10)


def test_debiasing_warns_when_the_sketch_adds_more_than_the_ridge():
    X, y, model = wide()
    with pytest.warns(NumericalWarning, match="debias=True, but a sketch of size 20"):
        SketchedInfluence(model, sketch="gaussian", sketch_size=20, debias=True).fit(X, y)


# ---------------------------------------------------------------------------
# Leakage
# ---------------------------------------------------------------------------


def thin():
    """Rows that span 10 of 400 directions, and queries outside."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((120, 10)) @ rng.standard_normal((10, 400)) / 10
    return X, X[:, 0] + rng.standard_normal(120), rng.standard_normal((15, 400))


def dense_leakage(F, queries):
    values, vectors = eigh(F)
    outside = vectors[:, values < 1e-10 * values[-1]]
    return np.linalg.norm(queries @ outside, axis=1) / np.linalg.norm(queries, axis=1)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("model", [lm.Ridge(1.0), LR(C=1.0)])
def test_leakage_is_the_share_outside_of_the_range(model, intercept):
    X, y, Xq = thin()
    y, yq = y > 0, np.arange(15) % 2 > 0
    if isinstance(model, lm.LogisticRegression):
        y, yq = y + 2 * (X[:, 1] > 0), yq * 1
    model = clone(model).set_params(fit_intercept=intercept)
    influence = SketchedInfluence(model, sketch_size=60, random_state=0).fit(X, y * 1.0)
    _, queries, F, _ = written_out(influence, Xq, yq * 1.0)
    expected = dense_leakage(F, queries)
    assert expected.min() > 0.5
    assert_allclose(influence.leakage(Xq, yq * 1.0), expected, rtol=1e-6)
    assert_allclose(influence.leakage(X[:5], y[:5] * 1.0), 0, atol=1e-6)
    # Predictions have the gradients of a loss, up to a factor, where there is one output.
    if isinstance(model, lm.Ridge):
        assert_allclose(influence.leakage(Xq), expected, rtol=1e-6)


@pytest.mark.parametrize("model", [lm.Ridge(1.0), LR(C=1.0)], ids=["ridge", "logistic"])
@pytest.mark.parametrize("n", [12, 60])
def test_queries_are_projected_on_the_range_with_the_intercept(model, n, rng):
    # Few rows of many features, so that the 1 of the intercept is not in their span.
    X, Xq = rng.standard_normal((n, 40)), rng.standard_normal((7, 40))
    y, yq = np.arange(n) % 3 * 1.0, np.arange(7) % 3 * 1.0
    influence = SketchedInfluence(
        model, sketch_size=30, tail=False, project_queries=True, damping=0.1, random_state=0
    ).fit(X, y)
    rows, queries, F, _ = written_out(influence, Xq, yq)
    values, vectors = eigh(F)
    vectors = vectors[:, values > 1e-10 * values[-1]]
    projected = queries @ vectors @ vectors.T
    P = influence.sketch_.toarray()
    H = P @ F @ P.T + np.diag(influence.linearisation_.space.penalty + 0.1)
    expected = -(projected @ P.T) @ np.linalg.solve(H, P @ rows.T)
    assert_close(influence.influence(Xq, yq), expected, 1e-8)
    assert_allclose(influence.leakage(Xq, yq), dense_leakage(F, queries), atol=1e-8)


def ridge_on_thin_rows(X, y):
    """The features of a ridge regression without intercept are its gradients, up to a factor."""
    model = lm.Ridge(1.0, fit_intercept=False)
    return SketchedInfluence(model, sketch_size=10, random_state=0).fit(X, y)


@pytest.mark.parametrize("limit", [0, 20, 4096])
def test_range_is_found_by_eigenvectors_and_by_iteration(limit, monkeypatch):
    monkeypatch.setattr(f"{ROOM}._range.MAX_EIGENBASIS", limit)
    X, y, Xq = thin()
    for n in (20, 120):
        expected = dense_leakage(X[:n].T @ X[:n], Xq)
        found = ridge_on_thin_rows(X[:n], y[:n]).leakage(Xq, np.zeros(15))
        assert_allclose(found, expected, rtol=1e-5)


def test_a_range_that_is_not_found_gives_upper_bounds(monkeypatch):
    monkeypatch.setattr(f"{ROOM}._range.MAX_EIGENBASIS", 0)
    monkeypatch.setattr(f"{ROOM}._range.MAX_ITER", 3)
    X, y, Xq = thin()
    influence = ridge_on_thin_rows(X, y)
    with pytest.warns(ConvergenceWarning, match="at most the reported value"):
        found = influence.leakage(Xq, np.zeros(15))
    expected = dense_leakage(X.T @ X, Xq)
    assert (found >= expected).all() and found.max() > expected.max()


def test_leakage_error_falls_like_the_root_and_vanishes_with_projection():
    X, y, Xq = thin()
    model = lm.Ridge(1.0, fit_intercept=False)
    sizes, yq = np.array([50, 100, 200, 399]), np.zeros(15)
    exact = exact_influence(SketchedInfluence(model, sketch="identity").fit(X, y), Xq, yq)
    errors = {False: [], True: []}
    for project, found in errors.items():
        for size in sizes:
            gaps = []
            for seed in range(12):
                settings = {"sketch": "gaussian", "sketch_size": size, "random_state": seed}
                influence = SketchedInfluence(model, project_queries=project, **settings)
                influence.fit(X, y)
                gaps.append(np.linalg.norm(influence.influence(Xq, yq) - exact))
            found.append(np.mean(gaps))
    slope = np.polyfit(np.log(sizes), np.log(errors[False]), 1)[0]
    assert -0.65 < slope < -0.35
    # What is left is the error within the range, small for a ridge this weak.
    assert (np.array(errors[True]) < 0.1 * np.array(errors[False])).all()


def test_leakage_in_the_unit_of_the_score_is_the_error_that_it_adds():
    X, y, Xq = thin()
    Xq = Xq * np.geomspace(0.1, 10, 15)[:, None]
    yq = Xq[:, 0] + 1.0
    settings = {"sketch": "gaussian", "sketch_size": 100, "random_state": 0}
    model = lm.Ridge(1.0, fit_intercept=False)
    leaking = SketchedInfluence(model, **settings).fit(X, y)
    projected = clone(leaking).set_params(project_queries=True).fit(X, y)
    added = leaking.influence(Xq, yq) - projected.influence(Xq, yq)
    ratio = leaking.leakage(Xq, yq, unit="score") / np.sqrt(np.mean(added**2, axis=1))
    assert 0.7 < np.median(ratio) < 1.5 and 0.3 < ratio.min() and ratio.max() < 3
    assert not projected.leakage(Xq, yq, unit="score").any()
    basis = clone(leaking).set_params(sketch="nystrom", sketch_size=20).fit(X, y)
    assert not basis.leakage(Xq, yq, unit="score").any()
    with pytest.raises(ValueError, match="unit must be"):
        leaking.leakage(Xq, yq, unit="loss")


def test_projected_queries_have_the_exact_influence_of_the_whole():
    X, y, Xq = thin()
    model = lm.Ridge(1.0)
    influence = SketchedInfluence(
        model, sketch_size=80, tail=False, project_queries=True, random_state=0
    ).fit(X, y)
    expected = ExactInfluence(model).fit(X, y)
    yq = np.zeros(15)
    scores = expected.influence(Xq, yq)
    atol = 1e-6 * np.abs(scores).max()
    assert_allclose(influence.influence(Xq, yq), scores, rtol=0, atol=atol)
    effect = expected.leave_one_out_effect(Xq, yq)
    found = influence.leave_one_out_effect(Xq, yq)
    assert_close(found, effect, 1e-6)


# ---------------------------------------------------------------------------
# Certificate
# ---------------------------------------------------------------------------


def dense_sketched_form(influence, left, right):
    """``B~`` of dense rows."""
    fit = influence.linearisation_
    solved = fit.solve(fit.space.project(DenseRows(left)))
    return solved.inner(fit.space.project(DenseRows(right)))


@pytest.mark.parametrize("sketch", ["gaussian", "nystrom"])
def test_sketch_error_is_measured_against_the_exact_scores(sketch, monkeypatch):
    # All rows are probes, so that it does not matter which are drawn.
    monkeypatch.setattr("skinfluence.estimators._sketch_error.N_PROBES", 150)
    influence, Xq, yq = fit("multinomial", sketch=sketch, sketch_size=60)
    rows, queries, F, ridge = written_out(influence, Xq, yq)
    inverse, pseudo = np.linalg.inv(F + np.diag(ridge)), np.linalg.pinv(F, hermitian=True)
    values, vectors = eigh(F)
    root = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T
    operator = np.linalg.norm(
        dense_sketched_form(influence, root, root) - root @ inverse @ root.T, 2
    )
    row_scale = np.einsum("qp,qp->q", rows @ pseudo, rows)
    for of, arguments in ((rows, ()), (queries, (Xq, yq))):
        error = influence.sketch_error(*arguments)
        exact, sketched = of @ inverse @ rows.T, dense_sketched_form(influence, of, rows)
        gap = np.linalg.norm(sketched - exact, axis=1) / np.linalg.norm(exact, axis=1)
        assert_allclose(np.sort(error.relative["values"]), np.sort(gap), rtol=1e-5)
        assert error.relative.percentile_95.value == pytest.approx(
            np.quantile(gap, 0.95), rel=1e-5
        )
        assert error.relative.max == pytest.approx(gap.max(), rel=1e-5)
        ranks = [spearmanr(*pair).statistic for pair in zip(sketched, exact, strict=True)]
        assert error.spearman.median.value == pytest.approx(np.median(ranks), rel=1e-5)
        assert error.spearman.min == pytest.approx(min(ranks), rel=1e-5)
        scale = np.einsum("qp,qp->q", of @ pseudo, of)
        pairs = np.abs(sketched - exact) / np.sqrt(np.outer(scale, row_scale))
        pairwise = error.pairwise.percentile_95.value
        # Conjugate gradients approach the scale from below, so the error from above.
        assert np.quantile(pairs, 0.95) * (1 - 1e-4) <= pairwise < 1.5 * np.quantile(pairs, 0.95)
        # Found from below.
        assert 0.9 * operator < error.operator <= operator * (1 + 1e-4)
        assert error.operator > error.pairwise.percentile_95.value
        assert error.n_queries == len(of)


def test_sketch_error_has_intervals():
    influence, *_ = fit("multinomial", sketch="gaussian", sketch_size=60)
    error = influence.sketch_error()
    assert error.n_queries == 72
    for part in (error.relative, error.spearman, error.pairwise):
        for entry in part.values():
            if isinstance(entry, dict):
                assert entry.low <= entry.value <= entry.high
    assert error.relative.percentile_95.high == error.relative.max
    # Twenty queries give no upper limit of the 95th percentile.
    few = influence.sketch_error(*problem("multinomial")[2:4])
    assert few.relative.percentile_95.high == np.inf and few.spearman.percentile_5.low == -1
    assert few.relative.median.high < np.inf


def test_sketch_error_sees_leakage_of_the_queries_at_hand():
    X, y, Xq = thin()
    model = lm.Ridge(1.0, fit_intercept=False)
    settings = {"sketch": "gaussian", "sketch_size": 100, "random_state": 0}
    influence = SketchedInfluence(model, **settings).fit(X, y)
    assert influence.leakage(Xq).min() > 0.5
    within, outside = influence.sketch_error(), influence.sketch_error(Xq)
    assert outside.relative.median.value > 5 * within.relative.max
    projected = clone(influence).set_params(project_queries=True).fit(X, y)
    assert projected.sketch_error(Xq).relative.max < 2 * within.relative.max


def test_sketch_error_of_targets_needs_their_queries():
    influence, *_ = fit("binary", sketch="sjlt", sketch_size=10)
    with pytest.raises(ValueError, match="targets y without queries X"):
        influence.sketch_error(y=[0, 1])


def test_sketch_error_of_an_exact_sketch_is_nothing():
    influence, *_ = fit("binary", sketch="identity")
    error = influence.sketch_error()
    assert error.relative.max < 1e-6 and error.operator < 1e-6
    assert error.spearman.min > 1 - 1e-6


def arrays_of(rows, seen):
    """Arrays and sparse matrices below an object, each buffer once."""
    if id(rows) in seen:
        return
    seen.add(id(rows))
    if isinstance(rows, np.ndarray) or sp.issparse(rows):
        yield rows
    for part in [*vars(rows).values()] if hasattr(rows, "__dict__") else []:
        if isinstance(part, (Rows, CentredFeatures, np.ndarray)) or sp.issparse(part):
            yield from arrays_of(part, seen)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("factorized", [True, False])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("kind", ["nystrom", "gaussian"])
def test_stored_numbers_are_those_of_the_arrays(kind, tail, factorized, sparse):
    X, y, *_, model = problem("multinomial")
    X = sp.csr_matrix(X) if sparse else X
    influence = SketchedInfluence(
        model, sketch=kind, sketch_size=36, tail=tail, factorized=factorized, random_state=0
    ).fit(X, y)
    rows = influence.linearisation_.training_rows
    # One number for each row at least: not what all rows share, the basis and the centre.
    held = [a for a in arrays_of(rows, {id(influence.sketch_)}) if a.shape[0] == len(y)]
    assert influence.n_stored_ == pytest.approx(sum(a.size for a in held) / len(y))
    plain = 3 + 3 + 12 if factorized else 36 + 3
    if kind == "gaussian" or not tail:
        assert influence.n_stored_ == plain
    else:
        features = X.nnz / len(y) if sparse else X.shape[1]
        assert influence.n_stored_ == pytest.approx(plain + 3 + features, abs=3)


def test_a_second_fit_forgets_the_first():
    influence, *_ = fit("binary", sketch="sjlt", sketch_size=10)
    first = influence.effective_dimension_
    X, y = digits()
    influence.fit(X[:100], y[:100])
    assert first != influence.effective_dimension_


# ---------------------------------------------------------------------------
# The curvature under it
# ---------------------------------------------------------------------------


def test_one_decomposition_serves_every_damping(rng):
    factor_rows = rng.standard_normal((50, 12))
    moment, penalty = factor_rows.T @ factor_rows, rng.random(12)
    spectral = SpectralCurvature(moment, penalty)
    dense = DenseCurvature(np.arange(12)[None], moment[None], penalty)
    rows = DenseRows(rng.standard_normal((8, 12)), 2)
    for damping in (0.0, 0.1, 10.0):
        for name in ("solve", "leverages"):
            found, expected = (getattr(c, name)(rows, damping) for c in (spectral, dense))
            if name == "solve":
                found, expected = found.array, expected.array
            assert_allclose(found, expected, atol=1e-10)
        expected = dense.effective_dimension(damping)
        assert spectral.effective_dimension(damping) == pytest.approx(expected)
        white = spectral.whiten(rows, damping)
        assert_allclose(white @ white.T, dense.solve(rows, damping).inner(rows), atol=1e-10)
        H = dense.matrix(damping)
        assert_allclose(spectral.product(rows.array, damping), rows.array @ H, atol=1e-10)
        root = spectral.symmetric_root(rows, damping)
        assert_allclose(root @ root.T, white @ white.T, atol=1e-10)


def test_a_negative_curvature_is_an_error():
    spectral = SpectralCurvature(np.diag([1.0, -0.5]), np.zeros(2))
    with pytest.raises(np.linalg.LinAlgError, match="negative eigenvalue -0.5"):
        spectral.solve(DenseRows(np.ones((1, 2))), 0.0)


# ---------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sketch_size": 0}, "'sketch_size' parameter"),
        ({"sketch_size": 2.5}, "'sketch_size' parameter"),
        ({"sketch_size": "big"}, "'sketch_size' parameter"),
        ({"sketch_size": (3,)}, r"a pair \(m_A, m_E\)"),
        ({"sketch_size": (3, 0)}, r"a pair \(m_A, m_E\)"),
        ({"sketch_size": (3, 1), "factorized": False}, "not factorised"),
        ({"sketch": "fourier"}, "'sketch' parameter"),
        ({"damping": -1.0}, "'damping' parameter"),
        ({"eps": 0.0}, "'eps' parameter"),
        ({"eps": 1.0}, "'eps' parameter"),
        ({"delta": 1.5}, "'delta' parameter"),
    ],
)
def test_bad_parameters_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit("binary", **settings)


@pytest.mark.filterwarnings("ignore:.*has an L1 penalty:UserWarning")
def test_factors_that_do_not_exist_are_refused():
    X, y, *_, model = problem("active set")
    with pytest.raises(ValueError, match="factorized=True needs rows"):
        SketchedInfluence(model, factorized=True).fit(X, y)


def test_ridges_that_no_number_stands_for_are_refused():
    X, y = two_targets()
    model = lm.Ridge(alpha=np.array([0.0, 1.0]))
    influence = SketchedInfluence(
        model, factorized=False, sketch="sjlt", sketch_size=9, damping=0.0
    )
    with pytest.raises(ValueError, match="Use damping > 0"):
        influence.fit(X, y)


def test_a_size_beyond_the_parameters_is_said_once():
    with pytest.warns(UserWarning, match="larger than the 31 parameters") as record:
        influence, *_ = fit("binary", sketch_size=1000)
    assert len(record) == 1
    assert influence.sketch_size_ == 30


def test_verbose_prints_the_choice(capsys):
    fit("binary", sketch_size=10, verbose=1)
    assert "10 of 31 numbers for each row by NystromSketch" in capsys.readouterr().err
