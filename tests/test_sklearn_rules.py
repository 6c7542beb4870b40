"""Every public class follows the rules of scikit-learn with its defaults."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinfluence import (
    AveragedInfluence,
    ClassifierHeadInfluence,
    ExactInfluence,
    FilteredEstimator,
    KFACInfluence,
    MemorizationSelector,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)

# With weights on one class alone, the intercept has no minimum.
pytestmark = pytest.mark.filterwarnings("ignore:LogisticRegression has not converged")

MODEL = LogisticRegression()


@parametrize_with_checks(
    [
        AveragedInfluence(ExactInfluence(MODEL), n_fits=2),
        ClassifierHeadInfluence(MODEL),
        ExactInfluence(MODEL),
        # The checks seed an estimator, not the parts of it.
        FilteredEstimator(MODEL, MemorizationSelector(random_state=0)),
        KFACInfluence(MODEL),
        MemorizationSelector(),
        RelativeHessianInfluence(MODEL),
        SketchedInfluence(MODEL),
        SketchedInfluenceCV(MODEL),
    ]
)
def test_defaults_follow_the_rules_of_scikit_learn(estimator, check):
    check(estimator)
