"""What does influence cost on a convolutional network, and on one of 4.9 million parameters?

Networks are trained on digits of MNIST: CNN has two convolutions and two linear layers (94,020
parameters, 1,000 images), MLP is 784-2048-1600-10 (4,902,090 parameters, 2,000 images). Every
method scores 100 queries. The ridge is 1e-3 for all: the weight decay of the training, which the
other packages have as their damping. Shown are

- processor time of the fit (everything after training) and of the scores, on one thread,
- peak memory of the process, torch included,
- the mean rank correlation with the influence by the exact Gauss-Newton matrix, on 20 queries.

"Sampled" stands for one random row of each sample, where the default of K-FAC takes the exact
expectation over the labels; kronfluence draws a label for each sample. Its batches have 256 rows,
and 32 in the scores of the MLP; those of dattri have 100. "Damping found" adds a damping to the
weight decay.

Each method runs in a process of its own, and only the scores of the CNN are compared with the
exact ones. Other packages run in an interpreter that has them, after
``pip install torch==2.13.0 kronfluence==1.0.1 dattri==0.3.0``:

    python -m benchmarks.network_cost --peers PATH/bin/python

writes `benchmarks/results/network_cost.md`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from benchmarks.datasets import load_mnist_5k
from benchmarks.markdown import table
from benchmarks.network_cost_peers import DECAY, NETWORKS, result_path, timed, trained
from benchmarks.networks import ONE_THREAD, row_correlation
from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "network_cost.md"
N_TRAIN, N_QUERIES, N_EXACT = {"CNN": 1000, "MLP": 2000}, 100, 20

# ---------------------------------------------------------------------------
# The networks
# ---------------------------------------------------------------------------


def make_data(n_train):
    """Training rows and queries as images, in float32."""
    X, y = load_mnist_5k()
    order = np.random.default_rng(0).permutation(len(X))[: n_train + N_QUERIES]
    X, y = (X[order] / 255).astype(np.float32).reshape(-1, 1, 28, 28), y[order]
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:]


def prepare(network, folder, *, n_epochs=20, batch=50):
    """Train a network by stochastic gradients with weight decay, and keep it with its data."""
    X, y, X_query, y_query = make_data(N_TRAIN[network])
    torch.manual_seed(0)
    module = NETWORKS[network]()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=DECAY)
    n_steps = n_epochs * (len(X) // batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, n_steps)
    rows, labels = torch.as_tensor(X), torch.as_tensor(y)
    for _ in range(n_epochs):
        for some in torch.randperm(len(X)).split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(rows[some]), labels[some]).backward()
            optimiser.step()
            schedule.step()
    torch.save(module.state_dict(), folder / f"{network}.pt")
    arrays = {"X": X, "y": y, "X_query": X_query, "y_query": y_query}
    np.savez(folder / f"{network}_data.npz", **arrays)


# ---------------------------------------------------------------------------
# The methods
# ---------------------------------------------------------------------------


def by(make, *, n_queries=N_QUERIES, **params):
    """Functions that fit an influence estimator, and then find the scores."""

    def start(model, X, y, X_query, y_query):
        influence = make(model, **{"damping": 0.0, "random_state": 0, **params})
        return (
            lambda: influence.fit(X, y),
            lambda: influence.influence(X_query[:n_queries], y_query[:n_queries]),
        )

    return start


EXACT = "exact GGN (cg), 20 queries"

METHODS = {
    "CNN": {
        EXACT: by(ExactInfluence, curvature="ggn", solver="cg", n_queries=N_EXACT),
        "K-FAC": by(KFACInfluence, eigenvalue_correction=False),
        "EK-FAC": by(KFACInfluence),
        "K-FAC, sampled": by(KFACInfluence, eigenvalue_correction=False, fisher="sampled"),
        "EK-FAC, sampled": by(KFACInfluence, fisher="sampled"),
        "EK-FAC, damping found": by(KFACInfluence, damping="auto"),
        "512 landmarks": by(SketchedInfluence, curvature="ggn", sketch_size=512),
    },
    "MLP": {
        "K-FAC": by(KFACInfluence, eigenvalue_correction=False),
        "EK-FAC": by(KFACInfluence),
    },
}

BOTH = ["kronfluence K-FAC", "kronfluence EK-FAC"]
PEERS = {"CNN": [*BOTH, "dattri EK-FAC"], "MLP": BOTH}


def run_method(network, method, folder):
    """Keep the scores of one method, its time and the peak memory of this process."""
    data = np.load(folder / f"{network}_data.npz")
    arrays = [data[key] for key in ("X", "y", "X_query", "y_query")]
    module = TorchModel(trained(network, folder), l2=DECAY)
    model = FrozenEstimator(module.fit(*arrays[:2]))
    # Stochastic training ends near a minimum, not at it.
    warnings.filterwarnings("ignore", "TorchModel has not converged")
    result = timed(*METHODS[network][method](model, *arrays))
    np.savez(result_path(folder, network, method), **result)


# ---------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------


def cells(network, method, folder):
    """One row of the table."""
    path = result_path(folder, network, method)
    if not path.exists():
        return [network, method, "failed", "", "", ""]
    result, exact = np.load(path), result_path(folder, network, EXACT)
    fit, score = result["seconds"]
    rank = ""
    if exact.exists():
        reference = np.load(exact)["scores"]
        rank = f"{row_correlation(result['scores'][: len(reference)], reference):.3f}"
    return [network, method, f"{fit:.1f}", f"{score:.1f}", f"{float(result['peak']):.0f}", rank]


def main():
    """Run everything, or one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="interpreter that has kronfluence")
    parser.add_argument("--folder", type=Path, help="where to keep networks and scores")
    parser.add_argument("--only", nargs="*", help="methods to run again")
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    if options.method:
        return run_method(options.network, options.method, folder)
    folder.mkdir(exist_ok=True, parents=True)
    torch.set_num_threads(1)
    rows = []
    for network, methods in METHODS.items():
        if not (folder / f"{network}_data.npz").exists():
            prepare(network, folder)
        names = [*methods, *(PEERS[network] if options.peers else [])]
        for name in names:
            if options.only is None or name in options.only:
                run_apart(network, name, folder, options.peers)
            rows.append(cells(network, name, folder))
    columns = ["network", "method", "CPU s fit", "CPU s scores", "peak MiB", "Spearman, exact GGN"]
    text = f"# Cost of influence on networks\n\n{__doc__.strip()}\n\n{table(columns, rows)}"
    RESULTS.write_text(f"{text}\nOne thread, torch {torch.__version__}.\n", encoding="utf-8")
    print(text)


def run_apart(network, method, folder, peers):
    """Run one method in a process of its own."""
    print(network, method, flush=True)
    command = [sys.executable, "-m", "benchmarks.network_cost"]
    if method in PEERS[network]:
        command = [peers, "-m", "benchmarks.network_cost_peers"]
    command += ["--network", network, "--method", method, "--folder", str(folder)]
    subprocess.run(command, check=False, env=os.environ | ONE_THREAD)


if __name__ == "__main__":
    main()
