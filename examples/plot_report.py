"""
What is the matter with this training set?
==========================================

`InfluenceReport` asks a fit ten questions and puts the answers on one page. Here three faults are
planted in the rows of breast_cancer, as three clinics might have sent them: labels that were
swapped, a row that was entered twice with two labels, and a clinic that guessed.
"""

# %%
# Three planted faults
# --------------------
# Rows keep the names of the table's own index, all the way to the page.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skinfluence import ExactInfluence
from skinfluence.inspection import (
    InfluenceReport,
    RemovalCurveDisplay,
    TableExamplesDisplay,
)

rng = np.random.default_rng(0)
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X.index = y.index = [f"patient {i}" for i in range(len(y))]
y = y.map({0: "malignant", 1: "benign"})
X["clinic"] = rng.choice(["east", "north", "west"], len(y), p=[0.45, 0.45, 0.1])
X, X_valid, y, y_valid = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)

other = {"malignant": "benign", "benign": "malignant"}
swapped = rng.choice(y.index[X["clinic"] == "east"], 6, replace=False)
y[swapped] = y[swapped].map(other)
guessed = y.index[X["clinic"] == "west"]
y[guessed] = rng.choice(list(other), len(guessed))
twin = X.loc[[swapped[0]]].set_axis(["patient 900"])
X = pd.concat([X, twin])
y["patient 900"] = other[y[swapped[0]]]

numbers = X.columns.drop("clinic")
encode = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(), ["clinic"]))
model = make_pipeline(encode, LogisticRegression(C=0.1, tol=1e-8))
influence = ExactInfluence(model).fit(X, y)
report = InfluenceReport(influence, X_valid, y_valid)
frame = report.to_frame()
print(frame[["status", "severity", "title"]])

# %%
# What the checks say
# -------------------
# The swapped labels are among the suspected ones, the twins are found, and so is the clinic: the
# validation loss falls without it.

for title, explanation in frame.loc[frame["status"] == "issue", ["title", "explanation"]].values:
    print(f"{title}: {explanation}\n")
suspected = set(frame.loc["SKI006", "rows"])
for name, rows in (("swapped", swapped), ("guessed", guessed)):
    print(f"suspected: {len(suspected & set(rows))} of {len(rows)} {name} labels")

# %%
# The page
# --------
# ``report.to_html("report.html")`` writes one file, with its pictures inside. A notebook shows the
# same:

report

# %%
# A look at one query
# -------------------
# The validation row that the model meets worst, and the training rows that decide about it. On the
# right, the loss as the most harmful rows leave: it falls while wrong rows go. Those rows were
# chosen on the rows that are drawn, so the curve flatters; the report checks them on others.

p = influence.estimator_.predict_proba(X_valid)
worst = np.argmin(p[np.arange(len(p)), np.searchsorted(influence.classes_, y_valid)])
row = slice(worst, worst + 1)
figure, (table, curve) = plt.subplots(
    1, 2, figsize=(15, 4.6), width_ratios=[1.8, 1], layout="constrained"
)
TableExamplesDisplay.from_estimator(influence, X_valid[row], y_valid[row], n_columns=6, ax=table)
RemovalCurveDisplay.from_estimator(
    influence, X_valid, y_valid, scoring="neg_log_loss", share=0.25, ax=curve
)
plt.show()
