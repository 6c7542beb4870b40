"""Tables and figures of what `benchmarks.selection` measured."""

import matplotlib.pyplot as plt
import numpy as np

NOISE = (0.0, 0.1, 0.3)
# Measures in the order of the file, and whether more is better.
MEASURES = {"accuracy": True, "log loss": False, "AUC": True}
COLORS = {
    "random": "0.6",
    "loss": "tab:olive",
    "EL2N": "tab:brown",
    "cleanlab": "tab:green",
    "instance hardness": "tab:orange",
    "self-influence": "tab:purple",
    "memorization": "tab:blue",
    "validation influence": "tab:red",
    "paper": "tab:blue",
    "paper, weighted": "tab:red",
    "largest loss": "tab:olive",
}
# Methods that keep a share of their own, as single points; the last may be below the axes.
OUTLIER = "instance hardness"
OWN_RULES = ("cleanlab", "memorization", "validation influence", OUTLIER)


class Figures:
    """Figures of all splits: arrays over the seeds, by what was measured.

    Parameters
    ----------
    rows : iterable of (data, noise, seed, kind, method, share, values)
        As `benchmarks.selection.read` gives them.
    """

    def __init__(self, rows):
        self.values, self.shares = {}, {}
        for data, noise, seed, kind, method, share, values in rows:
            # Rules choose the share themselves, and another one in every split.
            key = (data, noise, kind, method, None if kind == "rule" else share)
            self.values.setdefault(key, {})[seed] = values
            self.shares.setdefault(key, {})[seed] = share
        self.data = list(dict.fromkeys(key[0] for key in self.values))

    def get(self, data, noise, kind, method, share=None, measure="accuracy"):
        """Values by seed; the mean over the data sets for ``data=None``."""
        if data is None:
            each = [self.get(name, noise, kind, method, share, measure) for name in self.data]
            return np.mean(each, axis=0)
        found = self.values[data, noise, kind, method, share]
        column = list(MEASURES).index(measure)
        return np.array([found[seed][column] for seed in sorted(found)])

    def kept(self, data, noise, method):
        """Mean share of the rows that a rule keeps."""
        names = self.data if data is None else [data]
        found = [self.shares[name, noise, "rule", method, None].values() for name in names]
        return np.mean([list(shares) for shares in found])

    def methods(self, kind):
        """Names of the methods of a kind, in the order of the file."""
        return list(dict.fromkeys(key[3] for key in self.values if key[2] == kind))

    def shares_of(self, kind):
        """Shares that were tried, descending."""
        return sorted({key[4] for key in self.values if key[2] == kind}, reverse=True)


def spread(values, digits=3):
    """Mean and its standard error over the seeds."""
    return f"{values.mean():.{digits}f} ± {_error(values):.{digits}f}"


def _error(values):
    return values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0


def verdict(difference):
    """Win, tie or loss of paired differences, at two standard errors."""
    if abs(difference.mean()) <= 2 * _error(difference):
        return "tie"
    return "win" if difference.mean() > 0 else "loss"


def table(header, rows):
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [header, *rows]]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines) + "\n"


def rules_table(figures, measure):
    """Each rule at its own share, the mean of the data sets."""
    rows = [
        [
            method,
            *(spread(figures.get(None, n, "rule", method, measure=measure)) for n in NOISE),
            *(f"{100 * figures.kept(None, n, method):.0f} %" for n in NOISE),
        ]
        for method in figures.methods("rule")
    ]
    flipped = [f"{n:.0%} flipped" for n in NOISE]
    return table([f"rule, {measure}", *flipped, *(f"kept at {n:.0%}" for n in NOISE)], rows)


def rules_by_data(figures, noise):
    """Accuracy of each rule on each data set."""
    rows = [
        [method, *(spread(figures.get(data, noise, "rule", method)) for data in figures.data)]
        for method in figures.methods("rule")
    ]
    return table([f"rule, {noise:.0%} flipped", *figures.data], rows)


def verdicts_table(figures, method, others, measure):
    """Wins, ties and losses of a rule against others, a line for each."""
    rows = []
    for other in others:
        cells = []
        for noise in NOISE:
            found = []
            for data in figures.data:
                difference = figures.get(data, noise, "rule", method, measure=measure)
                difference = difference - figures.get(data, noise, "rule", other, measure=measure)
                found.append(verdict(difference if MEASURES[measure] else -difference))
            cells.append(" / ".join(str(found.count(v)) for v in ("win", "tie", "loss")))
        rows.append([other, *cells])
    header = f"{measure} of {method}: win / tie / loss against"
    return table([header, *(f"{n:.0%} flipped" for n in NOISE)], rows)


