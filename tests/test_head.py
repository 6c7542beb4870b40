"""ClassifierHeadInfluence: the head of a model, and Theorem 1.

One test lowers the module constant ``MAX_PARAMS``, to make a model too large to decompose.
"""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinfluence import ClassifierHeadInfluence, ExactInfluence
from skinfluence.estimators import classification_terms, dominant_partition
from skinfluence.metrics import InfluenceScorer, influence_ratio
from skinfluence.models import head as head_of
from skinfluence.models import objective
from tests.helpers import assert_close, cancer, frozen, iris, perceptron, spd


@parametrize_with_checks([ClassifierHeadInfluence(LogisticRegression())])
def test_estimator_follows_the_rules_of_scikit_learn(estimator, check):
    check(estimator)


def fitted_mlp(kind=MLPClassifier, hidden=(6,), binary=False, alpha=0.5):
    X, y = iris()
    return frozen(perceptron(hidden, kind, alpha=alpha), X, y == 0 if binary else y)


# ---------------------------------------------------------------------------
# Pipelines and linear models
# ---------------------------------------------------------------------------


def pipeline(model):
    return Pipeline([("scale", StandardScaler()), ("pca", PCA(3)), ("model", model)])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda steps: steps,
        lambda steps: GridSearchCV(steps, {"model__C": [0.5]}),
        lambda steps: FrozenEstimator(steps.fit(*iris())),
    ],
    ids=["pipeline", "search", "frozen"],
)
@pytest.mark.parametrize("head", ["auto", "model"])
def test_head_of_a_pipeline_is_its_last_step(wrap, head):
    X, y = iris()
    steps = pipeline(LogisticRegression(C=0.5))
    influence = ClassifierHeadInfluence(wrap(steps), head=head).fit(X, y)
    transformed = steps.fit(X, y)[:-1].transform(X)
    exact = ExactInfluence(LogisticRegression(C=0.5)).fit(transformed, y)
    wanted = exact.influence(transformed[:4], y[:4])
    assert_allclose(influence.influence(X[:4], y[:4]), wanted, rtol=1e-9)
    assert_allclose(
        influence.leave_one_out_effect(X[:4], y[:4]),
        exact.leave_one_out_effect(transformed[:4], y[:4]),
        rtol=1e-6,
        atol=1e-9,
    )
    assert influence.head_ is None and influence.n_features_in_ == 4


@pytest.mark.parametrize("model", [LogisticRegression(C=0.3), Ridge()])
def test_a_linear_model_is_its_own_head(model):
    X, y = iris()
    influence = ClassifierHeadInfluence(model).fit(X, y)
    fidelity = influence.head_fidelity(X[:5], y[:5])
    assert_allclose(fidelity.rho, 1)
    assert_allclose(fidelity.dispersion, 0, atol=1e-9)
    assert_allclose(fidelity.t1, 0, atol=1e-12)
    assert fidelity.partition.all()
    assert_allclose([fidelity.inverse_share, fidelity.coordinate_share], 1)
    assert_allclose(
        influence.influence(X[:5], y[:5]), ExactInfluence(model).fit(X, y).influence(X[:5], y[:5])
    )


# ---------------------------------------------------------------------------
# Perceptrons
# ---------------------------------------------------------------------------


def own_coordinates(influence, full):
    """Coordinates of the head in the objective of the full model."""
    fit = influence.linearisation_.fitted_model
    found = head_of(fit.model, fit.features, fit.y, fit.sample_weight, influence.head)
    return found.coordinates(full)


def expanded(influence):
    """Matrix that turns the coordinates of the head into those of the model."""
    return influence.linearisation_.objective.to_parameters(np.eye(influence.n_components_)).T


@pytest.mark.parametrize(
    "model",
    [
        fitted_mlp(),
        fitted_mlp(binary=True),
        fitted_mlp(hidden=(5, 4)),
        fitted_mlp(MLPRegressor),
    ],
    ids=["softmax", "logistic", "deep", "regression"],
)
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_hessian_of_the_head_is_the_block_of_the_whole(model, curvature):
    X, y = iris()
    y = (y == 0).astype(int) if len(getattr(model, "classes_", "123")) == 2 else y
    influence = ClassifierHeadInfluence(model).fit(X, y)
    full = objective(model.estimator, X, y, np.ones(len(X)))
    own = own_coordinates(influence, full)
    index, blocks = full.hessian(curvature)
    block = blocks[0][np.ix_(own, own)] + np.diag(full.l2_penalty[own])
    E = expanded(influence)
    assert influence.n_params_ == len(own)
    assert_allclose(influence.linearisation_.curvature.matrix(0.0), E.T @ block @ E, atol=1e-10)
    assert_allclose(
        influence.linearisation_.objective.training_gradient_rows().toarray(),
        full.training_gradient_rows().toarray()[:, own] @ E,
        atol=1e-10,
    )


