"""Influence of linear models beside six other packages: processor time, memory and error.

Four questions about one model and its fitted weights, which all are given:

- W1: all pairs of a logistic regression of two classes, 20,000 x 200, 1,000 queries;
- W2: all pairs of one of ten classes, 5,000 x 784, 500 queries;
- W3: self-influence of all rows, two classes, 1,000,000 x 60;
- W4: the 10 most harmful rows of each of 200 queries, the same rows as W3.

There is no intercept, so that the penalty of the model is the ridge of every parameter, which the
other packages have as their damping. Each package has its exact influence of this objective where
it has one, and else what is nearest; queries and rows in batches as it needs them. Errors are
those beside a dense reference of NumPy in double precision: relative, of all numbers together, and
the rank correlation with it, a mean over the queries; for W4 the error of the values that are
given, and the share of the ten rows that are the right ones.

Each method runs in a process of its own, on one thread, with at most 4 GiB of arrays and 600
seconds; times are medians of five runs, of fewer where these take more than ten seconds. The other
packages run in an interpreter that has them, in an environment of their own, since pyDVL needs
NumPy 1:

    pip install torch==2.13.0
    pip install torch==2.13.0 dattri==0.3.0 "pydvl[influence]==0.10.0"
    pip install torch==2.13.0 pyinfluence==0.5.0 kronfluence==1.0.1 traker==0.3.2 captum==0.9.0
    python -m benchmarks.peers --peers PATH/bin/python

writes ``benchmarks/results/peers.md``.
"""

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks.markdown import table
from benchmarks.peers_run import Problem, result_path, run
from benchmarks.scale import ONE_THREAD, rows_of
from skinfluence import ExactInfluence

RESULTS = Path(__file__).parent / "results" / "peers.md"
ROWS = RESULTS.with_suffix(".csv")
MEMORY, SECONDS = 4 * 2**30, 600

# Rows, columns, classes and queries; the strength of the penalty; what is asked.
WORKLOADS = {
    "W1": (20_000, 200, 2, 1_000, 1.0, "all pairs"),
    "W2": (5_000, 784, 10, 500, 1e-2, "all pairs"),
    "W3": (1_000_000, 60, 2, 200, 1.0, "self-influence"),
    "W4": (1_000_000, 60, 2, 200, 1.0, "largest"),
}
LARGEST = 10

OTHERS = ["pyinfluence", "pyDVL", "dattri", "captum", "kronfluence, EK-FAC", "TRAK"]

# What a package has no call for.
CANNOT = {("W3", "TRAK"): "has no self-influence"}

# Queries whose ranks are compared, spread over all of them.
N_RANKED = 100

# ---------------------------------------------------------------------------
# The problem and its reference
# ---------------------------------------------------------------------------


def prepare(workload, folder, size):
    """Write data, fitted weights and settings of a workload."""
    n, d, n_classes, q, C, asks = size
    (X, y), (Xq, yq) = rows_of(n, d, 0, n_classes), rows_of(q, d, 1, n_classes)
    solver = {"solver": "newton-cholesky"} if n_classes == 2 else {"tol": 1e-9}
    model = LogisticRegression(C=C, fit_intercept=False, max_iter=10_000, **solver).fit(X, y)
    arrays = {"X": X, "y": y, "X_query": Xq, "y_query": yq, "weights": model.coef_}
    for name, array in arrays.items():
        np.save(folder / f"{workload}_{name}.npy", np.ascontiguousarray(array))
    settings = {"ridge": 1 / (C * n), "asks": asks, "k": LARGEST}
    (folder / f"{workload}.json").write_text(json.dumps(settings))


class Reference:
    """Influence by the dense Hessian of the mean loss, in double precision."""

    def __init__(self, problem):
        self.problem = problem
        p = self._probabilities(problem.X)
        (n, c), d = p.shape, problem.X.shape[1]
        H = np.empty((c, d, c, d))
        for i in range(c):
            for j in range(c):
                curved = p[:, i] * ((i == j) - p[:, j])
                H[i, :, j] = problem.X.T @ (curved[:, None] * problem.X) / n
        H = H.reshape(c * d, c * d)
        H[np.diag_indices_from(H)] += problem.ridge
        rows = self._residuals(problem.X_query, problem.y_query)[:, :, None]
        rows = rows * problem.X_query[:, None]
        self.solved = -np.linalg.solve(H, rows.reshape(len(rows), -1).T).T.reshape(rows.shape)
        self.inverse = np.linalg.inv(H) if problem.asks == "self-influence" else None
        self.residual = self._residuals(problem.X, problem.y)

    def _probabilities(self, X):
        """Probabilities of the classes with weights of their own, the last one of two."""
        logits = X @ self.problem.weights.T
        both = np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits
        return softmax(both, axis=1)[:, -logits.shape[1] :]

    def _residuals(self, X, y):
        p = self._probabilities(X)
        return p - (y[:, None] == np.unique(self.problem.y)[-p.shape[1] :])

    def scores(self, rows):
        """Scores of all queries with a slice of the training rows."""
        X, r = self.problem.X[rows], self.residual[rows]
        return sum((self.solved[:, i] @ X.T) * r[:, i] for i in range(r.shape[1]))

    def self_influence(self):
        """Self-influence of all rows, for two classes."""
        X = self.problem.X
        return self.residual[:, 0] ** 2 * np.einsum("id,id->i", X @ self.inverse, X)

    def largest(self):
        """Positions of the largest scores of each query."""
        best = []
        for start in range(0, len(self.problem.y), 50_000):
            scores = self.scores(slice(start, start + 50_000))
            place = np.argpartition(scores, -LARGEST, axis=1)[:, -LARGEST:]
            best.append((place + start, np.take_along_axis(scores, place, axis=1)))
        place, values = (np.concatenate(parts, axis=1) for parts in zip(*best, strict=True))
        order = np.argsort(-values, axis=1)[:, :LARGEST]
        return np.take_along_axis(place, order, axis=1)

    def at(self, indices):
        """Scores of each query with rows of its own, (n_queries, k)."""
        X, r = self.problem.X[indices], self.residual[indices]
        return np.einsum("qcd,qkd,qkc->qk", self.solved, X, r, optimize=True)


