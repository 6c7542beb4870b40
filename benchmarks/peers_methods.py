"""The other packages of `benchmarks.peers`, run in an interpreter that has them.

Runs as a script, without skinfluence. Each function takes a `Problem` and returns two functions:
one that prepares what serves every query, and one that finds the results, with the sign and on the
scale of skinfluence.
"""

import logging
import tempfile

import numpy as np
from peers_run import ROWS, Table, run


def pyinfluence(problem):
    """``InfluenceFunctions``: the exact Hessian of linear models."""
    from pyinfluence import InfluenceFunctions, self_influence

    n, groups = len(problem.y), problem.groups()
    influence = InfluenceFunctions(damping=0.0)

    def score():
        if problem.asks == "self-influence":
            return {"scores": self_influence(influence), "scale": n}
        blocks = (influence.explain(problem.X_query[g], problem.y_query[g]) for g in groups)
        return problem.finish(blocks, -n)

    return lambda: influence.fit(problem.model, problem.X, problem.y), score


def pydvl(problem):
    """``DirectInfluence``: the Hessian of torch.func, factorised again for each call."""
    from pydvl.influence.torch import DirectInfluence
    from torch.nn.functional import cross_entropy

    influence = DirectInfluence(problem.module, cross_entropy, regularization=problem.ridge)
    (X, y), (X_query, y_query) = problem.rows, problem.queries

    def fit():
        influence.fit(problem.loader(problem.rows, problem.batch_size))

    def score():
        if problem.asks == "self-influence":
            # Of all pairs of a few rows, those of a row with itself.
            parts = (slice(i, i + 500) for i in range(0, len(y), 500))
            pairs = (influence.influences(X[part], y[part]) for part in parts)
            return {"scores": np.concatenate([each.diagonal().clone() for each in pairs])}
        return problem.finish(map(score_group, problem.groups()), -1)

    def score_group(group):
        factors = influence.influence_factors(X_query[group], y_query[group])
        found = [influence.influences_from_factors(factors, *batch) for batch in batches]
        return np.concatenate(found, axis=1)

    batches = problem.loader(problem.rows, problem.batch_size)
    return fit, score


def dattri(problem):
    """``IFAttributorExplicit``, with all rows in a batch, since it adds up inverses of batches."""
    from dattri.algorithm import IFAttributorExplicit
    from dattri.task import AttributionTask
    from torch.func import functional_call
    from torch.nn.functional import cross_entropy

    module = problem.module

    def loss(params, data):
        X, y = data
        logits = functional_call(module, params, X.reshape(-1, X.shape[-1]))
        return cross_entropy(logits, y.reshape(-1))

    task = AttributionTask(loss, module, module.state_dict())
    influence = IFAttributorExplicit(task, regularization=problem.ridge)
    train = problem.loader(problem.rows)

    def score():
        if problem.asks == "self-influence":
            return {"scores": influence.self_attribute(train).detach().numpy()}
        X, y = problem.queries
        loaders = (problem.loader((X[g], y[g])) for g in problem.groups())
        blocks = (influence.attribute(train, some).detach().numpy() for some in loaders)
        return problem.finish((block.T for block in blocks), -1)

    return lambda: influence.cache(train), score


def captum(problem):
    """``NaiveInfluenceFunction``: the Hessian by autograd and its eigenvectors, all of them."""
    import torch
    from captum.influence._core.influence_function import NaiveInfluenceFunction

    n = len(problem.y)
    train = problem.loader(problem.rows, ROWS)
    found = {}

    def fit():
        found["influence"] = NaiveInfluenceFunction(
            problem.module,
            train,
            checkpoint="",
            checkpoints_load_func=lambda module, path: 1.0,
            loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"),
            sample_wise_grads_per_batch=True,
            projection_dim=problem.n_params,
            hessian_reg=n * problem.ridge,
            hessian_inverse_tol=0.0,
        )

    def score():
        influence = found["influence"]
        if problem.asks == "self-influence":
            return {"scores": influence.self_influence(train).numpy(), "scale": n}
        if problem.asks == "all pairs":
            return problem.finish([influence.influence(problem.queries).numpy()], -n)
        largest = influence.influence(problem.queries, k=problem.k, proponents=False)
        return {
            "indices": largest.indices.numpy(),
            "values": -n * largest.influence_scores.numpy(),
        }

    return fit, score


