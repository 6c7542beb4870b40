"""The mean influence over several trainings."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    AveragedInfluence,
    Chunks,
    ExactInfluence,
    KFACInfluence,
    MemorizationSelector,
    SketchedInfluence,
)
from skinfluence.metrics import InfluenceScorer, linear_datamodeling_score, retrain_on_subsets
from tests.helpers import assert_close, cancer, diabetes, digits, perceptron, split, wine

# Damped, as the networks here may have several minima.
NETWORK = ExactInfluence(perceptron((4,), alpha=0.05), curvature="ggn", damping=1e-3)


def averaged(influence, n_fits=3, **params):
    return AveragedInfluence(influence, n_fits=n_fits, random_state=0, **params)


@pytest.fixture(scope="module")
def network():
    """Three trainings of a small network on wine, and queries."""
    X, y, X_query, y_query = split(*wine(), n_queries=40)
    return averaged(NETWORK).fit(X, y), X, y, X_query, y_query


# ---------------------------------------------------------------------------
# The mean
# ---------------------------------------------------------------------------

RESULTS = {
    "influence": lambda fit, X, y: fit.influence(X, y),
    "margin": lambda fit, X, y: fit.influence(X),
    "probability": lambda fit, X, y: fit.influence(X, of="probability"),
    "reduced": lambda fit, X, y: fit.influence(X, y, reduce="mean", sample_weight=np.arange(40)),
    "number": lambda fit, X, y: fit.influence_on("log_loss", X, y),
    "leave one out": lambda fit, X, y: fit.leave_one_out_effect(X, y),
    "removal": lambda fit, X, y: fit.removal_effect([[0, 1], [2]], X, y),
    "removal, accuracy": lambda fit, X, y: fit.removal_effect([0, 1], X, y, scoring="accuracy"),
    "ranking": lambda fit, X, y: fit.most_influential(X, y, k=3, by="absolute")[1],
    "self-influence": lambda fit, X, y: fit.self_influence(),
    "memorization": lambda fit, X, y: fit.memorization(),
}
# Where every training is asked of its own class, and where the mean is ranked.
NOT_LINEAR = ("margin", "probability", "ranking")


@pytest.mark.parametrize("name", RESULTS)
def test_trainings_without_chance_have_one_mean(name):
    X, y, X_query, y_query = split(*wine(), n_queries=40)
    one = ExactInfluence(LogisticRegression(C=0.1, tol=1e-8)).fit(X, y)
    several = averaged(ExactInfluence(LogisticRegression(C=0.1, tol=1e-8)), 2).fit(X, y)
    expected = RESULTS[name](one, X_query, y_query)
    assert_close(RESULTS[name](several, X_query, y_query), expected, 1e-12)


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in NOT_LINEAR])
def test_results_are_means_over_trainings_with_other_seeds(name, network):
    influence, X, y, X_query, y_query = network
    seeds = [fit.estimator_.random_state for fit in influence.estimators_]
    assert len(set(seeds)) == 3
    if name == "removal, accuracy":
        # A flip of one query's label is all or nothing, on one platform and not on another.
        X_query, y_query = X, y
    each = [RESULTS[name](fit, X_query, y_query) for fit in influence.estimators_]
    assert_close(RESULTS[name](influence, X_query, y_query), np.mean(each, axis=0), 1e-12)
    # They are what anyone gets who sets the seed.
    alone = clone(NETWORK).set_params(estimator__random_state=seeds[1]).fit(X, y)
    assert_close(alone.self_influence(), influence.estimators_[1].self_influence(), 1e-12)


def test_other_parameters_and_the_users_estimator_stay_as_they_are():
    X, y = diabetes()
    model = make_pipeline(StandardScaler(), perceptron((3,), MLPRegressor, random_state=7))
    given = SketchedInfluence(
        model,
        sketch_size=20,
        curvature="ggn",
        damping=0.1,
        random_state=5,
        scoring=InfluenceScorer(random_state=3),
    )
    influence = averaged(given, 2).fit(X, y)
    assert given.estimator[-1].random_state == 7
    for fit in influence.estimators_:
        assert (fit.random_state, fit.scoring.random_state, fit.sketch_size) == (5, 3, 20)
        assert fit.estimator[-1].random_state != 7
    again = averaged(given, 2).fit(X, y)
    assert_array_equal(again.self_influence(), influence.self_influence())


@pytest.mark.parametrize("of", ["auto", "margin", "probability", "output"])
def test_all_trainings_are_asked_of_the_class_that_most_predict(of, network):
    influence = network[0]
    # Far from the data, where trainings disagree.
    mixed = 4 * np.random.default_rng(0).standard_normal((300, 13))
    votes = np.stack([fit.estimator_.predict(mixed) for fit in influence.estimators_])
    counts = np.stack([(votes == label).sum(axis=0) for label in range(3)])
    decided = counts.max(axis=0) > 1
    assert (counts.max(axis=0) == 2).any()
    chosen = counts.argmax(axis=0)[decided]
    asked = "margin" if of == "auto" else of
    each = [fit.influence(mixed[decided], chosen, of=asked) for fit in influence.estimators_]
    expected = np.mean(each, axis=0)
    assert_close(influence.influence(mixed[decided], of=of), expected, 1e-12)
    top, values = influence.most_influential(mixed[decided], k=5, of=of)
    assert_array_equal(top, np.argsort(-expected, axis=1, kind="stable")[:, :5])
    assert_close(values, np.take_along_axis(expected, top, axis=1), 1e-12)


def test_ranking_in_batches(network):
    influence, _, _, X_query, y_query = network
    found = influence.most_influential(X_query, y_query, k=4)
    with config_context(working_memory=1e-2):
        in_batches = influence.most_influential(X_query, y_query, k=4)
    for left, right in zip(found, in_batches, strict=True):
        assert_allclose(left, right, rtol=1e-10)
    with pytest.raises(ValueError, match="number of training rows, 138"):
        influence.most_influential(X_query, y_query, k=139)


def test_dot_products_of_embeddings_are_minus_the_mean(network):
    influence, X, y, X_query, y_query = network
    train = influence.transform(X, y)
    assert train.shape == (len(X), influence.n_components_)
    assert len(influence.get_feature_names_out()) == influence.n_components_
    for targets in ((y_query,), ()):
        queries = influence.transform(X_query, *targets)
        assert_close(-queries @ train.T, influence.influence(X_query, *targets), 1e-8)


def test_rows_of_each_training_have_their_folder(tmp_path):
    X, y = wine()
    model = perceptron((4,), alpha=0.05)
    found = []
    for storage in (None, tmp_path):
        influence = averaged(KFACInfluence(model, damping=1e-2, storage=storage), 2).fit(X, y)
        found.append(influence.influence(X[:5], y[:5]))
    assert_close(found[1], found[0], 1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training_0", "training_1"]


def test_rows_in_pieces():
    X, y = wine()
    model = LogisticRegression(C=0.1, tol=1e-8)
    influence = averaged(ExactInfluence(model), 2).fit(
        Chunks([(X[:90], y[:90]), (X[90:], y[90:])])
    )
    expected = ExactInfluence(model).fit(X, y).influence(X[:5], y[:5])
    assert_close(influence.influence(X[:5], y[:5]), expected, 1e-8)


def test_rows_are_selected_by_the_mean():
    X, y = wine()
    selector = MemorizationSelector(averaged(NETWORK, 2)).fit(X, y)
    assert_array_equal(selector.memorization_, averaged(NETWORK, 2).fit(X, y).memorization())


# ---------------------------------------------------------------------------
# Agreement with refits
# ---------------------------------------------------------------------------


def test_score_compares_the_mean_with_the_refits_of_the_wrapped_estimator(unseen):
    X, y, X_query, y_query = split(*cancer(), n_queries=20, n_train=80)
    X = unseen(X)
    scorer = InfluenceScorer(n_subsets=8)
    model = perceptron((3,), alpha=0.05, random_state=11)
    influence = ExactInfluence(model, curvature="ggn", damping=1e-2, scoring=scorer)
    several = averaged(influence, 2).fit(X, y)
    truth = retrain_on_subsets(model, X, y, X_query, y_query, n_subsets=8, random_state=0)
    predicted = several.influence(X_query, y_query)
    expected = linear_datamodeling_score(predicted, truth.subsets, truth.losses).mean()
    assert several.score(X_query, y_query) == pytest.approx(expected, abs=1e-10)
    assert scorer(several, X_query, y_query) == several.score(X_query, y_query)
    for metric, low, high in (("loo", -1, 1), ("faithfulness", -1e-6, 0)):
        found = InfluenceScorer(metric, n_subsets=3)(several, X_query, y_query)
        assert low <= found <= high


@pytest.mark.filterwarnings("ignore:MLPClassifier has not converged")
def test_the_mean_agrees_better_with_refits_of_a_network():
    X, y, X_query, y_query = split(*digits(4), n_queries=60, n_train=240)
    model = MLPClassifier((8,), alpha=1e-2, max_iter=60, learning_rate_init=0.01, batch_size=40)
    truth = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(2):
            refits = retrain_on_subsets(
                model.set_params(random_state=100 + seed),
                *(X, y, X_query, y_query),
                n_subsets=40,
                random_state=0,
            )
            truth.append(refits.losses)
        influence = ExactInfluence(model, curvature="ggn")
        several = averaged(influence, 4).fit(X, y)
    losses = np.mean(truth, axis=0)

    def agreement(scores):
        return linear_datamodeling_score(scores, refits.subsets, losses).mean()

    alone = [agreement(fit.influence(X_query, y_query)) for fit in several.estimators_]
    together = agreement(several.influence(X_query, y_query))
    assert together > max(alone) > np.mean(alone)


# ---------------------------------------------------------------------------
# What is trained again
# ---------------------------------------------------------------------------


def test_trainings_run_in_processes():
    X, y = wine()
    found = averaged(NETWORK, 2, n_jobs=2).fit(X, y).self_influence()
    assert_close(found, averaged(NETWORK, 2).fit(X, y).self_influence(), 1e-8)


def test_a_search_scores_averages():
    X, y = cancer()
    influence = averaged(ExactInfluence(LogisticRegression(C=0.1, tol=1e-8)), 2)
    search = GridSearchCV(influence, {"estimator__damping": [0.0, 10.0]}, cv=2).fit(X, y)
    assert search.best_params_ == {"estimator__damping": 0.0}


# What is wrong, and what the message says.
BAD = {
    "frozen": (lambda X, y: FrozenEstimator(LogisticRegression().fit(X, y)), "is frozen"),
    "frozen inside": (
        lambda X, y: make_pipeline(StandardScaler(), FrozenEstimator(perceptron().fit(X, y))),
        "MLPClassifier is frozen.*give the model itself",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_models_that_are_not_trained_again_are_refused(name):
    X, y = wine()
    make, message = BAD[name]
    influence = averaged(ExactInfluence(make(X, y), curvature="ggn", damping=0.1), 2)
    with pytest.raises(ValueError, match=message):
        influence.fit(X, y)


def test_what_is_averaged_is_an_influence_estimator():
    with pytest.raises(
        ValueError, match="'estimator' parameter of AveragedInfluence.*'influence'"
    ):
        AveragedInfluence(LogisticRegression()).fit(*wine())
