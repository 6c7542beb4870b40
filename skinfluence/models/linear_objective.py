"""The objective of a model whose outputs are linear in its features."""

import numpy as np
from scipy.sparse import issparse

from skinfluence._utils.warnings import warn_user
from skinfluence.models.losses import SoftmaxLoss
from skinfluence.models.objectives import Objective, select
from skinfluence.rows import KroneckerRows, outer_moment


class LinearObjective(Objective):
    """Outputs ``z = W x + b``, with coordinates ``[W.ravel(), b]``.

    Parameters
    ----------
    weights : ndarray of shape (c, n_features)
        Weights of the outputs that use the features.
    intercepts : ndarray of shape (f,)
        Intercepts, and other outputs that are constants.
    feature_outputs, intercept_outputs : ndarray of int
        To which of the k outputs the weights and the free parameters belong.
    ridge : ndarray of shape (c,)
        Penalty of the objective on the weights of each output.
    intercept_ridge : float
        Penalty of the objective on the intercepts.
    expand : ndarray of shape (n_outputs_of_model, c), default=None
        Outputs of the model from those of the loss, where the two differ.
    lasso : ndarray of shape (c,), default=None
        L1 penalty of the objective on the weights of each output. Influence is then taken on
        the active set, the weights that are not 0.
    **settings
        Passed on to Objective.
    """

    def __init__(
        self,
        *,
        weights,
        intercepts,
        feature_outputs,
        intercept_outputs,
        ridge,
        intercept_ridge=0.0,
        expand=None,
        lasso=None,
        **settings,
    ):
        self.weights = weights
        self.intercepts = intercepts
        self.feature_outputs = feature_outputs
        self.intercept_outputs = intercept_outputs
        self.expand = expand
        ridge = np.repeat(np.broadcast_to(ridge, len(weights)), weights.shape[1])
        penalty = np.concatenate([ridge, np.full(len(intercepts), float(intercept_ridge))])
        theta = np.concatenate([weights.ravel(), intercepts])
        l1_gradient = np.zeros_like(theta)
        self.active = None
        kept = slice(None)
        if lasso is not None:
            lasso = np.broadcast_to(lasso, len(weights))[:, None]
            l1_gradient[: weights.size] = (lasso * np.sign(weights)).ravel()
            intercepts = weights.size + np.arange(len(intercepts))
            kept = self.active = np.concatenate([np.flatnonzero(weights), intercepts])
        super().__init__(
            penalty=penalty[kept],
            l1_gradient=l1_gradient[kept],
            theta=theta[kept],
            n_params=round(len(theta) * (1 if expand is None else len(expand) / len(weights))),
            **settings,
        )

    @property
    def _n_outputs(self):
        return 1 + max([*self.feature_outputs, *self.intercept_outputs])

    def outputs(self, features):
        return self.shifted_outputs(features, self.weights, self.intercepts)

    def shifted_outputs(self, features, weights, intercepts):
        """Outputs for other parameters, with leading axes for several models at once."""
        *models, c, d = weights.shape
        z = np.zeros((*models, features.shape[0], self._n_outputs))
        scores = np.asarray(features @ weights.reshape(-1, d).T)
        scores = np.moveaxis(scores.reshape(-1, *models, c), 0, -2)
        z[..., self.feature_outputs] += scores
        z[..., self.intercept_outputs] += intercepts[..., None, :]
        return z

    @property
    def strictly_convex(self):
        n_intercepts = len(self.intercepts)
        return bool((self.penalty[: len(self.penalty) - n_intercepts] > 0).all())

    def loss_without(self, classes):
        if self.active is not None:
            return None
        return self.loss.of_remaining(np.setdiff1d(np.arange(len(self.classes)), classes))

    def pullback(self, features, vectors):
        rows = KroneckerRows(
            vectors[:, :, self.feature_outputs], features, vectors[:, :, self.intercept_outputs]
        )
        return select(rows, self.active)

    def hessian(self, curvature):
        if curvature == "empirical_fisher" or self.active is not None:
            return super().hessian(curvature)
        second = self.loss.hessian(self.training_outputs, self.targets)
        weight = self.weight / self.total_weight
        if self.loss.separable:
            return self._independent_hessians(second * weight[:, None])
        second = second * weight[:, None, None]
        inner = second[:, self.feature_outputs][:, :, self.feature_outputs]
        cross = second[:, self.feature_outputs][:, :, self.intercept_outputs]
        outer = second[:, self.intercept_outputs][:, :, self.intercept_outputs]
        moment = outer_moment(self.features, inner, cross, outer)
        return np.arange(len(moment))[None], moment[None]

    def _independent_hessians(self, second):
        c, d = self.weights.shape
        has_intercepts = len(self.intercepts) > 0
        index = np.arange(c * d).reshape(c, d)
        if has_intercepts:
            index = np.hstack([index, c * d + np.arange(c)[:, None]])
        blocks = []
        for k in range(c):
            h = second[:, k, None, None]
            edge = h if has_intercepts else h[:, :, :0]
            blocks.append(outer_moment(self.features, h, edge, edge[:, : int(has_intercepts)]))
        return index, np.stack(blocks)

    def to_parameters(self, coordinates):
        if self.active is not None:
            full = np.zeros((len(coordinates), self.weights.size + self.intercepts.size))
            full[:, self.active] = coordinates
            coordinates = full
        if self.expand is None:
            return coordinates
        c, d = self.weights.shape
        weights = coordinates[:, : c * d].reshape(-1, c, d)
        parameters = np.matmul(self.expand, weights).reshape(len(coordinates), -1)
        if not len(self.intercepts):
            return parameters
        return np.hstack([parameters, coordinates[:, c * d :] @ self.expand.T])


