"""
How few rows decide a sign
==========================

A regression says that a measurement goes with more of a disease, or with less. How many patients
would have to be missing for it to say the opposite? If they are few, the sign is theirs and not
that of the data. `most_influential_set` finds rows that move a number most, one after the other,
each rated by the model that is left without those before it.
"""

# %%
# Ten signs
# ---------
# A ridge regression of the progress of diabetes on ten measurements of 442 patients. The target
# is one parameter at a time, by its position in ``coef_``, and it moves towards 0 and beyond. The
# greedy search alone gives the sets of all sizes at once.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skinfluence import ExactInfluence
from skinfluence.diagnostics import most_influential_set

data = load_diabetes()
X, y = StandardScaler().fit_transform(data.data), data.target
influence = ExactInfluence(Ridge(alpha=1.0)).fit(X, y)
coef = influence.estimator_.coef_


def towards_the_other_sign(position, k):
    """Rows whose removal moves a coefficient through 0."""
    direction = "decrease" if coef[position] > 0 else "increase"
    return most_influential_set(influence, k, target=position, direction=direction, thorough=False)


n_needed = np.array(
    [
        1 + np.argmax(towards_the_other_sign(position, 90).path * value < 0)
        for position, value in enumerate(coef)
    ]
)

# %%
# Real refits hold the search to its word: without the rows that it names, and no others, the
# sign of the refitted model is the other one.

for position, name in enumerate(data.feature_names):
    found = towards_the_other_sign(position, n_needed[position])
    assert found.before * found.refitted < 0
    k = len(found.indices)
    print(f"{name:>3}: {found.before:6.2f}, and {found.refitted:6.2f} without {k} rows")

# %%
# A large coefficient need not be a safe one
# ------------------------------------------
# The coefficient of s1, total cholesterol, is the second largest, and seven patients decide on its
# sign: it stands against s2, with which it is nearly collinear. The coefficients of sex and of the
# blood pressure (bp) are half as large, and it takes 39 patients to flip each of them.

fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
ax.scatter(np.abs(coef), n_needed, c=np.where(coef > 0, "tab:red", "tab:blue"), zorder=2)
for name, size, n_rows in zip(data.feature_names, np.abs(coef), n_needed, strict=True):
    # Two names stand too close to be side by side.
    offset = (-9, 9) if name == "age" else (6, 3)
    ax.annotate(name, (size, n_rows), offset, textcoords="offset points")
for color, label in (("tab:red", "positive"), ("tab:blue", "negative")):
    ax.scatter([], [], c=color, label=label)
ax.grid(color="0.9", zorder=1)
ax.set(
    xlabel="Size of the coefficient, per standard deviation",
    ylabel=f"Rows to remove, of {len(y)}, to flip its sign",
    ylim=(0, None),
)
ax.set_title("Diabetes: how few patients decide the sign of a coefficient")
ax.legend(loc="upper left")
plt.show()

# %%
# References
# ----------
# Broderick, Giordano and Meager, *An Automatic Finite-Sample Robustness Metric: When Can Dropping
# a Little Data Make a Big Difference?*
