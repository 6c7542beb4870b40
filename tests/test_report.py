"""The report: what its checks find, on which rows, and what the page is made of."""

import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    Chunks,
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.inspection import InfluenceReport
from tests.chromium import opened
from tests.helpers import NEWTON, cancer, diabetes, logistic, perceptron, split, wine

pd = pytest.importorskip("pandas")

DOCS = Path(__file__).parents[1] / "docs"


def finding(code, estimator, X, y, **options):
    """What one check finds, by its own call."""
    check = next(check for check in InfluenceReport.checks if check.code == code)
    return check(estimator, X, y, **options)


@pytest.fixture(scope="module")
def noisy():
    """Two classes with ten labels turned, and the report of a fit on them."""
    X, y, X_valid, y_valid = split(*cancer(), 200)
    turned = np.random.default_rng(1).choice(len(y), 10, replace=False)
    y[turned] = 1 - y[turned]
    names = pd.Index([f"patient {i}" for i in range(len(y))])
    table = pd.DataFrame(X, index=names).rename(columns=str)
    queries = pd.DataFrame(X_valid).rename(columns=str)
    influence = ExactInfluence(logistic()).fit(table, pd.Series(y, index=names))
    return InfluenceReport(influence, queries, y_valid), names[turned]


# ---------------------------------------------------------------------------
# What the checks find
# ---------------------------------------------------------------------------


def test_every_check_answers_and_issues_come_first(noisy):
    frame = noisy[0].to_frame()
    assert sorted(frame.index) == [f"SKI{i:03d}" for i in range(1, 11)]
    order = ["issue", "passed", "not applicable"]
    assert frame["status"].map(order.index).is_monotonic_increasing
    for _, group in frame.groupby("status"):
        assert group["severity"].map(["high", "medium", "low"].index).is_monotonic_increasing
    assert frame["explanation"].str.endswith(".").all()


def test_turned_labels_are_suspected_by_their_names(noisy):
    report, turned = noisy
    found = report.to_frame().loc["SKI006"]
    assert found["status"] == "issue" and found["severity"] == "medium"
    assert len(set(found["rows"]) & set(turned)) >= 7
    assert found["rows"][0] in found["explanation"]


def test_harmful_rows_are_those_whose_removal_helps_queries_that_did_not_choose_them(noisy):
    report, turned = noisy
    found = report.to_frame().loc["SKI005"]
    assert found["status"] == "issue"
    assert set(found["rows"]) <= set(turned)
    assert len(found["rows"]) == round(0.01 * len(report.evidence.index))


def test_harm_by_chance_is_no_issue():
    X, y, X_valid, y_valid = split(*cancer(), 200)
    found = finding("SKI005", ExactInfluence(logistic()).fit(X, y), X_valid, y_valid)
    assert found.status == "passed" and "chance" in found.explanation


def test_few_queries_cannot_tell_harm_from_chance():
    X, y, X_valid, y_valid = split(*cancer(), 10)
    found = finding("SKI005", ExactInfluence(logistic()).fit(X, y), X_valid, y_valid)
    assert found.status == "not applicable" and "20 are needed" in found.explanation


