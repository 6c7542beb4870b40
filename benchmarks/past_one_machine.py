"""What two workers are worth: threads, processes and a dask cluster on the loopback address.

    python -m benchmarks.past_one_machine

writes ``benchmarks/results/past_one_machine.md``. Needs dask and distributed.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import psutil
from distributed import Client, LocalCluster
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

from benchmarks.markdown import table
from skinfluence import ExactInfluence
from skinfluence.metrics import retrain_on_subsets
from skinfluence.refitting.loss_cache import PROCESS_STORE

RESULTS = Path(__file__).parent / "results"
# Medians of so many runs of a loop of seconds, and of one of less.
REPEATS, REPEATS_OF_SHORT = 3, 9
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


def jobs():
    """Name of a loop, the function that runs it, and the backends that move it."""
    X, y = data(4000, 30)
    network = MLPClassifier((40,), max_iter=40, tol=0.0, random_state=0, n_iter_no_change=100)
    yield "20 refits of a perceptron", lambda k: refits(network, X, y, 20, k), ("loky", "dask")
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
            expected, seconds = wall(lambda: work(1))
            alone.append(seconds)
            found, seconds = wall(lambda: work(None if backend != "threading" else 2))
            together.append(seconds)
            gap = max(gap, np.abs(found - expected).max())
    return median(alone), median(together), gap


def bytes_of_a_file():
    """Bytes that pass through the loopback device while rows in a file are refitted on."""
    X, y = data(131_072, 100)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npy")
        np.save(path, X)
        rows = np.load(path, mmap_mode="r")
        before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        with joblib.parallel_config("dask"):
            found = refits(GaussianNB(), rows, y, 8, None)
        sent = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before
        gap = np.abs(found - refits(GaussianNB(), X, y, 8, 1)).max()
    return X.nbytes, sent, gap


def main():
    cells = []
    with LocalCluster(**CLUSTER) as cluster, Client(cluster):
        for name, work, backends in jobs():
            for backend in backends:
                alone, together, gap = compare(work, backend)
                row = [name, backend, f"{alone:.1f}", f"{together:.1f}"]
                cells.append([*row, f"{alone / together:.2f}", f"{gap:.0e}"])
                print(*cells[-1], flush=True)
        size, sent, gap = bytes_of_a_file()
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
        f"while its two workers made 8 refits; largest difference {gap:.0e}.",
    ]
    (RESULTS / "past_one_machine.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
