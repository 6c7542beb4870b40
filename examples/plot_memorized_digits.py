"""
The digits that a model memorizes
=================================

Some training rows are told by their neighbours: take one away and the model hardly changes.
Others are told by nobody, and the model has to move for them alone. `MemorizationSelector` puts
a number on it, the L1 norm of ``H^{-1} g_p`` along the eigenvectors of the Hessian, and a
threshold that separates the rows to memorize from those to generalize from.
"""

# %%
# Memorization of every digit
# ---------------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from skinfluence import ExactInfluence, MemorizationSelector
from skinfluence.inspection import MemorizationDisplay

X, y = load_digits(return_X_y=True)
X = X / 16
model = LogisticRegression(C=1.0, max_iter=500)
selector = MemorizationSelector(ExactInfluence(model), random_state=0).fit(X, y)

# %%
# The threshold is Tukey's fence: a quartile and a half range above the third quartile.

fig, (curve, most, least) = plt.subplots(
    3, 1, figsize=(7, 5.6), height_ratios=[2, 1, 1], layout="constrained"
)
MemorizationDisplay.from_estimator(selector, ax=curve)


# %%
# Most memorized and most typical
# -------------------------------
# Above, of each class the digit that moves the model most: written in a way of its own, or like
# another digit. Below, of each class the one that moves it least: there are many like it.


def draw(ax, chosen, title):
    pictures = 1 - X[chosen].reshape(-1, 8, 8)
    ax.imshow(
        np.hstack(np.pad(pictures, ((0, 0), (0, 0), (1, 1)), constant_values=1)), cmap="gray"
    )
    predicted = selector.influence_.estimator_.predict(X[chosen])
    values = selector.memorization_[chosen]
    labels = [f"{p}\n{v:,.0f}" for p, v in zip(predicted, values, strict=True)]
    ax.set(yticks=[], title=title)
    ax.set_xticks(np.arange(10) * 10 + 4.5, labels, fontsize="small")
    ax.spines[:].set_visible(False)


memorization = np.where(y == np.arange(10)[:, None], selector.memorization_, np.nan)
draw(
    most, np.nanargmax(memorization, axis=1), "Most memorized of 0 to 9; prediction, memorization"
)
draw(least, np.nanargmin(memorization, axis=1), "Most typical of 0 to 9; prediction, memorization")
plt.show()

# %%
# References
# ----------
# Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
# Influence, Memorization and Generalization*, Definition 6.
