"""A trained module as a scikit-learn estimator."""

import copy
from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import nn

from skinfluence._utils.sklearn_private import Interval, StrOptions, _fit_context
from skinfluence.models import losses
from skinfluence.models.registry import objective
from skinfluence.models.torch._losses import CallableLoss
from skinfluence.models.torch._network import Network
from skinfluence.models.torch._objective import TorchObjective
from skinfluence.models.weighting import Weighting

CLASSIFICATION = {"cross_entropy", "binary_cross_entropy"}


class TorchModel(BaseEstimator):
    """A trained torch module as a scikit-learn estimator.

    The module minimised ``mean of the losses + l2 / 2 * |parameters|^2``, as torch's optimisers
    do with ``weight_decay=l2``. Influence uses a copy in eval mode (BatchNorm with its running
    statistics, Dropout off), on the module's device, and leaves the mode, dtype, gradients and
    hooks of the module alone.

    Parameters
    ----------
    module : torch.nn.Module
        A trained module that maps a batch of samples to a tensor (n, n_outputs), each sample
        on its own. It reads features in its own dtype, or as int64 if it has an Embedding
        and all features are integers.
    loss : {"cross_entropy", "binary_cross_entropy", "mse"} or callable, default="cross_entropy"
        "cross_entropy": of logits, labels 0 to n_outputs - 1. "binary_cross_entropy": of one
        logit, labels 0 and 1. "mse": mean over the outputs of the squared errors. A callable
        takes outputs in float64 and targets, both tensors on the CPU, and returns one loss for
        each sample.
    l2 : float, default=0.0
        Weight decay of the mean objective, on all parameters.
    parameters : str or list of str, default=None
        Patterns of names of the parameters under study, such as ``"head.*"``; the others count
        as constants. By default all parameters that require a gradient.
    train : callable, default=None
        ``train(module, X, y)`` trains a copy of the module, in place or by returning it, and
        takes ``sample_weight`` if weights are given. Without ``train``, fitting takes the module
        as it is. Refits need ``train``, which should start from the same, untrained module.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained module.
    classes_ : ndarray of shape (n_classes,)
        Labels, for a classification loss.
    network_ : Network
        The module in eval mode, as a function of the parameters under study.
    n_features_in_ : int
        Size of the first axis of a sample.

    See Also
    --------
    skinfluence.ExactInfluence : Influence with the full curvature.
    skinfluence.KFACInfluence : Influence for larger networks.

    Examples
    --------
    >>> import torch
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.models.torch import TorchModel
    >>> module = torch.nn.Linear(1, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = module.weight.fill_(1.5)

    Trained on the rows (-1, -1), (1, 1) and (1, 4) with weight decay, for a query (1, 1):

    >>> model = TorchModel(module, loss="mse", l2=2 / 3)
    >>> influence = ExactInfluence(model, damping=0.0, curvature="ggn")
    >>> influence.fit([[-1.0], [1.0], [1.0]], [-1.0, 1.0, 4.0]).influence([[1.0]], [1.0])
    array([[-0.375, -0.375,  1.875]])
    """

    _parameter_constraints: dict = {
        "module": [nn.Module],
        "loss": [StrOptions({*CLASSIFICATION, "mse"}), callable],
        "l2": [Interval(Real, 0, None, closed="left")],
        "parameters": [None, str, list, tuple],
        "train": [None, callable],
    }

    def __init__(self, module, *, loss="cross_entropy", l2=0.0, parameters=None, train=None):
        self.module = module
        self.loss = loss
        self.l2 = l2
        self.parameters = parameters
        self.train = train

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train a copy of the module, or take it as it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples along the first axis.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; integers from 0 for a classification loss.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the mean loss.

        Returns
        -------
        self : TorchModel
            The fitted estimator.

        Raises
        ------
        ValueError
            If labels are no integers from 0 on, the module is in train mode with BatchNorm, or
            its parameters are not finite.
        """
        X = _check_X(X)
        y = np.asarray(y)
        self.n_features_in_ = X.shape[1] if X.ndim > 1 else 1
        if self.train is None:
            _check_mode(self.module)
            self.module_ = self.module
        else:
            more = {}
            if sample_weight is not None:
                more["sample_weight"] = _check_sample_weight(sample_weight, X)
            module = copy.deepcopy(self.module)
            trained = self.train(module, X, y, **more)
            self.module_ = module if trained is None else trained
        network = Network(self.module_, X, self.parameters)
        n_outputs = network.n_outputs(X)
        if self._is_classification:
            self.classes_ = _check_labels(y, self.loss, n_outputs)
        self.network_ = network
        return self

    @property
    def _is_classification(self):
        return isinstance(self.loss, str) and self.loss in CLASSIFICATION

    def decision_function(self, X):
        """Raw outputs of the module in eval mode.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            Logits, or predictions of a regression.
        """
        check_is_fitted(self)
        return self.network_.outputs(_check_X(X))

    def predict(self, X):
        """Labels of a classification loss, else the outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        """
        outputs = self.decision_function(X)
        if not self._is_classification:
            return outputs[:, 0] if outputs.shape[1] == 1 else outputs
        best = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        return self.classes_[best.astype(int)]

    def score(self, X, y):
        """Accuracy of a classification loss, else the coefficient of determination.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.

        Returns
        -------
        float
            The score, higher is better.
        """
        measure = accuracy_score if self._is_classification else r2_score
        return float(measure(y, self.predict(X)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier" if self._is_classification else "regressor"
        tags.target_tags.required = True
        tags.input_tags.three_d_array = True
        return tags


@objective.register(TorchModel)
def _(model, X, y, sample_weight):
    loss = _make_loss(model.loss, y, model.network_.n_outputs(X))
    classes = getattr(model, "classes_", None)
    return TorchObjective(
        network=model.network_,
        l2=np.full(len(model.network_.theta), float(model.l2)),
        loss=loss,
        features=X,
        targets=loss.encode(y, classes),
        weighting=Weighting(sample_weight, kind="mean"),
        classes=classes,
    )


@objective.register(nn.Module)
def _(model, X, y, sample_weight):
    raise TypeError(
        f"{type(model).__name__} is a bare module, whose loss is not known. Wrap it: "
        "skinfluence.models.torch.TorchModel(module, loss='cross_entropy')."
    )


def _make_loss(loss, y, n_outputs):
    if loss == "cross_entropy":
        return losses.SoftmaxScores(n_outputs)
    if loss == "binary_cross_entropy":
        return losses.LogisticLoss()
    if loss == "mse":
        return losses.SquaredLoss(factor=1.0 / n_outputs)
    return CallableLoss(loss, y.dtype, y.ndim)


def _check_X(X):
    return check_array(X, allow_nd=True, dtype=None, accept_sparse="csr")


def _check_mode(module):
    normalisations = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
    ]
    if normalisations:
        raise ValueError(
            f"The module is in train mode and has BatchNorm ({', '.join(normalisations)}), so "
            "its outputs depend on the batch. Expected a trained module; call module.eval()."
        )


def _check_labels(y, loss, n_outputs):
    n_classes = 2 if loss == "binary_cross_entropy" else n_outputs
    if loss == "binary_cross_entropy" and n_outputs != 1:
        raise ValueError(f"loss={loss!r} needs a module with 1 output. Got {n_outputs} instead.")
    if loss == "cross_entropy" and n_outputs < 2:
        raise ValueError(
            "loss='cross_entropy' needs one output for each class. Got 1 instead; use "
            "loss='binary_cross_entropy' for a single logit."
        )
    integers = y.dtype.kind in "iub" and y.ndim == 1
    if not integers or len(y) and not (0 <= y.min() and y.max() < n_classes):
        raise ValueError(
            f"loss={loss!r} expects integer labels from 0 to {n_classes - 1}, one for each "
            f"sample. Got dtype {y.dtype}, shape {y.shape} and {np.unique(y)[:10].tolist()} "
            "instead; encode them with sklearn.preprocessing.LabelEncoder."
        )
    return np.arange(n_classes)
