"""Leave-one-out effects against refits, and the cost of all-pairs influence.

    python -m benchmarks.exact

writes ``benchmarks/results/exact.md``. Every prediction is compared with really fitting the
estimator again without the row, at a tight tolerance.
"""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from sklearn import linear_model as lm
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler

from benchmarks.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_fair,
    load_randhie,
    load_wine,
)
from skinfluence import ExactInfluence
from skinfluence.metrics import leave_one_out_correlation
from skinfluence.models import objective
from skinfluence.refitting.newton_step import first_steps
from skinfluence.refitting.removal import removal_of_each

RESULTS = Path(__file__).parent / "results"
NC = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 100}
LR = lm.LogisticRegression

CASES = {
    "breast_cancer, LogisticRegression C=1": (load_breast_cancer, LR(**NC)),
    "breast_cancer, LogisticRegression C=100": (load_breast_cancer, LR(C=100, **NC)),
    "wine, LogisticRegression (3 classes)": (load_wine, LR(**NC)),
    "diabetes, Ridge": (load_diabetes, lm.Ridge()),
    "diabetes, HuberRegressor": (
        load_diabetes, lm.HuberRegressor(alpha=1.0, tol=1e-12, max_iter=10_000),
    ),
    "randhie, PoissonRegressor": (load_randhie, lm.PoissonRegressor(alpha=1.0, **NC)),
    "fair, LogisticRegression balanced": (load_fair, LR(class_weight="balanced", **NC)),
    "digits, LogisticRegression (10 classes)": (load_digits, LR(**NC)),
}  # fmt: skip


def losses(model, X, y, Xq, yq):
    fitted = objective(model, X, y, np.ones(len(y)))
    return fitted.losses(Xq, fitted.encode_queries(yq, len(yq)))


def predictions(influence, X, y, rows):
    """The same effects by influence, by one linearised Newton step, and as the package does."""
    fit = influence.linearisation_
    objective_ = fit.objective
    scale = objective_.weight[rows] / objective_.total_weight
    plain = -influence.influence(X, y)[:, rows] * scale
    steps = first_steps(fit, removal_of_each(fit).steps, rows)
    features = fit.read(X)
    queries = objective_.gradient_rows(features, objective_.encode_queries(y, len(y)))
    outputs = objective_.outputs(features)
    moved = (objective_.jacobian_rows(features) @ steps.T).reshape(*outputs.shape, -1)
    targets = objective_.encode_queries(y, len(y))
    after = objective_.loss.value(outputs + np.moveaxis(moved, 2, 0), targets).T
    return {
        "influence": plain,
        "one Newton step": queries @ steps.T,
        "and loss at the moved outputs": after - objective_.loss.value(outputs, targets)[:, None],
        "leave_one_out_effect": influence.leave_one_out_effect(X, y)[:, rows],
    }


