"""How many rows of a random sketch keep the uniform error below eps.

Measures the constant of `skinfluence.sketching.influence_min_dim`: over spectra that decay
like a power and exponentially, over all random kinds of sketch and over seeds, the uniform
error

    || psi(F^1/2 P'P F^1/2) - psi(F) ||_2,    psi(x) = x / (x + ridge)

of sketches of the size that the rule gives. `python -m benchmarks.sketch_calibration` writes
`benchmarks/results/sketch_calibration.md`.
"""

from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.sparse.linalg import LinearOperator, eigsh

from skinfluence.sketching import SKETCHES, effective_dimension, influence_min_dim

P = 1000
INDEX = np.arange(1, P + 1)
SPECTRA = {
    "i^-0.5": INDEX**-0.5,
    "i^-1": INDEX**-1.0,
    "i^-2": INDEX**-2.0,
    "exp(-i/20)": np.exp(-INDEX / 20),
}
KINDS = ("gaussian", "rademacher", "sjlt", "srdct")
DIMENSIONS = (10, 40)
EPS = (0.25, 0.4)
DELTA = 0.05
N_SEEDS = 30


def ridge_for(values, dimension):
    """The ridge at which a spectrum has a given effective dimension."""

    def gap(log_ridge):
        return effective_dimension(values, np.exp(log_ridge)) - dimension

    return np.exp(brentq(gap, -60, 20))


def uniform_error(values, ridge, sketch):
    """Operator norm of the error in whitened coordinates."""
    Z = sketch.toarray() * np.sqrt(values)
    inverse = np.linalg.inv(Z @ Z.T + ridge * np.eye(len(Z)))
    psi = values / (values + ridge)

    def product(vector):
        return Z.T @ (inverse @ (Z @ vector)) - psi * vector

    operator = LinearOperator((P, P), matvec=product, dtype=float)
    start = np.random.default_rng(0).standard_normal(P)
    return abs(eigsh(operator, k=1, tol=1e-3, v0=start, return_eigenvectors=False)[0])


def cases():
    """Spectra, effective dimensions, errors and kinds, with the errors over the seeds."""
    for name, values in SPECTRA.items():
        for dimension in DIMENSIONS:
            ridge = ridge_for(values, dimension)
            for eps in EPS:
                size = influence_min_dim(dimension, eps=eps, delta=DELTA)
                # A cosine transform has no more rows than columns.
                if size >= P:
                    continue
                for kind in KINDS:
                    errors = [
                        uniform_error(values, ridge, SKETCHES[kind](P, size, seed))
                        for seed in range(N_SEEDS)
                    ]
                    yield name, dimension, eps, size, kind, np.array(errors)


def main():
    lines = [
        "# Calibration of `influence_min_dim`",
        "",
        f"Errors of sketches of the size that the rule gives, {N_SEEDS} seeds, "
        f"delta = {DELTA}, {P} columns. `constant` is what the rule would have to be multiplied "
        "by for the 95th percentile to be eps exactly, by the law error ~ size^-1/2.",
        "",
        "| spectrum | d | eps | size | kind | median | 95th percentile | within eps | constant |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    constants, shares = [], []
    for name, dimension, eps, size, kind, errors in cases():
        high = np.quantile(errors, 1 - DELTA)
        constants.append((high / eps) ** 2)
        shares.append(np.mean(errors <= eps))
        lines.append(
            f"| {name} | {dimension} | {eps} | {size} | {kind} | {np.median(errors):.3f} | "
            f"{high:.3f} | {shares[-1]:.2f} | {constants[-1]:.2f} |"
        )
    summary = (
        f"Largest constant: {max(constants):.2f}; smallest share of seeds within eps: "
        f"{min(shares):.2f}; share over all cases: {np.mean(shares):.3f}."
    )
    lines[3:3] = ["", summary]
    target = Path(__file__).parent / "results" / "sketch_calibration.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main()
