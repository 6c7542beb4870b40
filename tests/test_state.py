"""What the caller does with arrays after fit changes no result.

The limit of bytes up to which rows are copied is lowered by its dotted path.
"""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.metrics import InfluenceScorer
from tests.helpers import cancer, diabetes

SMALL = "skinfluence._utils.kept_rows.SMALL"

ESTIMATORS = {
    "exact": ExactInfluence(LogisticRegression()),
    "gram": ExactInfluence(LogisticRegression(), solver="gram"),
    "sketched": SketchedInfluence(LogisticRegression(), sketch_size=8, random_state=0),
    "search": SketchedInfluenceCV(
        LogisticRegression(),
        sketch_sizes=[8],
        dampings=[0.0],
        cv=2,
        scoring=InfluenceScorer("faithfulness"),
        random_state=0,
    ),
    "kfac": KFACInfluence(LogisticRegression()),
    "head": ClassifierHeadInfluence(LogisticRegression()),
    "relative": RelativeHessianInfluence(LogisticRegression(), subset_size=300, random_state=0),
    "pipeline": ExactInfluence(make_pipeline(StandardScaler(), LogisticRegression())),
}


def results(influence, Xq, yq):
    return (
        influence.influence(Xq, yq),
        influence.leave_one_out_effect(Xq, yq),
        influence.self_influence(),
        influence.memorization(),
        influence.parameter_influence([0, 1]),
    )


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("as_container", [np.array, sp.csr_matrix])
def test_rows_that_are_edited_after_fit_change_nothing(name, as_container):
    X, y = cancer()
    Xq, yq = as_container(X[:5]), y[:5]
    if name == "pipeline" and as_container is not np.array:
        pytest.skip("StandardScaler centres no sparse matrix.")
    rows, labels, weight = as_container(X), y.copy(), np.ones(len(y))
    influence = ESTIMATORS[name].fit(rows, labels, sample_weight=weight)
    before = results(influence, Xq, yq)
    values = rows if as_container is np.array else rows.data
    values *= 10
    labels[:] = 1 - labels
    weight *= 3
    for found, expected in zip(results(influence, Xq, yq), before, strict=True):
        assert_array_equal(found, expected)


@pytest.mark.parametrize("as_container", [np.array, sp.csr_matrix])
def test_edited_rows_that_are_too_large_to_copy_are_refused(as_container, monkeypatch):
    monkeypatch.setattr(SMALL, 1000)
    X, y = diabetes()
    rows = as_container(X)
    influence = ExactInfluence(Ridge()).fit(rows, y)
    before = influence.influence(X[:5], y[:5])
    assert_array_equal(influence.influence(X[:5], y[:5]), before)
    values = rows if as_container is np.array else rows.data
    original = values.copy()
    values *= 10
    for use in (
        lambda: influence.influence(X[:5], y[:5]),
        lambda: influence.most_influential(X[:5], y[:5]),
        lambda: influence.leave_one_out_effect(X[:5], y[:5]),
        lambda: influence.removal_effect([0], X[:5], y[:5]),
        lambda: influence.transform(X[:5], y[:5]),
        influence.self_influence,
        influence.memorization,
        influence.parameter_influence,
        lambda: influence.score(X[:50], y[:50]),
    ):
        with pytest.raises(ValueError, match="have changed since fit"):
            use()
    values[:] = original
    assert_array_equal(influence.influence(X[:5], y[:5]), before)


def test_large_rows_are_not_copied(monkeypatch):
    monkeypatch.setattr(SMALL, 1000)
    X, y = diabetes()
    influence = ExactInfluence(Ridge(fit_intercept=False)).fit(X, y)
    assert np.shares_memory(influence.linearisation_.objective.features, X)


def test_pickles_hold_the_rows_once():
    X, y = cancer()
    size = len(pickle.dumps(ExactInfluence(LogisticRegression()).fit(X, y)))
    assert X.nbytes < size < 2 * X.nbytes
