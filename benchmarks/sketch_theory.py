"""What the theory of sketched influence says, on real data and on chosen spectra.

`python -m benchmarks.sketch_theory` writes `benchmarks/results/sketch_theory.md` and `.png`:
the uniform error, the relative error and the rank correlation of sketched scores against the
size of the sketch over the effective dimension, for every kind of sketch.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import brentq
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.datasets import load_digits, load_mnist_5k, load_spambase
from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.inspection import SketchErrorDisplay
from skinfluence.metrics import faithfulness
from skinfluence.sketching import SKETCHES, effective_dimension

RESULTS = Path(__file__).parent / "results"
RANDOM = ("gaussian", "rademacher", "sjlt", "srdct")
INDEPENDENT = ("gaussian", "rademacher", "sjlt")
NO_TAIL, WITH_TAIL = "nystrom, no tail", "nystrom, with tail"
KINDS = (*RANDOM, NO_TAIL, WITH_TAIL)
REAL = ("MNIST, odd or even", "digits", "spambase")
MULTIPLES = np.array([0.25, 0.5, 1, 2, 4, 8, 16])
N_QUERIES = 50
SEEDS = (0, 1, 2)


def real_data():
    """Training rows, targets and the effective dimension at which each set is looked at."""
    X, y = load_mnist_5k()
    yield "MNIST, odd or even", X / 255, y % 2, 30
    X, y = load_digits()
    yield "digits", X / 16, y, 25
    X, y = load_spambase()
    yield "spambase", StandardScaler().fit_transform(np.log1p(X)), y, 3.5


def damping_for(values, penalty, dimension):
    """The damping at which F, of the given eigenvalues, has an effective dimension."""

    def gap(log_ridge):
        return effective_dimension(values, np.exp(log_ridge)) - dimension

    return max(0.0, np.exp(brentq(gap, -30, 20)) - penalty)


class Problem:
    """Exact answers for one set of rows, queries, curvature and ridge.

    Parameters
    ----------
    rows, queries : ndarray of shape (n, p)
        Gradients.
    curvature : ndarray of shape (p, p)
        F.
    ridge : float
        The same on every coordinate.
    """

    def __init__(self, rows, queries, curvature, ridge):
        self.rows, self.queries, self.F, self.ridge = rows, queries, curvature, ridge
        self.values, vectors = np.linalg.eigh(curvature)
        self.values = np.clip(self.values, 0, None)
        self.root = np.sqrt(self.values)[:, None] * vectors.T
        self.dimension = effective_dimension(self.values, ridge)
        kept = self.values > 1e-12 * self.values[-1]
        inverse = (vectors / (self.values + ridge)) @ vectors.T
        pseudo = (vectors[:, kept] / self.values[kept]) @ vectors[:, kept].T
        self.exact = queries @ inverse @ rows.T
        self.own = np.einsum("np,np->n", rows @ inverse, rows)
        self.train_scale = np.einsum("np,np->n", rows @ pseudo, rows)
        self.query_scale = np.einsum("np,np->n", queries @ pseudo, queries)

    def level_outside(self, basis):
        """Mean eigenvalue of F outside of a basis, each weighted by itself."""
        outside = np.eye(len(self.F)) - basis.T @ basis
        left_out = outside @ self.F @ outside
        return np.sum(left_out**2) / np.trace(left_out)

    def errors(self, kind, size, seed):
        """Measures of one sketch, as `skinfluence.metrics.faithfulness` gives them."""
        if size == 0:
            return self._measured(np.zeros((0, len(self.F))), has_tail=True)
        name = kind.partition(",")[0]
        P = SKETCHES[name].draw(self.root, size, seed).toarray()
        return self._measured(P, has_tail=kind == WITH_TAIL)

    def _measured(self, P, has_tail):
        Z, Zq = self.rows @ P.T, self.queries @ P.T
        inverse = np.linalg.inv(P @ self.F @ P.T + self.ridge * np.eye(len(P)))
        scores, own = Zq @ inverse @ Z.T, np.einsum("nm,nm->n", Z @ inverse, Z)
        if has_tail:
            ridge = self.ridge + self.level_outside(P)
            scores += (self.queries @ self.rows.T - Zq @ Z.T) / ridge
            own += (np.sum(self.rows**2, axis=1) - np.sum(Z**2, axis=1)) / ridge
        return faithfulness(
            scores,
            self.exact,
            sketched_self_influence=own,
            exact_self_influence=self.own,
            query_scale=self.query_scale,
            train_scale=self.train_scale,
        )


def real_problems():
    """Problems of real data: all gradients of a logistic regression, without intercept."""
    for name, X, y, dimension in real_data():
        order = np.random.default_rng(0).permutation(len(y))
        train, test = order[:-N_QUERIES], order[-N_QUERIES:]
        model = LogisticRegression(C=0.1, fit_intercept=False, max_iter=5000, tol=1e-7)
        model.fit(X[train], y[train])
        exact = ExactInfluence(FrozenEstimator(model)).fit(X[train], y[train])
        objective = exact.linearisation_.objective
        F = objective.factor_rows("hessian").moment()
        penalty = objective.l2_penalty[0]
        values = np.clip(np.linalg.eigvalsh(F), 0, None)
        ridge = penalty + damping_for(values, penalty, dimension)
        keep = np.random.default_rng(1).choice(len(train), 1000, replace=False)
        rows = objective.gradient_rows(X[train][keep], objective.targets[keep]).toarray()
        queries = objective.gradient_rows(X[test], objective.encode(y[test])).toarray()
        moving = (rows**2).sum(axis=1) > 0
        yield name, Problem(rows[moving], queries, F, ridge)


def chosen_spectra():
    """Problems whose curvature has a given spectrum, with gradients that follow it."""
    index = np.arange(1, 601)
    for name, values in {
        "i^-0.5": index**-0.5,
        "i^-1": index**-1.0,
        "i^-2": index**-2.0,
        "exp(-i/20)": np.exp(-index / 20) + 1e-9,
    }.items():
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.standard_normal((600, 600)))[0]
        ridge = damping_for(values, 0.0, 20)
        rows, queries = (
            rng.standard_normal((n, 600)) * np.sqrt(values) @ basis.T for n in (500, N_QUERIES)
        )
        yield f"spectrum {name}", Problem(rows, queries, basis * values @ basis.T, ridge)


def sizes_of(problem):
    """Sizes from a quarter of the effective dimension to sixteen times, below p."""
    sizes = np.unique(np.round(MULTIPLES * problem.dimension).astype(int))
    return sizes[(sizes >= 1) & (sizes < 0.9 * len(problem.F))]


def measure(problem):
    """Sizes, measures by kind, each an array (n_seeds, n_sizes), and those of the tail alone."""
    sizes = sizes_of(problem)
    found = {
        kind: summary([[problem.errors(kind, m, seed) for m in sizes] for seed in SEEDS])
        for kind in KINDS
    }
    return sizes, found, summary([[problem.errors(WITH_TAIL, 0, 0)]])


def summary(runs):
    """Measures of runs, each an array of the shape of the runs."""
    return {
        "uniform": np.array([[r.error_quantile for r in run] for run in runs]),
        "ratio": np.array([[r.self_influence_ratio for r in run] for run in runs]),
        "relative": np.array([[r.relative_error.mean() for r in run] for run in runs]),
        "spearman": np.array([[r.spearman.mean() for r in run] for run in runs]),
    }


def slope_above(sizes, errors, dimension, multiple=4):
    """Slope on logarithmic axes from a multiple of the effective dimension on."""
    beyond = sizes >= multiple * dimension * 0.95
    if beyond.sum() < 2:
        return np.nan
    return np.polyfit(np.log(sizes[beyond]), np.log(errors.mean(axis=0)[beyond]), 1)[0]


def size_for(sizes, values, target, rising=True):
    """Size at which a measure crosses a target, by interpolation on a logarithmic axis."""
    mean = values.mean(axis=0) if rising else -values.mean(axis=0)
    target = target if rising else -target
    reached = np.flatnonzero(mean >= target)
    if not len(reached):
        return np.inf
    k = reached[0]
    if k == 0:
        return float(sizes[0])
    share = (target - mean[k - 1]) / (mean[k] - mean[k - 1])
    return float(np.exp(np.log(sizes[k - 1]) * (1 - share) + np.log(sizes[k]) * share))


def tables(name, problem, sizes, found, alone):
    """Lines of Markdown for one problem."""
    d, p = problem.dimension, len(problem.F)
    lines = [
        f"## {name}",
        "",
        f"p = {p}, ridge {problem.ridge:.3g}, effective dimension {d:.1f}, rank "
        f"{int((problem.values > 1e-12 * problem.values[-1]).sum())}. Sizes: "
        + ", ".join(f"{m} ({m / d:.2g} d)" for m in sizes),
        "",
        "| kind | numbers held for a row | pairwise error | relative error | Spearman | mean of "
        "phi~/phi | slope from 4 d | 95 % of rank correlation at |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, measures in found.items():
        held = " ".join(str(m + p * (kind == WITH_TAIL)) for m in sizes)
        slope = slope_above(sizes, measures["uniform"], d)
        multiple = size_for(sizes, measures["spearman"], 0.95) / d
        reached = f"{multiple:.1f} d" if multiple < np.inf else f"over {sizes[-1] / d:.0f} d"
        lines.append(f"| {kind} | {held} | {cells(measures)} | {slope:.2f} | {reached} |")
    lines += [f"| tail alone | {p} | {cells(alone)} | | |", ""]
    return [*lines, *(gain_line(sizes, found, kind) for kind in (NO_TAIL, WITH_TAIL)), ""]


def cells(measures):
    """The four measures of a table, means over the seeds."""
    return " | ".join(
        " ".join(f"{v:.2g}" for v in measures[key].mean(axis=0))
        for key in ("uniform", "relative", "spearman", "ratio")
    )


def gain_line(sizes, found, kind):
    """How many times smaller a basis is than the best random sketch of equal error."""
    gains = []
    for target in (0.3, 0.2, 0.1):
        random = min(size_for(sizes, found[k]["relative"], target, rising=False) for k in RANDOM)
        basis = size_for(sizes, found[kind]["relative"], target, rising=False)
        if basis == np.inf:
            gains.append(f"not reached at relative error {target}")
            continue
        known = random < np.inf
        random = random if known else sizes[-1]
        sign = "" if known and basis > sizes[0] else "more than "
        gains.append(f"{sign}{random / basis:.1f} at relative error {target}")
    also = ", the rows that the tail reads not counted" if kind == WITH_TAIL else ""
    return f"Size of the best random sketch over that of {kind}{also}: {'; '.join(gains)}.\n"


def draw(problems):
    """Error of each problem, its spectrum and its effective dimension against the ridge."""
    figure, axes = plt.subplots(3, 3, figsize=(14, 12), layout="constrained")
    spectrum, dimension = axes[2, 1:]
    for ax, (name, problem, sizes, found, _) in zip(axes.flat, problems, strict=False):
        errors = {kind: measures["uniform"] for kind, measures in found.items()}
        SketchErrorDisplay(sizes, errors, problem.dimension).plot(ax)
        ax.set(title=name)
    for name, problem, *_ in problems:
        values = problem.values[::-1]
        values = values[values > 1e-10 * values[0]]
        spectrum.loglog(np.arange(1, len(values) + 1), values / values[0], label=name)
        ridges = np.geomspace(1e-6, 1, 50) * values[0]
        found = [effective_dimension(values, ridge) for ridge in ridges]
        dimension.loglog(ridges / values[0], found, label=name)
    spectrum.set(xlabel="index", ylabel="eigenvalue over the largest", title="Spectra")
    dimension.set(
        xlabel="ridge over the largest eigenvalue",
        ylabel="effective dimension",
        title="Effective dimension",
    )
    spectrum.legend(fontsize="small")
    return figure


def head_of_ten_classes():
    """The factorised sketch of MNIST with ten classes, with its effective dimensions."""
    X, y = load_mnist_5k()
    X = X / 255
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:-N_QUERIES], order[-N_QUERIES:]
    model = LogisticRegression(C=0.01, max_iter=2000, tol=1e-6).fit(X[train], y[train])
    frozen = FrozenEstimator(model)
    exact = ExactInfluence(frozen).fit(X[train], y[train])
    scores = exact.influence(X[test], y[test])
    lines = [
        "## MNIST, ten classes, C = 0.01, features sketched",
        "",
        f"Effective dimension {exact.effective_dimension_:.0f} of {exact.n_params_} parameters.",
        "",
        "| sketch | m_A | m | numbers held for a row | relative error | Spearman | mean of "
        "phi~/phi |",
        "|---|---|---|---|---|---|---|",
    ]
    own = exact.self_influence()
    for kind, tail, sizes in (
        ("gaussian", False, (64, 256)),
        ("sjlt", False, (64, 256)),
        ("srdct", False, (64, 256)),
        ("nystrom", False, (16, 64)),
        ("nystrom", True, (8, 16, 32, 64, 128)),
    ):
        for m_A in sizes:
            influence = SketchedInfluence(
                frozen, sketch=kind, sketch_size=9 * m_A, tail=tail, random_state=0
            ).fit(X[train], y[train])
            result = faithfulness(
                influence.influence(X[test], y[test]),
                scores,
                sketched_self_influence=influence.self_influence(),
                exact_self_influence=own,
                query_scale=np.ones(N_QUERIES),
            )
            label = kind if kind != "nystrom" else f"nystrom, {'with' if tail else 'no'} tail"
            lines.append(
                f"| {label} | {m_A} | {influence.sketch_size_} | "
                f"{influence.n_stored_:.0f} | {result.relative_error.mean():.3f} | "
                f"{result.spearman.mean():.3f} | "
                f"{result.self_influence_ratio:.2f} |"
            )
    of_features, of_outputs = influence.factor_effective_dimensions_
    lines[3:3] = [
        f"The factors have {of_features:.0f} (features) and {of_outputs:.1f} (outputs), whose "
        f"product {of_features * of_outputs:.0f} is the price of the factorisation."
    ]
    return [*lines, ""]


def reading(problems):
    """What the tables of all problems say, with figures from them."""
    slopes, correlations, below, alone = {}, {}, [], []
    for name, problem, sizes, found, tail in problems:
        for kind in RANDOM:
            group = "srdct" if kind == "srdct" else "independent"
            error = found[kind]["uniform"]
            slope = slope_above(sizes, error, problem.dimension)
            slopes.setdefault(group, []).append(slope)
            if name in REAL:
                last = found[kind]["spearman"].mean(axis=0)[-1]
                correlations.setdefault(group, []).append(last)
            at_d = np.argmin(np.abs(sizes - problem.dimension))
            below.append(1 - error.mean(axis=0)[at_d] / error.mean(axis=0)[0])
        alone.append(f"{tail['relative'].mean():.2g} ({name})")
    return f"""\