def test_head_equals_a_linear_model_on_the_hidden_layer():
    # A perceptron whose head alone is at its minimum is a featurizer and a logistic regression.
    X, y = cancer()
    model = MLPClassifier((5,), activation="tanh", solver="lbfgs", alpha=2.0, random_state=0)
    model.max_iter = 5
    with pytest.warns(UserWarning, match="lbfgs"):
        model.fit(X, y)
    hidden = np.tanh(X @ model.coefs_[0] + model.intercepts_[0])
    top = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(hidden, y)
    model.coefs_[1], model.intercepts_[1] = top.coef_.T, top.intercept_
    influence = ClassifierHeadInfluence(FrozenEstimator(model), damping=0).fit(X, y)
    exact = ExactInfluence(FrozenEstimator(top)).fit(hidden, y)
    assert_allclose(
        influence.influence(X[:9], y[:9]), exact.influence(hidden[:9], y[:9]), rtol=1e-6
    )
    assert_allclose(
        influence.leave_one_out_effect(X[:3], y[:3]),
        exact.leave_one_out_effect(hidden[:3], y[:3]),
        rtol=1e-5,
        atol=1e-9,
    )
    parameters = influence.parameter_influence([3])
    assert_allclose(parameters, exact.parameter_influence([3]), rtol=1e-6)


