"""Refined scores reach the exact ones, and bounds hold for every pair, whatever the queries."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.curvature import Certificate, DenseCurvature
from skinfluence.exceptions import NumericalWarning
from skinfluence.metrics import InfluenceScorer
from skinfluence.rows import DenseRows
from tests.helpers import (
    assert_close,
    cancer,
    diabetes,
    digits,
    frozen,
    logistic,
    perceptron,
    spd,
    split,
)


def with_shifted(X, y):
    """Queries, and others outside the range of the training rows: each is a third of them."""
    rng = np.random.default_rng(0)
    low, high = X.min(), X.max()
    noise, inverted = rng.uniform(low, high, X.shape), low + high - X
    permuted = X[:, rng.permutation(X.shape[1])]
    return np.concatenate([X, noise, inverted, permuted]), np.tile(y, 4)


class Case:
    """A frozen model with training rows and queries, and its exact scores."""

    def __init__(self, model, X, y, Xq, yq, **exact):
        self.model = frozen(model, X, y)
        self.X, self.y = X, y
        self.queries = with_shifted(Xq, yq)
        self.exact = ExactInfluence(self.model, **exact).fit(X, y)
        self.scores = self.exact.influence(*self.queries)

    def fit(self, cls, **params):
        # Each class would find a damping of its own for a network.
        damping = {"damping": self.exact.damping_} | params
        return cls(self.model, **damping).fit(self.X, self.y)


@pytest.fixture(scope="module")
def softmax():
    return Case(logistic(C=0.1), *split(*digits(), n_queries=15, n_train=700))


@pytest.fixture(scope="module")
def binary():
    return Case(logistic(C=1.0), *split(*cancer(), n_queries=30))


@pytest.fixture(scope="module")
def network():
    data = split(*digits(4), n_queries=15, n_train=200)
    return Case(perceptron((12,)), *data, curvature="ggn", damping=2e-4)


APPROXIMATIONS = {
    "softmax, nystrom": ("softmax", SketchedInfluence, {"sketch_size": 130}),
    "softmax, no tail": ("softmax", SketchedInfluence, {"sketch_size": 300, "tail": False}),
    "softmax, random": ("softmax", SketchedInfluence, {"sketch_size": 250, "sketch": "sjlt"}),
    "softmax, projected queries": (
        "softmax",
        SketchedInfluence,
        {"sketch_size": 130, "project_queries": True},
    ),
    "softmax, unfactored": (
        "softmax",
        SketchedInfluence,
        {"sketch_size": 60, "factorized": False, "sketch": "nystrom"},
    ),
    "softmax, EK-FAC": ("softmax", KFACInfluence, {}),
    "softmax, sketched EK-FAC": ("softmax", KFACInfluence, {"sketch_size": 0.5}),
    "softmax, relative": ("softmax", RelativeHessianInfluence, {"subset_size": 150}),
    "softmax, head": ("softmax", ClassifierHeadInfluence, {"sketch_size": 130}),
    "binary, nystrom": ("binary", SketchedInfluence, {"sketch_size": 6}),
    "binary, relative": ("binary", RelativeHessianInfluence, {"subset_size": 100}),
    "network, landmarks": ("network", SketchedInfluence, {"sketch_size": 150, "curvature": "ggn"}),
    "network, K-FAC": ("network", KFACInfluence, {"eigenvalue_correction": False}),
    "network, relative": (
        "network",
        RelativeHessianInfluence,
        {"subset_size": 100, "curvature": "ggn"},
    ),
}
# Those that leave directions out, and those that refinement does not make exact: a head has no
# such parameter, and a projected gradient has other scores where an intercept has no ridge.
LEAVE_OUT = {"softmax, no tail", "softmax, random", "softmax, sketched EK-FAC"}
OTHERS = {"softmax, head", "softmax, projected queries"}
FULL = [name for name in APPROXIMATIONS if name not in LEAVE_OUT | OTHERS]


def fitted(request, name, **params):
    case, cls, settings = APPROXIMATIONS[name]
    case = request.getfixturevalue(case)
    return case, case.fit(cls, **{"random_state": 0, **settings, **params})


def largest(scores, *arrays):
    """Entries of arrays at the ten largest scores of every query."""
    index = np.argsort(-np.abs(scores), axis=1)[:, :10]
    return [np.take_along_axis(array, index, axis=1) for array in arrays]


# ---------------------------------------------------------------------------
# Bounds
# ---------------------------------------------------------------------------


def assert_held(scores, bounds, exact):
    """Every error is within its bound, up to rounding."""
    rounding = 1e-11 * np.abs(exact).max(axis=-1, keepdims=True)
    assert (np.abs(scores - exact) <= bounds + rounding).all()


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_bounds_hold_for_every_pair(request, name):
    case, influence = fitted(request, name)
    scores, bounds = influence.influence(*case.queries, return_error=True)
    assert bounds.shape == scores.shape
    assert_array_equal(scores, influence.influence(*case.queries))
    assert_held(scores, bounds, case.scores)
    for reduce in ("mean", "sum"):
        reduced, bound = influence.influence(*case.queries, reduce=reduce, return_error=True)
        assert bound.shape == reduced.shape
        assert_held(reduced, bound, case.exact.influence(*case.queries, reduce=reduce))


@pytest.mark.parametrize("name", FULL)
def test_bounds_of_refined_scores_hold_and_are_narrow(request, name):
    case, influence = fitted(request, name, refine=3)
    scores, bounds = influence.influence(*case.queries, return_error=True)
    assert_held(scores, bounds, case.scores)
    _, rough = fitted(request, name)[1].influence(*case.queries, return_error=True)
    assert np.median(bounds) < 0.3 * np.median(rough)


@pytest.mark.parametrize(
    ("name", "refine", "share"),
    [
        ("softmax, nystrom", 0, 0.6),
        ("softmax, nystrom", 3, 0.002),
        ("softmax, relative", 3, 0.01),
        ("binary, nystrom", 8, 0.005),
        ("network, landmarks", 0, 0.4),
        ("network, landmarks", 2, 0.005),
    ],
)
def test_bounds_are_narrow_enough_to_be_of_use(request, name, refine, share):
    """Half of the ten largest scores of all queries are known to within a share of them."""
    case, influence = fitted(request, name, refine=refine)
    _, bounds = influence.influence(*case.queries, return_error=True)
    size, width = largest(case.scores, np.abs(case.scores), bounds)
    assert np.median(width / size) < share


@pytest.mark.parametrize("solver", ["direct", "gram"])
def test_direct_solutions_have_no_error(binary, solver):
    exact = binary.fit(ExactInfluence, solver=solver)
    scores, bounds = exact.influence(*binary.queries, return_error=True)
    assert not bounds.any()
    assert_close(scores, binary.scores, 1e-9)


def test_iterated_solutions_have_the_bound_of_their_residual(binary):
    exact = binary.fit(ExactInfluence, solver="cg", random_state=0)
    scores, bounds = exact.influence(*binary.queries, return_error=True)
    assert 0 < bounds.max() < 1e-6 * np.abs(scores).max()


@pytest.mark.filterwarnings("ignore:The sketch is saturated")
def test_bounds_without_a_ridge():
    X, y, Xq, yq = split(*diabetes(), n_queries=20)
    model = frozen(LinearRegression(), X, y)
    exact = ExactInfluence(model).fit(X, y).influence(Xq, yq)
    sketched = SketchedInfluence(model, sketch_size=7, random_state=0).fit(X, y)
    assert_held(*sketched.influence(Xq, yq, return_error=True), exact)


def test_bounds_follow_their_formula(rng):
    """Dense references: between which multiples of M the inverse lies, and what follows."""
    H, G, r = spd(rng, 30), rng.standard_normal((40, 30)), rng.standard_normal((5, 30))
    M = np.linalg.inv(H + 0.3 * spd(rng, 30))
    ridge = DenseCurvature(np.arange(30)[None], np.linalg.inv(M)[None], np.zeros(30))
    certificate = Certificate(lambda v: v @ H, np.zeros(30), ridge, DenseRows(G))
    values = np.sort(np.linalg.eigvals(M @ H).real)
    lower, upper = certificate.interval(0.0)
    assert 0.8 * values[0] < lower < values[0] and values[-1] < upper < 1.2 * values[-1]
    centre, spread = (1 / lower + 1 / upper) / 2, (1 / lower - 1 / upper) / 2
    lengths = [np.sqrt(np.einsum("mp,pq,mq->m", v, M, v)) for v in (r, G)]
    expected = centre * np.abs(r @ M @ G.T) + spread * np.outer(*lengths)
    assert_close(certificate.bounds(r, 0.0), expected, 1e-10)
    assert (np.abs(r @ np.linalg.solve(H, G.T)) <= expected).all()


def test_an_indefinite_curvature_has_no_bound():
    none, unit = np.zeros(4), DenseRows(np.eye(4))
    flat = DenseCurvature(np.arange(4)[None], np.eye(4)[None], none)
    for matrix in (np.diag([3.0, 2.0, 1.0, -1.0]), np.zeros((4, 4))):
        certificate = Certificate(lambda v, m=matrix: v @ m, none, flat, unit)
        with pytest.warns(NumericalWarning, match="No lower bound"):
            assert np.isinf(certificate.bounds(np.ones((1, 4)), 0.0)).all()


# ---------------------------------------------------------------------------
# Refinement
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL)
def test_refinement_converges_to_the_exact_scores(request, name):
    errors = []
    for refine in (0, 3, 12):
        case, influence = fitted(request, name, refine=refine)
        scores = influence.influence(*case.queries)
        errors.append(np.linalg.norm(scores - case.scores) / np.linalg.norm(case.scores))
    assert errors[1] < 0.4 * errors[0] and errors[2] < 0.3 * errors[1]
    # Far below the curvature in some directions, K-FAC takes long.
    _, influence = fitted(request, name, refine=120 if "FAC" in name else 30)
    assert_close(influence.influence(*case.queries), case.scores, 1e-6)


@pytest.mark.parametrize("name", ["softmax, nystrom", "softmax, unfactored", "network, landmarks"])
def test_refined_scores_do_not_depend_on_the_memory(request, name):
    """Without the memory for sketched factor rows, each step projects and lifts vectors."""
    case, cls, settings = APPROXIMATIONS[name]
    case = request.getfixturevalue(case)
    # Few rows: with more factor rows than columns they would not be sketched either.
    few = case.X[:60], case.y[:60]
    model = frozen(clone(case.model.estimator), *few)
    influence = cls(model, refine=4, random_state=0, **settings).fit(*few)
    expected = influence.influence(*case.queries)
    with config_context(working_memory=0.05):
        found = influence.influence(*case.queries)
    assert (found != expected).any()
    assert_close(found, expected, 1e-9)


def test_a_fifth_of_the_numbers_and_three_steps(softmax):
    """What unfactored directions give at a fifth of the parameters."""
    sketched = softmax.fit(
        SketchedInfluence,
        sketch_size=130,
        sketch="nystrom",
        factorized=False,
        refine=3,
        random_state=0,
    )
    n = len(softmax.queries[1]) // 4
    scores, exact = sketched.influence(*(a[:n] for a in softmax.queries)), softmax.scores[:n]
    error = np.linalg.norm(scores - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.mean() < 1e-3


@pytest.mark.parametrize(("name", "eps"), [("softmax, nystrom", 0.02), ("binary, relative", 1e-3)])
def test_auto_meets_its_bound(request, name, eps):
    case, influence = fitted(request, name, refine="auto", eps=eps)
    scores, bounds = influence.influence(*case.queries, return_error=True)
    size, width = largest(scores, np.abs(scores), bounds)
    assert (width <= eps * size * (1 + 1e-6)).all()
    # It took no more steps than it needed.
    assert (width / size).max() > 1e-3 * eps
    # A query takes the same steps alone.
    alone = influence.influence(*(a[3:4] for a in case.queries))
    assert_close(alone, scores[3:4], 1e-5)


def test_auto_says_that_it_gave_up(binary, monkeypatch):
    monkeypatch.setattr("skinfluence.curvature._refined.MAX_REFINEMENTS", 1)
    influence = binary.fit(
        SketchedInfluence, sketch_size=6, refine="auto", eps=1e-9, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="refine='auto' stopped after 1 steps"):
        found = influence.influence(*binary.queries)
    assert_allclose(
        found,
        binary.fit(SketchedInfluence, sketch_size=6, refine=1, random_state=0).influence(
            *binary.queries
        ),
        rtol=1e-9,
    )


def test_what_is_refined_and_what_is_not(binary):
    sketched = binary.fit(SketchedInfluence, sketch_size=6, random_state=0)
    refined = binary.fit(SketchedInfluence, sketch_size=6, refine=40, random_state=0)
    exact, (Xq, yq) = binary.exact, binary.queries
    indices = exact.most_influential(Xq, yq, k=3)[0]
    assert_array_equal(refined.most_influential(Xq, yq, k=3)[0], indices)
    assert (sketched.most_influential(Xq, yq, k=3)[0] != indices).any()
    assert_close(refined.parameter_influence(), exact.parameter_influence(), 1e-6)
    for name in ("self_influence", "memorization"):
        assert_array_equal(getattr(refined, name)(), getattr(sketched, name)())
    assert_array_equal(refined.transform(Xq), sketched.transform(Xq))
    assert refined.effective_dimension_ == sketched.effective_dimension_
    assert refined.sketch_error().relative.max < 1e-5 < sketched.sketch_error().relative.max


def test_effects_of_leaving_rows_out_are_refined(softmax):
    """Without a part that is a sum over rows, K-FAC has effects of first order alone."""
    queries = [a[:5] for a in softmax.queries]
    expected = -softmax.scores[:5] / len(softmax.y)
    rough, refined = (
        softmax.fit(KFACInfluence, refine=refine).leave_one_out_effect(*queries)
        for refine in (0, 40)
    )
    assert_close(refined, expected, 0.1)
    assert np.linalg.norm(refined - expected) < 0.1 * np.linalg.norm(rough - expected)


def test_a_relative_check_is_of_the_subset(binary):
    rough = binary.fit(RelativeHessianInfluence, subset_size=100, random_state=0)
    refined = binary.fit(RelativeHessianInfluence, subset_size=100, refine=5, random_state=0)
    queries = [a[:5] for a in binary.queries]
    assert_close(refined.lep_check(*queries).rho, rough.lep_check(*queries).rho, 1e-12)


@pytest.mark.parametrize("name", sorted(LEAVE_OUT))
def test_what_leaves_directions_out_is_not_refined(request, name):
    with pytest.raises(ValueError, match="leaves some out"):
        fitted(request, name, refine=2)


def test_a_full_sketch_has_nothing_to_refine(binary):
    influence = binary.fit(SketchedInfluence, sketch="identity", refine="auto")
    scores, bounds = influence.influence(*binary.queries, return_error=True)
    assert_close(scores, binary.scores, 1e-12)
    assert not bounds.any()


def test_a_search_refines_its_candidates():
    X, y, Xq, yq = split(*cancer(), n_queries=30)
    search = SketchedInfluenceCV(
        logistic(C=1.0),
        sketch_sizes=[4],
        dampings=[0.0, 0.1],
        cv=2,
        scoring=InfluenceScorer("faithfulness"),
        refine=6,
        random_state=0,
    ).fit(X, y)
    rough = clone(search).set_params(refine=0).fit(X, y)
    assert search.best_score_ > rough.best_score_
    exact = ExactInfluence(search.estimator_, damping=search.damping_)
    exact = exact.set_params(estimator=frozen(logistic(C=1.0), X, y)).fit(X, y).influence(Xq, yq)
    scores, bounds = search.influence(Xq, yq, return_error=True)
    assert_held(scores, bounds, exact)
    assert_close(scores, exact, 0.02)


@pytest.mark.parametrize("name", ["network, landmarks", "softmax, random"])
def test_a_certified_fit_can_be_pickled(request, name):
    params = {"refine": "auto"} if name in FULL else {}
    case, influence = fitted(request, name, **params)
    queries = [a[:3] for a in case.queries]
    before = influence.influence(*queries, return_error=True)
    after = pickle.loads(pickle.dumps(influence)).influence(*queries, return_error=True)
    for found, expected in zip(after, before, strict=True):
        assert_array_equal(found, expected)


def test_bad_values_are_refused(binary):
    for params in ({"refine": -1}, {"refine": "often"}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=next(iter(params))):
            binary.fit(KFACInfluence, **params)


def test_networks_of_scikit_learn_are_refined():
    X, y, Xq, yq = split(*digits(3), n_queries=20, n_train=150)
    model = perceptron((8,), MLPClassifier, random_state=1)
    exact = ExactInfluence(model, curvature="ggn").fit(X, y).influence(Xq, yq)
    found = [
        SketchedInfluence(model, sketch_size=100, curvature="ggn", refine=k, random_state=0)
        .fit(X, y)
        .influence(Xq, yq)
        for k in (0, 3)
    ]
    errors = [np.linalg.norm(scores - exact) for scores in found]
    assert errors[1] < 0.1 * errors[0]
