"""One run of one method of `benchmarks.peers`, in a process with limits of memory and of time.

Results have the scale and the sign of skinfluence: ``-g_t' H^{-1} g_p`` with the Hessian of the
mean loss, positive for harmful rows. Imports no other package than NumPy and, for those that use
it, torch.
"""

import argparse
import json
import re
import resource
import time
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

# Numbers of gradients that a package has at a time, where the answer does not depend on it, and as
# many rows at most; and queries, where their scores with all rows are not kept.
NUMBERS, ROWS, QUERIES = 2_000_000, 10_000, 50


@dataclass
class Problem:
    """Data and fitted weights of one workload.

    Parameters
    ----------
    folder : Path
        Where arrays and settings are.
    workload : str
        Name of the workload.
    """

    folder: Path
    workload: str

    def __post_init__(self):
        for name in ("X", "y", "X_query", "y_query", "weights"):
            setattr(self, name, np.load(self.folder / f"{self.workload}_{name}.npy"))
        settings = json.loads((self.folder / f"{self.workload}.json").read_text())
        self.ridge, self.asks, self.k = settings["ridge"], settings["asks"], settings["k"]

    def first(self, n, d):
        """The same problem with a few rows, queries and columns."""
        few = copy(self)
        few.X, few.y, few.weights = self.X[:n, :d].copy(), self.y[:n], self.weights[:, :d].copy()
        few.X_query, few.y_query = self.X_query[:n, :d].copy(), self.y_query[:n]
        return few

    @property
    def n_params(self):
        """Parameters of the model."""
        return self.weights.size

    @property
    def model(self):
        """The model as one of scikit-learn, fitted."""
        from sklearn.linear_model import LogisticRegression

        C = 1 / (self.ridge * len(self.y))
        model = LogisticRegression(C=C, fit_intercept=False, solver="newton-cholesky")
        model.coef_, model.classes_ = self.weights, np.unique(self.y)
        model.intercept_, model.n_features_in_ = np.zeros(len(self.weights)), self.X.shape[1]
        return model

    @property
    def batch_size(self):
        """Rows that a package takes at a time."""
        return min(ROWS, NUMBERS // self.n_params)

    # What torch packages need.

    @cached_property
    def module(self):
        """The model in double precision; two classes have one logit, beside a 0."""
        import torch
        from torch import nn

        class Linear(nn.Module):
            def __init__(self, weights):
                super().__init__()
                self.linear = nn.Linear(weights.shape[1], len(weights), bias=False)
                self.linear.weight.data = torch.tensor(weights)

            def forward(self, X):
                logits = self.linear(X)
                if logits.shape[-1] > 1:
                    return logits
                return torch.cat([torch.zeros_like(logits), logits], dim=-1)

        return Linear(self.weights).double().eval()

    @property
    def rows(self):
        """Training rows as tensors."""
        return _tensors(self.X, self.y)

    @property
    def queries(self):
        """Queries as tensors."""
        return _tensors(self.X_query, self.y_query)

    def loader(self, tensors, size=None):
        """Batches of rows in their order, taken from the tensors at once."""
        from torch.utils.data import DataLoader

        return DataLoader(Table(*tensors), batch_size=size or len(tensors[0]), collate_fn=tuple)

    def groups(self):
        """Slices of the queries that are scored at a time."""
        size = QUERIES if self.asks == "largest" else len(self.y_query)
        return [slice(i, i + size) for i in range(0, len(self.y_query), size)]

    def finish(self, blocks, scale):
        """Scores of groups of queries, or the positions and values of the ten most harmful rows.

        ``scale`` times the scores are those of skinfluence.
        """
        if self.asks == "all pairs":
            (scores,) = blocks
            return {"scores": scores, "scale": scale}
        found = [_first(np.asarray(scores), self.k, np.sign(scale)) for scores in blocks]
        return {
            "indices": np.concatenate([indices for indices, _ in found]),
            "values": scale * np.concatenate([values for _, values in found]),
        }


class Table:
    """A data set that gives many rows at once."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.X[i], self.y[i]

    def __getitems__(self, rows):
        part = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        return self.X[part], self.y[part]


def _tensors(X, y):
    import torch

    return torch.from_numpy(X), torch.from_numpy(y)


def _first(scores, k, sign):
    """Positions and values of the k largest of each row, or of the smallest, first ones first."""
    some = slice(-k, None) if sign > 0 else slice(0, k)
    place = np.argpartition(scores, -k if sign > 0 else k, axis=1)[:, some]
    values = np.take_along_axis(scores, place, axis=1)
    order = np.argsort(-sign * values, axis=1)
    return tuple(np.take_along_axis(found, order, axis=1) for found in (place, values))


# ---------------------------------------------------------------------------
# One run
# ---------------------------------------------------------------------------


def limit(memory, seconds):
    """Let this process have so many bytes of arrays, and so many processor seconds."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # Beyond the first of both numbers a signal says why, beyond the second none does.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))


def measured(fit, score):
    """Results, with processor time of the fit and of the results, and peak memory in MiB."""
    start = time.process_time()
    fit()
    fitted = time.process_time()
    found = score()
    seconds = fitted - start, time.process_time() - fitted
    return found | {"seconds": seconds, "peak": peak()}


def peak():
    """Peak memory of this process in MiB; ru_maxrss would count that of its parent too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def result_path(folder, workload, method):
    """Where the results of a method are kept."""
    slug = "".join(c if c.isalnum() else "_" for c in f"{workload} {method}")
    return folder / f"{slug}.npz"


def run(methods, arguments=None):
    """Run one method, named by arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", required=True)
    parser.add_argument("--method", choices=methods, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    options = parser.parse_args(arguments)
    problem = Problem(options.folder, options.workload)
    method = methods[options.method]
    # What a package imports at its first call is not what is compared.
    measured(*method(problem.first(200, 5)))
    limit(options.memory, options.seconds + int(time.process_time()))
    result = measured(*method(problem))
    seconds = [result["seconds"]]
    # Short runs are told apart by several of them.
    while len(seconds) < 5 and np.sum(seconds) < 10:
        seconds.append(measured(*method(problem))["seconds"])
    result["seconds"] = np.median(seconds, axis=0)
    # The own scale of a package costs it nothing.
    if "scale" in result:
        result["scores"] = result.pop("scale") * np.asarray(result["scores"])
    np.savez(result_path(options.folder, options.workload, options.method), **result)