def compare(load, model, rng, n_rows=30, n_queries=100):
    """Pearson and slope for rows at random and for those of highest self-influence."""
    X, y = load()
    X = X / 16 if load is load_digits else StandardScaler().fit_transform(X)
    order = rng.permutation(len(y))
    n_queries = min(n_queries, len(y) // 3)
    Xq, yq = X[order[:n_queries]], y[order[:n_queries]]
    X, y = X[order[n_queries:]], y[order[n_queries:]]
    influence = ExactInfluence(model).fit(X, y)
    start = time.perf_counter()
    influence.leave_one_out_effect(Xq, yq)
    seconds = time.perf_counter() - start
    before = losses(influence.estimator_, X, y, Xq, yq)
    table = {}
    for name, rows in {
        "random": rng.permutation(len(y))[:n_rows],
        "top": np.argsort(-influence.self_influence())[:n_rows],
    }.items():
        actual = np.empty((len(yq), n_rows))
        for j, row in enumerate(rows):
            kept = np.arange(len(y)) != row
            refitted = clone(model).fit(X[kept], y[kept])
            actual[:, j] = losses(refitted, X[kept], y[kept], Xq, yq) - before
        for method, predicted in predictions(influence, Xq, yq, rows).items():
            table[name, method] = leave_one_out_correlation(predicted.ravel(), actual.ravel())
    return table, seconds, len(y)


def leave_one_out_table():
    rng = np.random.default_rng(0)
    methods = (
        "influence",
        "one Newton step",
        "and loss at the moved outputs",
        "leave_one_out_effect",
    )
    yield "| data and model | rows | " + " | ".join(methods) + " | all rows x 100 queries |"
    yield "|---|---|" + "---|" * (len(methods) + 1)
    for name, (load, model) in CASES.items():
        table, seconds, n_train = compare(load, model, rng)
        print(name, f"{seconds:.1f} s", flush=True)
        for rows in ("random", "top"):
            cells = (table[rows, method] for method in methods)
            text = " | ".join(f"{c.pearson[0]:.4f}, {c.slope[0]:.3f}" for c in cells)
            cost = f"{seconds:.1f} s for {n_train} rows" if rows == "random" else ""
            yield f"| {name} | {rows} | {text} | {cost} |"


def speed_table(n=20_000, p=200, q=1000, repeats=9):
    """All pairs of a binary logistic model against the bare products that they need."""
    rng = np.random.default_rng(0)
    X, Xq = rng.standard_normal((n, p)), rng.standard_normal((q, p))
    w = rng.standard_normal(p) / 5
    y, yq = ((Z @ w + rng.logistic(size=len(Z)) > 0).astype(int) for Z in (X, Xq))
    model = FrozenEstimator(LR(**NC).fit(X, y))
    times = {"Hessian": [], "scores": [], "fit": [], "influence": []}
    for _ in range(repeats):
        for name, job in {
            "Hessian": lambda: X.T @ X,
            "scores": lambda: Xq @ X.T,
            "fit": lambda: ExactInfluence(model).fit(X, y),
            "influence": lambda: ExactInfluence(model).fit(X, y).influence(Xq, yq),
        }.items():
            start = time.perf_counter()
            result = job()
            times[name].append(time.perf_counter() - start)
    bare = np.array(times["Hessian"]) + np.array(times["scores"])
    ratio = np.array(times["influence"]) / bare
    tracemalloc.start()
    ExactInfluence(model).fit(X, y).influence(Xq, yq)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    yield f"- bare products, Hessian and scores: {np.median(bare):.3f} s (median of {repeats})"
    yield f"- fit and all-pairs influence: {np.median(times['influence']):.3f} s"
    yield f"- **ratio: {middle:.2f}** (quartiles {low:.2f} to {high:.2f}, best {ratio.min():.2f})"
    peak, size = peak / 2**20, result.nbytes / 2**20
    yield f"- peak memory {peak:.0f} MiB, of which the result is {size:.0f} MiB"


def parameter_steps(influence):
    """The Newton step without each training row, in the model's own parameters."""
    fit = influence.linearisation_
    every = np.arange(influence.n_samples_)
    return fit.objective.to_parameters(first_steps(fit, removal_of_each(fit).steps, every))


def statsmodels_lines():
    X, y = load_diabetes()
    design = np.column_stack([X, np.ones(len(y))])
    influence = ExactInfluence(lm.LinearRegression(), damping=0).fit(X, y)
    steps = parameter_steps(influence)
    dfbeta = sm.OLS(y, design).fit().get_influence().dfbeta
    error = np.abs(steps + dfbeta).max() / np.abs(dfbeta).max()
    yield f"- OLSInfluence.dfbeta, diabetes: largest difference {error:.0e} of the largest entry"
    X, y = load_randhie()
    X, y = StandardScaler().fit_transform(X)[:2000], y[:2000]
    model = sm.GLM(y, np.column_stack([X, np.ones(len(y))]), family=sm.families.Poisson())
    d_params = model.fit(tol=1e-14).get_influence(observed=True).d_params
    influence = ExactInfluence(lm.PoissonRegressor(alpha=0, **NC), damping=0).fit(X, y)
    steps = parameter_steps(influence)
    error = np.abs(steps + d_params).max() / np.abs(d_params).max()
    yield f"- GLMInfluence.d_params, randhie: largest difference {error:.0e} of the largest entry"


def main():
    lines = [
        "# Exact influence against refits",
        "",
        "Made by `python -m benchmarks.exact`. Pearson correlation and slope between the "
        "predicted and the real change of the loss, pooled over 30 training rows x 100 queries; "
        "`random`: rows drawn at random, `top`: the rows of highest self-influence.",
        "",
        *leave_one_out_table(),
        "",
        "## Against statsmodels, by the Newton step",
        "",
        *statsmodels_lines(),
        "",
        "## Cost: binary logistic regression, 20,000 x 200, 1,000 queries",
        "",
        *speed_table(),
    ]
    RESULTS.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
    (RESULTS / "exact.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
