"""The objective of a model whose outputs are linear in its features."""

from copy import copy

import numpy as np
from scipy.sparse import issparse

from skinfluence._utils.batching import batches, near_batches
from skinfluence._utils.left_out import LeftOut
from skinfluence._utils.warnings import warn_user
from skinfluence.models.losses import SoftmaxLoss
from skinfluence.models.objectives import Objective, select
from skinfluence.models.stationarity import ROUNDING
from skinfluence.rows import Centring, KroneckerRows, Moments, outer_moment

# Rounding that a solver leaves in outputs, relative to the sum of the sizes of their terms.
OUTPUT_ROUNDING = 1e-12


class LinearObjective(Objective):
    """Outputs ``z = W x + b``, with coordinates ``[W.ravel(), b]``.

    Parameters
    ----------
    weights : ndarray of shape (c, n_features)
        Weights of the outputs that use the features.
    intercepts : ndarray of shape (f,)
        Intercepts, and other outputs that are constants.
    feature_outputs, intercept_outputs : ndarray of int
        To which of the k outputs the weights and the other parameters belong.
    ridge : ndarray of shape (c,)
        Penalty of the objective on the weights of each output.
    intercept_ridge : float or ndarray of shape (f,)
        Penalty of the objective on the intercepts.
    expand : ndarray of shape (n_outputs_of_model, c), default=None
        Outputs of the model from those of the loss, where the two differ.
    lasso : ndarray of shape (c,), default=None
        L1 penalty of the objective on the weights of each output. Influence is then taken on
        the active set, the weights that are not 0.
    intercept_lasso : float or ndarray of shape (f,), default=0.0
        L1 penalty of the objective on the intercepts. Those that it keeps at 0 are not active.
    **settings
        Passed on to Objective.
    """

    is_linear = True

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
        intercept_lasso=0.0,
        **settings,
    ):
        self.weights = weights
        self.intercepts = intercepts
        self.feature_outputs = feature_outputs
        self.intercept_outputs = intercept_outputs
        self.expand = expand
        self.centring = None
        self.feature_names = [f"x{i}" for i in range(weights.shape[1])]
        self.ridge = np.broadcast_to(ridge, len(weights))
        self.intercept_ridge = np.broadcast_to(intercept_ridge, len(intercepts))
        self.lasso = None if lasso is None else np.broadcast_to(lasso, len(weights))
        self.intercept_lasso = np.broadcast_to(intercept_lasso, len(intercepts))
        penalty = np.concatenate(
            [np.repeat(self.ridge, weights.shape[1]), self.intercept_ridge], dtype=np.float64
        )
        theta = np.concatenate([weights.ravel(), intercepts])
        l1_gradient = np.zeros_like(theta)
        self.active = None
        kept = slice(None)
        if lasso is not None:
            l1 = np.concatenate([np.repeat(self.lasso, weights.shape[1]), self.intercept_lasso])
            l1_gradient = l1 * np.sign(theta)
            # What has no L1 penalty, such as most intercepts, is active wherever it is.
            kept = self.active = np.flatnonzero((theta != 0) | (l1 == 0))
        super().__init__(
            penalty=penalty[kept],
            l1_gradient=l1_gradient[kept],
            theta=theta[kept],
            n_params=round(len(theta) * (1 if expand is None else len(expand) / len(weights))),
            **settings,
        )

    def conditioned(self, damping):
        """The objective in coordinates of centred features, if the intercepts absorb the shift.

        With ``x = centre + u`` the outputs are ``W u + (b + W centre)``: only the intercepts
        move, so nothing changes where these are free of penalty and damping.
        """
        covered = set(self.feature_outputs) <= set(self.intercept_outputs)
        if damping > 0 or not covered or self._intercepts_are_penalised:
            return self
        moments = self.moments
        # With fewer rows than parameters, what intercepts share with features loses the digits
        # that a small penalty needs.
        fewer = self.n_samples * self.n_outputs < len(self.theta)
        if not (fewer or moments.are_far_from_0):
            return self
        part = self.centred(Centring(moments))
        part.stationarity = self.stationarity
        return part

    def centred(self, centring):
        """The same objective for features that a `Centring` has shifted."""
        part = copy(self)
        part.__dict__.pop("training_outputs", None)
        part.unconditioned, part.centring = self, centring
        part.features = centring(self.features)
        part.intercepts = self.intercepts + self._shift_of(self.weights, centring.centre)
        if len(self.intercepts):
            part.theta = np.append(self.theta[: -len(self.intercepts)], part.intercepts)
        return part

    @property
    def _intercepts_are_penalised(self):
        n = len(self.intercepts)
        return bool((self.penalty[-n:] != 0).any() or (self.l1_gradient[-n:] != 0).any())

    def curvature_of_rows(self):
        """Curvature of the rows, around whose mean intercepts and weights move independently.

        ``w_i tr(h_i)`` over the outputs with features, (n_samples,), and 0 where that is negative.
        """
        second = self.loss.hessian_diagonal(self.training_outputs, self.targets)
        return self.weight * np.maximum(second[:, self.feature_outputs], 0).sum(axis=1)

    @property
    def moments(self):
        """`Moments` of the features, by the curvature of the rows, or else by their weights."""
        curved = self.curvature_of_rows()
        weight = curved if curved.any() else self.weight
        return Moments.of(lambda: [(self.features, weight)])

    def _shift_of(self, weights, centre):
        """``W centre`` of each intercept, 0 of outputs without features; (..., f)."""
        shift = np.zeros((*weights.shape[:-2], len(self.intercept_outputs)))
        for row, output in enumerate(self.feature_outputs):
            place = np.flatnonzero(self.intercept_outputs == output)
            shift[..., place] = (weights[..., row, :] @ centre)[..., None]
        return shift

    def without_rows(self):
        bare = copy(self)
        # What of their sums queries need is known before the rows go.
        bare.total_weight, bare.stationarity = self.total_weight, self.stationarity
        for name in ("training_outputs", "weight"):
            vars(bare).pop(name, None)
        bare.features, bare.targets = LeftOut(self.features.shape), LeftOut(self.targets.shape)
        bare.weighting = LeftOut()
        if self.unconditioned is not None:
            bare.unconditioned = self.unconditioned.without_rows()
        return bare

    def read(self, features):
        return features if self.centring is None else self.centring(features)

    def describe(self, coordinates):
        places = coordinates if self.active is None else self.active[coordinates]
        weights = places[places < self.weights.size] % self.weights.shape[1]
        if self.centring is not None:
            # The intercept stands for them, and no prediction changes, unless a solver has given
            # a weight to what the rounding of the mean left of them.
            share = np.abs(self.weights * self.centring.centre).max(axis=0)
            idle = share <= ROUNDING * np.abs(self.training_outputs).max(initial=0.0)
            weights = weights[~(self.centring.is_flat & idle)[weights]]
        names = [self.feature_names[i] for i in np.unique(weights)]
        if (places >= self.weights.size).any() and not self.loss.ignores_shifts:
            names.append("the intercept")
        return ", ".join(names)

    @property
    def n_outputs(self):
        return 1 + max([*self.feature_outputs, *self.intercept_outputs])

    def outputs(self, features):
        return self.shifted_outputs(features, self.weights, self.intercepts)

    def shifted_outputs(self, features, weights, intercepts):
        """Outputs for other parameters, with leading axes for several models at once."""
        *models, c, d = weights.shape
        z = np.zeros((*models, features.shape[0], self.n_outputs))
        scores = _product(features, weights.reshape(-1, d).T)
        scores = np.moveaxis(scores.reshape(-1, *models, c), 0, -2)
        z[..., self.feature_outputs] = scores
        z[..., self.intercept_outputs] += intercepts[..., None, :]
        return z

    @property
    def strictly_convex(self):
        # The data decide the intercepts.
        active = np.arange(self.weights.size) if self.active is None else self.active
        return bool((self.penalty[: np.count_nonzero(active < self.weights.size)] > 0).all())

    def loss_without(self, classes):
        # Class weights of single problems would be others without a class.
        if self.active is not None or not self.weighting.is_shared:
            return None
        return self.loss.of_remaining(np.setdiff1d(np.arange(len(self.classes)), classes))

    def pullback(self, features, vectors):
        of_features, of_intercepts = (
            _chosen(vectors, outputs) for outputs in (self.feature_outputs, self.intercept_outputs)
        )
        return select(KroneckerRows(of_features, features, of_intercepts), self.active)

    def gradient_and_size(self):
        if not self.loss.quadratic:
            return super().gradient_and_size()
        # What solves a quadratic solves it in every coordinate, whatever the unit of that is.
        residual = self.loss.residual(self.training_outputs, self.targets)
        size = np.abs(residual) + ROUNDING * np.abs(self.training_outputs)
        gradient, scale = np.zeros_like(self.theta), np.zeros_like(self.theta)
        for batch in batches(self.n_samples, 8 * self.features.shape[1]):
            part, weight = self.features[batch], self.weight[None, batch]
            gradient += (weight @ self.pullback(part, residual[batch, None]))[0]
            scale += (weight @ self.pullback(abs(part), size[batch, None]))[0]
        return gradient, scale

    def residual_length(self):
        own = self.penalty @ self.theta**2
        return float(np.sqrt(self.squared_residuals() + own))

    def squared_residuals(self):
        """``sum_i w_i r_i' h_i^{-1} r_i`` over the training rows, a float."""
        loss, own, total = self.loss, self.original, 0.0
        for part in near_batches(self.n_samples, 8 * own.features.shape[1]):
            outputs, targets = self.training_outputs[part], self.targets[part]
            squares = loss.squared_residual(outputs, targets)
            # Outputs are known up to the rounding of what is added up to them.
            second = np.maximum(loss.hessian_diagonal(outputs, targets), 0)
            rounding = OUTPUT_ROUNDING * own.sizes_of_terms(part)
            total += self.weight[part] @ (squares + (second * rounding**2).sum(axis=1))
        return float(total)

    def sizes_of_terms(self, samples):
        """Sums of the sizes of what is added up to the outputs of a slice of the rows."""
        features, weights = abs(self.features[samples]), abs(self.weights)
        return self.shifted_outputs(features, weights, abs(self.intercepts))

    def hessian(self, curvature):
        if curvature == "empirical_fisher" or self.active is not None:
            return super().hessian(curvature)
        second = self.loss.hessian(self.training_outputs, self.targets)
        weight = self.weight / self.total_weight
        second *= weight.reshape(-1, *[1] * (second.ndim - 1))
        if self.loss.separable:
            return self._independent_hessians(second)
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

    def _uncentred(self, coordinates):
        n_weights = self.weights.size
        weights = coordinates[:, :n_weights].reshape(-1, *self.weights.shape)
        intercepts = coordinates[:, n_weights:] - self._shift_of(weights, self.centring.centre)
        if self.loss.ignores_shifts:
            # The pseudo-inverse in the model's own coordinates moves no constant.
            intercepts -= intercepts.mean(axis=1, keepdims=True)
        return np.hstack([coordinates[:, :n_weights], intercepts])

    def to_parameters(self, coordinates):
        if self.active is not None:
            full = np.zeros((len(coordinates), self.weights.size + self.intercepts.size))
            full[:, self.active] = coordinates
            coordinates = full
        if self.centring is not None:
            coordinates = self._uncentred(coordinates)
        if self.expand is None:
            return coordinates
        c, d = self.weights.shape
        weights = coordinates[:, : c * d].reshape(-1, c, d)
        parameters = np.matmul(self.expand, weights).reshape(len(coordinates), -1)
        if not len(self.intercepts):
            return parameters
        return np.hstack([parameters, coordinates[:, c * d :] @ self.expand.T])


