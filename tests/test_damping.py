"""The damping that a network's own training tells."""

import warnings

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.curvature import spectral_measure
from skinfluence.metrics import linear_datamodeling_score
from skinfluence.models import objective
from skinfluence.models.losses import SoftmaxScores
from tests.helpers import digits

# Networks that are trained for a while, not to their minimum, are what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ESTIMATORS = {
    "exact": lambda model, **params: ExactInfluence(model, curvature="ggn", **params),
    "sketch": lambda model, **params: SketchedInfluence(
        model, curvature="ggn", sketch_size=60, random_state=0, **params
    ),
    "relative": lambda model, **params: RelativeHessianInfluence(
        model, curvature="ggn", subset_size=0.5, random_state=0, **params
    ),
    "head": ClassifierHeadInfluence,
    "kfac": lambda model, **params: KFACInfluence(model, eigenvalue_correction=False, **params),
    "ekfac": KFACInfluence,
    "sketched ekfac": lambda model, **params: KFACInfluence(model, sketch_size=0.5, **params),
    "fisher": lambda model, **params: ExactInfluence(
        model, curvature="empirical_fisher", **params
    ),
}


def trained(max_iter=100, n=150, cls=MLPClassifier, **params):
    """A perceptron that was trained for some epochs, and its rows."""
    X, y = (array[:n] for array in digits())
    model = cls((12,), max_iter=max_iter, random_state=0, **params)
    return FrozenEstimator(model.fit(X, y)), X, y


def damping_of(name, model, X, y, **params):
    return ESTIMATORS[name](model).fit(X, y, **params).damping_


def dense_damping(full):
    """``1 / T`` with ``||H exp(-T H) theta||`` equal to the norm of the gradient, in full."""
    rows = full.factor_rows("ggn").toarray()
    values, vectors = np.linalg.eigh(rows.T @ rows + np.diag(full.l2_penalty))
    along = vectors.T @ full.theta
    gradient = full.training_gradient_rows().toarray().mean(axis=0)
    left = np.linalg.norm(gradient + full.l2_penalty * full.theta)
    return brentq(
        lambda d: np.linalg.norm(values * np.exp(-values / d) * along) - left,
        1e-6 * values[-1],
        values[-1],
    )


@pytest.mark.parametrize("max_iter", [200, 400])
def test_damping_is_the_inverse_time_of_training(max_iter):
    model, X, y = trained(max_iter, alpha=0.1)
    influence = ESTIMATORS["exact"](model).fit(X, y)
    expected = dense_damping(influence.linearisation_.objective.original)
    assert influence.damping_ == pytest.approx(expected, rel=1e-3)


def test_longer_training_asks_for_less_damping():
    found = [damping_of("exact", *trained(max_iter)) for max_iter in (100, 200, 800)]
    assert found[0] > 2 * found[1] > 4 * found[2] > 0


def test_gauss_quadrature_is_exact_for_polynomials(rng):
    matrix = rng.standard_normal((30, 9))
    matrix, vector = matrix.T @ matrix, rng.standard_normal(9)
    values, weights = spectral_measure(lambda v: v @ matrix, vector, 4)
    assert len(values) == 4
    for power in range(8):
        expected = vector @ np.linalg.matrix_power(matrix, power) @ vector
        assert weights @ values**power == pytest.approx(expected, rel=1e-10)
    # A vector in an invariant subspace ends the iteration.
    own = np.linalg.eigh(matrix)[1][:, 0]
    assert len(spectral_measure(lambda v: v @ matrix, own, 4)[0]) == 1
    assert spectral_measure(lambda v: v @ matrix, 0 * own, 4)[1].sum() == 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_same_rows_give_the_same_damping(name):
    model, X, y = trained()
    found = damping_of(name, model, X, y)
    assert found > 0
    assert damping_of(name, model, X, y) == found


@pytest.mark.parametrize("name", ["exact", "head", "fisher", "ekfac"])
def test_order_and_weights_of_rows_do_not_matter(name):
    # Without a penalty, which Adam divides by the size of its batches.
    model, X, y = trained(alpha=0.0)
    order = np.random.default_rng(0).permutation(len(X))
    found = damping_of(name, model, X, y)
    # The random signs of Kronecker factors follow the order: one step of the grid is allowed.
    step = 10**0.25 if name == "ekfac" else 1.0
    for other in (X[order], y[order]), (np.repeat(X, 2, axis=0), np.repeat(y, 2)):
        ratio = damping_of(name, model, *other) / found
        assert 1 / step - 1e-6 < ratio < step + 1e-6


