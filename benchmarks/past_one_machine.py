"""What two workers are worth: threads, processes and a dask cluster on the loopback address.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.past_one_machine

writes ``benchmarks/results/past_one_machine.md``. Needs dask and distributed.
"""

import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import psutil
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

from benchmarks.markdown import table
from skinfluence import Chunks, ExactInfluence
from skinfluence.metrics import retrain_on_subsets
from skinfluence.refitting.loss_cache import PROCESS_STORE

RESULTS = Path(__file__).parent / "results"
# Medians of so many runs of a loop of seconds, and of one of less.
REPEATS, REPEATS_OF_SHORT = 3, 5
CLUSTER = {
    "n_workers": 2,
    "threads_per_worker": 1,
    "host": "127.0.0.1",
    "dashboard_address": None,
}


def data(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, (X @ rng.standard_normal(d) + rng.standard_normal(n) > 0).astype(int)


def refits(model, X, y, n_subsets, n_jobs):
    """Losses of refits, made anew."""
    PROCESS_STORE.clear()
    return retrain_on_subsets(
        model, X, y, X[:50], y[:50], n_subsets=n_subsets, random_state=0, n_jobs=n_jobs
    ).losses


def passes(rows, y, model, n_jobs):
    """Self-influence of a fit on chunks of rows in a file, and the rows that rank first."""
    chunks = Chunks.from_array(rows, y, chunk_size=50_000)
    influence = ExactInfluence(model, n_jobs=n_jobs).fit(chunks)
    _, values = influence.most_influential(rows[:200], y[:200], k=10)
    return np.append(influence.self_influence(), values)


def jobs(folder):
    """Name of a loop, the function that runs it, and the backends that move it."""
    X, y = data(4000, 30)
    short = GaussianNB()
    yield "100 refits of a few milliseconds", lambda k: refits(short, X, y, 100, k), ("loky",)
    network = MLPClassifier((40,), max_iter=40, tol=0.0, random_state=0, n_iter_no_change=100)
    yield "40 refits of a perceptron", lambda k: refits(network, X, y, 40, k), ("loky",)
    yield "130 refits of a perceptron", lambda k: refits(network, X, y, 130, k), ("dask",)
    Xc, yc = data(20_000, 60)
    model = LogisticRegression(solver="newton-cholesky")
    yield (
        "128 refits in closed form",
        lambda k: refits(model, Xc, yc, 128, k),
        ("threading", "dask"),
    )
    Xi, yi = data(50_000, 100)
    fits = {k: ExactInfluence(model, n_jobs=k, batch_size=2000).fit(Xi, yi) for k in (1, 2)}
    yield (
        "1,000 x 50,000 scores",
        lambda k: fits[k or 2].influence(Xi[:1000], yi[:1000]),
        ("threading",),
    )
    rows, yr = rows_in_a_file(folder, 800_000, 60)
    model = FrozenEstimator(model.fit(rows, yr))
    yield (
        "four passes over 800,000 x 60 in a file, by chunks",
        lambda k: passes(rows, yr, model, k),
        ("threading", "loky", "dask"),
    )


def rows_in_a_file(folder, n, d):
    """A memory map in single precision, and labels."""
    X, y = data(n, d)
    path = os.path.join(folder, f"rows_{n}.npy")
    np.save(path, X.astype(np.float32))
    return np.load(path, mmap_mode="r"), y


def wall(work):
    """Result of some work, and its wall seconds."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def compare(work, backend):
    """Median seconds alone and with two workers, taken in turn, and the largest difference."""
    alone, together, gap = [], [], 0.0
    with joblib.parallel_config(backend, **({} if backend == "dask" else {"n_jobs": 2})):
        # Workers import packages once.
        work(None if backend != "threading" else 2)
        while len(alone) < (REPEATS_OF_SHORT if max(alone, default=0) < 3 else REPEATS):
            # dask takes no word for one worker: its cluster would have the loop alone, too.
            with joblib.parallel_config("sequential"):
                expected, seconds = wall(lambda: work(1))
            alone.append(seconds)
            found, seconds = wall(lambda: work(None if backend != "threading" else 2))
            together.append(seconds)
            gap = max(gap, np.abs(found - expected).max())
    return median(alone), median(together), gap


def bytes_of_a_file(folder):
    """Bytes that pass through the loopback device while a cluster works on rows in a file.

    Size of the file, then for refits and for passes over chunks: bytes sent, and the largest
    difference from the same alone.
    """
    rows, y = rows_in_a_file(folder, 262_144, 100)
    model = FrozenEstimator(LogisticRegression(solver="newton-cholesky").fit(rows, y))
    for work in (
        lambda k: refits(GaussianNB(), rows, y, 8, k),
        lambda k: passes(rows, y, model, k),
    ):
        before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        with joblib.parallel_config("dask"):
            found = work(None)
        sent = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before
        yield rows.nbytes, sent, np.abs(found - work(1)).max()


def main():
    # So many iterations are asked for, whether they end at the minimum or not.
    warnings.simplefilter("ignore", ConvergenceWarning)
    cells = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(**CLUSTER) as cluster,
        Client(cluster),
    ):
        for name, work, backends in jobs(folder):
            for backend in backends:
                alone, together, gap = compare(work, backend)
                row = [name, backend, f"{alone:.1f}", f"{together:.1f}"]
                cells.append([*row, f"{alone / together:.2f}", f"{gap:.0e}"])
                print(*cells[-1], flush=True)
        (size, sent, gap), (_, of_chunks, gap_of_chunks) = bytes_of_a_file(folder)
    load = os.getloadavg()[1]
    lines = [
        "# Two workers",
        "",
        "Made by `python -m benchmarks.past_one_machine`: wall seconds, medians of "
        f"{REPEATS} ({REPEATS_OF_SHORT} of less than 3 s), alone and with two workers in turn, "
        "one thread of BLAS each, on "
        f"{joblib.cpu_count()} cores. The load of the machine over the last five minutes was "
        f"{load:.1f}, this benchmark included: what others take, two workers cannot have. The "
        "cluster of dask has two processes on the loopback address.",
        "",
        table(["loop", "backend", "alone, s", "two, s", "faster by", "difference"], cells),
        f"Rows in a file (a memory map of {size / 1e6:.0f} MB): {sent / 1e6:.1f} MB passed "
        "through the loopback device, targets, weights, subsets and the messages of the cluster, "
        f"while its two workers made 8 refits; largest difference {gap:.0e}. While they made the "
        f"four passes over its chunks, {of_chunks / 1e6:.1f} MB: curvatures, solutions, and what "
        f"each row has of self-influence; largest difference {gap_of_chunks:.0e}.",
    ]
    (RESULTS / "past_one_machine.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
