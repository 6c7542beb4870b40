"""The main job on real data: rank training rows by the harm they do, and find planted errors.

Run by ``make demo``. Leaves ``demo/harmful_rows.csv``, ``demo/label_errors.png``, and a report,
``demo/report.html`` with ``demo/report.csv``.
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks.datasets import flip_labels, load_spambase
from skinfluence import ExactInfluence
from skinfluence.inspection import InfluenceReport

FOLDER = Path(__file__).parents[1] / "demo"
FLIPPED = 0.1
CHECKED = (0.02, 0.05, 0.1, 0.15, 0.2)


def make_model():
    """Logistic regression on the logarithms of word counts."""
    logarithm = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    return make_pipeline(logarithm, StandardScaler(), LogisticRegression(C=0.1, tol=1e-8))


def rankings(X, y, X_valid, y_valid):
    """Scores of the training rows, larger for rows that look worse."""
    influence = ExactInfluence(make_model()).fit(X, y)
    p = influence.estimator_.predict_proba(X)
    return influence, {
        "influence on validation loss": influence.influence(X_valid, y_valid, reduce="mean"),
        "self-influence": influence.self_influence(),
        "training loss": -np.log(p[np.arange(len(y)), y]),
        "random": np.random.default_rng(0).random(len(y)),
    }


def found(score, flipped):
    """Share of the planted errors among the first rows, for each share of rows checked."""
    order = np.argsort(-score, kind="stable")
    return [flipped[order[: round(share * len(order))]].sum() / flipped.sum() for share in CHECKED]


def print_table(scores, flipped, test_losses):
    """Print the share of the planted errors that every ranking finds."""
    print(f"\nshare of the {flipped.sum()} planted label errors found, by rows checked")
    head = "".join(f"{share:>8.0%}" for share in CHECKED)
    print(f"{'ranked by':<30}{head}   test log loss without the first {FLIPPED:.0%}")
    for name, score in scores.items():
        shares = "".join(f"{share:>8.0%}" for share in found(score, flipped))
        print(f"{name:<30}{shares}   {test_losses[name]:.3f}")
    print(f"{'(nothing dropped)':<{30 + 8 * len(CHECKED)}}   {test_losses['all']:.3f}")


def print_issues(report):
    """Print what the checks of the report found."""
    print()
    for finding in report.findings:
        print(f"{finding.check.code} {finding.check.title}: {finding.status}")


def write_csv(path, score, effect, y, flipped):
    """All training rows, the most harmful first."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "influence", "change_if_left_out", "planted_error"])
        for row in np.argsort(-score, kind="stable"):
            numbers = f"{score[row]:.6g}", f"{effect[row]:.6g}"
            writer.writerow([row, y[row], *numbers, bool(flipped[row])])


def draw(path, scores, flipped):
    """Planted errors found against rows checked."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    share = np.arange(1, len(flipped) + 1) / len(flipped)
    for name, score in scores.items():
        hits = np.cumsum(flipped[np.argsort(-score, kind="stable")]) / flipped.sum()
        style = {"color": "gray", "linestyle": ":"} if name == "random" else {}
        ax.plot(share, hits, label=name, **style)
    ax.set(
        xlabel="share of the training rows checked",
        ylabel="share of the planted errors found",
        title="Spambase, 10 % of the training labels flipped",
        xlim=(0, 0.6),
        ylim=(0, 1.02),
    )
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main():
    """Plant label errors, rank the rows, and see which ranking finds them."""
    X, y = load_spambase()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
    X, X_valid, y, y_valid = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    y, flipped = flip_labels(y, FLIPPED, random_state=0)
    print(f"{len(y)} training rows of spambase, {FLIPPED:.0%} of their labels flipped")
    influence, scores = rankings(X, y, X_valid, y_valid)
    print(f"solver {influence.solver_}, damping {influence.damping_:g}, {influence.n_params_} "
          f"parameters, effective dimension {influence.effective_dimension_:.1f}")  # fmt: skip
    test_losses = {"all": log_loss(y_test, influence.estimator_.predict_proba(X_test))}
    for name, score in scores.items():
        kept = np.sort(np.argsort(-score, kind="stable")[round(FLIPPED * len(y)) :])
        refitted = make_model().fit(X[kept], y[kept])
        test_losses[name] = log_loss(y_test, refitted.predict_proba(X_test))
    print_table(scores, flipped, test_losses)
    FOLDER.mkdir(exist_ok=True)
    score = scores["influence on validation loss"]
    effect = influence.leave_one_out_effect(X_valid, y_valid, reduce="mean")
    write_csv(FOLDER / "harmful_rows.csv", score, effect, y, flipped)
    draw(FOLDER / "label_errors.png", scores, flipped)
    report = InfluenceReport(influence, X_valid, y_valid)
    print_issues(report)
    report.to_html(FOLDER / "report.html")
    print("\nwritten: demo/harmful_rows.csv, demo/label_errors.png, demo/report.html")


if __name__ == "__main__":
    main()
