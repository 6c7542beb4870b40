"""How far from the hardware's limit are influence, rankings and leverages on one core?

Each job runs in a process of its own, on one thread. It is timed beside the bare products of
NumPy that nothing can do without, in turn, and the table has medians of the ratios.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.scale

writes ``benchmarks/results/scale.md``. Names of jobs as arguments run those alone and print them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
from scipy.linalg import cholesky, solve_triangular
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

from benchmarks.markdown import table
from skinfluence import ExactInfluence
from skinfluence.diagnostics import leave_one_out_predict

RESULTS = Path(__file__).parent / "results" / "scale.md"
ONE_THREAD = os.environ | dict.fromkeys(
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1"
)
REPEATS = 7
MIB = 2**20

# ---------------------------------------------------------------------------
# Data and models
# ---------------------------------------------------------------------------


def rows_of(n, d, seed=0, n_classes=2):
    """Features and labels of a linear classification."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    scores = X @ np.random.default_rng(99).standard_normal((d, n_classes)) / np.sqrt(d)
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def frozen_logistic(X, y, n_fitted=200_000):
    """A logistic regression at the minimum of some of the rows; influence is that of all."""
    # Newton's method would factorise the Hessian of many classes again and again.
    settings = {"solver": "newton-cholesky"} if y.max() == 1 else {"max_iter": 1_000, "tol": 1e-6}
    model = LogisticRegression(C=1.0, **settings)
    return FrozenEstimator(model.fit(X[:n_fitted], y[:n_fitted]))


def peak():
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(job):
    """Seconds of this process that a job takes."""
    start = time.process_time()
    job()
    return time.process_time() - start


def compared(ours, bare, repeats=REPEATS):
    """Medians of the times of both, taken in turn, and of their ratio."""
    before = peak()
    pairs = np.array([[timed(bare), timed(ours)] for _ in range(repeats)])
    ratio = pairs[:, 1] / pairs[:, 0]
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    return {
        "bare": float(np.median(pairs[:, 0])),
        "ours": float(np.median(pairs[:, 1])),
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "peak": peak(),
        "before": before,
    }


# ---------------------------------------------------------------------------
# Jobs
# ---------------------------------------------------------------------------


def binary(n=20_000, d=200, q=1_000):
    """Fit and all pairs of a binary model; bare: X'X and the scores."""
    (X, y), (Xq, yq) = rows_of(n, d), rows_of(q, d, seed=1)
    model = frozen_logistic(X, y)
    return compared(
        lambda: ExactInfluence(model).fit(X, y).influence(Xq, yq),
        lambda: (X.T @ X, Xq @ X.T),
        repeats=15,
    )


def scores(n=20_000, d=200, q=1_000):
    """All pairs of a fitted binary model; bare: the scores."""
    (X, y), (Xq, yq) = rows_of(n, d), rows_of(q, d, seed=1)
    influence = ExactInfluence(frozen_logistic(X, y)).fit(X, y)
    return compared(lambda: influence.influence(Xq, yq), lambda: Xq @ X.T, repeats=15)


def single_precision(n=20_000, d=200, q=1_000):
    """All pairs of a fitted binary model in single precision; bare: in double precision by us."""
    (X, y), (Xq, yq) = rows_of(n, d), rows_of(q, d, seed=1)
    influence = ExactInfluence(frozen_logistic(X, y)).fit(X, y)
    exact = influence.influence(Xq, yq)
    error = influence.influence(Xq, yq, dtype=np.float32) - exact
    found = compared(
        lambda: influence.influence(Xq, yq, dtype=np.float32),
        lambda: influence.influence(Xq, yq),
        repeats=15,
    )
    size = np.linalg.norm(exact, axis=1)
    return found | {"error": float((np.linalg.norm(error, axis=1) / size).max())}


def ten_classes(n=5_000, d=784, k=10, q=500, **settings):
    """Fit and all pairs of a softmax; bare: the blocks of H, its Cholesky factor, the scores."""
    (X, y), (Xq, yq) = rows_of(n, d, n_classes=k), rows_of(q, d, seed=1, n_classes=k)
    model = frozen_logistic(X, y)
    p = (k - 1) * d
    solved = np.random.default_rng(2).standard_normal((q, k - 1, d))
    residual = np.random.default_rng(3).standard_normal((n, k - 1))

    def bare():
        H = np.empty((k - 1, d, k - 1, d))
        for i in range(k - 1):
            for j in range(i + 1):
                H[i, :, j] = X.T @ (X * residual[:, :1])
        H = H.reshape(p, p)
        H[np.diag_indices(p)] += 1e6
        np.linalg.cholesky(H)
        rows = (residual[:, :, None] * X[:, None]).reshape(n, p)
        return solved.reshape(q, p) @ rows.T

    return compared(
        lambda: ExactInfluence(model, **settings).fit(X, y).influence(Xq, yq), bare, repeats=5
    )


def fitted_million(n=1_000_000, d=100, **settings):
    X, y = rows_of(n, d)
    return X, y, ExactInfluence(frozen_logistic(X, y), **settings).fit(X, y)


