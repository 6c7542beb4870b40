"""How fast gradients are sketched, and what a second damping and sparse text cost.

`python -m benchmarks.sketch_speed` writes `benchmarks/results/sketch_speed.md`. It projects
1000 rows of 109,386 numbers in single precision to 2048, by the sketches of the package, by a
stored Gaussian matrix and by the dense projectors of dattri and TRAK where these packages are
installed (they need torch; neither is a dependency). All times are processor seconds of one
run on one machine, so run it with one thread: `OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1`.
"""

import resource
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.stats import spearmanr
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skinfluence import SketchedInfluence
from skinfluence.curvature import MatrixFreeCurvature
from skinfluence.sketching import GaussianSketch, SJLTSketch, SRDCTSketch

N_ROWS, N_COLUMNS, SIZE = 1000, 109_386, 2048


def seconds(function):
    """Shortest of two runs and the result of the last."""
    times = []
    for _ in range(2):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def gradient_like_rows():
    """Rows with columns of uneven size, whose inner products a sketch has to keep."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((N_ROWS, N_COLUMNS), dtype=np.float32)
    rows *= np.arange(1, N_COLUMNS + 1, dtype=np.float32) ** -0.25
    rows += rng.standard_normal((N_ROWS, 1), dtype=np.float32) * rows[:1]
    return rows


def error(rows, projected):
    """Root mean square error of inner products over the product of the norms."""
    gram = rows[:300] @ rows[:300].T
    norms = np.linalg.norm(rows[:300], axis=1)
    gap = projected[:300] @ projected[:300].T - gram
    return float(np.sqrt(np.mean((gap / np.outer(norms, norms)) ** 2)))


def projections(rows):
    """Name and function of every projection, those of peers where they are installed."""
    stored = np.random.default_rng(1).standard_normal((N_COLUMNS, SIZE), dtype=np.float32)
    stored *= SIZE**-0.5
    yield "stored Gaussian product", lambda: rows @ stored
    yield "skinfluence sjlt", lambda: rows @ SJLTSketch(N_COLUMNS, SIZE)
    yield "skinfluence srdct", lambda: rows @ SRDCTSketch(N_COLUMNS, SIZE)
    yield "skinfluence gaussian, not stored", lambda: rows @ GaussianSketch(N_COLUMNS, SIZE)
    if find_spec("dattri"):
        yield "dattri BasicProjector, normal", lambda: peer("dattri.func.projection", rows)
    if find_spec("trak"):
        yield "TRAK BasicProjector, normal", lambda: peer("trak.projectors", rows)


def peer(module, rows):
    """Projection by the dense projector that a peer has for CPUs, block by block."""
    torch, library = import_module("torch"), import_module(module)
    kind = library.ProjectionType.normal
    device = torch.device("cpu")
    projector = library.BasicProjector(N_COLUMNS, SIZE, 0, kind, device)
    projected = projector.project(torch.from_numpy(rows), 0).numpy()
    # TRAK leaves the scale of the projection to its scores.
    return projected / SIZE**0.5 if module.startswith("trak") else projected


def projection_lines():
    """Table of projections."""
    rows = gradient_like_rows()
    found = [(name, *seconds(function)) for name, function in projections(rows)]
    reference = found[0][1]
    lines = [
        f"## Projecting {N_ROWS} x {N_COLUMNS:,} to {SIZE}",
        "",
        "Processor seconds of one thread. They include drawing the sketch, except for the stored "
        "matrix. Error: root mean square error of inner products over the product of the norms.",
        "",
        "| projection | seconds | times faster than stored Gaussian | error |",
        "|---|---|---|---|",
    ]
    for name, time_taken, projected in found:
        ratio = reference / time_taken
        lines.append(f"| {name} | {time_taken:.2f} | {ratio:.1f} | {error(rows, projected):.4f} |")
    return [*lines, ""]


def damping_lines():
    """What the second damping of a fitted sketch costs."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 2000)) * np.arange(1, 2001) ** -0.5
    y = (X[:, 0] + rng.standard_normal(3000) > 0).astype(int)
    model = LogisticRegression(C=0.1).fit(X, y)
    start = time.process_time()
    influence = SketchedInfluence(
        FrozenEstimator(model), sketch="sjlt", sketch_size=1000, random_state=0
    ).fit(X, y)
    influence.influence(X[:20], y[:20])
    first = time.process_time() - start
    rows = influence.linearisation_.space.project(
        influence.linearisation_.objective.gradient_rows(X[:20], y[:20, None] * 1.0)
    )
    start = time.process_time()
    influence.linearisation_.curvature.solve(rows, 0.1).inner(
        influence.linearisation_.training_rows
    )
    second = time.process_time() - start
    return [
        "## A second damping",
        "",
        f"Fit and scores of 20 queries at the first damping: {first:.2f} s; scores at another: "
        f"{second:.3f} s, {second / first:.1%} of the first.",
        "",
    ]


def exact_scores(influence, X, y):
    """Exact ``B`` of a few queries and all training rows, by conjugate gradients."""
    objective = influence.linearisation_.objective
    solver = MatrixFreeCurvature(
        objective.curvature_product("hessian"), objective.l2_penalty, "cg", tol=1e-4, rank=10
    )
    queries = objective.gradient_rows(X, objective.encode(y))
    return solver.solve(queries, influence.damping_).inner(objective.training_gradient_rows())


def text_lines():
    """Sparse rows like those of text: time and memory."""
    n_rows, n_columns, nonzeros = 20_000, 200_000, 50
    rng = np.random.default_rng(0)
    # Words follow a power law.
    index = (n_columns * rng.random((n_rows, nonzeros)) ** 3).astype(np.int32)
    start = np.arange(0, n_rows * nonzeros + 1, nonzeros)
    data = np.full(n_rows * nonzeros, nonzeros**-0.5)
    X = sp.csr_matrix((data, index.ravel(), start), shape=(n_rows, n_columns))
    X.sum_duplicates()
    y = (X @ rng.standard_normal(n_columns) > 0).astype(int)
    began = time.process_time()
    model = LogisticRegression(max_iter=1000).fit(X, y)
    own = time.process_time() - began
    lines = [
        f"## Sparse rows like text, {n_rows:,} x {n_columns:,}, {nonzeros} non-zeros a row",
        "",
        f"LogisticRegression itself: {own:.1f} s. Fit of the influence (the model is not fitted "
        "again) and `most_influential` for 100 queries:",
        "",
        "| sketch | m | seconds | rank correlation with exact | peak memory of the process, GiB |",
        "|---|---|---|---|---|",
    ]
    exact = None
    for kind, size in (("sjlt", 2048), ("nystrom", 256)):
        began = time.process_time()
        influence = SketchedInfluence(
            FrozenEstimator(model), sketch=kind, sketch_size=size, random_state=0
        ).fit(X, y)
        influence.most_influential(X[:100], y[:100])
        taken = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if exact is None:
            exact = exact_scores(influence, X[:5], y[:5])
        found = -influence.influence(X[:5], y[:5])
        spearman = np.mean([spearmanr(a, b).statistic for a, b in zip(found, exact, strict=True)])
        lines.append(f"| {kind} | {size} | {taken:.1f} | {spearman:.2f} | {peak:.2f} |")
    return [*lines, ""]


def main():
    # Memory is that of the process, so that the sparse rows come first.
    lines = ["# Speed and memory of sketches", ""]
    text = text_lines()
    print("\n".join(text), flush=True)
    lines += projection_lines() + damping_lines() + text
    target = Path(__file__).parent / "results" / "sketch_speed.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
