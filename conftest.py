"""Settings and fixtures for the tests in `tests/` and the doctests of the package."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

# Read when scikit-learn and SciPy are imported; without it scikit-learn skips its
# checks of array API input.
os.environ["SCIPY_ARRAY_API"] = "1"

# Read when matplotlib is imported: the tests open no window.
os.environ["MPLBACKEND"] = "agg"

# Workers of pytest-xdist share the cores, so each gets its part of the threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    n_workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))

# Where an optional package is missing, the tests and doctests that need it are too.
HERE = Path(__file__).parent
TORCH_TESTS = [
    str(path)
    for pattern, line in (
        ("tests/test_*.py", "\nimport torch"),
        ("skinfluence/**/*.py", ">>> import torch"),
    )
    for path in HERE.glob(pattern)
    if line in path.read_text("utf-8")
]
OPTIONAL = {
    "torch": ["skinfluence/models/torch", *TORCH_TESTS],
    "skorch": ["skinfluence/models/torch/_skorch.py", "tests/test_skorch.py"],
    "matplotlib": ["skinfluence/inspection"],
}
collect_ignore = [
    path for package, paths in OPTIONAL.items() if not find_spec(package) for path in paths
]


@pytest.fixture
def global_random_seed():
    """Seed of a test that must hold for every seed.

    `SKINFLUENCE_TESTS_SEED=7 make test` runs the suite with another one.
    """
    return int(os.environ.get("SKINFLUENCE_TESTS_SEED", "42"))


@pytest.fixture(params=["pandas", "polars"])
def df_module(request):
    """A data frame library: `df_module.DataFrame(...)`, `df_module.Series(...)`."""
    return pytest.importorskip(request.param)
