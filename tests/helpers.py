"""What several test files need: data, settings of solvers, references by dense algebra.

Loaders return fresh copies, so a test may write into what it gets.
"""

from functools import cache

import numpy as np
from numpy.testing import assert_allclose
from sklearn import datasets
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from skinfluence.rows import DenseRows

# Settings at which solvers of scikit-learn go to the minimum: of those with a Newton solver, and
# of the others.
NEWTON = {"solver": "newton-cholesky", "tol": 1e-12}
TIGHT = {"tol": 1e-12, "max_iter": 100_000}


def assert_close(found, expected, tol):
    """Assert that no error exceeds ``tol`` times the largest of the expected values."""
    assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


# ---------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------


@cache
def _bundled(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return (X / 16 if name == "digits" else StandardScaler().fit_transform(X)), y


def _copies(name):
    X, y = _bundled(name)
    return X.copy(), y.copy()


def cancer():
    """Two classes: 569 rows of 30 standardised features."""
    return _copies("breast_cancer")


def wine():
    """Three classes: 178 rows of 13 standardised features."""
    return _copies("wine")


def iris():
    """Three classes, sorted: 150 rows of 4 standardised features."""
    return _copies("iris")


def diabetes():
    """A regression: 442 rows of 10 standardised features."""
    return _copies("diabetes")


def digits(n_classes=10):
    """Images of the first digits: 64 pixels from 0 to 1, some of them constant."""
    X, y = _copies("digits")
    return X[y < n_classes], y[y < n_classes]


def split(X, y, n_queries=100, n_train=None):
    """Training rows, their targets, queries and theirs, by a fixed permutation."""
    order = np.random.default_rng(0).permutation(len(y))
    queries, train = order[:n_queries], order[n_queries:][:n_train]
    return X[train], y[train], X[queries], y[queries]


def spd(rng, p):
    """A positive definite matrix of moderate condition."""
    root = rng.standard_normal((p, 3 * p))
    return root @ root.T / (3 * p)


# ---------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------


def logistic(C=0.1, **params):
    """A logistic regression that converges on all data here, by its default solver."""
    return LogisticRegression(C=C, tol=1e-6, max_iter=1000, **params)


def perceptron(hidden=(6,), cls=MLPClassifier, **params):
    """A perceptron that L-BFGS fits in well under a second."""
    settings = {"activation": "tanh", "solver": "lbfgs", "alpha": 0.5, "random_state": 0}
    settings |= {"max_iter": 3000, "tol": 1e-8}
    return cls(hidden_layer_sizes=hidden, **(settings | params))


def frozen(model, X, y):
    """The model, fitted and not to be fitted again."""
    return FrozenEstimator(model.fit(X, y))


# ---------------------------------------------------------------------------
# References
# ---------------------------------------------------------------------------


def refitted(model, X, y, kept, weight=None):
    """A clone of the model on some of its rows."""
    more = {} if weight is None else {"sample_weight": weight[kept]}
    return clone(model).fit(X[kept], y[kept], **more)


def left_out(model, loss, train, queries, rows, weight=None):
    """Change of the queries' losses when each row is left out and the model fitted again."""
    X, y = train
    everything = np.arange(len(y))
    before = loss(refitted(model, X, y, everything, weight), *queries)
    changes = [
        loss(refitted(model, X, y, everything != row, weight), *queries) - before for row in rows
    ]
    return np.column_stack(changes)


def log_loss_of(model, X, y):
    """Log loss of every row, from the probabilities of a classifier."""
    p = model.predict_proba(X)
    return -np.log(p[np.arange(len(y)), np.searchsorted(model.classes_, y)])


def dense_inverse(influence):
    """The inverse of the curvature that an estimator solves with, from unit vectors."""
    fit = influence.linearisation_
    identity = DenseRows(np.eye(fit.training_rows.n_columns))
    return fit.solve(identity).toarray()
