"""A language model: one sample is a text, its outputs one number for each position and token."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from skinfluence import ExactInfluence, KFACInfluence
from skinfluence.diagnostics import token_influence
from skinfluence.models import objective
from skinfluence.models.torch import TorchModel
from skinfluence.rows import DenseRows, SharedRows, TokenRows
from tests.helpers import assert_close

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")

DAMPING = 0.05


class GPT(nn.Module):
    """A transformer of one block that predicts the next token at every position."""

    def __init__(self, n_tokens, length, width=4):
        super().__init__()
        self.words, self.places = nn.Embedding(n_tokens, width), nn.Embedding(length, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 6), nn.Linear(6, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_tokens)

    def forward(self, x):
        t = x.shape[1]
        h = self.words(x) + self.places(torch.arange(t))
        causal = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
        h = h + self.attention(h, h, h, attn_mask=causal, need_weights=False)[0]
        h = h + self.narrow(torch.tanh(self.wide(h)))
        return self.head(self.norm(h)).transpose(1, 2)


def problem(n_tokens=7, length=4, n=20, seed=0, width=4):
    rng = np.random.default_rng(seed)
    text = rng.integers(0, n_tokens, (n, length + 1))
    torch.manual_seed(seed)
    module = GPT(n_tokens, length, width).double().eval()
    return module, text[:, :-1], text[:, 1:]


def gradients(module, X, y):
    """Gradients (n, p) of the mean loss of the positions, by a loop."""
    parameters = list(module.parameters())
    rows = []
    for x, targets in zip(torch.as_tensor(X), torch.as_tensor(y), strict=True):
        loss = F.cross_entropy(module(x[None]), targets[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows).numpy()


def test_gradients_of_texts_are_those_of_a_loop(global_random_seed):
    module, X, y = problem(seed=global_random_seed)
    found = objective(TorchModel(module).fit(X, y), X, y, np.ones(len(X)))
    rows = found.training_gradient_rows()
    kinds = [type(block) for block in rows.blocks]
    assert kinds == [TokenRows] * 2 + [SharedRows] * 7 + [DenseRows] * 2
    assert_close(found.to_parameters(rows.toarray()), gradients(module, X, y), 1e-10)


def estimators(module):
    model = TorchModel(module, l2=0.01)
    return [
        KFACInfluence(model, fisher="sampled", damping=DAMPING, random_state=0),
        KFACInfluence(model, damping=DAMPING),
        ExactInfluence(model, curvature="ggn", damping=DAMPING),
    ]


def test_outputs_that_do_not_fit_are_made_again_and_give_the_same():
    module, X, y = problem(n=12)
    for influence in estimators(module):
        expected = influence.fit(X, y).influence(X[:5], y[:5])
        margins = influence.influence(X[:5])
        # The loss takes 10 KiB for all texts, and less than 1 for each.
        with config_context(working_memory=0.01):
            found = influence.fit(X, y).influence(X[:5], y[:5])
            again = influence.influence(X[:5])
        assert_close(found, expected, 1e-8)
        assert_close(again, margins, 1e-8)


def test_memory_has_no_place_for_all_outputs():
    # The outputs of 400 texts take 29 MiB, and each has 32 positions of 300 tokens. What is taken
    # together, at least 8 MiB, is the same for any number of texts.
    module, X, y = problem(300, 32, n=400)
    model = TorchModel(module.float(), l2=0.01, batch_size=10)
    # What torch imports when it is first used is no memory of the fit.
    KFACInfluence(model, fisher="sampled", damping=DAMPING).fit(X[:2], y[:2])
    with config_context(working_memory=1):
        influence = KFACInfluence(model, fisher="sampled", damping=DAMPING, random_state=0)
        tracemalloc.start()
        try:
            influence.fit(X, y).influence(X[:10], y[:10])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 * 2**20
        with pytest.raises(ValueError, match=r"each of the 9600 outputs.*fisher='sampled'"):
            KFACInfluence(model, damping=DAMPING).fit(X, y)


def test_products_with_the_gauss_newton_matrix_need_no_factor_rows(
    monkeypatch, global_random_seed
):
    module, X, y = problem(seed=global_random_seed)
    found = objective(TorchModel(module, l2=0.01).fit(X, y), X, y, np.arange(1.0, 21.0))
    vectors = np.random.default_rng(global_random_seed).standard_normal((3, len(found.theta)))
    expected = found.curvature_product("ggn")(vectors)
    monkeypatch.setattr("skinfluence.models.network_objective.MANY_OUTPUTS", 1)
    assert_close(found.curvature_product("ggn")(vectors), expected, 1e-10)


def test_a_large_vocabulary_has_no_matrix_of_its_tokens(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 7, (30, 4)), rng.integers(0, 7, 30)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 7)).double()

    def scores():
        influence = ExactInfluence(TorchModel(module), curvature="ggn", damping=DAMPING)
        influence.fit(X, y)
        return np.stack([influence.influence(X, y), influence.influence(X)])

    expected = scores()
    monkeypatch.setattr("skinfluence.models.torch._criteria.MAX_DENSE_CLASSES", 5)
    assert_close(scores(), expected, 1e-9)
    # A function of so many outputs has no second derivative that fits.
    model = TorchModel(module, loss=lambda z, y: F.cross_entropy(z, y, reduction="none"))
    with (
        config_context(working_memory=1e-4),
        pytest.raises(ValueError, match="7 times 7 numbers.*CrossEntropyLoss"),
    ):
        KFACInfluence(model, fisher="sampled", damping=DAMPING).fit(X, y)


def test_a_measurement_of_chosen_tokens(global_random_seed):
    module, X, y = problem(seed=global_random_seed)
    n_tokens, length = 7, 4

    def asked(z):
        # The token 3 over the token 5 at the last position.
        scores = z.reshape(len(z), n_tokens, length)[:, :, -1]
        return scores[:, 3] - scores[:, 5]

    model = TorchModel(module, measurement=asked)
    influence = ExactInfluence(model, curvature="ggn", damping=DAMPING).fit(X, y)
    parameters = list(module.parameters())
    rows = []
    for x in torch.as_tensor(X[:3]):
        scores = module(x[None])[0, :, -1]
        found = torch.autograd.grad(scores[3] - scores[5], parameters)
        rows.append(torch.cat([g.flatten() for g in found]))
    expected = torch.stack(rows).numpy() @ influence.parameter_influence().T
    assert_close(influence.influence(X[:3]), expected, 1e-9)
    # A class alone does not say at which position.
    influence = ExactInfluence(TorchModel(module, measurement=3), curvature="ggn", damping=DAMPING)
    with pytest.raises(ValueError, match="at 4 positions. Give a function"):
        influence.fit(X, y).influence(X[:3])


@pytest.mark.parametrize("ignored", [False, True])
def test_influence_of_tokens_adds_up_to_that_of_their_text(ignored, global_random_seed):
    module, X, y = problem(seed=global_random_seed)
    if ignored:
        y = np.where(np.random.default_rng(0).random(y.shape) < 0.3, -100, y)
        y[:, 0] = 1
    chosen = [5, 0, 11]
    for influence in estimators(module):
        influence.fit(X, y)
        for targets in (y[:6], None):
            found = token_influence(influence, X[:6], targets, chosen)
            assert found.shape == (6, 3, 4)
            expected = influence.influence(X[:6], targets)[:, chosen]
            assert_close(found.sum(axis=2), expected, 1e-10)
            assert not found[:, y[chosen] == -100].any()
    # Each token alone, as if the others were ignored; the loss is a mean over those that count.
    parameters, text = list(module.parameters()), torch.as_tensor(X[:1])
    exact = estimators(module)[2].fit(X, y)
    for j in np.flatnonzero(y[0] != -100):
        alone = np.full((1, 4), -100)
        alone[0, j] = y[0, j]
        loss = F.cross_entropy(module(text), torch.as_tensor(alone)) / (y[0] != -100).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        found = token_influence(exact, X[:6], y[:6], [0])[:, 0, j]
        assert_close(found, inverse_products(exact, X[:6], y[:6]) @ gradient.numpy(), 1e-9)


def inverse_products(influence, X, y):
    """``-H^{-1} g`` of queries, in the module's layout, (n_queries, n_params)."""
    fit = influence.linearisation_
    queries = fit.query_rows(fit.read(X), y)
    return -fit.objective.to_parameters(fit.space.lift(fit.solve(queries).toarray()))


def test_a_row_with_one_target_has_one_term():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)), rng.integers(0, 3, 30)
    influence = ExactInfluence(LogisticRegression(C=0.1)).fit(X, y)
    found = token_influence(influence, X[:4], y[:4])
    assert found.shape == (4, 30, 1)
    assert_close(found[:, :, 0], influence.influence(X[:4], y[:4]), 1e-10)


def test_damping_of_a_language_model_needs_no_factor_rows(monkeypatch):
    module, X, y = problem(n=30)
    model = TorchModel(module, l2=0.01)

    def found():
        influence = KFACInfluence(model, fisher="sampled", random_state=0).fit(X, y)
        return influence.damping_, influence.linearisation_.objective.mean_eigenvalue("ggn")

    expected, mean = found()
    monkeypatch.setattr("skinfluence.models.network_objective.MANY_OUTPUTS", 1)
    damping, estimate = found()
    assert damping == pytest.approx(expected)
    # From one drawn row for each text.
    assert estimate == pytest.approx(mean, rel=0.2)
