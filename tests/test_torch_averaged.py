"""The mean influence over several trainings of a torch module."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from skinfluence import AveragedInfluence, ExactInfluence, KFACInfluence
from skinfluence.models.torch import TorchModel
from tests.helpers import assert_close, wine

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")


def averaged(influence, n_fits):
    return AveragedInfluence(influence, n_fits=n_fits, random_state=0)


def train(module, X, y):
    """From new weights, in an order of batches that is drawn too."""
    for layer in module:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.2, weight_decay=1e-2)
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    for _ in range(40):
        for batch in torch.randperm(len(X)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(X[batch]), y[batch]).backward()
            optimiser.step()


def torch_model(**params):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(13, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return TorchModel(module, l2=1e-2, **params)


def test_seeds_reach_the_training_of_a_module():
    X, y = wine()
    given = KFACInfluence(torch_model(train=train), damping=0.1, random_state=0)
    state = torch.random.get_rng_state()
    influence = averaged(given, 2).fit(X, y)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert_array_equal(averaged(given, 2).fit(X, y).self_influence(), influence.self_influence())
    seeds = [fit.estimator.random_state for fit in influence.estimators_]
    alone = torch_model(train=train, random_state=seeds[1]).fit(X, y)
    assert_array_equal(
        alone.decision_function(X), influence.estimators_[1].estimator_.decision_function(X)
    )
    # Without a seed, training draws from torch's generators as they are.
    unseeded = torch_model(train=train)
    before, after = unseeded.fit(X, y).decision_function(X), unseeded.fit(X, y)
    assert np.abs(before - after.decision_function(X)).max() > 1e-3


def test_a_measurement_is_what_queries_ask_of_every_training():
    X, y = wine()
    model = torch_model(train=train, measurement=(0, 2))
    influence = averaged(ExactInfluence(model, curvature="ggn", damping=0.1), 2).fit(X, y)
    expected = np.mean([fit.influence(X[:9]) for fit in influence.estimators_], axis=0)
    assert_close(influence.influence(X[:9]), expected, 1e-12)
    embedded = influence.transform(X[:9]) @ influence.transform(X, y).T
    assert_close(-embedded, expected, 1e-8)


def no_training(module, X, y):
    pass


@pytest.mark.parametrize("train", [None, no_training])
def test_trainings_that_are_all_the_same_are_refused(train):
    influence = ExactInfluence(torch_model(train=train), curvature="ggn", damping=0.1)
    with pytest.raises(ValueError, match="Trainings 0 and 1 of TorchModel.*needs train=.*weights"):
        averaged(influence, 2).fit(*wine())
