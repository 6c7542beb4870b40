"""Linear datamodeling scores of exact and sketched influence, and of other packages.

    python -m benchmarks.lds [--peers PYTHON]

writes ``benchmarks/results/lds.md``. All methods are scored against the same refits, converged
to a relative gradient of 1e-8. ``--peers`` is the Python of an environment with dattri and
pyinfluence, in which ``benchmarks/lds_peers.py`` is run on the same model and subsets. It takes
about eight minutes of CPU, most of them for MNIST at C = 1.
"""

import argparse
import re
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from benchmarks.datasets import load_breast_cancer, load_digits, load_mnist_5k
from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.metrics import bootstrap_interval, linear_datamodeling_score, retrain_on_subsets
from skinfluence.rows import Rows

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


def held(rows):
    """Numbers in memory for each training row: factors, and what a sketch made of them."""
    arrays = {array.__array_interface__["data"][0]: array for array in _arrays(rows)}
    return round(sum(array.size for array in arrays.values()) / rows.n_samples)


def _arrays(rows):
    for value in vars(rows).values():
        if isinstance(value, Rows):
            yield from _arrays(value)
        elif isinstance(value, list):
            for block in value:
                yield from _arrays(block)
        elif isinstance(value, np.ndarray) and value.size:
            yield value


def methods(frozen, train, queries, sizes, score):
    """Name, numbers of a row, those held for it, influences and seconds of every method."""
    start = time.process_time()
    exact = ExactInfluence(frozen).fit(*train)
    influence = exact.influence(*queries)
    seconds = time.process_time() - start
    all_held = held(exact.linearisation_.training_rows)
    yield "ExactInfluence", exact.n_params_, all_held, influence, seconds
    settings = [("SketchedInfluence, auto", "auto", {})]
    settings += [("SketchedInfluence, nystrom", size, {}) for size in sizes]
    settings += [
        ("SketchedInfluence, nystrom, tail=False", size, {"tail": False}) for size in sizes
    ]
    settings += [("SketchedInfluence, gaussian", m, {"sketch": "gaussian"}) for m in sizes[1:]]
    for name, size, params in settings:
        params = {"sketch": "nystrom", "sketch_size": size, "random_state": 0, **params}
        start = time.process_time()
        estimator = SketchedInfluence(frozen, **params).fit(*train)
        influence = estimator.influence(*queries)
        seconds = time.process_time() - start
        stored = held(estimator.linearisation_.training_rows)
        yield name, estimator.sketch_size_, stored, influence, seconds
    start = time.process_time()
    influence = fisher(frozen, train, queries, score)
    seconds = time.process_time() - start
    yield "empirical Fisher, best damping", exact.n_params_, all_held, influence, seconds
    start = time.process_time()
    influence = dot_product(exact, *queries)
    seconds = time.process_time() - start
    yield "gradient dot product", exact.n_params_, all_held, influence, seconds


def peers(python, model, train, queries):
    """Influences that other packages give, signed as ours; what they hold is not counted."""
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
                yield str(found["name"]), size, "", found["influence"], float(found["seconds"])


def fitted(name, C):
    """A fitted model, its training rows, its queries, and what refits it on a share of rows."""
    load, n_queries, _, _ = DATA[name]
    X, y = load()
    # The rest of the held-out rows stays unused, so that the training sets are round.
    X, X_query, y, y_query = train_test_split(
        X, y, test_size=max(n_queries, len(y) // 10), stratify=y, random_state=0
    )
    train, queries = (X, y), (X_query[:n_queries], y_query[:n_queries])
    model = LogisticRegression(C=C, max_iter=10_000, tol=1e-6).fit(*train)
    frozen = FrozenEstimator(model)
    settings = {"n_subsets": N_SUBSETS, "random_state": 0, "memory": str(REFITS)}
    return (
        frozen,
        train,
        queries,
        partial(retrain_on_subsets, frozen, *train, *queries, **settings),
    )


def table(name, C, python):
    frozen, train, queries, refit = fitted(name, C)
    (X, y), n_queries = train, len(queries[1])
    refits = [refit(share=share) for share in SHARES]
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
    yield "| method | numbers a row | held | LDS, share 0.5 | LDS, share 0.9 | CPU s |"
    yield "|---|---|---|---|---|---|"

    def mean(influence):
        return scores(influence).mean()

    ours = methods(frozen, train, queries, DATA[name][2], mean)
    theirs = _best(peers(python, frozen.estimator, train, queries), mean)
    for found in (ours, theirs):
        for method, size, stored, influence, spent in found:
            cells = [_cell(scores(influence, k)) for k in range(len(SHARES))]
            yield f"| {method} | {size} | {stored} | {' | '.join(cells)} | {spent:.1f} |"
    yield ""


def _best(found, score):
    """The best of all results that have one name."""
    best = {}
    for result in found:
        name, _, _, influence, _ = result
        if name not in best or score(influence) > score(best[name][3]):
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
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "lds.md"
    # Sections of other data stay as they are.
    sections = {} if arguments.data == list(DATA) else sections_of(path.read_text())
    for name in arguments.data:
        for C in DATA[name][3]:
            lines = []
            for line in table(name, C, arguments.peers):
                print(line, flush=True)
                lines.append(line)
            sections[lines[0]] = "\n".join(lines[1:]) + "\n"
            path.write_text(HEADER + "".join(f"{h}\n{text}" for h, text in sections.items()))


def sections_of(text):
    """What stands below each heading of the second level."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return dict(part.split("\n", 1) for part in parts)


HEADER = """# Linear datamodeling scores

Made by `python -m benchmarks.lds --peers PYTHON`. Mean over held-out queries, with the 95 %
bootstrap interval over the queries. Numbers a row: what is kept of the gradient of a training row,
before factoring. Held: the numbers that are in memory for each training row. A gradient is held as
its factors, features and residuals. The default, a basis with a tail, holds them beside the
sketched ones; with `tail=False` only the sketched ones are held, which are factored too.

"""


if __name__ == "__main__":
    main()
