"""
How many rows does the Hessian need?
====================================

Influence asks for two things of the training rows: their gradients, one vector for each, and the
Hessian, which is a mean. A mean can be estimated from some of them. `RelativeHessianInfluence`
does so, finds out how many rows it takes, and `lep_check` says whether the answer may be trusted:
it may where its influences are those of the full Hessian up to one factor for each query.
"""

# %%
# Data and the full Hessian
# -------------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skinfluence import ExactInfluence, RelativeHessianInfluence
from skinfluence.metrics import influence_ratio

X, y = make_classification(40_000, n_features=30, n_informative=15, random_state=0)
X, X_query, y, y_query = X[50:], X[:50], y[50:], y[:50]
model = FrozenEstimator(LogisticRegression().fit(X, y))
exact = ExactInfluence(model).fit(X, y).influence(X_query, y_query)

# %%
# Subsets of growing size
# -----------------------
# The same queries with the Hessian of ever more rows. The rank correlation with the full Hessian
# rises as its error falls, like one over the root of the number of rows.

sizes = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
matches = []
for size in sizes:
    relative = RelativeHessianInfluence(model, subset_size=size, random_state=0).fit(X, y)
    matches.append(influence_ratio(relative.influence(X_query, y_query), exact))

# %%
# The size that is found without the full Hessian
# -----------------------------------------------
# "auto" compares the Hessians of two disjoint halves of the subset. Half of their distance, in the
# metric of the subset's Hessian, is the relative error that the subset has as a whole. It falls
# like one over the root of the size, which predicts how many rows are still needed.

auto = RelativeHessianInfluence(model, random_state=0).fit(X, y)
print(f"{auto.subset_size_} of {len(y)} rows, error of the Hessian {auto.hessian_error_:.3f}")

# %%
# What it sees (the error of the Hessian, in its worst direction) and what it cannot see (how far
# the ratio to the influences with all rows is from uniform) fall together.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(sizes, [match.spearman.mean() for match in matches], "o-")
left.axhline(0.99, color="0.7", linewidth=1)
left.axvline(auto.subset_size_, color="C1", linestyle="--", label="auto")
left.set(xscale="log", xlabel="Rows of the Hessian", ylabel="Spearman with all rows")
left.legend()
right.plot(
    sizes, [np.median(match.dispersion) for match in matches], "o-", label="dispersion of ratio"
)
right.plot(auto.tried_sizes_, auto.tried_errors_, "s--", label="error of the Hessian")
right.axhline(auto.tol, color="0.7", linewidth=1)
right.set(xscale="log", yscale="log", xlabel="Rows of the Hessian", ylabel="Relative to all rows")
right.legend()
plt.show()

# %%
# May it be trusted here?
# -----------------------
# For queries of one's own, `lep_check` compares with the full Hessian, or with a larger subset
# where that is too expensive.

check = auto.lep_check(X_query, y_query)
print(f"uniform for {check.is_preserving.mean():.0%} of the queries")
print(f"rank correlation {check.spearman.mean():.4f}, same sign {check.sign_agreement.mean():.2%}")

# %%
# The theorem that promises a uniform ratio asks for two terms to be negligible. Relative to what
# they are added to, they are as large as the error of the Hessian:

print(f"first condition {np.median(check.first_condition):.2f}")
print(f"second condition {np.median(check.second_condition):.2f}")

# %%
# References
# ----------
# Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
# Influence, Memorization and Generalization*, section 5.
