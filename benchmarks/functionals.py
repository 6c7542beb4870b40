"""Influence on numbers of all queries, against models refitted without a row.

For each data set and functional: the correlation of the predicted and the measured change of the
number, over thirty random training rows and over the thirty of largest influence; by the first
order (`influence_on`) and at the moved outputs (`functional_without_each`).

    python -m benchmarks.functionals            # about two minutes of one core

writes `benchmarks/results/functionals.md`.
"""

from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from skinfluence import ExactInfluence
from skinfluence.diagnostics import functional_without_each
from skinfluence.metrics import (
    Brier,
    ExpectedCalibrationError,
    GroupGap,
    LogLoss,
    RocAuc,
    WorstGroup,
)

RESULT = Path(__file__).parent / "results" / "functionals.md"
DATA = {
    "breast_cancer, C = 0.1": (datasets.load_breast_cancer, 80, 0.1),
    "breast_cancer, C = 1": (datasets.load_breast_cancer, 80, 1.0),
    "wine, C = 0.1": (datasets.load_wine, 80, 0.1),
    "fair, C = 1": (datasets.load_fair, 500, 1.0),
}
N_ROWS = 30


def functionals(groups):
    """Functionals by name, and how each reads a model and queries."""
    return {
        "log loss": (LogLoss(), chances),
        "Brier score": (Brier(), chances),
        "ROC AUC": (RocAuc(), log_odds),
        "calibration error": (ExpectedCalibrationError(), chances),
        "gap of probabilities": (GroupGap(groups), chances),
        "gap of losses": (GroupGap(groups, of="loss"), losses),
        "worst group": (WorstGroup(groups), losses),
        "worst group, soft": (WorstGroup(groups, temperature=0.1), losses),
    }


def chances(model, X, codes):
    """Probabilities, (n_queries, n_classes)."""
    del codes
    return model.predict_proba(X)


def log_odds(model, X, codes):
    """Log-odds of the classes, one column for two classes."""
    p = chances(model, X, codes)
    odds = np.log(p) - np.log1p(-p)
    return model.decision_function(X)[:, None] if p.shape[1] == 2 else odds


def losses(model, X, codes):
    """Log losses, (n_queries, 1)."""
    p = chances(model, X, codes)
    return -np.log(p[np.arange(len(X)), codes])[:, None]


def run(load, n_queries, C):
    """Correlations for each functional: by first order and moved, over random and top rows."""
    X, y = load()
    X = StandardScaler().fit_transform(X)
    order = np.random.default_rng(0).permutation(len(y))
    queries, train = order[:n_queries], order[n_queries:]
    X, y, X_query, y_query = X[train], y[train], X[queries], y[queries]
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12)
    influence = ExactInfluence(model).fit(X, y)
    codes = np.searchsorted(influence.classes_, y_query)
    random = np.random.default_rng(0).choice(len(y), N_ROWS, replace=False)
    refits = {}

    def without(row):
        if row not in refits:
            kept = np.arange(len(y)) != row
            refits[row] = clone(model).fit(X[kept], y[kept])
        return refits[row]

    for name, (functional, read) in functionals(X_query[:, 0] > 0).items():
        scores = influence.influence_on(functional, X_query, y_query)
        moved = functional_without_each(influence, functional, X_query, y_query)
        before = functional.value(read(influence.estimator_, X_query, codes), codes)
        found = []
        for rows in (random, np.argsort(-np.abs(scores), kind="stable")[:N_ROWS]):
            after = [functional.value(read(without(row), X_query, codes), codes) for row in rows]
            change = np.array(after) - before
            found += [correlation(-scores[rows], change), correlation(moved[rows], change)]
            error = np.abs(moved[rows] - change).max() / np.abs(change).max()
        yield name, found, error


def correlation(left, right):
    """Pearson correlation."""
    return np.corrcoef(left, right)[0, 1]


INTRODUCTION = """\
# Influence on numbers of all queries

Logistic regression on standardised features; the number is computed from held-out queries, groups
are those above and below the mean of the first feature. Pearson correlation with the change of the
number in refits without a row, over thirty random rows and over the thirty rows of largest
influence: *first order* is `influence_on`, *moved* is `functional_without_each`, and *error* the
largest error of the latter over the top rows, relative to the largest change. ROC AUC is the
logistic surrogate. Written by `python -m benchmarks.functionals`.

| data | number | first order, random | moved, random | first order, top | moved, top | error |
|---|---|---|---|---|---|---|
"""


def main():
    """Measure everything and write the table."""
    lines = []
    for data, (load, n_queries, C) in DATA.items():
        for name, found, error in run(load, n_queries, C):
            cells = [data, name, *(f"{value:.4f}" for value in found), f"{error:.0e}"]
            lines.append("| " + " | ".join(cells) + " |")
    RESULT.write_text(INTRODUCTION + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
