"""
Train on less
=============

How many rows does a model need, and which? Isolated rows have to be memorized, each for itself;
of the rows in a crowd a sample will do. `MemorizationSelector` tells them apart by what each row
does to the parameters, and `FilteredEstimator` fits a model on what is kept: the last step of an
ordinary pipeline, tuned by an ordinary grid search.
"""

# %%
# A pipeline that keeps the isolated digits and samples the others
# -----------------------------------------------------------------
# Rows are dropped in ``fit`` alone: predictions and scores are for every row that comes.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from skinfluence import FilteredEstimator, MemorizationSelector

X, y = load_digits(return_X_y=True)
model = LogisticRegression(C=1.0, max_iter=500)
pipeline = Pipeline(
    [
        ("scale", MinMaxScaler()),
        ("model", FilteredEstimator(model, MemorizationSelector(random_state=0))),
    ]
)

# %%
# The threshold of memorization and the fraction of the rest are parameters like any other. "q1"
# is the largest memorization, above which there is no row: plain random sampling within classes.

fractions = [0.05, 0.1, 0.2, 0.4, 0.7]
thresholds = {
    "q1": "a random sample",
    "q0.9": "the 10 % most memorized and a sample of the rest",
    "q0.8": "the 20 % most memorized and a sample of the rest",
}
search = GridSearchCV(
    pipeline,
    {
        "model__selector__threshold": list(thresholds),
        "model__selector__generalizable_fraction": fractions,
    },
    cv=3,
).fit(X, y)
everything = cross_val_score(Pipeline([("scale", MinMaxScaler()), ("model", model)]), X, y, cv=3)

# %%
# A third of the rows is nearly enough
# ------------------------------------
# Each point is one candidate of the grid. For as many rows as a random sample, the accuracy is
# higher where the isolated rows are all in. Sampled rows count for those that were not: the
# selector's ``sample_weight_``, which `FilteredEstimator` hands to the model.
#
# The picture is about clean labels. Where labels are wrong, the isolated rows are the wrong ones,
# and ``keep="generalizable"`` drops them instead.

fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
results = search.cv_results_
tried = np.ma.getdata(results["param_model__selector__threshold"])
fraction = np.ma.getdata(results["param_model__selector__generalizable_fraction"]).astype(float)
for threshold, color in zip(thresholds, ["0.6", "tab:blue", "tab:red"], strict=True):
    chosen = tried == threshold
    memorizable = 1 - float(threshold.removeprefix("q"))
    kept = memorizable + (1 - memorizable) * fraction[chosen]
    label = thresholds[threshold]
    ax.plot(100 * kept, results["mean_test_score"][chosen], "o-", color=color, label=label)
ax.axhline(everything.mean(), color="black", linestyle="--", label="all rows")
ax.set(xlabel="Training rows kept (%)", ylabel="Accuracy, mean of 3 folds")
ax.set_title("Handwritten digits, logistic regression")
ax.legend(loc="lower right")
plt.show()

# %%
# References
# ----------
# Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
# Influence, Memorization and Generalization*, section 6.
