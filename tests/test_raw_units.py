"""Tables in the units that people have: offsets, scales and columns that repeat each other."""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
)

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    MemorizationSelector,
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.exceptions import NumericalWarning
from skinfluence.models import objective
from skinfluence.refitting.newton_cg import DiagonalPreconditioner, Refit
from tests.helpers import NEWTON, assert_close, wine

# scikit-learn's own solvers warn of the condition of raw units.
pytestmark = pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")

SOLVER = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 200}

MODELS = {
    "ols": LinearRegression(),
    "ridge": Ridge(1.0),
    "ridge classifier": RidgeClassifier(1.0),
    "logistic": LogisticRegression(**SOLVER),
    "multinomial": LogisticRegression(C=0.3, **SOLVER),
    "poisson": PoissonRegressor(alpha=0.1, **SOLVER),
    "gamma": GammaRegressor(alpha=0.1, **SOLVER),
}


def problem(name, rng, n=60):
    X = rng.standard_normal((n, 4))
    z = X @ [1.0, -0.5, 0.3, 0.0]
    if name in ("logistic", "ridge classifier"):
        return X, (z + rng.standard_normal(n) > 0).astype(int)
    if name == "multinomial":
        return X, np.digitize(z + rng.standard_normal(n), [-0.7, 0.7])
    if name in ("poisson", "gamma"):
        return X, rng.poisson(np.exp(z / 2)) + 1.0
    return X, z + 0.3 * rng.standard_normal(n)


def in_units(model, unit, offset):
    """The same fitted model for columns `X * unit + offset`, free of its solver's rounding."""
    model = deepcopy(model)
    model.coef_ = model.coef_ / unit
    model.intercept_ = model.intercept_ - model.coef_ @ (offset * np.ones(model.n_features_in_))
    return FrozenEstimator(model)


def losses_of(model, X, y, Xq, yq):
    fitted = objective(model, X, y, np.ones(len(y)))
    return fitted.losses(Xq, fitted.encode_queries(yq, len(yq)))


def refits(model, X, y, n_queries=8):
    """Changes of the losses of the first rows without each of the last rows."""
    queries = X[:n_queries], y[:n_queries]
    before = losses_of(model.fit(X, y), X, y, *queries)
    rows = np.arange(len(y) - 10, len(y))
    changes = []
    for row in rows:
        kept = np.arange(len(y)) != row
        fitted = model.fit(X[kept], y[kept])
        changes.append(losses_of(fitted, X[kept], y[kept], *queries) - before)
    return rows, np.column_stack(changes)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("offset, tol", [(1e2, 1e-7), (1e4, 1e-5)])
def test_columns_far_from_0_have_the_effects_of_refits(name, offset, tol, rng):
    X, y = problem(name, rng)
    rows, expected = refits(MODELS[name], X, y)
    raw = X + offset
    model = in_units(MODELS[name].fit(X, y), 1.0, offset)
    found = ExactInfluence(model).fit(raw, y).leave_one_out_effect(raw[:8], y[:8])[:, rows]
    assert_close(found, expected, tol)


def test_a_timestamp_an_income_and_a_year_have_the_effects_of_refits(rng):
    X, y = problem("ridge", rng)
    X[:, 1] = 1.7e9 + 1e6 * X[:, 1]
    X[:, 2] = np.exp(11 + 0.3 * X[:, 2])
    X[:, 3] = 2000 + np.round(5 * X[:, 3])
    y = y + X[:, 1] / 1e6
    rows, expected = refits(Ridge(), X, y)
    found = ExactInfluence(Ridge()).fit(X, y).leave_one_out_effect(X[:8], y[:8])[:, rows]
    assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8, 1e150])
def test_a_column_in_any_unit_has_the_effects_of_refits(scale, rng):
    model = Ridge()
    X, y = problem("ridge", rng)
    X[:, 0] *= scale
    rows, expected = refits(model, X, y)
    influence = ExactInfluence(model).fit(X, y)
    assert_close(influence.leave_one_out_effect(X[:8], y[:8])[:, rows], expected, 1e-6)
    assert np.isfinite(influence.self_influence()).all()