@pytest.mark.parametrize("name", ["exact", "sketch", "fisher", "kfac", "ekfac"])
def test_damping_has_the_unit_of_the_loss(name):
    class NineTimes(SoftmaxScores):
        """The same loss in a ninth of its unit."""

        def value(self, z, y):
            return 9 * super().value(z, y)

        def residual(self, z, y):
            return 9 * super().residual(z, y)

        def hessian(self, z, y):
            return 9 * super().hessian(z, y)

        def hessian_factor(self, z, y):
            return 3 * super().hessian_factor(z, y)

    class Perceptron(MLPClassifier):
        pass

    @objective.register(Perceptron)
    def _(model, X, y, sample_weight):
        found = objective.dispatch(MLPClassifier)(model, X, y, sample_weight)
        found.loss = NineTimes(10)
        found.penalty = 9 * found.penalty
        return found

    model, X, y = trained()
    other = Perceptron(**model.estimator.get_params())
    vars(other).update(vars(model.estimator))
    found = damping_of(name, model, X, y)
    # The empirical Fisher is a square of gradients.
    unit = 81 if name == "fisher" else 9
    assert damping_of(name, FrozenEstimator(other), X, y) == pytest.approx(unit * found, rel=1e-6)


def test_matched_damping_agrees_best_with_the_full_curvature():
    model, X, y = trained(300, n=200)
    full = ExactInfluence(model, curvature="ggn").fit(X, y)
    scores = full.influence(X, y)

    def agreement(damping):
        approximate = KFACInfluence(model, damping=damping).fit(X, y).influence(X, y)
        pairs = zip(approximate, scores, strict=True)
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])

    own = KFACInfluence(model).fit(X, y).damping_
    assert own < 0.6 * full.damping_
    best = max(agreement(full.damping_ * 10.0**power) for power in np.arange(-3, 1.1, 0.5))
    assert agreement(own) > best - 0.02
    assert agreement(own) > agreement(full.damping_)


def test_layers_are_described_at_the_damping_that_was_found():
    model, X, y = trained()
    found = KFACInfluence(model).fit(X, y)
    given = KFACInfluence(model, damping=found.damping_).fit(X, y)
    for one, other in zip(found.layers_, given.layers_, strict=True):
        assert one == other
    sketched = KFACInfluence(model, sketch_size=(5, 4)).fit(X, y)
    assert [report.sketch_shape for report in sketched.layers_] == [(4, 5), (4, 5)]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("n", [4, 8])
def test_few_rows(name, n):
    X, y = digits()
    rows = np.concatenate([np.flatnonzero(y == label)[: n // 2] for label in (0, 1)])
    model = MLPClassifier((3,), max_iter=5, random_state=0).fit(X[rows], y[rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        influence = ESTIMATORS[name](FrozenEstimator(model)).fit(X[rows], y[rows])
    assert influence.damping_ > 0
    assert np.isfinite(influence.influence(X[:3], np.array([0, 1, 0]))).all()


def test_a_network_of_zeros_has_a_damping():
    model, X, y = trained(5)
    for weight in (*model.estimator.coefs_, *model.estimator.intercepts_):
        weight[:] = 0.0
    for name in ("exact", "ekfac"):
        assert damping_of(name, model, X, y) > 0


def test_of_many_rows_some_stand_for_all(monkeypatch):
    model, X, y = trained(n=600)
    every = damping_of("exact", model, X, y)
    monkeypatch.setattr("skinfluence.estimators._damping.MAX_ROWS", 300)
    some = damping_of("exact", model, X, y)
    assert some != every
    assert some == pytest.approx(every, rel=0.3)
    assert damping_of("ekfac", model, X, y) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", "sketch", "kfac", "ekfac"])
def test_linear_datamodeling_score_is_near_the_best_of_a_grid(name):
    X, y = (array[:900] for array in digits())
    (X, queries), (y, labels) = np.split(X, [600]), np.split(y, [600])
    model = MLPClassifier((16,), max_iter=200, random_state=0)
    frozen = FrozenEstimator(model.fit(X, y))
    rng = np.random.default_rng(0)
    subsets = np.array([rng.permutation(len(X)) < len(X) // 2 for _ in range(40)])
    losses = np.zeros((len(labels), len(subsets)))
    for seed in (1, 2):
        for column, kept in zip(losses.T, subsets, strict=True):
            other = MLPClassifier((16,), max_iter=200, random_state=seed).fit(X[kept], y[kept])
            column -= other.predict_log_proba(queries)[np.arange(len(labels)), labels] / 2

    def lds(**params):
        scores = ESTIMATORS[name](frozen, **params).fit(X, y).influence(queries, labels)
        return linear_datamodeling_score(scores, subsets, losses).mean()

    found = damping_of(name, frozen, X, y)
    best = max(lds(damping=found * 10.0**power) for power in np.arange(-2, 2.1, 0.5))
    assert lds() > best - 0.015


def test_refined_kronecker_factors_have_the_damping_of_the_full_curvature():
    model, X, y = trained()
    full, matched = damping_of("exact", model, X, y), damping_of("ekfac", model, X, y)
    refined = KFACInfluence(model, refine=1).fit(X, y).damping_
    assert refined == pytest.approx(full) and matched != pytest.approx(full, rel=0.1)
