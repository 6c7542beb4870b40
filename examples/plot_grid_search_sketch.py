"""
Choose sketch size and damping by refits
========================================

How many numbers of each gradient are enough, and how much damping is too much? Ask what influence
is for: does it predict what refitting really does? `score` answers with the linear datamodeling
score, the rank correlation of predicted and real losses over refits on random halves of the
training rows, so that sketch size and damping are tuned as any parameter is.
"""

# %%
# Inside an ordinary grid search
# ------------------------------
# `score` needs no argument. The model is refitted on 100 halves for each split, once for all
# candidates: the refits know nothing of sketch and damping, and are kept.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skinfluence import SketchedInfluence, SketchedInfluenceCV
from skinfluence.metrics import InfluenceScorer

X, y = load_digits(return_X_y=True)
model = LogisticRegression(C=1.0, max_iter=1000)
folds = StratifiedKFold(3, shuffle=True, random_state=0)

pipeline = make_pipeline(MinMaxScaler(), SketchedInfluence(model, random_state=0))
grid = {
    "sketchedinfluence__sketch_size": [90, 360],
    "sketchedinfluence__damping": [0.0, 1e-3],
}
search = GridSearchCV(pipeline, grid, cv=folds).fit(X, y)
print(search.best_params_, round(search.best_score_, 3))

# %%
# The whole map, at the price of a few points
# -------------------------------------------
# `SketchedInfluenceCV` does the same with one sketch and one eigendecomposition for all dampings
# of a split and size. Two kinds of sketch: a random one, and a basis for the range of the
# features ("nystrom", the default).

X = MinMaxScaler().fit_transform(X)
sizes = [18, 36, 72, 144, 288, 432]
dampings = np.array([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
searches = {
    kind: SketchedInfluenceCV(
        model,
        sketch=kind,
        sketch_sizes=sizes,
        dampings=dampings,
        cv=folds,
        scoring=InfluenceScorer(n_subsets=50),
        random_state=0,
    ).fit(X, y)
    for kind in ("gaussian", "nystrom")
}

# %%
# What the effective dimension has to do with it
# ----------------------------------------------
# Damping leaves ``d_lambda`` directions of the curvature (the line). A random sketch needs several
# times as many rows, so more damping makes do with smaller sketches, until it drowns what the
# curvature had to say. The basis needs little more than the line itself.

fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), sharey=True, layout="constrained")
for ax, (kind, found) in zip(axes, searches.items(), strict=True):
    results = found.cv_results_
    scores = results["mean_test_score"].reshape(len(dampings), len(sizes))
    image = ax.pcolormesh(
        sizes, dampings, scores, cmap="Blues", vmin=0.4, vmax=1, shading="nearest"
    )
    dimension = results["effective_dimension"].reshape(len(dampings), len(sizes))[:, 0]
    ax.plot(dimension, dampings, color="0.2", label=r"$m = d_\lambda$")
    best = found.best_params_
    ax.plot(best["sketch_size"], best["damping"], "o", color="tab:red", label="best")
    ax.set(xscale="log", yscale="log", xlabel="sketch size m", title=f"sketch={kind!r}")
    ax.set_xticks(sizes, labels=sizes, minor=False)
    ax.minorticks_off()
    ax.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.25)
axes[0].set_ylabel("damping")
axes[0].legend(loc="lower left")
fig.colorbar(image, ax=axes, label="linear datamodeling score")

for kind, found in searches.items():
    best = found.best_index_
    low, high = (found.cv_results_[f"{end}_test_score"][best] for end in ("low", "high"))
    print(f"{kind}: {found.best_params_}, score {low:.3f} to {high:.3f}")
plt.show()