@pytest.mark.parametrize("name", ["ols", "logistic", "poisson", "multinomial"])
def test_units_change_nothing_without_a_penalty(name, rng):
    X, y = problem(name, rng)
    unit, offset = np.array([1e-3, 1.0, 1e3, 1e2]), np.array([0.0, 1e4, 7.0, -1e3])
    off = {"ols": {}, "poisson": {"alpha": 0}}.get(name, {"C": np.inf})
    model = MODELS[name].__class__(**{**MODELS[name].get_params(), **off})
    plain = ExactInfluence(model).fit(X, y)
    other = X * unit + offset
    raw = ExactInfluence(in_units(model.fit(X, y), unit, offset)).fit(other, y)
    assert_close(raw.influence(other[:5], y[:5]), plain.influence(X[:5], y[:5]), 1e-6)
    found = raw.leave_one_out_effect(other[:5], y[:5])
    assert_close(found, plain.leave_one_out_effect(X[:5], y[:5]), 1e-6)
    weights = raw.parameter_influence()[:, :4] * unit
    assert_close(weights, plain.parameter_influence()[:, :4], 1e-6)


def test_parameters_come_back_in_the_units_of_the_model(rng):
    X, y = problem("ridge", rng)
    X = X * [1.0, 1e3, 1.0, 1e-3] + [0.0, 1e4, 5e3, 0.0]
    influence = ExactInfluence(Ridge()).fit(X, y)
    outputs = np.column_stack([X, np.ones(len(y))]) @ influence.parameter_influence().T
    # The output moves as influence on the prediction says.
    assert_close(outputs, influence.influence(X), 1e-6)


def test_a_solver_that_lost_a_column_is_reported(rng):
    X, y = problem("ols", rng)
    X = X[:, :3] * [1e-6, 1.0, 1e6]
    # scikit-learn drops singular values below 1e-6 of the largest.
    with pytest.warns(ConvergenceWarning, match="its solver has lost some of them"):
        ExactInfluence(LinearRegression()).fit(X, y)


@pytest.mark.parametrize(
    "model", [LogisticRegression(C=np.inf), PoissonRegressor(alpha=0)], ids=["logistic", "poisson"]
)
@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_a_descent_that_lost_a_column_is_reported(model, unit, rng):
    X, y = problem("logistic", rng, n=200)
    model = model.set_params(max_iter=1000)
    X[:, 0] *= unit
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always", ConvergenceWarning)
        ExactInfluence(model).fit(X, y)
    told = [str(w.message) for w in record if "the step that is left to its" in str(w.message)]
    assert len(told) == (unit < 1)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_model_away_from_its_minimum_is_reported_far_from_0_too(offset, rng):
    X, y = problem("logistic", rng, n=200)
    model = LogisticRegression().fit(X, y)
    # Far from 0 the terms of the gradient are large, and hide what is left of it.
    model.coef_[:, 0] += 0.5
    model = in_units(model, 1.0, offset)
    with pytest.warns(ConvergenceWarning, match="has not converged on these rows"):
        ExactInfluence(model).fit(X + offset, y)


