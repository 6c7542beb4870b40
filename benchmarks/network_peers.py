"""The other packages of `benchmarks.networks`, run in an interpreter that has them.

Scores of these packages are positive for helpful rows; they are stored with the opposite
sign, that of skinfluence.
"""

import argparse
import resource
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.network_modules import KINDS

WIDTHS = (784, 128, 64, 10)

# These packages know nothing of the weight decay; as a damping it is the same ridge.
DECAY = 1e-3


def make_module(folder, kind=None):
    """The trained network, of `benchmarks.network_kinds` where a kind is named."""
    layers = []
    for d, c in zip(WIDTHS, WIDTHS[1:], strict=False):
        layers += [nn.Linear(d, c), nn.ReLU()]
    module = nn.Sequential(*layers[:-1]) if kind is None else KINDS[kind].module()
    module.load_state_dict(torch.load(folder / "module.pt"))
    return module.eval()


def kronfluence_analyzer(module, folder):
    """The analyzer of kronfluence for a classifier, with labels that it samples."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            inputs, labels = batch
            logits = model(inputs)
            if sample:
                with torch.no_grad():
                    chances = logits.movedim(1, -1).softmax(-1).flatten(0, -2)
                    labels = torch.multinomial(chances, 1).reshape(labels.shape)
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    task = Classification()
    module = prepare_model(module, task)
    settings = {"cpu": True, "disable_tqdm": True, "output_dir": str(folder)}
    return Analyzer("run", module, task, **settings)


def by_kronfluence(strategy, damping=None):
    def scores(module, train, queries, folder):
        from kronfluence.arguments import FactorArguments, ScoreArguments

        analyzer = kronfluence_analyzer(module, folder / f"kronfluence_{strategy}")
        analyzer.fit_all_factors(
            "factors",
            train,
            per_device_batch_size=500,
            factor_args=FactorArguments(strategy=strategy),
            overwrite_output_dir=True,
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            queries,
            train,
            per_device_query_batch_size=200,
            per_device_train_batch_size=500,
            score_args=ScoreArguments(damping_factor=damping),
            overwrite_output_dir=True,
        )
        return -analyzer.load_pairwise_scores("scores")["all_modules"].numpy()

    return scores


def task_of_dattri(module, target):
    from dattri.task import AttributionTask

    return AttributionTask(loss_func=target, model=module, checkpoints=module.state_dict())


def loaders(train, queries, size):
    return DataLoader(train, batch_size=size), DataLoader(queries, batch_size=size)


def dattri_ekfac(module, train, queries, folder, damping=0.0):
    from dattri.algorithm import IFAttributorEKFAC

    def loss(parameters, data):
        inputs, labels = data
        logits = torch.func.functional_call(module, parameters, inputs)
        return F.cross_entropy(logits, labels)

    attributor = IFAttributorEKFAC(task_of_dattri(module, loss), damping=damping)
    cached, asked = loaders(train, queries, 500)
    attributor.cache(cached)
    with torch.no_grad():
        return -attributor.attribute(cached, asked).T.numpy()


def dattri_trak(module, train, queries, folder):
    from dattri.algorithm import TRAKAttributor

    def log_probability(parameters, data):
        inputs, label = data
        logits = torch.func.functional_call(module, parameters, inputs[None])
        return -F.cross_entropy(logits, label[None])

    def odds(parameters, data):
        # The logarithm of p / (1 - p), with 1 - p by the other classes.
        inputs, label = data
        logits = torch.func.functional_call(module, parameters, inputs[None])[0]
        own = torch.arange(len(logits)) == label
        others = torch.where(own, -torch.inf, logits)
        return (logits * own).sum() - torch.logsumexp(others, 0)

    def probability(parameters, data):
        return torch.exp(log_probability(parameters, data))

    attributor = TRAKAttributor(
        task_of_dattri(module, odds),
        correct_probability_func=probability,
        projector_kwargs={"proj_dim": 2048, "device": "cpu", "proj_seed": 0},
        regularization=DECAY,
    )
    cached, asked = loaders(train, queries, 100)
    attributor.cache(cached)
    with torch.no_grad():
        return -attributor.attribute(asked).T.numpy()


def dattri_arnoldi(module, train, queries, folder):
    from dattri.algorithm import IFAttributorArnoldi

    def loss(parameters, data):
        inputs, labels = data
        logits = torch.func.functional_call(module, parameters, inputs)
        return F.cross_entropy(logits, labels)

    attributor = IFAttributorArnoldi(
        task_of_dattri(module, loss), proj_dim=100, max_iter=150, regularization=DECAY
    )
    everything = DataLoader(train, batch_size=len(train))
    attributor.cache(everything)
    cached, asked = loaders(train, queries, 500)
    with torch.no_grad():
        return -attributor.attribute(cached, asked).T.numpy()


METHODS = {
    "kronfluence EK-FAC": by_kronfluence("ekfac", 1e-8),
    "kronfluence EK-FAC, heuristic damping": by_kronfluence("ekfac"),
    "kronfluence EK-FAC, damping = decay": by_kronfluence("ekfac", DECAY),
    "dattri EK-FAC": dattri_ekfac,
    "dattri EK-FAC, damping = decay": partial(dattri_ekfac, damping=DECAY),
    "dattri TRAK": dattri_trak,
    "dattri Arnoldi": dattri_arnoldi,
}


def main():
    """Run one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS)
    options = parser.parse_args()
    data = np.load(options.folder / "data.npz")
    train = TensorDataset(torch.as_tensor(data["X"]), torch.as_tensor(data["y"]))
    queries = TensorDataset(torch.as_tensor(data["X_query"]), torch.as_tensor(data["y_query"]))
    module = make_module(options.folder, options.kind)
    package = options.method.split()[0]
    # Imports are not what is compared.
    import_module({"kronfluence": "kronfluence.analyzer"}.get(package, f"{package}.algorithm"))
    start = time.process_time()
    scores = METHODS[options.method](module, train, queries, options.folder)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    slug = "".join(c if c.isalnum() else "_" for c in options.method)
    np.savez(options.folder / f"{slug}.npz", scores=scores, seconds=seconds, peak=peak)


if __name__ == "__main__":
    main()