def linear_objective(model, X, y, loss, weighting, *, ridge, lasso=0.0, classes=None, **penalties):
    """Objective of a fitted model with ``coef_`` and ``intercept_``.

    Parameters
    ----------
    model : estimator
        The fitted model.
    X : {array, CSR matrix} of shape (n_samples, n_features)
        Training rows.
    y : array of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    loss : Loss
        Loss of one row, from `skinfluence.models.losses` or of one's own.
    weighting : Weighting
        Weights of the rows.
    ridge, lasso : float or ndarray of shape (n_outputs,)
        The objective is ``sum_i w_i loss_i + ridge / 2 ||W||^2 + lasso ||W||_1``.
    classes : ndarray, default=None
        Labels of a classifier.
    **penalties
        ``intercept_ridge``, the L2 penalty of the intercepts, if they have one.

    Returns
    -------
    LinearObjective
    """
    weights = model.coef_.toarray() if issparse(model.coef_) else np.atleast_2d(model.coef_)
    weights = weights.astype(np.float64)
    intercepts = np.broadcast_to(np.ravel(model.intercept_), len(weights)).astype(np.float64)
    intercepts = intercepts if getattr(model, "fit_intercept", True) else intercepts[:0]
    sparse = np.any(lasso)
    if sparse:
        _warn_of_active_set(model, weights)
        penalties["lasso"] = lasso
    if isinstance(loss, SoftmaxLoss):
        contrasts = loss.contrasts
        if sparse:
            # The active set is one of classes, not of their contrasts.
            loss = SoftmaxLoss(len(classes), contrasts=np.eye(len(classes)))
        else:
            penalties["expand"] = contrasts
            weights = contrasts.T @ weights
            intercepts = contrasts.T @ intercepts if len(intercepts) else intercepts
    outputs = np.arange(len(weights))
    return LinearObjective(
        loss=loss,
        features=X,
        targets=loss.encode(y, classes),
        weighting=weighting,
        classes=classes,
        weights=weights,
        intercepts=intercepts,
        feature_outputs=outputs,
        intercept_outputs=outputs[: len(intercepts)],
        ridge=ridge,
        **penalties,
    )


def _warn_of_active_set(model, weights):
    warn_user(
        f"{type(model).__name__} has an L1 penalty: influence is taken on its active set, the "
        f"{np.count_nonzero(weights)} of {weights.size} weights that are not 0, as if no weight "
        "entered or left it.",
        UserWarning,
    )
