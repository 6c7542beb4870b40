"""
Tune without refitting
======================

How strong should a penalty be? Leave-one-out answers with almost no bias, at the price of one fit
for each row and each candidate. `LeaveOneOutSearch` needs one fit for each candidate: from it
follow the predictions of every row by the model that has not seen it.
"""

# %%
# Forty candidates, forty fits
# ----------------------------
# A search like any other of scikit-learn, only without folds.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    LeaveOneOut,
    StratifiedKFold,
    cross_val_predict,
    validation_curve,
)
from sklearn.preprocessing import StandardScaler

from skinfluence import LeaveOneOutSearch

X, y = load_breast_cancer(return_X_y=True)
X, y = StandardScaler().fit_transform(X)[::2], y[::2]
settings = {"solver": "newton-cholesky", "tol": 1e-8}
candidates = np.geomspace(1e-3, 1e2, 40)

start = time.perf_counter()
search = LeaveOneOutSearch(
    LogisticRegression(**settings), {"C": candidates}, scoring="neg_log_loss"
)
search.fit(X, y)
seconds = time.perf_counter() - start
print(f"best C: {search.best_params_['C']:.3g}")

# %%
# The same from really leaving rows out
# -------------------------------------
# For every sixth candidate each row is really left out.

some = candidates[::6]
start = time.perf_counter()
refitted = [
    log_loss(
        y,
        cross_val_predict(
            LogisticRegression(C=C, **settings), X, y, cv=LeaveOneOut(), method="predict_proba"
        ),
    )
    for C in some
]
seconds_refitting = (time.perf_counter() - start) * len(candidates) / len(some)

# %%
# Five folds are cheap as well, but another random split gives another curve.

folds = [
    validation_curve(
        LogisticRegression(**settings),
        X,
        y,
        param_name="C",
        param_range=candidates,
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
        scoring="neg_log_loss",
    )[1].mean(axis=1)
    for seed in range(5)
]

# %%
# One curve, no chance
# --------------------
# The line goes through the points: both are the same quantity. Folds scatter around it, and each
# split would choose another penalty.

fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for i, scores in enumerate(folds):
    best = scores.argmax()
    ax.plot(
        candidates, -scores, color="0.75", label="5 folds, five random splits" if i == 0 else None
    )
    ax.plot(candidates[best], -scores[best], "o", color="0.6", markersize=5)
predicted = -search.cv_results_["mean_test_score"]
ax.plot(candidates, predicted, color="tab:blue", label=f"LeaveOneOutSearch ({seconds:.1f} s)")
ax.plot(
    some,
    refitted,
    "o",
    color="black",
    label=f"every row really left out (about {seconds_refitting:.0f} s for all candidates)",
)
ax.axvline(search.best_params_["C"], color="tab:blue", linestyle=":")
ax.set(xscale="log", xlabel="C (weaker penalty to the right)", ylabel="Log loss of unseen rows")
ax.set(xlim=(0.02, candidates[-1]), ylim=(0.8 * predicted.min(), 2.5 * predicted.min()))
ax.set_title("Breast cancer, logistic regression")
ax.legend(loc="upper center")
plt.show()
