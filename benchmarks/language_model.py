"""What does influence cost on a language model, and on an embedding of many tokens?

A GPT of two blocks and width 64 reads 2,000 texts of 16 positions over 5,000 tokens, drawn by
Zipf's law: 746,120 parameters, and outputs of 80,000 numbers for each text. It is trained for a
few steps, since cost does not depend on the fit. EK-FAC with labels drawn from the model scores
100 texts, and tells the influence of every token of 20 training texts on 10. The embeddings have
width 16, under a small classifier of 500 texts, of which 20 are scored.

Each job runs in a process of its own, on one thread. Shown are processor seconds after training,
and the peak memory of the process, torch included.

    python -m benchmarks.language_model

writes `benchmarks/results/language_model.md`.
"""

import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn import functional as F

from benchmarks.markdown import table
from skinfluence import KFACInfluence
from skinfluence.diagnostics import token_influence
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "language_model.md"
N_TEXTS, LENGTH, N_TOKENS, WIDTH = 2000, 16, 5000, 64
VOCABULARIES = (2_000, 10_000, 30_000, 100_000)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Block(nn.Module):
    """Attention to the tokens before, and a perceptron."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, h):
        t = h.shape[1]
        later = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
        x = self.norms[0](h)
        h = h + self.attention(x, x, x, attn_mask=later, need_weights=False)[0]
        return h + self.narrow(F.gelu(self.wide(self.norms[1](h))))


class GPT(nn.Module):
    """Scores of every next token, (n, n_tokens, n_positions)."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(N_TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(WIDTH), Block(WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, N_TOKENS)

    def forward(self, x):
        h = self.words(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(h))).transpose(1, 2)


def trained_gpt(n_steps=20):
    """A GPT and its texts."""
    rng = np.random.default_rng(0)
    text = np.minimum(rng.zipf(1.2, (N_TEXTS, LENGTH + 1)), N_TOKENS) - 1
    X, y = text[:, :-1], text[:, 1:]
    torch.manual_seed(0)
    module = GPT()
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(n_steps):
        batch = rng.integers(0, N_TEXTS, 32)
        loss = F.cross_entropy(module(torch.as_tensor(X[batch])), torch.as_tensor(y[batch]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module, X, y


def run_gpt():
    """Seconds of the fit, the scores and the tokens."""
    module, X, y = trained_gpt()
    model = TorchModel(module, l2=1e-3)
    settings = {"fisher": "sampled", "damping": 1e-3, "random_state": 0}
    start = time.process_time()
    influence = KFACInfluence(model, **settings).fit(X, y)
    yield time.process_time() - start
    start = time.process_time()
    influence.influence(X[:100], y[:100])
    yield time.process_time() - start
    start = time.process_time()
    token_influence(influence, X[:10], y[:10], np.arange(20))
    yield time.process_time() - start


def run_embedding(n_tokens):
    """Seconds of the fit and the scores of a classifier of texts over so many tokens."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, n_tokens, (500, LENGTH)), rng.integers(0, 3, 500)
    torch.manual_seed(0)
    layers = nn.Embedding(n_tokens, 16), nn.Linear(16, 8), nn.Tanh(), nn.Flatten()
    module = nn.Sequential(*layers, nn.Linear(8 * LENGTH, 3))
    start = time.process_time()
    influence = KFACInfluence(TorchModel(module, l2=1e-3), damping=1e-3).fit(X, y)
    yield time.process_time() - start
    start = time.process_time()
    influence.influence(X[:20], y[:20])
    yield time.process_time() - start


def run(job):
    """Print the seconds of a job, and its peak memory in GiB."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        seconds = list(run_gpt() if job == "gpt" else run_embedding(int(job)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(*seconds, peak)


def measured(job):
    """What `run` prints, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.language_model", job]
    found = subprocess.run(
        command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True
    )
    return [float(number) for number in found.stdout.split()]


def main():
    """Run all jobs and write the tables."""
    *seconds, peak = measured("gpt")
    gpt = [[f"{s:.0f} s" for s in seconds] + [f"{peak:.1f} GiB"]]
    rows = []
    for n_tokens in VOCABULARIES:
        *own, memory = measured(str(n_tokens))
        rows.append([f"{n_tokens:,}", *(f"{s:.1f} s" for s in own), f"{memory:.1f} GiB"])
    RESULTS.write_text(
        "# Language models\n\n"
        "EK-FAC of a GPT with 746,120 parameters on 2,000 texts of 16 positions over 5,000 "
        "tokens. Processor seconds on one thread, after training.\n\n"
        + table(["fit", "scores of 100 texts", "tokens of 20 texts for 10", "peak"], gpt)
        + "\nEK-FAC of a classifier with an embedding of width 16, 500 texts of 16 positions.\n\n"
        + table(["tokens", "fit", "scores of 20 texts", "peak"], rows),
        encoding="utf-8",
    )


if __name__ == "__main__":
    run(sys.argv[1]) if len(sys.argv) > 1 else main()
