"""The score of an influence estimator is its agreement with refits, alone and in searches."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import pearsonr, spearmanr
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_halving_search_cv
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import Bunch

from skinfluence import ExactInfluence
from skinfluence.metrics import InfluenceScorer, linear_datamodeling_score, retrain_on_subsets
from tests.helpers import NEWTON, cancer, iris, left_out, log_loss_of

assert enable_halving_search_cv

# A search does not see that influence is that of a classifier, and iris is sorted.
FOLDS = StratifiedKFold(3)
DAMPINGS = [0.0, 1e-3, 1e-1, 10.0]


# ---------------------------------------------------------------------------
# The figures
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [None, {0: 1.0, 1: 4.0, 2: 0.5}])
def test_score_is_the_linear_datamodeling_score_of_refits(class_weight, rng):
    X, y = iris()
    model = LogisticRegression(C=0.1, class_weight=class_weight, **NEWTON)
    weight = rng.uniform(0.5, 2, len(y[::2]))
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
    actual = left_out(model, log_loss_of, (X, y), queries, rows)
    predicted = influence.leave_one_out_effect(*queries)[:, rows]
    pairs = zip(predicted, actual, strict=True)
    expected = [pearsonr(*pair).statistic for pair in pairs]
    assert_allclose(scorer.of_queries(influence, *queries), expected, atol=1e-7)
    # Every step is refined, so predictions are refits.
    assert_allclose(scorer(influence, *queries), 1, atol=1e-7)


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


class Known(BaseEstimator):
    """An influence estimator whose predictions are given, one number for every refit."""

    def __init__(self, predicted):
        self.predicted = predicted

    def fit(self, X=None, y=None):
        self.linearisation_ = SimpleNamespace(
            read=lambda X: X, sums_of_influence=lambda X, y, subsets: self.predicted
        )
        self.fits_ = [self]
        return self

    def leave_one_out_effect(self, X, y):
        return self.predicted


def score_of(metric, predicted, measured):
    """Scores of given predictions for given losses of refits, by the scorer."""
    rows = np.arange(predicted.shape[1])
    losses = measured if metric == "lds" else np.column_stack([measured, 0 * measured[:, 0]])
    truth = Bunch(subsets=None, rows=rows, losses=losses)
    return InfluenceScorer(metric).of_queries(Known(predicted).fit(), None, None, truth=truth)


def test_scores_are_the_correlations_of_scipy(rng):
    predicted, measured = rng.normal(size=(2, 5, 30))
    pairs = list(zip(predicted, measured, strict=True))
    ranks = [spearmanr(*pair).statistic for pair in pairs]
    values = [pearsonr(*pair).statistic for pair in pairs]
    assert_allclose(score_of("lds", predicted, measured), ranks)
    assert_allclose(score_of("loo", predicted, measured), values)


def test_queries_without_a_correlation():
    # The losses of the first query do not change, the predictions of the second do not.
    measured = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    predicted = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [2.0, 4.0, 8.0]])
    assert_allclose(score_of("lds", predicted, measured), [0.0, 1.0])
    with pytest.raises(ValueError, match="all refits give every query the same loss"):
        score_of("lds", predicted[:1], measured[:1])


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


def test_grid_search_refits_once_for_each_split(refit_blocks, unseen):
    X, y = cancer()
    X = unseen(X)
    search = GridSearchCV(ExactInfluence(LogisticRegression(C=0.1)), {"damping": DAMPINGS}, cv=3)
    search.fit(X, y)
    assert sum(refit_blocks) == 3 * 100
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["damping"] < 1
    assert search.best_score_ > search.cv_results_["mean_test_score"][-1]


def test_grid_search_over_the_last_step_of_a_pipeline(refit_blocks, unseen):
    X, y = load_breast_cancer(return_X_y=True)
    X = unseen(X)
    pipeline = make_pipeline(StandardScaler(), ExactInfluence(LogisticRegression(C=0.1)))
    search = GridSearchCV(pipeline, {"exactinfluence__damping": DAMPINGS}, cv=3).fit(X, y)
    assert sum(refit_blocks) == 3 * 100
    scored = GridSearchCV(
        pipeline, {"exactinfluence__damping": DAMPINGS}, cv=3, scoring=InfluenceScorer()
    ).fit(X, y)
    assert sum(refit_blocks) == 3 * 100
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


def test_halving_search_over_the_number_of_refits(refit_blocks, unseen):
    X, y = cancer()
    X = unseen(X)
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
    assert sum(refit_blocks) == 3 * 40
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
