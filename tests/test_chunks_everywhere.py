"""Chunks in place of X and y, of every public estimator."""

import numpy as np
import pytest
import sklearn
from helpers import assert_close, frozen, logistic, wine
from numpy.testing import assert_array_equal

import skinfluence
from skinfluence import (
    AveragedInfluence,
    Chunks,
    ClassifierHeadInfluence,
    ExactInfluence,
    FilteredEstimator,
    KFACInfluence,
    LeaveOneOutSearch,
    MemorizationSelector,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
    diagnostics,
)
from skinfluence.metrics import InfluenceScorer, retrain_on_subsets

X, Y = wine()
MODEL = logistic(C=0.5)
# Fractions so near 1 that the frozen model is near its minimum with and without them.
WEIGHT = np.random.default_rng(0).uniform(0.99, 1.01, len(Y))
FROZEN = frozen(logistic(C=0.5), X, Y)
SEARCH = {
    **{"sketch_sizes": [8], "dampings": [0.0, 0.1], "cv": 2, "random_state": 0},
    "scoring": InfluenceScorer("faithfulness"),
}


def scores(fit):
    return fit.influence(X[3:9], Y[3:9])


def chosen(fit):
    return np.append(fit.memorization_, fit.get_support())


def probabilities(fit):
    return fit.predict_proba(X)


# An estimator, and what of its fit is compared.
CASES = {
    "exact": (ExactInfluence(FROZEN), scores),
    "exact, not fitted": (ExactInfluence(MODEL), scores),
    "sketched": (SketchedInfluence(FROZEN, sketch_size=12, random_state=0), scores),
    "search": (SketchedInfluenceCV(FROZEN, **SEARCH), scores),
    "kfac": (KFACInfluence(FROZEN), scores),
    "head": (ClassifierHeadInfluence(FROZEN), scores),
    "relative": (RelativeHessianInfluence(FROZEN, subset_size=60, random_state=0), scores),
    "averaged": (AveragedInfluence(ExactInfluence(MODEL), n_fits=2, random_state=0), scores),
    "selector": (MemorizationSelector(ExactInfluence(FROZEN), random_state=0), chosen),
    "selector, default": (MemorizationSelector(random_state=0), chosen),
    "selector, set": (
        MemorizationSelector(
            ExactInfluence(FROZEN), criterion="sign", validation=(X[::3], Y[::3]), random_state=0
        ),
        chosen,
    ),
    "selector, folds": (
        MemorizationSelector(ExactInfluence(MODEL), criterion="sign", random_state=0),
        chosen,
    ),
    "filtered": (FilteredEstimator(MODEL, MemorizationSelector(random_state=0)), probabilities),
    "leave one out": (LeaveOneOutSearch(MODEL, {"C": [0.1, 1.0]}), probabilities),
}

# These hold no more than one part, and numbers for each row.
IN_PIECES = ["exact", "kfac", "head", "selector", "selector, set"]


def test_every_public_estimator_is_tried():
    public = {getattr(skinfluence, name) for name in skinfluence.__all__}
    tried = {type(estimator) for estimator, _ in CASES.values()}
    assert tried == {thing for thing in public if hasattr(thing, "fit")}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_chunks_take_the_place_of_rows_and_targets(name, weighted):
    estimator, compared = CASES[name]
    weight = WEIGHT if weighted else None
    given = {} if weight is None else {"sample_weight": weight}
    expected = compared(sklearn.base.clone(estimator).fit(X, Y, **given))
    chunks = Chunks.from_array(X, Y, sample_weight=weight, chunk_size=50)
    found = compared(sklearn.base.clone(estimator).fit(chunks))
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", IN_PIECES)
def test_sums_over_parts_need_no_other_rows(name):
    estimator, _ = CASES[name]
    chunks = Chunks.from_array(X, Y, chunk_size=50)
    with sklearn.config_context(working_memory=0.01):
        with pytest.raises(MemoryError):
            chunks.concatenated()
        sklearn.base.clone(estimator).fit(chunks)


@pytest.mark.parametrize("name", ["search", "selector, folds", "filtered", "leave one out"])
def test_what_indexes_rows_says_that_it_needs_them(name):
    estimator, _ = CASES[name]
    chunks = Chunks.from_array(X, Y, chunk_size=50)
    with (
        sklearn.config_context(working_memory=0.01),
        pytest.raises(MemoryError, match="rows of the chunks take more than the working memory"),
    ):
        sklearn.base.clone(estimator).fit(chunks)
    with pytest.raises(ValueError, match="Chunks hold targets"):
        sklearn.base.clone(estimator).fit(chunks, Y)


def test_kept_rows_of_chunks_are_arrays():
    selector = MemorizationSelector(ExactInfluence(MODEL), random_state=0)
    chunks = Chunks.from_array(X, Y, chunk_size=50)
    for found, expected in zip(
        selector.fit_resample(chunks), selector.fit_resample(X, Y), strict=True
    ):
        assert_array_equal(found, expected)


FIT = ExactInfluence(FROZEN).fit(X, Y)
TAKE_ARRAYS = {
    "influence": lambda chunks: FIT.influence(chunks),
    "score": lambda chunks: FIT.score(chunks, Y),
    "transform": lambda chunks: FIT.transform(chunks),
    "most_influential": lambda chunks: FIT.most_influential(chunks),
    "removal_curve": lambda chunks: diagnostics.removal_curve(FIT, [0, 1], chunks, Y),
    "influence_frame": lambda chunks: diagnostics.influence_frame(FIT, chunks, Y),
    "functional": lambda chunks: diagnostics.functional_without_each(FIT, "log_loss", chunks, Y),
    "set": lambda chunks: diagnostics.most_influential_set(FIT, 2, X=chunks, y=Y),
    "contributions": lambda chunks: diagnostics.column_contributions(FIT, chunks),
    "retraining": lambda chunks: retrain_on_subsets(MODEL, chunks, Y, X[:3], Y[:3]),
}


@pytest.mark.parametrize("name", TAKE_ARRAYS)
def test_elsewhere_a_sentence_tells_what_to_give(name):
    with pytest.raises(TypeError, match="Chunks hold the training rows of fit. Expected an array"):
        TAKE_ARRAYS[name](Chunks.from_array(X, Y, chunk_size=50))
