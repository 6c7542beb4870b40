"""Brute-force refits that lose no digits, to hold a package in double precision against.

Least squares is solved in rational numbers, so that neither units nor offsets nor collinear
columns cost anything. Other losses are minimised by Newton steps in extended precision, on
columns that are centred and scaled. Both are slow: they are for tables of a few rows and columns.
"""

from fractions import Fraction

import numpy as np

WIDE = np.longdouble


# ---------------------------------------------------------------------------
# Least squares
# ---------------------------------------------------------------------------


def least_squares(X, y, weight, alpha, intercept):
    """Weights and intercept that minimise ``sum_i s_i (y_i - x_i w - b)^2 + alpha w'w``.

    Of several minima the one with the shortest w, as in scikit-learn. All are Fractions.
    """
    rows = [i for i in range(len(y)) if weight[i] > 0]
    s = [Fraction(float(weight[i])) for i in rows]
    A = [[Fraction(float(v)) for v in X[i]] for i in rows]
    t = [Fraction(float(y[i])) for i in rows]
    centre, mean = [Fraction(0)] * X.shape[1], Fraction(0)
    if intercept:
        total = sum(s)
        centre = [_dot(s, column) / total for column in zip(*A, strict=True)]
        mean = _dot(s, t) / total
        A = [[v - c for v, c in zip(row, centre, strict=True)] for row in A]
        t = [v - mean for v in t]
    basis = _row_space(A) if alpha == 0 else _identity(X.shape[1])
    inside = [[_dot(row, b) for b in basis] for row in A]
    gram = [
        [
            sum(w * r[i] * r[j] for w, r in zip(s, inside, strict=True))
            + Fraction(float(alpha)) * _dot(basis[i], basis[j])
            for j in range(len(basis))
        ]
        for i in range(len(basis))
    ]
    right = [
        sum(w * r[i] * v for w, r, v in zip(s, inside, t, strict=True)) for i in range(len(basis))
    ]
    found = _solve_rational(gram, right)
    coef = [
        sum((c * b[j] for c, b in zip(found, basis, strict=True)), Fraction(0))
        for j in range(X.shape[1])
    ]
    return coef, mean - _dot(centre, coef)


def squared_losses(X, y, coef, intercept):
    """``(y_i - x_i w - b)^2`` of every row, as Fractions."""
    exact = [[Fraction(float(v)) for v in row] for row in X]
    return [
        (Fraction(float(t)) - _dot(row, coef) - intercept) ** 2
        for row, t in zip(exact, y, strict=True)
    ]


def squared_loss_changes(train, queries, alpha, intercept, sets):
    """Change of the loss of each query without each of the sets of rows, (n_queries, n_sets)."""
    X, y, weight = train
    before = squared_losses(*queries, *least_squares(X, y, weight, alpha, intercept))
    out = np.empty((len(before), len(sets)))
    for j, rows in enumerate(sets):
        kept = weight.copy()
        kept[rows] = 0.0
        after = squared_losses(*queries, *least_squares(X, y, kept, alpha, intercept))
        out[:, j] = [float(a - b) for a, b in zip(after, before, strict=True)]
    return out


def _dot(left, right):
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


def _identity(p):
    return [[Fraction(int(i == j)) for j in range(p)] for i in range(p)]


def _row_space(A):
    """Rows in echelon form that span those of A."""
    basis, pivots = [], []
    for row in A:
        row = list(row)
        for b, at in zip(basis, pivots, strict=True):
            if row[at]:
                f = row[at]
                row = [v - f * w for v, w in zip(row, b, strict=True)]
        at = next((j for j, v in enumerate(row) if v), None)
        if at is not None:
            basis.append([v / row[at] for v in row])
            pivots.append(at)
    return basis


