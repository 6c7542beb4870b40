"""How fast gradients are sketched, and what a second damping, text and automatic sizes cost.

`python -m benchmarks.sketch_speed` writes `benchmarks/results/sketch_speed.md`, and with the names
of some sections (projecting, damping, sparse, auto) only these; the others stay. It projects
1000 rows of 109,386 numbers in single precision to 2048, by the sketches of the package, by a
stored Gaussian matrix and by the dense projectors of dattri and TRAK where these packages are
installed (they need torch; neither is a dependency). All times are processor seconds of one
run on one machine, so run it with one thread: `OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1`.
"""

import re
import resource
import sys
import sysconfig
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from benchmarks.datasets import load_mnist_5k
from skinfluence import ExactInfluence, SketchedInfluence
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


def source_text(n_classes=20, n_lines=30, most=400, n_words=2990):
    """Pieces of Python's standard library, told apart by their package: counts and labels."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    pieces = {}
    for path in sorted(folder.rglob("*.py")):
        package = path.relative_to(folder).parts[0]
        if package == "site-packages":
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        starts = range(0, len(lines) - n_lines + 1, n_lines)
        pieces.setdefault(package, []).extend("\n".join(lines[i : i + n_lines]) for i in starts)
    largest = sorted(pieces, key=lambda name: (-len(pieces[name]), name))[:n_classes]
    rng = np.random.default_rng(0)
    documents, labels = [], []
    for label, name in enumerate(largest):
        kept = rng.permutation(len(pieces[name]))[:most]
        documents += [pieces[name][i] for i in kept]
        labels += [label] * len(kept)
    words = TfidfVectorizer(
        max_features=n_words, sublinear_tf=True, token_pattern=r"[A-Za-z_]{2,}"
    )
    return words.fit_transform(documents), np.array(labels)


def auto_lines():
    """What the size that is found from the data costs, beside exact scores and fixed sizes."""
    lines = [
        "## Automatic sizes",
        "",
        "Processor seconds of the fit (the model is not fitted again) and the scores of some "
        "queries, the better of two runs for sketches. Error: norm of the difference to the exact "
        "scores over their norm; for text conjugate gradients give the exact scores of five "
        "queries. Numbers for each row: those of the sketch; a tail holds features and residuals "
        "too.",
        "",
        "| data | parameters | queries | method | sizes tried | numbers for each row | seconds | "
        "share of exact | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    X, y = load_mnist_5k()
    for C in (0.01, 0.1):
        lines += auto_rows(f"MNIST, C = {C:g}", X / 255, y, C, n_queries=500, fixed=(640,))
    X, y = source_text()
    for C in (0.01, 1.0):
        name = f"text, {X.shape[0]:,} documents, C = {C:g}"
        lines += auto_rows(name, X, y, C, n_queries=100, fixed=(640,), exact=False)
    return [*lines, ""]


def auto_rows(name, X, y, C, *, n_queries, fixed, exact=True):
    """Rows of the table for one model."""
    model = FrozenEstimator(LogisticRegression(C=C, max_iter=2000, tol=1e-6).fit(X, y))
    index = np.random.default_rng(0).choice(len(y), n_queries, replace=False)
    queries, labels = X[index], y[index]
    p = model.coef_.size + model.intercept_.size

    def scores_of(influence):
        return influence.fit(X, y).influence(queries, labels)

    lines, reference, of_exact = [], None, None
    start = f"| {name} | {p:,} | {n_queries} | "
    if exact:
        began = time.process_time()
        reference = scores_of(ExactInfluence(model))
        of_exact = time.process_time() - began
        lines.append(f"{start}exact | | | {of_exact:.2f} | 1 | |")
    for size in ("auto", *fixed):
        influence = SketchedInfluence(model, sketch_size=size, random_state=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            taken, scores = seconds(lambda influence=influence: scores_of(influence))
        if reference is None:
            reference = -exact_scores(influence, queries[:5], labels[:5])
        shown = scores[: len(reference)]
        error = np.linalg.norm(shown - reference) / np.linalg.norm(reference)
        label = f"fixed {size}" if size != "auto" else "auto"
        if any("does not reach" in str(warning.message) for warning in caught):
            label += ", which warns that eps is not reached"
        if influence.sketch_.is_identity:
            label += ", which takes the exact solution"
        tried = " ".join(map(str, influence.tried_sizes_))
        share = f"{taken / of_exact:.3f}" if exact else ""
        lines.append(
            f"{start}{label} | {tried} | {influence.sketch_size_} | {taken:.2f} | {share} | "
            f"{error:.3f} |"
        )
    return lines


# Memory is that of the process, so that the sparse rows come first.
SECTIONS = {
    "sparse": text_lines,
    "projecting": projection_lines,
    "damping": damping_lines,
    "auto": auto_lines,
}


def main(*names):
    target = Path(__file__).parent / "results" / "sketch_speed.md"
    found = {}
    if names and target.exists():
        found = dict(parts_of(target.read_text(encoding="utf-8")))
    for name in names or SECTIONS:
        ((heading, text),) = parts_of("\n".join(SECTIONS[name]()))
        print(text, flush=True)
        found[heading] = text
    lines = ["# Speed and memory of sketches\n", *found.values()]
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")


def parts_of(text):
    """Heading and text of every section."""
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        if part.startswith("## "):
            yield part.splitlines()[0], part.rstrip("\n") + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
