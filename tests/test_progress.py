"""Long work says what is being done and how much is left: by bars, by lines, to callbacks."""

import logging
import sys
from itertools import count

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from skinfluence import (
    AveragedInfluence,
    ExactInfluence,
    KFACInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.metrics import InfluenceScorer, retrain_on_subsets
from tests.helpers import cancer, perceptron, split

INTERVAL = "skinfluence._utils.progress.INTERVAL"
MODEL = LogisticRegression()
SEEDS = count()


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)


@pytest.fixture
def talkative(monkeypatch):
    """A line for every item."""
    monkeypatch.setattr(INTERVAL, 0.0)


def refit(n_subsets=4, verbose=0):
    """Losses of refits that no earlier call has stored."""
    X, y, Xq, yq = split(*cancer(), n_queries=5, n_train=80)
    tree = DecisionTreeClassifier(max_depth=1, random_state=next(SEEDS))
    settings = {"n_subsets": n_subsets, "random_state": 0, "verbose": verbose}
    return retrain_on_subsets(tree, X, y, Xq, yq, **settings).losses


def test_lines_say_what_is_done_and_what_is_left(without_tqdm, talkative, caplog):
    with caplog.at_level(logging.INFO, logger="skinfluence"):
        refit(4)
    assert [record.name for record in caplog.records] == ["skinfluence"] * 4
    assert "refits: 1 of 4 done in 0 s, about 0 s left" in caplog.messages[0]
    assert "refits: 4 of 4" in caplog.messages[-1]


def test_short_work_says_nothing(without_tqdm, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="skinfluence"):
        refit(4, verbose=1)
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


def test_lines_are_seen_where_they_are_asked_for(without_tqdm, talkative, capsys):
    refit(2)
    assert capsys.readouterr().err == ""
    refit(2, verbose=1)
    assert "[skinfluence] refits: 1 of 2" in capsys.readouterr().err
    # What was asked for once is not shown for ever.
    refit(2)
    assert capsys.readouterr().err == ""


def test_one_item_is_no_loop(without_tqdm, talkative, caplog):
    with caplog.at_level(logging.INFO, logger="skinfluence"):
        refit(1)
    assert not caplog.messages


def test_bars_are_drawn_where_they_are_asked_for(capsys):
    pytest.importorskip("tqdm")
    refit(3, verbose=1)
    drawn = capsys.readouterr().err
    assert "refits" in drawn and "/3" in drawn
    refit(3)
    assert capsys.readouterr().err == ""


def test_reports_change_no_result(without_tqdm, talkative, capsys):
    X, y, Xq, yq = split(*cancer(), n_queries=20, n_train=150)
    quiet, loud = (
        ExactInfluence(MODEL, batch_size=10, verbose=verbose).fit(X, y).influence(Xq, yq)
        for verbose in (0, 1)
    )
    assert_array_equal(quiet, loud)
    assert "batches: 2 of" in capsys.readouterr().err


# ---------------------------------------------------------------------------
# What reports
# ---------------------------------------------------------------------------


def in_small_batches(influence, X, y):
    with config_context(working_memory=0.05):
        return influence.fit(X, y)


def messages_of(work, caplog):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="skinfluence"):
        work()
    return "\n".join(caplog.messages)