@pytest.mark.parametrize("solver", ["direct", "gram", "cg", "lissa"])
def test_solvers_agree(solver, global_random_seed):
    X, y = iris()
    direct = ClassifierHeadInfluence(fitted_mlp(), solver="direct").fit(X, y)
    other = ClassifierHeadInfluence(
        fitted_mlp(), solver=solver, random_state=global_random_seed
    ).fit(X, y)
    assert other.solver_ == solver
    wanted = direct.influence(X[:3], y[:3])
    assert_allclose(other.influence(X[:3], y[:3]), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sketch", ["nystrom", "gaussian", "sjlt"])
def test_a_sketch_of_the_whole_rank_is_exact(sketch, global_random_seed):
    X, y = iris()
    damping = 1e-6 if sketch == "nystrom" else 0.0
    settings = {"damping": damping, "random_state": global_random_seed}
    exact = ClassifierHeadInfluence(fitted_mlp(), **settings).fit(X, y)
    full = ClassifierHeadInfluence(fitted_mlp(), sketch=sketch, sketch_size=21, **settings)
    assert_allclose(full.fit(X, y).influence(X[:3], y[:3]), exact.influence(X[:3], y[:3]))
    assert full.solver_ == "direct"


def head_gradients(influence, X, y):
    """Gradients of queries over the head, in the layout of its parameters."""
    fit = influence.linearisation_
    rows = fit.gradient_rows(fit.read(X), y).toarray()
    return fit.objective.to_parameters(rows)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_hessian_that_does_not_fit_is_never_written_out():
    X, y = iris()
    model = MLPClassifier((30,), alpha=0.1, solver="lbfgs", random_state=0).fit(X, y)
    direct = ClassifierHeadInfluence(FrozenEstimator(model)).fit(X, y)
    with config_context(working_memory=0.05):
        influence = ClassifierHeadInfluence(FrozenEstimator(model)).fit(X, y)
        found = influence.influence(X[::10], y[::10])
    assert (direct.solver_, influence.solver_) == ("direct", "cg")
    assert_close(found, direct.influence(X[::10], y[::10]), 1e-8)
    assert_close(influence.self_influence(), direct.self_influence(), 1e-8)
    # Without damping, only a dense Hessian has a pseudo-inverse.
    with config_context(working_memory=0.05):
        model = LogisticRegression(C=1.0)
        assert ClassifierHeadInfluence(model).fit(X, y).solver_ == "direct"


def test_a_small_sketch_is_close():
    X, y = iris()
    exact = ClassifierHeadInfluence(fitted_mlp(), damping=0.01).fit(X, y)
    some = ClassifierHeadInfluence(fitted_mlp(), damping=0.01, sketch_size=8, random_state=0)
    some.fit(X, y)
    assert some.solver_ == "sketch"
    match = influence_ratio(some.influence(X[::5], y[::5]), exact.influence(X[::5], y[::5]))
    assert match.spearman.mean() > 0.9
    # What is lifted back to the parameters gives the same influence.
    lifted = some.parameter_influence([0, 1]) @ head_gradients(some, X[::5], y[::5]).T
    assert_close(lifted.T, some.influence(X[::5], y[::5])[:, :2], 1e-9)
    fidelity = some.head_fidelity(X[::5], y[::5])
    assert_allclose(fidelity.classification, some.influence(X[::5], y[::5]), rtol=1e-6)
    auto = ClassifierHeadInfluence(fitted_mlp(), damping=0.01, sketch_size="auto").fit(X, y)
    match = influence_ratio(auto.influence(X[::5], y[::5]), exact.influence(X[::5], y[::5]))
    assert match.spearman.mean() > 0.9


def test_score_refits_the_whole_model():
    X, y = iris()
    model = fitted_mlp().estimator
    scorer = InfluenceScorer(n_subsets=4, random_state=0)
    head = ClassifierHeadInfluence(FrozenEstimator(model), scoring=scorer).fit(X, y)
    exact = ExactInfluence(FrozenEstimator(model), damping=0.01, curvature="ggn").fit(X, y)
    truth, wanted = (scorer.ground_truth(influence, X[::9], y[::9]) for influence in (head, exact))
    assert_allclose(truth.losses, wanted.losses)
    assert -1 <= head.score(X[::9], y[::9]) <= 1


def test_a_layer_has_a_name():
    X, y = iris()
    auto = ClassifierHeadInfluence(fitted_mlp()).fit(X, y)
    named = ClassifierHeadInfluence(fitted_mlp(), head="layer 1").fit(X, y)
    assert auto.head_ == named.head_ == "layer 1"
    assert_array_equal(auto.influence(X[:2], y[:2]), named.influence(X[:2], y[:2]))


def test_head_of_a_perceptron_at_the_end_of_a_pipeline():
    X, y = load_iris(return_X_y=True)
    scaler = StandardScaler().fit(X)
    steps = make_pipeline(scaler, fitted_mlp().estimator)
    inside = ClassifierHeadInfluence(FrozenEstimator(steps)).fit(X, y)
    scaled = scaler.transform(X)
    alone = ClassifierHeadInfluence(fitted_mlp()).fit(scaled, y)
    assert_allclose(inside.influence(X[:3], y[:3]), alone.influence(scaled[:3], y[:3]))
    left, right = inside.head_fidelity(X[:3], y[:3]), alone.head_fidelity(scaled[:3], y[:3])
    assert_allclose(left.full, right.full)


def test_sparse_features():
    X, y = iris()
    dense = ClassifierHeadInfluence(fitted_mlp()).fit(X, y)
    sparse = ClassifierHeadInfluence(fitted_mlp()).fit(csr_matrix(X), y)
    wanted = dense.influence(X[:3], y[:3])
    assert_allclose(sparse.influence(csr_matrix(X[:3]), y[:3]), wanted)


# ---------------------------------------------------------------------------
# Theorem 1
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("draw", range(10))
def test_ratio_of_both_influences_is_that_of_the_terms(draw, global_random_seed):
    rng = np.random.default_rng([global_random_seed, draw])
    p, n_head = 12, rng.integers(1, 12)
    H, g_t, g_p = spd(rng, p), rng.standard_normal((4, p)), rng.standard_normal((6, p))
    partition = np.zeros(p, dtype=bool)
    partition[rng.permutation(p)[:n_head]] = True
    full = g_t @ np.linalg.solve(H, g_p.T)
    head = g_t[:, :n_head] @ np.linalg.solve(H[:n_head, :n_head], g_p[:, :n_head].T)
    for chosen in (partition, None):
        terms = classification_terms(H, n_head, g_t, g_p, chosen)
        ratio = terms.classification / (terms.head_part + terms.t2)
        assert_allclose(ratio, head / full, rtol=1e-8)
        assert terms.partition.sum() == n_head
    assert_array_equal(classification_terms(H, n_head, g_t, g_p, partition).partition, partition)


def test_terms_are_those_of_the_partition(rng):
    H, g_t, g_p = spd(rng, 6), rng.standard_normal((2, 6)), rng.standard_normal((3, 6))
    partition = np.array([True, False, True, False, False, False])
    terms = classification_terms(H, 2, g_t, g_p, partition)
    values, vectors = np.linalg.eigh(H)
    beta, rest = vectors.T[~partition][:, :2], values[~partition]
    assert_allclose(terms.t1, beta.T @ np.diag(rest) @ beta)
    Q_C, own = vectors.T[partition][:, :2], values[partition]
    assert_allclose(terms.head_part, g_t[:, :2] @ Q_C.T @ np.diag(1 / own) @ Q_C @ g_p[:, :2].T)
    assert_allclose(terms.inverse_share, (1 / own).sum() / (1 / values).sum())


def test_nothing_is_left_over_when_the_head_is_on_its_own(rng):
    H = np.zeros((7, 7))
    H[:3, :3], H[3:, 3:] = spd(rng, 3), spd(rng, 4)
    terms = classification_terms(H, 3, np.eye(7)[:3], np.eye(7)[:3])
    assert_allclose(terms.t1, 0, atol=1e-12)
    assert_allclose(terms.t2, 0, atol=1e-12)
    assert_allclose(terms.coordinate_share, 1)


@pytest.mark.parametrize("rank", [5, 8, 11])
def test_terms_of_a_singular_hessian_are_those_on_its_range(rank, rng):
    p, n_head = 12, 4
    root = rng.standard_normal((p, rank))
    H, inverse = root @ root.T, np.linalg.pinv(root @ root.T, hermitian=True)
    g_t, g_p = rng.standard_normal((3, rank)) @ root.T, rng.standard_normal((5, rank)) @ root.T
    terms = classification_terms(H, n_head, g_t, g_p)
    assert_close(terms.head_part + terms.t2, g_t @ inverse @ g_p.T, 1e-9)
    block = np.linalg.pinv(H[:n_head, :n_head], hermitian=True)
    assert_close(terms.classification, g_t[:, :n_head] @ block @ g_p[:, :n_head].T, 1e-9)
    assert terms.partition.sum() == n_head
    # Directions without curvature weigh nothing in the inverse, so they are nobody's first choice.
    assert not terms.partition[: min(p - rank, p - n_head)].any()
    values = np.linalg.eigvalsh(H)[p - rank :]
    own = 1 / values[terms.partition[p - rank :]]
    assert_allclose(terms.inverse_share, own.sum() / (1 / values).sum())


def test_dominant_eigenpairs_weigh_most_in_the_inverse_of_the_head():
    values = np.array([0.1, 0.5, 1.0, 2.0])
    vectors = np.eye(4)[:, [2, 0, 1, 3]]
    # Eigenvectors 1 and 2 lie in the first two coordinates.
    assert_array_equal(dominant_partition(values, vectors, 2), [False, True, True, False])


@pytest.mark.parametrize("curvature", ["ggn", "empirical_fisher"])
def test_fidelity_compares_with_the_influence_of_the_whole(curvature):
    X, y = iris()
    influence = ClassifierHeadInfluence(
        fitted_mlp(), damping=0.01, curvature="empirical_fisher" if "emp" in curvature else "ggn"
    ).fit(X, y)
    exact = ExactInfluence(fitted_mlp(), damping=0.01, curvature=curvature).fit(X, y)
    fidelity = influence.head_fidelity(X[::10], y[::10])
    assert_allclose(fidelity.full, exact.influence(X[::10], y[::10]), rtol=1e-8)
    assert_allclose(fidelity.classification, influence.influence(X[::10], y[::10]), rtol=1e-8)
    assert_allclose(
        fidelity.rho, np.median(fidelity.classification / fidelity.full, axis=1), rtol=1e-8
    )
    assert_allclose(fidelity.ratio * fidelity.full, fidelity.classification)
    assert fidelity.damping == 0.01
    assert fidelity.partition.sum() == 21
    assert 0 < fidelity.coordinate_share <= 1 and 0 < fidelity.inverse_share < 1
    # Both sides of the ratio (39).
    fit = influence.linearisation_
    full = fit.fitted_model.objective
    own = own_coordinates(influence, full)
    order = np.concatenate([own, np.setdiff1d(np.arange(len(full.theta)), own)])
    H = full.hessian(curvature)[1][0] + np.diag(full.l2_penalty + 0.01)
    queries = full.gradient_rows(X[::10], full.encode(y[::10])).toarray()
    terms = classification_terms(
        H[np.ix_(order, order)],
        len(own),
        queries[:, order],
        full.training_gradient_rows().toarray()[:, order],
        fidelity.partition,
    )
    assert_close(fidelity.t1, terms.t1, 1e-8)
    assert_close(fidelity.t2, terms.t2, 1e-8)
    assert_close(fidelity.full, -(terms.head_part + terms.t2), 1e-8)


def test_large_models_are_compared_on_some_queries(monkeypatch):
    X, y = iris()
    influence = ClassifierHeadInfluence(fitted_mlp(), damping=0.01, random_state=0).fit(X, y)
    dense = influence.head_fidelity(X, y)
    monkeypatch.setattr("skinfluence.estimators._head_fidelity.MAX_PARAMS", 10)
    large = influence.head_fidelity(X, y)
    assert len(large.queries) == 32 and large.t1 is None and large.t2_share is None
    assert_allclose(large.full, dense.full[large.queries], rtol=1e-5, atol=1e-7)
    assert_allclose(large.rho, dense.rho[large.queries], rtol=1e-4)


def test_damping_of_a_layer_is_that_of_networks():
    X, y = iris()
    influence = ClassifierHeadInfluence(fitted_mlp()).fit(X, y)
    mean = np.trace(
        influence.linearisation_.curvature.matrix(0.0)
        - np.diag(influence.linearisation_.objective.l2_penalty)
    )
    assert_allclose(influence.damping_, 0.1 * mean / influence.n_components_)
    linear = ClassifierHeadInfluence(LogisticRegression()).fit(X, y)
    assert linear.damping_ == 0


def test_fidelity_needs_damping_where_the_whole_may_be_singular():
    X, y = iris()
    influence = ClassifierHeadInfluence(fitted_mlp(), damping=0).fit(X, y)
    fidelity = influence.head_fidelity(X[:5], y[:5])
    assert fidelity.damping > 0
    again = influence.set_params(damping=fidelity.damping).fit(X, y)
    assert_allclose(again.influence(X[:5], y[:5]), fidelity.classification)


# ---------------------------------------------------------------------------
# Modules and nets of torch
# ---------------------------------------------------------------------------


def make_module(torch):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    ).double()