def self_influence(**size):
    """Self-influence of all rows; bare: X'X."""
    X, _, influence = fitted_million(**size)
    return compared(influence.self_influence, lambda: X.T @ X)


def leverages(**size):
    """Leave-one-out predictions of a ridge regression, all rows; bare: X'X."""
    X, y = rows_of(**(size or {"n": 1_000_000, "d": 100}))
    y = y + np.random.default_rng(5).standard_normal(len(y))
    influence = ExactInfluence(FrozenEstimator(Ridge(solver="cholesky").fit(X, y))).fit(X, y)

    def ours():
        influence.linearisation_._without_each.clear()
        leave_one_out_predict(influence)

    return compared(ours, lambda: X.T @ X)


def most_influential(q=1_000, k=10, **size):
    """The ten most harmful rows of each query; bare: the scores, by tiles."""
    X, _, influence = fitted_million(**size)
    Xq, yq = rows_of(q, X.shape[1], seed=1)
    out = np.empty((q, 10_000))

    def bare():
        for start in range(0, len(X), 10_000):
            part = X[start : start + 10_000]
            np.matmul(Xq, part.T, out=out[:, : len(part)])

    return compared(lambda: influence.most_influential(Xq, yq, k=k), bare, repeats=5)


def mean_of_queries(q=100_000, **size):
    """Influence on the mean loss of many queries; bare: one product with each side."""
    X, _, influence = fitted_million(**size)
    Xq, yq = rows_of(q, X.shape[1], seed=1)
    w, v = np.ones(q), np.ones(X.shape[1])
    return compared(
        lambda: influence.influence(Xq, yq, reduce="mean"), lambda: (Xq @ v, w @ Xq, X @ v)
    )


def perceptron(n=1_000, q=500, widths=(784, 128, 64, 10), **settings):
    """Fit and all pairs of a perceptron by its Gram matrix; bare: its products and Cholesky."""
    k = widths[-1]
    (X, y), (Xq, yq) = rows_of(n, widths[0], 0, k), rows_of(q, widths[0], 1, k)
    net = MLPClassifier(widths[1:-1], alpha=1e-3, max_iter=3, random_state=0).fit(X, y)
    model, rng = FrozenEstimator(net), np.random.default_rng(2)
    factors = [(rng.standard_normal((n * (k - 1), c)), c) for c in widths[1:]]
    other = [rng.standard_normal((n + q, c)) for c in widths[1:]]

    def bare():
        gram = sum(rows @ rows.T for rows, _ in factors)
        gram[np.diag_indices_from(gram)] += len(gram)
        lower = cholesky(gram.T, lower=True, overwrite_a=True)
        inner = sum(rows @ more.T for (rows, _), more in zip(factors, other, strict=True))
        solved = solve_triangular(lower, inner[:, n:], lower=True)
        solve_triangular(lower, solved, lower=True, trans=1).T @ inner[:, :n]

    def ours():
        fitted = ExactInfluence(model, curvature="ggn", damping=1e-3).fit(X, y)
        return fitted.influence(Xq, yq)

    return compared(ours, bare, repeats=5)


def serving(n=50_000, d=100):
    """One query of a fit that is loaded from a file as a memory map; bare: the score product."""
    X, _, influence = fitted_million(n, d)
    (query, label), v = rows_of(1, d, seed=1), np.ones((1, d))
    with tempfile.TemporaryDirectory() as folder:
        joblib.dump(influence, Path(folder) / "fit.joblib")
        size = (Path(folder) / "fit.joblib").stat().st_size / X.nbytes
        loaded = joblib.load(Path(folder) / "fit.joblib", mmap_mode="r")
        found = compared(lambda: loaded.influence(query, label), lambda: v @ X.T, repeats=101)
    return found | {"size": size}


def growth(sizes=(100_000, 1_000_000, 10_000_000), d=50):
    """Seconds and memory as the rows in a float32 memory map grow."""
    with tempfile.TemporaryDirectory() as folder, config_context(working_memory=64):
        runs = [_of_memory_map(Path(folder) / "X.npy", n, d) for n in sizes]
    times = [seconds for seconds, _ in runs]
    slopes = np.polyfit(np.log(sizes), np.log(np.array(times)), 1)[0]
    return {
        "sizes": list(sizes),
        "times": times,
        "peaks": [peak_of_arrays for _, peak_of_arrays in runs],
        "slopes": slopes.tolist(),
    }


def _of_memory_map(path, n, d, q=100):
    """Seconds of fit, self-influence and rankings, and the peak memory of arrays in MiB."""
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    rng, w = np.random.default_rng(0), np.random.default_rng(1).standard_normal(d)
    y = np.empty(n, dtype=int)
    for start in range(0, n, 100_000):
        part = slice(start, start + 100_000)
        X[part] = rng.standard_normal((len(X[part]), d), dtype=np.float32)
        y[part] = X[part] @ w + rng.logistic(size=len(X[part])) > 0
    X.flush()
    influence = ExactInfluence(frozen_logistic(X, y))
    X = np.load(path, mmap_mode="r")
    jobs = (
        lambda: influence.fit(X, y),
        influence.self_influence,
        lambda: influence.most_influential(X[:q], y[:q]),
    )
    with memory_of_arrays() as peak_of_arrays:
        for job in jobs:
            job()
    return [timed(job) for job in jobs], peak_of_arrays()


