"""Wrappers of scikit-learn without an objective of their own, each refused with the reason."""

from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.multiclass import OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, RegressorChain

from skinfluence.models.registry import Refusal, objective

_STACK = (
    "its final step was fitted on cross-validated predictions, which the stack does not store. "
    "Fit the base estimators first and freeze them, "
    "estimators=[(name, FrozenEstimator(fitted)), ...], or wrap the final estimator on "
    "predictions of your own."
)
_REASONS = {
    VotingClassifier: "it averages models with an objective each. Wrap its members one by one.",
    CalibratedClassifierCV: (
        "calibration is fitted on the scores of a model, not with it. Wrap the model inside, "
        "calibrated_classifiers_[i].estimator."
    ),
    BaggingClassifier: (
        "each member was fitted on rows drawn at random. Wrap the model inside, on all rows."
    ),
    ClassifierChain: (
        "each model reads the targets or predictions of earlier models. Use "
        "MultiOutputClassifier or MultiOutputRegressor, or wrap its members one by one."
    ),
    OutputCodeClassifier: "its codes are drawn at random. Use OneVsRestClassifier.",
    StackingClassifier: _STACK,
}
_REASONS |= {
    VotingRegressor: _REASONS[VotingClassifier],
    BaggingRegressor: _REASONS[BaggingClassifier],
    RegressorChain: _REASONS[ClassifierChain],
    StackingRegressor: _STACK,
}

for _model, _reason in _REASONS.items():
    objective.register(_model, Refusal(_reason))
