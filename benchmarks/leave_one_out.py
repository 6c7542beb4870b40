"""Leave-one-out predictions against refitting, for every kind of model.

    python -m benchmarks.leave_one_out

writes ``benchmarks/results/leave_one_out.md``. Times are CPU seconds of one process. Refits are of
some rows, and their time is multiplied by the number of rows over that of the refits. Refits are
made by the same class with the same settings; a perceptron goes on from its fitted parameters.
"""

import time
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
from sklearn import linear_model as lm
from sklearn import svm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale

from benchmarks import datasets
from skinfluence import ExactInfluence
from skinfluence.diagnostics import leave_one_out_predict, leave_one_out_score

RESULTS = Path(__file__).parent / "results" / "leave_one_out.md"
N_REFITS = 10
NEWTON = {"solver": "newton-cholesky", "tol": 1e-12}
LR = lm.LogisticRegression


def fair():
    """Binary, 5000 rows: 8 columns, and 22 of their products."""
    X, y = datasets.load_fair()
    X = scale(X)
    first, second = np.triu_indices(X.shape[1], 1)
    X = np.column_stack([X, X[:, first[:22]] * X[:, second[:22]]])
    return scale(X)[:5000], y[:5000]


def visits():
    X, y = datasets.load_randhie()
    return scale(X)[:5000], y[:5000]


def some_visits():
    X, y = visits()
    return X, y + 1.0


def digits():
    X, y = datasets.load_digits()
    return X / 16, y


def more_digits():
    X, y = datasets.load_optdigits()
    return X[:5000] / 16, y[:5000]


def three_digits():
    X, y = digits()
    return X[y < 3], y[y < 3]


def cancer():
    X, y = datasets.load_breast_cancer()
    return scale(X), y


PROBA = "predict_proba"
HUBER = {"tol": 1e-10, "max_iter": 100_000}
CASES = [
    ("fair", fair, LR(**NEWTON), PROBA),
    ("fair, balanced", fair, LR(class_weight="balanced", **NEWTON), PROBA),
    ("fair, C = 0.001", fair, LR(C=1e-3, **NEWTON), PROBA),
    ("fair, C = 1000", fair, LR(C=1e3, **NEWTON), PROBA),
    ("breast_cancer", cancer, LR(**NEWTON), PROBA),
    ("breast_cancer, C = 1000", cancer, LR(C=1e3, **NEWTON), PROBA),
    ("digits 0 to 2", three_digits, LR(**NEWTON), PROBA),
    ("digits", digits, LR(C=0.1, tol=1e-10, max_iter=10_000), PROBA),
    ("optdigits", more_digits, LR(C=0.1, tol=1e-10, max_iter=10_000), PROBA),
    ("randhie", visits, lm.Ridge(), "predict"),
    ("fair", fair, lm.RidgeClassifier(class_weight="balanced"), "decision_function"),
    ("randhie", visits, lm.PoissonRegressor(alpha=0.1, **NEWTON), "predict"),
    ("randhie + 1", some_visits, lm.GammaRegressor(alpha=0.1, **NEWTON), "predict"),
    ("randhie", visits, lm.TweedieRegressor(power=1.5, alpha=0.1, **NEWTON), "predict"),
    ("randhie", visits, lm.HuberRegressor(alpha=1.0, **HUBER), "predict"),
    ("fair", fair, svm.LinearSVC(tol=1e-10, max_iter=1_000_000), "decision_function"),
    (
        "fair",
        fair,
        lm.SGDClassifier("log_loss", alpha=0.01, tol=1e-6, max_iter=1000, random_state=0),
        PROBA,
    ),
    (
        "breast_cancer",
        cancer,
        MLPClassifier((6,), "tanh", solver="lbfgs", alpha=1.0, max_iter=5000, tol=1e-12,
                      random_state=0),
        PROBA,
    ),
]  # fmt: skip


def refit_without(influence, model, X, y, row):
    kept = np.arange(len(y)) != row
    if isinstance(model, MLPClassifier):
        started = deepcopy(influence.estimator_).set_params(warm_start=True)
        return started.fit(X[kept], y[kept])
    return clone(model).fit(X[kept], y[kept])


def lines():
    yield "# Leave-one-out predictions without refitting"
    yield ""
    yield (
        "Made by `python -m benchmarks.leave_one_out`, in CPU seconds of one process. Errors are "
        f"the largest on {N_REFITS} random rows, against refits with the same "
        "settings, and the largest change of their predictions stands beside them. Time of refits "
        "is that of these rows, extrapolated to all. SGDClassifier stops short of its minimum, "
        "and a perceptron is taken as linear in its parameters; tests compare the models whose "
        "own solvers stop early with the exact minimum. The loss of HuberRegressor has kinks, so "
        "that more passes over all rows are needed for each row."
    )
    yield ""
    yield (
        "| model | data | n x columns | s | refits, s | times faster | largest change | "
        "largest error |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, load, model, method in CASES:
        yield row_of(name, *load(), model, method)
    yield ""
    yield from later_queries()


def row_of(name, X, y, model, method):
    influence = ExactInfluence(model).fit(X, y)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = leave_one_out_predict(influence, method=method)
    seconds = time.process_time() - start
    rows = np.random.default_rng(0).permutation(len(y))[:N_REFITS]
    fitted = getattr(influence.estimator_, method)(X[rows])
    start = time.process_time()
    refits = [refit_without(influence, model, X, y, row) for row in rows]
    expected = np.stack(
        [getattr(m, method)(X[[row]])[0] for m, row in zip(refits, rows, strict=True)]
    )
    brute = (time.process_time() - start) * len(y) / len(rows)
    error, change = (np.abs(a - expected).max() for a in (found[rows], fitted))
    shape = f"{X.shape[0]} x {X.shape[1]}"
    print(name, model, [str(w.message) for w in told], flush=True)
    mark = " (with a warning)" if told else ""
    return (
        f"| {type(model).__name__} | {name} | {shape} | {seconds:.3f} | {brute:.0f} | "
        f"{brute / seconds:.0f} | {change:.1e} | {error:.1e}{mark} |"
    )


def later_queries():
    X, y = fair()
    rng = np.random.default_rng(0)
    X, y = (
        np.tile(X, (10, 1)) + 0.01 * rng.standard_normal((10 * len(X), X.shape[1])),
        np.tile(y, 10),
    )
    influence = ExactInfluence(LR(**NEWTON)).fit(X, y)

    def seconds(function, *args):
        start = time.process_time()
        function(*args)
        return 1000 * (time.process_time() - start)

    first = seconds(influence.leave_one_out_effect, X[:1], y[:1])
    later = np.median([seconds(influence.leave_one_out_effect, X[:1], y[:1]) for _ in range(9)])
    plain = np.median([seconds(influence.influence, X[:1], y[:1]) for _ in range(9)])
    score = seconds(leave_one_out_score, influence)
    yield (
        f"One query at {len(y)} rows and {X.shape[1]} columns (fair, ten times with noise): "
        f"`leave_one_out_effect` takes {first:.0f} ms at first and {later:.1f} ms later, "
        f"`influence` {plain:.1f} ms. `leave_one_out_score` takes {score / 1000:.2f} s."
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    with RESULTS.open("w") as file:
        for line in lines():
            print(line, file=file, flush=True)
