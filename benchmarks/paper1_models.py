"""The models of `benchmarks.paper1`, and the losses of their refits on halves of the rows.

Softmax regressions are refitted to a relative gradient of 1e-8. A network is trained again from
the same untrained module with the same order of batches, so that refits differ by their rows
alone. Refits are stored in ``.cache/paper1``.
"""

import string
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn import functional as F

from benchmarks.lds import fitted, mnist
from skinfluence.metrics import retrain_on_subsets
from skinfluence.models import objective
from skinfluence.models.torch import TorchModel

REFITS = Path(__file__).parents[1] / ".cache" / "paper1"
N_QUERIES = 200
WEIGHT_DECAY = 1e-3

# A sequence is as many characters, and each of them is asked for the next one.
LENGTH = 32
ALPHABET = string.printable
MODULES = ("argparse", "ast", "configparser", "datetime", "difflib", "inspect", "logging/__init__")
MODULES += ("mailbox", "pathlib", "pickle", "statistics", "subprocess", "tarfile", "textwrap")
MODULES += ("threading", "typing", "unittest/mock", "zipfile")


@dataclass
class Refitted:
    """A fitted model, its training rows and queries, and the losses of its refits on halves.

    ``subsets`` (n_subsets, n_train), ``losses`` (n_queries, n_subsets).
    """

    model: FrozenEstimator
    train: tuple
    queries: tuple
    subsets: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, model, train, queries, n_subsets):
        """Fit a model and refit it on halves of its rows."""
        model = FrozenEstimator(model.fit(*train))
        settings = {"n_subsets": n_subsets, "random_state": 0, "memory": str(REFITS)}
        refits = retrain_on_subsets(model, *train, *queries, **settings)
        return cls(model, train, queries, refits.subsets, refits.losses)

    @cached_property
    def objective(self):
        """The objective of the fitted model."""
        return objective(self.model.estimator, *self.train, np.ones(len(self.train[0])))

    def gradients(self):
        """Gradients of the losses of the training rows and of the queries, as arrays."""
        X, y = self.queries
        rows = self.objective.training_gradient_rows()
        return rows.toarray(), self.objective.gradient_rows(X, self.objective.encode(y)).toarray()

    def hessian(self):
        """Hessian of the mean loss, without the penalty, (p, p)."""
        index, blocks = self.objective.hessian("hessian")
        full = np.zeros((index.size, index.size))
        for place, block in zip(index, blocks, strict=True):
            full[np.ix_(place, place)] = block
        return full


def softmax(name, C):
    """A softmax regression, on the refits of `benchmarks.lds`."""
    frozen, train, queries, refit = fitted(name, C)
    refits = refit(share=0.5)
    return Refitted(frozen, train, queries, refits.subsets, refits.losses)


# ---------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------


def train_network(module, X, y, optimiser, loss, epochs, batch):
    """Minimise the mean loss and the weight decay, with a falling step."""
    generator = torch.Generator().manual_seed(0)
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    steps = len(X) // batch
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(X), generator=generator)
        for rows in order[: batch * steps].split(batch):
            optimiser.zero_grad()
            loss(module(X[rows]), y[rows]).mean().backward()
            optimiser.step()
            schedule.step()


def train_classifier(module, X, y):
    """Stochastic gradients with momentum."""
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=0.05, momentum=0.9, weight_decay=WEIGHT_DECAY
    )
    train_network(module, X, y, optimiser, F.cross_entropy, epochs=20, batch=50)


def refitted_network(module, train, X, y, queries, n_subsets, loss="cross_entropy"):
    """A network on given rows, with its refits."""
    torch.set_num_threads(1)
    model = TorchModel(module, loss=loss, l2=WEIGHT_DECAY, train=train)
    return Refitted.of(model, (X, y), queries, n_subsets)


def images():
    """2,000 digits of MNIST in single precision, and queries."""
    X, y = mnist()
    order = np.random.default_rng(0).permutation(len(X))[: 2000 + N_QUERIES]
    X, y = X[order].astype(np.float32), y[order]
    return X[:2000], y[:2000], (X[2000:], y[2000:])


def perceptron():
    """784-128-64-10, 109,386 parameters."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    return refitted_network(module, train_classifier, *images(), n_subsets=50)


def convolution():
    """Two convolutions and two linear layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    return refitted_network(module, train_classifier, *images(), n_subsets=20)


class Block(nn.Module):
    """Causal attention and a perceptron, each added to what came in."""

    def __init__(self, width, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = nn.Linear(width, 3 * width)
        self.mixing = nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h):
        n, t, width = h.shape
        heads = self.attention(self.norms[0](h)).reshape(n, t, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + self.mixing(mixed.transpose(1, 2).reshape(n, t, width))
        return h + self.second(F.gelu(self.first(self.norms[1](h))))


class CharacterModel(nn.Module):
    """Scores (n, LENGTH * n_characters) of the next character at every position."""

    def __init__(self, width=64, n_heads=4, n_blocks=2):
        super().__init__()
        self.tokens = nn.Embedding(len(ALPHABET), width)
        self.positions = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, n_heads) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, x):
        h = self.tokens(x) + self.positions(torch.arange(LENGTH).expand(x.shape))
        return self.head(self.norm(self.blocks(h))).flatten(1)


def sequence_loss(outputs, targets):
    """Mean cross entropy of the characters of each sequence."""
    scores = outputs.unflatten(1, (LENGTH, -1)).transpose(1, 2)
    return F.cross_entropy(scores, targets, reduction="none").mean(dim=1)


def train_sequences(module, X, y):
    """Adam, whose weight decay is the L2 penalty of the objective."""
    # Refits hand on numbers, of whatever type.
    X, y = np.asarray(X, dtype=np.int64), np.asarray(y, dtype=np.int64)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3, weight_decay=WEIGHT_DECAY)
    train_network(module, X, y, optimiser, sequence_loss, epochs=10, batch=20)


def source_text(n_rows=1000, n_queries=N_QUERIES):
    """Sequences of source code of Python's standard library, the same number of each module.

    Rows and queries alternate in the text, so that a query has rows from its neighbourhood.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    n_each = -(-(n_rows + n_queries) // len(MODULES))
    pieces = []
    for module in MODULES:
        text = (folder / f"{module}.py").read_text(encoding="utf-8")
        codes = np.array([ALPHABET.find(c) if c in ALPHABET else 0 for c in text])
        start = len(codes) // 4
        pieces += list(codes[start : start + n_each * (LENGTH + 1)].reshape(n_each, LENGTH + 1))
    order = np.random.default_rng(0).permutation(len(pieces))[: n_rows + n_queries]
    pieces = np.stack(pieces)[order]
    X, y = pieces[:, :-1], pieces[:, 1:]
    return X[:n_rows], y[:n_rows], (X[n_rows:], y[n_rows:])


def transformer():
    """A transformer with two blocks over characters of source code."""
    torch.manual_seed(0)
    module = CharacterModel()
    return refitted_network(
        module, train_sequences, *source_text(), n_subsets=20, loss=sequence_loss
    )