def torch_model(module, **settings):
    from skinfluence.models.torch import TorchModel

    return TorchModel(module, **settings)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def ignoring_convergence(influence, X, y):
    with pytest.warns(UserWarning, match="has not converged"):
        return influence.fit(X, y)


@pytest.mark.parametrize("head", ["auto", "2"])
def test_head_of_a_module_is_its_block(torch, head):
    X, y = iris()
    model = torch_model(make_module(torch), l2=0.01)
    influence = ignoring_convergence(ClassifierHeadInfluence(model, head=head), X, y)
    full = objective(influence.estimator_, X, y, np.ones(len(X)))
    own = own_coordinates(influence, full)
    E = expanded(influence)
    block = full.hessian("hessian")[1][0][np.ix_(own, own)] + np.diag(full.l2_penalty[own])
    assert influence.head_ == "2" and influence.n_params_ == 18
    assert_allclose(influence.linearisation_.curvature.matrix(0.0), E.T @ block @ E, atol=1e-9)
    fidelity = influence.head_fidelity(X[:4], y[:4])
    H = full.hessian("ggn")[1][0] + np.diag(full.l2_penalty + fidelity.damping)
    rest = np.setdiff1d(np.arange(len(H)), own)
    order = np.concatenate([own, rest])
    values, vectors = np.linalg.eigh(H[np.ix_(order, order)])
    beta = vectors.T[~fidelity.partition][:, :18]
    assert_close(fidelity.t1, beta.T @ np.diag(values[~fidelity.partition]) @ beta, 1e-6)


