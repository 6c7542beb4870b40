"""
How many numbers must a sketch keep of each row?
================================================

A sketch replaces the gradient of every training row by a few numbers. Which kind, and how
many? We fit a logistic regression to handwritten digits, compute the exact influence of all
training rows on some queries once, and look at how close sketches of growing size come.
"""

# %%
# The exact influence is the measure here; a real model would be too large for it.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skinfluence import ExactInfluence, SketchedInfluence

X, y = load_digits(return_X_y=True)
X, X_query, y, y_query = X[40:] / 16, X[:40] / 16, y[40:], y[:40]
model = FrozenEstimator(LogisticRegression(C=0.01).fit(X, y))
exact = ExactInfluence(model).fit(X, y)
scores = exact.influence(X_query, y_query)


def rank_correlation(influence):
    """Mean over the queries of Spearman's correlation with the exact scores."""
    sketched = influence.influence(X_query, y_query)
    pairs = zip(sketched, scores, strict=True)
    return np.mean([spearmanr(ours, theirs).statistic for ours, theirs in pairs])


# %%
# A Nystroem basis looks at the data and finds the directions that count. A sparse random
# sketch (SJLT) does not look and needs many more numbers; the theory counts them in units of
# the effective dimension, the number of directions that the ridge leaves alive.

sizes = [36, 72, 144, 216, 288, 360, 432]
curves = {
    kind: [
        rank_correlation(
            SketchedInfluence(model, sketch=kind, sketch_size=size, random_state=0).fit(X, y)
        )
        for size in sizes
    ]
    for kind in ("nystrom", "sjlt")
}

# %%
# With ``sketch_size="auto"`` the sketch chooses its own size, without any exact solution,
# and ``sketch_error`` measures on the queries that matter what came out.

automatic = SketchedInfluence(model, random_state=0).fit(X, y)
error = automatic.sketch_error(X_query, y_query)
print(f"chosen size: {automatic.sketch_size_} of {automatic.n_params_} parameters")
print(f"effective dimension: {automatic.effective_dimension_:.0f}")
print(
    f"rank correlation: median {error.spearman.median.value:.3f}, "
    f"smallest {error.spearman.min:.3f}"
)

# %%
# The answer: with a basis, a few times the effective dimension; and never guess.

figure, ax = plt.subplots(layout="constrained")
for kind, correlations in curves.items():
    ax.plot(sizes, correlations, "o-", label=kind)
ax.plot(automatic.sketch_size_, rank_correlation(automatic), "k*", markersize=14, label="auto")
ax.axvline(exact.effective_dimension_, color="0.4", linestyle=":", label="effective dimension")
ax.set(
    xlabel="numbers kept of each training row",
    ylabel="rank correlation with the exact influence",
    title="A sketch that looks at the data",
)
ax.legend()
plt.show()