def test_memorized_labels_lose_their_probability_in_refits():
    X, y, X_valid, y_valid = split(*cancer(), 100, 60)
    model = LogisticRegression(C=10.0, **NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    found = finding("SKI007", influence, X_valid, y_valid)
    others = np.arange(len(y))
    own = np.array([model.fit(X, y).predict_proba(X)[others, y]])[0]
    fall = [
        own[i] - model.fit(X[others != i], y[others != i]).predict_proba(X[[i]])[0, y[i]]
        for i in others
    ]
    assert set(found.positions) == set(np.flatnonzero(np.array(fall) >= 0.25))
    assert len(found.positions) > 1
    assert_array_equal(found.positions, sorted(found.positions, key=lambda i: -fall[i]))


def test_a_far_row_has_a_leverage_near_1():
    X, y, X_valid, y_valid = split(*diabetes(), 100)
    X[17] *= 50
    found = finding("SKI008", ExactInfluence(LinearRegression()).fit(X, y), X_valid, y_valid)
    assert found.status == "issue" and found.rows == [17]
    softmax = ExactInfluence(LogisticRegression(C=0.1)).fit(*split(*wine())[:2])
    assert finding("SKI008", softmax, *split(*wine())[2:]).status == "passed"


def test_twins_with_two_labels_pull_in_opposite_directions():
    X, y, X_valid, y_valid = split(*cancer(), 200)
    hard = 40
    X[7], y[7] = X[hard] + 1e-6, 1 - y[hard]
    found = finding("SKI009", ExactInfluence(logistic()).fit(X, y), X_valid, y_valid)
    assert found.status == "issue" and set(found.rows[:2]) == {7, hard}
    y[7] = y[hard]
    found = finding("SKI009", ExactInfluence(logistic()).fit(X, y), X_valid, y_valid)
    assert not {7, hard} & set(found.rows)


def test_a_group_of_wrong_labels_never_helps():
    X, y, X_valid, y_valid = split(*cancer(), 200)
    source = np.where(np.arange(len(y)) < 60, "clinic <b>", "others")
    y[:60] = 1 - y[:60]
    influence = ExactInfluence(logistic()).fit(X, y)
    found = finding("SKI010", influence, X_valid, y_valid, groups=source)
    assert found.status == "issue" and found.rows == list(range(60))
    assert "clinic <b> (60 rows" in found.explanation
    assert finding("SKI010", influence, X_valid, y_valid).status == "not applicable"


def test_columns_of_categories_are_groups():
    X, y, X_valid, y_valid = split(*diabetes(), 100)
    table = pd.DataFrame(X, columns=[f"x{i}" for i in range(10)])
    table["ward"] = np.where(np.arange(len(y)) % 3, "a", "b")
    queries = pd.DataFrame(X_valid, columns=table.columns[:10]).assign(ward="a")
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encode = make_column_transformer((OneHotEncoder(), ["ward"]), remainder="passthrough")
    influence = ExactInfluence(make_pipeline(encode, Ridge())).fit(table, y)
    found = finding("SKI010", influence, queries, y_valid)
    assert found.status == "passed" and found.explanation.startswith("Of 2 groups")


def test_classes_that_would_be_lost_are_no_groups():
    X, y, X_valid, y_valid = split(*wine(), 60)
    found = finding("SKI010", ExactInfluence(logistic()).fit(X, y), X_valid, y_valid, groups=y)
    assert found.status == "not applicable" and "Of 3 groups, 0" in found.explanation


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_model_that_stopped_early_is_told():
    X, y, X_valid, y_valid = split(*cancer(), 100)
    early = ExactInfluence(LogisticRegression(C=100.0, max_iter=2)).fit(X, y)
    assert finding("SKI001", early, X_valid, y_valid).status == "issue"
    done = ExactInfluence(logistic()).fit(X, y)
    assert finding("SKI001", done, X_valid, y_valid).status == "passed"


@pytest.mark.parametrize(
    ("damping", "status"), [(0.0, "passed"), (1e-6, "passed"), (1.0, "issue")]
)
def test_damping_that_holds_directions_back_is_told(damping, status):
    X, y, X_valid, y_valid = split(*cancer(), 100)
    influence = ExactInfluence(logistic(), damping=damping).fit(X, y)
    found = finding("SKI002", influence, X_valid, y_valid)
    assert found.status == status
    if damping:
        without = ExactInfluence(logistic(), damping=0.0).fit(X, y).effective_dimension_
        assert f"{without:.3g} to {influence.effective_dimension_:.3g}" in found.explanation


def test_damping_of_a_network_is_judged_where_it_was_found():
    X, y, X_valid, y_valid = split(*wine(), 60)
    found = finding("SKI002", ExactInfluence(perceptron()).fit(X, y), X_valid, y_valid)
    assert found.status == "passed"
    given = ExactInfluence(perceptron(), damping=0.01).fit(X, y)
    assert finding("SKI002", given, X_valid, y_valid).status == "not applicable"


def test_the_error_of_a_sketch_is_told():
    X, y, X_valid, y_valid = split(*cancer(), 100)
    fits = {
        size: SketchedInfluence(
            logistic(), sketch="gaussian", tail=False, sketch_size=size, random_state=0
        ).fit(X, y)
        for size in (4, 31)
    }
    assert finding("SKI003", fits[4], X_valid, y_valid).status == "issue"
    assert finding("SKI003", fits[31], X_valid, y_valid).status == "passed"


def test_more_directions_than_rows_are_told():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 40)), rng.standard_normal(30)
    follows = ExactInfluence(Ridge(1.0)).fit(X[:20], y[:20])
    assert finding("SKI004", follows, X[20:], y[20:]).status == "issue"
    held = ExactInfluence(Ridge(100.0)).fit(X[:20], y[:20])
    assert finding("SKI004", held, X[20:], y[20:]).status == "passed"