def sampling_verdicts_table(figures, noise):
    """Differences of the samples from a random one of the same size, data sets counted."""
    rows = []
    for measure, more_is_better in MEASURES.items():
        for method in ("paper", "paper, weighted"):
            cells = []
            for share in figures.shares_of("sample"):
                gains = {}
                for data in [*figures.data, None]:
                    pair = [
                        figures.get(data, noise, "sample", name, share, measure)
                        for name in (method, "random")
                    ]
                    gains[data] = pair[0] - pair[1] if more_is_better else pair[1] - pair[0]
                mean = gains.pop(None)
                found = list(map(verdict, gains.values()))
                counts = " / ".join(str(found.count(v)) for v in ("win", "tie", "loss"))
                cells.append(f"{counts}; {spread(mean)} ({verdict(mean)})")
            rows.append([method, measure, *cells])
    shares = [f"{share:.0%} kept" for share in figures.shares_of("sample")]
    return table(["win / tie / loss; mean gain", "in", *shares], rows)


def detection_table(figures):
    """Area under the ROC curve of each score against the flipped labels."""
    rows = [
        [
            method,
            *(
                " / ".join(
                    f"{figures.get(data, noise, 'detection', method, 1.0).mean():.3f}"
                    for noise in NOISE[1:]
                )
                for data in [*figures.data, None]
            ),
        ]
        for method in figures.methods("detection")
    ]
    return table(["AUC of detection, 10 % / 30 % flipped", *figures.data, "mean"], rows)


def same_share_table(figures):
    """Accuracy where every score drops as many rows as were flipped."""
    cases = [(0.1, 0.9), (0.3, 0.7)]
    rows = [
        [method, *(spread(figures.get(None, n, "score", method, share)) for n, share in cases)]
        for method in figures.methods("score")
    ]
    return table(["accuracy", *(f"{n:.0%} flipped, {s:.0%} kept" for n, s in cases)], rows)


def samples_table(figures, noise, measure):
    """Each sampling method at each share, on each data set."""
    rows = [
        [
            f"{share:.0%}",
            method,
            *(
                spread(figures.get(data, noise, "sample", method, share, measure))
                for data in [*figures.data, None]
            ),
        ]
        for share in figures.shares_of("sample")
        for method in figures.methods("sample")
    ]
    return table(["kept", f"method, {measure}", *figures.data, "mean"], rows)


def _line(ax, figures, data, noise, kind, method, measure="accuracy"):
    shares = figures.shares_of(kind)
    values = [figures.get(data, noise, kind, method, share, measure) for share in shares]
    ax.errorbar(
        100 * np.array(shares),
        [value.mean() for value in values],
        [_error(value) for value in values],
        color=COLORS[method],
        label=method,
        capsize=2,
        linewidth=1.2,
    )


def draw_cleaning(figures, measure, path):
    """A measure against the share kept by each score, and each rule at its share."""
    fig, axes = plt.subplots(
        len(NOISE), len(figures.data), figsize=(13, 8), sharex=True, layout="constrained"
    )
    for noise, line in zip(NOISE, axes, strict=True):
        for data, ax in zip(figures.data, line, strict=True):
            for method in figures.methods("score"):
                _line(ax, figures, data, noise, "score", method, measure)
            for method in OWN_RULES:
                values = figures.get(data, noise, "rule", method, measure=measure)
                kept = 100 * figures.kept(data, noise, method)
                limits = ax.get_ylim()
                ax.errorbar(kept, values.mean(), _error(values), fmt="D", color=COLORS[method])
                if method == OUTLIER:
                    ax.set_ylim(limits)
            everything = figures.get(data, noise, "rule", "all rows", measure=measure).mean()
            ax.axhline(everything, color="black", linestyle="--", linewidth=0.8)
            ax.set_title(f"{data}, {noise:.0%} flipped", fontsize="medium")
    for ax in axes[-1]:
        ax.set_xlabel("Training rows kept (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel(f"Test {measure}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    for label, color in {OUTLIER: COLORS[OUTLIER], "own rule": "0.3"}.items():
        handles.append(plt.Line2D([], [], marker="D", linestyle="", color=color))
        labels.append(label)
    fig.legend(handles, labels, loc="outside lower center", ncols=9)
    fig.savefig(path, dpi=80)


def draw_sampling(figures, path):
    """Accuracy and log loss against the share kept, without wrong labels."""
    fig, axes = plt.subplots(2, len(figures.data), figsize=(13, 5), layout="constrained")
    for measure, line in zip(("accuracy", "log loss"), axes, strict=True):
        for data, ax in zip(figures.data, line, strict=True):
            for method in figures.methods("sample"):
                limits = ax.get_ylim()
                _line(ax, figures, data, 0.0, "sample", method, measure)
                if method == "largest loss":
                    ax.set_ylim(limits)
            everything = figures.get(data, 0.0, "rule", "all rows", measure=measure).mean()
            ax.axhline(everything, color="black", linestyle="--", linewidth=0.8)
            ax.set(title=data, xlabel="Training rows kept (%)")
        line[0].set_ylabel(f"Test {measure}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=5)
    fig.savefig(path, dpi=90)
