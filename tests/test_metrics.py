"""The measures against independent formulas, signs, and what they refuse."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import linregress, pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

from skinfluence.metrics import (
    almost_positive,
    bootstrap_interval,
    faithfulness,
    label_sign_agreement,
    leave_one_out_correlation,
    linear_datamodeling_score,
    mislabel_detection_auc,
)

N_QUERIES, N_TRAIN, N_SUBSETS, N_PARAMS = 4, 30, 25, 3


class Ridge:
    """Linear regression with a penalty, its refits and its influences, by hand."""

    penalty = 0.3

    def __init__(self, rng):
        self.X = rng.normal(size=(N_TRAIN, N_PARAMS))
        self.y = self.X.sum(axis=1) + rng.normal(size=N_TRAIN)
        self.X_query = rng.normal(size=(N_QUERIES, N_PARAMS))
        self.y_query = self.X_query.sum(axis=1) + rng.normal(size=N_QUERIES)

    def hessian(self, weight):
        return self.X.T * weight @ self.X + self.penalty * np.eye(N_PARAMS)

    def losses(self, weight):
        coef = np.linalg.solve(self.hessian(weight), self.X.T @ (weight * self.y))
        return (self.X_query @ coef - self.y_query) ** 2 / 2

    def gradients(self, X, y):
        weight = np.ones(N_TRAIN)
        coef = np.linalg.solve(self.hessian(weight), self.X.T @ self.y)
        return (X @ coef - y)[:, None] * X

    def influence(self):
        inverse = N_TRAIN * np.linalg.inv(self.hessian(np.ones(N_TRAIN)))
        query = self.gradients(self.X_query, self.y_query)
        return -query @ inverse @ self.gradients(self.X, self.y).T


# ---------------------------------------------------------------------------
# Linear datamodeling score
# ---------------------------------------------------------------------------


def test_lds_is_spearman_of_sums_and_losses(rng):
    # Few distinct values, so that there are ties in both rankings.
    influence = rng.integers(-2, 3, size=(N_QUERIES, N_TRAIN))
    subsets = rng.random((N_SUBSETS, N_TRAIN)) < 0.5
    losses = rng.integers(0, 5, size=(N_QUERIES, N_SUBSETS)).astype(float)
    weight = rng.integers(1, 4, size=N_TRAIN)
    expected = [
        spearmanr([sum(weight[s] * i[s]) for s in subsets], loss).statistic
        for i, loss in zip(influence, losses, strict=True)
    ]
    actual = linear_datamodeling_score(influence, subsets, losses, sample_weight=weight)
    assert_allclose(actual, expected, atol=1e-12)


def test_lds_of_real_refits_has_the_sign_of_influence_on_the_loss(rng):
    ridge = Ridge(rng)
    subsets = rng.random((50, N_TRAIN)) < 0.9
    losses = np.transpose([ridge.losses(subset.astype(float)) for subset in subsets])
    score = linear_datamodeling_score(ridge.influence(), subsets, losses)
    assert score.mean() > 0.7
    opposite = linear_datamodeling_score(-ridge.influence(), subsets, losses)
    assert_allclose(opposite, -score)


def test_lds_ignores_unit_and_loss_offset(rng):
    influence = rng.normal(size=(N_QUERIES, N_TRAIN))
    subsets = rng.random((N_SUBSETS, N_TRAIN)) < 0.5
    losses = rng.normal(size=(N_QUERIES, N_SUBSETS))
    assert_allclose(
        linear_datamodeling_score(1e-9 * influence, subsets, 10 + 3 * losses),
        linear_datamodeling_score(influence, subsets, losses),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, int])
def test_lds_finds_sums_constant_up_to_rounding(dtype):
    # Each subset has the same number of rows of equal influence.
    subsets = np.random.default_rng(0).permuted(np.tile(np.arange(1001) < 500, (40, 1)), axis=1)
    influence = np.full((1, 1001), 0.1 if dtype is not int else 7, dtype=dtype)
    with pytest.raises(ValueError, match="the predicted sums of query 0 are constant"):
        linear_datamodeling_score(influence, subsets, np.arange(40.0)[None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": np.ones((2, 3))}, r"losses of query 0 are constant \(2 of 2"),
        ({"losses": [[1, 2, 3], [4, 4, 4]]}, r"losses of query 1 are constant \(1 of"),
        ({"influence": np.zeros((2, 4))}, "predicted sums of query 0 are constant"),
        ({"losses": np.ones((3, 2))}, r"losses must have.*= \(2, 3\), got \(3, 2\)"),
        ({"subsets": np.ones((3, 5), bool)}, r"subsets must have the shape.*= \(3, 4"),
        ({"subsets": [True, False, True]}, r"subsets must have the shape"),
        ({"subsets": [[0, 1], [1, 2], [2, 3]]}, "subsets must be an array of booleans"),
        ({"sample_weight": np.ones(3)}, r"sample_weight must have.*\(n_train,\) = "),
        ({"influence": [[1, 2, 3, np.nan]] * 2}, "Input influence contains NaN"),
        ({"losses": [[1, 2, np.inf]] * 2}, "Input losses contains infinity"),
        ({"influence": np.ones(4)}, "Expected 2D array, got 1D array"),
        ({"influence": "all"}, "The 'influence' parameter of linear_datamodeling_sco"),
    ],
)
def test_lds_says_what_is_wrong(change, message):
    arguments = {
        "influence": [[1.0, 2.0, 3.0, 5.0], [3.0, 1.0, 2.0, 0.0]],
        "subsets": np.eye(3, 4, dtype=bool),
        "losses": [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]],
    }
    with pytest.raises(ValueError, match=message):
        linear_datamodeling_score(**{**arguments, **change})


def test_lds_of_one_subset_is_not_defined():
    with pytest.raises(ValueError, match="at least two subsets, got 1"):
        linear_datamodeling_score([[1.0, 2.0]], [[True, False]], [[1.0]])


# ---------------------------------------------------------------------------
# Leave-one-out correlation
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_leave_one_out_is_pearsonr_and_linregress(rng, scale):
    predicted = rng.normal(size=(N_QUERIES, N_TRAIN))
    actual = 2 * predicted + rng.normal(size=(N_QUERIES, N_TRAIN)) + 5
    result = leave_one_out_correlation(predicted, scale * actual)
    pairs = list(zip(predicted, actual, strict=True))
    assert_allclose(result.pearson, [pearsonr(*pair).statistic for pair in pairs])
    assert_allclose(result.slope, [scale * linregress(*pair).slope for pair in pairs])


def test_leave_one_out_pools_the_queries_of_flat_arrays(rng):
    predicted, actual = rng.normal(size=(2, N_QUERIES, N_TRAIN))
    result = leave_one_out_correlation(predicted.ravel(), actual.ravel())
    pooled = linregress(predicted.ravel(), actual.ravel())
    assert_allclose(result.pearson, [pooled.rvalue])
    assert_allclose(result.slope, [pooled.slope])


def test_leave_one_out_effect_of_real_refits_has_slope_one(rng):
    ridge = Ridge(rng)
    everything = ridge.losses(np.ones(N_TRAIN))
    weights = 1 - 1e-4 * np.eye(N_TRAIN)
    actual = np.transpose([ridge.losses(w) - everything for w in weights])
    predicted = -1e-4 * ridge.influence() / N_TRAIN
    result = leave_one_out_correlation(predicted, actual)
    assert_allclose(result.pearson, 1, atol=1e-5)
    assert_allclose(result.slope, 1, atol=1e-2)
    assert_allclose(leave_one_out_correlation(-predicted, actual).slope, -result.slope)


@pytest.mark.parametrize(
    ("predicted", "actual", "message"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], r"actual must have.*= \(1, 2\), got \(1, 3"),
        ([[1.0], [2.0]], [[1.0], [2.0]], "at least two rows left out per query, got 1"),
        ([[1.0, 1.0]], [[1.0, 2.0]], "predicted changes of query 0 are constant"),
        ([[1.0, 2.0]], [[1.0, 1.0]], "actual changes of query 0 are constant"),
        ([[1.0, np.nan]], [[1.0, 1.0]], "Input predicted contains NaN"),
    ],
)
def test_leave_one_out_says_what_is_wrong(predicted, actual, message):
    with pytest.raises(ValueError, match=message):
        leave_one_out_correlation(predicted, actual)


# ---------------------------------------------------------------------------
# Faithfulness
# ---------------------------------------------------------------------------


@pytest.fixture
def forms(rng):
    """Exact and sketched bilinear forms of queries and training rows."""
    root = rng.normal(size=(N_PARAMS, N_PARAMS + 2))
    train = rng.normal(size=(N_TRAIN, N_PARAMS))
    query = rng.normal(size=(N_QUERIES, N_PARAMS))
    exact, sketched = root @ root.T, root[:, 1:] @ root[:, 1:].T
    return {
        "sketched": query @ sketched @ train.T,
        "exact": query @ exact @ train.T,
        "sketched_self_influence": np.diag(train @ sketched @ train.T),
        "exact_self_influence": np.diag(train @ exact @ train.T),
        "query_scale": np.diag(query @ exact @ query.T),
    }


def test_faithfulness_is_its_loops(forms):
    result = faithfulness(**forms, quantile=0.9)
    sketched, exact, small, phi, phi_query = forms.values()
    errors = [
        abs(sketched[t, p] - exact[t, p]) / (phi_query[t] * phi[p]) ** 0.5
        for t in range(N_QUERIES)
        for p in range(N_TRAIN)
    ]
    assert_allclose(result.error_quantile, np.quantile(errors, 0.9))
    assert_allclose(result.self_influence_ratio, np.mean(small / phi))
    for t in range(N_QUERIES):
        rank = spearmanr(sketched[t], exact[t]).statistic
        assert_allclose(result.spearman[t], rank)
        length = sum(exact[t] ** 2) ** 0.5
        relative = sum((sketched[t] - exact[t]) ** 2) ** 0.5 / length
        assert_allclose(result.relative_error[t], relative)


def test_uniform_error_is_at_most_one_for_a_shrunk_form(forms):
    # 0 <= sketched <= exact as matrices, so Cauchy-Schwarz bounds each pair.
    assert faithfulness(**forms, quantile=1).error_quantile <= 1 + 1e-12


def test_faithfulness_takes_influences_of_either_sign(forms):
    negated = {**forms, "sketched": -forms["sketched"], "exact": -forms["exact"]}
    first, second = faithfulness(**forms), faithfulness(**negated)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    mixed = faithfulness(**{**forms, "sketched": -forms["sketched"]})
    assert mixed.spearman.max() < 0


def test_faithfulness_may_be_scaled_by_something_else(forms):
    scale = 4 * forms["exact_self_influence"]
    assert_allclose(
        faithfulness(**forms, train_scale=scale).error_quantile,
        faithfulness(**forms).error_quantile / 2,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sketched", np.ones((2, 3)), r"sketched must have.*got \(2, 3\)"),
        ("exact", np.ones((N_QUERIES, N_TRAIN)), "exact influences of query 0 are con"),
        ("query_scale", np.ones(2), r"query_scale must have.*\(n_queries,\) = \(4,\)"),
        ("query_scale", [1, 0, 1, 1], "query_scale must be positive, got 0 in row 1"),
        ("train_scale", -np.ones(N_TRAIN), "train_scale must be positive, got -1 in"),
        ("sketched_self_influence", np.ones(2), "sketched_self_influence must have"),
        ("exact_self_influence", [np.nan] * N_TRAIN, "exact_self_influence contains N"),
        ("quantile", 1.5, "The 'quantile' parameter of faithfulness must be a float"),
    ],
)
def test_faithfulness_says_what_is_wrong(forms, name, value, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(**{**forms, name: value})


# ---------------------------------------------------------------------------
# Labels
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_auc_is_that_of_scikit_learn(rng, share):
    flags = rng.random(200) < share
    flags[:2] = True, False
    scores = rng.integers(0, 8, size=200) + flags
    assert_allclose(mislabel_detection_auc(scores, flags), roc_auc_score(flags, scores))


def test_auc_is_one_where_the_mislabelled_score_highest():
    flags = np.array([False, True, False])
    assert mislabel_detection_auc([0.1, 0.9, 0.2], flags) == 1
    assert mislabel_detection_auc([-0.1, -0.9, -0.2], flags) == 0


@pytest.mark.parametrize(
    ("scores", "flags", "message"),
    [
        ([1.0, 2.0], [True, True], "got 2 and 0 in is_mislabelled"),
        ([1.0, 2.0], [False, False], "got 0 and 2 in is_mislabelled"),
        ([1.0, 2.0], [0, 1], "is_mislabelled must be an array of booleans, got dtype"),
        ([1.0, 2.0], [True], r"is_mislabelled must have.*= \(2,\), got \(1,\)"),
        ([1.0, np.nan], [True, False], "Input scores contains NaN"),
    ],
)
def test_auc_says_what_is_wrong(scores, flags, message):
    with pytest.raises(ValueError, match=message):
        mislabel_detection_auc(scores, flags)


@pytest.mark.parametrize("names", [[0, 1], [-1, 1], ["no", "yes"]])
def test_label_sign_agreement_counts_the_pairs(rng, names):
    influence = rng.integers(-2, 3, size=(N_QUERIES, N_TRAIN))
    y_query, y_train = rng.integers(2, size=N_QUERIES), rng.integers(2, size=N_TRAIN)
    names = np.array(names)
    actual = label_sign_agreement(influence, names[y_query], names[y_train])
    for t in range(N_QUERIES):
        obeys = [
            i < 0 if y == y_query[t] else i > 0 for i, y in zip(influence[t], y_train, strict=True)
        ]
        assert_allclose(actual[t], np.mean(obeys))


def test_theorem_on_labels_holds_under_its_assumptions(rng):
    """Non-negative features, one sigmoid unit, a non-negative inverse Hessian."""
    y_train, y_query = rng.integers(2, size=N_TRAIN), np.array([0, 1])
    inverse = rng.random((N_PARAMS, N_PARAMS))
    inverse = inverse + inverse.T
    gradients = [
        (rng.random(len(y)) - y)[:, None] * rng.random((len(y), N_PARAMS))
        for y in (y_query, y_train)
    ]
    influence = -gradients[0] @ inverse @ gradients[1].T
    assert_allclose(label_sign_agreement(influence, y_query, y_train), 1)
    assert_allclose(label_sign_agreement(-influence, y_query, y_train), 0)
    assert almost_positive(inverse, gradients[1]).largest_effect == 0


@pytest.mark.parametrize(
    ("y_query", "y_train", "message"),
    [
        ([0, 1], [0, 1], r"y_query must have the shape \(n_queries,\) = \(1,\), got"),
        ([0], [0], r"y_train must have the shape \(n_train,\) = \(2,\), got \(1,\)"),
        (["0"], [0, 1], "No label of y_query occurs in y_train, for example"),
        ([0], [0, np.nan], "Input y_train contains NaN"),
    ],
)
def test_label_sign_agreement_says_what_is_wrong(y_query, y_train, message):
    with pytest.raises(ValueError, match=message):
        label_sign_agreement([[1.0, 2.0]], y_query, y_train)


def test_almost_positive_is_its_loops(rng):
    inverse = rng.normal(size=(N_PARAMS, N_PARAMS))
    inverse = inverse + inverse.T
    train = rng.normal(size=(N_TRAIN, N_PARAMS))
    query = rng.normal(size=(N_QUERIES, N_PARAMS))
    result = almost_positive(inverse, train, query_gradients=query)

    elements = [inverse[i, j] for i in range(N_PARAMS) for j in range(N_PARAMS)]
    negative = [-h for h in elements if h < 0]
    assert_allclose(result.negative_share, len(negative) / len(elements))
    assert_allclose(result.negative_mass, sum(negative) / sum(map(abs, elements)))
    ratios, flips = [], []
    for g in query:
        for other in train:
            form = g @ inverse @ other
            raised = g @ np.clip(inverse, 0, None) @ other
            ratios.append(abs(raised - form) / abs(form))
            flips.append(np.sign(raised) != np.sign(form))
    assert_allclose(result.largest_effect, max(ratios))
    assert_allclose(result.median_effect, np.median(ratios))
    assert_allclose(result.sign_changes, np.mean(flips))


def test_almost_positive_pairs_the_gradients_with_themselves(rng):
    train = rng.normal(size=(N_TRAIN, N_PARAMS))
    inverse = np.linalg.inv(train.T @ train)
    once = almost_positive(inverse, train)
    assert once == almost_positive(inverse, train, query_gradients=train)


def test_almost_positive_of_pairs_without_influence():
    inverse = [[1.0, -1.0], [-1.0, 1.0]]
    assert almost_positive(inverse, [[0.0, 0.0]]).largest_effect == 0
    assert almost_positive(inverse, [[1.0, 1.0]]).largest_effect == np.inf


@pytest.mark.parametrize(
    ("inverse", "gradients", "message"),
    [
        (np.ones((2, 3)), np.ones((1, 2)), r"inverse_hessian must have.*= \(2, 2\), g"),
        ([[1, 2], [0, 1]], np.ones((1, 2)), "inverse_hessian must be a symmetric mat"),
        (np.zeros((2, 2)), np.ones((1, 2)), "symmetric matrix other than zero"),
        (np.eye(2), np.ones((1, 3)), r"gradients must have.*= \(1, 2\), got \(1, 3\)"),
        (np.eye(2), [[1, np.nan]], "Input gradients contains NaN"),
    ],
)
def test_almost_positive_says_what_is_wrong(inverse, gradients, message):
    with pytest.raises(ValueError, match=message):
        almost_positive(inverse, gradients)


# ---------------------------------------------------------------------------
# Bootstrap
# ---------------------------------------------------------------------------


def test_bootstrap_interval_is_that_of_normal_theory(rng):
    values = rng.normal(size=400)
    result = bootstrap_interval(values, random_state=0)
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert_allclose(result.mean, values.mean())
    expected = [values.mean() - half_width, values.mean() + half_width]
    assert_allclose([result.low, result.high], expected, atol=0.1 * half_width)


def test_bootstrap_interval_depends_on_level_and_seed(rng):
    values = rng.exponential(size=50)
    result = bootstrap_interval(values, random_state=0)
    assert result == bootstrap_interval(values, random_state=0)
    assert result != bootstrap_interval(values, random_state=1)
    narrow = bootstrap_interval(values, confidence_level=0.5, random_state=0)
    assert result.low < narrow.low < narrow.mean < narrow.high < result.high


@pytest.mark.parametrize(
    "values", [[1, 1], [0, 0, 0], [0.3] * 7, [0.1, 0.1 + 1e-17], [0, 1], [0] * 99 + [1]]
)
def test_bootstrap_interval_is_never_nan(values):
    result = bootstrap_interval(values, random_state=0)
    assert min(values) <= result.low <= result.mean <= result.high <= max(values)


@pytest.mark.parametrize(
    ("values", "parameters", "message"),
    [
        ([1.0], {}, "at least two queries, got 1"),
        ([1.0, np.nan], {}, "Input values contains NaN"),
        (
            [1.0, 2.0],
            {"confidence_level": 1.0},
            "The 'confidence_level' parameter of b",
        ),
        ([1.0, 2.0], {"n_resamples": 0}, "The 'n_resamples' parameter of bootstrap"),
    ],
)
def test_bootstrap_interval_says_what_is_wrong(values, parameters, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **parameters)


# ---------------------------------------------------------------------------
# All of them
# ---------------------------------------------------------------------------


def test_inputs_are_not_written_to(rng, forms):
    arrays = [
        rng.normal(size=(N_QUERIES, N_TRAIN)),
        rng.random((N_SUBSETS, N_TRAIN)) < 0.5,
        rng.normal(size=(N_QUERIES, N_SUBSETS)),
        *forms.values(),
    ]
    for array in arrays:
        array.flags.writeable = False
    linear_datamodeling_score(*arrays[:3], sample_weight=forms["query_scale"][[0] * 30])
    leave_one_out_correlation(arrays[0], forms["exact"])
    faithfulness(**forms)
    label_sign_agreement(arrays[0], arrays[1][0, :N_QUERIES], arrays[1][0])
    mislabel_detection_auc(forms["exact_self_influence"], arrays[1][0])


def test_data_frames_are_arrays(rng, df_module):
    influence = rng.normal(size=(N_QUERIES, N_TRAIN))
    subsets = rng.random((N_SUBSETS, N_TRAIN)) < 0.5
    losses = rng.normal(size=(N_QUERIES, N_SUBSETS))
    frames = [df_module.DataFrame(array) for array in (influence, subsets, losses)]
    assert_allclose(
        linear_datamodeling_score(*frames),
        linear_datamodeling_score(influence, subsets, losses),
    )
    flags = subsets[0]
    assert mislabel_detection_auc(
        df_module.Series(influence[0]), df_module.Series(flags)
    ) == mislabel_detection_auc(influence[0], flags)
