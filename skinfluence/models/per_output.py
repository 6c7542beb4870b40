"""Wrappers that fit one model for each output: the sum of the members' objectives.

Conventions
-----------
A part is the objective of one member; its output is one column of the outputs of the sum.
Parameters are the weights of all members in their order, then the intercepts.
"""

import warnings

import numpy as np
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor

from skinfluence._utils.validation import encode_labels
from skinfluence.models.linear_objective import LinearObjective, warn_of_active_set
from skinfluence.models.losses import MultilabelLoss, PairwiseLoss
from skinfluence.models.registry import objective
from skinfluence.models.weighting import OutputWeighting, Weighting
from skinfluence.models.wrappers import unwrap


@objective.register(MultiOutputRegressor)
def _(model, X, y, sample_weight):
    parts = [
        _part(model, member, X, targets, sample_weight)
        for member, targets in zip(model.estimators_, np.transpose(y), strict=True)
    ]
    weighting = Weighting(sample_weight, kind=parts[0].weighting.kind)
    return _sum(model, parts, X, y, parts[0].loss, weighting)


@objective.register(MultiOutputClassifier)
def _(model, X, y, sample_weight):
    labels = [member.classes_ for member in model.estimators_]
    if any(len(classes) != 2 for classes in labels):
        raise TypeError(
            "The outputs of this MultiOutputClassifier have "
            f"{', '.join(str(len(classes)) for classes in labels)} classes. Expected 2 for each; "
            "wrap the classifier of each output by itself."
        )
    parts = [
        _part(model, member, X, targets, sample_weight)
        for member, targets in zip(model.estimators_, np.transpose(y), strict=True)
    ]
    weighting = _separate(parts, np.column_stack([part.weighting.codes for part in parts]))
    return _sum(model, parts, X, y, MultilabelLoss(parts[0].loss, labels), weighting)


@objective.register(OneVsRestClassifier)
def _(model, X, y, sample_weight):
    if model.multilabel_:
        codes = np.asarray(y)
    else:
        codes = 1 * (encode_labels(y, model.classes_)[:, None] == np.arange(len(model.classes_)))
        codes = codes[:, -len(model.estimators_) :]
    parts = [
        _part(model, member, X, targets, sample_weight)
        for member, targets in zip(model.estimators_, codes.T, strict=True)
    ]
    if model.multilabel_:
        loss, classes = MultilabelLoss(parts[0].loss), None
    else:
        loss, classes = parts[0].loss, model.classes_
    return _sum(model, parts, X, y, loss, _separate(parts, codes), classes)


@objective.register(OneVsOneClassifier)
def _(model, X, y, sample_weight):
    codes = encode_labels(y, model.classes_)[:, None]
    first, second = np.triu_indices(len(model.classes_), 1)
    # A row takes part in the problems of all pairs that include its class.
    codes = np.where(codes == second, 1, np.where(codes == first, 0, -1))
    parts = [
        _part(model, member, X[own >= 0], own[own >= 0], sample_weight[own >= 0])
        for member, own in zip(model.estimators_, codes.T, strict=True)
    ]
    if parts[0].weighting.kind != "sum":
        raise TypeError(
            f"A {type(model.estimator).__name__} divides its losses by the number of its rows, "
            "which differs between the pairs of classes of a OneVsOneClassifier. Use "
            "OneVsRestClassifier, or a model such as LogisticRegression or LinearSVC."
        )
    weighting = _separate(parts, codes, sample_weight)
    return _sum(model, parts, X, y, PairwiseLoss(parts[0].loss, model.classes_), weighting)


def _part(model, member, X, y, sample_weight):
    """Objective of one member."""
    unwrapped = unwrap(member)
    if unwrapped.featurizers or unwrapped.target_steps:
        raise TypeError(
            f"Each member of this {type(model).__name__} transforms its data by itself. Put the "
            f"steps in front: Pipeline([*steps, {type(model).__name__}(model)])."
        )
    if type(unwrapped.model).__name__ == "_ConstantPredictor":
        raise TypeError(
            f"A member of this {type(model).__name__} saw one class only and is a constant, which "
            "no row influences. Leave that class out."
        )
    with warnings.catch_warnings():
        # The sum issues one warning for all members.
        warnings.filterwarnings("ignore", ".*L1 penalty", UserWarning)
        part = objective(unwrapped.model, X, y, sample_weight)
    if not part.is_linear or part.targets.shape[1] != 1:
        _refuse(model, unwrapped.model, "is not linear with one output")
    if not part.loss.separable:
        _refuse(model, unwrapped.model, "has more parameters than weights and an intercept")
    return part


def _refuse(model, member, reason):
    raise TypeError(
        f"{type(model).__name__} is supported around linear models with one output each, and "
        f"{type(member).__name__} {reason}. Wrap the {type(member).__name__} of each output by "
        "itself."
    )


def _separate(parts, codes, sample_weight=None):
    """Weights of problems that share only their rows."""
    first = parts[0].weighting
    given = [part.weighting.class_weight for part in parts]
    everywhere = (codes >= 0).all()
    if len(parts) == 1 or (everywhere and given[0] is None):
        return Weighting(first.sample_weight, codes[:, 0], given[0], first.kind)
    class_weight = np.stack(given) if isinstance(given[0], np.ndarray) else given[0]
    sample_weight = first.sample_weight if sample_weight is None else sample_weight
    return OutputWeighting(sample_weight, codes, class_weight, first.kind)


def _sum(model, parts, X, y, loss, weighting, classes=None):
    """Sum of the objectives of the parts, one output each."""
    _check_alike(model, parts)
    lasso = None
    weights = np.concatenate([part.weights for part in parts])
    if any(part.lasso is not None for part in parts):
        warn_of_active_set(model, weights)
        lasso = np.concatenate([np.zeros(1) if p.lasso is None else p.lasso for p in parts])
    intercepts = np.concatenate([part.intercepts for part in parts])
    return LinearObjective(
        loss=loss,
        features=X,
        targets=weighting.weigh(loss.encode(y, classes)),
        weighting=weighting,
        classes=classes,
        weights=weights,
        intercepts=intercepts,
        feature_outputs=np.arange(len(weights)),
        intercept_outputs=np.arange(len(intercepts)),
        ridge=np.concatenate([part.ridge for part in parts]),
        intercept_ridge=np.concatenate([part.intercept_ridge for part in parts]),
        lasso=lasso,
        intercept_lasso=np.concatenate([part.intercept_lasso for part in parts]),
    )


def _check_alike(model, parts):
    """Raise a TypeError unless all parts have the same loss, and an intercept or none."""
    losses = {(type(part.loss), tuple(vars(part.loss).items())) for part in parts}
    if len(losses) > 1 or len({len(part.intercepts) for part in parts}) > 1:
        raise TypeError(
            f"The members of this {type(model).__name__} have different losses, or only some have "
            "an intercept. Expected members that differ in their penalties alone; wrap the model "
            "of each output by itself."
        )