@contextmanager
def memory_of_arrays():
    """Largest memory of arrays made inside, in MiB; pages of a memory map are not among them."""
    tracemalloc.start()
    found = []
    yield lambda: found[0]
    found.append(tracemalloc.get_traced_memory()[1] / MIB)
    tracemalloc.stop()


# Name, what it is, what it is measured against, and the target.
JOBS = {
    "scores": (scores, "all pairs, fitted binary model, 20,000 x 200 x 1,000", "scores", "1.3"),
    "binary": (binary, "the same with the fit", "X'X and scores", "1.3"),
    "single_precision": (
        single_precision, "the same scores, `dtype=np.float32`", "ours, in double",
        "0.59",
    ),
    "self_influence": (self_influence, "self-influence, 1,000,000 x 100", "X'X", "3"),
    "leverages": (
        leverages, "`leave_one_out_predict` of Ridge, 1,000,000 x 100", "X'X", "3",
    ),
    "mean_of_queries": (
        mean_of_queries, "`reduce=\"mean\"`, 100,000 queries x 1,000,000 x 100",
        "one product with each side, two with the queries", "two passes",
    ),
    "serving": (
        serving, "one query, fit loaded with `mmap_mode=\"r\"`, 50,000 x 100", "scores", "2",
    ),
    "most_influential": (
        most_influential, "`most_influential(k=10)`, 1,000 queries, 1,000,000 x 100",
        "scores, by tiles", "1.5",
    ),
    "growth": (growth, "", "", ""),
    "perceptron": (
        perceptron, "perceptron of 109,386 parameters by Gram, 1,000 rows, 500 queries, with the "
        "fit", "products of one side of the factors, Cholesky, two solutions, scores", "1.3",
    ),
    "ten_classes": (
        ten_classes, "ten classes with the fit, 5,000 x 784 x 500",
        "blocks of H, Cholesky, scores",
        "1.3",
    ),
}  # fmt: skip

NOTES = """
Times are processor seconds of one thread, medians of {repeats} runs or more of both sides in turn;
memory is the largest of the process and what it had before the first call, with its data. Other
work ran on the same machine and shared its cache.
"""

# ---------------------------------------------------------------------------


def run_alone(name, size):
    """Run a job in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--job", name, "--size", json.dumps(size)]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def ratio_rows(found):
    for name, (_, what, bare, target) in JOBS.items():
        if name not in found or name == "growth":
            continue
        job = found[name]
        low, high = job["quartiles"]
        yield [
            what, bare, f"{job['bare']:.3g}", f"{job['ours']:.3g}",
            f"**{job['ratio']:.2f}** ({low:.2f} to {high:.2f})", target,
            f"{job['peak']:.0f}, {job['before']:.0f}",
        ]  # fmt: skip


def growth_rows(job):
    for n, times, peak_of_arrays in zip(job["sizes"], job["times"], job["peaks"], strict=True):
        yield [f"{n:,}", *(f"{seconds:.2f}" for seconds in times), f"{peak_of_arrays:.0f}"]
    yield ["slope", *(f"{step:.2f}" for step in job["slopes"]), ""]


def report(found):
    """The result page, of the jobs that have run."""
    columns = ["job", "beside", "bare s", "ours s", "ratio", "target", "MiB, before"]
    lines = [
        "# At the hardware's limit",
        "",
        "Made by `python -m benchmarks.scale`.",
        NOTES.format(repeats=5),
        table(columns, ratio_rows(found)),
    ]
    if "single_precision" in found:
        error = found["single_precision"]["error"]
        lines += [
            f"Largest relative error of a query's scores in single precision: {error:.0e}.",
            "",
        ]
    if "serving" in found:
        lines += [f"The file of the fit takes {found['serving']['size']:.2f} times its rows.", ""]
    if "growth" in found:
        columns = ["rows", "fit s", "self-influence s", "100 rankings s", "MiB of arrays"]
        lines += [
            "## As rows grow",
            "",
            "A float32 memory map with 50 columns at `working_memory=64`; slopes are those of log "
            "time against log rows. "
            "Memory is that of arrays beside the map: targets, weights, outputs and residuals in "
            "double precision, a few numbers for each row.",
            "",
            table(columns, growth_rows(found["growth"])),
        ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--job")
    parser.add_argument("--size", default="{}")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    size = json.loads(arguments.size)
    if arguments.job:
        warnings.simplefilter("ignore")
        print(json.dumps(JOBS[arguments.job][0](**size)))
        return
    found = {}
    for name in arguments.names or JOBS:
        found[name] = run_alone(name, size)
        print(name, found[name], flush=True)
        if not arguments.names:
            RESULTS.write_text(report(found))


if __name__ == "__main__":
    main()