The pairwise error falls from 4 d on with a slope of {between(slopes["independent"])} on
logarithmic axes for sketches of independent rows, and of {between(slopes["srdct"])} for srdct,
whose rows are orthogonal, so that its error ends at size p instead of never. Between d / 4 and d
it changes by {between(below, "+.0%")} (positive: it falls).

At the largest size, the rank correlation of the scores of random sketches with the exact ones is
{between(correlations["independent"])} on the real data, and {between(correlations["srdct"])} for
srdct.

A basis with its tail (`tail=True`, the default) holds the rows themselves, p numbers, beside its
own m: it saves time and the curvature, not the memory of the rows. A basis without it holds m.
The tail alone, a ridge and one mean curvature with zero numbers of its own, has a relative error
of {", ".join(alone)}.
Where that is small, what looks like the merit of the basis is mostly that of the tail. The
largest error over all gradients, which the theory bounds, is another and larger number:
`sketch_error(X, y).operator`.
"""


def between(values, form=".2f"):
    """The smallest and the largest of some values."""
    return f"{min(values):{form}} to {max(values):{form}}"


def main():
    problems = []
    lines = ["# The theory of sketched influence, measured", ""]
    lines += [
        f"Mean over {len(SEEDS)} seeds; `d` is the effective dimension. Pairwise error: 95th "
        "percentile of |B~ - B| / sqrt(phi_0 phi_0') over queries and training rows.",
        "",
    ]
    body = []
    for name, problem in [*real_problems(), *chosen_spectra()]:
        problems.append((name, problem, *measure(problem)))
        body += tables(*problems[-1])
    lines += [*reading(problems).splitlines(), "", *body, *head_of_ten_classes()]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sketch_theory.md").write_text("\n".join(lines), encoding="utf-8")
    draw(problems).savefig(RESULTS / "sketch_theory.png", dpi=80)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
