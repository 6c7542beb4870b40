"""Do leave-one-out effects of a network agree with training it again without the row?

A convolutional network with two layers is trained on half of scikit-learn's digits, to its
minimum in double precision. Training rows are left out, one at a time: those with the largest
influence by any method and ten at random. From the minimum, training goes on without the row.
Predicted and real changes of the losses of the test digits that the network gets wrong are
compared over all pairs.

    OMP_NUM_THREADS=1 python -m benchmarks.network_refits

writes `benchmarks/results/network_refits.md`.
"""

import copy
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from torch import nn

from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "network_refits.md"
WEIGHT_DECAY = 5e-3
N_LARGEST, N_RANDOM = 5, 10


def make_module(seed=0):
    """Two convolutions and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    ).double()


def train(module, X, y, max_iter=150):
    """Minimise the mean loss with weight decay, from where the module is."""
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    parameters = list(module.parameters())
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        history_size=30,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(X), y)
        loss = loss + WEIGHT_DECAY / 2 * sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss

    optimiser.step(closure)
    return module


def losses(module, X, y):
    """Losses of all samples, (n,)."""
    with torch.no_grad():
        scores = module(torch.as_tensor(X))
        return nn.functional.cross_entropy(scores, torch.as_tensor(y), reduction="none").numpy()


METHODS = {
    'ExactInfluence(curvature="ggn")': lambda m: ExactInfluence(m, curvature="ggn"),
    "SketchedInfluence, 500 landmarks": lambda m: SketchedInfluence(
        m, curvature="ggn", sketch_size=500, random_state=0
    ),
    "SketchedInfluence, 100 landmarks": lambda m: SketchedInfluence(
        m, curvature="ggn", sketch_size=100, random_state=0
    ),
    "KFACInfluence()": KFACInfluence,
    "KFACInfluence(eigenvalue_correction=False)": lambda m: KFACInfluence(
        m, eigenvalue_correction=False
    ),
}


def main():
    warnings.filterwarnings("ignore", message=".*has not converged")
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.5, random_state=0)
    module = train(make_module(), X, y, max_iter=1000)
    predicted = module(torch.as_tensor(X_test)).argmax(dim=1).numpy()
    wrong = np.flatnonzero(predicted != y_test)
    queries = X_test[wrong], y_test[wrong]
    model = FrozenEstimator(TorchModel(module, l2=WEIGHT_DECAY).fit(X, y))
    influence, effect, seconds = {}, {}, {}
    for name, make in METHODS.items():
        start = time.process_time()
        fitted = make(model).fit(X, y)
        influence[name] = -fitted.influence(*queries) / len(X)
        seconds[name] = time.process_time() - start
        effect[name] = fitted.leave_one_out_effect(*queries)
        print(name, flush=True)
    largest = [np.argsort(-np.abs(i).max(axis=0))[:N_LARGEST] for i in influence.values()]
    random = np.random.default_rng(0).choice(len(X), N_RANDOM, replace=False)
    rows = np.unique(np.concatenate([*largest, random]))
    before, real = losses(module, *queries), []
    for row in rows:
        kept = np.arange(len(X)) != row
        real.append(losses(train(copy.deepcopy(module), X[kept], y[kept]), *queries) - before)
    real = np.array(real).T
    lines = ["# Networks against refits", "", *__doc__.strip().splitlines(), ""]
    lines += [
        f"{len(rows)} rows left out, {len(wrong)} queries, {len(X)} training rows, "
        f"{sum(p.numel() for p in module.parameters())} parameters. Pearson correlation over "
        "all pairs, slope of the real change on the predicted one, and the rank correlation over "
        "the rows, mean of the queries.",
        "",
        "| method | seconds | influence / n: Pearson, slope, rank "
        "| `leave_one_out_effect`: Pearson, slope, rank |",
        "|---|---|---|---|",
    ]
    for name in METHODS:
        cells = [figures(each[name][:, rows], real) for each in (influence, effect)]
        lines.append(f"| {name} | {seconds[name]:.1f} | {' | '.join(cells)} |")
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def figures(predicted, real):
    """Agreement of predicted and real changes, as text."""
    pearson = np.corrcoef(predicted.ravel(), real.ravel())[0, 1]
    slope = (predicted * real).sum() / (predicted**2).sum()
    rank = np.mean([spearmanr(*pair).statistic for pair in zip(predicted, real, strict=True)])
    return f"{pearson:.3f}, {slope:.2f}, {rank:.3f}"


if __name__ == "__main__":
    main()
