"""Perceptrons of scikit-learn against finite differences and automatic differentiation."""

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.fixes import parse_version

from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.models import objective
from tests.helpers import assert_close

HAS_WEIGHTS = parse_version(sklearn.__version__) >= parse_version("1.7")
N, D = 40, 5


def problem(task, rng):
    X = rng.standard_normal((N, D))
    y = {
        "binary": lambda: (X[:, 0] > 0.3).astype(int),
        "classes": lambda: rng.choice(["a", "b", "c"], N),
        "multilabel": lambda: (rng.standard_normal((N, 3)) > 0.2).astype(int),
        "real": lambda: X @ rng.standard_normal(D) + rng.standard_normal(N),
        "real2": lambda: rng.standard_normal((N, 2)),
        "counts": lambda: rng.poisson(2.0, N).astype(float),
    }[task]()
    return X, y


def fitted(task, X, y, activation="tanh", **params):
    cls = MLPRegressor if task in ("real", "real2", "counts") else MLPClassifier
    settings = {"solver": "lbfgs", "alpha": 0.5, "max_iter": 2000, "tol": 1e-9}
    if task == "counts":
        settings["loss"] = "poisson"
    settings |= params
    model = cls(hidden_layer_sizes=(4, 3), activation=activation, random_state=0, **settings)
    return model.fit(X, y)


def with_parameters(result, theta):
    """Losses as a function of the coordinates of the rows."""
    start = 0
    weights, biases = [], []
    for w in result.weights:
        weights.append(theta[start : start + w.size].reshape(w.shape))
        start += w.size
        biases.append(theta[start : start + len(w)])
        start += len(w)
    h = result.features.toarray() if sp.issparse(result.features) else result.features
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        a = h @ weight.T + bias
        h = result.phi(a) if layer + 1 < len(weights) else a
    return result.loss.value(a, result.targets)


TASKS = ["binary", "classes", "multilabel", "real"]
TASKS += ["counts"] if HAS_WEIGHTS else []


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", TASKS)
def test_gradient_rows_are_finite_differences(task, activation, rng):
    X, y = problem(task, rng)
    model = fitted(task, X, y, activation, max_iter=15, tol=1e-4, solver="adam")
    result = objective(model, X, y, np.ones(N))
    theta = result.theta
    rows = result.training_gradient_rows()
    directions = rng.standard_normal((3, len(theta)))
    step = 1e-6
    for product, v in zip((rows @ directions.T).T, directions, strict=True):
        upper = with_parameters(result, theta + step * v)
        lower = with_parameters(result, theta - step * v)
        assert_allclose(product, (upper - lower) / (2 * step), rtol=1e-5, atol=1e-6)


# The warning of too few iterations is what the test above asks for.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("task", TASKS)
def test_hessian_is_that_of_autograd(task, activation, rng):
    torch = pytest.importorskip("torch")
    X, y = problem(task, rng)
    model = fitted(task, X, y, activation, max_iter=15, tol=1e-4, solver="adam")
    weight = rng.uniform(0.5, 2, N)
    result = objective(model, X, y, weight)
    phi = {"identity": lambda a: a, "logistic": torch.sigmoid, "relu": torch.relu}
    phi = phi.get(activation, torch.tanh)
    shapes = [w.shape for w in result.weights]
    features, targets, weight = map(torch.as_tensor, (X, result.targets, weight))

    def mean_loss(theta):
        h, start = features, 0
        for layer, (c, d) in enumerate(shapes):
            w = theta[start : start + c * d].reshape(c, d)
            a = h @ w.T + theta[start + c * d : start + c * d + c]
            start += c * d + c
            h = phi(a) if layer + 1 < len(shapes) else a
        if task == "classes":
            losses = torch.logsumexp(a, 1) - (a * targets).sum(1)
        elif task in ("binary", "multilabel"):
            losses = torch.nn.functional.softplus(-targets * a).sum(1)
        elif task == "counts":
            losses = (torch.exp(a) - targets * a).sum(1)
        else:
            losses = 0.5 * ((targets - a) ** 2).sum(1)
        return (weight * losses).sum() / weight.sum()

    expected = torch.func.jacrev(torch.func.jacrev(mean_loss))(
        torch.as_tensor(result.theta)
    ).numpy()
    index, blocks = result.hessian("hessian")
    assert_allclose(index[0], np.arange(len(expected)))
    assert_close(blocks[0], expected, 1e-10)


