"""Data outside of a model's domain get one clear error."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn import linear_model as lm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.fixes import parse_version

from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    MemorizationSelector,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.metrics import retrain_on_subsets

ESTIMATORS = [
    ExactInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
    KFACInfluence,
    ClassifierHeadInfluence,
    RelativeHessianInfluence,
]
NC = {"solver": "newton-cholesky", "tol": 1e-10}


def numbers(n_samples=40):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, 3))
    return X, X[:, 0] + 0.3 * rng.standard_normal(n_samples)


# ---------------------------------------------------------------------------
# Targets of queries
# ---------------------------------------------------------------------------

POSITIVE = {
    "poisson": (lm.PoissonRegressor(**NC), -1.0, 0.0, "non-negative.*Poisson"),
    "tweedie 1.5": (lm.TweedieRegressor(power=1.5, **NC), -1.0, 0.0, "non-negative.*power 1.5"),
    "gamma": (lm.GammaRegressor(**NC), 0.0, 1e-3, "positive.*Gamma"),
    "gamma, negative": (lm.GammaRegressor(**NC), -1.0, 1e-3, "positive.*Gamma"),
    "tweedie 3": (
        lm.TweedieRegressor(power=3, tol=1e-9, max_iter=10_000),
        0.0,
        1e-3,
        "positive.*inverse Gaussian",
    ),
}
CALLS = ["influence", "leave_one_out_effect", "transform", "most_influential", "score"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", POSITIVE)
def test_targets_of_queries_outside_of_the_domain(name, call):
    model, outside, inside, message = POSITIVE[name]
    X, y = numbers()
    influence = ExactInfluence(model).fit(X, np.exp(y))
    with pytest.raises(ValueError, match=f"y must be {message}.*{outside:g} among 1 such target"):
        getattr(influence, call)(X[:2], [1.0, outside])
    assert np.isfinite(influence.leave_one_out_effect(X[:2], [1.0, inside])).all()


def test_targets_of_refits_outside_of_the_domain():
    X, y = numbers()
    with pytest.raises(ValueError, match="y must be non-negative"):
        retrain_on_subsets(lm.PoissonRegressor(**NC), X, np.exp(y), X[:1], [-1.0], n_subsets=1)


@pytest.mark.skipif(
    "loss" not in MLPRegressor().get_params(),
    reason="MLPRegressor has the squared error alone",
)
def test_a_perceptron_of_counts_takes_no_negative_ones():
    X, y = numbers()
    model = MLPRegressor(
        hidden_layer_sizes=(2,), loss="poisson", solver="lbfgs", max_iter=5000, random_state=0
    )
    influence = ExactInfluence(model, curvature="ggn", damping=0.1).fit(X, np.exp(y))
    with pytest.raises(ValueError, match="y must be non-negative.*Poisson"):
        influence.influence(X[:1], [-1.0])


@pytest.mark.parametrize(
    "model", [lm.HuberRegressor(), lm.Ridge(), lm.TweedieRegressor(power=0, **NC)]
)
def test_other_regressions_take_all_real_targets(model):
    X, y = numbers()
    influence = ExactInfluence(model).fit(X, y)
    found = influence.leave_one_out_effect(X[:3], [-1.0, 0.0, 1.0])
    assert np.isfinite(found).all()


# ---------------------------------------------------------------------------
# Fits that have nothing to tell
# ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_no_active_weight_and_no_intercept(cls):
    model = lm.Lasso(1e6, fit_intercept=False)
    params = {"dampings": [1.0]} if cls is SketchedInfluenceCV else {}
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="keeps all weights at 0"):
        cls(model, **params).fit(*numbers())


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
def test_an_intercept_alone_is_the_mean():
    X, y = numbers()
    influence = ExactInfluence(lm.Lasso(1e6), damping=0).fit(X, y)
    assert influence.n_components_ == 1
    # Without row i the mean is the one of the others.
    without = (y.sum() - y) / (len(y) - 1)
    expected = ((y[:, None] - without) ** 2 - (y[:, None] - y.mean()) ** 2) / 2
    assert_allclose(influence.leave_one_out_effect(X, y), expected, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*L1 penalty:UserWarning")
def test_no_active_weight_of_a_penalised_intercept():
    X, y = numbers()
    model = lm.LogisticRegression(solver="liblinear", l1_ratio=1.0, C=1e-6)
    if parse_version(sklearn.__version__) < parse_version("1.8"):
        model = lm.LogisticRegression(solver="liblinear", penalty="l1", C=1e-6)
    with pytest.raises(ValueError, match="no intercept is left"):
        ExactInfluence(model).fit(X, y > 0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cls", [ExactInfluence, SketchedInfluence])
def test_counts_that_are_all_zero(cls):
    X, y = numbers()
    with pytest.raises(ValueError, match="parameters of PoissonRegressor are NaN or infinite"):
        cls(lm.PoissonRegressor()).fit(X, np.zeros(len(y)))


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("model", [lm.Ridge(), make_pipeline("passthrough", lm.Ridge())])
def test_one_row_is_not_enough(cls, model):
    with pytest.raises(ValueError, match="Found 1 sample.*at least 2"):
        cls(model).fit(*numbers(1))


def test_two_rows_are_enough():
    X, y = numbers(2)
    influence = ExactInfluence(lm.Ridge()).fit(X, y)
    expected = [
        [(y[j] - clone(lm.Ridge()).fit(X[[1 - i]], y[[1 - i]]).predict(X[[j]])[0]) ** 2
         for i in (0, 1)] for j in (0, 1)
    ]  # fmt: skip
    before = (y - influence.estimator_.predict(X)) ** 2
    found = influence.leave_one_out_effect(X, y)
    assert_allclose(found, expected - before[:, None], rtol=1e-8)


# ---------------------------------------------------------------------------
# What is wrapped
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize(
    "model, message",
    [
        (None, "estimator is None. Expected an estimator"),
        ("ridge", "estimator is 'ridge'. Expected an estimator"),
        (3, "estimator is 3. Expected"),
        (lm.Ridge, r"estimator is the class Ridge. Expected an instance: Ridge\(\)"),
    ],
)
def test_what_is_no_estimator(cls, model, message):
    with pytest.raises(TypeError, match=message):
        cls(model).fit(*numbers())


def test_a_selector_of_what_is_no_estimator():
    with pytest.raises(TypeError, match="estimator is None. Expected"):
        MemorizationSelector(ExactInfluence(None)).fit(*numbers())


# ---------------------------------------------------------------------------
# Features whose squares overflow
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_features_whose_squares_overflow(cls):
    X, y = numbers()
    with pytest.raises(ValueError, match="X holds values as large as .*e.300, and their squares"):
        cls(lm.Ridge()).fit(1e300 * X, y)
    if cls is not SketchedInfluenceCV:
        influence = cls(lm.Ridge()).fit(X, y)
        with pytest.raises(ValueError, match="X holds values as large as"):
            influence.influence(-1e300 * np.abs(X), y)


def test_features_that_a_step_makes_too_large():
    X, y = numbers()
    huge = make_pipeline(FunctionTransformer(lambda X: 1e160 * X), Unmoved())
    with pytest.raises(ValueError, match="X holds values as large as"):
        ExactInfluence(huge).fit(X, y)


class Unmoved(lm.Ridge):
    """A model that fits whatever it is given."""

    def fit(self, X, y):
        self.coef_, self.intercept_ = np.ones(X.shape[1]), 0.0
        return self


def test_a_transformer_of_targets_that_leaves_its_domain():
    X, y = numbers()
    model = TransformedTargetRegressor(lm.Ridge(), func=np.sqrt, inverse_func=np.square)
    influence = ExactInfluence(model).fit(X, np.exp(y))
    for call in ("influence", "leave_one_out_effect"):
        with pytest.raises(ValueError, match="gives NaN or infinity for some targets: y, from -4"):
            getattr(influence, call)(X[:2], [1.0, -4.0])
    with pytest.raises(ValueError, match="y is None"):
        influence.leave_one_out_effect(X[:2], None)
