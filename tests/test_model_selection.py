"""SketchedInfluenceCV finds what a grid search finds, with less work."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinfluence import SketchedInfluence, SketchedInfluenceCV
from skinfluence.curvature import SpectralCurvature
from skinfluence.metrics import InfluenceScorer
from tests.helpers import cancer

MODEL = LogisticRegression(C=0.1)
FOLDS = StratifiedKFold(3)
SIZES, DAMPINGS = [4, 10, 25], [0.0, 1e-3, 1e-1]


class SameScore(BaseEstimator):
    """The rows of the common checks are too few, or too much alike, for refits."""

    def __call__(self, estimator, X, y):
        return 0.0 * estimator.influence(X, y).sum()


@parametrize_with_checks(
    [SketchedInfluenceCV(Ridge(), sketch_sizes=[1], dampings=[0.1], cv=2, scoring=SameScore())]
)
def test_common_checks(estimator, check):
    check(estimator)


# Kinds of sketch, and how closely scores agree with those of one sketch for each size: a basis
# for a small size is that of a large one up to the error of the range finder.
@pytest.mark.parametrize(
    ("settings", "atol"),
    [
        ({}, 0.02),
        ({"tail": False}, 0.02),
        ({"sketch": "gaussian"}, 1e-9),
        ({"sketch": "sjlt", "factorized": False}, 1e-9),
        ({"sketch": "gaussian", "debias": True}, 1e-9),
    ],
    ids=["nystrom", "without tail", "gaussian", "sjlt", "debiased"],
)
@pytest.mark.filterwarnings("ignore:debias=True:skinfluence.exceptions.NumericalWarning")
def test_results_are_those_of_a_grid_search(settings, atol):
    X, y = cancer()
    scoring = InfluenceScorer(n_subsets=30)
    both = {"scoring": scoring, "cv": FOLDS}
    search = SketchedInfluenceCV(
        MODEL, sketch_sizes=SIZES, dampings=DAMPINGS, random_state=0, **both, **settings
    ).fit(X, y)
    influence = SketchedInfluence(MODEL, random_state=0, **settings)
    grid = GridSearchCV(influence, {"sketch_size": SIZES, "damping": DAMPINGS}, **both).fit(X, y)
    results, expected = search.cv_results_, grid.cv_results_
    assert results["params"] == expected["params"]
    for name in ("split0_test_score", "split2_test_score", "mean_test_score"):
        assert_allclose(results[name], expected[name], atol=atol)
    assert_allclose(results["std_test_score"], expected["std_test_score"], atol=atol)
    if atol < 1e-3:
        assert search.best_params_ == grid.best_params_
        assert_array_equal(results["rank_test_score"], expected["rank_test_score"])
    assert search.best_score_ == results["mean_test_score"].max()
    assert results["params"][search.best_index_] == search.best_params_


def test_one_fit_and_one_block_of_refits_for_each_split(monkeypatch, refit_blocks, unseen):
    X, y = cancer()
    X = unseen(X)
    counts = {"fits": 0, "decompositions": 0}

    class Counting(LogisticRegression):
        """Counts its fits."""

        def fit(self, *args, **more):
            counts["fits"] += 1
            return super().fit(*args, **more)

    make = SpectralCurvature.__init__

    def counted(self, *args, **more):
        counts["decompositions"] += 1
        make(self, *args, **more)

    monkeypatch.setattr(SpectralCurvature, "__init__", counted)
    search = SketchedInfluenceCV(
        Counting(C=0.1),
        sketch_sizes=SIZES,
        dampings=DAMPINGS,
        cv=FOLDS,
        scoring=InfluenceScorer(n_subsets=10),
    )
    search.fit(X, y)
    # One for each of three splits, and one on all rows.
    assert counts["fits"] == 4
    assert refit_blocks == 3 * [10]
    assert counts["decompositions"] == 3 * len(SIZES) + 1


def test_what_the_best_estimator_has_learned_is_its_own():
    X, y = cancer()
    search = SketchedInfluenceCV(
        MODEL, sketch_sizes=SIZES, dampings=DAMPINGS, cv=FOLDS, random_state=0
    ).fit(X, y)
    best = SketchedInfluence(MODEL, random_state=0, **search.best_params_).fit(X, y)
    assert isinstance(search.estimator_, LogisticRegression)
    assert search.damping_ == search.best_params_["damping"]
    assert search.sketch_size_ == search.best_params_["sketch_size"]
    queries = X[:5], y[:5]
    for method in ("influence", "leave_one_out_effect", "transform", "leakage"):
        assert_allclose(
            getattr(search, method)(*queries), getattr(best, method)(*queries), atol=1e-9
        )
    assert_allclose(search.self_influence(), best.self_influence())
    assert_allclose(search.parameter_influence([3]), best.parameter_influence([3]))
    assert_allclose(search.influence(X[:3]), best.influence(X[:3]))
    assert_allclose(search.removal_effect([1, 2], *queries), best.removal_effect([1, 2], *queries))
    assert_allclose(search.effective_dimension_, best.effective_dimension_)
    found, expected = (fit.sketch_error(*queries).relative.max for fit in (search, best))
    assert_allclose(found, expected)
    assert_allclose(search.score(*queries), best.score(*queries))
    assert_array_equal(search.get_feature_names_out()[:1], ["sketchedinfluencecv0"])


def test_results_hold_dimensions_and_error_bars():
    X, y = cancer()
    search = SketchedInfluenceCV(
        MODEL, sketch_sizes=[30], dampings=DAMPINGS, cv=FOLDS, scoring=InfluenceScorer(n_subsets=9)
    ).fit(X, y)
    results = search.cv_results_
    exact = [
        np.mean(
            [
                SketchedInfluence(MODEL, sketch_size=30, damping=damping, tail=False)
                .fit(X[train], y[train])
                .effective_dimension_
                for train, _ in FOLDS.split(X, y)
            ]
        )
        for damping in DAMPINGS
    ]
    assert_allclose(results["effective_dimension"], exact, rtol=1e-6)
    assert_allclose(results["relative_size"], 30 / np.array(exact), rtol=1e-6)
    mean = results["mean_test_score"]
    assert (results["low_test_score"] < mean).all() and (mean < results["high_test_score"]).all()


def test_sizes_and_dampings_by_themselves():
    X, y = cancer()
    search = SketchedInfluenceCV(MODEL, cv=2, scoring=InfluenceScorer(n_subsets=9)).fit(X, y)
    assert_array_equal(np.unique(search.cv_results_["param_sketch_size"]), [1, 2, 4, 8, 16])
    dampings = np.unique(search.cv_results_["param_damping"])
    scale_ = search.linearisation_.objective.mean_eigenvalue("hessian")
    assert_allclose(dampings, scale_ * np.array([0, 1e-3, 1e-2, 1e-1, 1]))


def test_splits_follow_the_classes():
    # Sorted rows, of which plain folds would leave out whole classes.
    X, y = load_iris(return_X_y=True)
    search = SketchedInfluenceCV(
        MODEL, sketch_sizes=[6], dampings=[0.1], cv=3, scoring=InfluenceScorer(n_subsets=9)
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_pipelines_frozen_models_and_weights():
    X, y = load_breast_cancer(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    settings = {
        "sketch_sizes": [10],
        "dampings": [0.1],
        "cv": FOLDS,
        "scoring": InfluenceScorer(n_subsets=9),
        "random_state": 0,
    }
    pipeline = make_pipeline(StandardScaler(), MODEL)
    inside = SketchedInfluenceCV(pipeline, **settings).fit(X, y, weight)
    frozen = FrozenEstimator(clone(pipeline).fit(X, y, logisticregression__sample_weight=weight))
    other = SketchedInfluenceCV(frozen, **settings).fit(X, y, weight)
    assert_allclose(inside.influence(X[:3], y[:3]), other.influence(X[:3], y[:3]), rtol=1e-6)


def test_another_scorer_sees_whole_estimators():
    X, y = cancer()

    def negative_size(estimator, X, y):
        assert estimator.influence(X, y).shape == (len(X), estimator.n_samples_)
        return -estimator.sketch_size_

    search = SketchedInfluenceCV(
        MODEL, sketch_sizes=[9, 5], dampings=[0.1], cv=2, scoring=negative_size
    ).fit(X, y)
    assert search.best_params_["sketch_size"] == 5
    assert search.best_score_ == -5


def test_workers_change_nothing():
    X, y = cancer()
    runs = [
        SketchedInfluenceCV(
            MODEL,
            sketch_sizes=[5, 9],
            dampings=[0.0, 0.1],
            cv=FOLDS,
            scoring=InfluenceScorer(n_subsets=9),
            random_state=0,
            n_jobs=n_jobs,
        ).fit(X, y)
        for n_jobs in (1, 2)
    ]
    assert_allclose(*(run.cv_results_["mean_test_score"] for run in runs), rtol=1e-9)


def test_networks_are_refitted_by_clones():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = np.tanh(X[:, 0]) + 0.1 * rng.normal(size=60)
    net = MLPRegressor(
        hidden_layer_sizes=(3,), solver="lbfgs", alpha=1.0, max_iter=2000, random_state=0
    )
    search = SketchedInfluenceCV(
        net,
        sketch_sizes=[8],
        dampings=[1e-3, 1e-1],
        cv=2,
        curvature="ggn",
        scoring=InfluenceScorer(n_subsets=12),
        random_state=0,
    ).fit(X, y)
    assert search.best_score_ > 0.2


@pytest.mark.parametrize("settings", [{"sketch_sizes": []}, {"dampings": []}])
def test_an_empty_grid_is_an_error(settings):
    with pytest.raises(ValueError, match="must have at least one value each"):
        SketchedInfluenceCV(MODEL, **{"cv": 2, **settings}).fit(*cancer())


def test_a_size_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="'sketch_size' parameter of SketchedInfluence"):
        SketchedInfluenceCV(MODEL, sketch_sizes=[0], dampings=[0.1], cv=2).fit(*cancer())


class Scores(BaseEstimator):
    """NaN for every damping but the good ones."""

    def __init__(self, good=()):
        self.good = good

    def __call__(self, estimator, X, y):
        return 1.0 - estimator.damping if estimator.damping in self.good else np.nan


def test_a_score_of_nan_is_never_the_best():
    X, y = cancer()
    search = SketchedInfluenceCV(MODEL, sketch_sizes=[4], dampings=[0.0, 0.1, 1.0], cv=FOLDS)
    search.set_params(scoring=Scores(good=(0.1, 1.0))).fit(X, y)
    assert search.best_params_["damping"] == 0.1
    assert_array_equal(search.cv_results_["rank_test_score"], [3, 1, 2])
    with pytest.raises(ValueError, match="All candidates have the score NaN"):
        search.set_params(scoring=Scores()).fit(X, y)
