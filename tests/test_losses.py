"""Losses and their derivatives against torch autograd, on both sides of every kink."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skinfluence.models import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional

RNG = np.random.default_rng(0)
# Margins and gaps on both sides of the kinks at -1, 1 and at 0.5, and some at random.
NEAR = np.array([-3.0, -1 - 1e-3, -1 + 1e-3, -0.5 - 1e-3, -0.5 + 1e-3, -1e-3, 1e-3,
                 0.5 - 1e-3, 0.5 + 1e-3, 1 - 1e-3, 1 + 1e-3, 2.5])  # fmt: skip


def scores(k):
    return np.concatenate([np.repeat(NEAR[:, None], k, axis=1), RNG.normal(size=(8, k))])


def weighted_signs(n, k):
    """Signs times weights, some of them 0."""
    return RNG.choice([-1.0, 1.0], (n, k)) * RNG.choice([0.0, 0.3, 1.0, 2.0], (n, k))


def of_margin(function):
    def loss(z, y):
        return (torch.abs(y) * function(torch.sign(y) * z)).sum(-1)

    return loss


def modified_huber(m):
    return torch.where(m >= -1, torch.clamp(1 - m, min=0) ** 2, -4 * m)


def softmax(z, y):
    return torch.logsumexp(z, -1) - (z * y).sum(-1)


def contrasted(z, y):
    basis = torch.tensor(losses.SoftmaxLoss(4).contrasts)
    return softmax(z @ basis.T, y)


def tube(z, y):
    return (torch.clamp(torch.abs(y - z) - 0.5, min=0) ** 2).sum(-1)


def fixed_huber(z, y):
    return F.huber_loss(z, y, reduction="none", delta=0.5).sum(-1)


def concomitant_huber(z, y):
    sigma = z[..., 1]
    # PyTorch's Huber loss is half of scikit-learn's.
    t = (y[..., 0] - z[..., 0]) / sigma
    return sigma + 2 * sigma * F.huber_loss(t, torch.zeros_like(t), reduction="none", delta=0.5)


def half_tweedie(power, log_link=True):
    """Half of the deviance as its definition has it, for any power and either link."""

    def loss(z, y):
        mu = torch.exp(z) if log_link else z
        if power == 0:
            return ((y - mu) ** 2 / 2).sum(-1)
        if power == 1:
            return (torch.xlogy(y, y) - y * torch.log(mu) - y + mu).sum(-1)
        if power == 2:
            return (torch.log(mu / y) + y / mu - 1).sum(-1)
        p = power
        own = torch.clamp(y, min=0) ** (2 - p) / ((1 - p) * (2 - p))
        return (own - y * mu ** (1 - p) / (1 - p) + mu ** (2 - p) / (2 - p)).sum(-1)

    return loss


def binary_case(loss, function, k=1):
    z = scores(k)
    return loss, of_margin(function), z, weighted_signs(*z.shape)


def gap_case(loss, function, k=2):
    z = scores(k)
    return loss, function, z, np.zeros_like(z)


def class_case(loss, function, k):
    z = RNG.normal(size=(20, k))
    return loss, function, z, np.eye(4)[RNG.integers(0, 4, 20)]


def scale_case():
    # Ratios on both sides of the kink at 0.5, and scales that are not 1.
    sigma = RNG.uniform(0.5, 2, len(NEAR))
    z = np.column_stack([NEAR * sigma, sigma])
    return losses.ConcomitantHuber(0.5), concomitant_huber, z, np.zeros((len(z), 1))


def mean_case(power, log_link=True):
    z = RNG.uniform(0.2, 1.5, (12, 2))
    y = RNG.uniform(0.1, 4.0, (12, 2))
    if 1 <= power < 2:
        y[::3] = 0.0
    if power <= 0:
        y[::3] *= -1
    return losses.HalfTweedieLoss(power, log_link), half_tweedie(power, log_link), z, y


CASES = {
    "logistic": binary_case(losses.LogisticLoss(), lambda m: F.softplus(-m)),
    "logistic of three": binary_case(losses.LogisticLoss(), lambda m: F.softplus(-m), 3),
    "several labels": binary_case(
        losses.MultilabelLoss(losses.LogisticLoss()), lambda m: F.softplus(-m), 3
    ),
    "pairs": binary_case(
        losses.PairwiseLoss(losses.SquaredHinge()), lambda m: torch.clamp(1 - m, min=0) ** 2, 3
    ),
    "squared hinge": binary_case(
        losses.SquaredHinge(), lambda m: torch.clamp(1 - m, min=0) ** 2, 2
    ),
    "modified huber": binary_case(losses.ModifiedHuber(), modified_huber, 2),
    "signed squares": binary_case(losses.SignedSquares(), lambda m: (1 - m) ** 2, 2),
    "softmax": class_case(losses.SoftmaxScores(4), softmax, 4),
    "contrasts": class_case(losses.SoftmaxLoss(4), contrasted, 3),
    "squares": gap_case(losses.SquaredLoss(0.5), lambda z, y: ((y - z) ** 2 / 2).sum(-1)),
    "tube": gap_case(losses.SquaredEpsilonInsensitive(0.5), tube),
    "fixed huber": gap_case(losses.FixedHuber(0.5), fixed_huber),
    "huber": scale_case(),
    **{f"tweedie {power}": mean_case(power) for power in (-1, 0, 1, 1.5, 2, 2.5, 3)},
    **{f"tweedie {power} identity": mean_case(power, False) for power in (-1, 0, 1.5, 3)},
}


def autograd(function, z, y):
    """Values (n,), gradients (n, k) and Hessians (n, k, k) of every sample."""
    z, y = torch.tensor(z), torch.tensor(y)
    rows = [(z[i : i + 1], y[i : i + 1]) for i in range(len(z))]
    values = function(z, y).numpy()
    gradient = [torch.func.grad(lambda t, y=y: function(t, y)[0])(t)[0].numpy() for t, y in rows]
    hessian = [
        torch.func.hessian(lambda t, y=y: function(t, y)[0])(t)[0, :, 0].numpy() for t, y in rows
    ]
    return values, np.array(gradient), np.array(hessian)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_their_derivatives_are_those_of_autograd(name):
    loss, function, z, y = CASES[name]
    value, gradient, hessian = autograd(function, z, y)
    assert_allclose(loss.value(z, y), value, rtol=1e-12, atol=1e-12)
    assert_allclose(loss.residual(z, y), gradient, rtol=1e-11, atol=1e-12)
    diagonal = np.einsum("nkk->nk", hessian)
    if loss.separable:
        assert_allclose(loss.hessian(z, y), diagonal, rtol=1e-11, atol=1e-12)
        assert_allclose(hessian, diagonal[:, :, None] * np.eye(z.shape[1]), atol=1e-14)
    else:
        assert_allclose(loss.hessian(z, y), hessian, rtol=1e-10, atol=1e-12)
    assert_allclose(loss.hessian_diagonal(z, y), diagonal, rtol=1e-11, atol=1e-12)
    vectors = RNG.normal(size=z.shape)
    product = np.einsum("nab,nb->na", hessian, vectors)
    assert_allclose(loss.hessian_product(z, y)(vectors), product, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_squared_residuals_are_in_the_metric_of_the_hessian(name):
    loss, _, z, y = CASES[name]
    residual, hessian = loss.residual(z, y), loss.hessian(z, y)
    if loss.separable:
        hessian = np.where(hessian > 0, hessian, 0)[:, :, None] * np.eye(z.shape[1])
    solved = [np.linalg.pinv(h) @ r for h, r in zip(hessian, residual, strict=True)]
    expected = np.einsum("nk,nk->n", residual, solved)
    assert_allclose(loss.squared_residual(z, y), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_terms_add_up_to_the_loss(name):
    loss, _, z, y = CASES[name]
    # Leading axes stand for several models.
    many = np.stack([z, 0.7 * z])
    terms = loss.terms(many, y)
    assert terms.shape in {(*many.shape[:2], 1), many.shape}
    assert_allclose(terms.sum(axis=-1), loss.value(many, y), rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_factors_of_the_hessian(name):
    loss, _, z, y = CASES[name]
    hessian = loss.hessian(z, y)
    if loss.separable:
        hessian = hessian[:, :, None] * np.eye(z.shape[1])
    if np.linalg.eigvalsh(hessian).min() < -1e-8:
        with pytest.raises(ValueError, match="negative curvature"):
            loss.hessian_factor(z, y)
        return
    factor = loss.hessian_factor(z, y)
    assert_allclose(np.einsum("nsa,nsb->nab", factor, factor), hessian, atol=1e-12)


def test_weights_in_the_targets_multiply_the_losses():
    z, y = scores(3), weighted_signs(20, 3)
    for loss in (losses.LogisticLoss(), losses.ModifiedHuber(), losses.SquaredHinge()):
        # Where the weight is 0 the sign does not matter.
        sign = np.where(y >= 0, 1.0, -1.0)
        assert_allclose(loss.terms(z, y), np.abs(y) * loss.terms(z, sign))
        assert_allclose(loss.residual(z, y), np.abs(y) * loss.residual(z, sign))
        assert_allclose(loss.hessian(z, y), np.abs(y) * loss.hessian(z, sign))


def test_targets_of_one_vs_rest():
    y, classes = np.array(["b", "a", "c"]), np.array(["a", "b", "c"])
    loss = losses.LogisticLoss()
    assert_array_equal(loss.encode(y, classes), [[-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    assert_array_equal(loss.encode(y[:2], classes[:2]), [[1], [-1]])
    pairs = losses.PairwiseLoss(loss, classes)
    assert_array_equal(pairs.encode(y, None), [[1, 0, -1], [-1, -1, 0], [0, 1, 1]])


def test_targets_of_several_labels():
    y = np.array([["no", "up"], ["yes", "down"]])
    loss = losses.MultilabelLoss(losses.LogisticLoss(), [np.unique(column) for column in y.T])
    assert_array_equal(loss.encode(y, None), [[-1, 1], [1, -1]])
    indicators = losses.MultilabelLoss(losses.LogisticLoss())
    assert_array_equal(indicators.encode([[0, 1], [1, 1]], None), [[-1, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"not fitted on: \['maybe'\]"):
        loss.encode(np.array([["maybe", "up"]]), None)


def test_the_scale_of_huber_is_positive():
    loss, outputs = losses.ConcomitantHuber(1.35), np.array([[0.0, -1.0]])
    assert loss.value(outputs, np.array([[1.0]])) == np.inf


# The domains of the deviances: power, a target outside, a target at the edge that is inside.
DOMAINS = [
    (1, "non-negative.*power 1 .Poisson.", -1.0, 0.0),
    (1.5, "non-negative.*power 1.5,", -1e-9, 0.0),
    (2, "positive.*power 2 .Gamma.", 0.0, 1e-9),
    (2.5, "positive.*power 2.5", -1.0, 1e-9),
    (3, "positive.*power 3 .inverse Gaussian.", 0.0, 1e-9),
]


@pytest.mark.parametrize("power, message, outside, inside", DOMAINS)
def test_targets_outside_of_the_domain_are_an_error(power, message, outside, inside):
    loss = losses.HalfTweedieLoss(power)
    with pytest.raises(ValueError, match=f"y must be {message}"):
        loss.encode([1.0, outside], None)
    assert_array_equal(loss.encode([1.0, inside], None), [[1.0], [inside]])


@pytest.mark.parametrize(
    "loss",
    [
        losses.HalfTweedieLoss(0),
        losses.HalfTweedieLoss(-1, log_link=False),
        losses.SquaredLoss(),
        losses.ConcomitantHuber(1.35),
        losses.SquaredEpsilonInsensitive(0.1),
    ],
)
def test_other_losses_take_all_real_targets(loss):
    assert_array_equal(loss.encode([-1.0, 0.0, 2.0], None), [[-1], [0], [2]])


@pytest.mark.parametrize("make", [losses.SoftmaxLoss, losses.SoftmaxScores])
def test_random_signs_of_a_softmax_have_its_hessian_as_their_mean(make, rng):
    loss, signs = make(4), np.array(list(product([-1.0, 1.0], repeat=4)))
    z = 3 * rng.standard_normal((1, 3 if make is losses.SoftmaxLoss else 4))
    rows = loss.sampled_factor(np.repeat(z, len(signs), axis=0), None, signs)[:, 0]
    assert_allclose(rows.T @ rows / len(signs), loss.hessian(z, None)[0], atol=1e-12)
    # Of a model that is sure, hardly a drawn label has a gradient: these rows all have one.
    sure = losses.SoftmaxScores(4).sampled_factor(np.tile([[9.0, 0, 0, 0]], (16, 1)), None, signs)
    lengths = (sure**2).sum(axis=(1, 2))
    assert lengths.min() > 0.5 * lengths.mean()
