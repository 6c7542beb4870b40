"""The networks of `benchmarks.network_cost`, and the other packages there.

Runs by ``-m`` in an interpreter that has the packages, without skinfluence. Scores of these
packages are positive for helpful rows; they are stored with the opposite sign, that of
skinfluence.
"""

import argparse
import resource
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# The ridge of all methods: the packages that know no weight decay have it as their damping.
DECAY = 1e-3


def convolutional():
    """Two convolutions and two linear layers, 94,020 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 110),
        nn.ReLU(),
        nn.Linear(110, 10),
    )


def perceptron():
    """Three linear layers, 4,902,090 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 2048),
        nn.ReLU(),
        nn.Linear(2048, 1600),
        nn.ReLU(),
        nn.Linear(1600, 10),
    )


NETWORKS = {"CNN": convolutional, "MLP": perceptron}


def trained(network, folder):
    """A network with the parameters that were found."""
    module = NETWORKS[network]()
    module.load_state_dict(torch.load(folder / f"{network}.pt"))
    return module.eval()


def by_kronfluence(strategy):
    """Functions that find the factors, and then the scores."""

    def start(module, train, queries, folder):
        from kronfluence.arguments import FactorArguments, ScoreArguments

        from benchmarks.network_peers import kronfluence_analyzer

        # The gradients of so many rows of the perceptron take 0.6 GiB.
        size = 256 if len(train) == 1000 else 32
        analyzer = kronfluence_analyzer(module, folder / f"kronfluence_{strategy}_{size}")

        def fit():
            analyzer.fit_all_factors(
                "factors",
                train,
                per_device_batch_size=256,
                factor_args=FactorArguments(strategy=strategy),
                overwrite_output_dir=True,
            )

        def score():
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                queries,
                train,
                per_device_query_batch_size=100,
                per_device_train_batch_size=size,
                score_args=ScoreArguments(damping_factor=DECAY),
                overwrite_output_dir=True,
            )
            return -analyzer.load_pairwise_scores("scores")["all_modules"].numpy()

        return fit, score

    return start


def by_dattri(module, train, queries, folder):
    """Functions that find the factors of EK-FAC, and then the scores, by dattri."""
    from dattri.algorithm import IFAttributorEKFAC
    from dattri.task import AttributionTask

    def loss(parameters, data):
        inputs, labels = data
        logits = torch.func.functional_call(module, parameters, inputs)
        return nn.functional.cross_entropy(logits, labels)

    task = AttributionTask(loss_func=loss, model=module, checkpoints=module.state_dict())
    attributor = IFAttributorEKFAC(task, damping=DECAY)
    rows, asked = (DataLoader(part, batch_size=100) for part in (train, queries))

    def score():
        with torch.no_grad():
            return -attributor.attribute(rows, asked).T.numpy()

    return lambda: attributor.cache(rows), score


METHODS = {
    "kronfluence K-FAC": by_kronfluence("kfac"),
    "kronfluence EK-FAC": by_kronfluence("ekfac"),
    "dattri EK-FAC": by_dattri,
}


def timed(fit, score):
    """Scores, processor time of the fit and of the scores, and peak memory in MiB."""
    start = time.process_time()
    fit()
    fitted = time.process_time()
    scores = score()
    seconds = fitted - start, time.process_time() - fitted
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"scores": scores, "seconds": seconds, "peak": peak}


def result_path(folder, network, method):
    """Where the result of a method is kept."""
    slug = "".join(c if c.isalnum() else "_" for c in f"{network} {method}")
    return folder / f"{slug}.npz"


def main():
    """Run one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    data = np.load(options.folder / f"{options.network}_data.npz")
    train = TensorDataset(torch.as_tensor(data["X"]), torch.as_tensor(data["y"]))
    queries = TensorDataset(torch.as_tensor(data["X_query"]), torch.as_tensor(data["y_query"]))
    module = trained(options.network, options.folder)
    # Imports are not what is compared.
    import_module("dattri.algorithm" if "dattri" in options.method else "kronfluence.analyzer")
    result = timed(*METHODS[options.method](module, train, queries, options.folder))
    np.savez(result_path(options.folder, options.network, options.method), **result)


if __name__ == "__main__":
    main()
