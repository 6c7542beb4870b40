"""How near does `damping="auto"` come to the best damping of a network?

Three networks are trained again on random halves of their rows:

- MLP: a perceptron 784-128-64-10 on 2000 digits of MNIST by SGD with weight decay (`networks.py`),
  50 halves, three seeds,
- digits: scikit-learn's MLPClassifier with one hidden layer of 32 and its defaults (Adam, 200
  epochs, hardly a penalty) on 898 digits, 60 halves, two seeds,
- conv: the convolutional network of `network_refits.py`, trained to its minimum with weight decay
  on 898 digits, 50 halves, one seed.

For each curvature the linear datamodeling score (LDS, mean over the queries) at the damping that
"auto" finds is compared with the scores on a grid, in half decades of the mean eigenvalue from
0.001 to 1000. The 95 % interval of the difference is by the spread over the queries. The second
table has other rules that were tried, for the same fits.

    OMP_NUM_THREADS=1 python -m benchmarks.damping

writes `benchmarks/results/damping.md`; with `--folder`, refits are kept there.
"""

import argparse
import pickle
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from benchmarks import damping_rules, network_refits, networks
from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    SketchedInfluence,
)
from skinfluence.metrics import bootstrap_interval, linear_datamodeling_score
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "damping.md"
GRID = 10.0 ** np.arange(-3, 3.1, 0.5)
N_QUERIES = 300

# ---------------------------------------------------------------------------
# Networks and their refits: rows, queries, subsets and losses (n_queries, n_subsets)
# ---------------------------------------------------------------------------


def of_mnist(folder):
    folder = folder / "mnist"
    if not (folder / "data.npz").exists():
        folder.mkdir(exist_ok=True, parents=True)
        networks.prepare(folder)
    data = np.load(folder / "data.npz")
    module = networks.make_module().eval()
    module.load_state_dict(torch.load(folder / "module.pt"))
    X, y = data["X"], data["y"]
    model = TorchModel(module, l2=networks.WEIGHT_DECAY).fit(X, y)
    return model, X, y, data["X_query"], data["y_query"], data["subsets"], data["each"].mean(0)


def digits():
    X, y = load_digits(return_X_y=True)
    X, X_query, y, y_query = train_test_split(X / 16, y, test_size=0.5, random_state=0)
    return X, y, X_query[:N_QUERIES], y_query[:N_QUERIES]


def refitted(path, subsets, n_seeds, losses_of):
    """Losses of refits, mean over the seeds, kept in a file."""
    if not path.exists():
        each = [[losses_of(kept, seed + 1) for kept in subsets] for seed in range(n_seeds)]
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(pickle.dumps(np.mean(each, axis=0).T))
    return pickle.loads(path.read_bytes())


