"""
Which rows drive the gap between two groups
===========================================

A model gives one group of people higher scores than another. Which training rows make it do so?
The gap is one number computed from all queries, and `influence_on` gives its derivative with
respect to the weight of every training row, for the cost of one solve.
"""

# %%
# A gap, and who widens it
# ------------------------
# Does diabetes get worse than usual within a year? The model is not told the sex of a patient, and
# still gives one sex a higher mean probability than the other.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import ExactInfluence
from skinfluence.diagnostics import functional_without_each
from skinfluence.metrics import GroupGap

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
worse, sex = (y > y.median()).astype(int), X.pop("sex")
X, X_test, worse, worse_test, sex, sex_test = train_test_split(
    X, worse, sex, test_size=0.4, random_state=0
)
model = make_pipeline(StandardScaler(), LogisticRegression())
influence = ExactInfluence(model).fit(X, worse)
gap = GroupGap(sex_test == sex.max())
on_gap = influence.influence_on(gap, X_test)

# %%
# Without a row, the gap changes by minus its influence over the number of rows, to first order.
# `functional_without_each` moves the outputs as a refit does and measures the gap again: for these
# rows both say the same.

without = functional_without_each(influence, gap, X_test)
print(f"correlation with the first order: {np.corrcoef(-on_gap / len(X), without)[0, 1]:.4f}")

# %%
# Dropping the rows that widen it most
# ------------------------------------
# Rows are dropped from the one that widens the gap most on, and the model is refitted to see. The
# sum of the predictions, row by row, foresees the direction and the first rows; rows that leave
# together move the model more than the sum of each alone. The gap closes, and then turns over;
# what that costs in accuracy is beside it.

sign = np.sign(gap.value(influence.estimator_.predict_proba(X_test), None))
order = np.argsort(-sign * on_gap)
steps = np.arange(0, 61, 5)
gaps, accuracies = [], []
for k in steps:
    kept = np.sort(order[k:])
    refit = model.fit(X.iloc[kept], worse.iloc[kept])
    gaps.append(sign * gap.value(refit.predict_proba(X_test), None))
    accuracies.append(refit.score(X_test, worse_test))
predicted = gaps[0] - sign * np.append(0, np.cumsum(on_gap[order]))[steps] / len(X)

fig, (who, after, cost) = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
labels, totals = [], []
for code, name in ((sex.min(), "sex 1"), (sex.max(), "sex 2")):
    for outcome, word in ((0, "not worse"), (1, "worse")):
        rows = ((sex == code) & (worse == outcome)).to_numpy()
        labels.append(f"{name}, {word}")
        totals.append(sign * on_gap[rows].mean())
who.barh(labels, totals, color=["C0" if total < 0 else "C3" for total in totals])
who.set(title="Who widens the gap", xlabel="mean influence on its size")
after.plot(steps, gaps, "o-", label="refitted")
after.plot(steps, predicted, "--", label="first order")
after.axhline(0, color="0.7", zorder=0)
after.set(title="The gap without them", xlabel="rows dropped", ylabel="gap")
after.legend()
cost.plot(steps, accuracies, "o-")
cost.set(title="What it costs", xlabel="rows dropped", ylabel="accuracy", ylim=(0.5, 1))
plt.show()