@pytest.mark.parametrize("task", TASKS)
def test_ggn_is_the_hessian_of_linearised_outputs(task, rng):
    X, y = problem(task, rng)
    result = objective(fitted(task, X, y), X, y, np.ones(N))
    k = result.training_outputs.shape[1]
    jacobian = result.jacobian_rows(X).toarray().reshape(N, k, -1)
    expected = np.einsum(
        "nap,nab,nbq->pq", jacobian, result.output_curvature("ggn"), jacobian, optimize=True
    )
    ggn = result.hessian("ggn")[1][0]
    assert_allclose(ggn, expected / N, atol=1e-12 * np.abs(ggn).max())
    vectors = rng.standard_normal((2, len(ggn)))
    assert_allclose(result.curvature_product("ggn")(vectors), vectors @ ggn, atol=1e-10)


def test_a_classifier_needs_one_root_less_than_classes(rng):
    X, y = problem("classes", rng)
    result = objective(fitted("classes", X, y), X, y, np.ones(N))
    assert result.factor_rows("ggn").rows_per_sample == 2


@pytest.mark.parametrize("task", TASKS)
def test_objective_of_lbfgs_is_stationary(task, rng):
    X, y = problem(task, rng)
    result = objective(fitted(task, X, y), X, y, np.ones(N))
    assert result.stationarity < 1e-3
    assert_allclose(result.penalty[: D * 4], 0.5)
    assert_allclose(result.penalty[D * 4 : D * 4 + 4], 0.0)


def test_outputs_are_those_of_the_model(rng):
    X, y = problem("classes", rng)
    model = fitted("classes", X, y)
    result = objective(model, X, y, np.ones(N))
    scores = np.exp(result.training_outputs)
    assert_allclose(scores / scores.sum(axis=1, keepdims=True), model.predict_proba(X))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_penalty_of_stochastic_solvers_is_relative_to_the_batch(solver, rng):
    X, y = problem("binary", rng)
    model = fitted("binary", X, y, solver=solver, batch_size=8, max_iter=2)
    result = objective(model, X, y, np.ones(N))
    # alpha / (2 batch) in the mean objective, so alpha n / batch beside the sum of losses.
    assert_allclose(result.penalty[0], 0.5 * N / 8)
    assert result.weighting.kind == "count"


def test_long_full_batch_descent_finds_the_effective_penalty():
    rng = np.random.default_rng(0)
    X, y = problem("real", rng)
    model = fitted(
        "real",
        X,
        y,
        solver="sgd",
        batch_size=10,
        alpha=0.3,
        learning_rate="invscaling",
        learning_rate_init=0.05,
        power_t=0.3,
        max_iter=3000,
        n_iter_no_change=3000,
    )
    result = objective(model, X, y, np.ones(N))
    right = result.stationarity
    result.penalty = result.penalty * 10 / N
    del result.__dict__["stationarity"]
    assert right < 0.3 * result.stationarity


def test_parameters_have_the_layout_of_the_model(rng):
    X, y = problem("classes", rng)
    model = fitted("classes", X, y)
    result = objective(model, X, y, np.ones(N))
    own = np.concatenate([np.ravel(p) for p in model.coefs_ + model.intercepts_])
    assert_allclose(result.to_parameters(result.theta[None])[0], own)
    assert result.n_params == len(own)


