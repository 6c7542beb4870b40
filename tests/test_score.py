"""The score of an influence estimator is its agreement with refits, alone and in searches."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import pearsonr, spearmanr
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.experimental import enable_halving_search_cv
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.svm import LinearSVC

from skinfluence import ExactInfluence
from skinfluence.metrics import InfluenceScorer, linear_datamodeling_score, retrain_on_subsets
from skinfluence.metrics._agreement import agreement
from skinfluence.refitting import loss_cache as _cache
from skinfluence.refitting.newton_cg import Refit

assert enable_halving_search_cv

NEWTON = {"solver": "newton-cholesky", "tol": 1e-12}
# A search does not see that influence is that of a classifier, and iris is sorted.
FOLDS = StratifiedKFold(3)
DAMPINGS = [0.0, 1e-3, 1e-1, 10.0]


@pytest.fixture
def counted(monkeypatch):
    """Numbers of copies of each block that was refitted; nothing is kept from before."""
    monkeypatch.setattr(_cache, "PROCESS_STORE", _cache.ProcessStore(2**22))
    blocks, minimise = [], Refit.minimise

    def counting(self, weight, *args, **more):
        blocks.append(len(weight))
        return minimise(self, weight, *args, **more)

    monkeypatch.setattr(Refit, "minimise", counting)
    return blocks


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X), y


def iris():
    X, y = load_iris(return_X_y=True)
    return scale(X), y


# ---------------------------------------------------------------------------
# The figures
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [None, {0: 1.0, 1: 4.0, 2: 0.5}])
def test_score_is_the_linear_datamodeling_score_of_refits(class_weight):
    X, y = iris()
    model = LogisticRegression(C=0.1, class_weight=class_weight, **NEWTON)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y[::2]))
    influence = ExactInfluence(model).fit(X[::2], y[::2], sample_weight=weight)
    queries = X[1::2], y[1::2]
    refits = retrain_on_subsets(
        model, X[::2], y[::2], *queries, sample_weight=weight, random_state=0
    )
    total = weight if class_weight is None else weight * np.vectorize(class_weight.get)(y[::2])
    per_query = linear_datamodeling_score(
        influence.influence(*queries), refits.subsets, refits.losses, sample_weight=total
    )
    score = influence.score(*queries)
    assert type(score) is float
    assert_allclose(score, per_query.mean())
    assert score > 0.9


def test_loo_is_the_correlation_with_refits_of_clones():
    X, y = cancer()
    X, y, queries = X[::6], y[::6], (X[1::60], y[1::60])
    model = LogisticRegression(C=0.1, **NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    scorer = InfluenceScorer("loo", n_subsets=12)
    rows = np.random.RandomState(0).permutation(len(y))[:12]

    def losses(kept):
        fitted = clone(model).fit(X[kept], y[kept])
        p = fitted.predict_proba(queries[0])
        return -np.log(p[np.arange(len(p)), queries[1]])

    everything = losses(np.arange(len(y)))
    actual = [losses(np.delete(np.arange(len(y)), row)) - everything for row in rows]
    predicted = influence.leave_one_out_effect(*queries)[:, rows]
    pairs = zip(predicted, np.transpose(actual), strict=True)
    expected = [pearsonr(*pair).statistic for pair in pairs]
    assert_allclose(scorer.of_queries(influence, *queries), expected, atol=1e-4)
    assert scorer(influence, *queries) > 0.99


def test_faithfulness_is_the_error_against_the_full_curvature():
    X, y = cancer()
    model = FrozenEstimator(LogisticRegression(C=0.1, **NEWTON).fit(X, y))
    exact = ExactInfluence(model, damping=1e-3).fit(X, y)
    fisher = ExactInfluence(model, damping=1e-3, curvature="empirical_fisher").fit(X, y)
    scorer = InfluenceScorer("faithfulness")
    assert_allclose(scorer(exact, X[:9], y[:9]), 0, atol=1e-10)
    # The measure is about approximations of one curvature, so the curvature is the estimator's.
    assert_allclose(scorer(fisher, X[:9], y[:9]), 0, atol=1e-10)
    influence, half = exact.influence(X[:9], y[:9]), ExactInfluence(model, damping=1e-3).fit(X, y)
    half.influence = lambda X, y: 0.5 * influence
    assert_allclose(scorer(half, X[:9], y[:9]), -0.5)


def test_agreement_is_that_of_scipy():
    rng = np.random.default_rng(0)
    predicted, measured = rng.normal(size=(2, 5, 30))
    ranks = [spearmanr(*pair).statistic for pair in zip(predicted, measured, strict=True)]
    values = [pearsonr(*pair).statistic for pair in zip(predicted, measured, strict=True)]
    assert_allclose(agreement(predicted, measured), ranks)
    assert_allclose(agreement(predicted, measured, ranks=False), values)


def test_queries_without_a_correlation():
    # The losses of the first query do not change, the predictions of the second do not.
    measured = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    predicted = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [2.0, 4.0, 8.0]])
    assert_allclose(agreement(predicted, measured), [0.0, 1.0])
    with pytest.raises(ValueError, match="all refits give every query the same loss"):
        agreement(predicted[:1], measured[:1])


def test_a_margin_with_few_rows_has_a_score():
    X, y = cancer()
    influence = ExactInfluence(LinearSVC(C=0.1, tol=1e-10, max_iter=100_000)).fit(X[::2], y[::2])
    assert 0.3 < influence.score(X[1::2], y[1::2]) <= 1


def test_score_of_a_model_that_stays_as_it_is():
    X, y = iris()

    class Stubborn(Ridge):
        """Learns the same from any rows, and has no closed form."""

        def fit(self, X, y, sample_weight=None):
            self.coef_, self.intercept_, self.alpha = np.ones(X.shape[1]), 0.0, 0.0
            return self

    with pytest.warns(UserWarning):
        influence = ExactInfluence(Stubborn(), damping=1.0).fit(X, y.astype(float))
    with pytest.raises(ValueError, match="all refits give every query the same loss"):
        influence.score(X, y)


def test_score_needs_targets():
    X, y = iris()
    influence = ExactInfluence(LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match="y is None"):
        influence.score(X, None)


def test_unknown_metric():
    X, y = iris()
    influence = ExactInfluence(LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match="'metric' parameter of InfluenceScorer"):
        InfluenceScorer("accuracy")(influence, X, y)


def test_scoring_of_the_estimator_is_used():
    X, y = iris()
    scorer = InfluenceScorer("loo", n_subsets=20)
    influence = ExactInfluence(LogisticRegression(), scoring=scorer).fit(X, y)
    assert influence.score(X, y) == scorer(influence, X, y)


# ---------------------------------------------------------------------------
# Searches
# ---------------------------------------------------------------------------


def test_frozen_models_are_scored_by_their_own_refits():
    X, y = cancer()
    model = LogisticRegression(C=0.1, **NEWTON)
    queries = X[1::2], y[1::2]
    plain = ExactInfluence(model).fit(X[::2], y[::2])
    frozen = ExactInfluence(FrozenEstimator(clone(model).fit(X[::2], y[::2])))
    assert_allclose(frozen.fit(X[::2], y[::2]).score(*queries), plain.score(*queries))


def test_grid_search_refits_once_for_each_split(counted):
    X, y = cancer()
    search = GridSearchCV(ExactInfluence(LogisticRegression(C=0.1)), {"damping": DAMPINGS}, cv=3)
    search.fit(X, y)
    assert sum(counted) == 3 * 100
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["damping"] < 1
    assert search.best_score_ > search.cv_results_["mean_test_score"][-1]


def test_grid_search_over_the_last_step_of_a_pipeline(counted):
    X, y = load_breast_cancer(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), ExactInfluence(LogisticRegression(C=0.1)))
    search = GridSearchCV(pipeline, {"exactinfluence__damping": DAMPINGS}, cv=3).fit(X, y)
    assert sum(counted) == 3 * 100
    scored = GridSearchCV(
        pipeline, {"exactinfluence__damping": DAMPINGS}, cv=3, scoring=InfluenceScorer()
    ).fit(X, y)
    assert sum(counted) == 3 * 100
    results = [run.cv_results_["mean_test_score"] for run in (search, scored)]
    assert_allclose(*results, rtol=1e-12)


def test_workers_of_a_search_change_no_number():
    X, y = iris()
    influence = ExactInfluence(LogisticRegression(C=0.1))
    runs = [
        GridSearchCV(influence, {"damping": DAMPINGS}, cv=FOLDS, n_jobs=n_jobs).fit(X, y)
        for n_jobs in (1, 2)
    ]
    assert_allclose(*(run.cv_results_["mean_test_score"] for run in runs), rtol=1e-9)


def test_halving_search_over_the_number_of_refits(counted):
    X, y = cancer()
    influence = ExactInfluence(LogisticRegression(C=0.1), scoring=InfluenceScorer())
    search = HalvingGridSearchCV(
        influence,
        {"damping": DAMPINGS},
        resource="scoring__n_subsets",
        return_train_score=False,
        min_resources=10,
        max_resources=40,
        factor=2,
        cv=3,
        random_state=0,
    ).fit(X, y)
    assert search.n_resources_ == [10, 20, 40]
    # Later rounds add refits to those of the first.
    assert sum(counted) == 3 * 40
    assert search.best_params_["damping"] < 1


def test_several_scores_in_one_search():
    X, y = iris()
    scorers = {
        "lds": InfluenceScorer(n_subsets=20),
        "faithfulness": InfluenceScorer("faithfulness"),
    }
    influence = ExactInfluence(LogisticRegression())
    search = GridSearchCV(influence, {"damping": [0, 1]}, scoring=scorers, refit="lds", cv=FOLDS)
    search.fit(X, y)
    assert_allclose(search.cv_results_["mean_test_faithfulness"], 0, atol=1e-9)
    assert search.cv_results_["mean_test_lds"].shape == (2,)