def _chosen(vectors, outputs):
    """Vectors (n, s, k) of some of the outputs, themselves where these are all of them."""
    if np.array_equal(outputs, np.arange(vectors.shape[2])):
        return vectors
    return vectors[:, :, outputs]


def _product(features, matrix):
    """``features @ matrix``, without a copy of all features in double precision."""
    if getattr(features, "dtype", None) != np.float32 or issparse(features):
        return np.asarray(features @ matrix)
    parts = near_batches(features.shape[0], 8 * features.shape[1])
    return np.concatenate([features[part] @ matrix for part in parts])


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
        ``intercept_ridge`` and ``intercept_lasso``, the L2 and the L1 penalty of the intercepts,
        if they have them.

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
        warn_of_active_set(model, weights)
        penalties["lasso"] = lasso
    if loss.has_contrasts:
        contrasts = loss.contrasts
        if sparse:
            # The active set is one of classes, not of their contrasts.
            loss = SoftmaxLoss(len(classes), contrasts=np.eye(len(classes)))
        else:
            penalties["expand"] = contrasts
            weights = contrasts.T @ weights
            intercepts = contrasts.T @ intercepts if len(intercepts) else intercepts
    for name in penalties.keys() & {"intercept_ridge", "intercept_lasso"}:
        penalties[name] = np.broadcast_to(penalties[name], len(weights))[: len(intercepts)]
    outputs = np.arange(len(weights))
    made = LinearObjective(
        loss=loss,
        features=X,
        targets=weighting.weigh(loss.encode(y, classes)),
        weighting=weighting,
        classes=classes,
        weights=weights,
        intercepts=intercepts,
        feature_outputs=outputs,
        intercept_outputs=outputs[: len(intercepts)],
        ridge=ridge,
        **penalties,
    )
    made.feature_names = list(getattr(model, "feature_names_in_", made.feature_names))
    return made


def warn_of_active_set(model, weights):
    """Warn that influence is taken on the active set of an L1 penalty.

    Parameters
    ----------
    model : estimator
        The fitted model.
    weights : ndarray
        Its weights.
    """
    warn_user(
        f"{type(model).__name__} has an L1 penalty: influence is taken on its active set, the "
        f"{np.count_nonzero(weights)} of {weights.size} weights that are not 0, as if no weight "
        "entered or left it.",
        UserWarning,
    )
