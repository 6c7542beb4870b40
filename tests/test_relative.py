"""RelativeHessianInfluence: subsets, the search for their size, and Theorem 2."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import eigh
from sklearn.datasets import make_classification, make_regression
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import ExactInfluence, RelativeHessianInfluence
from skinfluence.curvature import DenseCurvature, contrast_norms
from skinfluence.estimators import LepComparison, LepConditions, SamplingOrder, row_sums
from skinfluence.rows import DenseRows
from tests.helpers import assert_close, digits, spd


def make_data(n_samples=3000, n_classes=2, seed=0):
    return make_classification(
        n_samples,
        n_features=8,
        n_informative=5,
        n_redundant=0,
        n_classes=n_classes,
        random_state=seed,
    )


# ---------------------------------------------------------------------------
# Subsets
# ---------------------------------------------------------------------------


def make_order(seed=0):
    rng = np.random.RandomState(1)
    weight = rng.uniform(0.5, 2, size=400)
    weight[::5] = 0
    strata = rng.choice(4, p=[0.5, 0.3, 0.17, 0.03], size=400)
    return SamplingOrder(weight, strata=strata, random_state=seed)


@pytest.mark.parametrize("part", [(0, 40), (40, 80), (100, 260), (0, 320)])
def test_weights_of_a_subset_add_up_to_those_of_all_rows_in_every_stratum(
    part, global_random_seed
):
    order = make_order(global_random_seed)
    weight = order.weights(*part)
    assert_allclose(np.bincount(order.strata, weight), np.bincount(order.strata, order.weight))
    assert not weight[order.weight == 0].any()


def test_a_subset_of_all_rows_has_their_weights(global_random_seed):
    order = make_order(global_random_seed)
    assert_allclose(order.weights(0, len(order)), order.weight, rtol=1e-14)


@pytest.mark.parametrize("start", [0, 40])
def test_sums_over_subsets_are_those_over_all_rows_on_average(start):
    values = np.random.RandomState(2).standard_exponential(400) ** 2
    orders = [make_order(seed) for seed in range(300)]
    sums = [order.weights(start, start + 40) @ values for order in orders]
    full = orders[0].weight @ values
    # Ratios of sums, and rows that are taken along, leave a bias of the order of 1 / size.
    assert abs(np.mean(sums) - full) < 4 * np.std(sums) / np.sqrt(len(sums)) + 3 / 40 * full


def test_a_rare_class_is_in_every_subset():
    y = np.zeros(1000, dtype=int)
    y[:3] = 1
    for seed in range(20):
        order = SamplingOrder(np.ones(1000), strata=y, random_state=seed)
        for part in [(0, 2), (0, 20), (20, 40)]:
            assert_allclose(order.weights(*part)[:3].sum(), 3)


def test_two_parts_of_an_order_share_no_row(global_random_seed):
    order = make_order(global_random_seed)
    first, second = order.weights(0, 50), order.weights(50, 100)
    common = (first > 0) & (second > 0)
    # Only strata that the second part lacks may come along.
    assert set(order.strata[common]) <= {3}


# ---------------------------------------------------------------------------
# The estimator
# ---------------------------------------------------------------------------


def weighted(n_samples):
    weight = np.random.RandomState(3).uniform(0, 2, size=n_samples)
    weight[::7] = 0
    return weight


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(C=0.1),
        LogisticRegression(C=0.1, class_weight="balanced"),
        Ridge(),
        PoissonRegressor(alpha=0.1, tol=1e-8),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1.0, "auto"])
def test_all_rows_give_the_exact_influence(model, size, global_random_seed):
    X, y = make_data(200, n_classes=3, seed=global_random_seed)
    weight = weighted(200)
    if isinstance(model, (Ridge, PoissonRegressor)):
        y = 1.0 * y
    exact = ExactInfluence(model).fit(X, y, sample_weight=weight)
    relative = RelativeHessianInfluence(model, subset_size=size, random_state=global_random_seed)
    relative.fit(X, y, sample_weight=weight)
    assert_array_equal(relative.subset_indices_, np.flatnonzero(weight))
    assert_allclose(relative.influence(X[:5], y[:5]), exact.influence(X[:5], y[:5]), rtol=1e-9)
    assert_allclose(relative.self_influence(), exact.self_influence(), rtol=1e-9)


def test_hessian_is_that_of_the_subset_with_the_whole_penalty(global_random_seed):
    X, y = make_data(seed=global_random_seed)
    settings = {"subset_size": 50, "random_state": global_random_seed, "damping": 0.1}
    relative = RelativeHessianInfluence(LogisticRegression(C=0.01), **settings).fit(X, y)
    chosen = np.column_stack([X, np.ones(len(X))])[relative.subset_indices_]
    p = relative.estimator_.predict_proba(X[relative.subset_indices_])[:, 1]
    H = (chosen.T * (relative.subset_weights_ * p * (1 - p))) @ chosen / len(X)
    ridge = np.append(np.full(8, 100 / len(X)), 0) + 0.1
    assert_allclose(
        relative.linearisation_.curvature.matrix(relative.damping_), H + np.diag(ridge)
    )
    assert_allclose(relative.subset_weights_.sum(), len(X))


def test_gradients_come_from_all_rows():
    X, y = make_data()
    relative = RelativeHessianInfluence(LogisticRegression(), subset_size=60).fit(X, y)
    assert relative.subset_size_ == 60
    rows = relative.linearisation_.objective.training_gradient_rows().toarray()
    H = relative.linearisation_.curvature.matrix(relative.damping_)
    expected = -rows[:2] @ np.linalg.solve(H, rows.T)
    assert_close(relative.influence(X[:2], y[:2]), expected, 1e-9)
    assert np.isnan(relative.hessian_error_)
    assert len(relative.tried_sizes_) == 0


def test_classes_are_in_proportion():
    X, y = make_data(n_classes=3)
    relative = RelativeHessianInfluence(
        LogisticRegression(), subset_size=0.05, random_state=0
    ).fit(X, y)
    counts = np.bincount(y[relative.subset_indices_])
    assert_allclose(counts, 0.05 * np.bincount(y), atol=1)


@pytest.mark.parametrize("solver", ["direct", "gram", "cg", "lissa"])
def test_solvers_agree(solver, global_random_seed):
    X, y = make_data(600, seed=global_random_seed)
    settings = dict(subset_size=100, random_state=global_random_seed)
    model = FrozenEstimator(LogisticRegression().fit(X, y))
    direct = RelativeHessianInfluence(model, solver="direct", **settings).fit(X, y)
    other = RelativeHessianInfluence(model, solver=solver, **settings).fit(X, y)
    assert other.solver_ == solver
    wanted = direct.influence(X[:3], y[:3])
    assert_allclose(other.influence(X[:3], y[:3]), wanted, rtol=1e-6, atol=1e-9)


def test_few_rows_of_many_features_are_solved_by_their_inner_products():
    X, y = make_regression(100, 60, random_state=0)
    relative = RelativeHessianInfluence(Ridge(), subset_size=20).fit(X, y)
    assert relative.solver_ == "gram"


@pytest.mark.parametrize("n_classes", [2, 3])
def test_auto_finds_a_subset_with_the_ranks_of_the_full_hessian(n_classes):
    X, y = make_data(12_000, n_classes=n_classes)
    model = FrozenEstimator(LogisticRegression().fit(X, y))
    relative = RelativeHessianInfluence(model, random_state=0).fit(X, y)
    assert relative.subset_size_ < len(X) / 2
    assert relative.hessian_error_ <= 0.12
    assert relative.tried_errors_[-1] == relative.hessian_error_
    assert (relative.tried_errors_[:-1] > 0.12).all()
    assert relative.tried_sizes_[-1] == relative.subset_size_
    check = relative.lep_check(X[:30], y[:30])
    assert check.spearman.mean() > 0.99
    assert check.sign_agreement.mean() > 0.95
    assert_allclose(check.rho, 1, atol=0.15)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_perceptrons(curvature):
    X, y = make_data(1200)
    model = MLPClassifier((4,), activation="tanh", alpha=1.0, solver="lbfgs", random_state=0)
    model = FrozenEstimator(model.set_params(max_iter=2000).fit(X, y))
    settings = dict(damping=0.02, curvature=curvature, tol=0.3, random_state=0)
    relative = RelativeHessianInfluence(model, **settings).fit(X, y)
    check = relative.lep_check(X[:20], y[:20])
    assert check.spearman.mean() > 0.98
    assert relative.tried_sizes_[0] == 256


def test_auto_takes_all_rows_when_no_two_subsets_agree():
    X, y = make_data(500)
    relative = RelativeHessianInfluence(LogisticRegression(), tol=0.0, random_state=0).fit(X, y)
    assert relative.subset_size_ == 500
    assert relative.hessian_error_ == 0
    assert_array_equal(relative.tried_sizes_, [256])


def test_verbose_reports_the_sizes(capsys):
    X, y = make_data(600)
    RelativeHessianInfluence(LogisticRegression(), random_state=0, verbose=1).fit(X, y)
    assert "256 rows: relative error of the Hessian" in capsys.readouterr().err


def errors_of_inverse(relative, full):
    """Eigenvalues of ``H_m^{-1/2} (H - H_m) H_m^{-1/2}``."""
    H_m, H = (fit.linearisation_.curvature.matrix(fit.damping_) for fit in (relative, full))
    return eigh(H - H_m, H_m, eigvals_only=True)


@pytest.fixture(scope="module", params=[2, 4])
def grown(request):
    X, y = make_data(30_000, n_classes=request.param, seed=1)
    model = FrozenEstimator(LogisticRegression().fit(X, y))
    relative = RelativeHessianInfluence(model, random_state=0).fit(X, y)
    return relative, ExactInfluence(model).fit(X, y), X, y


def test_a_step_adds_less_than_the_rows_that_there_are(grown):
    sizes = grown[0].tried_sizes_
    assert len(sizes) > 3
    assert (sizes[1:] / sizes[:-1] < 2).all()
    assert (sizes[1:] > sizes[:-1]).all()


def test_hessian_of_a_grown_subset_is_that_of_its_weighted_rows(grown):
    relative, _, X, _ = grown
    chosen = np.column_stack([X, np.ones(len(X))])[relative.subset_indices_]
    p = relative.estimator_.predict_proba(X[relative.subset_indices_])
    weight = relative.subset_weights_ / len(X)
    # The trace of the Hessian over the parameters of two classes or more.
    spread = p[:, 0] * p[:, 1] if p.shape[1] == 2 else (p * (1 - p)).sum(axis=1)
    ridge = relative.linearisation_.objective.l2_penalty.sum()
    trace = (weight * spread) @ np.einsum("ij,ij->i", chosen, chosen) + ridge
    matrix = relative.linearisation_.curvature.matrix(0.0)
    assert_allclose(np.trace(matrix), trace, rtol=1e-10)
    if p.shape[1] == 2:
        H = (chosen.T * (weight * spread)) @ chosen + np.diag(np.append(np.full(8, 1 / len(X)), 0))
        assert_allclose(matrix, H, rtol=1e-10, atol=1e-12)


def test_the_error_of_the_hessian_is_what_the_halves_estimate(grown):
    relative, full, _, _ = grown
    error = np.abs(errors_of_inverse(relative, full)).max()
    # One draw of some ten directions: its largest error varies by a third.
    assert 0.6 < error / relative.hessian_error_ < 1.4
    # The search stops near the size that is needed.
    assert relative.hessian_error_ > 0.8 * relative.tol


def test_the_error_of_the_hessian_bounds_that_of_every_influence(grown):
    relative, full, X, y = grown
    rng = np.random.RandomState(0)
    # Queries from the data, and from where there is none.
    Xq = np.concatenate([X[:20], 10 * rng.standard_normal((20, 8)), -X[20:40]])
    yq = y[:60]
    gap = np.abs(relative.influence(Xq, yq) - full.influence(Xq, yq))
    # The embedding of a row has its self-influence as squared length.
    size = [np.linalg.norm(relative.transform(*pair), axis=1) for pair in ((Xq, yq), (X, y))]
    error = np.abs(errors_of_inverse(relative, full)).max()
    for known in (error, relative.hessian_error_):
        assert (gap <= known / (1 - known) * np.outer(*size) * (1 + 1e-9)).all()
    # It is no idle bound: some influence comes near to it.
    assert (gap > 0.3 * error * np.outer(*size)).any()


@pytest.mark.parametrize("solver", ["gram", "cg"])
def test_auto_finds_the_same_rows_by_every_solver(solver):
    X, y = make_data(1500)
    settings = dict(tol=0.25, random_state=0)
    model = FrozenEstimator(LogisticRegression().fit(X, y))
    direct = RelativeHessianInfluence(model, solver="direct", **settings).fit(X, y)
    other = RelativeHessianInfluence(model, solver=solver, **settings).fit(X, y)
    assert len(direct.tried_sizes_) > 1 and direct.subset_size_ < 1500
    assert other.solver_ == solver
    assert_array_equal(other.subset_indices_, direct.subset_indices_)
    assert_allclose(other.tried_errors_, direct.tried_errors_, rtol=1e-6)


def dense(matrix, ridge=0.0):
    p = len(matrix)
    return DenseCurvature(np.arange(p)[None], matrix[None], np.full(p, ridge))


@pytest.mark.parametrize("p", [1, 5, 60])
def test_contrast_norms_are_spectral_norms(p, rng):
    parts = [spd(rng, p) for _ in range(3)]
    contrasts = np.array([[1.0, -1, 0], [0.5, 0.5, -1]])
    reference = sum(parts) / 3
    curvatures = [dense(part, 0.1) for part in parts]
    found = contrast_norms(curvatures, contrasts, dense(reference, 0.1), 0.2, rng)
    for norm, c in zip(found, contrasts, strict=True):
        difference = sum(a * part for a, part in zip(c, parts, strict=True))
        values = eigh(difference, reference + 0.3 * np.eye(p), eigvals_only=True)
        assert 0.95 < norm / np.abs(values).max() < 1 + 1e-9


def test_contrast_norms_of_equal_and_of_indefinite_curvatures(rng):
    H, other = dense(spd(rng, 4)), dense(spd(rng, 4))
    contrast = np.array([[1.0, -1.0]])
    assert_array_equal(contrast_norms([H, H], contrast, other, 0.0, rng), 0)
    saddle = dense(np.diag([1.0, 1, 1, -1]))
    assert_array_equal(contrast_norms([H, other], contrast, saddle, 0.0, rng), np.inf)


# ---------------------------------------------------------------------------
# Theorem 2
# ---------------------------------------------------------------------------


def test_row_sums_and_conditions_are_those_of_the_matrices(rng):
    p, delta = 6, 0.4
    H, H_m = spd(rng, p), spd(rng, p)
    queries, rows = rng.standard_normal((3, p)), rng.standard_normal((5, p))
    ratio = (queries @ np.linalg.solve(H, rows.T)) / (queries @ np.linalg.solve(H_m, rows.T))
    carry = H_m @ np.linalg.inv(H)
    deltas = np.full(3, delta)
    conditions = LepConditions(queries, rows, rows @ carry.T, carry @ np.ones(p), ratio)
    sums = row_sums(deltas, queries, carry @ np.ones(p))
    for t, query in enumerate(queries):
        G = np.outer(np.ones(p), query) + delta * np.eye(p)
        W = G @ carry @ np.linalg.inv(G)
        assert_allclose(sums[t], W.sum(axis=1), rtol=1e-9)
        for i, row in enumerate(rows):
            r = ratio[t, i]
            gap = np.linalg.inv(H) - r * np.linalg.inv(H_m)
            N = delta * H_m @ np.linalg.inv(G) @ gap
            size = np.linalg.norm(G @ N @ row) / np.linalg.norm(r * G @ row)
            assert_allclose(conditions.first(deltas)[t, i], size, rtol=1e-6)
            dropped = np.linalg.norm(W @ row) + abs(r) * np.linalg.norm(row)
            kept = abs(r * (query @ row)) * np.sqrt(p)
            second = conditions.second(deltas)[t, i]
            assert_allclose(second, delta * dropped / kept, rtol=1e-6)
            distance = np.sqrt(np.mean((sums[t] - r) ** 2)) / abs(r)
            assert distance <= size * (1 + second) + second


def compare(H, H_m, queries, rows):
    return LepComparison(
        DenseRows(queries),
        DenseRows(rows),
        lambda v: DenseRows(np.linalg.solve(H, v.toarray().T).T),
        lambda v: DenseRows(np.linalg.solve(H_m, v.toarray().T).T),
        lambda v: v @ H_m,
    ).result(None, 0.1)


@pytest.mark.parametrize("c", [1.0, 0.25, 3.0])
def test_a_multiple_of_the_hessian_gives_that_multiple(c, rng):
    H = spd(rng, 5)
    result = compare(H, c * H, rng.standard_normal((4, 5)), rng.standard_normal((50, 5)))
    assert_allclose(result.rho, c)
    assert_allclose(result.dispersion, 0, atol=1e-10)
    assert_allclose(result.row_sum, c)
    assert result.is_preserving.all()
    assert result.first_condition.max() < 1e-5
    assert result.second_condition.max() < 1e-5


def test_preserving_means_most_of_the_influence_not_half_of_the_rows(rng):
    # Sixty small rows have the ratio 1; forty rows with most of the influence have others.
    H, query = np.eye(2), np.array([[1.0, 1.0]])
    small = np.column_stack([np.zeros(60), rng.uniform(0.01, 0.02, 60)])
    large = np.column_stack([rng.uniform(1, 2, 40), np.zeros(40)])
    rows = np.concatenate([small, large])
    result = compare(H, np.diag([1.5, 1.0]), query, rows)
    assert result.dispersion[0] == 0
    lost = large.sum() / rows.sum()
    assert result.preserved_share[0] == pytest.approx(1 - lost)
    assert not result.is_preserving[0]
    assert compare(H, 1.5 * H, query, rows).preserved_share[0] == 1


def test_row_sum_is_the_ratio_where_the_conditions_hold():
    # A subset that changes the Hessian in all directions but that of the query's gradient, an
    # eigenvector: it is no multiple of the full Hessian, and yet preserves this estimate.
    rng = np.random.RandomState(0)
    H, other = spd(rng, 6), spd(rng, 6)
    query = np.linalg.eigh(H)[1][:, 2]
    across = np.eye(6) - np.outer(query, query)
    rows = rng.standard_normal((60, 6))
    result = compare(H, 1.7 * H + across @ other @ across, query[None], rows)
    assert_allclose(result.dispersion, 0, atol=1e-9)
    assert max(result.first_condition[0], result.second_condition[0]) < 1e-4
    assert_allclose(result.rho, 1.7)
    assert_allclose(result.row_sum, 1.7, rtol=1e-4)
    assert result.row_sum_spread < 1e-4


def test_a_uniform_ratio_does_not_need_the_conditions():
    # Gradients along one line: any Hessian preserves their order, whatever the row sums.
    rng = np.random.RandomState(0)
    line, queries, rows = np.ones(6), rng.uniform(1, 2, (4, 1)), rng.uniform(1, 2, (80, 1))
    result = compare(spd(rng, 6), spd(rng, 6), queries * line, rows * line)
    assert_allclose(result.dispersion, 0, atol=1e-9)
    assert result.is_preserving.all()
    assert result.first_condition.min() > 0.1


def test_identical_subsets_give_one():
    X, y = make_data(400)
    relative = RelativeHessianInfluence(LogisticRegression(), subset_size=1.0).fit(X, y)
    check = relative.lep_check(X[:10], y[:10])
    assert check.reference == "full" and check.reference_size == 400
    assert_allclose(check.rho, 1)
    assert_allclose(check.dispersion, 0, atol=1e-12)
    assert_allclose(check.spearman, 1)
    assert_allclose(check.row_sum, 1)


def test_check_against_a_second_subset():
    X, y = make_data(6000)
    relative = RelativeHessianInfluence(LogisticRegression(), subset_size=500, random_state=0)
    relative.fit(X, y)
    full = relative.lep_check(X[:20], y[:20])
    subset = relative.lep_check(X[:20], y[:20], reference="subset")
    assert subset.reference == "subset" and subset.reference_size == 2000
    again = relative.lep_check(X[:20], y[:20], reference="subset")
    assert_array_equal(subset.dispersion, again.dispersion)
    assert np.median(subset.dispersion / full.dispersion) < 2


def test_delta_of_a_check_can_be_given():
    X, y = make_data(300)
    relative = RelativeHessianInfluence(LogisticRegression(), subset_size=100).fit(X, y)
    free = relative.lep_check(X[:5], y[:5])
    fixed = relative.lep_check(X[:5], y[:5], delta=free.delta[0])
    assert_array_equal(fixed.delta, free.delta[0])
    for name in ("first_condition", "second_condition", "row_sum"):
        assert_allclose(fixed[name][0], free[name][0])
    other = relative.lep_check(X[:5], y[:5], delta=10 * free.delta[0])
    assert (other.second_condition != free.second_condition).all()


def test_search_finds_a_subset_that_can_be_fitted_again():
    X, y = make_data(2000)
    model = FrozenEstimator(LogisticRegression().fit(X, y))
    relative = RelativeHessianInfluence(model, subset_size=100, random_state=0).fit(X, y)
    found = relative.lep_search(X[:10], y[:10], n_iter=12, random_state=0)
    assert found.score == found.scores.min()
    assert found.scores.shape == found.dispersions.shape == (12,)
    again = relative.set_params(random_state=found.random_state).fit(X, y)
    assert_array_equal(again.subset_indices_, found.subset_indices)
    assert (
        np.median(again.lep_check(X[:10], y[:10]).dispersion)
        == found.dispersions[found.scores.argmin()]
    )


# ---------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["direct", "gram"])
def test_a_subset_that_is_too_small_for_the_rank_is_refused(solver):
    X, y = make_regression(200, 30, noise=1.0, random_state=0)
    relative = RelativeHessianInfluence(
        LinearRegression(), subset_size=20, damping=0, solver=solver
    )
    with pytest.raises(
        ValueError,
        match=r"subset of 20 rows \(subset_size=20\) is too small: 31 coordinates have neither "
        r"penalty nor damping, .* at most rank 20 .* at least 31 rows, or damping > 0",
    ):
        relative.fit(X, y)
    assert relative.set_params(damping=0.1).fit(X, y).subset_size_ == 20


@pytest.mark.parametrize("stratify", [True, False])
def test_a_class_without_weight_need_not_be_in_a_subset(stratify):
    X, y = make_data(400, n_classes=3)
    y[:4], weight = 3, np.ones(400)
    weight[:4] = 0.0
    model = LogisticRegression(tol=1e-10, max_iter=10_000)
    influence = RelativeHessianInfluence(
        model, subset_size=150, stratify=stratify, random_state=0
    ).fit(X, y, weight)
    exact = ExactInfluence(model).fit(X, y, weight).influence(X[50:60], y[50:60])
    found = influence.influence(X[50:60], y[50:60])
    assert np.linalg.norm(found - exact) < 0.3 * np.linalg.norm(exact)


def test_a_subset_without_one_of_the_classes_is_refused():
    X, y = make_data(1000)
    y = np.where(np.arange(1000) < 2, "rare", np.where(y, "yes", "no"))
    relative = RelativeHessianInfluence(
        LogisticRegression(), subset_size=50, stratify=False, random_state=1
    )
    with pytest.raises(ValueError, match=r"has none of the class\(es\) \['rare'\]. Use strat"):
        relative.fit(X, y)
    relative.set_params(stratify=True).fit(X, y)
    relative.set_params(subset_size=2)
    with pytest.raises(ValueError, match="subset of 2 rows .* cannot .* each of the 3 classes"):
        relative.fit(X, y)


def test_a_subset_larger_than_the_training_set_is_refused():
    X, y = make_data(100)
    relative = RelativeHessianInfluence(LogisticRegression(), subset_size=101)
    with pytest.raises(ValueError, match="subset_size=101 exceeds .* a positive weight, 100"):
        relative.fit(X, y)


def test_an_unknown_reference_is_refused():
    X, y = make_data(100)
    relative = RelativeHessianInfluence(LogisticRegression(), subset_size=50).fit(X, y)
    with pytest.raises(ValueError, match="reference must be 'auto', 'full' or 'subset'"):
        relative.lep_check(X, y, reference="exact")


def test_rows_outside_of_the_subset_have_no_leverage_in_it():
    X, y = digits()
    X, y, Xq, yq = X[:300], y[:300], X[600:630], y[600:630]
    model = LogisticRegression(C=1.0, max_iter=1000)
    expected = ExactInfluence(model).fit(X, y).leave_one_out_effect(Xq, yq)
    influence = RelativeHessianInfluence(model, subset_size=100, random_state=0).fit(X, y)
    found = influence.leave_one_out_effect(Xq, yq)
    outside = np.setdiff1d(np.arange(300), influence.subset_indices_)
    assert_close(found[:, outside], expected[:, outside], 1e-6)
    whole = RelativeHessianInfluence(model, subset_size=300, random_state=0).fit(X, y)
    assert_close(whole.leave_one_out_effect(Xq, yq), expected, 1e-8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:The Hessian of the network")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_subsets_of_a_network_give_a_curvature_that_is_definite(seed):
    X, y = digits(4)
    network = MLPClassifier((8,), max_iter=30, random_state=seed)
    influence = RelativeHessianInfluence(network, subset_size=0.5, random_state=seed)
    influence.fit(X[:200], y[:200])
    assert np.isfinite(influence.influence(X[:5], y[:5])).all()
    assert np.isfinite(influence.self_influence()).all()
