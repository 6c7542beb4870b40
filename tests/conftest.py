"""Fixtures of several test files."""

from itertools import count

import numpy as np
import pytest

from skinfluence.refitting.newton_cg import Refit

_serial = count(1)


@pytest.fixture
def rng(global_random_seed):
    """Random numbers of a test that must hold for every seed."""
    return np.random.default_rng(global_random_seed)


@pytest.fixture
def unseen():
    """Function that scales features by a hair, so that no test has kept refits on them."""
    return lambda X: X * (1 + 2.0**-20 * next(_serial))


@pytest.fixture
def refit_blocks(monkeypatch):
    """Number of models in every block that is refitted in closed form, as it happens."""
    blocks, minimise = [], Refit.minimise

    def counting(self, weight, *args, **more):
        blocks.append(len(weight))
        return minimise(self, weight, *args, **more)

    monkeypatch.setattr(Refit, "minimise", counting)
    return blocks