@pytest.mark.filterwarnings("ignore:MLPClassifier has not converged", "ignore:lbfgs failed")
def test_long_work_of_every_kind_reports(without_tqdm, talkative, caplog):
    X, y, Xq, yq = split(*cancer(), n_queries=20, n_train=150)
    network = perceptron(max_iter=50)
    exact = ExactInfluence(MODEL, batch_size=10).fit(X, y)
    faithful = InfluenceScorer("faithfulness")
    search = {"sketch_sizes": [4, 8], "dampings": [0.1], "cv": 2, "random_state": 0}
    rng = np.random.default_rng(0)
    subsets, wide = rng.random((3, len(y))) < 0.7, rng.standard_normal((len(y), 120))
    jobs = {
        "batches: ": lambda: exact.influence(Xq, yq),
        "batches of rows: ": lambda: in_small_batches(KFACInfluence(network), X, y),
        "trainings: 2 of 2": lambda: AveragedInfluence(KFACInfluence(network), n_fits=2).fit(X, y),
        "splits: 2 of 2": lambda: SketchedInfluenceCV(MODEL, scoring=faithful, **search).fit(X, y),
        "candidates: 2 of 2": lambda: SketchedInfluenceCV(MODEL, scoring=faithful, **search).fit(
            X, y
        ),
        "trying a sketch of": lambda: SketchedInfluence(MODEL).fit(wide, y),
        "refits: 3 of 3": lambda: retrain_on_subsets(
            DecisionTreeClassifier(max_depth=2), X, y, Xq, yq, subsets=subsets
        ),
    }
    for expected, work in jobs.items():
        assert expected in messages_of(work, caplog), expected


def test_refits_of_a_score_are_seen_where_the_estimator_says_so(without_tqdm, talkative, capsys):
    X, y, Xq, yq = split(*cancer(), n_queries=10, n_train=100)
    for verbose in (0, 1):
        scoring = InfluenceScorer(n_subsets=70, random_state=verbose)
        influence = ExactInfluence(MODEL, scoring=scoring, verbose=verbose).fit(X, y)
        capsys.readouterr()
        influence.score(Xq, yq)
        assert ("blocks of refits: 3 of 3" in capsys.readouterr().err) == bool(verbose)


def test_threads_report_too(without_tqdm, talkative, caplog):
    X, y, Xq, yq = split(*cancer(), n_queries=20, n_train=150)
    influence = ExactInfluence(MODEL, batch_size=10, n_jobs=2).fit(X, y)
    assert "of " in messages_of(lambda: influence.influence(Xq, yq), caplog)


# ---------------------------------------------------------------------------
# Callbacks of scikit-learn
# ---------------------------------------------------------------------------


class Recorder:
    """A callback that writes down the names and the sizes of tasks."""

    def __init__(self):
        self.begun, self.ended, self.calls = [], [], []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.begun.append((context.task_name, context.max_subtasks))

    def on_fit_task_end(self, estimator, context):
        self.ended.append((context.task_name, context.max_subtasks))


def test_callbacks_hear_of_the_loops_of_a_fit():
    pytest.importorskip("sklearn.callback")
    X, y, *_ = split(*cancer(), n_train=150)
    recorder = Recorder()
    search = SketchedInfluenceCV(
        MODEL,
        sketch_sizes=[4, 8],
        dampings=[0.1],
        cv=3,
        scoring=InfluenceScorer("faithfulness"),
        random_state=0,
    )
    search.set_callbacks(recorder).fit(X, y)
    assert recorder.begun[0] == recorder.ended[-1] == ("fit", None)
    assert ("splits", 3) in recorder.begun
    assert recorder.begun.count(("splits", 0)) == 3
    assert sorted(map(str, recorder.begun)) == sorted(map(str, recorder.ended))
    assert recorder.calls == ["setup", "teardown"]


def test_callbacks_are_taken_down_after_a_fit_that_fails():
    pytest.importorskip("sklearn.callback")
    X, y = cancer()
    recorder = Recorder()
    with pytest.raises(ValueError):
        ExactInfluence(MODEL).set_callbacks(recorder).fit(X[:1], y[:1])
    assert recorder.calls == ["setup", "teardown"]
    # The next fit is heard as well.
    influence = ExactInfluence(MODEL).set_callbacks(recorder).fit(X, y)
    assert recorder.calls == ["setup", "teardown"] * 2
    assert influence.influence(X[:2], y[:2]).shape == (2, len(y))


def test_nothing_is_left_of_a_report_in_the_estimator():
    before = set(vars(ExactInfluence(MODEL).fit(*cancer())))
    after = set(vars(ExactInfluence(MODEL, verbose=1).fit(*cancer())))
    assert before == after
