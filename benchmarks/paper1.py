"""The experiments of the first paper: how many numbers a sketch needs to predict refits.

    python -m benchmarks.paper1 [--models NAME ...]

writes ``benchmarks/results/paper1.md`` and ``.png``. Hu, Hu, Ma and Zhao, *A Unified Theory of
Random Projection for Influence Functions*, choose the ridge by the linear datamodeling score
(LDS), look up the effective dimension d there, and find the size m95 of a random sketch from which
the score is within 5 % of that without a sketch: c95 = m95 / d is 7 to 20 in their models. Here
is the same for four models that a laptop can refit, with the errors that their theory speaks of.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import paper1_models as models
from benchmarks.markdown import table
from benchmarks.paper1_curves import GRID, N_PROBES, Basis, Fisher, Hessian, measure
from skinfluence.metrics import bootstrap_interval
from skinfluence.sketching import effective_dimension

RESULTS = Path(__file__).parent / "results"
CURVES = models.REFITS / "curves"
MULTIPLES = np.array([0.25, 0.5, 1, 2, 4, 8, 16, 32])
BASIS_MULTIPLES = np.array([0.25, 0.5, 1, 2, 4, 8])
SEEDS = (0, 1)
SHARE = 0.95

MODELS = {
    "digits, softmax, C = 0.001": partial(models.softmax, "digits", 1e-3),
    "digits, softmax, C = 0.01": partial(models.softmax, "digits", 1e-2),
    "MNIST, softmax, C = 0.01": partial(models.softmax, "MNIST", 1e-2),
    "MNIST, perceptron": models.perceptron,
    "source text, transformer": models.transformer,
    "MNIST, convolutions": models.convolution,
}
WITH_HESSIAN = [name for name in MODELS if "softmax" in name]


def size_for(sizes, share):
    """Size at which a rising share crosses 95 %, on a logarithmic axis; inf if it does not."""
    reached = np.flatnonzero(share >= SHARE)
    if not len(reached):
        return np.inf
    k = reached[0]
    if k == 0:
        return float(sizes[0])
    part = (SHARE - share[k - 1]) / (share[k] - share[k - 1])
    return float(np.exp(np.log(sizes[k - 1]) * (1 - part) + np.log(sizes[k]) * part))


def c95(curve, n_resamples=999):
    """m95 over d, and its 95 % bootstrap interval over the queries."""
    draws = np.random.default_rng(0).integers(0, len(curve.best), (n_resamples, len(curve.best)))
    shares = curve.lds[:, draws].mean(axis=2) / curve.best[draws].mean(axis=1)
    found = [size_for(curve.sizes, share) / curve.d for share in shares.T]
    own = size_for(curve.sizes, curve.lds.mean(axis=1) / curve.best.mean()) / curve.d
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return own, low, high


# ---------------------------------------------------------------------------
# Table and figure
# ---------------------------------------------------------------------------

HEADER = """# Sizes of sketches that predict refits

Made by `python -m benchmarks.paper1`, in {minutes:.0f} minutes of CPU on one thread, not counting
refits that were stored before.

Linear datamodeling score (LDS): the rank correlation of predicted and real losses of a query over
refits on random halves of the rows, mean over {queries} queries. The ridge, over the largest
eigenvalue, is the best of {ridges} between 1e-6 and 1 for the empirical Fisher matrix, where it is
on every parameter as in the paper; of 0.3, 1, 3 and 10 times the model's penalty for the Hessian,
where the intercepts have none and stay unsketched; for a basis it is the model's own. Random
sketches are sparse (SJLT) and of all parameters, as in the paper; a basis is `SketchedInfluence`
as it is, and m is before factoring. d is the effective dimension. m95 is the size from which the
LDS is at least 95 % of that without a sketch, by interpolation (mean of two seeds, of one for a
basis), and c95 = m95 / d. Intervals are 95 % bootstrap intervals over the queries.

A transformer over characters of Python's standard library stands for the language model of the
paper, and convolutions on MNIST for its ResNet9 on two classes of CIFAR-10: substitutes.

"""

COLUMNS = ("model", "parameters", "curvature, sketch", "refits", "ridge", "LDS without a sketch")
COLUMNS += ("d", "rank", "m95", "c95")

ERRORS = """
## By size

