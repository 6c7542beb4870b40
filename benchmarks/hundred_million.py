"""A hundred million training rows on disk, more than the memory that the process may have.

Writes a float32 memory map of raw columns, fits a logistic regression to it in pieces by Newton's
method in NumPy, and measures the influences of the frozen model: time as multiples of reading the
file, errors against the Hessian that Newton's method has added up, and memory, which is limited.

    python -m benchmarks.hundred_million
    python -m benchmarks.hundred_million --rows 10000000 --columns 40
"""

import argparse
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks.markdown import table
from skinfluence import Chunks, ExactInfluence

RESULTS = Path(__file__).parent / "results"

# Rows of a part, and rows of the result that are checked.
PART, CHECKED = 500_000, 200

# Most bytes of memory, addresses and all.
LIMIT = 3 * 2**30

N_QUERIES = 100


class File:
    """Rows of a binary classification on disk, columns in units of their own.

    Parameters
    ----------
    folder : str
        Where the files are.
    n_rows, n_columns : int
        Shape of the features.
    """

    def __init__(self, folder, n_rows, n_columns):
        self.X, self.y = Path(folder) / "X.float32", Path(folder) / "y.int8"
        self.shape = n_rows, n_columns
        self.scale = np.logspace(-3, 3, n_columns)
        # Means up to 100 standard deviations away from 0.
        self.offset = self.scale * np.resize([0.0, 3.0, 30.0, 100.0], n_columns)
        self.edges = [*range(0, n_rows, PART), n_rows]

    @property
    def parts(self):
        """Functions that map one part each, which is unmapped when it is not needed any more."""
        pairs = zip(self.edges[:-1], self.edges[1:], strict=True)
        return [partial(self.part, *pair) for pair in pairs]

    def part(self, start, stop):
        """Rows and labels of a part, as memory maps."""
        n_columns = self.shape[1]
        place = {"mode": "r", "offset": 4 * n_columns * start, "shape": (stop - start, n_columns)}
        labels = {"mode": "r", "offset": start, "shape": (stop - start,)}
        return np.memmap(self.X, np.float32, **place), np.memmap(self.y, np.int8, **labels)

    def some(self, rows):
        """Chosen rows and their labels."""
        pairs = [self.part(row, row + 1) for row in rows.tolist()]
        return [np.concatenate(arrays) for arrays in zip(*pairs, strict=True)]

    def write(self):
        """Draw all rows and their labels."""
        weights = np.random.default_rng(0).standard_normal(self.shape[1]) / 4
        with open(self.X, "wb") as rows, open(self.y, "wb") as labels:
            for start, stop in zip(self.edges[:-1], self.edges[1:], strict=True):
                rng = np.random.default_rng([1, start])
                z = rng.standard_normal((stop - start, self.shape[1]), dtype=np.float32)
                p = 1 / (1 + np.exp(0.5 - z @ weights))
                (rng.random(len(p)) < p).astype(np.int8).tofile(labels)
                (z * self.scale + self.offset).astype(np.float32).tofile(rows)


def read(file):
    """Read every number once."""
    for part in file.parts:
        for array in part():
            np.array(array)


def newton_pass(file, parts, theta, ridge):
    """Gradient and Hessian of the objective of ``(x - offset) / scale``, with an intercept."""
    gradient, hessian = ridge * theta, np.diag(ridge)
    for part in parts:
        X, y = part()
        Z = np.empty((len(y), len(theta)))
        Z[:, :-1] = (X - file.offset) / file.scale
        Z[:, -1] = 1.0
        p = 1 / (1 + np.exp(-(Z @ theta)))
        gradient += (p - y) @ Z
        Z *= np.sqrt(p * (1 - p))[:, None]
        hessian += Z.T @ Z
    return gradient, hessian


def fit(file, n_steps=3):
    """The minimum of the objective of LogisticRegression, and the Hessian there.

    A part alone comes first, and all rows for the last steps.
    """
    ridge = np.append(1 / file.scale**2, 0.0)
    theta = np.zeros(len(ridge))
    for _ in range(8):
        theta -= np.linalg.solve(*newton_pass(file, file.parts[:1], theta, ridge)[::-1])
    for _ in range(n_steps):
        theta -= np.linalg.solve(*newton_pass(file, file.parts, theta, ridge)[::-1])
    model = LogisticRegression(max_iter=1)
    X, y = file.part(0, 1000)
    # The class and the number of features, of a model whose parameters are known already.
    model.classes_, model.n_features_in_, model.n_iter_ = np.unique(y), X.shape[1], np.array([1])
    model.coef_ = (theta[:-1] / file.scale)[None]
    model.intercept_ = theta[-1:] - model.coef_ @ file.offset
    return FrozenEstimator(model), theta, newton_pass(file, file.parts, theta, ridge)[1]


