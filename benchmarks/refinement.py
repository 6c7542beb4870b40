"""What refinement and certificates cost, and what they give.

For each model, all methods give the scores of the same held-out queries (for MNIST, of training
images with noise), and are compared with `ExactInfluence` of the same curvature:

- error: relative error of the scores of a query, mean over the queries,
- Spearman: rank correlation with the exact scores of a query, mean over the queries,
- seconds: processor time on one thread of everything after the model's training, for 200
  held-out queries without bounds; and for scores with bounds (`return_error=True`) of 60 queries
  after the fit: 30 of them, and 30 outside the range of the training rows,
- bound: error bound over the exact score on the ten largest scores of a query, median; for the
  held-out queries, and for those outside the range (noise, inverted images, permuted pixels),
- excess: bound over true error, median over all pairs of both kinds of queries,
- held: share of these pairs whose error is within its bound.

All queries of a batch share the products of a step, but each has its own directions: if they
shared these too, the score of a query would depend on which others are asked with it.

Run as `python -m benchmarks.refinement`, on one thread (``OMP_NUM_THREADS=1``); a list of names
runs these settings alone, without writing the table.
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks.datasets import load_digits, load_mnist_5k
from benchmarks.networks import WEIGHT_DECAY, make_data, make_module, row_correlation, train_many
from skinfluence import (
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "refinement.md"
N_CERTIFIED, N_LARGEST = 30, 10

# Share of the largest score that rounding may add to an error.
ROUNDING = 1e-11


def shifted(X, y):
    """Queries that are like no training row: noise, inverted images, permuted pixels."""
    rng = np.random.default_rng(0)
    X, y = X[: N_CERTIFIED // 3], y[: N_CERTIFIED // 3]
    parts = [rng.uniform(0, 1, X.shape), 1 - X, X[:, rng.permutation(X.shape[1])]]
    return np.concatenate(parts).astype(X.dtype), np.tile(y, 3)


def split(X, y, n_queries):
    order = np.random.default_rng(0).permutation(len(y))
    queries, train = order[:n_queries], order[n_queries:]
    return X[train], y[train], X[queries], y[queries]


# ---------------------------------------------------------------------------
# Models and methods
# ---------------------------------------------------------------------------


def logistic(X, y, C, n_queries):
    X, y, X_query, y_query = split(X, y, n_queries)
    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(X, y)
    return FrozenEstimator(model), (X, y), (X_query, y_query)


def digits(C):
    X, y = load_digits()
    return logistic(X / 16, y, C, 200)


def mnist(C):
    X, y = load_mnist_5k()
    # All rows train, as in the other tables; the queries are 200 of them, moved a little.
    X = X / 255
    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(X, y)
    chosen = np.random.default_rng(0).permutation(len(y))[:200]
    noise = np.random.default_rng(1).normal(0, 0.1, (200, X.shape[1]))
    return FrozenEstimator(model), (X, y), (np.clip(X[chosen] + noise, 0, 1), y[chosen])


def network():
    torch.set_num_threads(1)
    X, y, X_query, y_query = make_data()
    module = make_module()
    parameters = train_many(X, y, np.arange(len(y))[None], seed=0)
    with torch.no_grad():
        for own, value in zip(module.parameters(), parameters, strict=True):
            own.copy_(value[0].reshape(own.shape))
    model = TorchModel(module.eval(), l2=WEIGHT_DECAY).fit(X, y)
    return FrozenEstimator(model), (X, y), (X_query, y_query)


def sketches(size, steps, **params):
    name = f"{size} {params.get('sketch', 'nystrom')}"
    name += "" if params.get("factorized", True) else ", unfactored"
    for refine in steps:
        made = {"sketch_size": size, "refine": refine, "random_state": 0, **params}
        yield f"{name}, refine={refine!r}", SketchedInfluence, made


def linear_methods(fifth, share, *, unfactored=True):
    yield "exact", ExactInfluence, {}
    yield from sketches(fifth, (0, 1, 3, "auto"))
    if unfactored:
        yield from sketches(fifth, (0, 3), sketch="nystrom", factorized=False)
    yield (
        f"{fifth} gaussian",
        SketchedInfluence,
        {"sketch_size": fifth, "sketch": "gaussian", "random_state": 0},
    )
    for refine in (0, 3):
        settings = {"subset_size": share, "refine": refine, "random_state": 0}
        yield f"{share:g} of the rows, refine={refine}", RelativeHessianInfluence, settings
    for refine in (0, 3):
        yield f"EK-FAC, refine={refine}", KFACInfluence, {"refine": refine}


def network_methods():
    yield "exact, gram", ExactInfluence, {"curvature": "ggn", "solver": "gram"}
    yield from sketches(1000, (0, 1, 2, 3), sketch="landmarks", curvature="ggn")
    yield from sketches(2000, (0, 1, 2), sketch="landmarks", curvature="ggn")


SETTINGS = {
    **{
        f"digits, C={C:g}: 1,597 rows, 585 coordinates": (
            lambda C=C: digits(C),
            lambda: linear_methods(130, 0.2),
        )
        for C in (0.01, 0.1, 1)
    },
    "MNIST, C=0.01: 5,000 rows, 7,065 coordinates": (
        lambda: mnist(0.01),
        lambda: linear_methods(1570, 0.2, unfactored=False),
    ),
    "perceptron 784-128-64-10: 2,000 rows, 109,386 parameters, GGN": (network, network_methods),
}


# ---------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------


def largest(scores, *arrays):
    """Entries of arrays at the largest scores of each query."""
    index = np.argsort(-np.abs(scores), axis=1)[:, :N_LARGEST]
    return [np.take_along_axis(array, index, axis=1) for array in arrays]


def line(name, cls, params, model, train, queries, outside, reference):
    """One line of the table, and the scores of both kinds of queries."""
    start = time.process_time()
    influence = cls(model, **params).fit(*train)
    scores = influence.influence(*queries)
    seconds = time.process_time() - start
    start = time.process_time()
    inside = [part[:N_CERTIFIED] for part in queries]
    certified = [influence.influence(*part, return_error=True) for part in (inside, outside)]
    with_bounds = time.process_time() - start
    if reference is None:
        reference = [scores, certified[1][0]]
    exact = reference[0]
    error = np.linalg.norm(scores - exact, axis=1) / np.linalg.norm(exact, axis=1)
    widths, excess, held = [], [], []
    for all_queries, (part, bounds) in zip(reference, certified, strict=True):
        truth = all_queries[: len(part)]
        gap = np.abs(part - truth)
        held.append((gap <= bounds + ROUNDING * np.abs(truth).max()).ravel())
        size, width = largest(truth, np.abs(truth), bounds)
        widths.append(np.median(width / size))
        excess.append((bounds / np.maximum(gap, np.finfo(float).tiny)).ravel())
    excess, held = np.median(np.concatenate(excess)), np.concatenate(held).mean()
    text = (
        f"| {name} | {error.mean():.1e} | {row_correlation(scores, exact):.4f} | {seconds:.1f} | "
        f"{with_bounds:.1f} | {widths[0]:.1e} | {widths[1]:.1e} | {excess:.0f} | {held:.4f} |"
    )
    return text, reference


def lines_of(setting):
    make, methods = SETTINGS[setting]
    model, train, queries = make()
    outside = shifted(*queries)
    yield f"## {setting}"
    yield ""
    yield (
        "| method | error | Spearman | seconds | seconds with bounds | bound | bound outside | "
        "excess | held |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    reference = None
    for name, cls, params in methods():
        text, reference = line(name, cls, params, model, train, queries, outside, reference)
        yield text
    yield ""


def main(names):
    # Stochastic training ends near a minimum, not at it.
    warnings.filterwarnings("ignore", "TorchModel has not converged")
    chosen = [s for s in SETTINGS if not names or any(name in s for name in names)]
    lines = ["# Refinement and certificates", "", *__doc__.strip().splitlines(), ""]
    for setting in chosen:
        for text in lines_of(setting):
            print(text, flush=True)
            lines.append(text)
    if not names:
        RESULTS.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