def test_only_the_head_of_a_module_is_held(torch):
    X, y = iris()
    influence = ClassifierHeadInfluence(torch_model(make_module(torch), l2=0.01))
    ignoring_convergence(influence, X, y)
    assert len(influence.linearisation_.objective.theta) == 12
    # The objective of the full model is made once it is asked for.
    assert "objective" not in vars(influence.linearisation_.fitted_model)
    influence.head_fidelity(X[:4], y[:4])
    assert len(influence.linearisation_.fitted_model.objective.theta) == 43


@pytest.mark.parametrize("softmax", [False, True])
def test_head_of_a_skorch_net(torch, softmax):
    skorch = pytest.importorskip("skorch")
    X, y = iris()
    module = make_module(torch)
    whole = torch.nn.Sequential(*module, torch.nn.Softmax(dim=1)) if softmax else module
    criterion = torch.nn.NLLLoss if softmax else torch.nn.CrossEntropyLoss
    net = skorch.NeuralNetClassifier(
        whole, criterion=criterion, train_split=None, optimizer__weight_decay=0.01, verbose=0
    ).initialize()
    net.classes = [0, 1, 2]
    bare = ignoring_convergence(ClassifierHeadInfluence(torch_model(module, l2=0.01)), X, y)
    influence = ClassifierHeadInfluence(FrozenEstimator(net))
    ignoring_convergence(influence, X, y)
    wanted = bare.influence(X[:3], y[:3])
    assert_allclose(influence.influence(X[:3], y[:3]), wanted, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------


def test_an_unknown_head_is_named_with_those_that_exist(torch):
    X, y = iris()
    with pytest.raises(ValueError, match="head='top' is not found .* 'auto', 'layer 0', 'layer 1"):
        ClassifierHeadInfluence(fitted_mlp(), head="top").fit(X, y)
    with pytest.raises(ValueError, match="head='pca' is not found in this LogisticRegression"):
        ClassifierHeadInfluence(pipeline(LogisticRegression()), head="pca").fit(X, y)
    with pytest.raises(ValueError, match="head='top' is not found in this Seq.* 'auto', '0', '2'"):
        ClassifierHeadInfluence(torch_model(make_module(torch)), head="top").fit(X, y)


def test_a_hidden_layer_is_no_head(torch):
    X, y = iris()
    with pytest.raises(ValueError, match="'layer 0' .* not its head: .* Use 'layer 1'"):
        ClassifierHeadInfluence(fitted_mlp(), head="layer 0").fit(X, y)
    with pytest.raises(TypeError, match=r"'0' of Sequential is no linear head: .*\(32, 3\)"):
        ClassifierHeadInfluence(torch_model(make_module(torch)), head="0").fit(X, y)


def test_a_model_without_a_linear_head_is_refused(torch):
    X, y = iris()
    with pytest.raises(TypeError, match="objective of KNeighborsClassifier is not known"):
        ClassifierHeadInfluence(KNeighborsClassifier()).fit(X, y)
    conv = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4)), torch.nn.Conv1d(1, 3, 4), torch.nn.Flatten()
    )
    with pytest.raises(TypeError, match="Sequential has no linear layer"):
        ClassifierHeadInfluence(torch_model(conv)).fit(X, y)
    bent = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    with pytest.raises(TypeError, match="'0' of Sequential is no linear head"):
        ClassifierHeadInfluence(torch_model(bent)).fit(X, y)


def test_a_layer_that_is_called_twice_is_no_head(torch):
    X, y = iris()
    layer = torch.nn.Linear(4, 4)
    with pytest.raises(TypeError, match="called 2 times"):
        ClassifierHeadInfluence(torch_model(torch.nn.Sequential(layer, layer))).fit(X, y)


def test_an_unknown_curvature_is_refused():
    X, y = iris()
    influence = ClassifierHeadInfluence(fitted_mlp()).fit(X, y)
    with pytest.raises(ValueError, match="curvature must be one of"):
        influence.head_fidelity(X[:2], y[:2], curvature="full")


def test_a_fitted_head_can_be_pickled():
    X, y = iris()
    influence = ClassifierHeadInfluence(fitted_mlp()).fit(X, y)
    again = pickle.loads(pickle.dumps(influence))
    assert_array_equal(again.influence(X[:2], y[:2]), influence.influence(X[:2], y[:2]))
