"""What two simplifications cost and keep: the head alone, and a Hessian from fewer rows.

    python -m benchmarks.simplifications

writes ``benchmarks/results/simplifications.md``. Seconds are CPU seconds of all threads together.
With ``--only relative`` or ``--only head``, the sections of the other half stay as they are.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.linalg import LinAlgError, eigh
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from benchmarks.datasets import load_digits, load_mnist_5k
from skinfluence import (
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
)
from skinfluence.metrics import bootstrap_interval, influence_ratio, linear_datamodeling_score

RESULTS = Path(__file__).parent / "results"
N_QUERIES, N_SUBSETS = 100, 24
N_RELATIVE = 20
SIZES = (4096, 16_384, 32_768, 65_536, "auto")
PROBLEMS = ((60, 2, 0.01), (60, 10, 0.01), (40, 10, 0.01), (40, 10, 0.3))
DAMPING = 1e-3
HEAD_TITLE = "## The head alone: perceptrons with one hidden layer"

NETS = {
    "digits": (load_digits, 16, [25, 125]),
    "mnist_5k": (load_mnist_5k, 255, [16, 64, 126]),
}


def timed(function, *args):
    start = time.process_time()
    return function(*args), time.process_time() - start


# The head alone.


def shuffled(load, scale):
    X, y = load()
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order] / scale, y[order]
    return X[N_QUERIES:], y[N_QUERIES:], X[:N_QUERIES], y[:N_QUERIES]


def refits(model, X, y, Xq, yq):
    """Random halves of the training rows, and losses of the queries after a refit on each."""
    rng = np.random.default_rng(1)
    subsets = np.zeros((N_SUBSETS, len(y)), dtype=bool)
    losses = np.empty((len(yq), N_SUBSETS))
    for j, subset in enumerate(subsets):
        subset[rng.permutation(len(y))[: len(y) // 2]] = True
        p = clone(model).fit(X[subset], y[subset]).predict_proba(Xq)
        losses[:, j] = -np.log(p[np.arange(len(yq)), yq] + 1e-12)
    return subsets, losses


def influences(model):
    """Methods for a fitted perceptron, with the same damping where they have one."""
    n_params = sum(w.size for w in model.coefs_ + model.intercepts_)
    frozen = FrozenEstimator(model)
    yield "head alone", ClassifierHeadInfluence(frozen, damping=DAMPING)
    yield "head alone, damping='auto'", ClassifierHeadInfluence(frozen)
    yield "all parameters, EK-FAC", KFACInfluence(frozen, damping=DAMPING)
    if n_params < 5000:
        yield "all parameters, exact GGN", ExactInfluence(frozen, damping=DAMPING, curvature="ggn")


def fit_and_score(influence, X, y, Xq, yq):
    return influence.fit(X, y).influence(Xq, yq)


def head_table():
    yield (
        "| data, hidden units | parameters | influence over | parameters of it | LDS (95 % "
        "interval) | Spearman with all parameters | fit and 100 queries, s |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, (load, scale, widths) in NETS.items():
        X, y, Xq, yq = shuffled(load, scale)
        for width in widths:
            model = MLPClassifier(
                (width,), alpha=1e-3, learning_rate_init=5e-3, max_iter=20, random_state=0
            )
            yield from net_rows(f"{name}, {width}", model, X, y, Xq, yq)


def net_rows(name, model, X, y, Xq, yq):
    subsets, losses = refits(model, X, y, Xq, yq)
    model = clone(model).fit(X, y)
    runs = {
        method: (influence, *timed(fit_and_score, influence, X, y, Xq, yq))
        for method, influence in influences(model)
    }
    # The last one is the best of the full ones that could be computed.
    reference = list(runs.values())[-1][1]
    n_params = sum(w.size for w in model.coefs_ + model.intercepts_)
    for method, (influence, scores, seconds) in runs.items():
        lds = linear_datamodeling_score(scores, subsets, losses)
        interval = bootstrap_interval(lds, random_state=0)
        spearman = influence_ratio(scores, reference).spearman.mean()
        yield (
            f"| {name} | {n_params} | {method} | {influence.n_params_} | {interval.mean:.3f} "
            f"({interval.low:.3f} to {interval.high:.3f}) | {spearman:.3f} | {seconds:.2f} |"
        )
        print(name, method, f"{lds.mean():.3f} {spearman:.3f} {seconds:.2f}", flush=True)


def fidelity_table(width=25):
    X, y, Xq, yq = shuffled(load_digits, 16)
    yield "| damping | alpha | Spearman | same sign | ratio | T1 | T2 | inverse | coordinates |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for alpha in (1e-3, 1.0):
        model = MLPClassifier(
            (width,), alpha=alpha, learning_rate_init=5e-3, max_iter=20, random_state=0
        ).fit(X, y)
        for damping in (1e-4, 1e-2):
            influence = ClassifierHeadInfluence(FrozenEstimator(model), damping=damping).fit(X, y)
            found = influence.head_fidelity(Xq, yq)
            yield (
                f"| {damping:g} | {alpha:g} | {found.spearman.mean():.3f} | "
                f"{found.sign_agreement.mean():.3f} | {np.median(found.rho):.2f} ± "
                f"{np.median(found.dispersion):.0%} | {found.t1_share:.3f} | "
                f"{np.median(found.t2_share):.2f} | {found.inverse_share:.3f} | "
                f"{found.coordinate_share:.3f} |"
            )
    yield ""
    yield (
        "Ratio: median of head over all parameters, and its dispersion. T1: its norm over that of "
        "the Hessian of the head. T2: median of its size over the influence. Inverse and "
        "coordinates: shares of the trace of the inverse Hessian and of the eigenvectors' squared "
        "coordinates that belong to the head. Theorem 1 asks for T1 and T2 near 0 and for both "
        "shares near 1."
    )


# A Hessian from fewer rows.


def relative_data(n_features, n_classes, flip_y):
    X, y = make_classification(
        200_000 + N_RELATIVE,
        n_features=n_features,
        n_informative=n_features // 2,
        n_classes=n_classes,
        n_clusters_per_class=1,
        class_sep=0.7,
        flip_y=flip_y,
        random_state=0,
    )
    return X[N_RELATIVE:], y[N_RELATIVE:], X[:N_RELATIVE], y[:N_RELATIVE]


def cost(influence):
    """CPU seconds of the Hessian (with the search for its rows) and its factors, best of 3."""

    def build():
        fit = influence.linearise(influence.linearisation_.fitted_model).linearisation_
        fit.solve(fit.training_rows[:1])

    return min(timed(build)[1] for _ in range(3))


def hessian_error(relative, exact):
    """Spectral norm of ``H_m^{-1/2} (H - H_m) H_m^{-1/2}``."""
    H_m, H = (fit.linearisation_.curvature.matrix(fit.damping_) for fit in (relative, exact))
    try:
        return np.abs(eigh(H - H_m, H_m, eigvals_only=True)).max()
    except LinAlgError:
        return np.inf


def relative_table(n_features, n_classes, flip_y):
    X, y, Xq, yq = relative_data(n_features, n_classes, flip_y)
    model = FrozenEstimator(LogisticRegression(max_iter=1000).fit(X, y))
    exact = ExactInfluence(model).fit(X, y)
    wanted = exact.influence(Xq, yq)
    full = cost(exact)
    yield (
        "| rows of the Hessian | share | its error | as estimated | dispersion | Hessian, s | "
        "of the full one | Spearman | same sign |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for size in SIZES:
        relative = RelativeHessianInfluence(model, subset_size=size, random_state=0).fit(X, y)
        match = influence_ratio(relative.influence(Xq, yq), wanted)
        seconds, m = cost(relative), relative.subset_size_
        is_auto = size == "auto"
        mark = f"**{m} (auto)**" if is_auto else m
        estimate = f"{relative.hessian_error_:.3f}" if is_auto else ""
        yield (
            f"| {mark} | {m / len(y):.1%} | {hessian_error(relative, exact):.3f} | {estimate} | "
            f"{np.median(match.dispersion):.3f} | "
            f"{seconds:.3f} | {seconds / full:.0%} | {match.spearman.mean():.4f} | "
            f"{match.sign_agreement.mean():.4f} |"
        )
        print(n_classes, size, m, f"{seconds:.3f} of {full:.3f}", flush=True)
    yield f"| {len(y)} (all) | 100% | 0 | | 0 | {full:.3f} | 100% | 1 | 1 |"


def relative_sections():
    for n_features, n_classes, flip_y in PROBLEMS:
        yield (
            f"## A Hessian from fewer rows: logistic regression on 200,000 rows of {n_features} "
            f"features, {n_classes} classes, {flip_y:.0%} of the labels at random"
        )
        yield from ("", *relative_table(n_features, n_classes, flip_y), "")


def head_sections():
    yield from (HEAD_TITLE, "", *head_table(), "")
    yield from ("## Terms of Theorem 1: digits, 25 hidden units", "", *fidelity_table(), "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=["relative", "head"])
    only = parser.parse_args().only
    # Perceptrons are trained for a given number of epochs, as usual.
    warnings.simplefilter("ignore", ConvergenceWarning)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "simplifications.md"
    before = path.read_text(encoding="utf-8").splitlines() if only else []
    at = before.index(HEAD_TITLE) if only else 0
    relative = before[2:at] if only == "head" else relative_sections()
    head = before[at:] + [""] if only == "relative" else head_sections()
    lines = ["# What the simplifications cost and keep", "", *relative, *head]
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