def test_columns_that_repeat_each_other_are_named(rng):
    X, y = problem("ols", rng)
    doubled = np.column_stack([X, 2 * X[:, 1]])
    with pytest.warns(NumericalWarning, match="cannot tell these apart: x1, x4") as record:
        influence = ExactInfluence(LinearRegression()).fit(doubled, y)
        found = influence.influence(doubled[:5], y[:5])
    assert len(record) == 1
    assert_close(found, ExactInfluence(LinearRegression()).fit(X, y).influence(X[:5], y[:5]), 1e-8)
    # Queries that do not repeat it: refits keep the shortest weights.
    queries = doubled[:8] + np.eye(5)[4]
    before = (y[:8] - LinearRegression().fit(doubled, y).predict(queries)) ** 2
    kept = np.arange(len(y)) != 20
    refitted = LinearRegression().fit(doubled[kept], y[kept])
    expected = (y[:8] - refitted.predict(queries)) ** 2 - before
    effect = influence.leave_one_out_effect(queries, y[:8])[:, 20]
    assert_close(effect, expected, 1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExactInfluence(Ridge()).fit(doubled, y).influence(doubled[:5], y[:5])


@pytest.mark.parametrize("unit", [(1e100, 1e-100), (1e-100, 1e100)])
def test_columns_that_repeat_each_other_in_units_far_apart(unit, rng):
    X, y = problem("ols", rng, n=12)
    X = np.column_stack([X[:, :3], X[:, 0]])
    model = LinearRegression().fit(X, y)
    unit = np.array([unit[0], 1.0, 1.0, unit[1]])
    with pytest.warns(NumericalWarning, match="apart: x0, x3"):
        expected = ExactInfluence(FrozenEstimator(model)).fit(X, y).influence(X[:4], y[:4])
    with pytest.warns(NumericalWarning, match="apart: x0, x3"):
        raw = ExactInfluence(in_units(model, unit, 0.0)).fit(X * unit, y)
        assert_close(raw.influence(X[:4] * unit, y[:4]), expected, 1e-12)


def test_names_of_columns_are_those_of_the_frame(rng):
    pd = pytest.importorskip("pandas")
    X, y = problem("ols", rng)
    frame = pd.DataFrame(X, columns=["age", "income", "year", "height"])
    frame["pounds"] = frame["income"] * 2.2
    with pytest.warns(NumericalWarning, match="apart: income, pounds"):
        ExactInfluence(LinearRegression()).fit(frame, y).self_influence()


# The solver of scikit-learn may leave out what is this small.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_nearly_collinear_columns_are_reported_with_their_error(rng):
    X, y = problem("ols", rng)
    X = np.column_stack([X, X[:, 0] + 1e-6 * rng.standard_normal(len(y))])
    with pytest.warns(NumericalWarning, match="x0, x4.*to a relative error of about"):
        ExactInfluence(LinearRegression()).fit(X, y).self_influence()


@pytest.mark.parametrize(
    "model", [LogisticRegression(C=np.inf, **SOLVER), PoissonRegressor(alpha=0, **SOLVER)]
)
def test_refits_stop_at_the_same_point_in_any_units(model, rng):
    X, y = problem("logistic", rng)
    weight = (rng.random((7, len(y), 1)) < 0.7).astype(float)

    def halfway(unit):
        whole = objective(
            in_units(model.fit(X, y), unit, 0.0).estimator, X * unit, y, np.ones(len(y))
        )
        squares = whole.pullback((X * unit) ** 2, np.ones((len(y), 1, 1)))
        refit = Refit(
            whole,
            whole.jacobian_rows(X * unit),
            DiagonalPreconditioner(squares),
            whole.penalty,
        )
        start = np.zeros((len(weight), len(whole.theta)))
        delta, norms = refit.minimise(weight, np.ones(len(weight)), start, tol=1e-3)
        return delta * np.append(unit, 1.0), norms

    delta, norms = halfway(np.ones(4))
    # By powers of 2, which round nothing.
    moved, same = halfway(2.0 ** np.array([20, -10, 0, 3]))
    assert norms.max() > 1e-9
    assert_close(moved, delta, 1e-11)
    assert_close(same, norms, 1e-9)


@pytest.mark.parametrize("n", [12, 30])
def test_more_columns_than_rows_in_raw_units(n, rng):
    X = rng.standard_normal((n, 40))
    X[:, 0] = 1e3 + 300 * X[:, 0]
    y = X[:, 1] + rng.standard_normal(n)
    model = Ridge(1.0, solver="svd")
    rows, expected = refits(model, X, y)
    influence = ExactInfluence(model).fit(X, y)
    assert influence.solver_ == "gram"
    assert_close(influence.leave_one_out_effect(X[:8], y[:8])[:, rows], expected, 1e-6)


def test_inner_products_keep_their_digits_by_their_spectrum(rng):
    X, y = rng.standard_normal((20, 50)) * 1e3, rng.standard_normal(20)
    direct = ExactInfluence(Ridge(1e-3), solver="direct").fit(X / 1e3, y)
    gram = ExactInfluence(Ridge(1e3), solver="gram").fit(X, y)
    assert_close(gram.self_influence(), direct.self_influence(), 1e-6)
    assert pickle.loads(pickle.dumps(gram)).self_influence() == pytest.approx(
        gram.self_influence(), rel=1e-12
    )
    # A penalty that rounding swallows determines nothing.
    swallowed = ExactInfluence(Ridge(1e-3)).fit(X * 100, y)
    with pytest.raises(ValueError, match="the leverage is 1 up to rounding"):
        swallowed.leave_one_out_effect(X[:3], y[:3])


@pytest.mark.parametrize("as_sparse", [sp.csr_matrix, sp.csc_array, sp.coo_matrix])
def test_sparse_rows_with_a_full_column_are_like_dense_ones(as_sparse, rng):
    X, y = problem("logistic", rng)
    X = X * (rng.random(X.shape) < 0.4)
    X[:, 2] = 1e4 + rng.standard_normal(len(y))
    model = LogisticRegression(**{**SOLVER, "solver": "newton-cg", "tol": 1e-10})
    frozen = in_units(model.fit(X - [0, 0, 1e4, 0], y), 1.0, np.array([0, 0, 1e4, 0]))
    dense, sparse = (ExactInfluence(frozen).fit(rows, y) for rows in (X, as_sparse(X)))
    queries = X[:5] * [1, 1, 0, 1]
    found = sparse.influence(as_sparse(queries), y[:5])
    assert_close(found, dense.influence(queries, y[:5]), 1e-7)
    assert_close(sparse.self_influence(), dense.self_influence(), 1e-7)


def test_a_sparse_column_that_never_changes_is_one_with_the_intercept(rng):
    X = rng.standard_normal((14, 4)) * (rng.random((14, 4)) < 0.7)
    X[:, 1], y, weight = 0.1, rng.standard_normal(14), rng.uniform(0.1, 3, 14)
    # For which rounding leaves a spread of 1e-9 in a difference of moments.
    X[:, 2] = 1e3 + rng.standard_normal(14)
    frozen = FrozenEstimator(LinearRegression().fit(X, y, weight))
    expected = ExactInfluence(frozen).fit(X, y, weight).influence(X, y)
    X = sp.csr_matrix(X)
    assert_close(ExactInfluence(frozen).fit(X, y, weight).influence(X, y), expected, 1e-11)


@pytest.mark.parametrize(
    "influence",
    [
        SketchedInfluence(Ridge(), sketch_size=8, random_state=0),
        SketchedInfluence(Ridge(), sketch="gaussian", sketch_size=8, damping=0.1, random_state=0),
        SketchedInfluence(Ridge(), sketch_size="auto", random_state=0),
    ],
)
def test_sketches_give_way_where_they_would_lose_columns(influence, rng):
    X = rng.standard_normal((100, 20))
    X[:, 3] *= 1e8
    y = X[:, 0] + 0.3 * rng.standard_normal(100)
    with pytest.warns(NumericalWarning, match="a sketch in double precision would lose"):
        influence.fit(X, y)
    exact = ExactInfluence(Ridge(), damping=influence.damping_).fit(X, y)
    assert_close(influence.influence(X[:5], y[:5]), exact.influence(X[:5], y[:5]), 1e-9)


@pytest.mark.parametrize(
    "make", [ClassifierHeadInfluence, lambda m: RelativeHessianInfluence(m, subset_size=1.0)]
)
def test_other_exact_estimators_agree_in_raw_units(make, rng):
    X, y = problem("logistic", rng)
    unit, offset = np.array([1.0, 1e5, 1e-4, 1.0]), np.array([0.0, 1e6, 0.0, 1e4])
    model = in_units(LogisticRegression(C=np.inf, **SOLVER).fit(X, y), unit, offset)
    X = X * unit + offset
    found = make(model).fit(X, y).leave_one_out_effect(X[:5], y[:5])
    expected = ExactInfluence(model).fit(X, y).leave_one_out_effect(X[:5], y[:5])
    assert_close(found, expected, 1e-7)


def test_factors_that_lose_columns_are_reported(rng):
    X, y = problem("ridge", rng)
    X[:, 0] *= 1e9
    influence = KFACInfluence(Ridge()).fit(X, y)
    with pytest.warns(NumericalWarning, match="singular"):
        influence.influence(X[:3], y[:3])


def test_memorization_that_loses_eigenvectors_is_reported(rng):
    X, y = problem("logistic", rng)
    unit = np.array([1e9, 1.0, 1.0, 1.0])
    model = LogisticRegression(C=np.inf, **SOLVER).fit(X, y)
    influence = ExactInfluence(in_units(model, unit, 0.0))
    X = X * unit
    with pytest.warns(NumericalWarning, match="eigenvectors are lost in rounding"):
        MemorizationSelector(influence, keep="generalizable", threshold="q0.9").fit(X, y)


@pytest.mark.parametrize("value", [0.1, 1.0, 1000.0, -1000.1, 1e12])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_constant_column_changes_nothing_and_warns_of_nothing(value, class_weight):
    X, y = wine()
    model = LogisticRegression(class_weight=class_weight, **NEWTON)
    expected = ExactInfluence(model).fit(X, y).influence(X, y)
    # A model that gives the column no weight.
    constant = np.column_stack([X, np.full(len(y), value)])
    fitted = clone(model).fit(X, y)
    fitted.coef_ = np.column_stack([fitted.coef_, np.zeros(len(fitted.coef_))])
    fitted.n_features_in_ += 1
    found = ExactInfluence(FrozenEstimator(fitted)).fit(constant, y).influence(constant, y)
    assert_close(found, expected, 1e-7)