Share of the LDS without a sketch; 95th percentile of |phi~ / phi - 1| over {probes} training rows,
and of |B~ - B| / sqrt(phi phi') over pairs of a query and one of these rows, all at the ridge of
the table. Slope: of the logarithm of the error of phi on that of m, from d on.

"""

ERROR_COLUMNS = ("model", "curvature, sketch", "m / d", "share of the LDS", "error of phi")
ERROR_COLUMNS += ("slope", "error of pairs")


def row(curve):
    own, low, high = c95(curve)
    interval = bootstrap_interval(curve.best, n_resamples=999, random_state=0)
    size = f"{own * curve.d:.0f}" if own < np.inf else f"over {curve.sizes[-1]}"
    first = curve.sizes[0] / curve.d
    if own <= first:
        size, ratio = f"at most {curve.sizes[0]}", f"at most {first:.2g}"
    else:
        ratio = f"{_number(own, curve)} ({_number(low, curve)} to {_number(high, curve)})"
    ridge = f"{curve.ridge / curve.top:.1e}"
    score = f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    first = curve.model, str(curve.n_params), curve.kind, str(curve.n_refits), ridge, score
    return *first, f"{curve.d:.1f}", str(curve.rank), size, ratio


def _number(ratio, curve):
    return f"{ratio:.1f}" if ratio < np.inf else f"over {curve.sizes[-1] / curve.d:.0f}"


def error_row(curve):
    beyond = curve.sizes >= 0.95 * curve.d
    slope = np.nan
    if beyond.sum() > 1:
        slope = np.polyfit(np.log(curve.sizes[beyond]), np.log(curve.own[beyond]), 1)[0]
    lists = (curve.sizes / curve.d, curve.lds.mean(axis=1) / curve.best.mean(), curve.own)
    cells = [" ".join(f"{v:.2g}" for v in values) for values in (*lists, curve.pairs)]
    cells.insert(3, f"{slope:.2f}")
    return curve.model, curve.kind, *cells


def draw(curves):
    """LDS and both errors against m / d, and compression d / rank against the ridge."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    (score, own), (pairs, compression) = axes
    styles = {"empirical Fisher, sjlt": "o-", "Hessian, sjlt": "s--"}
    colors = {name: f"C{i}" for i, name in enumerate(MODELS)}
    for curve in curves:
        ratio = curve.sizes / curve.d
        style = {"color": colors[curve.model], "label": f"{curve.model}: {curve.kind}"}
        line = styles.get(curve.kind, "^:" if "with tail" in curve.kind else "v:")
        score.semilogx(ratio, curve.lds.mean(axis=1) / curve.best.mean(), line, **style)
        own.loglog(ratio, curve.own, line, **style)
        pairs.loglog(ratio, curve.pairs, line, **style)
        if curve.kind in styles:
            ridges = np.geomspace(1e-6, 1, 50)
            d = effective_dimension(curve.spectrum, ridges * curve.top)
            compression.loglog(ridges, d / curve.rank, line[1:], color=style["color"])
            compression.plot(curve.ridge / curve.top, curve.d / curve.rank, "k*")
    score.axhline(SHARE, color="0.7", linewidth=1)
    score.set(xlabel="m / d", ylabel="share of the LDS without a sketch", ylim=(0, 1.05))
    own.set(xlabel="m / d", ylabel="95th percentile of |phi~ / phi - 1|")
    pairs.set(xlabel="m / d", ylabel="95th percentile of the error of pairs")
    compression.set(xlabel="ridge / largest eigenvalue", ylabel="d / rank")
    figure.legend(*score.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def run(name):
    """All curves of a model, and the CPU seconds that they took."""
    start, model = time.process_time(), MODELS[name]()
    curves = [measure(name, model, Fisher(model), MULTIPLES, SEEDS)]
    if name in WITH_HESSIAN:
        hessian = Hessian(model)
        curves.append(measure(name, model, hessian, MULTIPLES, SEEDS))
        for tail in (False, True):
            basis = Basis(model, hessian, tail=tail)
            curves.append(measure(name, model, basis, BASIS_MULTIPLES, SEEDS[:1]))
    return curves, time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="*", help="others are of the last run")
    arguments = parser.parse_args()
    CURVES.mkdir(exist_ok=True, parents=True)
    curves, seconds = [], 0
    for i, name in enumerate(MODELS):
        file = CURVES / f"{i}.joblib"
        if arguments.models is None or name in arguments.models:
            joblib.dump(run(name), file)
        if file.exists():
            found, spent = joblib.load(file)
            curves, seconds = curves + found, seconds + spent
    text = HEADER.format(minutes=seconds / 60, queries=models.N_QUERIES, ridges=len(GRID))
    text += table(COLUMNS, map(row, curves)) + ERRORS.format(probes=N_PROBES)
    text += table(ERROR_COLUMNS, map(error_row, curves)) + "\n![By size](paper1.png)\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "paper1.md").write_text(text, encoding="utf-8")
    draw(curves).savefig(RESULTS / "paper1.png", dpi=80)
    print(text)


if __name__ == "__main__":
    main()
