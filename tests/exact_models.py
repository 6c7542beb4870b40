"""Models of scikit-learn whose own solvers stop short of the minimum, taken on to it.

Each class fits as its parent does and then makes Newton steps, written out here, until these are
rounding. So what is compared with a refit is not the tolerance of the refit.
"""

import numpy as np
from scipy.special import expit
from sklearn import linear_model as lm
from sklearn import svm


def newton(derivatives, theta):
    """The minimum of a convex function, from a point close to it."""
    for _ in range(50):
        gradient, hessian = derivatives(theta)
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-13 * np.abs(theta).max():
            return theta
    raise AssertionError("no minimum")


class MinimalSVC(svm.LinearSVC):
    """LinearSVC at the minimum: quadratic once the rows inside the margin are known."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        s = np.ones(len(y)) if sample_weight is None else sample_weight
        codes = np.searchsorted(self.classes_, y)
        share = np.ones(len(self.classes_))
        if self.class_weight == "balanced":
            share = s.sum() / (len(self.classes_) * np.bincount(codes, s))
        weight = self.C * s * share[codes]
        Z = np.column_stack([X, np.full(len(y), self.intercept_scaling)])
        positives = self.classes_ if len(self.classes_) > 2 else self.classes_[1:]
        for k, label in enumerate(positives):
            sign = np.where(y == label, 1.0, -1.0)

            def derivatives(theta, sign=sign):
                margin = sign * (Z @ theta)
                inside = 2 * weight * (margin < 1)
                gradient = theta + Z.T @ (inside * sign * (margin - 1))
                return gradient, np.eye(len(theta)) + (inside[:, None] * Z).T @ Z

            start = np.append(self.coef_[k], self.intercept_[k] / self.intercept_scaling)
            theta = newton(derivatives, start)
            self.coef_[k] = theta[:-1]
            self.intercept_[k] = theta[-1] * self.intercept_scaling
        return self


class MinimalHuber(lm.HuberRegressor):
    """HuberRegressor at the minimum over weights, intercept and scale."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        s = np.ones(len(y)) if sample_weight is None else sample_weight
        Z = np.column_stack([X, np.ones(len(y))])
        penalty = 2 * self.alpha * np.append(np.ones(X.shape[1]), [0.0, 0.0])

        def derivatives(theta):
            t = (y - Z @ theta[:-1]) / theta[-1]
            inside = np.abs(t) <= self.epsilon
            clipped = np.clip(t, -self.epsilon, self.epsilon)
            gradient = np.append(-2 * Z.T @ (s * clipped), s @ (1 - clipped**2))
            rows = np.column_stack([Z, t])
            curved = 2 * s * inside / theta[-1]
            return gradient + penalty * theta, (curved[:, None] * rows).T @ rows + np.diag(penalty)

        theta = newton(derivatives, np.concatenate([self.coef_, [self.intercept_, self.scale_]]))
        self.coef_, self.intercept_, self.scale_ = theta[:-2], theta[-2], theta[-1]
        return self


class MinimalSGD(lm.SGDClassifier):
    """SGDClassifier of two classes with the log loss, at the minimum of its objective."""

    def fit(self, X, y):
        super().fit(X, y)
        Z = np.column_stack([X, np.ones(len(y))])
        penalty = self.alpha * np.append(np.ones(X.shape[1]), 0.0)
        target = 1.0 * (y == self.classes_[1])

        def derivatives(theta):
            p = expit(Z @ theta)
            gradient = Z.T @ (p - target) / len(y) + penalty * theta
            return gradient, (Z.T * (p * (1 - p))) @ Z / len(y) + np.diag(penalty)

        theta = newton(derivatives, np.append(self.coef_[0], self.intercept_))
        self.coef_, self.intercept_ = theta[None, :-1], theta[-1:]
        return self
