"""The displays: what they draw, on which axes, and what they ask of an estimator."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import linregress
from sklearn.linear_model import LogisticRegression, Ridge

from skinfluence import (
    AveragedInfluence,
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.diagnostics import coefficient_table, diagnostics_frame, removal_curve
from skinfluence.inspection import (
    CoefficientDisplay,
    DiagnosticsDisplay,
    EffectiveDimensionDisplay,
    InfluenceDisplay,
    MemorizationDisplay,
    RemovalCurveDisplay,
    RetrainingDisplay,
    SketchErrorDisplay,
)
from tests.helpers import (
    NEWTON,
    assert_close,
    cancer,
    diabetes,
    digits,
    logistic,
    perceptron,
    split,
)

plt = pytest.importorskip("matplotlib.pyplot")

INFLUENCE = np.array([0.5, -2.0, 3.0, -0.1, 1.0, -0.7])

# Each case draws a display, given the axes.
DISPLAYS = {
    "influence": lambda ax: InfluenceDisplay(INFLUENCE).plot(ax),
    "memorization": lambda ax: MemorizationDisplay(np.abs(INFLUENCE)).plot(ax),
    "effective dimension": lambda ax: EffectiveDimensionDisplay([0.1, 1.0], [2.0, 1.0]).plot(ax),
    "sketch error": lambda ax: SketchErrorDisplay([1, 2], {"a": [2, 1]}, 1).plot(ax),
    "retraining": lambda ax: RetrainingDisplay([[1, 2]], [[1, 3]]).plot(ax),
    "removal": lambda ax: RemovalCurveDisplay([0, 2], {"a": [2, 1]}).plot(ax),
    "diagnostics": lambda ax: DiagnosticsDisplay([0.1, 0.5], [1, -2], [1, 3]).plot(ax),
    "coefficients": lambda ax: CoefficientDisplay([1, -2], [0, -3], [2, -1]).plot(ax),
}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def line(display, label):
    return next(each for each in display.ax_.lines if each.get_label() == label)


# ---------------------------------------------------------------------------
# All displays
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISPLAYS)
def test_display_draws_on_a_new_figure_or_on_given_axes(name):
    display = DISPLAYS[name](None)
    assert display.ax_.figure is display.figure_
    assert display.ax_.get_xlabel() and display.ax_.get_ylabel()
    display.figure_.canvas.draw()

    n_figures = len(plt.get_fignums())
    ax = plt.figure().subplots()
    assert DISPLAYS[name](ax).ax_ is ax
    assert len(plt.get_fignums()) == n_figures + 1


@pytest.mark.parametrize("name", DISPLAYS)
def test_plot_returns_the_display_and_can_be_repeated(name):
    display = DISPLAYS[name](None)
    first = display.ax_
    assert display.plot() is display
    assert display.ax_ is not first


@pytest.mark.parametrize("name", DISPLAYS)
def test_missing_matplotlib_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'skinfluence\[plot\]'"):
        DISPLAYS[name](None)


# Each case draws a display of a fitted estimator and queries.
FROM_ESTIMATOR = {
    "influence": lambda e, X, y: InfluenceDisplay.from_estimator(e, X, y),
    "memorization": lambda e, X, y: MemorizationDisplay.from_estimator(e),
    "effective dimension": lambda e, X, y: EffectiveDimensionDisplay.from_estimator(e),
    "sketch error": lambda e, X, y: SketchErrorDisplay.from_estimator(e, X, y, n_repeats=1),
    "retraining": lambda e, X, y: RetrainingDisplay.from_estimator(e, X, y, n_removals=3),
    "removal": lambda e, X, y: RemovalCurveDisplay.from_estimator(e, X, y, n_steps=2),
    "diagnostics": lambda e, X, y: DiagnosticsDisplay.from_estimator(e),
    "coefficients": lambda e, X, y: CoefficientDisplay.from_estimator(e),
}
EVERY_ESTIMATOR = {
    "exact": ExactInfluence(logistic()),
    "cg": ExactInfluence(logistic(), solver="cg", damping=1e-3),
    "sketched": SketchedInfluence(logistic(), sketch_size=20, random_state=0),
    "cv": SketchedInfluenceCV(
        logistic(), sketch_sizes=[10], dampings=[1e-3], cv=2, random_state=0
    ),
    "kfac": KFACInfluence(perceptron()),
    "head": ClassifierHeadInfluence(perceptron()),
    "relative": RelativeHessianInfluence(logistic(), subset_size=80, random_state=0),
    "averaged": AveragedInfluence(ExactInfluence(perceptron()), n_fits=2, random_state=0),
}


@pytest.fixture(scope="module")
def fits():
    X, y, X_valid, y_valid = split(*digits(3), 20, 120)
    return {name: each.fit(X, y) for name, each in EVERY_ESTIMATOR.items()}, X_valid, y_valid


@pytest.mark.parametrize("display", FROM_ESTIMATOR)
@pytest.mark.parametrize("estimator", EVERY_ESTIMATOR)
def test_every_display_draws_every_estimator(display, estimator, fits):
    influence = fits[0][estimator]
    if (display, estimator) == ("coefficients", "averaged"):
        with pytest.raises(TypeError, match="Pass one of the estimators_ of AveragedInfluence"):
            CoefficientDisplay.from_estimator(influence)
        return
    drawn = FROM_ESTIMATOR[display](influence, *fits[1:])
    model = "MLPClassifier" if estimator in ("kfac", "head", "averaged") else "LogisticRegression"
    assert drawn.ax_.get_title().startswith(model)
    assert drawn.ax_.get_xlabel() and drawn.ax_.get_ylabel()


# ---------------------------------------------------------------------------
# Influence
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "k", "expected"),
    [
        ("both", 2, [2, 4, 5, 1]),
        ("both", 3, [2, 4, 0, 3, 5, 1]),
        ("both", 99, [2, 4, 0, 3, 5, 1]),
        ("harmful", 2, [2, 4]),
        ("helpful", 2, [1, 5]),
        ("absolute", 3, [2, 1, 4]),
    ],
)
def test_influence_bars_are_the_rows_with_the_most_harmful_on_top(by, k, expected):
    display = InfluenceDisplay(INFLUENCE).plot(k=k, by=by)
    assert_array_equal(display.indices_, expected)
    assert_allclose([bar.get_width() for bar in display.bars_], INFLUENCE[expected])
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert names == [str(row) for row in expected]
    bottom, top = display.ax_.get_ylim()
    assert bottom > top
    assert np.all(np.diff(display.ax_.get_yticks()) > 0)


def test_influence_colours_tell_harmful_from_helpful():
    display = InfluenceDisplay(INFLUENCE).plot()
    red, _, blue, _ = np.transpose([bar.get_facecolor() for bar in display.bars_])
    assert_array_equal(red > blue, INFLUENCE[display.indices_] > 0)


def test_influence_bars_have_the_names_of_the_training_table():
    pd = pytest.importorskip("pandas")
    X, y = (array[:100] for array in cancer())
    table = pd.DataFrame(X, index=[f"cost in $ {i}$" for i in range(100)]).rename(columns=str)
    influence = ExactInfluence(logistic()).fit(table, y)
    display = InfluenceDisplay.from_estimator(influence, table[:5], y[:5], k=1)
    names = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    # A dollar sign is no formula.
    assert names == [rf"cost in \$ {i}\$" for i in display.indices_]
    display.figure_.canvas.draw()


def test_influence_bars_may_be_named():
    names = np.array(list("abcdef"))
    display = InfluenceDisplay(INFLUENCE, row_labels=names).plot(k=1)
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["c", "b"]


@pytest.mark.parametrize("with_targets", [True, False])
def test_influence_from_estimator_names_what_it_draws(with_targets):
    X, y = cancer()
    influence = ExactInfluence(logistic()).fit(X[:100], y[:100])
    targets = y[100:105] if with_targets else None
    display = InfluenceDisplay.from_estimator(influence, X[100:105], targets, k=1, by="helpful")
    expected = influence.influence(X[100:105], targets, reduce="mean")
    assert_allclose(display.influence, expected)
    assert_array_equal(display.indices_, [expected.argmin()])
    named = "loss" if with_targets else "prediction"
    assert display.ax_.get_xlabel().startswith(f"Influence on the {named}")
    assert all(named in text for text in legend(display))
    assert display.ax_.get_title() == "LogisticRegression, mean of 5 queries"


def test_long_names_are_cut():
    display = InfluenceDisplay(INFLUENCE, row_labels=["x" * 100] * 6).plot(k=1)
    assert {len(label.get_text()) for label in display.ax_.get_yticklabels()} == {40}


def test_influence_from_predictions_is_the_mean_over_queries():
    display = InfluenceDisplay.from_predictions([INFLUENCE, 3 * INFLUENCE], k=1)
    assert_allclose(display.influence, 2 * INFLUENCE)
    assert_array_equal(display.indices_, [2, 1])


@pytest.mark.parametrize(
    ("arguments", "drawing", "message"),
    [
        ({"row_labels": ["a"]}, {}, r"row_labels must have.*= \(6,\), got \(1,\)"),
        ({}, {"k": 0}, "The 'k' parameter of InfluenceDisplay.plot must be an int"),
        ({}, {"by": "largest"}, "The 'by' parameter of InfluenceDisplay.plot must be"),
    ],
)
def test_influence_says_what_is_wrong(arguments, drawing, message):
    with pytest.raises(ValueError, match=message):
        InfluenceDisplay(INFLUENCE, **arguments).plot(**drawing)


def test_influence_takes_one_value_per_training_row():
    with pytest.raises(ValueError, match="Input influence contains NaN"):
        InfluenceDisplay([1.0, np.nan])
    with pytest.raises(ValueError, match="should be a 1d array"):
        InfluenceDisplay(np.ones((2, 3)))


# ---------------------------------------------------------------------------
# Memorization
# ---------------------------------------------------------------------------


def test_memorization_flags_the_rows_above_the_threshold():
    display = MemorizationDisplay([0.2, 5.0, 1.0, 7.0], threshold=1.0).plot()
    assert_array_equal(display.indices_, [3, 1])
    assert legend(display) == ["memorizable: 2 of 4 rows", "threshold 1"]
    generalizable, memorizable = display.ax_.lines[:2]
    assert_allclose(memorizable.get_xydata(), [[1, 7], [2, 5]])
    assert_allclose(generalizable.get_xydata(), [[3, 1], [4, 0.2]])


def test_memorization_without_threshold_flags_nothing():
    display = MemorizationDisplay([0.2, 5.0]).plot()
    assert display.indices_.size == 0
    assert display.ax_.get_legend() is None


def test_memorization_from_selector_takes_its_threshold():
    fitted = SimpleNamespace(fitted_model_=SimpleNamespace(model=LogisticRegression()))
    selector = SimpleNamespace(memorization_=[1.0, 3.0, 2.0], threshold_=1.5, influence_=fitted)
    display = MemorizationDisplay.from_estimator(selector)
    assert display.ax_.get_title() == "LogisticRegression"
    assert_array_equal(display.indices_, [1, 2])
    assert display.ax_.get_ylabel() == "Memorization"
    stricter = MemorizationDisplay.from_estimator(selector, threshold=2.5)
    assert_array_equal(stricter.indices_, [1])


def test_memorization_from_influence_estimator_is_its_self_influence():
    X, y = (array[:100] for array in cancer())
    influence = ExactInfluence(logistic()).fit(X, y)
    values = influence.self_influence()
    display = MemorizationDisplay.from_estimator(influence, threshold=np.sort(values)[-3])
    assert_array_equal(display.indices_, np.argsort(-values)[:2])
    assert display.ax_.get_ylabel() == "Self-influence"
    assert display.ax_.get_title() == "LogisticRegression"


def test_memorization_shows_the_tail_and_leaves_out_zeros():
    display = MemorizationDisplay([0.0, 1e-3, 10.0]).plot()
    assert display.ax_.get_yscale() == display.ax_.get_xscale() == "log"
    assert_allclose(display.ax_.get_ylim(), [5e-4, 20])
    MemorizationDisplay([0.0, 0.0]).plot().figure_.canvas.draw()


# ---------------------------------------------------------------------------
# Effective dimension
# ---------------------------------------------------------------------------


def test_effective_dimension_is_the_trace_of_its_formula():
    rows = np.random.default_rng(0).normal(size=(20, 5))
    curvature = rows.T @ rows
    display = EffectiveDimensionDisplay.from_eigenvalues(
        np.linalg.eigvalsh(curvature), dampings=[0.1, 1.0, 10.0], damping=3.0
    )
    expected = [
        np.trace(curvature @ np.linalg.inv(curvature + damping * np.eye(5)))
        for damping in (0.1, 1.0, 10.0, 3.0)
    ]
    assert_allclose(display.effective_dimensions, expected[:3])
    assert_allclose(display.ax_.lines[-1].get_xydata(), [[3.0, expected[3]]])
    assert legend(display)[-1] == f"{expected[3]:.3g} at damping 3"
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"


def test_spectrum_counts_the_eigenvalues_above_a_damping():
    eigenvalues = [1.0, 2.0, 2.0, 5.0]
    display = EffectiveDimensionDisplay.from_eigenvalues(eigenvalues, dampings=[0.5, 1.5, 3, 9])
    counts = line(display, "eigenvalues above the damping").get_ydata()
    assert_array_equal(counts, [4, 3, 1, np.nan])
    without = EffectiveDimensionDisplay(display.dampings, display.effective_dimensions).plot()
    assert legend(without) == ["effective dimension"]


def test_dampings_span_the_eigenvalues_and_the_mark():
    dampings = EffectiveDimensionDisplay.from_eigenvalues([-1e-17, 1e-18, 0.1, 2.0]).dampings
    assert_allclose(dampings[[0, -1]], [0.01, 20])
    dampings = EffectiveDimensionDisplay.from_eigenvalues([0.1, 2.0], damping=1e-6).dampings
    assert_allclose(dampings[[0, -1]], [1e-7, 20])


@pytest.mark.parametrize("damping", [None, 0])
def test_no_damping_is_not_marked(damping):
    display = EffectiveDimensionDisplay.from_eigenvalues([1.0, 2.0], damping=damping)
    assert len(legend(display)) == 2


@pytest.mark.parametrize(
    "influence",
    [
        ExactInfluence(logistic(), damping=1e-3),
        ExactInfluence(logistic(), damping=1e-3, solver="cg", random_state=0),
        SketchedInfluence(logistic(), damping=1e-3, sketch_size=10, random_state=0),
        SketchedInfluence(logistic(), damping=1e-3, sketch_size=10, tail=False, random_state=0),
        KFACInfluence(logistic(), damping=1e-3),
        ClassifierHeadInfluence(perceptron(), damping=1e-3),
        RelativeHessianInfluence(logistic(), damping=1e-3, subset_size=60, random_state=0),
    ],
    ids=lambda influence: type(influence).__name__,
)
def test_effective_dimension_from_every_estimator(influence):
    X, y = (array[:120] for array in cancer())
    influence.fit(X, y)
    display = EffectiveDimensionDisplay.from_estimator(influence)
    assert (np.diff(display.effective_dimensions) < 0).all()
    dimension = influence.linearisation_.effective_dimension()
    assert legend(display)[-1] == f"{dimension:.3g} at damping 0.001"
    curve = np.interp(np.log(1e-3), np.log(display.dampings), np.log(display.effective_dimensions))
    assert_allclose(np.exp(curve), dimension, rtol=0.1)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_effective_dimension_of_an_exact_fit_is_the_trace(offset):
    X, y = (array[:120] for array in cancer())
    X += offset
    influence = ExactInfluence(LogisticRegression(**NEWTON)).fit(X, y)
    display = EffectiveDimensionDisplay.from_estimator(influence, dampings=[1e-3, 0.1])
    objective = influence.linearisation_.objective.original
    F = objective.factor_rows("hessian").toarray()
    F = F.T @ F
    expected = [
        np.trace(F @ np.linalg.inv(F + np.diag(objective.l2_penalty + damping)))
        for damping in (1e-3, 0.1)
    ]
    assert_allclose(display.effective_dimensions, expected, rtol=1e-8)


def test_effective_dimension_says_what_is_wrong():
    with pytest.raises(ValueError, match="eigenvalues must have a positive one, got n"):
        EffectiveDimensionDisplay.from_eigenvalues([0.0, -1e-17])
    with pytest.raises(ValueError, match="dampings must be positive, got 0 in row 0"):
        EffectiveDimensionDisplay([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="effective_dimensions must have"):
        EffectiveDimensionDisplay([1.0], [1.0, 1.0])


# ---------------------------------------------------------------------------
# Sketch error
# ---------------------------------------------------------------------------


def test_sketch_errors_are_medians_against_the_ratio():
    errors = {"sjlt": [[4, 2, 1], [8, 4, 2], [9, 9, 9]], "gaussian": [3, 2, 1]}
    display = SketchErrorDisplay([10, 20, 40], errors, 10).plot()
    assert_allclose(line(display, "sjlt").get_xydata(), [[1, 8], [2, 4], [4, 2]])
    assert_allclose(line(display, "gaussian").get_ydata(), [3, 2, 1])
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"


def test_line_of_slope_one_half_lies_on_such_errors():
    sizes = np.array([1, 5, 10, 40, 90])
    # Flat below the effective dimension, where the line has nothing to say.
    error = 0.6 * np.minimum(1, (sizes / 10) ** -0.5)
    display = SketchErrorDisplay(sizes, {"sjlt": error}, 10).plot()
    ends = line(display, "slope -1/2").get_xydata()
    assert_allclose(ends, [[1, 0.6], [9, 0.2]])


def test_few_sketch_sizes_are_the_ticks():
    display = SketchErrorDisplay([10, 11, 25], {"sjlt": [0.5, 0.4, 0.3]}, 10).plot()
    display.figure_.canvas.draw()
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["1", "1.1", "2.5"]
    assert not any(tick.get_text() for tick in display.ax_.get_xticklabels(minor=True))


def test_sketches_below_the_effective_dimension_can_be_drawn():
    SketchErrorDisplay([1, 2], {"sjlt": [0.9, 0.8]}, 10).plot()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], {"a": [1.0]}, 1), r"errors\['a'\] must have the shape.*= \(1, 2\)"),
        (([1, 2], {"a": [1.0, 0.0]}, 1), r"errors\['a'\] must be positive, got 0 in"),
        (([0, 2], {"a": [1.0, 1.0]}, 1), "sketch_sizes must be positive, got 0 in"),
        (([1, 2], {"a": [1.0, 1.0]}, 0), "effective_dimension must be positive, got 0"),
        (([1, 2], {}, 1), "errors must name at least one kind of sketch, got none"),
    ],
)
def test_sketch_error_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        SketchErrorDisplay(*arguments)


def test_sketch_errors_of_an_estimator_are_those_of_written_out_sketches():
    X, y, X_valid, y_valid = split(*cancer(), 30, 100)
    influence = ExactInfluence(logistic(), damping=1e-2).fit(X, y)
    display = SketchErrorDisplay.from_estimator(
        influence, X_valid, y_valid, sketches=["gaussian"], sketch_sizes=[5, 20], n_repeats=2
    )
    assert display.errors["gaussian"].shape == (2, 2)
    assert_allclose(display.effective_dimension, influence.effective_dimension_)
    median = np.median(display.errors["gaussian"], axis=0)
    assert median[1] < median[0] < 1


def test_a_sketch_of_full_size_has_no_error():
    X, y, X_valid, y_valid = split(*cancer(), 30, 100)
    influence = ExactInfluence(LogisticRegression(C=0.1, fit_intercept=False)).fit(X, y)
    display = SketchErrorDisplay.from_estimator(
        influence, X_valid, y_valid, sketches=["nystrom"], sketch_sizes=[2, 30], n_repeats=1
    )
    assert display.errors["nystrom"][0, 1] < 1e-6 < display.errors["nystrom"][0, 0]


# ---------------------------------------------------------------------------
# Removal curves
# ---------------------------------------------------------------------------


def test_removal_curves_are_those_of_the_diagnostics():
    X, y, X_valid, y_valid = split(*cancer(), 60, 100)
    influence = ExactInfluence(logistic()).fit(X, y)
    display = RemovalCurveDisplay.from_estimator(
        influence, X_valid, y_valid, scoring="neg_log_loss", share=0.2, n_steps=2, n_random=2
    )
    harm = influence.influence(X_valid, y_valid, reduce="mean")
    assert_array_equal(display.ks, [0, 10, 20])
    for name, order in (("harmful", np.argsort(-harm)), ("helpful", np.argsort(harm))):
        expected = removal_curve(
            influence, order, X_valid, y_valid, "neg_log_loss", ks=[0, 10, 20]
        )
        assert_allclose(display.scores[f"{name} rows first"][0], expected.score)
    assert display.scores["random rows"].shape == (2, 3)
    assert display.ax_.get_ylabel() == "neg_log_loss of the queries"
    assert legend(display) == ["harmful rows first", "random rows", "helpful rows first"]


def test_removal_curves_may_leave_random_orders_out():
    X, y, X_valid, y_valid = split(*diabetes(), 60, 100)
    influence = ExactInfluence(Ridge()).fit(X, y)
    display = RemovalCurveDisplay.from_estimator(
        influence, X_valid, y_valid, n_steps=1, n_random=0
    )
    assert legend(display) == ["harmful rows first", "helpful rows first"]
    assert display.ax_.get_ylabel() == "R² of the queries"


def test_removal_curve_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"scores\['a'\] must have the shape.*= \(1, 2\)"):
        RemovalCurveDisplay([0, 1], {"a": [1.0]})
    with pytest.raises(ValueError, match="scores must name at least one order"):
        RemovalCurveDisplay([0, 1], {})
    with pytest.raises(ValueError, match="share must be between 0 and 1. Got 1.5"):
        RemovalCurveDisplay.from_estimator(None, None, None, share=1.5)


# ---------------------------------------------------------------------------
# Diagnostics and coefficients
# ---------------------------------------------------------------------------


def test_diagnostics_of_one_output_have_contours_of_cooks_distance():
    pytest.importorskip("pandas")
    X, y, *_ = split(*diabetes(), 60, 100)
    calm = DiagnosticsDisplay.from_estimator(ExactInfluence(Ridge()).fit(X, y))
    # No contour is in sight.
    assert legend(calm) == ["area: Cook's distance"]
    X[17] *= 10
    influence = ExactInfluence(Ridge()).fit(X, y)
    frame = diagnostics_frame(influence)
    display = DiagnosticsDisplay.from_estimator(influence, k=2)
    assert_allclose(display.residual, frame["standardised_residual"])
    assert_array_equal(display.indices_, np.argsort(-frame["cooks_distance"].to_numpy())[:2])
    assert [text.get_text() for text in display.ax_.texts] == [str(i) for i in display.indices_]
    # A row on a contour has its Cook's distance: r^2 h / (1 - h) / p.
    h, r = line(display, "Cook's distance 0.5").get_xydata().T
    assert_allclose(r**2 * h / (1 - h) / frame["leverage"].sum(), 0.5)


def test_diagnostics_of_several_classes_have_losses_for_residuals():
    pytest.importorskip("pandas")
    influence = ExactInfluence(logistic()).fit(*digits(3))
    display = DiagnosticsDisplay.from_estimator(influence)
    assert_allclose(display.residual**2 / 2, diagnostics_frame(influence)["loss"])
    assert display.ax_.get_ylabel() == "Root of twice the loss"
    assert legend(display) == ["area: Cook's distance"]


def test_diagnostics_name_rows_by_the_index_of_the_table():
    pd = pytest.importorskip("pandas")
    X, y, *_ = split(*diabetes(), 60, 100)
    names = [f"person {i}" for i in range(100)]
    influence = ExactInfluence(Ridge()).fit(pd.DataFrame(X, index=names).rename(columns=str), y)
    display = DiagnosticsDisplay.from_estimator(influence, k=1)
    assert [text.get_text() for text in display.ax_.texts] == [f"person {display.indices_[0]}"]


def test_coefficients_are_those_of_the_table_and_few():
    pytest.importorskip("pandas")
    X, y, *_ = split(*cancer(), 60)
    influence = ExactInfluence(logistic()).fit(X, y)
    display = CoefficientDisplay.from_estimator(influence, kind="HC3", level=0.9, k=5)
    table = coefficient_table(influence, kind="HC3", level=0.9)
    assert_allclose(display.lower, table["lower"])
    sure = (table["estimate"] / table["standard_error"]).abs().to_numpy()
    assert set(display.indices_) == set(np.argsort(-sure)[:5])
    assert (np.diff(display.estimate[display.indices_]) < 0).all()
    assert display.ax_.get_title() == "LogisticRegression, 5 of 31"
    assert display.ax_.get_xlabel() == "Estimate and 90% interval"


def test_coefficients_tell_intervals_with_0_from_those_without():
    display = CoefficientDisplay([1.0, 2.0], [-1.0, 1.0], [3.0, 3.0], names=["a", "b"]).plot()
    without, with_0 = (lines.get_segments() for lines in display.ax_.collections)
    assert_allclose(without, [[[1.0, 0], [3.0, 0]]])
    assert_allclose(with_0, [[[-1.0, 1], [3.0, 1]]])
    assert legend(display) == ["interval without 0", "interval with 0"]


# ---------------------------------------------------------------------------
# Retraining
# ---------------------------------------------------------------------------


@pytest.fixture
def changes():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(3, 20))
    return predicted, 2 * predicted + rng.normal(size=(3, 20))


def test_retraining_pools_the_queries(changes):
    display = RetrainingDisplay.from_predictions(*changes)
    fit = linregress(changes[0].ravel(), changes[1].ravel())
    assert legend(display)[0] == f"slope {fit.slope:.2f}, Pearson {fit.rvalue:.3f}"
    points = display.ax_.collections[0].get_offsets()
    assert_allclose(points, np.transpose([changes[0].ravel(), changes[1].ravel()]))


def test_retraining_from_estimator_draws_the_rows_left_out(changes):
    predicted, actual = changes
    estimator = SimpleNamespace(
        leave_one_out_effect=lambda X, y: predicted,
        fitted_model_=SimpleNamespace(model=LogisticRegression()),
    )
    display = RetrainingDisplay.from_estimator(estimator, None, None, actual)
    assert_allclose(display.predicted, predicted)
    rows = [4, 2, 7]
    display = RetrainingDisplay.from_estimator(
        estimator, None, None, actual[:, rows], indices=rows
    )
    assert_allclose(display.predicted, predicted[:, rows])


def test_retraining_from_estimator_refits_where_nothing_was_measured():
    X, y = cancer()
    influence = ExactInfluence(LogisticRegression(**NEWTON)).fit(X[:80], y[:80])
    display = RetrainingDisplay.from_estimator(influence, X[80:90], y[80:90], n_removals=4)
    assert display.actual.shape == (10, 4)
    assert_close(display.predicted, display.actual, 1e-6)


def test_retraining_says_what_is_wrong(changes):
    with pytest.raises(ValueError, match=r"actual must have.*= \(3, 20\), got \(3, 2"):
        RetrainingDisplay(changes[0], changes[1][:, :2])
    with pytest.raises(ValueError, match="actual changes of query 0 are constant"):
        RetrainingDisplay(changes[0], np.zeros((3, 20))).plot()
