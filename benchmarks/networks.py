"""Which approximation of the curvature predicts the retraining of a network?

A perceptron 784-128-64-10 on 2000 digits of MNIST is trained again on 50 random halves of
its rows, three times each with other seeds. Every method predicts the losses of 200 queries
from the one network that saw all rows:

- LDS: rank correlation with the losses of the retrained networks, mean over the queries,
- rank correlation with the influence by the exact Gauss-Newton matrix,
- processor time of everything after training, on one thread, and peak memory.

Each method runs in a process of its own. Other packages run in an
interpreter that has them, after ``pip install torch==2.13.0 kronfluence==1.0.1 dattri==0.3.0``:

    python -m benchmarks.networks --peers PATH/bin/python
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.frozen import FrozenEstimator
from torch import nn

import skinfluence
from benchmarks.datasets import load_mnist_5k
from skinfluence import ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.metrics import bootstrap_interval, linear_datamodeling_score
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "networks.md"
N_TRAIN, N_QUERIES, N_SUBSETS, N_SEEDS = 2000, 200, 50, 3
WIDTHS = (784, 128, 64, 10)
WEIGHT_DECAY, LEARNING_RATE, MOMENTUM, BATCH, EPOCHS = 1e-3, 0.05, 0.9, 50, 20

# Threads of a machine that does other work too wait for each other.
ONE_THREAD = os.environ | dict.fromkeys(
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1"
)

PEERS = [
    "kronfluence EK-FAC",
    "kronfluence EK-FAC, heuristic damping",
    "kronfluence EK-FAC, damping = decay",
    "dattri EK-FAC",
    "dattri EK-FAC, damping = decay",
    "dattri TRAK",
    "dattri Arnoldi",
]


NOTES = """
skinfluence ran with its defaults, whose ridge is the weight decay of the training plus a damping
found from the data. The other packages do not know the decay; where named they have it as their
damping. kronfluence is shown with its default (1e-8), with its heuristic (0.1 times the mean
eigenvalue of each layer) and with the decay; its labels are sampled, so that its figures vary by
about 0.02 from run to run. dattri's EK-FAC gave NaN without damping, and with the decay nearly the
gradient dot product; it was not tuned further. TRAK had 2048 numbers and one network, Arnoldi 100
eigenpairs.