def kronfluence(problem):
    """EK-FAC, its nearest: it has no exact Hessian. In single precision, its default."""
    import torch
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs
    from torch.nn.functional import cross_entropy

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            X, y = batch
            logits = model(X)
            if sample:
                with torch.no_grad():
                    y = torch.multinomial(logits.softmax(-1), 1)[:, 0]
            return cross_entropy(logits, y, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    task = Classification()
    module = prepare_model(problem.module.float(), task)
    analyzer = Analyzer(
        "run",
        module,
        task,
        cpu=True,
        disable_tqdm=True,
        output_dir=tempfile.mkdtemp(dir=problem.folder),
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=tuple))
    (X, y), (X_query, y_query) = problem.rows, problem.queries
    train, queries = Table(X.float(), y), Table(X_query.float(), y_query)
    names = {"scores_name": "scores", "factors_name": "factors", "overwrite_output_dir": True}
    names["score_args"] = ScoreArguments(damping_factor=problem.ridge)

    def fit():
        arguments = FactorArguments(strategy="ekfac")
        analyzer.fit_all_factors(
            "factors", train, per_device_batch_size=problem.batch_size, factor_args=arguments,
            overwrite_output_dir=True,
        )  # fmt: skip

    def score():
        if problem.asks == "self-influence":
            analyzer.compute_self_scores(
                train_dataset=train, per_device_train_batch_size=problem.batch_size, **names
            )
            return {"scores": analyzer.load_self_scores("scores")["all_modules"].numpy()}
        analyzer.compute_pairwise_scores(
            query_dataset=queries, train_dataset=train, per_device_query_batch_size=len(queries),
            per_device_train_batch_size=problem.batch_size, **names,
        )  # fmt: skip
        scores = analyzer.load_pairwise_scores("scores")["all_modules"].numpy()
        return problem.finish([scores[g] for g in problem.groups()], -1)

    return fit, score


def trak(problem, proj_dim=2048):
    """TRAK of one model, its score of the margin; without a projection for few parameters."""
    import torch
    from trak import TRAKer
    from trak.projectors import NoOpProjector

    few = problem.n_params <= proj_dim
    tracer = TRAKer(
        problem.module.float(),
        "image_classification",
        len(problem.y),
        save_dir=tempfile.mkdtemp(dir=problem.folder),
        device="cpu",
        projector=NoOpProjector(device="cpu") if few else None,
        proj_dim=proj_dim,
        use_half_precision=False,
        logging_level=logging.ERROR,
        # It divides gradients by the root of their number, and has a sum where others have a mean.
        lambda_reg=problem.ridge * len(problem.y) / problem.n_params,
    )
    state = problem.module.state_dict()

    def batches(tensors, size=problem.batch_size):
        X, y = tensors
        return ((X[i : i + size].float(), y[i : i + size]) for i in range(0, len(y), size))

    def fit():
        tracer.load_checkpoint(state, model_id=0)
        for batch in batches(problem.rows):
            tracer.featurize(batch, num_samples=len(batch[1]))
        tracer.finalize_features()

    def score():
        tracer.start_scoring_checkpoint("scores", state, 0, num_targets=len(problem.y_query))
        for batch in batches(problem.queries):
            tracer.score(batch, num_samples=len(batch[1]))
        scores = np.asarray(tracer.finalize_scores("scores"))
        return problem.finish((scores.T[g] for g in problem.groups()), -1)

    torch.manual_seed(0)
    return fit, score


METHODS = {
    "pyinfluence": pyinfluence,
    "pyDVL": pydvl,
    "dattri": dattri,
    "captum": captum,
    "kronfluence, EK-FAC": kronfluence,
    "TRAK": trak,
}


if __name__ == "__main__":
    run(METHODS)
