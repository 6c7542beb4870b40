"""
Where does the boundary move without this row?
==============================================

One row can bend a model towards itself. Influence on the parameters says in which direction and
how far, without fitting again: the change per weight of the row, times the weight that is taken
away. On a plane we can see it, so the tumours of scikit-learn are cut down to two measurements of
80 of them, and we look at the row that moves the boundary most.
"""

# %%
# The model, and the row with the largest influence on itself
# -----------------------------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from skinfluence import ExactInfluence

data = load_breast_cancer()
X, y = data.data[:80, [0, 1]], data.target[:80]
x_name, y_name = data.feature_names[[0, 1]]
model = LogisticRegression(tol=1e-8, max_iter=10_000)
influence = ExactInfluence(model).fit(X, y)
row = int(influence.self_influence().argmax())
with_row = np.append(influence.estimator_.coef_, influence.estimator_.intercept_)
print(f"row {row}: {x_name} {X[row, 0]}, {y_name} {X[row, 1]}, {data.target_names[y[row]]}")

# %%
# Its influence on the parameters is their change for each unit of relative weight. Without the
# row, one of n is gone.

change = -influence.parameter_influence([row])[0] / len(y)
predicted = with_row + change

# %%
# The same by fitting again
# -------------------------
# The boundary is where the model is undecided. Influence is to foresee where it goes, and does so
# to first order: it turns the right way, and not quite far enough, because without the row the
# others determine the model less.


def boundary(parameters, x):
    """Second measurement at which the model is undecided."""
    return -(parameters[2] + parameters[0] * x) / parameters[1]


others = np.arange(len(y)) != row
again = clone(model).fit(X[others], y[others])
without_row = np.append(again.coef_, again.intercept_)
x = np.quantile(X[:, 0], [0.05, 0.95])
foreseen = boundary(predicted, x) - boundary(with_row, x)
moved = boundary(without_row, x) - boundary(with_row, x)
print(f"moved by {moved.round(2)}, foreseen {foreseen.round(2)}")

# %%
# The boundaries
# --------------

figure, ax = plt.subplots(layout="constrained")
for label, name in enumerate(data.target_names):
    ax.scatter(*X[y == label].T, s=15, alpha=0.6, label=name)
ax.scatter(*X[row], s=150, facecolors="none", edgecolors="k", label="the row")
ax.plot(x, boundary(with_row, x), "k-", label="boundary")
ax.plot(x, boundary(without_row, x), "C3-", label="without the row, fitted again")
ax.plot(x, boundary(predicted, x), "C2--", label="without the row, predicted")
ax.set(xlabel=x_name, ylabel=y_name, ylim=(8, 30))
ax.legend(fontsize="small")
plt.show()

# %%
# References
# ----------
# Kounavis, Dia and Ramazanli, *On Influence Functions, Classification Influence, Relative
# Influence, Memorization and Generalization*, section 2: influence on the parameters and the
# decision boundary.
