"""Case diagnostics, against statsmodels without a penalty and against refits with one."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.api as sm
from helpers import NEWTON, assert_close, diabetes, logistic, refitted, split, wine
from sklearn.compose import make_column_transformer
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import ignore_warnings

from skinfluence import ExactInfluence
from skinfluence.diagnostics import diagnostics_frame

# To the minimum, as far as rounding lets a line search go.
UNPENALISED = {"alpha": 0, "solver": "newton-cholesky", "tol": 1e-14, "max_iter": 1000}
FAMILIES = {
    "gaussian": (sm.families.Gaussian(), LinearRegression()),
    "poisson": (sm.families.Poisson(), PoissonRegressor(**UNPENALISED)),
    "binomial": (
        sm.families.Binomial(),
        LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-14),
    ),
    "gamma": (sm.families.Gamma(sm.families.links.Log()), GammaRegressor(**UNPENALISED)),
}
NAMES = ["age", "pay", "year"]


def data(family, n=80):
    """Columns in units far apart, targets of a family, and weights."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, 3))
    eta = z @ [0.3, -0.2, 0.1] + 1
    y = {
        "gaussian": eta + 2 * rng.standard_normal(n),
        "poisson": rng.poisson(np.exp(eta)) * 1.0,
        "binomial": 1.0 * (rng.random(n) < 1 / (1 + np.exp(-eta))),
        "gamma": rng.gamma(2, np.exp(eta) / 2),
    }[family]
    return z * [1, 10, 1e4] + [0, 5, 2e5], y, rng.uniform(0.5, 2, n)


@ignore_warnings
def fitted(name, weight=None):
    X, y, _ = data(name)
    frame = pd.DataFrame(X, columns=NAMES, index=[f"row {i}" for i in range(len(y))])
    return ExactInfluence(FAMILIES[name][1]).fit(frame, y, weight)


def equal_columns(found, expected, pairs):
    for ours, theirs in pairs.items():
        assert_close(found[ours].to_numpy(), expected[theirs].to_numpy(), 1e-8)


