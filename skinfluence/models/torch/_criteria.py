"""The loss of a model, from its name, a loss module of torch, or a function."""

import copy
from dataclasses import dataclass
from functools import partial
from inspect import signature

import numpy as np
from torch import nn

from skinfluence.models.losses import LogisticLoss, Loss, SoftmaxScores, SquaredLoss
from skinfluence.models.torch._cross_entropy import CrossEntropy
from skinfluence.models.torch._losses import CallableLoss, ReturnedLoss

# Of more classes, such as the tokens of a vocabulary, no matrix of classes is made.
MAX_DENSE_CLASSES = 1000

NAMES = {"cross_entropy", "binary_cross_entropy", "mse", "returned"}


@dataclass
class Criterion:
    """What a model minimises, as a weighted mean over the samples.

    Parameters
    ----------
    loss : Loss
        Loss of each sample.
    classes : ndarray of shape (n_classes,), default=None
        Labels of a classification.
    row_weight : ndarray of shape (n_samples,), default=None
        Weights that the loss itself gives the samples: class weights, numbers of positions.
    """

    loss: Loss
    classes: np.ndarray | None = None
    row_weight: np.ndarray | None = None

    def weigh(self, sample_weight):
        """Weights of samples in the mean, from weights of the user."""
        return sample_weight if self.row_weight is None else sample_weight * self.row_weight


def is_classification(loss):
    """Whether targets are labels."""
    if isinstance(loss, str):
        return loss in ("cross_entropy", "binary_cross_entropy")
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)


def read_criterion(loss, y, n_outputs):
    """Criterion of a loss on training targets.

    Parameters
    ----------
    loss : str, Module or callable
        As `TorchModel` takes it.
    y : ndarray of shape (n_samples,) or (n_samples, t)
        Training targets.
    n_outputs : int
        Raw outputs of a sample.

    Returns
    -------
    Criterion

    Raises
    ------
    TypeError
        If a loss module does not take the mean, or takes more than outputs and targets; if the
        loss is a class.
    ValueError
        If the targets or the number of outputs do not fit the loss.
    """
    _check_takes_two(loss)
    if loss == "cross_entropy" or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return _cross_entropy(
            nn.CrossEntropyLoss() if isinstance(loss, str) else loss, y, n_outputs
        )
    if loss == "binary_cross_entropy":
        if n_outputs != 1:
            raise ValueError(
                f"loss={loss!r} needs a module with 1 output. Got {n_outputs} instead."
            )
        return Criterion(LogisticLoss(), _checked_labels(y, loss, 2))
    if loss == "mse" or type(loss) is nn.MSELoss and _check_mean(loss):
        return Criterion(SquaredLoss(factor=1.0 / n_outputs))
    if loss == "returned":
        return _returned(n_outputs)
    if type(loss) is nn.BCEWithLogitsLoss and n_outputs == 1 and _is_plain_binary(loss, y):
        return Criterion(LogisticLoss(), np.arange(2))
    if isinstance(loss, nn.modules.loss._Loss) and loss.reduction != "none":
        _check_mean(loss)
        return Criterion(CallableLoss(_per_sample(loss), y.dtype, y.ndim))
    return Criterion(CallableLoss(loss, y.dtype, y.ndim))


def _check_takes_two(loss):
    if isinstance(loss, type):
        raise TypeError(
            f"loss is the class {loss.__name__}. Expected an object of it, {loss.__name__}(), a "
            f"name ({', '.join(sorted(NAMES))}), or a function (outputs, targets) that returns "
            "the loss of each sample."
        )
    if isinstance(loss, nn.modules.loss._Loss):
        parameters = signature(loss.forward).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty]
        if len(needed) != 2:
            raise TypeError(
                f"{type(loss).__name__} takes {', '.join(needed)}. Expected a loss of outputs and "
                "targets; let the module return its own loss and use loss='returned', or give a "
                "function (outputs, targets) that returns the loss of each sample."
            )


def _check_mean(criterion):
    if criterion.reduction != "mean":
        raise TypeError(
            f"The criterion {type(criterion).__name__}(reduction={criterion.reduction!r}) weighs "
            "the loss against the weight decay by the size of the batch. Use reduction='mean', "
            "or a function that returns the loss of each sample."
        )
    return True


def _cross_entropy(criterion, y, n_outputs):
    if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] == n_outputs:
        # Targets are probabilities of the classes.
        _check_mean(criterion)
        return Criterion(CallableLoss(_per_sample(criterion), y.dtype, y.ndim))
    if criterion.reduction == "none":
        return Criterion(CallableLoss(criterion, y.dtype, y.ndim))
    _check_mean(criterion)
    n_positions = y.shape[1] if y.ndim == 2 else 1
    n_classes, rest = divmod(n_outputs, n_positions)
    if n_classes < 2 or rest:
        raise ValueError(
            f"The cross-entropy needs one output for each class: (n, n_classes), or (n, "
            f"n_classes, t) for targets (n, t). Got {n_outputs} output(s) of a sample for "
            f"{n_positions} target(s); for a single logit use loss='binary_cross_entropy'."
        )
    weight = criterion.weight
    weight = None if weight is None else weight.detach().cpu().numpy().astype(np.float64)
    smoothing = getattr(criterion, "label_smoothing", 0.0)
    ignored = criterion.ignore_index
    _checked_labels(y, "cross_entropy", n_classes, ignored)
    own = CrossEntropy(n_classes, weight, smoothing, ignored)
    codes = y.reshape(len(y), -1)
    is_plain = n_positions == 1 and not smoothing and not (codes == ignored).any()
    is_plain = is_plain and n_classes <= MAX_DENSE_CLASSES
    loss = SoftmaxScores(n_classes) if is_plain else own
    row_weight = None if is_plain and weight is None else own.row_weight(codes)
    return Criterion(loss, np.arange(n_classes), row_weight)


def _checked_labels(y, loss, n_classes, ignored=None):
    """The classes, after a check that targets are among them."""
    labels = y[y != ignored]
    integers = y.dtype.kind in "iub" and (y.ndim == 1 or loss == "cross_entropy")
    if not integers or len(labels) and not (0 <= labels.min() and labels.max() < n_classes):
        raise ValueError(
            f"loss={loss!r} expects integer labels from 0 to {n_classes - 1}, one for each "
            f"sample. Got dtype {y.dtype}, shape {y.shape} and {np.unique(y)[:10].tolist()} "
            "instead; encode them with sklearn.preprocessing.LabelEncoder."
        )
    return np.arange(n_classes)


def _returned(n_outputs):
    if n_outputs != 1:
        raise ValueError(
            "loss='returned' needs a module that returns one number for each sample, its loss. "
            f"Got {n_outputs} instead; give the loss of these outputs as a function."
        )
    return Criterion(ReturnedLoss())


def _is_plain_binary(criterion, y):
    _check_mean(criterion)
    unweighted = criterion.weight is None and criterion.pos_weight is None
    return unweighted and np.isin(y, (0, 1)).all()


def _per_sample(criterion):
    """The criterion as a function that returns the mean loss of each sample."""
    criterion = copy.deepcopy(criterion).cpu()
    criterion.reduction = "none"
    return partial(_mean_of_sample, criterion)


def _mean_of_sample(criterion, outputs, targets):
    if targets.is_floating_point():
        outputs = outputs.reshape(targets.shape)
    return criterion(outputs, targets).reshape(len(outputs), -1).mean(1)
