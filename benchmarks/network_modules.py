"""Small networks of four kinds, their data and their training, for `benchmarks.network_kinds`.

All data ship with scikit-learn or with Python itself. Only NumPy and torch are imported, so that
an interpreter with other packages can read this too.
"""

import ast
import re
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# Weight decay of the mean loss, on all parameters.
DECAY = 1e-3

# Words, and characters, of which a text consists.
N_WORDS, N_CHARACTERS = 600, 40
SENTENCE, WINDOW = 12, 24

# Packages of the standard library whose docstrings are told apart.
PACKAGES = ("asyncio", "email", "tkinter", "unittest")


def perceptron():
    """64-32-10, for 8 x 8 digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def convolutions():
    """Two convolutions and a linear layer, for 8 x 8 digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and beside a shortcut.

    Parameters
    ----------
    width : int
        Numbers for each position.
    causal : bool
        Whether a position sees earlier ones alone.
    """

    def __init__(self, width, causal):
        super().__init__()
        self.causal = causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h, seen):
        x = self.before(h)
        weights = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        weights = weights.masked_fill(~seen, -1e9).softmax(-1)
        h = h + self.out(weights @ self.value(x))
        return h + self.down(F.gelu(self.up(self.between(h))))


class Classifier(nn.Module):
    """A transformer block over words, and the mean over those that are no padding (0)."""

    def __init__(self, width=32):
        super().__init__()
        self.words = nn.Embedding(N_WORDS, width)
        self.positions = nn.Embedding(SENTENCE, width)
        self.block = Block(width, causal=False)
        self.head = nn.Linear(width, len(PACKAGES))

    def forward(self, tokens):
        real = tokens > 0
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        h = self.words(tokens) + self.positions(positions)
        h = self.block(h, real[:, None]) * real[..., None]
        return self.head(h.sum(1) / real.sum(1, keepdim=True))


class LanguageModel(nn.Module):
    """A transformer block over characters that tells the next one, (n, n_characters, t)."""

    def __init__(self, width=32):
        super().__init__()
        self.characters = nn.Embedding(N_CHARACTERS, width)
        self.positions = nn.Embedding(WINDOW, width)
        self.block = Block(width, causal=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, N_CHARACTERS)

    def forward(self, tokens):
        t = tokens.shape[1]
        positions = torch.arange(t, device=tokens.device).expand_as(tokens)
        h = self.characters(tokens) + self.positions(positions)
        h = self.block(h, torch.ones(t, t, dtype=torch.bool, device=tokens.device).tril())
        return self.head(self.norm(h)).transpose(1, 2)


# ---------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------


def docstring_lines(packages):
    """Lines of at least six words in the docstrings of packages, and the package of each line."""
    folder, lines, labels = Path(sysconfig.get_path("stdlib")), [], []
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for label, package in enumerate(packages):
        found = set()
        for path in sorted((folder / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
            texts = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, kinds)]
            found |= {line.strip().lower() for text in texts for line in text.splitlines()}
        found = sorted(line for line in found if len(words_of(line)) >= 6)
        lines += found
        labels += [label] * len(found)
    return lines, np.array(labels)


def words_of(line):
    return re.findall(r"[a-z]+", line)


def digits():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def square_digits():
    X, y = digits()
    return X.reshape(-1, 1, 8, 8), y


def sentences():
    """Words of docstring lines by their rank, padded by 0, and the package of each line."""
    lines, labels = docstring_lines(PACKAGES)
    common = Counter(word for line in lines for word in words_of(line)).most_common(N_WORDS - 2)
    # 0 is padding, 1 any other word.
    rank = {word: i + 2 for i, (word, _) in enumerate(common)}
    X = np.zeros((len(lines), SENTENCE), dtype=np.int64)
    for row, line in zip(X, lines, strict=True):
        tokens = [rank.get(word, 1) for word in words_of(line)][:SENTENCE]
        row[: len(tokens)] = tokens
    return X, labels


def windows():
    """Characters of docstring lines, and the character after each."""
    lines, _ = docstring_lines(PACKAGES)
    lines = [line for line in lines if len(line) > WINDOW]
    common = Counter("".join(lines)).most_common(N_CHARACTERS - 1)
    rank = {character: i + 1 for i, (character, _) in enumerate(common)}
    codes = np.array([[rank.get(c, 0) for c in line[: WINDOW + 1]] for line in lines])
    return codes[:, :-1], codes[:, 1:]


class Kind:
    """A kind of network with its data.

    Parameters
    ----------
    module, data : callable
        Make the untrained module, and all samples and their targets.
    n_train, n_queries : int
        How many samples of each.
    epochs, batch, rate : int, int and float
        Of the training by Adam.
    """

    def __init__(self, module, data, n_train, n_queries, epochs, batch=50, rate=0.01):
        self.module, self.data = module, data
        self.n_train, self.n_queries = n_train, n_queries
        self.epochs, self.batch, self.rate = epochs, batch, rate

    def split(self):
        """Training rows, their targets, queries and theirs."""
        X, y = self.data()
        order = np.random.default_rng(0).permutation(len(X))
        train, queries = order[: self.n_train], order[self.n_train :][: self.n_queries]
        return X[train], y[train], X[queries], y[queries]

    def train(self, module, X, y):
        """Train a module from new weights, which torch's generator draws."""
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        X, y = torch.as_tensor(np.asarray(X)), torch.as_tensor(np.asarray(y))
        # Influence keeps tokens as float64.
        X = X if X.dtype == torch.float32 else X.long()
        optimiser = torch.optim.Adam(module.parameters(), self.rate, weight_decay=DECAY)
        steps = self.epochs * -(-len(X) // self.batch)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(X)).split(self.batch):
                optimiser.zero_grad()
                F.cross_entropy(module(X[rows]), y[rows]).backward()
                optimiser.step()
                schedule.step()

    def losses(self, module, X, y):
        """Loss of every sample, the mean over its positions."""
        with torch.no_grad():
            outputs = module(torch.as_tensor(X))
            losses = F.cross_entropy(outputs, torch.as_tensor(y), reduction="none")
        return losses.reshape(len(losses), -1).mean(1).numpy()


KINDS = {
    "perceptron": Kind(perceptron, digits, 800, 150, epochs=25),
    "convolutions": Kind(convolutions, square_digits, 800, 150, epochs=20),
    "transformer": Kind(Classifier, sentences, 800, 150, epochs=8),
    "language model": Kind(LanguageModel, windows, 600, 100, epochs=15),
}