OF_GLM = {
    "leverage": "hat_diag",
    "cooks_distance": "cooks_d",
    "standardised_residual": "standard_resid",
    "dffits_internal": "dffits_internal",
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_generalised_linear_models_are_those_of_statsmodels(name, weighted):
    X, y, weight = data(name)
    weight = weight if weighted else np.ones(len(y))
    found = diagnostics_frame(fitted(name, weight), dfbetas=True)
    design = sm.add_constant(X, prepend=False)
    model = sm.GLM(y, design, family=FAMILIES[name][0], var_weights=weight)
    theirs = model.fit(tol=1e-15, maxiter=200).get_influence()
    equal_columns(found, theirs.summary_frame(), OF_GLM)
    ours = found.filter(like="dfbetas")
    assert list(ours) == [f"dfbetas {name}" for name in [*NAMES, "intercept"]]
    if name != "gaussian":
        assert_close(ours.to_numpy(), theirs.dfbetas, 1e-8)


def test_least_squares_are_those_of_statsmodels():
    X, y, _ = data("gaussian")
    found = diagnostics_frame(fitted("gaussian"), dfbetas=True)
    theirs = sm.OLS(y, sm.add_constant(X, prepend=False)).fit().get_influence()
    pairs = {**OF_GLM, "studentised_residual": "student_resid", "dffits": "dffits"}
    equal_columns(found, theirs.summary_frame(), pairs)
    assert_close(found.filter(like="dfbetas").to_numpy(), theirs.dfbetas, 1e-8)
    assert_close(found["leave_one_out_residual"].to_numpy(), theirs.resid_press, 1e-8)
    assert_close(found["leave_one_out_loss"].to_numpy(), theirs.resid_press**2, 1e-8)


def test_penalised_least_squares_are_those_of_refits():
    X, y, _ = data("gaussian")
    model = Ridge(30.0, solver="cholesky")
    influence = ExactInfluence(model).fit(X, y)
    found = diagnostics_frame(influence, dfbetas=True)
    rows = np.arange(0, 80, 7)
    refits = [refitted(model, X, y, np.arange(80) != row) for row in rows]
    full = influence.estimator_
    own = np.array([m.predict(X[[row]])[0] for m, row in zip(refits, rows, strict=True)])
    assert_close(found["leave_one_out_residual"][rows].to_numpy(), y[rows] - own, 1e-8)

    centred = np.column_stack([X, np.ones(80)])
    hessian = centred.T @ centred + np.diag([30.0, 30.0, 30.0, 0.0])
    inverse = np.linalg.inv(hessian)
    leverage = np.einsum("ij,jk,ik->i", centred, inverse, centred)
    assert_close(found["leverage"].to_numpy(), leverage, 1e-8)
    residual, p = y - full.predict(X), leverage.sum()
    scale = residual @ residual / (80 - p)
    without = (residual @ residual - residual**2 / (1 - leverage)) / (80 - p - 1)
    moves = [np.append(full.coef_ - m.coef_, full.intercept_ - m.intercept_) for m in refits]
    cooks = np.einsum("ij,jk,ik->i", moves, hessian, moves) / (p * scale)
    assert_close(found["cooks_distance"][rows].to_numpy(), cooks, 1e-7)
    errors = np.sqrt(np.outer(without[rows], np.diag(inverse)))
    assert_close(found.filter(like="dfbetas").to_numpy()[rows], moves / errors, 1e-7)
    change = full.predict(X[rows]) - own
    expected = change / np.sqrt(without * leverage)[rows]
    assert_close(found["dffits"][rows].to_numpy(), expected, 1e-7)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_losses_without_each_row_are_those_of_refits(n_classes):
    X, y, *_ = split(*wine(), n_queries=80)
    X, y = X[y < n_classes], y[y < n_classes]
    model = logistic(C=1.0).set_params(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    found = diagnostics_frame(influence)
    rows = np.arange(0, len(y), 9)
    refits = [refitted(model, X, y, np.arange(len(y)) != row) for row in rows]
    p = [m.predict_proba(X[[row]])[0] for m, row in zip(refits, rows, strict=True)]
    own = np.array(p)[np.arange(len(rows)), y[rows]]
    assert_close(found["leave_one_out_loss"][rows].to_numpy(), -np.log(own), 1e-6)
    own = influence.estimator_.predict_proba(X)[np.arange(len(y)), y]
    assert_close(found["loss"].to_numpy(), -np.log(own), 1e-10)
    assert_close(found["leverage"].sum(), influence.effective_dimension_, 1e-8)
    assert_close(found["self_influence"].to_numpy(), influence.self_influence(), 0)
    assert_close(found["memorization"].to_numpy(), influence.memorization(), 0)
    assert ("studentised_residual" in found) == (n_classes == 2)
    if n_classes == 2:
        chance = np.array(p)[:, 1]
        residual = found["leave_one_out_residual"][rows].to_numpy()
        assert_close(residual, y[rows] - chance, 1e-6)
        # The general definition of Cook's distance is this one for canonical links.
        steps = influence.linearisation_.without_each().steps
        expected = steps.squared_length / influence.effective_dimension_
        assert_close(found["cooks_distance"].to_numpy(), expected, 1e-8)


def test_cooks_distance_of_several_outputs_is_that_of_refits():
    X, y, *_ = split(*wine(), n_queries=80)
    model = RidgeClassifier(5.0)
    influence = ExactInfluence(model).fit(X, y)
    rows = np.arange(0, len(y), 15)
    design = np.column_stack([X, np.ones(len(y))])
    hessian = 2 * (design.T @ design + 5 * np.diag([*np.ones(13), 0.0]))
    expected = []
    for row in rows:
        refit = refitted(model, X, y, np.arange(len(y)) != row)
        moves = np.column_stack([refit.coef_, refit.intercept_])
        moves -= np.column_stack([influence.estimator_.coef_, influence.estimator_.intercept_])
        expected.append(np.trace(moves @ hessian @ moves.T) / influence.effective_dimension_)
    found = diagnostics_frame(influence)
    assert "residual" not in found
    assert_close(found["cooks_distance"][rows].to_numpy(), np.array(expected), 1e-8)


def test_the_index_of_the_training_rows_is_kept():
    X, y, _ = data("gaussian")
    assert list(diagnostics_frame(fitted("gaussian")).index) == [f"row {i}" for i in range(80)]
    for table in (X, pl.DataFrame(X, schema=NAMES), X.tolist()):
        frame = diagnostics_frame(ExactInfluence(Ridge()).fit(table, y))
        assert isinstance(frame.index, pd.RangeIndex)


def test_parameters_are_named_by_what_the_model_sees():
    X, y, _ = data("gaussian")
    X = pd.DataFrame(X, columns=NAMES)
    steps = make_column_transformer((StandardScaler(), ["pay", "age"]))
    found = diagnostics_frame(
        ExactInfluence(make_pipeline(steps, Ridge())).fit(X, y), dfbetas=True
    )
    names = [name.removeprefix("dfbetas ") for name in found.filter(like="dfbetas")]
    assert names == ["standardscaler__pay", "standardscaler__age", "intercept"]


def test_what_has_no_distribution_has_no_residuals():
    X, y, *_ = split(*diabetes())
    influence = ExactInfluence(HuberRegressor(tol=1e-10, max_iter=10_000)).fit(X, y)
    assert "residual" not in diagnostics_frame(influence)
    with pytest.raises(ValueError, match="HuberRegressor is no likelihood of one output"):
        diagnostics_frame(influence, dfbetas=True)


def test_a_row_that_is_alone_in_its_class_is_unknown_without_itself():
    X, y, *_ = split(*wine(), n_queries=80)
    keep = np.append(np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:1])
    found = diagnostics_frame(ExactInfluence(logistic()).fit(X[keep], y[keep]))
    alone = [False] * (len(keep) - 1) + [True]
    assert np.isinf(found["leave_one_out_loss"]).tolist() == alone
    assert np.isnan(found["cooks_distance"]).tolist() == alone


def test_a_curvature_without_eigenvectors_has_no_memorization():
    X, y, *_ = split(*wine(), n_queries=80)
    found = diagnostics_frame(ExactInfluence(logistic(), solver="cg").fit(X, y))
    direct = diagnostics_frame(ExactInfluence(logistic()).fit(X, y))
    assert found["memorization"].isna().all()
    for name in ("leverage", "cooks_distance", "self_influence"):
        assert_close(found[name].to_numpy(), direct[name].to_numpy(), 1e-5)


def test_memorization_may_be_left_out():
    X, y = wine()
    influence = ExactInfluence(logistic()).fit(X, y)
    frame = diagnostics_frame(influence)
    without = diagnostics_frame(influence, memorization=False)
    pd.testing.assert_frame_equal(without, frame.drop(columns="memorization"))
