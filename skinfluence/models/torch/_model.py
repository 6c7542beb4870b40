"""A trained module as a scikit-learn estimator."""

import copy
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import nn

from skinfluence._utils.persistence import VersionedMixin
from skinfluence._utils.sklearn_private import Interval, StrOptions, _fit_context
from skinfluence.models.registry import objective
from skinfluence.models.torch._criteria import NAMES, is_classification, read_criterion
from skinfluence.models.torch._inputs import reader_of
from skinfluence.models.torch._network import CHUNK, Network
from skinfluence.models.torch._objective import TorchObjective
from skinfluence.models.weighting import Weighting


class TorchModel(VersionedMixin, BaseEstimator):
    """A trained torch module as a scikit-learn estimator.

    The module minimised ``mean of the losses + l2 / 2 * |parameters|^2``, as torch's optimisers
    do with ``weight_decay=l2``. Influence uses a copy in eval mode (BatchNorm with its running
    statistics, Dropout off), on the module's device, and leaves the mode, dtype, gradients and
    hooks of the module alone.

    Parameters
    ----------
    module : torch.nn.Module
        A trained module that maps a batch of samples to a tensor (n, ...), each sample on its
        own. It reads features in its own dtype, or as int64 where it takes integers alone
        (tokens). Half precision is computed in single precision.
    loss : str, torch.nn.Module or callable, default="cross_entropy"
        "cross_entropy": of logits (n, n_classes) and labels from 0 on, or of (n, n_classes, t)
        and labels (n, t), where -100 is ignored. "binary_cross_entropy": of one logit, labels 0
        and 1. "mse": mean over the outputs of the squared errors. "returned": the module
        returns the loss of each sample, reads targets among its inputs, and ``y`` is not used;
        such a loss has the empirical Fisher alone. A loss of torch: with its class weights,
        label smoothing and ignored targets, and ``reduction="mean"``, which divides by the
        weights that it keeps. A callable takes outputs (n, k) in float64 and targets, both
        tensors on the CPU, and returns one loss for each sample.
    l2 : float, default=0.0
        Weight decay of the mean objective, on all parameters.
    parameters : str or list of str, default=None
        Patterns of names of the parameters under study, such as ``"head.*"``; the others count
        as constants. By default all parameters that require a gradient.
    exclude : str or list of str, default=None
        Patterns of names of parameters that count as constants too.
    train : callable, default=None
        ``train(module, X, y)`` trains a copy of the module, in place or by returning it, and
        takes ``sample_weight`` if weights are given. Without ``train``, fitting takes the module
        as it is. Refits need ``train``, which should start from the same, untrained module.
    inputs : array-like, dict or tuple of array-likes, or DatasetInputs, default=None
        Example of what the module reads, of one or more samples: a dict of keyword arguments or
        a tuple of positional ones, integers as int64, masks as bool, numbers in the module's
        dtype. X is then such a dict or tuple, or what `pack` makes of it. With
        :class:`DatasetInputs`, X are positions in a dataset. By default X is one array.
    outputs : callable, default=None
        Picks the tensor of outputs from what the module returns, such as
        ``lambda out: out["logits"]``.
    measurement : int, (int, int) or callable, default=None
        What influence without targets is on: a class, for its log-odds; a pair of classes, for
        the difference of their logits; or a function of outputs (n, k) in float64 that returns
        one number for each sample. By default the margin of the predicted class, or the output.
    batch_size : int, default=256
        Samples that pass through the module at once; fewer need less memory.
    random_state : int, RandomState instance or None, default=None
        Seeds torch's generators for ``train``, and gives them back as they were. None lets
        ``train`` draw from them as they are. Another seed is another training only if ``train``
        draws its initial weights, the order of its batches or its dropout.

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
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> with torch.no_grad():
    ...     _ = module.weight.fill_(1.5)

    Trained on the rows (-1, -1), (1, 1) and (1, 4) with weight decay, for a query (1, 1):

    >>> model = TorchModel(module, loss="mse", l2=2 / 3)
    >>> influence = ExactInfluence(model, damping=0.0, curvature="ggn")
    >>> influence.fit([[-1.0], [1.0], [1.0]], [-1.0, 1.0, 4.0]).influence([[1.0]], [1.0])
    array([[-0.375, -0.375,  1.875]])

    A module of two inputs, whose adapter alone is under study, and one class of its queries:

    >>> class TwoInputs(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.words = torch.nn.Embedding(5, 2)
    ...         self.adapter = torch.nn.Linear(3, 2)
    ...     def forward(self, tokens, price):
    ...         words = self.words(tokens).mean(1)
    ...         return {"logits": self.adapter(torch.cat([words, price], dim=1))}
    >>> _ = torch.manual_seed(0)
    >>> X = {"tokens": [[0, 1], [2, 2], [3, 1], [4, 0]], "price": [[1.5], [0.5], [2.0], [1.0]]}
    >>> model = TorchModel(
    ...     TwoInputs(),
    ...     inputs=X,
    ...     outputs=lambda out: out["logits"],
    ...     exclude="words.*",
    ...     measurement=1,
    ...     train=lambda module, X, y: None,
    ... )
    >>> influence = ExactInfluence(model, damping=1.0, curvature="ggn")
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     _ = influence.fit(X, [0, 1, 1, 0])
    >>> influence.n_params_, influence.influence(X).shape
    (8, (4, 4))
    """

    _parameter_constraints: dict = {
        "module": [nn.Module],
        "loss": [StrOptions(NAMES), callable],
        "l2": [Interval(Real, 0, None, closed="left")],
        "parameters": [None, str, list, tuple],
        "exclude": [None, str, list, tuple],
        "train": [None, callable],
        "inputs": "no_validation",
        "outputs": [None, callable],
        "measurement": [None, Interval(Integral, 0, None, closed="left"), tuple, callable],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        module,
        *,
        loss="cross_entropy",
        l2=0.0,
        parameters=None,
        exclude=None,
        train=None,
        inputs=None,
        outputs=None,
        measurement=None,
        batch_size=CHUNK,
        random_state=None,
    ):
        self.module = module
        self.loss = loss
        self.l2 = l2
        self.parameters = parameters
        self.exclude = exclude
        self.train = train
        self.inputs = inputs
        self.outputs = outputs
        self.measurement = measurement
        self.batch_size = batch_size
        self.random_state = random_state

    def pack(self, X):
        """Several inputs side by side in one array, as influence keeps training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or dict or tuple of array-likes
            Samples along the first axes. One array stays as it is.

        Returns
        -------
        ndarray of shape (n_samples, n_numbers)
            The flattened inputs in the order of ``inputs``.

        Raises
        ------
        TypeError
            If the model was not told of several inputs, or X is a data set of torch.
        ValueError
            If the inputs differ in names or shapes from ``inputs``.
        """
        return reader_of(self.inputs).pack(X)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train a copy of the module, or take it as it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or dict or tuple of array-likes
            Samples along the first axis; see ``inputs``.
        y : array-like of shape (n_samples,) or (n_samples, t)
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
        X = self._check_X(X)
        y = np.asarray(y)
        self.n_features_in_ = X.shape[1] if X.ndim > 1 else 1
        if self.train is None:
            _check_mode(self.module)
            self.module_ = self.module
        else:
            self.module_ = self._trained(X, y, sample_weight)
        network = Network(
            self.module_,
            X,
            include=self.parameters,
            exclude=self.exclude,
            transform=self.outputs,
            inputs=self.inputs,
            chunk=self.batch_size,
        )
        classes = read_criterion(self.loss, y, network.n_outputs(X)).classes
        if classes is not None and self._is_classification:
            self.classes_ = classes
        self.network_ = network
        return self

    def _trained(self, X, y, sample_weight):
        """A copy of the module after training."""
        more = {}
        if sample_weight is not None:
            more["sample_weight"] = _check_sample_weight(sample_weight, X)
        module = copy.deepcopy(self.module)
        with _seeded(self.random_state):
            trained = self.train(module, self._for_training(X), y, **more)
        return module if trained is None else trained

    def _for_training(self, X):
        """Samples as the user has them: several inputs as a dict or tuple of tensors."""
        dtype = next(self.module.parameters()).dtype
        return reader_of(self.inputs).for_training(X, dtype)

    def _check_X(self, X):
        return check_array(self.pack(X), allow_nd=True, dtype=None, accept_sparse="csr")

    @property
    def _is_classification(self):
        return is_classification(self.loss)

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
        return self.network_.outputs(self._check_X(X))

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
        if outputs.shape[1] == 1:
            return self.classes_[(outputs[:, 0] > 0).astype(int)]
        best = outputs.reshape(len(outputs), len(self.classes_), -1).argmax(axis=1)
        return self.classes_[best[:, 0] if best.shape[1] == 1 else best]

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
        found = self.predict(X)
        if not self._is_classification:
            return float(r2_score(y, found))
        # scikit-learn has no accuracy of several labels of a sample.
        return float(accuracy_score(np.ravel(y), found.ravel()))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier" if self._is_classification else "regressor"
        tags.target_tags.required = True
        tags.input_tags.three_d_array = True
        return tags


@objective.register(TorchModel)
def _(model, X, y, sample_weight):
    criterion = read_criterion(model.loss, y, model.network_.n_outputs(X))
    return TorchObjective(
        network=model.network_,
        l2=np.full(len(model.network_.theta), float(model.l2)),
        measurement=model.measurement,
        loss=criterion.loss,
        features=X,
        targets=criterion.loss.encode(y, criterion.classes),
        weighting=Weighting(criterion.weigh(sample_weight), kind="mean"),
        classes=getattr(model, "classes_", None),
    )


@objective.register(nn.Module)
def _(model, X, y, sample_weight):
    raise TypeError(
        f"{type(model).__name__} is a bare module, whose loss is not known. Wrap it: "
        "skinfluence.models.torch.TorchModel(module, loss='cross_entropy')."
    )


@contextmanager
def _seeded(random_state):
    """Seed torch's generators inside, None leaves them as they are."""
    if random_state is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(check_random_state(random_state).randint(2**31))
        yield


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