@pytest.mark.skipif(not HAS_WEIGHTS, reason="scikit-learn < 1.7 has no weights here")
def test_sample_weight_repeats_rows(rng):
    X, y = problem("classes", rng)
    weight = rng.integers(1, 3, N).astype(float)
    model = fitted("classes", X, y)
    weighted = objective(model, X, y, weight)
    index = np.repeat(np.arange(N), weight.astype(int))
    repeated = objective(model, X[index], y[index], np.ones(len(index)))
    for curvature in ("hessian", "ggn", "empirical_fisher"):
        assert_allclose(weighted.hessian(curvature)[1], repeated.hessian(curvature)[1], atol=1e-12)


def test_sparse_and_dense_features_agree(rng):
    X, y = problem("classes", rng)
    X[np.abs(X) < 0.5] = 0
    model = fitted("classes", X, y)
    dense = objective(model, X, y, np.ones(N))
    sparse = objective(model, sp.csr_array(X), y, np.ones(N))
    for curvature in ("hessian", "ggn"):
        assert_allclose(sparse.hessian(curvature)[1], dense.hessian(curvature)[1], atol=1e-12)


def test_rows_do_not_depend_on_the_working_memory(rng):
    X, y = problem("classes", rng)
    result = objective(fitted("classes", X, y), X, y, np.ones(N))
    vectors = rng.standard_normal((3, len(result.theta)))

    def everything():
        factor_rows, rows = result.factor_rows("ggn"), result.training_gradient_rows()
        return [
            factor_rows.inner(factor_rows),
            factor_rows.inner(rows),
            rows.squared_norms(),
            rows @ vectors.T,
            rows.dotted_by(vectors),
            np.ones((1, N)) @ rows,
            rows.columns(np.array([0, 21])),
            rows.rescaled(result.theta).toarray(),
            rows[np.array([3, 1])].toarray(),
            result.hessian("hessian")[1],
            result.hessian("ggn")[1],
            result.outputs(X),
        ]

    expected = everything()
    with config_context(working_memory=2e-3):
        for got, wanted in zip(everything(), expected, strict=True):
            assert_allclose(got, wanted, atol=1e-12)


def test_several_outputs_with_squared_error_warn():
    X, y = problem("real2", np.random.default_rng(0))
    model = fitted("real2", X, y, solver="adam", max_iter=5)
    with pytest.warns(UserWarning, match="issue 8349"):
        objective(model, X, y, np.ones(N))


def test_early_stopping_warns_of_rows_held_out():
    X, y = problem("binary", np.random.default_rng(0))
    model = fitted("binary", X, y, solver="adam", max_iter=5, early_stopping=True)
    with pytest.warns(UserWarning, match="held out 10%"):
        objective(model, X, y, np.ones(N))


