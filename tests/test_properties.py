"""A number from this package is right, or it is refused, on tables that nobody scaled.

Tables have columns of any unit and offset, some of them collinear, constant or all zero, and often
fewer rows than columns. Either an effect equals that of refits without rounding, see
`exact_refits.py`, up to `TOLERANCE` of the largest effect on that query and to the step that the
solver of the model left; or an error or a warning says why it may not.

`HYPOTHESIS_PROFILE=thorough` tries 10 times as many tables, other ones in every run, in about
4 minutes; `--hypothesis-seed=7` repeats a run.
"""

import os
import tempfile
import warnings

import exact_refits
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
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
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.exceptions import NumericalWarning

TOLERANCE = 1e-6
EPS = np.finfo(np.float64).eps

for name, n_examples in {"quick": 25, "thorough": 250}.items():
    settings.register_profile(
        name,
        max_examples=n_examples,
        derandomize=name == "quick",
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# What NumPy and SciPy say where a message of this package is missing.
BARE = ["Singular matrix", "infs or NaNs", "leading minor", "did not converge", "out of bounds"]

N_QUERIES = 3


# ---------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------

COLUMNS = {
    "normal": lambda rng, n, known: rng.standard_normal(n),
    "integer": lambda rng, n, known: rng.integers(-2, 3, n).astype(float),
    "singleton": lambda rng, n, known: 1.0 * (np.arange(n) == rng.integers(n)),
    "constant": lambda rng, n, known: np.full(n, rng.standard_normal()),
    "zero": lambda rng, n, known: np.zeros(n),
    "copy": lambda rng, n, known: 2.0 * known[rng.integers(len(known))],
    "sum": lambda rng, n, known: np.sum(known, axis=0),
}
SOUND = ["normal", "integer"]


@st.composite
def tables(draw, rows, scales, kinds=tuple(COLUMNS), columns=5):
    """Features of training rows and queries, weights, a set of rows, and a generator."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, p = draw(st.integers(*rows)), draw(st.integers(1, columns))
    names = st.one_of(st.just(["normal"]), st.just(SOUND), st.just(list(kinds)))
    names = draw(names)
    offset, scale = draw(st.sampled_from([0, 0, 3, 6, 9])), draw(st.sampled_from(scales))
    known = []
    for _ in range(p):
        name = names[rng.integers(len(names))]
        name = name if known or name not in ("copy", "sum") else "normal"
        known.append(COLUMNS[name](rng, n + N_QUERIES, known))
    X = np.column_stack(known)
    X = X + 10.0 ** rng.uniform(0, offset, p) * (rng.random(p) < 0.5) * (offset > 0)
    X *= 10.0 ** rng.integers(-scale, scale + 1, p)
    weight = draw(st.sampled_from(["ones", "any", "zeros"]))
    weight = {
        "ones": np.ones(n),
        "any": rng.uniform(0.1, 3, n),
        "zeros": rng.integers(0, 3, n).astype(float),
    }[weight]
    weight[:2] = np.maximum(weight[:2], 1.0)
    together = rng.choice(n, min(2, n - 1), replace=False).tolist()
    return X, weight, together, rng


# ---------------------------------------------------------------------------
# What is said of them
# ---------------------------------------------------------------------------


def outcome(influence, train, queries, together):
    """Effects, influences, embedding and self-influence; None if an error or a warning came."""
    X, y, weight = train
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            influence.fit(X, y, sample_weight=weight)
            single = influence.leave_one_out_effect(*queries)
            joint = influence.removal_effect(together, *queries)
            pairs = influence.influence(X, y)
            embedding, own = influence.transform(X, y), influence.self_influence()
        except (ValueError, TypeError, np.linalg.LinAlgError) as error:
            assert not any(text in str(error) for text in BARE), error
            return None
    if any(issubclass(w.category, UserWarning | ConvergenceWarning) for w in said):
        return None
    if any("LinAlgWarning" in w.category.__name__ for w in said):
        return None
    return np.column_stack([single, joint]), pairs, embedding, own


def assert_consistent(pairs, embedding, own):
    """Influences, the products of embeddings and self-influences are the same numbers."""
    products = embedding @ embedding.T
    tol = TOLERANCE * own.max(initial=0.0) + np.finfo(float).tiny
    assert_allclose(pairs, -products, rtol=0, atol=tol)
    assert_allclose(own, np.diag(products), rtol=0, atol=tol)


def assert_right(effects, expected, left, rounding):
    """Effects are the expected ones, where these are known."""
    known = np.isfinite(expected)
    largest = np.max(np.where(known, np.abs(expected), 0.0), axis=1, keepdims=True)
    error = np.where(known, np.abs(effects - expected), 0.0)
    excess = error - ((TOLERANCE + 10 * left) * largest + rounding)
    assert (excess <= 0).all(), (effects, expected)


# ---------------------------------------------------------------------------
# Effects against refits
# ---------------------------------------------------------------------------

EXACT = {
    "auto": ExactInfluence,
    "direct": lambda model: ExactInfluence(model, solver="direct"),
    "gram": lambda model: ExactInfluence(model, solver="gram"),
    "head": ClassifierHeadInfluence,
    "relative": lambda model: RelativeHessianInfluence(model, subset_size=1.0),
    "sketched": lambda model: SketchedInfluence(model, random_state=0),
}


def rounding_of_losses(train, queries, exact):
    """What rounding of the fitted intercept and of the outputs leaves in squared losses."""
    coef, intercept = exact
    size = np.abs([float(w) for w in coef])
    terms = np.abs(queries[0]) @ size + np.abs(train[0]).max(axis=0) @ size
    terms += abs(float(intercept)) + np.abs(queries[1])
    loss = np.array([float(v) for v in exact_refits.squared_losses(*queries, coef, intercept)])
    return terms, loss


@pytest.mark.parametrize("how", EXACT)
@given(
    table=tables(rows=(2, 11), scales=[0, 3, 8, 100, 140]),
    alpha=st.sampled_from([0.0, 0.0, 1e-8, 1e-3, 1.0, 1e3]),
    solver=st.sampled_from(["auto", "svd", "cholesky"]),
    intercept=st.booleans(),
    unit=st.integers(-8, 8),
    offset=st.sampled_from([0.0, 0.0, 10.0, 1e8]),
    labels=st.sampled_from([None, None, None, [7, -3], ["b", "c"]]),
)
def test_least_squares_is_right_or_refused(
    how, table, alpha, solver, intercept, unit, offset, labels
):
    X, weight, together, rng = table
    n = len(weight)
    if how == "gram" and alpha == 0:
        # Inner products need a penalty.
        alpha = 1.0
    sets = [[row] for row in range(n)] + [together]
    if labels is None:
        given = y = 10.0**unit * (rng.standard_normal(len(X)) + offset)
        model = Ridge(alpha, fit_intercept=intercept, solver=solver)
        model = model if alpha else LinearRegression(fit_intercept=intercept)
        compared = np.ones(len(sets), dtype=bool)
    else:
        # Codes of the sorted labels, which are squared errors from -1 and 1.
        y = 2.0 * (np.arange(len(X)) % 2) - 1
        given = np.sort(labels)[(y > 0).astype(int)]
        model = RidgeClassifier(alpha, fit_intercept=intercept, solver=solver)
        # Without one of the classes there is no refit.
        left = [np.delete(np.where(weight > 0, y[:n], 0), rows) for rows in sets]
        compared = np.array([len(np.unique(signs[signs != 0])) == 2 for signs in left])
    train, queries = (X[:n], y[:n], weight), (X[n:], y[n:])
    influence = EXACT[how](model)
    found = outcome(influence, (X[:n], given[:n], weight), (X[n:], given[n:]), together)
    if found is None:
        return
    effects, *others = found
    assert_consistent(*others)
    effects = effects[:, compared]
    sets = [rows for rows, known in zip(sets, compared, strict=True) if known]
    exact = exact_refits.least_squares(*train, alpha, intercept)
    expected = exact_refits.squared_loss_changes(train, queries, alpha, intercept, sets)
    terms, loss = rounding_of_losses(train, queries, exact)
    distance = np.sqrt(loss) + np.sqrt(np.abs(expected).max(axis=1))
    rounding = 1e3 * EPS * distance * terms + 1e-12 * loss
    left = influence.linearisation_.remaining_step()
    if how == "gram":
        # Of queries outside of the rows' span it takes a difference, as large as 1 over the ridge.
        left += min(EPS * (weight @ X[:n] ** 2).sum() / alpha, TOLERANCE)
    assert_right(effects, expected, left, rounding[:, None])


LABELS = {"numbers": [0, 1, 2], "negative": [-3, -1, 7], "strings": ["b", "c", "dd"]}
TO_MINIMUM = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}


@pytest.mark.parametrize("how", EXACT)
@given(
    table=tables(rows=(6, 13), scales=[0, 2, 4], columns=4),
    kind=st.sampled_from(["logistic", "softmax", "poisson"]),
    strength=st.sampled_from([1e-2, 1.0, 1e2, np.inf]),
    labels=st.sampled_from(sorted(LABELS)),
    intercept=st.booleans(),
)
@settings(max_examples=max(5, settings().max_examples // 5))
def test_generalised_linear_models_are_right_or_refused(
    how, table, kind, strength, labels, intercept
):
    X, weight, together, rng = table
    n = len(weight)
    weight = np.maximum(weight, 0.5)
    if kind == "poisson":
        y = rng.poisson(2.0, len(X)).astype(float)
        y[0] = 1.0
        codes = encoded = y[:, None]
        model = PoissonRegressor(alpha=1 / strength, fit_intercept=intercept, **TO_MINIMUM)
    else:
        n_classes = 2 if kind == "logistic" else 3
        codes = np.arange(len(X))[:, None] % n_classes
        encoded = codes if n_classes == 2 else np.eye(3)[codes[:, 0]]
        y = np.array(LABELS[labels])[codes[:, 0]]
        model = LogisticRegression(C=strength, fit_intercept=intercept, **TO_MINIMUM)
    with np.errstate(all="ignore"):
        found = outcome(EXACT[how](model), (X[:n], y[:n], weight), (X[n:], y[n:]), together)
        if found is None:
            return
        effects, *others = found
        assert_consistent(*others)
        sets = [[row] for row in range(n)] + [together]
        whole = [len(np.unique(np.delete(codes[:n, 0], rows))) for rows in sets]
        kept = [kind == "poisson" or k == len(np.unique(codes[:n, 0])) for k in whole]
        expected = exact_refits.loss_changes(
            kind,
            (X[:n], encoded[:n].astype(float), weight),
            (X[n:], encoded[n:].astype(float)),
            lambda w: (w.sum() if kind == "poisson" else 1.0) / strength,
            intercept,
            [rows for rows, whole in zip(sets, kept, strict=True) if whole],
        )
    if expected is not None:
        assert_right(effects[:, kept], expected, 0.0, 1e-12)


# ---------------------------------------------------------------------------
# What must not change a number
# ---------------------------------------------------------------------------


def numbers(model, train, queries, how=ExactInfluence):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", NumericalWarning)
        influence = how(model).fit(*train)
        return [influence.influence(*queries), influence.leave_one_out_effect(*queries)]


def assert_unchanged(found, expected, tol=1e-8):
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=0, atol=tol * np.abs(other).max())


def data(seed, kind="regression", n=14, p=3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n + 3, p))
    z = X @ rng.standard_normal(p) + rng.standard_normal(n + 3)
    y = {"regression": z, "labels": 1 * (z > np.median(z)), "counts": rng.poisson(2, n + 3)}[kind]
    return rng, X[:n], y[:n], X[n:], y[n:]


MODELS = {
    "linear": ("regression", LinearRegression()),
    "ridge": ("regression", Ridge(0.3)),
    "logistic": ("labels", LogisticRegression(**TO_MINIMUM)),
    "poisson": ("counts", PoissonRegressor(alpha=0.1, **TO_MINIMUM)),
}
seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, powers=st.lists(st.integers(-60, 60), min_size=3, max_size=3))
def test_units_change_nothing_without_a_penalty(seed, powers):
    _, X, y, Q, r = data(seed)
    # LinearRegression would drop the small columns: its fit is taken over.
    unit = 2.0 ** np.array(powers)
    expected = numbers(LinearRegression(), (X, y), (Q, r))
    fitted = LinearRegression().fit(X, y)
    fitted.coef_ = fitted.coef_ / unit
    assert_unchanged(numbers(FrozenEstimator(fitted), (X * unit, y), (Q * unit, r)), expected)


@pytest.mark.parametrize("name", MODELS)
@given(seed=seeds, offset=st.sampled_from([1.0, -100.0, 1e3]))
def test_offsets_change_nothing_beside_an_intercept(name, seed, offset):
    kind, model = MODELS[name]
    _, X, y, Q, r = data(seed, kind)
    shift = np.array([offset, 0.0, -offset])
    # Numbers that the shift does not round.
    X, Q = np.round(X * 2**20) / 2**20, np.round(Q * 2**20) / 2**20
    expected = numbers(model, (X, y), (Q, r))
    assert_unchanged(numbers(model, (X + shift, y), (Q + shift, r)), expected, 1e-6)


@pytest.mark.parametrize("name", MODELS)
@given(seed=seeds)
def test_order_changes_nothing(name, seed):
    kind, model = MODELS[name]
    rng, X, y, Q, r = data(seed, kind)
    rows, columns = rng.permutation(len(X)), rng.permutation(X.shape[1])
    expected = numbers(model, (X, y), (Q, r))
    found = numbers(model, (X[rows][:, columns], y[rows]), (Q[:, columns], r))
    assert_unchanged(found, [values[:, rows] for values in expected])


@pytest.mark.parametrize("name", MODELS)
@given(seed=seeds)
def test_a_repeated_row_is_a_row_of_weight_two(name, seed):
    kind, model = MODELS[name]
    _, X, y, Q, r = data(seed, kind)
    twice = np.append(np.arange(len(X)), 0)
    weight = np.where(np.arange(len(X)) == 0, 2.0, 1.0)
    of_weight = ExactInfluence(model).fit(X, y, sample_weight=weight)
    repeated = ExactInfluence(model).fit(X[twice], y[twice])
    expected = of_weight.influence(Q, r)
    assert_unchanged([repeated.influence(Q, r)], [expected[:, twice]])
    both = repeated.removal_effect([0, len(X)], Q, r)
    assert_unchanged([both], [of_weight.leave_one_out_effect(Q, r)[:, 0]], 1e-6)


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def mapped(X):
    with tempfile.TemporaryFile() as file:
        out = np.memmap(file, np.float64, "w+", shape=X.shape)
    out[...] = X
    return out


def wide_indices(X):
    X = sp.csr_matrix(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def labelled(X):
    """A table whose index is neither sorted nor unique, and of several types."""
    pandas = pytest.importorskip("pandas")
    index = np.resize(np.array([7, "a", 7, -1, None], dtype=object), len(X))
    return pandas.DataFrame(X, index=index).add_prefix("column ")


def nullable(X):
    """Columns of pandas' own numbers, whole ones as integers."""
    return labelled(X).convert_dtypes()


def polars(X):
    return pytest.importorskip("polars").DataFrame(X)


CONTAINERS = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "coordinates": sp.coo_matrix,
    "csr_array": sp.csr_array,
    "int64_indices": wide_indices,
    "fortran": np.asfortranarray,
    "read_only": read_only,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "memmap": mapped,
    "float32": np.float32,
    "list": lambda X: X.tolist(),
    "pandas": labelled,
    "nullable": nullable,
    "polars": polars,
}