Landmarks are rows of the Gauss-Newton root, ten for each training row, drawn by their length. A
quarter of the numbers is 295 factored ones of each training row instead of 1181, chosen among the
layers by `sketch_size=0.25`. Memory is that of the process, torch included.
"""

# ---------------------------------------------------------------------------
# The networks
# ---------------------------------------------------------------------------


def make_data():
    """Training rows and queries, in float32."""
    X, y = load_mnist_5k()
    order = np.random.default_rng(0).permutation(len(X))[: N_TRAIN + N_QUERIES]
    X, y = (X[order] / 255).astype(np.float32), y[order]
    return X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:], y[N_TRAIN:]


def make_module():
    """A perceptron with two hidden layers."""
    layers = []
    for d, c in zip(WIDTHS, WIDTHS[1:], strict=False):
        layers += [nn.Linear(d, c), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_many(X, y, subsets, seed):
    """Networks trained side by side on subsets (m, size) of the rows.

    Returns the list of their stacked parameters, (m, c, d) and (m, 1, c) for each layer.
    """
    generator = torch.Generator().manual_seed(seed)
    X, y, subsets = torch.as_tensor(X), torch.as_tensor(y), torch.as_tensor(subsets)
    m, size = subsets.shape
    parameters = []
    for d, c in zip(WIDTHS, WIDTHS[1:], strict=False):
        bound = d**-0.5
        for shape in ((m, c, d), (m, 1, c)):
            values = (2 * torch.rand(shape, generator=generator) - 1) * bound
            parameters.append(values.requires_grad_())
    optimiser = torch.optim.SGD(
        parameters, lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    steps = EPOCHS * (size // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    for step in range(steps):
        if step % (size // BATCH) == 0:
            order = torch.rand((m, size), generator=generator).argsort(dim=1)
        at = BATCH * (step % (size // BATCH))
        rows = subsets.gather(1, order[:, at : at + BATCH])
        loss = nn.functional.cross_entropy(
            outputs_of(parameters, X[rows]).flatten(0, 1), y[rows].flatten(), reduction="none"
        )
        optimiser.zero_grad()
        (loss.sum() / BATCH).backward()
        optimiser.step()
        schedule.step()
    return [p.detach() for p in parameters]


def outputs_of(parameters, X):
    """Outputs (m, n, k) of stacked networks for rows (m, n, d)."""
    h = X
    for i in range(0, len(parameters), 2):
        a = torch.baddbmm(parameters[i + 1], h, parameters[i].transpose(1, 2))
        h = torch.relu(a)
    return a


def prepare(folder):
    """Train everything that the methods are compared on."""
    X, y, X_query, y_query = make_data()
    parameters = train_many(X, y, np.arange(N_TRAIN)[None], seed=0)
    module = make_module()
    with torch.no_grad():
        for own, value in zip(module.parameters(), parameters, strict=True):
            own.copy_(value[0].reshape(own.shape))
    torch.save(module.state_dict(), folder / "module.pt")
    rng = np.random.default_rng(1)
    kept = np.stack([rng.permutation(N_TRAIN)[: N_TRAIN // 2] for _ in range(N_SUBSETS)])
    losses = np.zeros((N_QUERIES, N_SUBSETS))
    each = []
    for seed in range(N_SEEDS):
        networks = train_many(X, y, kept, seed=seed + 1)
        queries = torch.as_tensor(X_query).expand(N_SUBSETS, -1, -1)
        scores = outputs_of(networks, queries).flatten(0, 1)
        target = torch.as_tensor(y_query).repeat(N_SUBSETS)
        loss = nn.functional.cross_entropy(scores, target, reduction="none")
        each.append(loss.reshape(N_SUBSETS, N_QUERIES).T.numpy())
    losses = np.mean(each, axis=0)
    subsets = np.zeros((N_SUBSETS, N_TRAIN), dtype=bool)
    np.put_along_axis(subsets, kept, True, axis=1)
    np.savez(
        folder / "data.npz",
        **{"X": X, "y": y, "X_query": X_query, "y_query": y_query},
        **{"subsets": subsets, "losses": losses, "each": each},
    )
    accuracy = np.mean(module(torch.as_tensor(X_query)).argmax(1).numpy() == y_query)
    print(f"accuracy {accuracy:.3f}, mean loss of retrained networks {losses.mean():.3f}")


# ---------------------------------------------------------------------------
# The methods
# ---------------------------------------------------------------------------


def by_estimator(make, n_queries=N_QUERIES):
    def scores(model, X, y, X_query, y_query):
        return make(model).fit(X, y).influence(X_query[:n_queries], y_query[:n_queries])

    return scores


def gradient_dot_product(model, X, y, X_query, y_query):
    objective = skinfluence.models.objective(model.estimator, X, y, np.ones(len(X)))
    queries = objective.gradient_rows(X_query, objective.encode(y_query))
    return -queries.inner(objective.training_gradient_rows())


def exact(solver, n_queries=N_QUERIES, **params):
    return by_estimator(
        lambda m: ExactInfluence(m, curvature="ggn", solver=solver, **params), n_queries
    )


def kfac(**params):
    return by_estimator(lambda m: KFACInfluence(m, random_state=0, **params))


def sketched(size, curvature="ggn", **params):
    settings = {"sketch_size": size, "curvature": curvature, "random_state": 0, **params}
    return by_estimator(lambda m: SketchedInfluence(m, **settings))


METHODS = {
    "exact GGN (gram)": exact("gram"),
    "exact GGN (cg), 20 queries": exact("cg", n_queries=20, random_state=0),
    "500 landmarks": sketched(500),
    "1000 landmarks": sketched(1000),
    "2000 landmarks": sketched(2000),
    "landmarks, as many as the theory wants": sketched("auto"),
    "1000 landmarks, empirical Fisher": sketched(1000, "empirical_fisher"),
    "sjlt (4096)": sketched(4096, sketch="sjlt"),
    "sjlt (4096), empirical Fisher": sketched(4096, "empirical_fisher", sketch="sjlt"),
    "K-FAC": kfac(eigenvalue_correction=False),
    "K-FAC, a quarter of the numbers": kfac(eigenvalue_correction=False, sketch_size=0.25),
    "EK-FAC": kfac(),
    "EK-FAC, a quarter of the numbers": kfac(sketch_size=0.25),
    "EK-FAC, a quarter, at random": kfac(sketch_size=0.25, sketch="gaussian"),
    "EK-FAC, empirical Fisher": kfac(fisher="empirical"),
    "gradient dot product": gradient_dot_product,
}


def run_method(name, folder):
    """Scores of one method, with its time and the peak memory of this process."""
    data = np.load(folder / "data.npz")
    module = make_module().eval()
    module.load_state_dict(torch.load(folder / "module.pt"))
    arrays = [data[key] for key in ("X", "y", "X_query", "y_query")]
    model = FrozenEstimator(TorchModel(module, l2=WEIGHT_DECAY).fit(*arrays[:2]))
    # Stochastic training ends near a minimum, not at it.
    warnings.filterwarnings("ignore", "TorchModel has not converged")
    # Of one thread the processor's time is what a machine of its own would take.
    start = time.process_time()
    scores = METHODS[name](model, *arrays)
    save(folder, name, scores, time.process_time() - start)


def save(folder, name, scores, seconds):
    """Keep scores, time and the peak memory in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(folder / f"{slug(name)}.npz", scores=scores, seconds=seconds, peak=peak)


