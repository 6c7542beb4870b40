"""Values of losses against formulas of others, their derivatives against finite differences."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax
from sklearn.metrics import mean_tweedie_deviance

from skinfluence.models import losses

N = 25
STEP = 1e-6


def labels(rng, n_classes):
    return np.resize(np.arange(n_classes), N), np.arange(n_classes)


def signed(rng):
    y, classes = labels(rng, 2)
    # Margins on both sides of -1, 0 and 1.
    return rng.uniform(-3, 3, (N, 1)), y, classes


def margins(z, y):
    return (2 * y - 1) * z[:, 0]


def real(rng):
    return rng.uniform(-3, 3, (N, 1)), rng.uniform(-3, 3, N), None


def positive(rng):
    return rng.uniform(-1, 1, (N, 1)), rng.uniform(0.2, 3, N), None


def counts(rng):
    return rng.uniform(-1, 1, (N, 1)), rng.poisson(1.0, N) * 1.0, None


def with_scale(rng):
    return rng.uniform(0.5, 2, (N, 2)), rng.uniform(-3, 3, N), None


def of_classes(n_outputs):
    def draw(rng):
        return rng.standard_normal((N, n_outputs)), *labels(rng, 3)

    return draw


def modified_huber(m):
    return np.where(m >= -1, np.maximum(0, 1 - m) ** 2, -4 * m)


def huber(t, epsilon):
    return np.where(np.abs(t) < epsilon, t**2 / 2, epsilon * np.abs(t) - epsilon**2 / 2)


def deviance(power):
    def value(z, y):
        pairs = zip(y, np.exp(z[:, 0]), strict=True)
        return [mean_tweedie_deviance([a], [mu], power=power) / 2 for a, mu in pairs]

    return value


def log_softmax(z, y):
    return -np.log(softmax(z, axis=1)[np.arange(N), y])


# name: (loss, outputs and targets and classes, its value by other means)
CASES = {
    "logistic": (losses.LogisticLoss(), signed, lambda z, y: -np.log(expit(margins(z, y)))),
    "squared hinge": (
        losses.SquaredHinge(), signed, lambda z, y: np.maximum(0, 1 - margins(z, y)) ** 2,
    ),
    "modified huber": (
        losses.ModifiedHuber(), signed, lambda z, y: modified_huber(margins(z, y)),
    ),
    "signed squares": (
        losses.SignedSquares(), signed, lambda z, y: (2 * y - 1 - z[:, 0]) ** 2,
    ),
    "softmax": (losses.SoftmaxScores(3), of_classes(3), log_softmax),
    "contrasts": (
        losses.SoftmaxLoss(3), of_classes(2),
        lambda z, y: log_softmax(z @ losses.SoftmaxLoss(3).contrasts.T, y),
    ),
    "squares": (losses.SquaredLoss(0.5), real, lambda z, y: (y - z[:, 0]) ** 2 / 2),
    "tube": (
        losses.SquaredEpsilonInsensitive(0.7), real,
        lambda z, y: np.maximum(0, np.abs(y - z[:, 0]) - 0.7) ** 2,
    ),
    "huber": (losses.FixedHuber(0.8), real, lambda z, y: huber(y - z[:, 0], 0.8)),
    "concomitant huber": (
        losses.ConcomitantHuber(1.35), with_scale,
        lambda z, y: z[:, 1] * (1 + 2 * huber((y - z[:, 0]) / z[:, 1], 1.35)),
    ),
    "tweedie 0": (losses.HalfTweedieLoss(0), real, deviance(0)),
    "tweedie 0, identity": (
        losses.HalfTweedieLoss(0, log_link=False), real, lambda z, y: (y - z[:, 0]) ** 2 / 2,
    ),
    "poisson": (losses.HalfTweedieLoss(1), counts, deviance(1)),
    "tweedie 1.5": (losses.HalfTweedieLoss(1.5), counts, deviance(1.5)),
    "gamma": (losses.HalfTweedieLoss(2), positive, deviance(2)),
    "tweedie 3": (losses.HalfTweedieLoss(3), positive, deviance(3)),
}  # fmt: skip


def central(function, z, k):
    """Derivative with respect to output ``k`` of every sample."""
    shift = STEP * np.eye(z.shape[1])[k]
    return (function(z + shift) - function(z - shift)) / (2 * STEP)


@pytest.mark.parametrize("name", CASES)
def test_value_is_that_of_its_formula(name, rng):
    loss, draw, formula = CASES[name]
    z, y, classes = draw(rng)
    assert_allclose(loss.value(z, loss.encode(y, classes)), formula(z, y), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_finite_differences(name, rng):
    loss, draw, _ = CASES[name]
    z, y, classes = draw(rng)
    targets = loss.encode(y, classes)
    residual, hessian = loss.residual(z, targets), loss.hessian(z, targets)
    if loss.separable:
        hessian = hessian[:, :, None] * np.eye(z.shape[1])
    for k in range(z.shape[1]):
        slope = central(lambda z: loss.value(z, targets), z, k)
        assert_allclose(residual[:, k], slope, rtol=1e-6, atol=1e-8)
        bend = central(lambda z: loss.residual(z, targets), z, k)
        assert_allclose(hessian[:, :, k], bend, rtol=1e-6, atol=1e-8)


def test_every_loss_is_compared():
    known = {
        thing
        for thing in vars(losses).values()
        if isinstance(thing, type) and issubclass(thing, losses.Loss) and thing.__name__[0] != "_"
    }
    abstract = {losses.Loss, losses.ClassificationLoss, losses.OneVsRest, losses.RegressionLoss}
    # Made of the others, which tests of their own compare.
    composed = {losses.DelegatedLoss, losses.MultilabelLoss, losses.PairwiseLoss}
    rest = known - abstract - composed
    assert rest == {type(loss) for loss, *_ in CASES.values()}