@pytest.mark.parametrize("solver", ["auto", "direct", "cg", "lissa"])
def test_the_hessian_of_a_network_is_solved_without_roots(solver):
    # Of other draws the Hessian may be indefinite at this damping.
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, D)), rng.standard_normal(8)
    model = FrozenEstimator(fitted("real", X, y, alpha=2.0))
    influence = ExactInfluence(model, damping=0.5, solver=solver, random_state=0).fit(X, y)
    assert influence.n_params_ > len(X)
    matrix = influence.linearisation_.objective.hessian("hessian")[1][0]
    matrix += np.diag(influence.linearisation_.objective.l2_penalty + 0.5)
    rows = influence.linearisation_.objective.training_gradient_rows().toarray()
    expected = -rows @ np.linalg.solve(matrix, rows.T)
    assert_allclose(influence.influence(X, y), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("task", TASKS)
def test_gram_and_direct_agree_on_the_ggn(task, rng):
    X, y = problem(task, rng)
    X, y = (X[:12], y[:12]) if task != "classes" else (X, y)
    model = FrozenEstimator(fitted(task, X, y))
    scores = [
        ExactInfluence(model, curvature="ggn", damping=0.05, solver=solver, random_state=0)
        .fit(X, y)
        .influence(X, y)
        for solver in ("gram", "direct", "cg", "lissa")
    ]
    for other in scores[1:]:
        assert_allclose(other, scores[0], rtol=1e-5, atol=1e-8)


def margins(task, outputs):
    """Derivative of the prediction: a mean, sizes of logits, or the lead over the next class."""
    if task == "classes":
        order = np.argsort(-outputs, axis=1)
        return np.eye(outputs.shape[1])[order[:, 0]] - np.eye(outputs.shape[1])[order[:, 1]]
    derivatives = {"counts": np.exp, "real": np.ones_like}
    return derivatives.get(task, np.sign)(outputs)


@pytest.mark.parametrize("task", TASKS)
def test_influence_of_every_kind_of_perceptron(task, rng):
    X, y = problem(task, rng)
    X = sp.csr_array(X) if task == "classes" else X
    model = fitted(task, X, y)
    weight = {"sample_weight": np.linspace(1, 2, N)} if HAS_WEIGHTS and task == "real" else {}
    for cls in (ExactInfluence, KFACInfluence):
        params = {"curvature": "ggn"} if cls is ExactInfluence else {}
        influence = cls(model, damping=0.1, **params).fit(X, y, **weight)
        scores = influence.influence(X, y)
        assert (np.diag(scores) <= 0).all()
        fit = influence.linearisation_
        outputs, k = fit.objective.outputs(X), fit.objective.training_outputs.shape[1]
        jacobian = fit.objective.jacobian_rows(X).toarray().reshape(N, k, -1)
        gradients = fit.objective.to_parameters(
            np.einsum("nk,nkp->np", margins(task, outputs), jacobian)
        )
        expected = gradients @ influence.parameter_influence().T
        assert_close(influence.influence(X), expected, 1e-8)


@pytest.mark.parametrize("task", TASKS)
def test_landmarks_of_the_whole_range_are_exact(task, rng, global_random_seed):
    X, y = problem(task, rng)
    model = FrozenEstimator(fitted(task, X, y))
    exact = ExactInfluence(model, curvature="ggn", damping=0.01).fit(X, y)
    settings = {"eps": 1e-4, "random_state": global_random_seed}
    sketched = SketchedInfluence(model, curvature="ggn", damping=0.01, **settings)
    expected = exact.influence(X, y)
    # Biases have no penalty: their ridge is another than that of the weights.
    assert len(np.unique(exact.linearisation_.objective.l2_penalty)) == 2
    assert_close(sketched.fit(X, y).influence(X, y), expected, 1e-6)
    effect = exact.leave_one_out_effect(X, y)
    assert_close(sketched.leave_one_out_effect(X, y), effect, 1e-6)


def test_landmarks_as_many_as_the_rank_need_no_more():
    X, y = problem("binary", np.random.default_rng(0))
    X, y = X[:12], y[:12]
    model = FrozenEstimator(fitted("binary", X, y))
    exact = ExactInfluence(model, curvature="ggn", damping=0.01).fit(X, y)
    rank = np.linalg.matrix_rank(exact.linearisation_.objective.factor_rows("ggn").toarray())
    assert rank < exact.n_params_ / 2
    # Landmarks of rows whose columns have two ridges span the rows once these are made one.
    sketched = SketchedInfluence(
        model, curvature="ggn", damping=0.01, sketch_size=int(rank), random_state=0
    ).fit(X, y)
    expected = exact.influence(X, y)
    assert_close(sketched.influence(X, y), expected, 1e-6)


def test_the_hessian_has_no_root_rows():
    X, y = problem("binary", np.random.default_rng(0))
    result = objective(fitted("binary", X, y), X, y, np.ones(N))
    with pytest.raises(ValueError, match="curvature='ggn'"):
        result.factor_rows("hessian")