# ---------------------------------------------------------------------------
# Every estimator, every kind of model
# ---------------------------------------------------------------------------

ESTIMATORS = [
    ExactInfluence(logistic(), solver="cg", damping=1e-3),
    SketchedInfluence(logistic(), sketch_size=12, random_state=0),
    SketchedInfluenceCV(logistic(), sketch_sizes=[12], dampings=[1e-3], cv=2, random_state=0),
    KFACInfluence(perceptron(), random_state=0),
    ClassifierHeadInfluence(perceptron()),
    RelativeHessianInfluence(logistic(), subset_size=80, random_state=0),
]


@pytest.mark.parametrize("influence", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_every_estimator_has_a_report(influence):
    X, y, X_valid, y_valid = split(*cancer(), 60, 120)
    frame = InfluenceReport(influence.fit(X, y), X_valid, y_valid).to_frame()
    assert (frame["status"] != "not applicable").sum() >= 8


def test_models_without_probabilities_have_a_report():
    X, y, X_valid, y_valid = split(*diabetes(), 60)
    two, two_valid = np.column_stack([y, X[:, 0]]), np.column_stack([y_valid, X_valid[:, 0]])
    for targets, queries in ((y, y_valid), (two, two_valid)):
        report = InfluenceReport(ExactInfluence(Ridge()).fit(X, targets), X_valid, queries)
        found = report.to_frame().loc["SKI007"]
        assert found["status"] == "not applicable" and "Ridge" in found["explanation"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_module_of_torch_has_a_report():
    torch = pytest.importorskip("torch")
    from skinfluence.models.torch import TorchModel

    X, y, X_valid, y_valid = split(*wine(), 60)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(13, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    influence = ExactInfluence(TorchModel(module, l2=0.01), curvature="ggn").fit(X, y)
    frame = InfluenceReport(influence, X_valid, y_valid).to_frame()
    assert frame.loc["SKI001", "status"] == "issue"
    assert (frame["status"] != "not applicable").sum() >= 8


def test_rows_in_pieces_have_the_report_of_all_rows():
    X, y, X_valid, y_valid = split(*cancer(), 60, 120)
    pieces = Chunks([(X[:50], y[:50]), (X[50:], y[50:])])
    whole, parts = (
        InfluenceReport(ExactInfluence(logistic()).fit(*rows), X_valid, y_valid).to_frame()
        for rows in ((X, y), (pieces,))
    )
    pd.testing.assert_frame_equal(whole[["status", "rows"]], parts[["status", "rows"]])


def test_words_are_rows_without_columns():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(0)
    words = np.array("good fine nice bad poor dull".split())
    y = np.arange(80) % 2
    texts = [" ".join(rng.choice(words[3 * label : 3 * label + 3], 3)) for label in y]
    model = make_pipeline(CountVectorizer(), logistic())
    influence = ExactInfluence(model).fit(texts[:50], y[:50])
    frame = InfluenceReport(influence, texts[50:], y[50:]).to_frame()
    assert frame.loc["SKI009", "status"] == "passed"


# ---------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def every(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a report whose labels, columns and rows are markup."""
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib").use("Agg")
    X, y, X_valid, y_valid = split(*cancer(), 100)
    y[:5] = 1 - y[:5]
    evil = "<script>alert(1)</script>"
    labels = np.array([evil, '"><img src=x onerror=alert(2)>'])
    columns = [f"<i id='a'>{i}" for i in range(X.shape[1])]
    names = [f"<b onclick=x>{i}&amp;</b>" for i in range(len(y))]
    table = pd.DataFrame(X, columns=columns, index=names)
    influence = ExactInfluence(logistic(), damping=1.0).fit(table, labels[y])
    report = InfluenceReport(
        influence, pd.DataFrame(X_valid, columns=columns), labels[y_valid],
        groups=np.where(np.arange(len(y)) < 30, evil, "ok"),
    )  # fmt: skip
    path = report.to_html(
        tmp_path_factory.mktemp("report") / "page.html", docs="https://site.test"
    )
    return report, path


def test_the_page_needs_no_other_file(hostile):
    page = Page(hostile[1].read_text(encoding="utf-8"))
    images = page.every("img")
    assert len(images) == 4
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] for image in images)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    links = {attributes["href"] for attributes in page.every("a")}
    assert links == {f"https://site.test/{check.docs_url}" for check in InfluenceReport.checks}
    own = "\n".join(text for text in page.text if "{" in text)
    assert "url(" not in own and "@import" not in own


def test_what_comes_from_data_stays_text(hostile):
    report, path = hostile
    page = Page(path.read_text(encoding="utf-8"))
    assert not {"i", "script"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    text = "".join(page.text)
    for name in (report.to_frame().loc["SKI006", "rows"][0], "<script>alert(1)</script>"):
        assert name in text


def test_ids_are_unique_and_every_label_has_its_input(hostile):
    report, path = hostile
    page = Page(path.read_text(encoding="utf-8") + report._repr_html_())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    assert {label["for"] for label in page.every("label")} <= set(ids)
    assert len(page.every("label")) == 10


def test_tabs_hold_what_was_found(hostile):
    report, path = hostile
    text = "".join(Page(path.read_text(encoding="utf-8")).text)
    counts = report.to_frame()["status"].value_counts()
    assert f"Issues ({counts['issue']})" in text and f"Passed ({counts['passed']})" in text
    assert all(found.explanation in text for found in report.findings)


def test_the_table_beside_the_page_has_all_rows(hostile):
    report, path = hostile
    table = pd.read_csv(path.with_suffix(".csv"), index_col="row")
    assert sorted(table.index) == sorted(report.evidence.index)
    assert table["influence"].is_monotonic_decreasing


def test_missing_jinja2_is_named(noisy, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    pytest.importorskip("matplotlib")
    with pytest.raises(ImportError, match=r"pip install 'skinfluence\[report\]'"):
        noisy[0].to_html("unused.html")


def test_a_browser_shows_the_page(hostile):
    shown = Page(opened(hostile[1]).stdout)
    assert len(shown.every("img")) == 4
    assert "Issues (" in "".join(shown.text)


# ---------------------------------------------------------------------------
# A door for other tools, and bad input
# ---------------------------------------------------------------------------


def test_checks_are_explained_in_the_guide():
    guide = (DOCS / "guide" / "report.md").read_text(encoding="utf-8")
    codes = [check.code for check in InfluenceReport.checks]
    assert len(set(codes)) == len(codes)
    for check in InfluenceReport.checks:
        assert (
            f"({check.code.lower()})=\n**{check.code} {check.title}**, {check.severity}." in guide
        )
        assert check.docs_url == f"guide/report.html#{check.code.lower()}"
        assert check.description.endswith(".")


def test_a_check_alone_says_what_the_report_says(noisy):
    report, _ = noisy
    evidence = report.evidence
    for found in report.findings:
        again = found.check(evidence.estimator, evidence.X, evidence.y)
        assert again.explanation == found.explanation and again.rows == found.rows
        assert found.check.run(evidence).explanation == found.explanation


def test_bad_input_is_named():
    X, y, X_valid, y_valid = split(*cancer(), 30)
    influence = ExactInfluence(logistic()).fit(X, y)
    with pytest.raises(ValueError, match="Got 29 targets for 30 rows"):
        InfluenceReport(influence, X_valid, y_valid[1:])
    with pytest.raises(ValueError, match="groups must hold one group for each of the 539"):
        InfluenceReport(influence, X_valid, y_valid, groups=y[1:])
    with pytest.raises(TypeError, match="needs a fitted influence estimator.*Got StandardScaler"):
        InfluenceReport(StandardScaler().fit(X), X_valid, y_valid)