def gradients(file, theta, X, y):
    """Gradients of the losses of rows, in the coordinates of `newton_pass`."""
    Z = np.column_stack([(X - file.offset) / file.scale, np.ones(len(y))])
    return (1 / (1 + np.exp(-(Z @ theta))) - y)[:, None] * Z


class Clock:
    """CPU and wall seconds of what is done, by name."""

    def __init__(self):
        self.seconds = {}

    def __call__(self, name, function):
        cpu, wall = time.process_time(), time.perf_counter()
        result = function()
        self.seconds[name] = time.process_time() - cpu, time.perf_counter() - wall
        print(
            f"{name}: {self.seconds[name][0]:.1f} s of CPU, {self.seconds[name][1]:.1f} s",
            flush=True,
        )
        return result


def peak():
    """Most bytes of addresses that the process has had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmPeak:")[1].split()[0])


def largest_error(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measure(file, clock):
    """Errors of the results against the Hessian of Newton's method, by name."""
    clock("reading the file", partial(read, file))
    model, theta, hessian = clock("Newton's method in NumPy, 4 passes", partial(fit, file))
    influence = ExactInfluence(model)
    clock("`fit`", lambda: influence.fit(Chunks(file.parts)))
    n_rows = file.shape[0]
    rows = np.sort(np.random.default_rng(3).choice(n_rows, CHECKED, replace=False))
    G = gradients(file, theta, *file.some(rows))
    inverse = n_rows * np.linalg.inv(hessian)
    queries = [np.array(array) for array in file.part(7, 7 + N_QUERIES)]
    of_queries = gradients(file, theta, *queries) @ inverse
    errors = {}
    found = clock("`self_influence()`", influence.self_influence)
    errors["`self_influence()`"] = largest_error(
        found[rows], np.einsum("ij,ij->i", G @ inverse, G)
    )
    del found
    name = f'`influence(reduce="mean")` of {N_QUERIES} queries'
    found = clock(name, lambda: influence.influence(*queries, reduce="mean"))
    errors[name] = largest_error(found[rows], -G @ of_queries.mean(axis=0))
    del found
    name = f"`most_influential(k=10)` of {N_QUERIES} queries"
    index, values = clock(name, lambda: influence.most_influential(*queries, k=10))
    leaders = gradients(file, theta, *file.some(index[:, 0]))
    errors[name] = largest_error(values[:, 0], -np.einsum("ij,ij->i", of_queries, leaders))
    return influence, errors


def report(file, clock, influence, errors, n_bytes):
    """The page with all figures."""
    base = clock.seconds["reading the file"]
    rows = [
        [
            name,
            f"{cpu:.0f}",
            f"{cpu / base[0]:.1f}",
            f"{wall:.0f}",
            f"{wall / base[1]:.1f}",
            f"{errors[name]:.0e}" if name in errors else "",
        ]
        for name, (cpu, wall) in clock.seconds.items()
    ]
    head = ["", "CPU s", "times reading", "wall s", "times reading", "relative error"]
    n_rows, n_columns = file.shape
    return f"""# {n_rows:,} rows from a file

Written by `python -m benchmarks.hundred_million`: {n_rows:,} rows of {n_columns} raw columns in
single precision ({n_bytes / 1e9:.1f} GB with the labels), with standard deviations from 0.001 to
1,000 and means up to 100 of them away from 0; a logistic regression that Newton's method has
fitted in pieces, frozen, in `ExactInfluence`. The process may have {LIMIT / 2**30:.0f} GiB of
addresses (`RLIMIT_AS`); it took {peak() / 2**30:.2f} GiB at most, of which one result of
{n_rows:,} numbers is {8 * n_rows / 2**30:.2f} GiB. Parts have {PART:,} rows. One thread, on a
shared machine, whose wall times are of little use.

Errors are the largest of {CHECKED} rows (of the first row of each query) over the largest value,
against the Hessian that Newton's method has added up. The gradient that is left is
{influence.stationarity_:.0e} of the sum of its terms.

{table(head, rows)}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--folder", default=None, help="where the file is written, and removed")
    parser.add_argument("--output", default=RESULTS / "hundred_million.md", type=Path)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = File(folder, arguments.rows, arguments.columns)
        file.write()
        n_bytes = os.path.getsize(file.X) + os.path.getsize(file.y)
        clock = Clock()
        influence, errors = measure(file, clock)
        arguments.output.write_text(report(file, clock, influence, errors, n_bytes))


if __name__ == "__main__":
    main()