def slug(name):
    return "".join(c if c.isalnum() else "_" for c in name)


# ---------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------


def row_correlation(left, right):
    """Mean over the queries of Spearman's correlation over the training rows."""
    ranks = [rankdata(a, axis=1) - (a.shape[1] + 1) / 2 for a in (left, right)]
    product = np.sum(ranks[0] * ranks[1], axis=1)
    return np.mean(product / np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1)))


def table(folder, names):
    """Lines of the table, in Markdown."""
    data = np.load(folder / "data.npz")
    exact_path = folder / f"{slug('exact GGN (gram)')}.npz"
    reference = np.load(exact_path)["scores"] if exact_path.exists() else None
    lines = [
        "| method | LDS (95 % interval) | Spearman with exact GGN | CPU seconds | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        path = folder / f"{slug(name)}.npz"
        if not path.exists():
            lines.append(f"| {name} | failed | | | |")
            continue
        result = np.load(path)
        cost = f"{float(result['seconds']):.1f} | {float(result['peak']):.0f} |"
        if not np.isfinite(result["scores"]).all():
            lines.append(f"| {name} | NaN | | {cost}")
            continue
        scores = result["scores"]
        lds = linear_datamodeling_score(scores, data["subsets"], data["losses"][: len(scores)])
        interval = bootstrap_interval(lds, random_state=0)
        rank = ""
        if reference is not None:
            rank = f"{row_correlation(scores, reference[: len(scores)]):.3f}"
        lines.append(
            f"| {name} | {lds.mean():.3f} ({interval.low:.3f} to {interval.high:.3f}) | "
            f"{rank} | {cost}"
        )
    return lines


def ceiling(folder):
    """LDS that one seed of the refits reaches against the mean of the others."""
    each = np.load(folder / "data.npz")["each"]
    values = [
        row_correlation(each[i], np.delete(each, i, axis=0).mean(axis=0)) for i in range(len(each))
    ]
    return float(np.mean(values))


def main():
    """Run everything, or one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="interpreter that has kronfluence and dattri")
    parser.add_argument("--folder", type=Path, help="where to keep networks and scores")
    parser.add_argument("--only", nargs="*", help="methods to run again")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    if options.method:
        return run_method(options.method, folder)
    folder.mkdir(exist_ok=True, parents=True)
    if not (folder / "data.npz").exists():
        torch.set_num_threads(1)
        prepare(folder)
    names = [*METHODS, *(PEERS if options.peers else [])]
    for name in options.only if options.only is not None else names:
        print(name, flush=True)
        command = [sys.executable, "-m", "benchmarks.networks", "--method", name]
        if name in PEERS:
            command = [options.peers, "-m", "benchmarks.network_peers", "--method", name]
        subprocess.run([*command, "--folder", str(folder)], check=False, env=ONE_THREAD)
    lines = ["# Networks", "", *__doc__.strip().splitlines(), ""]
    lines += table(folder, names)
    lines += ["", f"Refits of one seed against the others: LDS {ceiling(folder):.3f}."]
    lines += [f"One thread, torch {torch.__version__}.", *NOTES.rstrip().splitlines()]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
