"""The checks of the report go into a report of skore, real or with the same attributes."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from skinfluence import ExactInfluence
from skinfluence.inspection import InfluenceReport, skore_checks
from tests.helpers import cancer, frozen, split

pytest.importorskip("pandas")

MODEL = LogisticRegression()
INFLUENCE = ExactInfluence(MODEL)


def data():
    X, y, Xq, yq = split(*cancer(), n_queries=100, n_train=200)
    # A label that is wrong, to be found.
    wrong = np.argmax(LogisticRegression().fit(X, y).predict_proba(X)[:, 1] * (y == 1))
    y[wrong] = 0
    return X, y, Xq, yq


def expected():
    """Finding of every check by our own report, by code."""
    X, y, Xq, yq = data()
    fitted = ExactInfluence(frozen(MODEL, X, y)).fit(X, y)
    return {found.check.code: found for found in InfluenceReport(fitted, Xq, yq).findings}


class NotApplicable(Exception):
    """As skore has it."""


@pytest.fixture
def like_skore(monkeypatch):
    """A module with what the checks take from skore."""
    module = ModuleType("skore")
    module.CheckNotApplicable = NotApplicable
    monkeypatch.setitem(sys.modules, "skore", module)


def report_of(model):
    X, y, Xq, yq = data()
    return SimpleNamespace(estimator_=model.fit(X, y), X_train=X, y_train=y, X_test=Xq, y_test=yq)


def test_checks_have_what_skore_asks_for():
    checks = skore_checks(INFLUENCE, docs="https://example.org/site/")
    assert [check.code for check in checks] == [check.code for check in InfluenceReport.checks]
    for check in checks:
        assert check.severity in ("issue", "tip")
        assert check.report_types == ["estimator"]
        assert check.slow is True
        assert check.docs_url == f"https://example.org/site/guide/report.html#{check.code.lower()}"
    assert skore_checks(INFLUENCE)[0].docs_url is None


def test_checks_find_what_our_own_report_finds(like_skore):
    report, findings = report_of(MODEL), expected()
    for check in skore_checks(INFLUENCE):
        own = findings[check.code]
        if own.status == "not applicable":
            with pytest.raises(NotApplicable) as reason:
                check.check_function(report)
            assert str(reason.value) == own.explanation
            continue
        found = check.check_function(report)
        if own.status == "passed":
            assert found is None
        else:
            assert found.startswith(own.explanation)
            assert all(str(row) in found for row in own.rows)
    assert {found.status for found in findings.values()} >= {"issue", "passed"}


def test_influence_is_computed_once_for_all_checks(like_skore, monkeypatch):
    fits = []
    own = ExactInfluence.fit

    def fit(self, *args, **kwargs):
        fits.append(self)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(ExactInfluence, "fit", fit)
    report = report_of(MODEL)
    for check in skore_checks(INFLUENCE)[:3]:
        check.check_function(report)
    assert len(fits) == 1
    # The model of the report is taken as it is, and the given estimator stays as it was.
    assert fits[0].estimator_.estimator is report.estimator_
    assert not hasattr(INFLUENCE, "estimator_")


def test_what_has_no_influence_is_not_applicable(like_skore):
    (check, *_), tree = skore_checks(INFLUENCE), DecisionTreeClassifier(max_depth=2)
    with pytest.raises(NotApplicable, match="DecisionTreeClassifier"):
        check.check_function(report_of(tree))
    without = report_of(MODEL)
    without.X_train = None
    with pytest.raises(NotApplicable, match="X_train and y_train"):
        check.check_function(without)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_report_of_skore_takes_the_checks():
    skore = pytest.importorskip("skore")
    X, y, Xq, yq = data()
    report = skore.EstimatorReport(
        LogisticRegression(), X_train=X, y_train=y, X_test=Xq, y_test=yq
    )
    checks = skore_checks(INFLUENCE)
    assert all(isinstance(check, skore.Check) for check in checks)
    report.checks.add(checks)
    summary = report.checks.summarize()
    # Older releases call it a severity.
    name = "section" if "section" in summary.frame() else "severity"
    found = {
        kind: summary.frame(**{name: kind}).set_index("code")["explanation"]
        for kind in ("issue", "tip", "passed")
    }
    for code, own in expected().items():
        if own.status == "issue":
            told = found["issue"] if code in found["issue"] else found["tip"]
            assert told[code].startswith(own.explanation)
        elif own.status == "passed":
            assert code in found["passed"]
    assert "SKI001" in summary._repr_html_()