def _solve_rational(matrix, right):
    """Solution of a positive definite system."""
    rows = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    n = len(rows)
    for i in range(n):
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                f = rows[k][i]
                rows[k] = [v - f * w for v, w in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


# ---------------------------------------------------------------------------
# Other losses
# ---------------------------------------------------------------------------


def _logistic(z, y):
    """Value, first and second derivatives, for y in {0, 1} and one output."""
    sign = 1 - 2 * y
    p = 1 / (1 + np.exp(-z))
    value = np.maximum(sign * z, 0) + np.log1p(np.exp(-np.abs(z)))
    return value[:, 0], p - y, (p * (1 - p))[:, :, None]


def _softmax(z, y):
    """The same for several outputs and y one-hot."""
    shifted = z - z.max(axis=1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(axis=1, keepdims=True)
    value = np.log(np.exp(shifted).sum(axis=1)) - (y * shifted).sum(axis=1)
    return value, p - y, p[:, :, None] * (np.eye(z.shape[1]) - p[:, None, :])


def _poisson(z, y):
    """Half of the unit deviance of counts, with a log link."""
    mu = np.exp(z)
    log = np.log(np.where(y > 0, y, 1))
    return (mu - y + y * (log - z))[:, 0], mu - y, mu[:, :, None]


LOSSES = {"logistic": _logistic, "softmax": _softmax, "poisson": _poisson}


class WideModel:
    """Minimum of ``sum_i s_i loss_i + ridge / 2 |W|^2`` in extended precision."""

    def __init__(self, loss, X, y, weight, ridge, intercept):
        self.loss = LOSSES[loss]
        X, y, weight = X.astype(WIDE), y.astype(WIDE), weight.astype(WIDE)
        used = weight > 0
        X, y, weight = X[used], y[used], weight[used]
        self.centre = weight @ X / weight.sum() if intercept else np.zeros(X.shape[1], WIDE)
        spread = np.abs(X - self.centre).max(axis=0)
        self.scale = np.where(spread > 0, spread, 1)
        self.intercept = intercept
        U = self.design(X)
        ridge = np.append(ridge / self.scale**2, [0.0] * intercept).astype(WIDE)
        self.theta = np.zeros((y.shape[1], U.shape[1]), WIDE)
        self.converged = self.minimise(U, y, weight, ridge)

    def design(self, X):
        U = (X.astype(WIDE) - self.centre) / self.scale
        return np.column_stack([U, np.ones(len(U), WIDE)]) if self.intercept else U

    def losses(self, X, y):
        return self.loss(self.design(X) @ self.theta.T, y.astype(WIDE))[0]

    def minimise(self, U, y, weight, ridge, steps=200):
        def value(theta):
            return weight @ self.loss(U @ theta.T, y)[0] + (ridge * theta**2).sum() / 2

        k, d = self.theta.shape
        now = value(self.theta)
        for _ in range(steps):
            _, residual, second = self.loss(U @ self.theta.T, y)
            gradient = (weight[:, None] * residual).T @ U + ridge * self.theta
            hessian = np.einsum("n,nab,ni,nj->aibj", weight, second, U, U)
            hessian = hessian.reshape(k * d, k * d) + np.diag(np.tile(ridge, k))
            if k > 1 and self.intercept:
                # A shift of all intercepts changes nothing.
                at = np.arange(k) * d + d - 1
                hessian[np.ix_(at, at)] += np.abs(np.diag(hessian)[at]).max()
            step = _solve_wide(hessian, gradient.ravel()).reshape(k, d)
            decrement = (gradient * step).sum()
            if not np.isfinite(decrement):
                return False
            if decrement <= 1e-36 * max(abs(now), 1e-300):
                return True
            t = WIDE(1)
            with np.errstate(over="ignore", invalid="ignore"):
                while t > 1e-12 and not value(self.theta - t * step) <= now - t * decrement / 4:
                    t /= 2
            if t <= 1e-12:
                # At the rounding of the value: whole steps still halve the digits that are left.
                t = WIDE(1)
                if decrement > 1e-16 * max(abs(now), 1e-300):
                    return False
            self.theta = self.theta - t * step
            now = value(self.theta)
        return decrement <= 1e-28 * max(abs(now), 1e-300)


def _solve_wide(matrix, right):
    """Gaussian elimination in extended precision, after scaling to a unit diagonal."""
    scale = np.diag(matrix).copy()
    scale = 1 / np.sqrt(np.where(scale > 0, scale, 1))
    A = np.column_stack([scale[:, None] * matrix * scale, scale * right])
    n = len(A)
    for i in range(n):
        top = i + np.abs(A[i:, i]).argmax()
        A[[i, top]] = A[[top, i]]
        if abs(A[i, i]) < 1e-19:
            A[i, i] = WIDE(np.inf)
        A[i + 1 :] -= (A[i + 1 :, i] / A[i, i])[:, None] * A[i]
    out = np.zeros(n, WIDE)
    for i in reversed(range(n)):
        out[i] = (A[i, -1] - A[i, i + 1 : n] @ out[i + 1 :]) / A[i, i]
    return out * scale


def loss_changes(loss, train, queries, ridge, intercept, sets):
    """Change of the loss of each query without each of the sets; None if one has no minimum.

    ``ridge`` is a function of the weights of the rows that stay.
    """
    X, y, weight = train
    whole = WideModel(loss, X, y, weight, ridge(weight), intercept)
    if not whole.converged:
        return None
    before = whole.losses(*queries)
    out = np.empty((len(before), len(sets)))
    for j, rows in enumerate(sets):
        kept = weight.copy()
        kept[rows] = 0.0
        model = WideModel(loss, X, y, kept, ridge(kept), intercept)
        out[:, j] = model.losses(*queries) - before if model.converged else np.nan
    return out