@pytest.mark.parametrize("container", CONTAINERS)
@given(how=st.sampled_from(sorted(EXACT)), seed=seeds, intercept=st.booleans())
@settings(max_examples=max(6, settings().max_examples // 4))
def test_containers_change_nothing(how, container, seed, intercept):
    rng, X, y, Q, r = data(seed, p=5)
    # Numbers with few digits, some of them 0, beside columns without any 0.
    X, Q = (np.round(2**10 * Z * (rng.random(Z.shape) < 0.6)) / 2**10 for Z in (X, Q))
    for Z in (X, Q):
        Z[:, 0] = rng.integers(-2, 3, len(Z))
        Z[:, 1] = np.float32(0.1)
        Z[:, 2] += 1000.0
    # A frozen model, as solvers differ between dense and sparse rows, and in single precision.
    model = FrozenEstimator(Ridge(0.3, fit_intercept=intercept, solver="svd").fit(X, y))
    expected = numbers(model, (X, y), (Q, r), EXACT[how])
    hold = CONTAINERS[container]
    assert_unchanged(numbers(model, (hold(X), y), (hold(Q), r), EXACT[how]), expected)


@pytest.mark.parametrize("container", CONTAINERS)
@given(seed=seeds)
@settings(max_examples=max(2, settings().max_examples // 12))
def test_models_are_fitted_in_every_container(container, seed):
    rng, X, y, Q, r = data(seed)
    X, Q = X * (rng.random(X.shape) < 0.6), Q * (rng.random(Q.shape) < 0.6)
    model = Ridge(0.3, fit_intercept=False, solver="cholesky")
    expected = numbers(model, (X, y), (Q, r))
    hold = CONTAINERS[container]
    found = numbers(model, (hold(X), y), (hold(Q), r))
    assert_unchanged(found, expected, 1e-4 if container == "float32" else 1e-8)


TARGETS = {
    "list": lambda y: y.tolist(),
    "read_only": read_only,
    "memmap": mapped,
    "pandas": lambda y: labelled(y[:, None]).iloc[:, 0],
    "nullable": lambda y: nullable(y[:, None]).iloc[:, 0],
    "polars": lambda y: polars(y[:, None]).to_series(),
}


@pytest.mark.parametrize("kind", ["regression", "labels"])
@pytest.mark.parametrize("container", TARGETS)
@given(seed=seeds)
@settings(max_examples=max(2, settings().max_examples // 12))
def test_containers_of_targets_change_nothing(container, kind, seed):
    _, X, y, Q, r = data(seed, kind)
    model = {"regression": Ridge(0.3), "labels": RidgeClassifier(0.3)}[kind]
    expected = numbers(model, (X, y), (Q, r))
    hold = TARGETS[container]
    assert_unchanged(numbers(model, (X, hold(y)), (Q, hold(r))), expected)


@given(seed=seeds)
def test_kronecker_factors_of_least_squares_are_its_curvature(seed):
    _, X, y, Q, r = data(seed)
    # A penalty on all parameters alike is diagonal in every basis.
    model = Ridge(0.3, fit_intercept=False, solver="svd")
    expected = ExactInfluence(model).fit(X, y).influence(Q, r)
    found = KFACInfluence(model, damping=0.0).fit(X, y).influence(Q, r)
    assert_unchanged([found], [expected])


# ---------------------------------------------------------------------------
# What the properties found
# ---------------------------------------------------------------------------


def test_a_solver_that_lost_a_column_warns(rng):
    X = (rng.standard_normal((12, 2)) + [0.0, 1e4]) * [1.0, 1e-9]
    y = X[:, 0] + 1e9 * X[:, 1] + rng.standard_normal(12)
    with pytest.warns(ConvergenceWarning, match="the step that is left to its minimum"):
        ExactInfluence(LinearRegression()).fit(X, y)


def test_a_weight_of_a_column_that_never_changes_is_told():
    X, weight = np.full((2, 1), 1.8082502699999999), np.array([2.0, 1.0])
    fitted = LinearRegression().fit(X, [1.0, -1.0])
    fitted.coef_, fitted.intercept_ = np.array([0.5]), 1 / 3 - 0.5 * X[0, 0]
    with pytest.warns(NumericalWarning, match="The data cannot tell these apart: x0"):
        ExactInfluence(FrozenEstimator(fitted)).fit(X, [1.0, -1.0], weight).self_influence()


def test_inner_products_keep_columns_of_any_size(rng):
    X, y = rng.standard_normal((6, 9)), rng.standard_normal(6)
    X *= 10.0 ** np.linspace(-4, 6, 9)
    model = Ridge(1.0, solver="svd")
    gram = ExactInfluence(model, solver="gram").fit(X, y)
    direct = ExactInfluence(model, solver="direct").fit(X, y)
    assert_allclose(gram.self_influence(), direct.self_influence(), rtol=1e-6)


def test_a_penalty_below_the_rounding_of_inner_products_is_kept(rng):
    X, y = 1e9 * rng.standard_normal((8, 2)), rng.standard_normal(8)
    expected = ExactInfluence(LinearRegression()).fit(X, y).influence(X, y)
    found = ExactInfluence(Ridge(1e-8, solver="svd"), solver="gram").fit(X, y).influence(X, y)
    assert_unchanged([found], [expected])


def test_refits_where_the_penalty_alone_holds_a_coordinate():
    # The rows are separable, so that the loss has hardly any curvature left at the minimum.
    X = np.array([[-2e-3, -200.0], [0.0, -200.0], [0.0, -100.0], [-2e-3, 0.0]])
    y, weight = np.array([1, 0, 0, 1]), np.array([1.0, 2.0, 1.0, 1.0])
    Q, r = np.array([[-1e-3, 0.0], [0.0, 100.0]]), np.array([1, 1])
    expected = exact_refits.loss_changes(
        "logistic",
        (X, y[:, None].astype(float), weight),
        (Q, r[:, None].astype(float)),
        lambda w: 1e-6,
        True,
        [[row] for row in range(4)],
    )
    influence = ExactInfluence(LogisticRegression(C=1e6, **TO_MINIMUM))
    influence.fit(X, y, sample_weight=weight)
    assert_right(influence.leave_one_out_effect(Q, r), expected, 0.0, 0.0)


def test_refits_solve_their_last_systems_too():
    # Without row 4, which the penalty alone keeps from infinity, a gradient below the tolerance
    # may leave a thousandth of the way.
    rng = np.random.default_rng(118)
    n, p = rng.integers(6, 14), rng.integers(1, 5)
    X = rng.standard_normal((n, p)) * 10.0 ** rng.integers(-4, 5, p)
    y, penalty = np.arange(n) % rng.integers(2, 4), 10.0 ** -rng.integers(-2, 7)
    weight = rng.uniform(0.5, 3, n)
    sets = [[row] for row in range(n)]
    train, queries = (X, np.eye(3)[y], weight), (X, np.eye(3)[y])
    expected = exact_refits.loss_changes("softmax", train, queries, lambda w: penalty, True, sets)
    influence = ExactInfluence(LogisticRegression(C=1 / penalty, **TO_MINIMUM))
    influence.fit(X, y, sample_weight=weight)
    assert_right(influence.leave_one_out_effect(X, y), expected, 0.0, 1e-12)


def test_a_removal_that_leaves_a_line_of_minima_is_told():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((3, 1)), rng.standard_normal(3)
    influence = RelativeHessianInfluence(LinearRegression(), subset_size=1.0).fit(X, y)
    with pytest.warns(NumericalWarning, match="these 2 training row"):
        influence.removal_effect([2, 1], X, y)


def test_refits_of_probabilities_near_a_half_reach_their_minimum(rng):
    # There the loss has hardly any third derivative, but a fourth.
    X, y, weight = rng.standard_normal((14, 3)), np.arange(14) % 2, rng.uniform(0.5, 2, 14)
    encoded, sets = y[:, None].astype(float), [[row] for row in range(14)]
    train, queries = (X, encoded, weight), (X, encoded)
    expected = exact_refits.loss_changes("logistic", train, queries, lambda w: 100.0, False, sets)
    model = LogisticRegression(C=0.01, fit_intercept=False, **TO_MINIMUM)
    influence = ExactInfluence(model).fit(X, y, sample_weight=weight)
    error = np.abs(influence.leave_one_out_effect(X, y) - expected)
    # The reference does not always know that it has converged.
    error = np.where(np.isfinite(expected), error, 0.0)
    assert (error <= 1e-7 * np.nanmax(np.abs(expected), axis=1, keepdims=True)).all()
