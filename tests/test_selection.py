"""MemorizationSelector and FilteredEstimator, on real data."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from benchmarks.datasets import flip_labels
from skinfluence import (
    ExactInfluence,
    FilteredEstimator,
    KFACInfluence,
    MemorizationSelector,
    SketchedInfluence,
)
from skinfluence.curvature import eigenspaces
from skinfluence.exceptions import NumericalWarning
from tests import helpers
from tests.helpers import assert_close, dense_inverse, digits, logistic


def exact(model=None, **params):
    return ExactInfluence(logistic() if model is None else model, **params)


@pytest.fixture
def cancer():
    return helpers.cancer()


@pytest.fixture
def noisy_cancer(cancer):
    X, y = cancer
    return X, *flip_labels(y, 0.1, random_state=0)


@pytest.fixture
def wine():
    return helpers.wine()


@pytest.fixture
def diabetes():
    return helpers.diabetes()


def random_rotation(size, rng):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


# ---------------------------------------------------------------------------
# The estimators of scikit-learn
# ---------------------------------------------------------------------------


# One check leaves a single class with weight, where a logistic regression has no minimum.
@pytest.mark.filterwarnings("ignore:LogisticRegression has not converged on these rows")
@parametrize_with_checks(
    [
        MemorizationSelector(ExactInfluence(Ridge()), keep="generalizable"),
        MemorizationSelector(ExactInfluence(Ridge()), criterion="sign", random_state=0),
        FilteredEstimator(Ridge(), MemorizationSelector(random_state=0)),
    ]
)
def test_sklearn_checks(estimator, check):
    check(estimator)


# ---------------------------------------------------------------------------
# Memorization
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["cancer", "wine"])
def test_memorization_is_the_l1_norm_in_the_eigenbasis(data, request):
    X, y = request.getfixturevalue(data)
    influence = exact().fit(X, y)
    fit = influence.linearisation_.in_model_coordinates()
    values, vectors = np.linalg.eigh(fit.curvature.matrix(0.0))
    assert len(eigenspaces(values)) == len(values)
    gradients = fit.objective.training_gradient_rows().toarray()
    expected = np.abs(gradients @ vectors / values).sum(axis=1)
    assert_allclose(influence.memorization(), expected, rtol=1e-8)


def test_memorization_in_a_repeated_eigenspace_does_not_depend_on_the_basis(diabetes, rng):
    # Whitened features and no intercept: H is a multiple of the identity.
    X, y = np.linalg.qr(diabetes[0])[0], diabetes[1]
    Q = random_rotation(X.shape[1], rng)
    model = Ridge(alpha=0.5, fit_intercept=False)
    plain, rotated = exact(model).fit(X, y), exact(model).fit(X @ Q, y)
    assert_allclose(plain.memorization(), rotated.memorization(), rtol=1e-8)
    # The smallest L1 norm over all bases is the Euclidean one.
    solved = -plain.parameter_influence()
    assert_allclose(plain.memorization(), np.linalg.norm(solved, axis=1), rtol=1e-8)
    assert (plain.memorization() < np.abs(solved).sum(axis=1)).all()


def test_targets_of_a_regression_may_be_rotated(diabetes, rng):
    # Every target has the same Hessian, so each eigenvalue comes once for each of them.
    X = diabetes[0]
    Y = np.column_stack([diabetes[1], X[:, 0] ** 2, X[:, 1] * X[:, 2]])
    Q = random_rotation(3, rng)
    first, second = exact(Ridge()).fit(X, Y), exact(Ridge()).fit(X, Y @ Q)
    assert_allclose(first.memorization(), second.memorization(), rtol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gram_route_has_the_same_memorization(n_classes):
    X, y = (array[:20] for array in digits(n_classes))
    direct = exact(solver="direct").fit(X, y)
    gram = exact(solver="gram").fit(X, y)
    assert_allclose(gram.memorization(), direct.memorization(), rtol=1e-8)


def memorization_by_definition(influence):
    """Norms in the eigenspaces of the curvature that an estimator solves with."""
    fit = influence.linearisation_.in_model_coordinates()
    rows = fit.training_rows
    inverse = dense_inverse(influence)
    values, vectors = np.linalg.eigh((inverse + inverse.T) / 2)
    solved = rows.toarray() @ vectors * values
    new = np.diff(values) > 1e-6 * values[1:]
    starts = np.flatnonzero(np.concatenate([[True], new]))
    return np.sqrt(np.add.reduceat(solved**2, starts, axis=1)).sum(axis=1), len(starts)


@pytest.mark.parametrize(
    "params",
    [
        {"sketch": "gaussian"},
        {"sketch": "nystrom", "tail": False},
        {"sketch": "nystrom"},
        {"sketch": "nystrom", "damping": 1.0},
    ],
)
def test_memorization_in_the_sketched_space(wine, params):
    influence = SketchedInfluence(logistic(), sketch_size=12, random_state=0, **params)
    influence.fit(*wine)
    expected, _ = memorization_by_definition(influence)
    assert_allclose(influence.memorization(), expected, rtol=1e-6)


def test_tail_of_a_sketch_is_one_eigenspace_for_each_output(wine):
    influence = SketchedInfluence(logistic(), sketch="nystrom", sketch_size=12).fit(*wine)
    _, n_eigenspaces = memorization_by_definition(influence)
    # Three classes have two contrasts.
    assert n_eigenspaces == influence.sketch_.size + 2


@pytest.mark.parametrize("correction", [True, False])
def test_memorization_in_the_kronecker_basis(wine, correction):
    model = MLPClassifier((4,), "tanh", alpha=0.1, solver="lbfgs", tol=1e-8, random_state=0)
    influence = KFACInfluence(model, eigenvalue_correction=correction, damping=0.1).fit(*wine)
    expected, _ = memorization_by_definition(influence)
    # Values along eigenvectors of equal eigenvalues are not resolved by the reference.
    assert_allclose(influence.memorization(), expected, rtol=1e-3)


def test_memorization_of_a_singular_curvature_is_that_of_its_range(diabetes):
    X, y = diabetes
    repeated = np.column_stack([X, X[:, 0]])
    single = np.column_stack([X[:, 0] * np.sqrt(2), X[:, 1:]])
    model = LinearRegression(fit_intercept=False)
    with pytest.warns(NumericalWarning, match="cannot tell these apart: x0, x10"):
        found = exact(model, damping=0).fit(repeated, y).memorization()
    expected = exact(model, damping=0).fit(single, y).memorization()
    assert_allclose(found, expected, rtol=1e-7)


def test_memorization_does_not_depend_on_the_working_memory(cancer):
    influence = exact().fit(*cancer)
    expected = influence.memorization()
    with sklearn.config_context(working_memory=0):
        assert_allclose(influence.memorization(), expected, rtol=1e-12)


def test_memorization_needs_eigenvectors(cancer):
    influence = exact(solver="cg").fit(*cancer)
    with pytest.raises(ValueError, match="no eigenvectors .* solver='direct'"):
        influence.memorization()


def test_mislabelled_rows_are_memorized(noisy_cancer):
    X, y, flipped = noisy_cancer
    memorization = MemorizationSelector(exact()).fit(X, y).memorization_
    assert np.median(memorization[flipped]) > np.quantile(memorization[~flipped], 0.95)


# ---------------------------------------------------------------------------
# Theorem 3
# ---------------------------------------------------------------------------

CASES = [("cancer", logistic()), ("wine", logistic()), ("diabetes", Ridge())]
INFLUENCES = {
    "exact": exact(),
    "sketched": SketchedInfluence(logistic(), sketch_size=12, random_state=0),
    "gram": exact(solver="gram"),
}


@pytest.mark.parametrize("name", INFLUENCES)
def test_theorem_holds_for_every_route(name):
    X, y = (array[:80] for array in digits(3))
    selector = MemorizationSelector(
        INFLUENCES[name], criterion="sign", validation=(X[40:], y[40:])
    )
    selector.fit(X[:40], y[:40])
    # The same sign and size as the influence itself, up to the bounded loss.
    influence = selector.influence_
    fit = influence.linearisation_
    features = fit.read(X[40:])
    weight = np.exp(-fit.objective.losses(features, fit.targets(features, y[40:])))
    expected = weight @ influence.influence(X[40:], y[40:]) / len(weight)
    assert_allclose(selector.validation_influence_, expected, rtol=1e-6, atol=1e-10)
    assert_allclose(selector.memorization_, influence.memorization(), rtol=1e-6)
    assert (selector.memorization_ > selector.guaranteed_).all()


@pytest.mark.parametrize("data, model", CASES)
@pytest.mark.parametrize("n_queries", [1, 40])
def test_the_sign_of_influence_tells_memorization(data, model, n_queries, request):
    X, y = request.getfixturevalue(data)
    X, X_val, y, y_val = train_test_split(X, y, test_size=40, random_state=0)
    validation = X_val[:n_queries], y_val[:n_queries]
    selector = MemorizationSelector(exact(model), criterion="sign", validation=validation)
    selector.fit(X, y)
    harmful, helpful = selector.validation_influence_ > 0, selector.validation_influence_ < 0
    above, below = selector.sign_thresholds_
    assert harmful.any() and helpful.any() and (harmful | helpful).all()
    assert (selector.memorization_[harmful] > above).all()
    assert (selector.memorization_[helpful] > below).all()
    # The bound of each row is stronger than that of all rows at once.
    assert (selector.memorization_ > selector.guaranteed_).all()
    assert (selector.guaranteed_ >= np.where(harmful, above, below)).all()


def test_theorem_holds_by_its_definition(cancer):
    X, y = cancer
    selector = MemorizationSelector(exact(), criterion="sign", validation=(X[:1], y[:1]))
    selector.fit(X, y)
    influence = selector.influence_
    fit = influence.linearisation_.in_model_coordinates()
    values, vectors = np.linalg.eigh(fit.curvature.matrix(0.0))
    chi = fit.objective.training_gradient_rows().toarray() @ vectors
    products = chi * chi[0]
    plus = np.where(products >= 0, products, 0).sum(axis=1).min()
    minus = -np.where(products < 0, products, 0).sum(axis=1).max()
    scale = (1 / values).min() / np.abs(chi[0]).max()
    assert_allclose(selector.sign_thresholds_, [plus * scale, minus * scale], rtol=1e-6)


@pytest.mark.parametrize("data, model", CASES)
def test_theorem_holds_where_folds_judge(data, model, request):
    X, y = request.getfixturevalue(data)
    selector = MemorizationSelector(exact(model), criterion="sign").fit(X, y)
    assert (selector.memorization_ > selector.guaranteed_).all()
    assert (selector.guaranteed_ >= min(selector.sign_thresholds_)).all()


@pytest.mark.parametrize("repeated", [False, True], ids=["distinct", "two eigenspaces"])
def test_bounds_of_rows_are_those_of_the_relation(diabetes, repeated):
    # Whitened features on two scales, without an intercept, have an eigenspace for each scale.
    X, y = diabetes
    X = np.linalg.qr(X)[0] * np.repeat([1.0, 2.0], 5) if repeated else X
    model = Ridge(alpha=0.5, fit_intercept=False)
    selector = MemorizationSelector(exact(model), criterion="sign", validation=(X[:1], y[:1]))
    selector.fit(X, y)
    H = selector.influence_.linearisation_.curvature.matrix(0.0)
    values, vectors = np.linalg.eigh(H)
    chi = selector.influence_.linearisation_.training_rows.toarray() @ vectors
    # The held-out loss is that of the query, up to a positive factor that falls out.
    starts = [0, 5] if repeated else np.arange(10)
    products, values = np.add.reduceat(chi * chi[0], starts, axis=1), values[starts]
    length = np.sqrt(np.add.reduceat(chi[0] ** 2, starts)).max()
    against = np.where(
        selector.validation_influence_ > 0,
        np.maximum(products, 0) @ (1 / values),
        np.maximum(-products, 0) @ (1 / values),
    )
    assert_close(selector.guaranteed_, against / length, 1e-8)
    plus, minus = (np.maximum(sign * products, 0).sum(axis=1).min() for sign in (1, -1))
    thresholds = np.array([plus, minus]) / values.max() / length
    np.testing.assert_allclose(selector.sign_thresholds_, thresholds, rtol=1e-6, atol=1e-12)


def test_validation_influence_of_one_query_has_the_sign_of_its_influence(cancer):
    X, y = cancer
    selector = MemorizationSelector(exact(), criterion="sign", validation=(X[:1], y[:1]))
    selector.fit(X, y)
    influence = selector.influence_.influence(X[:1], y[:1])[0]
    # The bounded loss is worth exp(-loss) of the loss.
    chance = selector.influence_.estimator_.predict_proba(X[:1])[0, y[0]]
    assert_allclose(selector.validation_influence_, chance * influence, rtol=1e-8)


def test_folds_judge_the_rows_outside_them(noisy_cancer):
    X, y, flipped = noisy_cancer
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    selector = MemorizationSelector(exact(), criterion="sign", validation=cv).fit(X, y)
    harm = selector.validation_influence_
    assert (harm[flipped] > 0).mean() > 0.85
    assert (harm[~flipped] > 0).mean() < 0.15
    assert_array_equal(
        selector.memorizable_, (harm > 0) & (selector.memorization_ > selector.threshold_)
    )


@pytest.mark.filterwarnings("ignore:The least populated class in y has only 1 member")
def test_folds_without_a_class_judge_by_the_others(wine):
    X, y = wine
    rows = np.r_[np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:1]]
    selector = MemorizationSelector(exact(), criterion="sign").fit(X[rows], y[rows])
    assert np.isfinite(selector.validation_influence_).all()
    assert selector.support_[-1]


# ---------------------------------------------------------------------------
# Thresholds and what is kept
# ---------------------------------------------------------------------------


def test_threshold_is_a_number_a_quantile_or_a_fence(cancer):
    X, y = cancer
    values = exact().fit(X, y).memorization()
    first, third = np.quantile(values, [0.25, 0.75])
    expected = {
        "auto": third + 1.5 * (third - first),
        "q0.9": np.quantile(values, 0.9),
        2.5: 2.5,
    }
    for threshold, value in expected.items():
        selector = MemorizationSelector(exact(), threshold=threshold).fit(X, y)
        assert_allclose(selector.threshold_, value)
        assert_array_equal(selector.memorizable_, values > selector.threshold_)


@pytest.mark.parametrize("validation", [3, "set"])
def test_threshold_of_the_sign_is_the_third_quartile(cancer, validation):
    X, y = cancer
    validation = (X[:9], y[:9]) if validation == "set" else validation
    selector = MemorizationSelector(exact(), criterion="sign", validation=validation).fit(X, y)
    assert_allclose(selector.threshold_, np.quantile(selector.memorization_, 0.75))
    # Every row is above D+, so the theorem's threshold asks for no more.
    assert selector.memorization_.min() > selector.sign_thresholds_[0]


def test_all_memorizable_rows_are_kept_and_a_share_of_the_others(wine):
    X, y = wine
    selector = MemorizationSelector(exact(), generalizable_fraction=0.3, random_state=0)
    selector.fit(X, y)
    memorizable, kept = selector.memorizable_, selector.support_
    assert 0 < memorizable.sum() < len(y)
    assert kept[memorizable].all()
    for label in np.unique(y):
        rest = (y == label) & ~memorizable
        assert kept[rest].sum() == round(0.3 * rest.sum())
        # The weights of a class stand for all of its rows.
        assert_allclose(selector.sample_weight_[y[kept] == label].sum(), (y == label).sum())
    assert_array_equal(selector.sample_weight_[memorizable[kept]], 1.0)


def test_cleaning_drops_the_memorizable_rows(cancer):
    selector = MemorizationSelector(exact(), keep="generalizable").fit(*cancer)
    assert_array_equal(selector.support_, ~selector.memorizable_)
    assert_array_equal(selector.sample_weight_, 1.0)
    assert_array_equal(selector.get_support(indices=True), selector.sample_indices_)
    assert_array_equal(selector.get_support(), selector.support_)


def test_sample_follows_the_random_state(wine):
    def kept(seed):
        return MemorizationSelector(exact(), random_state=seed).fit(*wine).support_

    assert_array_equal(kept(0), kept(0))
    assert (kept(0) != kept(1)).any()


def test_a_tiny_share_keeps_a_row_of_every_class(wine):
    X, y = wine
    selector = MemorizationSelector(
        exact(), threshold="q1", generalizable_fraction=0.001, random_state=0
    )
    assert_array_equal(np.sort(y[selector.fit(X, y).support_]), [0, 1, 2])


@pytest.mark.parametrize("labels", [["b", "a"], [1, -1], [2.0, 1.0], [True, False]])
def test_labels_are_only_names(cancer, labels):
    X, y = cancer
    selector = MemorizationSelector(exact(), random_state=0)
    named = clone(selector).fit(X, np.array(labels)[1 - y])
    assert_array_equal(named.support_, selector.fit(X, y).support_)


def test_default_influence_follows_the_targets(cancer, diabetes):
    X, y = cancer
    for targets in (y, y.astype(float), np.array(["a", "b"])[y]):
        influence = MemorizationSelector().fit(X, targets).influence_
        assert isinstance(influence.estimator_, LogisticRegression)
    influence = MemorizationSelector().fit(*diabetes).influence_
    assert isinstance(influence.estimator_, Ridge)


def test_resampling_keeps_containers_and_order(cancer, df_module):
    X, y = cancer
    names = [f"feature {i}" for i in range(X.shape[1])]
    frame, series = df_module.DataFrame(dict(zip(names, X.T, strict=True))), df_module.Series(y)
    selector = MemorizationSelector(exact(), random_state=0)
    X_kept, y_kept = selector.fit_resample(frame, series)
    assert isinstance(X_kept, df_module.DataFrame) and isinstance(y_kept, df_module.Series)
    assert_array_equal(selector.feature_names_in_, names)
    assert_array_equal(np.asarray(X_kept), X[selector.sample_indices_])
    assert_array_equal(np.asarray(y_kept), y[selector.sample_indices_])
    assert (np.diff(selector.sample_indices_) > 0).all()


def test_sparse_rows_are_judged_like_dense_ones(cancer):
    X, y = np.where(np.abs(cancer[0]) > 1, cancer[0], 0), cancer[1]
    selector = MemorizationSelector(exact(), keep="generalizable")
    dense = clone(selector).fit(X, y)
    X_kept, _ = selector.fit_resample(sparse.csr_array(X), y)
    assert sparse.issparse(X_kept) and X_kept.shape[0] == selector.support_.sum()
    assert_allclose(selector.memorization_, dense.memorization_, rtol=1e-4)


def test_rows_without_weight_are_judged_by_the_others(noisy_cancer):
    X, y, flipped = noisy_cancer
    selector = MemorizationSelector(exact()).fit(X, y, sample_weight=~flipped)
    without = exact().fit(X[~flipped], y[~flipped]).memorization()
    assert_allclose(selector.memorization_[~flipped], without, rtol=1e-3)
    assert selector.memorization_[flipped].min() > 0


def test_selector_is_no_transformer(cancer):
    assert not hasattr(MemorizationSelector(), "transform")
    pipeline = make_pipeline(StandardScaler(), MemorizationSelector(), LogisticRegression())
    with pytest.raises(TypeError, match="should be transformers"):
        pipeline.fit(*cancer)


def test_regression_is_sampled_as_one_group(diabetes):
    X, y = diabetes
    selector = MemorizationSelector(exact(Ridge()), generalizable_fraction=0.25, random_state=0)
    selector.fit(X, y)
    rest = ~selector.memorizable_
    assert selector.support_[rest].sum() == round(0.25 * rest.sum())
    assert not hasattr(selector, "classes_")


def test_outliers_of_a_regression_are_cleaned(diabetes):
    X, y = diabetes
    y = y.copy()
    y[:15] += 1500
    selector = MemorizationSelector(exact(Ridge()), criterion="sign", keep="generalizable")
    selector.fit(X, y)
    assert selector.memorizable_[:15].mean() > 0.9
    assert selector.memorizable_[15:].mean() < 0.25


# ---------------------------------------------------------------------------
# FilteredEstimator
# ---------------------------------------------------------------------------


def filtered(model=None, use_selector_weight="auto", rounds=1, **params):
    selector = MemorizationSelector(random_state=0, **params)
    model = logistic() if model is None else model
    return FilteredEstimator(
        model, selector, use_selector_weight=use_selector_weight, rounds=rounds
    )


def test_the_estimator_learns_from_the_kept_rows_alone(cancer):
    X, y = cancer
    model = filtered(use_selector_weight=False).fit(X, y)
    kept = MemorizationSelector(exact(), random_state=0).fit(X, y).sample_indices_
    assert_array_equal(model.sample_indices_, kept)
    assert_array_equal(model.estimator_.coef_, logistic().fit(X[kept], y[kept]).coef_)


def test_nothing_is_dropped_from_predictions_and_scores(cancer):
    X, y = cancer
    model = filtered().fit(X, y)
    assert len(model.sample_indices_) < len(y)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        assert_array_equal(getattr(model, method)(X), getattr(model.estimator_, method)(X))
        assert len(getattr(model, method)(X)) == len(y)
    assert model.score(X, y) == np.mean(model.predict(X) == y)


def test_estimator_passes_for_what_it_wraps(cancer, diabetes):
    classifier, regressor = filtered(), filtered(Ridge())
    assert is_classifier(classifier) and not is_regressor(classifier)
    assert is_regressor(regressor) and not is_classifier(regressor)
    assert hasattr(classifier, "predict_proba") and not hasattr(regressor, "predict_proba")
    assert not hasattr(classifier, "transform")
    assert_array_equal(classifier.fit(*cancer).classes_, [0, 1])
    assert not hasattr(regressor.fit(*diabetes), "classes_")


def test_plain_pipeline_and_imbalanced_pipeline_agree(cancer):
    imblearn_pipeline = pytest.importorskip("imblearn.pipeline")
    selector = MemorizationSelector(exact(), random_state=0)
    # A Pipeline hands on rows but no weights.
    plain = FilteredEstimator(logistic(), selector, use_selector_weight=False)
    plain = make_pipeline(StandardScaler(), plain)
    sampling = imblearn_pipeline.make_pipeline(StandardScaler(), selector, logistic())
    plain.fit(*cancer), sampling.fit(*cancer)
    assert_array_equal(plain[-1].estimator_.coef_, sampling[-1].coef_)
    assert_array_equal(plain.predict_proba(cancer[0]), sampling.predict_proba(cancer[0]))


def test_imbalanced_pipeline_takes_a_regression(diabetes):
    imblearn_pipeline = pytest.importorskip("imblearn.pipeline")
    selector = MemorizationSelector(exact(Ridge()), random_state=0)
    pipeline = imblearn_pipeline.make_pipeline(selector, Ridge()).fit(*diabetes)
    plain = FilteredEstimator(Ridge(), selector, use_selector_weight=False).fit(*diabetes)
    assert_array_equal(pipeline[-1].coef_, plain.estimator_.coef_)


def test_grid_search_sets_threshold_fraction_and_the_model(noisy_cancer):
    X, y, _ = noisy_cancer
    grid = {
        "filter__selector__threshold": ["auto", "q0.8", "q0.95"],
        "filter__selector__keep": ["memorizable", "generalizable"],
        "filter__estimator__C": [0.01, 1.0],
    }
    pipeline = Pipeline([("scale", StandardScaler()), ("filter", filtered())])
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_["filter__selector__keep"] == "generalizable"
    assert search.best_score_ > cross_val_score(logistic(), X, y, cv=3).mean()
    best = search.best_estimator_[-1]
    # The model that judges is the one that is fitted.
    assert best.selector_.influence_.estimator_.C == best.estimator_.C


def test_cross_validation_and_ensembles_take_it(cancer):
    X, y = cancer
    assert cross_val_score(filtered(), X, y, cv=3).mean() > 0.95
    ensembles = [
        StackingClassifier([("filtered", filtered())], logistic(), cv=3),
        CalibratedClassifierCV(filtered(), cv=3),
        BaggingClassifier(filtered(), n_estimators=3, random_state=0),
    ]
    for ensemble in ensembles:
        ensemble.fit(X, y)
        assert ensemble.predict_proba(X).shape == (len(y), 2)
        assert ensemble.score(X, y) > 0.95


def test_frames_keep_their_names(cancer, df_module):
    X, y = cancer
    names = [f"feature {i}" for i in range(X.shape[1])]
    frame = df_module.DataFrame(dict(zip(names, X.T, strict=True)))
    model = filtered().fit(frame, y)
    assert_array_equal(model.feature_names_in_, names)
    assert_array_equal(model.estimator_.feature_names_in_, names)
    assert_array_equal(model.predict(frame), filtered().fit(X, y).predict(X))


def test_any_estimator_can_learn_from_what_a_linear_model_selects(noisy_cancer):
    X, y, flipped = noisy_cancer
    selector = MemorizationSelector(exact(), keep="generalizable", criterion="sign")
    for model in (KNeighborsClassifier(1), RandomForestClassifier(20, random_state=0)):
        cleaned = FilteredEstimator(model, selector).fit(X, y)
        clean_labels = np.where(flipped, 1 - y, y)
        assert cleaned.score(X, clean_labels) > clone(model).fit(X, y).score(X, clean_labels)


# ---------------------------------------------------------------------------
# Weights and metadata
# ---------------------------------------------------------------------------


def test_sample_weight_is_sliced_with_the_rows(cancer):
    X, y = cancer
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    model = filtered(use_selector_weight=False).fit(X, y, sample_weight=weight)
    judged = MemorizationSelector(exact(), random_state=0).fit(X, y, sample_weight=weight)
    kept = judged.sample_indices_
    expected = logistic().fit(X[kept], y[kept], sample_weight=weight[kept])
    assert_array_equal(model.sample_indices_, kept)
    assert_array_equal(model.estimator_.coef_, expected.coef_)


@pytest.mark.parametrize("asked", [True, "auto"])
@pytest.mark.parametrize("model", [logistic(), make_pipeline(StandardScaler(), logistic())])
def test_weights_of_the_selector_are_used(cancer, model, asked):
    X, y = cancer
    weighted = filtered(model, use_selector_weight=asked).fit(X, y)
    kept, own = weighted.sample_indices_, weighted.selector_.sample_weight_
    params = {"sample_weight": own}
    if isinstance(model, Pipeline):
        params = {"logisticregression__sample_weight": own}
    expected = clone(model).fit(X[kept], y[kept], **params)
    assert_array_equal(weighted.predict_proba(X), expected.predict_proba(X))
    assert_allclose(own.sum(), len(y))


def test_an_estimator_without_weights_does_without(cancer):
    X, y = cancer
    selector = MemorizationSelector(exact(), random_state=0)
    model = FilteredEstimator(KNeighborsClassifier(1), selector).fit(X, y)
    assert model.estimator_.n_samples_fit_ == len(model.sample_indices_) < len(y)
    assert model.score(X[model.sample_indices_], y[model.sample_indices_]) == 1


def test_both_weights_multiply(cancer):
    X, y = cancer
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    model = filtered(use_selector_weight=True).fit(X, y, sample_weight=weight)
    kept = model.sample_indices_
    product = weight[kept] * model.selector_.sample_weight_
    expected = logistic().fit(X[kept], y[kept], sample_weight=product)
    assert_array_equal(model.estimator_.coef_, expected.coef_)


def test_weighted_sample_stands_for_all_rows(cancer):
    # Without the weights the few rows that are sampled are outvoted by the memorizable ones.
    X, y = cancer
    full = logistic().fit(X, y).coef_
    distance = {
        weighted: np.mean(
            [
                np.linalg.norm(
                    FilteredEstimator(
                        logistic(),
                        MemorizationSelector(generalizable_fraction=0.2, random_state=seed),
                        use_selector_weight=weighted,
                    )
                    .fit(X, y)
                    .estimator_.coef_
                    - full
                )
                for seed in range(5)
            ]
        )
        for weighted in (False, True)
    }
    assert distance[True] < 0.7 * distance[False]


def test_metadata_is_routed_to_whom_it_belongs(cancer):
    X, y = cancer
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        model = logistic().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        selector = MemorizationSelector(random_state=0).set_fit_request(sample_weight=False)
        model = FilteredEstimator(model, selector, use_selector_weight=False)
        model.fit(X, y, sample_weight=weight)
        kept = MemorizationSelector(exact(), random_state=0).fit(X, y).sample_indices_
        expected = logistic().fit(X[kept], y[kept], sample_weight=weight[kept])
        assert_array_equal(model.estimator_.coef_, expected.coef_)
        score = model.score(X, y, sample_weight=weight)
        assert score == expected.score(X, y, sample_weight=weight)
        search = GridSearchCV(model, {"estimator__C": [0.1, 1.0]}, cv=3)
        search.fit(X, y, sample_weight=weight)
        assert search.best_score_ > 0.95


@pytest.mark.parametrize("pipeline", [True, False])
def test_weights_of_the_selector_need_no_routing(cancer, pipeline):
    X, y = cancer
    model = make_pipeline(StandardScaler(), logistic()) if pipeline else logistic()
    with sklearn.config_context(enable_metadata_routing=True):
        model = filtered(model).fit(X, y)
    weight = None if pipeline else model.selector_.sample_weight_
    rows = X[model.sample_indices_]
    if pipeline:
        rows = model.estimator_[0].transform(rows)
    expected = logistic().fit(rows, y[model.sample_indices_], sample_weight=weight)
    found = model.estimator_[-1] if pipeline else model.estimator_
    assert_allclose(found.coef_, expected.coef_, rtol=1e-12)


def test_metadata_that_nobody_asked_for_is_an_error(cancer):
    X, y = cancer
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(ValueError, match="sample_weight"):
            filtered().fit(X, y, sample_weight=np.ones(len(y)))


@pytest.mark.parametrize("routing", [True, False])
def test_score_takes_weights(cancer, routing):
    X, y = cancer
    weight = np.arange(len(y))
    with sklearn.config_context(enable_metadata_routing=routing):
        model = logistic()
        if routing:
            model.set_score_request(sample_weight=True)
        model = filtered(model).fit(X, y)
        score = model.score(X, y, sample_weight=weight)
    assert_allclose(score, np.average(model.predict(X) == y, weights=weight))


# ---------------------------------------------------------------------------
# Rounds
# ---------------------------------------------------------------------------


def test_rounds_judge_by_the_model_of_the_kept_rows(noisy_cancer):
    X, y, _ = noisy_cancer
    once = filtered(keep="generalizable").fit(X, y)
    twice = filtered(keep="generalizable", rounds=2).fit(X, y)
    kept = once.selector_.support_
    expected = MemorizationSelector(exact(), keep="generalizable")
    expected.fit(X, y, sample_weight=kept)
    assert_array_equal(twice.sample_indices_, expected.sample_indices_)
    # Rows may come back: all of them are judged again.
    assert len(twice.selector_.memorization_) == len(y)


def test_rounds_end_when_the_selection_is_stable(noisy_cancer):
    X, y, flipped = noisy_cancer
    model = filtered(keep="generalizable", threshold="q0.9", rounds=50).fit(X, y)
    assert 1 < model.n_rounds_ < 50
    memorizable = model.selector_.memorizable_
    again = MemorizationSelector(exact(), keep="generalizable", threshold="q0.9")
    again.fit(X, y, sample_weight=~memorizable)
    assert_array_equal(again.memorizable_, memorizable)
    # More of the wrong labels are found than at first.
    once = filtered(keep="generalizable", threshold="q0.9").fit(X, y)
    assert flipped[memorizable].sum() >= flipped[once.selector_.memorizable_].sum()


def test_rounds_weigh_by_the_selector_when_asked(cancer):
    X, y = cancer
    model = filtered(use_selector_weight=True, rounds=2).fit(X, y)
    first = MemorizationSelector(exact(), random_state=0).fit(X, y)
    weight = np.zeros(len(y))
    weight[first.sample_indices_] = first.sample_weight_
    second = MemorizationSelector(exact(), random_state=0).fit(X, y, sample_weight=weight)
    assert_array_equal(model.sample_indices_, second.sample_indices_)


# ---------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------


def test_a_selector_that_keeps_nothing_is_an_error(cancer):
    selector = MemorizationSelector(exact(), threshold=0.0, keep="generalizable")
    with pytest.raises(ValueError, match="keeps no row at all. 100% .* raise threshold"):
        selector.fit(*cancer)
    selector = MemorizationSelector(exact(), threshold="q1", generalizable_fraction=0.0)
    with pytest.raises(ValueError, match="keeps no row at all.* generalizable_fraction > 0"):
        selector.fit(*cancer)


@pytest.mark.parametrize("keep", ["memorizable", "generalizable"])
def test_threshold_above_the_largest_value_warns(cancer, keep):
    X, y = cancer
    selector = MemorizationSelector(exact(), threshold=1e9, keep=keep)
    with pytest.warns(UserWarning, match="threshold=1e[+]09 is not below the largest .* 'q0.9'"):
        selector.fit(X, y)
    assert not selector.memorizable_.any()


@pytest.mark.parametrize("filters", [True, False])
def test_a_class_of_memorizable_rows_alone_is_not_lost(cancer, filters):
    X, y = cancer
    rare = np.concatenate([np.flatnonzero(y == 1), np.flatnonzero(y == 0)[:3]])
    selector = MemorizationSelector(exact(), keep="generalizable", threshold="q0.95")
    model = FilteredEstimator(logistic(), selector) if filters else selector
    with pytest.raises(ValueError, match=r"No row of the class\(es\) \[0\] .* raise threshold"):
        model.fit(X[rare], y[rare])
    # Sampling keeps them all.
    kept = selector.set_params(keep="memorizable").fit(X[rare], y[rare]).support_
    assert kept[-3:].all()


def test_validation_set_must_have_the_features_of_the_rows(cancer):
    X, y = cancer
    selector = MemorizationSelector(exact(), criterion="sign", validation=(X[:, :5], y))
    with pytest.raises(
        ValueError, match="X has 5 features, but LogisticRegression is expecting 30"
    ):
        selector.fit(X, y)


def test_validation_set_must_be_a_pair(cancer):
    X, y = cancer
    selector = MemorizationSelector(exact(), criterion="sign", validation=(X, y, y))
    with pytest.raises(ValueError, match=r"a tuple \(X, y\). Got a tuple of length 3"):
        selector.fit(X, y)


def test_labels_of_the_validation_set_must_be_known(cancer):
    X, y = cancer
    selector = MemorizationSelector(exact(), criterion="sign", validation=(X, y + 1))
    with pytest.raises(ValueError, match="labels that the model was not fitted on"):
        selector.fit(X, y)


@pytest.mark.parametrize("influence", [None, exact()])
def test_missing_targets_are_an_error(cancer, influence):
    for model in (
        MemorizationSelector(influence),
        FilteredEstimator(logistic(), MemorizationSelector(influence)),
    ):
        with pytest.raises(ValueError, match="requires y to be passed"):
            model.fit(cancer[0], None)


@pytest.mark.parametrize("threshold", ["q1.5", "q", "0.9", "median", "qnan"])
def test_unreadable_threshold_is_an_error(cancer, threshold):
    with pytest.raises(ValueError, match=f"threshold must be .* Got '{threshold}' instead"):
        MemorizationSelector(exact(), threshold=threshold).fit(*cancer)


@pytest.mark.parametrize(
    "params",
    [
        {"criterion": "both"},
        {"keep": "all"},
        {"threshold": -1.0},
        {"generalizable_fraction": 1.5},
        {"validation": 1},
        {"influence": logistic()},
    ],
)
def test_unknown_options_are_errors(cancer, params):
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        MemorizationSelector(**params).fit(*cancer)


def test_a_model_that_cannot_judge_itself_needs_an_influence(cancer):
    with pytest.raises(TypeError, match="KNeighborsClassifier"):
        FilteredEstimator(KNeighborsClassifier(), MemorizationSelector()).fit(*cancer)


@pytest.mark.parametrize("params", [{"use_selector_weight": True}, {"rounds": 2}])
def test_weights_need_a_model_that_takes_them(cancer, params):
    # Rounds weigh the rows of the model that judges, the selector's weights those of the model
    # that learns.
    judge = exact() if "use_selector_weight" in params else None
    model = FilteredEstimator(KNeighborsClassifier(), MemorizationSelector(judge), **params)
    with pytest.raises(TypeError, match="KNeighborsClassifier"):
        model.fit(*cancer)


def test_cross_validated_predictions_cover_every_row(cancer):
    X, y = cancer
    predicted = cross_val_predict(filtered(keep="generalizable"), X, y, cv=3)
    assert len(predicted) == len(y)
