"""The page on scaling: its figures are those of the benchmark, and rows take what it says."""

import re
import tracemalloc

import pytest
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skinfluence import ExactInfluence
from tests.markdown_tables import ROOT, agree, numbers, results, table

PAGE = (ROOT / "docs/guide/scaling.md").read_text(encoding="utf-8")


def test_ratios_are_those_of_the_benchmark():
    shown, measured = table(PAGE, "job", "beside", "ratio"), table(results("scale.md"), "job")
    assert [each["job"] for each in shown] == [each["job"] for each in measured]
    for own, other in zip(shown, measured, strict=True):
        for name in ("beside", "ratio", "target"):
            assert own[name] == other[name]


def test_slopes_and_what_follows_are_those_of_the_benchmark():
    *_, largest, slope = table(results("scale.md"), "rows", "fit s")
    names = ["fit s", "self-influence s", "100 rankings s"]
    shown = re.search(r"against log rows is (\S+) for the fit, (\S+) .* and (\S+) for the r", PAGE)
    agree(list(shown.groups()), [slope[name] for name in names])
    shown = re.search(
        r"one core (\d+) minutes to fit, (\d+) for self-influence and (\d+) for", PAGE
    )
    hundred = [float(largest[name]) * 100 / 60 for name in names]
    assert [int(minutes) for minutes in shown.groups()] == pytest.approx(hundred, abs=0.51)
    shown = re.search(r"the map take (\d+) MiB at 10⁷ rows", PAGE)
    agree(list(shown.groups()), numbers(largest["MiB of arrays"]))


def test_what_two_workers_are_worth_is_that_of_the_benchmark():
    page = (ROOT / "docs/guide/cluster.md").read_text(encoding="utf-8")
    measured = table(results("past_one_machine.md"), "loop", "backend")
    shown = table(page, "loop", "backend")
    assert len(shown) > 3
    for each in shown:
        assert each in [{name: row[name] for name in each} for row in measured]


def test_the_size_of_a_file_is_that_of_the_benchmark():
    shown = re.search(r"`joblib.dump`\nwrite ([\d.]+) times", PAGE)
    measured = re.search(r"the fit takes ([\d.]+) times", results("scale.md"))
    agree(list(shown.groups()), list(measured.groups()))


def test_a_fit_takes_as_many_bytes_for_each_row_as_the_page_says(rng):
    (held, largest), n = re.findall(r"hold (\d+) bytes[^.]*up to (\d+) while", PAGE)[0], 200_000
    X = rng.standard_normal((n, 3))
    y = (X @ rng.standard_normal(3) + rng.logistic(size=n) > 0).astype(int)
    model = LogisticRegression(solver="newton-cholesky").fit(X, y)
    influence = ExactInfluence(FrozenEstimator(model))
    with config_context(working_memory=1):
        tracemalloc.start()
        try:
            influence.fit(X, y)
            found = [(size - X.nbytes) / n for size in tracemalloc.get_traced_memory()]
        finally:
            tracemalloc.stop()
    # A pass over the rows has its own memory beside, whatever their number.
    assert found[0] < int(held) + 1
    assert found[1] < int(largest) + 5
