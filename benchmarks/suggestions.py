"""What `influence_frame` suggests, against labels that are known to be flipped.

Four data sets, 0 %, 10 % and 30 % of the training labels flipped, five splits; one logistic
regression for each data set. How well do rankings find the flipped rows, what do the rules find
beside cleanlab's, and what does dropping the rows that they name do on right labels?

    python -m benchmarks.suggestions            # about ten minutes of one core
    python -m benchmarks.suggestions --seeds 1  # a quick look

writes `benchmarks/results/suggestions.md`. Needs cleanlab and pandas.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from skinfluence import ExactInfluence
from skinfluence.diagnostics import influence_frame
from skinfluence.metrics import mislabel_detection_auc

RESULT = Path(__file__).parent / "results" / "suggestions.md"
DATA = {
    "spambase": (datasets.load_spambase, 1.0),
    "fair": (datasets.load_fair, 1.0),
    "german": (datasets.load_german_credit, 1.0),
    "digits": (datasets.load_digits, 0.1),
}
NOISE = (0.0, 0.1, 0.3)


def split(name, noise, seed):
    """Training rows with flipped labels, which ones, and test rows with right labels."""
    X, y = DATA[name][0]()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(X)
    y, flipped = datasets.flip_labels(y, noise, random_state=seed)
    return scaler.transform(X), y, flipped, scaler.transform(X_test), y_test


def run(name, noise, seed):
    """Figures of one split: rankings, and what each rule names."""
    X, y, flipped, X_test, y_test = split(name, noise, seed)
    model = LogisticRegression(C=DATA[name][1], max_iter=1000)
    influence = ExactInfluence(model).fit(X, y)
    # The rows judge themselves: no other right labels are known.
    frame = influence_frame(influence, X, y).sort_index()
    cv = StratifiedKFold(5, shuffle=True, random_state=seed)
    held_out = cross_val_predict(model, X, y, cv=cv, method="predict_proba")
    codes = np.searchsorted(influence.classes_, y)
    scores = {
        "leave-one-out loss": frame["leave_one_out_loss"],
        "loss": frame["loss"],
        "cleanlab": -get_label_quality_scores(codes, held_out),
        "self-influence": influence.self_influence(),
        "influence": frame["influence"],
    }
    rankings = [
        {"method": method, "AUC": mislabel_detection_auc(score, flipped)}
        for method, score in (scores.items() if noise else ())
    ]
    named = {
        "none": np.zeros(len(y), dtype=bool),
        "cleanlab": find_label_issues(codes, held_out, n_jobs=1),
        **{word: (frame["suggestion"] == word).to_numpy() for word in WORDS},
    }
    rules = [
        {
            "rule": rule,
            "share named": rows.mean(),
            "precision": flipped[rows].mean() if rows.any() and noise else np.nan,
            "recall": rows[flipped].mean() if noise else np.nan,
            "accuracy without": clone(model).fit(X[~rows], y[~rows]).score(X_test, y_test),
        }
        for rule, rows in named.items()
    ]
    keys = {"data": name, "noise": noise, "seed": seed}
    return [keys | row for row in rankings], [keys | row for row in rules]


WORDS = ("mislabelled", "isolated", "redundant")

INTRODUCTION = """\
# Suggestions of `influence_frame`

Logistic regression on four data sets, a share of whose training labels is flipped; mean over
{seeds} splits. Written by `python -m benchmarks.suggestions`.

*Mislabelled*, *isolated* and *redundant* are the suggestions, whose rules are in the docstring of
`influence_frame`; *cleanlab* is `find_label_issues` with five-fold probabilities. The suggestions
need one fit, cleanlab five. Influence is that on the training rows themselves, whose labels are
as noisy.

## Finding the flipped labels: AUC of rankings

{rankings}

## What the rules name, and the accuracy on right labels without these rows

{rules}
"""


def table(rows, index, columns):
    """A Markdown table of means."""
    means = rows.groupby(index, sort=False).mean(numeric_only=True)[columns].reset_index()
    lines = [list(means), ["---"] * means.shape[1]]
    for line in means.itertuples(index=False):
        lines.append(["" if v != v else v if isinstance(v, str) else f"{v:.3f}" for v in line])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    warnings.simplefilter("ignore", ConvergenceWarning)
    rankings, rules = [], []
    for name in DATA:
        for noise in NOISE:
            for seed in range(seeds):
                first, second = run(name, noise, seed)
                rankings += first
                rules += second
    rankings, rules = pd.DataFrame(rankings), pd.DataFrame(rules)
    wide = rankings.pivot_table(
        "AUC", ["noise", "method", "seed"], "data", sort=False
    ).reset_index()
    wide["mean"] = wide[list(DATA)].mean(axis=1)
    for frame in (wide, rules):
        frame["noise"] = frame["noise"].map("{:.0%}".format)
    columns = ["share named", "precision", "recall", "accuracy without"]
    page = INTRODUCTION.format(
        seeds=seeds,
        rankings=table(wide, ["noise", "method"], [*DATA, "mean"]),
        rules=table(rules, ["noise", "rule"], columns)
        + "\n\n"
        + table(rules, ["data", "noise", "rule"], columns),
    )
    RESULT.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