def halves(n, n_subsets):
    rng = np.random.default_rng(1)
    kept = np.zeros((n_subsets, n), dtype=bool)
    for row in kept:
        row[rng.permutation(n)[: n // 2]] = True
    return kept


def of_digits(folder):
    X, y, X_query, y_query = digits()
    model = MLPClassifier((32,), random_state=0)

    def losses_of(kept, seed):
        other = clone(model).set_params(random_state=seed).fit(X[kept], y[kept])
        return -other.predict_log_proba(X_query)[np.arange(len(y_query)), y_query]

    subsets = halves(len(X), 60)
    losses = refitted(folder / "digits.pkl", subsets, 2, losses_of)
    return model.fit(X, y), X, y, X_query, y_query, subsets, losses


def of_conv(folder):
    X, y, X_query, y_query = digits()

    def losses_of(kept, seed):
        module = network_refits.train(network_refits.make_module(seed), X[kept], y[kept])
        return network_refits.losses(module, X_query, y_query)

    subsets = halves(len(X), 50)
    losses = refitted(folder / "conv.pkl", subsets, 1, losses_of)
    module = network_refits.train(network_refits.make_module(), X, y, max_iter=400)
    model = TorchModel(module, l2=network_refits.WEIGHT_DECAY).fit(X, y)
    return model, X, y, X_query, y_query, subsets, losses


NETWORKS = {"digits": of_digits, "conv": of_conv, "MLP": of_mnist}

# ---------------------------------------------------------------------------
# Curvatures and their scores
# ---------------------------------------------------------------------------


def sketched(size, kind="ggn", **params):
    def make(model, damping):
        settings = {"curvature": kind, "sketch_size": size, "random_state": 0, **params}
        return SketchedInfluence(model, damping=damping, **settings)

    return make


def kfac(**params):
    return lambda model, damping: KFACInfluence(model, damping=damping, **params)


def exact(model, damping):
    return ExactInfluence(model, damping=damping, curvature="ggn", solver="direct")


def head(model, damping):
    return ClassifierHeadInfluence(model, damping=damping)


LARGE = {
    "1000 landmarks": sketched(1000),
    "500 landmarks": sketched(500),
    "1000 landmarks, empirical Fisher": sketched(1000, "empirical_fisher"),
}
SMALL = {
    "500 landmarks": sketched(500),
    "100 landmarks": sketched(100),
    "sjlt (500)": sketched(500, sketch="sjlt"),
    "300 landmarks, empirical Fisher": sketched(300, "empirical_fisher"),
}
KRONECKER = {
    "K-FAC": kfac(eigenvalue_correction=False),
    "EK-FAC": kfac(),
    "EK-FAC, empirical Fisher": kfac(fisher="empirical"),
    "head": head,
}
CURVATURES = {
    "digits": {"exact GGN": exact} | SMALL | KRONECKER,
    "conv": SMALL | KRONECKER,
    "MLP": LARGE | KRONECKER,
}


class Scores:
    """LDS of one curvature at any damping.

    Parameters
    ----------
    make : callable
        ``make(model, damping)`` gives an influence estimator.
    network : tuple
        Model, rows, targets, queries, their targets, subsets and losses.
    """

    def __init__(self, make, network):
        model, self.X, self.y, *self.truth = network
        self.make = lambda damping: make(FrozenEstimator(model), damping).fit(self.X, self.y)
        start = time.process_time()
        self.fit = self.make("auto")
        self.seconds_auto = time.process_time() - start
        start = time.process_time()
        self.make(self.fit.damping_)
        self.seconds = time.process_time() - start
        linearisation = self.fit.linearisation_
        self.rows = None
        self.scale = linearisation.objective.mean_eigenvalue(self.fit.curvature)

    def at(self, damping):
        """LDS of every query, (n_queries,)."""
        X_query, y_query, subsets, losses = self.truth
        fit = self._fit_at(damping)
        if fit.training_rows is not self.rows:
            # Most dampings share these.
            self.rows, self.totals = fit.training_rows, fit.sums_of_training_rows(subsets)
            self.queries = fit.query_rows(fit.read(X_query), y_query)
        # H is symmetric, and there are fewer subsets than queries.
        solved = fit.solve(self.totals).toarray()
        sums = -(self.queries @ np.ascontiguousarray(solved.T))
        return linear_datamodeling_score(sums, np.eye(len(subsets), dtype=bool), losses)

    def _fit_at(self, damping):
        if not hasattr(self.fit, "with_damping"):
            return self.fit.linearisation_.at_damping(damping)
        other = self.fit.with_damping(damping)
        # A sketch that scales columns by their ridge is drawn again.
        return (self.make(damping) if other is None else other).linearisation_


def row(network, curvature, scores):
    """A line of the first table, and the LDS on the grid."""
    auto = scores.at(scores.fit.damping_)
    grid = [scores.at(scores.scale * multiple) for multiple in GRID]
    means = np.array([values.mean() for values in grid])
    best = int(np.argmax(means))
    gap = bootstrap_interval(auto - grid[best], random_state=0)
    tenth = means[np.argmin(np.abs(GRID - 0.1))]
    share = scores.seconds_auto - scores.seconds
    return (
        f"| {network} | {curvature} | {auto.mean():.3f} at "
        f"{scores.fit.damping_ / scores.scale:.2g} | {means[best]:.3f} at {GRID[best]:.2g} | "
        f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) | {tenth:.3f} | "
        f"{scores.seconds:.2f} + {max(share, 0):.2f} |"
    )


def rule_row(network, curvature, scores):
    """A line of the second table: LDS by every rule that was tried."""
    found = damping_rules.dampings(scores.fit, scores.X, scores.y)
    cells = [
        f"{scores.at(damping).mean():.3f} at {damping / scores.scale:.2g}"
        for damping in found.values()
    ]
    return f"| {network} | {curvature} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to keep refits")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*has not converged")
    warnings.filterwarnings("ignore", message=".*haven't converged")
    rows, rules = [], []
    for name, load in NETWORKS.items():
        network = load(folder)
        for curvature, make in CURVATURES[name].items():
            scores = Scores(make, network)
            rows.append(row(name, curvature, scores))
            print(rows[-1], flush=True)
            if curvature in damping_rules.SHOWN:
                rules.append(rule_row(name, curvature, scores))
                print(rules[-1], flush=True)
            write(rows, rules)


def write(rows, rules):
    """Write what is known of both tables."""
    lines = ["# Damping of networks", "", *__doc__.strip().splitlines(), "", *HEADER, *rows]
    names = damping_rules.RULES
    lines += ["", *damping_rules.__doc__.strip().splitlines(), ""]
    lines += [f"| network | curvature | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    RESULTS.write_text("\n".join([*lines, *rules]) + "\n", encoding="utf-8")


HEADER = [
    "Dampings are multiples of the mean eigenvalue of each curvature; LDS 0.1 is the score at a "
    "tenth of it, the rule of earlier versions. Seconds are processor time of a fit with a given "
    'damping, and what "auto" adds.',
    "",
    '| network | curvature | LDS with "auto" | best of the grid | difference (95 % interval) | '
    "LDS 0.1 | seconds |",
    "|---|---|---|---|---|---|---|",
]

if __name__ == "__main__":
    main()
