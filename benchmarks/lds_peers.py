"""Influences by dattri and pyinfluence, for ``benchmarks/lds.py``, which scores them.

Run in an environment of its own (``pip install torch==2.13.0 dattri pyinfluence``) on a file
with data and a fitted logistic regression. Every method writes one file of results. Scores are
signed as those of skinfluence: positive means that more weight on the row raises the query's
loss. Results of one name are tries of one method.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorExplicit
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# A dense Hessian by automatic differentiation takes minutes beyond this.
MAX_EXPLICIT = 2000

# Added to the eigenvalues of TRAK's kernel, a sum over the training rows.
RIDGES = (1e-2, 1.0, 1e2)


# Float32 loses the gradients of queries that are predicted with certainty.
torch.set_default_dtype(torch.float64)


class Task:
    """The logistic regression as a torch module with its penalised mean loss."""

    def __init__(self, file):
        self.data = dict(np.load(file))
        coef, intercept = self.data["coef"], self.data["intercept"]
        self.model = nn.Linear(coef.shape[1], len(coef))
        state = {"weight": torch.tensor(coef).double(), "bias": torch.tensor(intercept).double()}
        self.model.load_state_dict(state)
        self.ridge = 1 / (float(self.data["C"]) * len(self.data["y"]))
        classes = np.unique(self.data["y"])
        self.train = self._loader("X", "y", classes)
        self.queries = self._loader("X_query", "y_query", classes)

    def _loader(self, X, y, classes):
        codes = np.searchsorted(classes, self.data[y])
        rows = TensorDataset(torch.tensor(self.data[X]).double(), torch.tensor(codes))
        # One batch, where a mean over batches of several sizes would weigh rows differently.
        return DataLoader(rows, batch_size=len(rows), shuffle=False)

    def scores(self, params, X):
        return torch.func.functional_call(self.model, params, X.reshape(-1, X.shape[-1]))

    def loss(self, params, data):
        """Mean loss without the penalty."""
        X, y = data
        scores = self.scores(params, X)
        if scores.shape[1] == 1:
            target = y.reshape(-1).double()
            return nn.functional.binary_cross_entropy_with_logits(scores[:, 0], target)
        return nn.functional.cross_entropy(scores, y.reshape(-1))

    def objective(self, params, data):
        """Mean loss with the penalty of the estimator."""
        return self.loss(params, data) + self.ridge / 2 * (params["weight"] ** 2).sum()

    def probability(self, params, data):
        """Probability of the right class."""
        return torch.exp(-self.loss(params, data))

    def log_odds(self, params, data):
        """What TRAK linearises: the log odds of the right class."""
        p = self.probability(params, data)
        return torch.log(p) - torch.log(1 - p + 1e-6)


def explicit(task):
    """Exact Hessian, with the ridge that the null direction of the softmax needs."""
    state = task.model.state_dict()
    problem = AttributionTask(task.objective, task.model, state, target_func=task.loss)
    attributor = IFAttributorExplicit(problem, regularization=1e-6)
    attributor.cache(task.train)
    return attributor.attribute(task.train, task.queries).detach()


def trak(size, ridge):
    def run(task):
        problem = AttributionTask(task.log_odds, task.model, task.model.state_dict())
        attributor = TRAKAttributor(
            problem,
            correct_probability_func=task.probability,
            projector_kwargs={"proj_dim": size, "device": "cpu"},
            regularization=ridge,
        )
        attributor.cache(task.train)
        return attributor.attribute(task.queries)

    return run


def linear(task):
    """pyinfluence knows two classes only."""
    from pyinfluence import InfluenceFunctions
    from sklearn.linear_model import LogisticRegression

    data = task.data
    model = LogisticRegression(C=float(data["C"]), max_iter=10_000, tol=1e-6)
    attributor = InfluenceFunctions().fit(model.fit(data["X"], data["y"]), data["X"], data["y"])
    return np.asarray(attributor.explain(data["X_query"], data["y_query"]))


def main(file):
    task = Task(file)
    n_params = sum(p.numel() for p in task.model.parameters())
    methods = [
        (f"dattri, TRAK {size}, best ridge", size, trak(size, ridge))
        for size in (512, 2048)
        for ridge in RIDGES
        if size < n_params
    ]
    if n_params <= MAX_EXPLICIT:
        methods.append(("dattri, explicit", n_params, explicit))
    if len(task.data["coef"]) == 1:
        methods.append(("pyinfluence", n_params, linear))
    shape = len(task.data["y_query"]), len(task.data["y"])
    for k, (name, size, run) in enumerate(methods):
        start = time.process_time()
        try:
            found = np.asarray(run(task), dtype=float)
        except Exception as error:  # What another package raises is one more result.
            print(f"{name} did not run: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        found = found if found.shape == shape else found.T
        # All of them count what helps a query as positive.
        np.savez(
            Path(file).parent / f"{k}.result.npz",
            name=name,
            size=size,
            influence=-found,
            seconds=time.process_time() - start,
        )


if __name__ == "__main__":
    main(sys.argv[1])
