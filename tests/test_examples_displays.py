"""A query beside training rows, and influence taken apart by columns."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, issparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.svm import LinearSVC

from skinfluence import (
    AveragedInfluence,
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.diagnostics import column_contributions
from skinfluence.inspection import (
    ImageExamplesDisplay,
    TableExamplesDisplay,
    TextExamplesDisplay,
)
from tests.helpers import assert_close, cancer, diabetes, digits, logistic, perceptron, split, wine

plt = pytest.importorskip("matplotlib.pyplot")
pd = pytest.importorskip("pandas")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


# ---------------------------------------------------------------------------
# Contributions of columns
# ---------------------------------------------------------------------------

# Without an intercept the parts of the columns are all there is.
plain = logistic(fit_intercept=False)
ADDED_UP = {
    "binary": (ExactInfluence(plain), cancer),
    "softmax": (ExactInfluence(plain), wine),
    "sketched": (SketchedInfluence(plain, sketch_size=20, random_state=0), wine),
    "kfac": (KFACInfluence(plain), wine),
    "relative": (RelativeHessianInfluence(plain, subset_size=60, random_state=0), wine),
    "head": (
        ClassifierHeadInfluence(make_pipeline(PolynomialFeatures(2, include_bias=False), plain)),
        wine,
    ),
    "ridge": (ExactInfluence(Ridge(fit_intercept=False)), diabetes),
    "lasso": (
        ExactInfluence(Lasso(0.5, fit_intercept=False, tol=1e-10, max_iter=100_000)),
        diabetes,
    ),
    "one against the rest": (
        ExactInfluence(LinearSVC(loss="squared_hinge", dual=False, fit_intercept=False, tol=1e-9)),
        wine,
    ),
}


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("name", ADDED_UP)
def test_parts_of_columns_add_up_to_the_influence(name, with_target):
    influence, data = ADDED_UP[name]
    X, y, X_valid, y_valid = split(*data(), 10, 100)
    influence.fit(X, y)
    query = X_valid[[3]], y_valid[[3]] if with_target else None
    parts = column_contributions(influence, *query)
    assert_close(parts.sum(axis=1), influence.influence(*query)[0], 1e-8)


def test_the_intercept_has_the_rest():
    X, y, X_valid, y_valid = split(*cancer(), 10, 100)
    influence = ExactInfluence(logistic()).fit(X, y)
    rest = influence.influence(X_valid[:1], y_valid[:1])[0] - column_contributions(
        influence, X_valid[:1], y_valid[:1]
    ).sum(axis=1)
    # -(p - y) times the intercept's coordinate of H^{-1} g_t, the same for all rows.
    residual = influence.estimator_.predict_proba(X)[:, 1] - y
    assert_close(rest / residual, np.full(100, (rest / residual)[0]), 1e-6)


def test_parts_of_sparse_rows_are_sparse_and_the_same():
    X, y, X_valid, y_valid = split(*wine(), 10, 100)
    X[X < 0.5] = 0
    dense = ExactInfluence(logistic(solver="newton-cg")).fit(X, y)
    sparse = ExactInfluence(logistic(solver="newton-cg")).fit(csr_array(X), y)
    rows = [5, 0, 77]
    expected = column_contributions(dense, X_valid[:1], y_valid[:1], rows)
    found = column_contributions(sparse, csr_array(X_valid[:1]), y_valid[:1], rows)
    assert issparse(found) and found.nnz <= np.count_nonzero(X[rows])
    assert_close(found.toarray(), expected, 1e-4)
    assert_close(expected, column_contributions(dense, X_valid[:1], y_valid[:1])[rows], 1e-12)


def test_contributions_say_what_is_wrong():
    X, y, X_valid, y_valid = split(*wine(), 10, 100)
    network = ExactInfluence(perceptron()).fit(X, y)
    with pytest.raises(TypeError, match="MLPClassifier are not linear.*ClassifierHeadInfluence"):
        column_contributions(network, X_valid[:1], y_valid[:1])
    influence = ExactInfluence(logistic()).fit(X, y)
    with pytest.raises(ValueError, match="Expected one query, got 2"):
        column_contributions(influence, X_valid[:2], y_valid[:2])


# ---------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def test_table_shows_the_columns_that_differ_most():
    display = TableExamplesDisplay(
        [1.0, 5.0, "a"],
        [[1.0, 9.0, "b"], [3.0, 5.0, "a"]],
        [0.3, -0.2],
        spread=[0.5, 8.0, np.nan],
        columns=["age", "dose", "ward"],
    ).plot(n_columns=2)
    assert_array_equal(display.columns_, [0, 2])
    assert_allclose(display.differences_, [[0, 0.5, 1], [4, 0, 0]])
    assert texts_of(display.ax_) == ["1", "a", "1", "b", "3", "a"]
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["age", "ward"]


@pytest.mark.parametrize("with_target", [True, False])
def test_table_from_estimator_has_names_labels_and_influence(with_target):
    X, y, X_valid, y_valid = split(*cancer(), 10, 100)
    columns = [f"c{i}" for i in range(30)]
    table = pd.DataFrame(X, columns=columns, index=[f"patient ${i}$" for i in range(100)])
    labels = np.where(y, "benign", "malignant")
    influence = ExactInfluence(logistic()).fit(table, labels)
    query = pd.DataFrame(X_valid[:1], columns=columns)
    target = np.where(y_valid[:1], "benign", "malignant") if with_target else None
    display = TableExamplesDisplay.from_estimator(influence, query, target, k=2, n_columns=3)
    expected = influence.influence(query, target)[0]
    order = np.argsort(-expected)
    assert_allclose(display.influence, expected[[*order[:2], *order[-2:]]])
    ticks = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert ticks[0] == (f"query, {target[0]}" if with_target else "query")
    # A dollar sign is no formula.
    assert ticks[1].startswith(rf"patient \${order[0]}\$, {labels[order[0]]}: ")
    of = "loss" if with_target else "prediction"
    title = f"LogisticRegression, influence on the {of} of one query"
    assert display.ax_.get_title() == title
    display.figure_.canvas.draw()


def test_tables_need_columns():
    influence = ExactInfluence(make_pipeline(CountVectorizer(), logistic()))
    influence.fit(["good", "bad", "fine", "poor"], [1, 0, 1, 0])
    with pytest.raises(ValueError, match="no table. Use ImageExamplesDisplay or Text"):
        TableExamplesDisplay.from_estimator(influence, ["good"], [1])


# ---------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "influence",
    [
        ExactInfluence(logistic()),
        AveragedInfluence(ExactInfluence(perceptron()), n_fits=2, random_state=0),
    ],
    ids=["one fit", "averaged"],
)
def test_thumbnails_are_the_training_images(influence):
    X, y, X_valid, y_valid = split(*digits(3), 10, 100)
    influence.fit(X, y)
    display = ImageExamplesDisplay.from_estimator(influence, X_valid[:1], y_valid[:1], k=2)
    scores = influence.influence(X_valid[:1], y_valid[:1])[0]
    order = np.argsort(-scores)
    expected = [*order[:2], *order[-2:]]
    assert_allclose(display.images, X[expected].reshape(-1, 8, 8))
    assert_allclose(display.query, X_valid[0].reshape(8, 8))
    shown = [axes.images[0].get_array() for axes in display.thumbnails_]
    assert_allclose(shown[1:], X[expected].reshape(-1, 8, 8))
    captions = [axes.get_title() for axes in display.thumbnails_]
    assert captions[0] == f"query, {y_valid[0]}"
    assert captions[1] == f"{order[0]}, {y[order[0]]}\n{scores[order[0]]:+.3g}"


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((4, 16), (4, 16)), ((1, 8, 8), (8, 8)), (None, (8, 8)), ((8, 8, 1), (8, 8))],
)
def test_images_may_have_channels(shape, seen):
    X, y = digits(2)
    influence = ExactInfluence(logistic()).fit(X[:50], y[:50])
    display = ImageExamplesDisplay.from_estimator(influence, X[[60]], y[[60]], shape=shape)
    assert display.query.shape == seen


def test_colours_may_come_first():
    X = np.random.default_rng(0).random((40, 12))
    influence = ExactInfluence(logistic()).fit(X, np.arange(40) % 2)
    display = ImageExamplesDisplay.from_estimator(influence, X[:1], [0], shape=(3, 2, 2))
    assert_allclose(display.query, X[0].reshape(3, 2, 2).transpose(1, 2, 0))


def test_images_say_what_is_wrong():
    X, y = wine()
    influence = ExactInfluence(logistic()).fit(X, y)
    with pytest.raises(ValueError, match="shape must be that of an image of 13 pixels"):
        ImageExamplesDisplay.from_estimator(influence, X[:1], y[:1])
    with pytest.raises(ValueError, match="one query. Got 2 rows"):
        ImageExamplesDisplay.from_estimator(influence, X[:2], y[:2])
    with pytest.raises(ValueError, match="one image of the query's shape"):
        ImageExamplesDisplay(np.ones((2, 2)), np.ones((3, 2, 2)), [1.0, 2.0])


# ---------------------------------------------------------------------------
# Texts
# ---------------------------------------------------------------------------

TEXTS = [
    "The plot is good, and the end is fine.",
    "A dull plot; a poor end!",
    "Good work, fine play.",
    "Poor work and dull play.",
    "Some $math$ that is fine.",
    "Some math that is dull.",
]


def test_words_are_marked_by_their_part_in_the_influence():
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(tol=1e-8))
    influence = ExactInfluence(model).fit(TEXTS, [1, 0, 1, 0, 1, 0])
    display = TextExamplesDisplay.from_estimator(influence, ["A good end"], [1], k=3)
    scores = influence.influence(["A good end"], [1])[0]
    order = np.argsort(-scores)
    assert display.texts == [TEXTS[i] for i in order]
    names = model.fit(TEXTS, [1, 0, 1, 0, 1, 0])[0].get_feature_names_out()
    parts = column_contributions(influence, ["A good end"], [1], order).toarray()
    largest = np.abs(parts).max()
    for row, marked in enumerate(display.marked_):
        expected = set(names[np.abs(parts[row]) > 0.05 * largest])
        assert {word.lower() for word in marked} == expected
    display.figure_.canvas.draw()


def test_a_snippet_holds_what_matters_of_a_long_text():
    text = "dull " * 200 + "Splendid! " + "dull " * 200
    display = TextExamplesDisplay("?", [text], [1.0], [{"splendid": 1.0}]).plot()
    assert display.marked_ == [["Splendid"]]
    assert len(texts_of(display.ax_)) < 70


def test_texts_say_what_is_wrong():
    with pytest.raises(ValueError, match="one entry for each row. Got 1, 2 and 1"):
        TextExamplesDisplay("?", ["a"], [1.0, 2.0], [{}])
