"""Which influence predicts the retraining of a network, of four kinds of networks?

A perceptron and a convolutional network on digits, a transformer that tells from which package of
Python's standard library a line of a docstring is, and a language model of the characters of such
lines. Each is trained on all rows, and again on 40 random halves of them, three times with other
seeds. Every method predicts the losses of held-out queries:

- LDS: rank correlation with the mean losses of the retrained networks, mean over the queries,
- rank correlation with the influence by the exact Gauss-Newton matrix of the same training,
- processor time of everything after training (of averages: with their trainings), on one thread,
  and peak memory.

"Averaged" is `AveragedInfluence` over three trainings with other seeds, none of which is the
training of the other rows. Each method runs in a process of its own. kronfluence runs in an
interpreter that has it, after ``pip install torch==2.13.0 kronfluence==1.0.1``:

    python -m benchmarks.network_kinds --peers PATH/bin/python
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from benchmarks.network_modules import DECAY, KINDS
from benchmarks.networks import ONE_THREAD, ceiling, gradient_dot_product, save, slug, table
from skinfluence import AveragedInfluence, ExactInfluence, KFACInfluence, SketchedInfluence
from skinfluence.models.torch import TorchModel

RESULTS = Path(__file__).parent / "results" / "network_kinds.md"
N_SUBSETS, N_SEEDS, N_FITS = 40, 3, 3

PEERS = ["kronfluence EK-FAC, heuristic damping", "kronfluence EK-FAC, damping = decay"]

NOTES = """
skinfluence ran with its defaults, whose ridge is the weight decay of the training plus a damping
found from the data; kronfluence with its heuristic damping, and with the decay as its damping.
kronfluence reads linear and convolutional layers alone, skinfluence embeddings and norms too. The
Gauss-Newton matrix of the language model has 960 rows for each training row, 40 characters at 24
positions: only methods that draw labels, or need one row for each training row, were run, and
their damping was the decay. Refits of one seed are no ceiling of the mean over three seeds, which
has less noise.
"""

# ---------------------------------------------------------------------------
# The networks
# ---------------------------------------------------------------------------


def trained(kind, X, y, seed):
    torch.manual_seed(seed)
    module = kind.module()
    kind.train(module, X, y)
    return module.eval()


def prepare(kind, folder):
    """Train everything that the methods are compared on."""
    X, y, X_query, y_query = kind.split()
    module = trained(kind, X, y, seed=0)
    torch.save(module.state_dict(), folder / "module.pt")
    rng = np.random.default_rng(1)
    subsets = np.zeros((N_SUBSETS, len(X)), dtype=bool)
    for subset in subsets:
        subset[rng.permutation(len(X))[: len(X) // 2]] = True
    each = np.zeros((N_SEEDS, len(X_query), N_SUBSETS))
    for seed in range(N_SEEDS):
        for i, subset in enumerate(subsets):
            refit = trained(kind, X[subset], y[subset], seed=1 + N_SUBSETS * seed + i)
            each[seed, :, i] = kind.losses(refit, X_query, y_query)
    loss = kind.losses(module, X_query, y_query).mean()
    np.savez(
        folder / "data.npz",
        **{"X": X, "y": y, "X_query": X_query, "y_query": y_query, "loss": loss},
        **{"subsets": subsets, "losses": each.mean(axis=0), "each": each},
        n_params=sum(value.numel() for value in module.parameters()),
    )


# ---------------------------------------------------------------------------
# The methods
# ---------------------------------------------------------------------------


def exact(model, **damping):
    return ExactInfluence(model, curvature="ggn", solver="gram", **damping)


def landmarks(curvature="ggn"):
    settings = {"sketch_size": 1000, "curvature": curvature, "random_state": 0}
    return lambda model, **damping: SketchedInfluence(model, **settings, **damping)


def kfac(**params):
    return lambda model, **damping: KFACInfluence(model, random_state=0, **params, **damping)


def averaged(make):
    settings = {"n_fits": N_FITS, "random_state": 0}
    return lambda model, **damping: AveragedInfluence(make(model, **damping), **settings)


METHODS = {
    "exact GGN (gram)": exact,
    "exact GGN (gram), averaged": averaged(exact),
    "1000 landmarks": landmarks(),
    "1000 landmarks, empirical Fisher": landmarks("empirical_fisher"),
    "K-FAC": kfac(eigenvalue_correction=False),
    "EK-FAC": kfac(),
    "EK-FAC, averaged": averaged(kfac()),
    "EK-FAC, sampled labels": kfac(fisher="sampled"),
    "EK-FAC, sampled labels, averaged": averaged(kfac(fisher="sampled")),
    "gradient dot product": None,
}
# These write out a row for every output of every position.
SMALL_ROWS = ("sampled", "Fisher", "gradient")
TOO_LARGE = {
    "language model": [n for n in METHODS if not any(word in n for word in SMALL_ROWS)],
}
# To find a damping from the data takes such rows too.
DAMPING = {"language model": {"damping": DECAY}}


def run_method(name, kind_name, folder):
    """Scores of one method, with its time and the peak memory of this process."""
    kind, data = KINDS[kind_name], np.load(folder / "data.npz")
    X, y, X_query, y_query = (data[key] for key in ("X", "y", "X_query", "y_query"))
    module = kind.module()
    module.load_state_dict(torch.load(folder / "module.pt"))
    settings = {"l2": DECAY, "inputs": X[:1]}
    # The training on all rows is done; averages train again.
    train = kind.train if "averaged" in name else None
    model = TorchModel(module, train=train, **settings)
    # Stochastic training ends near a minimum, not at it.
    warnings.filterwarnings("ignore", "TorchModel has not converged")
    start = time.process_time()
    if METHODS[name] is None:
        frozen = FrozenEstimator(model.fit(X, y))
        scores = gradient_dot_product(frozen, X, y, X_query, y_query)
    else:
        influence = METHODS[name](model, **DAMPING.get(kind_name, {}))
        scores = influence.fit(X, y).influence(X_query, y_query)
    save(folder, name, scores, time.process_time() - start)


def run_all(kind, folder, names, peers):
    """Train, and run every method in a process of its own."""
    folder.mkdir(exist_ok=True, parents=True)
    if not (folder / "data.npz").exists():
        torch.set_num_threads(1)
        prepare(KINDS[kind], folder)
    for name in names:
        if (folder / f"{slug(name)}.npz").exists():
            continue
        print(kind, name, flush=True)
        own = [sys.executable, "-m", "benchmarks.network_kinds"]
        command = [peers, "-m", "benchmarks.network_peers"] if name in PEERS else own
        more = ["--method", name, "--kind", kind, "--folder", str(folder)]
        subprocess.run([*command, *more], check=False, env=ONE_THREAD)


def main():
    """Run everything, or one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="interpreter that has kronfluence")
    parser.add_argument("--folder", type=Path, help="where to keep networks and scores")
    parser.add_argument("--kind", choices=KINDS, help="the only kind to run")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        return run_method(options.method, options.kind, options.folder)
    folder = options.folder or Path(tempfile.mkdtemp())
    lines = ["# Networks of four kinds", "", *__doc__.strip().splitlines()]
    for kind in [options.kind] if options.kind else KINDS:
        own = folder / slug(kind)
        left_out = TOO_LARGE.get(kind, set())
        names = [name for name in METHODS if name not in left_out]
        names += PEERS if options.peers else []
        run_all(kind, own, names, options.peers)
        data = np.load(own / "data.npz")
        lines += ["", f"## {kind.capitalize()}", ""]
        lines += [
            f"{data['n_params']:,} parameters, {len(data['X'])} training rows, "
            f"{len(data['X_query'])} queries with a mean loss of {data['loss']:.2f}. Refits of "
            f"one seed against the mean of the others: LDS {ceiling(own):.3f}.",
            "",
        ]
        lines += table(own, names)
    lines += ["", f"One thread, torch {torch.__version__}.", *NOTES.rstrip().splitlines()]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
