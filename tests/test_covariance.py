"""Sampling covariances, against statsmodels, a jackknife by refits, and a bootstrap."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from helpers import NEWTON, assert_close, cancer, diabetes, logistic, perceptron, refitted, wine
from scipy.linalg import sqrtm
from sklearn import config_context
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.utils.estimator_checks import ignore_warnings

from skinfluence import ExactInfluence
from skinfluence.diagnostics import coefficient_table, parameter_covariance

KINDS = ["HC0", "HC1", "HC2", "HC3"]
CLUSTERS = np.arange(442) % 23
UNPENALISED = {"alpha": 0, "solver": "newton-cholesky", "tol": 1e-14, "max_iter": 1000}
GENERALISED = {
    "poisson": (sm.families.Poisson(), PoissonRegressor(**UNPENALISED)),
    "gamma": (sm.families.Gamma(sm.families.links.Log()), GammaRegressor(**UNPENALISED)),
    "binomial": (
        sm.families.Binomial(),
        LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-14),
    ),
}


def unscaled():
    """Disease progression, from features in units far apart."""
    X, y = diabetes()
    unit = 10.0 ** (np.arange(10) % 5 - 2)
    return (X + 5) * unit, y


def relative(found, expected):
    """Largest difference of covariances, in units of the standard errors."""
    errors = np.sqrt(np.diag(expected))
    return np.abs((found - expected) / np.outer(errors, errors)).max()


@pytest.mark.parametrize("kind", KINDS)
def test_least_squares_equal_statsmodels(kind):
    X, y = unscaled()
    found = parameter_covariance(ExactInfluence(LinearRegression()).fit(X, y), kind=kind)
    expected = sm.OLS(y, sm.add_constant(X, prepend=False)).fit(cov_type=kind).cov_params()
    assert relative(found, expected) < 1e-8


@pytest.mark.parametrize("use_correction", [True, False])
def test_clusters_equal_statsmodels(use_correction):
    X, y = unscaled()
    influence = ExactInfluence(LinearRegression()).fit(X, y)
    names = np.array([f"clinic {code}" for code in CLUSTERS])
    found = parameter_covariance(influence, groups=names, use_correction=use_correction)
    settings = {"groups": CLUSTERS, "use_correction": use_correction}
    model = sm.OLS(y, sm.add_constant(X, prepend=False))
    expected = model.fit(cov_type="cluster", cov_kwds=settings).cov_params()
    assert relative(found, expected) < 1e-8


@ignore_warnings
@pytest.mark.parametrize("name", GENERALISED)
def test_generalised_linear_models_equal_statsmodels(name):
    X, y = diabetes()
    y = {"poisson": np.round(y / 50), "gamma": y, "binomial": 1.0 * (y > 140)}[name]
    family, model = GENERALISED[name]
    influence = ExactInfluence(model).fit(X, y)
    theirs = sm.GLM(y, sm.add_constant(X, prepend=False), family=family)
    fitted = theirs.fit(tol=1e-15, maxiter=300, cov_type="HC0")
    assert relative(parameter_covariance(influence), fitted.cov_params()) < 1e-8
    fitted = theirs.fit(tol=1e-15, maxiter=300, cov_type="cluster", cov_kwds={"groups": CLUSTERS})
    found = parameter_covariance(influence, groups=CLUSTERS)
    assert relative(found, fitted.cov_params()) < 1e-8


def parameters(model):
    return np.append(model.coef_.ravel(), model.intercept_)


def jackknife(model, X, y, sets):
    everything = np.arange(len(y))
    refits = [refitted(model, X, y, ~np.isin(everything, rows)) for rows in sets]
    values = np.array([parameters(refit) for refit in refits])
    values -= values.mean(axis=0)
    return (len(sets) - 1) / len(sets) * values.T @ values


@pytest.mark.parametrize("name", ["ridge", "two classes", "three classes"])
def test_the_jackknife_is_that_of_refits(name):
    model = logistic(C=0.5).set_params(**NEWTON)
    X, y = wine()
    X, y = (X[y < 2], y[y < 2]) if name == "two classes" else (X, y)
    if name == "ridge":
        model, (X, y) = Ridge(10.0), diabetes()
        X, y = X[::4], y[::4]
    influence = ExactInfluence(model).fit(X, y)
    expected = jackknife(model, X, y, np.arange(len(y))[:, None])
    assert relative(parameter_covariance(influence, kind="jackknife"), expected) < 1e-6
    # The first order of the same, with the leverage.
    assert relative(parameter_covariance(influence, kind="HC3"), expected) < 0.2
    groups = np.arange(len(y)) % 17
    expected = jackknife(model, X, y, [np.flatnonzero(groups == code) for code in range(17)])
    found = parameter_covariance(influence, kind="jackknife", groups=groups)
    assert relative(found, expected) < 1e-6


def test_leverages_of_several_outputs_are_matrices():
    # Two outputs without anything in common are two models.
    X, y = diabetes()
    both = np.column_stack([y, np.roll(y, 7)])
    model = Ridge(10.0)
    for kind in ("HC2", "HC3"):
        found = parameter_covariance(ExactInfluence(model).fit(X, both), kind=kind)
        weights = np.r_[0:10, 20]
        alone = parameter_covariance(ExactInfluence(model).fit(X, y), kind=kind)
        assert relative(found[np.ix_(weights, weights)], alone) < 1e-10
    # Leverages take their share: each correction raises the errors.
    influence = ExactInfluence(logistic(C=0.5)).fit(*wine())
    errors = [
        np.diag(parameter_covariance(influence, kind=kind)) for kind in ("HC0", "HC2", "HC3")
    ]
    assert (np.diff(errors, axis=0) > 0).all()


def test_half_of_the_leverage_of_several_outputs_by_dense_algebra():
    X, y = wine()
    model = logistic(C=0.5).set_params(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    p = influence.estimator_.predict_proba(X)
    design = np.column_stack([X, np.ones(len(y))])
    blocks = [np.diag(row) - np.outer(row, row) for row in p]
    hessian = sum(np.kron(h, np.outer(x, x)) for h, x in zip(blocks, design, strict=True))
    hessian += np.kron(np.eye(3), np.diag([2.0] * 13 + [0.0]))
    inverse = np.linalg.pinv(hessian, hermitian=True)
    rows = []
    for h, x, residual in zip(blocks, design, p - np.eye(3)[y], strict=True):
        jacobian = np.kron(np.eye(3), x)
        root = sqrtm(np.eye(3) - h @ jacobian @ inverse @ jacobian.T).real
        rows.append(jacobian.T @ np.linalg.solve(root, residual))
    rows = np.array(rows) @ inverse
    order = np.append(np.arange(42).reshape(3, 14)[:, :13], np.arange(42).reshape(3, 14)[:, 13])
    expected = (rows.T @ rows)[np.ix_(order, order)]
    assert relative(parameter_covariance(influence, kind="HC2"), expected) < 1e-6


def test_rows_that_are_streamed_give_the_same():
    X, y = diabetes()
    influence = ExactInfluence(Ridge()).fit(X, y)
    for settings in ({"kind": "HC2"}, {"groups": CLUSTERS}, {"kind": "jackknife"}):
        whole = parameter_covariance(influence, **settings)
        with config_context(working_memory=1 / 512):
            parts = parameter_covariance(influence, **settings)
        assert relative(parts, whole) < 1e-10


def test_the_table_has_the_estimates_and_their_names():
    X, y = wine()
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(13)])
    labels = np.array(["a", "b", "c"])[y]
    influence = ExactInfluence(logistic()).fit(frame, labels)
    table = coefficient_table(influence, kind="HC1", level=0.9)
    model = influence.estimator_
    assert_close(table["estimate"].to_numpy(), parameters(model), 1e-6)
    assert table.index[[0, 13, -1]].tolist() == ["a: f0", "b: f0", "c: intercept"]
    errors = np.sqrt(np.diag(parameter_covariance(influence, kind="HC1")))
    assert_close(table["standard_error"].to_numpy(), errors, 1e-12)
    half = (table["upper"] - table["lower"]).to_numpy() / 2
    assert_close(half, 1.6448536 * errors, 1e-6)
    table = coefficient_table(ExactInfluence(HuberRegressor(tol=1e-8)).fit(*diabetes()))
    assert table.index[-2:].tolist() == ["intercept", "scale"]
    net = ExactInfluence(perceptron((2,))).fit(X[:, :2], y)
    assert coefficient_table(net).index[0] == "parameter 0"


def test_bad_requests_are_refused():
    X, y = wine()
    influence = ExactInfluence(logistic()).fit(X, y)
    with pytest.raises(ValueError, match="kind must be one of 'HC0'"):
        parameter_covariance(influence, kind="HC4")
    with pytest.raises(ValueError, match="HC3 has no form by clusters"):
        parameter_covariance(influence, kind="HC3", groups=y)
    with pytest.raises(ValueError, match="each of the 178 training rows"):
        parameter_covariance(influence, groups=y[1:])
    with pytest.raises(ValueError, match="at least two clusters"):
        parameter_covariance(influence, groups=np.zeros(178))
    X, y = diabetes()
    X[:, 9] = np.arange(442) == 7
    alone = ExactInfluence(LinearRegression()).fit(X, y)
    for kind in ("HC2", "HC3"):
        with pytest.raises(ValueError, match="leverage of 1 training row.* row 7"):
            parameter_covariance(alone, kind=kind)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        coefficient_table(influence, level=95)


@pytest.mark.filterwarnings("ignore:The design matrix is rank-deficient")
@pytest.mark.filterwarnings("ignore:The data cannot tell these apart")
def test_columns_that_repeat_share_their_error():
    X, y = diabetes()
    twice = np.column_stack([X, X[:, 2]])
    influence = ExactInfluence(LinearRegression()).fit(twice, y)
    design = sm.add_constant(twice, prepend=False)
    expected = sm.OLS(y, design).fit(cov_type="HC1").cov_params()
    assert relative(parameter_covariance(influence, kind="HC1"), expected) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("C", [0.01, 0.1, 1.0])
def test_intervals_cover_a_bootstrap(C):
    X, y = cancer()
    X = X[:, :10]
    model = LogisticRegression(C=C, **NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    rng = np.random.default_rng(0)
    samples = rng.integers(len(y), size=(1000, len(y)))
    draws = [parameters(refitted(model, X, y, rows)) for rows in samples]
    for kind in ("HC3", "jackknife"):
        table = coefficient_table(influence, kind=kind)
        inside = (table["lower"].to_numpy() < draws) & (draws < table["upper"].to_numpy())
        assert np.abs(inside.mean(axis=0) - 0.95).max() < 0.05
