"""The conditions of the second paper's Theorem 2, on real data.

    python -m benchmarks.paper2

writes ``benchmarks/results/paper2.md`` and ``.png``. Kounavis, Dia and Ramazanli, *On Influence
Functions, Classification Influence, Relative Influence, Memorization and Generalization*, take
the Hessian of some of the rows. Their Theorem 2 says that the influences on a query are then those
of all rows up to one factor rho, if two terms are negligible, and that rho is the row sum of
``G H_m H^{-1} G^{-1}``. The paper has no experiment.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from benchmarks.datasets import load_breast_cancer, load_digits, load_mnist_5k
from benchmarks.markdown import table
from skinfluence import ExactInfluence, RelativeHessianInfluence

RESULTS = Path(__file__).parent / "results"
SHARES = (0.1, 0.25, 0.5, 0.9)
STRENGTHS = (0.01, 1.0)
SEEDS = (0, 1, 2)
N_QUERIES = 50
TOLERANCE = 0.15

TEXT = """# The conditions of Theorem 2 on real data

Made by `python -m benchmarks.paper2`, in {seconds:.0f} seconds of CPU.

Logistic regressions; the Hessian of a share of the training rows, drawn by class, against the one
of all rows. First and second: the terms that Theorem 2 asks to be negligible, over the terms that
they are added to, at the best delta of a grid. Row sum: of `G H_m H^-1 G^-1`, over rho, the median
ratio of influences; the theorem says 1. Within: share of the training rows, weighted by the size
of their influence, whose ratio is within {tolerance:.0%} of rho; the theorem says all. Spearman
and sign: agreement with the influences by all rows. Medians over {queries} queries, then over
{seeds} draws of the rows.

"""

COLUMNS = ("data", "C", "rows of the Hessian", "first", "second", "row sum", "within", "Spearman")
COLUMNS += ("same sign",)

READING = """
Where both conditions are below 0.1 the row sum is {met_sum} of rho, and {met_within} of the
influence has one ratio. Where one of them is above 0.5 these are {broken_sum} and {broken_within}.

![By the share of the rows](paper2.png)
"""


def mnist_odd():
    """Whether a digit of MNIST is odd."""
    X, y = load_mnist_5k()
    return X / 255, y % 2


DATA = {
    "breast cancer": lambda: (scale(load_breast_cancer()[0]), load_breast_cancer()[1]),
    "digits": lambda: (load_digits()[0] / 16, load_digits()[1]),
    "MNIST, odd or even": mnist_odd,
}


def within(relative, full):
    """Share of the rows, weighted by influence, with a ratio near the median one, (q,)."""
    ratio = full / relative
    rho = np.median(ratio, axis=1, keepdims=True)
    near = np.abs(ratio / rho - 1) <= TOLERANCE
    return (np.abs(full) * near).sum(axis=1) / np.abs(full).sum(axis=1)


def measures(model, train, queries, full, share, seed):
    """Rows of the Hessian and the columns of the table, medians over queries."""
    relative = RelativeHessianInfluence(model, subset_size=share, random_state=seed).fit(*train)
    check = relative.lep_check(*queries, reference="full")
    columns = (
        check.first_condition,
        check.second_condition,
        check.row_sum / check.rho,
        within(relative.influence(*queries), full),
        check.spearman,
        check.sign_agreement,
    )
    return relative.subset_size_, [np.median(column) for column in columns]


def rows_of(name, C):
    """Name, C, rows and measures of every share."""
    X, y = DATA[name]()
    X, X_query, y, y_query = train_test_split(
        X, y, test_size=N_QUERIES, stratify=y, random_state=0
    )
    train, queries = (X, y), (X_query, y_query)
    model = FrozenEstimator(LogisticRegression(C=C, max_iter=10_000, tol=1e-6).fit(*train))
    full = ExactInfluence(model).fit(*train).influence(*queries)
    for share in SHARES:
        runs = [measures(model, train, queries, full, share, seed) for seed in SEEDS]
        size = runs[0][0]
        yield name, C, size, size / len(y), np.median([found for _, found in runs], axis=0)


def cells_of(row):
    name, C, size, share, values = row
    cells = [f"{value:.2f}" for value in values[:4]] + [f"{value:.3f}" for value in values[4:]]
    return name, f"{C:g}", f"{size} ({share:.0%})", *cells


def reading(rows):
    """What the table says, in one sentence for either side."""
    values = np.array([row[-1] for row in rows])
    larger = values[:, :2].max(axis=1)
    met, broken = values[larger < 0.1], values[larger > 0.5]
    return READING.format(
        met_sum=_range(met[:, 2]),
        met_within=_range(met[:, 3]),
        broken_sum=_range(broken[:, 2]),
        broken_within=_range(broken[:, 3]),
    )


def _range(values):
    return f"{values.min():.2f} to {values.max():.2f}"


def draw(rows):
    """Conditions, and what they promise, against the share of the rows."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for i, name in enumerate(DATA):
        for C, line in zip(STRENGTHS, ("o-", "s--"), strict=True):
            chosen = [row for row in rows if row[:2] == (name, C)]
            share = [row[3] for row in chosen]
            values = np.array([row[4] for row in chosen])
            style = {"color": f"C{i}", "label": f"{name}, C = {C:g}"}
            axes[0].plot(share, values[:, :2].max(axis=1), line, **style)
            axes[1].plot(share, values[:, 2], line, **style)
            axes[2].plot(share, values[:, 3], line, **style)
    axes[0].set(yscale="log", ylabel="larger condition of Theorem 2")
    axes[1].axhline(1, color="0.7", linewidth=1)
    axes[1].set(ylabel="row sum over rho")
    axes[2].set(ylabel=f"influence within {TOLERANCE:.0%} of one ratio", ylim=(0, 1.02))
    for ax in axes:
        ax.set(xlabel="share of the rows in the Hessian")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main():
    start = time.process_time()
    rows = [row for name in DATA for C in STRENGTHS for row in rows_of(name, C)]
    text = TEXT.format(
        seconds=time.process_time() - start,
        tolerance=TOLERANCE,
        queries=N_QUERIES,
        seeds=len(SEEDS),
    )
    text += table(COLUMNS, map(cells_of, rows)) + reading(rows)
    (RESULTS / "paper2.md").write_text(text, encoding="utf-8")
    draw(rows).savefig(RESULTS / "paper2.png", dpi=80)
    print(text)


if __name__ == "__main__":
    main()
