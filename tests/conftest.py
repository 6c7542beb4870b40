"""Fixtures of several test files."""

from itertools import count

import numpy as np
import pytest

from skinfluence.refitting.newton_cg import Refit

_serial = count(1)


def pytest_generate_tests(metafunc):
    """Run a test that asks for a `device` on the CPU, and on an accelerator if there is one."""
    if "device" in metafunc.fixturenames:
        import torch

        found = ["cpu"]
        found += ["cuda"] if torch.cuda.is_available() else []
        found += ["mps"] if torch.backends.mps.is_available() else []
        metafunc.parametrize("device", found)


@pytest.fixture
def keep_rows_on(monkeypatch):
    """Function that lets rows of networks stay tensors on a device, as on an accelerator.

    MPS keeps none: it has no double precision.
    """

    def keep(device):
        hosts = {"cpu", "mps"} - ({device} - {"mps"})
        monkeypatch.setattr("skinfluence.models.torch._network.HOSTS", hosts)

    return keep


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
