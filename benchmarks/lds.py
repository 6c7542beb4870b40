"""Linear datamodeling scores of exact and sketched influence, and of other packages.

    python -m benchmarks.lds [--peers PYTHON]

writes ``benchmarks/results/lds.md``. All methods are scored against the same refits, converged
to a relative gradient of 1e-8. ``--peers`` is the Python of an environment with dattri and
pyinfluence, in which ``benchmarks/lds_peers.py`` is run on the same model and subsets.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from benchmarks.datasets import load_breast_cancer, load_digits, load_mnist_5k
from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.metrics import bootstrap_interval, linear_datamodeling_score, retrain_on_subsets

RESULTS = Path(__file__).parent / "results"
REFITS = Path(__file__).parents[1] / ".cache" / "lds"
PEERS = Path(__file__).parent / "lds_peers.py"

N_SUBSETS = 50
N_TIMED = 16
SHARES = (0.5, 0.9)


def tumours():
    X, y = load_breast_cancer()
    return scale(X), y


def digits():
    X, y = load_digits()
    return X / 16, y


def mnist():
    X, y = load_mnist_5k()
    return X / 255, y


# Loader, queries, sizes of sketches, penalties.
DATA = {
    "breast cancer": (tumours, 100, (5, 10, 20), (0.01, 1.0)),
    "digits": (digits, 200, (90, 180, 360), (0.01, 1.0)),
    "MNIST": (mnist, 200, (324, 650, 2570), (0.01, 1.0)),
}


def dot_product(exact, X, y):
    """Influence with the identity for the curvature."""
    objective = exact.linearisation_.objective
    queries = objective.gradient_rows(X, objective.encode(y))
    return -queries.inner(objective.training_gradient_rows())


def fisher(frozen, train, queries, score):
    """The damping of the empirical Fisher matrix with the best score at share 0.5."""
    best = None
    for damping in 10.0 ** np.arange(-5, 0):
        estimator = ExactInfluence(frozen, damping=damping, curvature="empirical_fisher")
        influence = estimator.fit(*train).influence(*queries)
        if best is None or score(influence) > score(best):
            best = influence
    return best


def methods(frozen, train, queries, sizes, score):
    """Name, numbers kept of each row, influences and seconds of every method."""
    start = time.process_time()
    exact = ExactInfluence(frozen).fit(*train)
    influence = exact.influence(*queries)
    yield "ExactInfluence", exact.n_params_, influence, time.process_time() - start
    settings = [("auto", "nystrom", {})]
    settings += [(size, "nystrom", {}) for size in sizes]
    settings += [(size, "gaussian", {}) for size in sizes[1:]]
    for size, sketch, more in settings:
        start = time.process_time()
        estimator = SketchedInfluence(
            frozen, sketch_size=size, sketch=sketch, random_state=0, **more
        ).fit(*train)
        influence = estimator.influence(*queries)
        seconds = time.process_time() - start
        kind = f"SketchedInfluence, {'auto' if size == 'auto' else sketch}"
        yield kind, estimator.sketch_size_, influence, seconds
    start = time.process_time()
    influence = fisher(frozen, train, queries, score)
    yield "empirical Fisher, best damping", exact.n_params_, influence, time.process_time() - start
    start = time.process_time()
    influence = dot_product(exact, *queries)
    yield "gradient dot product", exact.n_params_, influence, time.process_time() - start


def peers(python, model, train, queries):
    """Influences that other packages give, signed as ours."""
    if python is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        np.savez(
            path,
            X=train[0],
            y=train[1],
            X_query=queries[0],
            y_query=queries[1],
            coef=model.coef_,
            intercept=model.intercept_,
            C=model.C,
        )
        subprocess.run([python, str(PEERS), str(path)], check=True)
        for file in sorted(Path(folder).glob("*.result.npz")):
            with np.load(file) as found:
                size = int(found["size"])
                yield str(found["name"]), size, found["influence"], float(found["seconds"])


def table(name, C, python):
    load, n_queries, sizes, _ = DATA[name]
    X, y = load()
    # The rest of the held-out rows stays unused, so that the training sets are round.
    X, X_query, y, y_query = train_test_split(
        X, y, test_size=max(n_queries, len(y) // 10), stratify=y, random_state=0
    )
    train, queries = (X, y), (X_query[:n_queries], y_query[:n_queries])
    model = LogisticRegression(C=C, max_iter=10_000, tol=1e-6).fit(*train)
    frozen = FrozenEstimator(model)
    settings = {"random_state": 0, "memory": str(REFITS)}
    refits = [
        retrain_on_subsets(frozen, *train, *queries, n_subsets=N_SUBSETS, share=share, **settings)
        for share in SHARES
    ]
    # Others than these, which may be kept from an earlier run.
    start = time.process_time()
    retrain_on_subsets(frozen, *train, *queries, n_subsets=N_TIMED, random_state=1)
    seconds = (time.process_time() - start) / N_TIMED

    def scores(influence, k=0):
        return linear_datamodeling_score(influence, refits[k].subsets, refits[k].losses)

    yield f"## {name}, {len(y)} x {X.shape[1]}, {len(np.unique(y))} classes, C = {C:g}"
    yield ""
    yield (
        f"{n_queries} queries, {N_SUBSETS} refits for each share, all converged: "
        f"{all(found.converged.all() for found in refits)}. CPU a refit: {seconds:.2f} s."
    )
    yield ""
    yield "| method | numbers a row | LDS, share 0.5 | LDS, share 0.9 | CPU s |"
    yield "|---|---|---|---|---|"

    def mean(influence):
        return scores(influence).mean()

    ours = methods(frozen, train, queries, sizes, mean)
    for found in (ours, _best(peers(python, model, train, queries), mean)):
        for method, size, influence, spent in found:
            cells = [_cell(scores(influence, k)) for k in range(len(SHARES))]
            yield f"| {method} | {size} | {' | '.join(cells)} | {spent:.1f} |"
    yield ""


def _best(found, score):
    """The best of all results that have one name."""
    best = {}
    for result in found:
        name, _, influence, _ = result
        if name not in best or score(influence) > score(best[name][2]):
            best[name] = result
    return best.values()


def _cell(values):
    interval = bootstrap_interval(values, n_resamples=999, random_state=0)
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Python of an environment with the other packages")
    parser.add_argument("--data", choices=DATA, nargs="*", default=list(DATA))
    arguments = parser.parse_args()
    lines = [
        "# Linear datamodeling scores",
        "",
        "Made by `python -m benchmarks.lds`. Mean over held-out queries, with the 95 % bootstrap "
        "interval over the queries. Numbers a row: what is kept of the gradient of a training "
        "row, before factoring.",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.data:
        for C in DATA[name][3]:
            for line in table(name, C, arguments.peers):
                print(line, flush=True)
                lines.append(line)
            (RESULTS / "lds.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