def quality(workload, reference, found):
    """Relative error, and the mean rank correlation or the share of the right rows."""
    if WORKLOADS[workload][-1] == "largest":
        exact = reference.at(found["indices"])
        best = reference.largest()
        pairs = zip(found["indices"], best, strict=True)
        shared = np.mean([len(np.intersect1d(*pair)) / LARGEST for pair in pairs])
        return _error(found["values"], exact), shared
    if WORKLOADS[workload][-1] == "self-influence":
        exact, scores = reference.self_influence()[None], found["scores"][None]
    else:
        exact, scores = reference.scores(slice(None)), found["scores"]
    return _error(scores, exact), rank_correlation(scores, exact)


def _error(scores, exact):
    return np.linalg.norm(scores - exact) / np.linalg.norm(exact)


def rank_correlation(left, right):
    """Mean Spearman correlation of some rows of two matrices."""
    some = np.unique(np.linspace(0, len(left) - 1, N_RANKED).astype(int))
    left, right = (rankdata(each[some], axis=1) for each in (left, right))
    pairs = zip(left, right, strict=True)
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))


# ---------------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------------


def own(problem):
    """``ExactInfluence`` of the fitted model."""
    influence = ExactInfluence(FrozenEstimator(problem.model))
    X, y = problem.X_query, problem.y_query

    def score():
        if problem.asks == "self-influence":
            return {"scores": influence.self_influence()}
        if problem.asks == "all pairs":
            return {"scores": influence.influence(X, y)}
        indices, values = influence.most_influential(X, y, k=problem.k)
        return {"indices": indices, "values": values}

    return lambda: influence.fit(problem.X, problem.y), score


OWN = {"skinfluence": own}


def run_apart(workload, method, folder, peers):
    """Run one method in a process of its own, and say how it ended."""
    settings = [
        "--workload", workload, "--method", method, "--folder", str(folder),
        "--memory", str(MEMORY), "--seconds", str(SECONDS),
    ]  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.peers", "run"]
    if method not in OWN:
        command = [peers, str(Path(__file__).with_name("peers_methods.py"))]
    done = subprocess.run(
        [*command, *settings], env=os.environ | ONE_THREAD, capture_output=True, text=True
    )
    return _ending(done)


def _ending(done):
    """Why a run has no results, in a few words; an empty text where it has."""
    if done.returncode == 0:
        return ""
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"more than {SECONDS} s"
    if re.search(r"allocate|MemoryError|bad_alloc|not enough memory", done.stderr):
        return f"more than {MEMORY // 2**30} GiB"
    last = "".join(done.stderr.strip().splitlines()[-1:])
    return last.partition(": ")[2].partition(". ")[0] or f"ended with {done.returncode}"


def cells(workload, method, reference, path, ending):
    """One row of the table."""
    if ending:
        return [workload, method, ending, "", "", "", ""]
    found = np.load(path)
    error, agreement = quality(workload, reference, found)
    fit, score = found["seconds"]
    # TRAK's scores are those of a margin, on a scale of their own.
    shown = "" if method == "TRAK" else f"{error:.1g}"
    return [
        workload, method, f"{fit:.2f}", f"{score:.2f}", f"{float(found['peak']):.0f}", shown,
        f"{agreement:.3f}",
    ]  # fmt: skip


def main():
    """Run all methods on all workloads, or on some of them again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="interpreter that has the other packages")
    parser.add_argument("--only", nargs="*", default=list(WORKLOADS), help="workloads")
    options = parser.parse_args()
    known = list(csv.reader(ROWS.open(encoding="utf-8"))) if ROWS.exists() else []
    rows = {name: [row for row in known if row[0] == name] for name in WORKLOADS}
    with tempfile.TemporaryDirectory() as folder:
        for workload in options.only:
            rows[workload] = list(rows_of_workload(workload, Path(folder), options.peers))
            write(sum(rows.values(), []))


def write(rows):
    """Keep the rows, and write the page."""
    with ROWS.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    columns = [
        "workload", "method", "CPU s fit", "CPU s results", "peak MiB", "relative error",
        "Spearman, W4: share",
    ]  # fmt: skip
    text = f"# Beside other packages\n\n{__doc__.strip()}\n\n{table(columns, rows)}"
    RESULTS.write_text(text, encoding="utf-8")


def rows_of_workload(workload, folder, peers):
    """Rows of the table, as they come."""
    prepare(workload, folder, WORKLOADS[workload])
    problem = Problem(folder, workload)
    reference = Reference(problem)
    for method in [*OWN, *(OTHERS if peers else [])]:
        ending = CANNOT.get((workload, method))
        if ending is None:
            ending = run_apart(workload, method, folder, peers)
        path = result_path(folder, workload, method)
        row = cells(workload, method, reference, path, ending)
        print(*row, sep=" | ", flush=True)
        yield row
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(OWN, sys.argv[2:])
    else:
        main()
