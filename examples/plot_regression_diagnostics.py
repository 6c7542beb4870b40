"""
Which rows a penalised regression rests on
==========================================

Leverage, studentised residuals and Cook's distance are textbook for models without a penalty.
`diagnostics_frame` gives them for penalised models of scikit-learn too, with the index of the
user's own table; without a penalty they equal those of statsmodels.
"""

# %%
# One table of all rows
# ---------------------
# A Poisson regression with a penalty, on counts that grow with a year: columns in their own units.
# Two rows are planted: a count with a digit too many, and a far away row which follows the rest.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import ExactInfluence
from skinfluence.diagnostics import coefficient_table, diagnostics_frame

rng = np.random.default_rng(0)
X = pd.DataFrame(
    {
        "year": rng.integers(1990, 2021, 120),
        "income": rng.normal(40_000, 8_000, 120),
        "distance": rng.gamma(2.0, 3.0, 120),
    },
    index=[f"town {i}" for i in range(120)],
).astype(float)
rate = np.exp(0.03 * (X["year"] - 2005) + (X["income"] - 40_000) / 30_000 - X["distance"] / 15)
visits = pd.Series(rng.poisson(4 * rate), index=X.index, dtype=float)
visits["town 7"] = 10 * visits["town 7"] + 20
X.loc["town 11", "income"] = 95_000

model = make_pipeline(StandardScaler(), PoissonRegressor(alpha=0.01, tol=1e-8))
influence = ExactInfluence(model).fit(X, visits)
frame = diagnostics_frame(influence, dfbetas=True)
columns = ["leverage", "studentised_residual", "cooks_distance", "loss", "leave_one_out_loss"]
print(frame.nlargest(5, "cooks_distance")[columns].round(2))

# %%
# The picture
# -----------
# A large residual alone moves little, and so does a large leverage alone: a row is told apart by
# both. On the right, each coefficient with and without the row of the largest Cook's distance, in
# units of its own standard error; the bars are 95 % intervals by HC3, of the sampling error of the
# penalised estimate. What one row moves should be small against them.

fig, (cases, coefficients) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
size = 600 * frame["cooks_distance"] / frame["cooks_distance"].max()
cases.scatter(frame["leverage"], frame["studentised_residual"], s=20 + size, alpha=0.5)
for name in frame["cooks_distance"].nlargest(2).index.union(["town 11"]):
    cases.annotate(name, frame.loc[name, ["leverage", "studentised_residual"]].to_list())
cases.axhline(0, color="0.7", zorder=0)
cases.set(
    title="Area: Cook's distance",
    xlabel="leverage",
    ylabel="studentised residual",
)

worst = frame["cooks_distance"].idxmax()
table = coefficient_table(influence, kind="HC3")
others = X.index != worst
refit = model.fit(X[others], visits[others])[-1]
without = np.append(refit.coef_, refit.intercept_)
place = np.arange(len(table))
error = table["standard_error"]
coefficients.errorbar(place, table["estimate"] / error, 1.96, fmt="o", label="all rows")
coefficients.plot(place, without / error, "x", label=f"without {worst}")
coefficients.axhline(0, color="0.7", zorder=0)
coefficients.set_xticks(place, table.index)
coefficients.set(title="Coefficients over their standard errors")
coefficients.legend()
plt.show()
