"""Kept losses are those of the very same refit, and a run that ends early leaves what it did."""

import functools
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import types
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from skinfluence.metrics import retrain_on_subsets
from skinfluence.refitting import loss_cache
from skinfluence.refitting.fingerprints import NoFingerprintError, fingerprint

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def empty_store(monkeypatch):
    """A store of the process that holds nothing yet."""
    store = loss_cache.ProcessStore(2**20)
    monkeypatch.setattr(loss_cache, "PROCESS_STORE", store)
    return store


def numbers(n=24):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    return X, X @ [1.0, -1.0, 0.5] + rng.normal(size=n)


def defined(source, name="f", **space):
    """What a piece of code defines under a name, as if a user had typed it."""
    space = {"__name__": "__main__", **space}
    exec(textwrap.dedent(source), space)
    return space[name]


# ---------------------------------------------------------------------------
# Code
# ---------------------------------------------------------------------------


def with_closure(k):
    def f(x):
        return x * k

    return f


def with_nested_closure(k):
    def g(x):
        return x * k

    return lambda x: g(x) + 1


def with_default(k):
    return lambda x, rate=k: x * rate


def with_keyword_default(k):
    return lambda x, *, rate=k: x * rate


def with_attribute(k):
    def f(x):
        return x * f.rate

    f.rate = k
    return f


def with_constant(k):
    return defined(f"def f(x): return x * {k!r}")


def with_nested_constant(k):
    return defined(f"def f(x): return [(lambda: v * {k!r})() for v in x]")


def with_global(k):
    return defined("def f(x): return x * rate", rate=k)


def with_global_function(k):
    return defined(f"def g(x): return x * {k!r}\ndef f(x): return g(x)")


def with_global_of_nested_function(k):
    return defined("def f(x): return [(lambda: v * rate)() for v in x]", rate=k)


def with_mutual_recursion(k):
    return defined(
        f"""
        def g(x): return f(x) if x > {k!r} else x
        def f(x): return g(x - 1)
        """
    )


def with_module(k):
    helpers = types.ModuleType("helpers")
    helpers.step = with_constant(k)
    helpers.itself = helpers
    return defined("def f(x): return helpers.itself.step(x)", helpers=helpers)


def with_partial(k):
    return functools.partial(pow, k)


def with_partial_keyword(k):
    return functools.partial(with_default(0), rate=k)


class Scaled:
    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return x * self.k

    def method(self, x):
        return x * self.k


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return x * self.k


@dataclass
class Recorded:
    k: float

    def __call__(self, x):
        return x * self.k


def with_code_of_class(k):
    return defined(f"class f:\n    def __call__(self, x): return x * {k!r}")()


def with_code_of_base(k):
    source = f"""
        class base:
            rate = {k!r}
            def __call__(self, x): return x * self.rate
        class f(base):
            def __call__(self, x): return super().__call__(x)
    """
    return defined(source)()


DECORATED = """
    import functools
    class f:
        @functools.cached_property
        def cached(self): return {cached}
        @property
        def computed(self): return {computed}
        @staticmethod
        def static(): return {static}
        @classmethod
        def own(cls): return {own}
"""


def with_lambda_inside(k):
    return Scaled([{"function": with_closure(k)}])


CALLABLES = {
    "closure": with_closure,
    "nested closure": with_nested_closure,
    "default": with_default,
    "keyword default": with_keyword_default,
    "attribute": with_attribute,
    "constant": with_constant,
    "nested constant": with_nested_constant,
    "global": with_global,
    "global function": with_global_function,
    "global of a nested function": with_global_of_nested_function,
    "mutual recursion": with_mutual_recursion,
    "module of one's own": with_module,
    "partial": with_partial,
    "keyword of a partial": with_partial_keyword,
    "state": Scaled,
    "slots": Slotted,
    "dataclass": Recorded,
    "bound method": lambda k: Scaled(k).method,
    "code of a class": with_code_of_class,
    "code of a base": with_code_of_base,
    "method of a fitted estimator": lambda k: StandardScaler().fit([[k], [3.0]]).transform,
    "function in a list in a dict": with_lambda_inside,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_functions_are_known_by_all_they_depend_on(name):
    make = CALLABLES[name]
    assert fingerprint(make(0.1)) == fingerprint(make(0.1))
    assert fingerprint(make(0.1)) != fingerprint(make(1.0))


@pytest.mark.parametrize("make", [with_constant, with_closure, with_default])
def test_equal_numbers_of_other_types_are_other_numbers(make):
    assert len({fingerprint(make(k)) for k in (1, 1.0, True)}) == 3


def test_operations_and_names_are_told_apart():
    sources = ["x * 2", "x + 2", "x.real", "x.imag", "y", "abs(x)", "round(x)", "-0.0", "0.0"]
    found = {fingerprint(eval(f"lambda x, y: {source}")) for source in sources}
    assert len(found) == len(sources)
    assert fingerprint(lambda x, y: x - y) != fingerprint(lambda y, x: x - y)
    assert fingerprint(lambda *, x, y: x - y) != fingerprint(lambda *, y, x: y - x)


def test_decorated_methods_are_read():
    plain = dict.fromkeys(["cached", "computed", "static", "own"], 1)
    sources = [DECORATED.format(**{**plain, name: 2}) for name in plain]
    found = [fingerprint(defined(source)) for source in (DECORATED.format(**plain), *sources)]
    assert len(set(found)) == 5
    assert fingerprint(defined(DECORATED.format(**plain))()) not in found


def test_code_that_moves_to_another_line_stays_the_same():
    assert fingerprint(defined("def f(x): return x")) == fingerprint(
        defined("\n\n\ndef f(x):\n    # Nothing new.\n    return x")
    )


def test_an_import_inside_of_a_function_is_followed(monkeypatch):
    f = defined("def f(x):\n    import helpers_of_a_test\n    return helpers_of_a_test.step(x)")
    found = []
    for k in (0.1, 0.1, 1.0):
        module = types.ModuleType("helpers_of_a_test")
        module.step = with_constant(k)
        monkeypatch.setitem(sys.modules, "helpers_of_a_test", module)
        found.append(fingerprint(f))
    assert found[0] == found[1] != found[2]
    monkeypatch.delitem(sys.modules, "helpers_of_a_test")
    with pytest.raises(NoFingerprintError, match="helpers_of_a_test is imported by code"):
        fingerprint(f)


def test_a_relative_import_is_followed(monkeypatch):
    f = defined("def f(x):\n    from . import step\n    return step(x)", __package__="a.b")
    found = []
    for k in (0.1, 1.0):
        module = types.ModuleType("a.b")
        module.step = with_constant(k)
        monkeypatch.setitem(sys.modules, "a.b", module)
        found.append(fingerprint(f))
    assert found[0] != found[1]


def test_a_file_that_was_edited_gives_other_fingerprints(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for k in (0.1, 0.1, 1.0):
        monkeypatch.delitem(sys.modules, "edited_by_a_test", raising=False)
        source = f"def step(x): return {k} * x\nclass Step:\n    rate = {k}"
        (tmp_path / "edited_by_a_test.py").write_text(source)
        # Files of one second and one size have one entry of compiled code.
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        module = importlib.import_module("edited_by_a_test")
        f = defined("def f(x): return step(x)", step=module.step)
        found.append([fingerprint(part) for part in (f, module.Step, module.Step())])
    assert found[0] == found[1]
    assert all(before != after for before, after in zip(*found[1:], strict=True))


def test_other_processes_find_the_same_key():
    source = """
        import numpy as np
        from skinfluence.refitting.fingerprints import fingerprint
        def train(x, names={"a", "b", "c", "d"}):
            return x in {"left", "right", "up", "down"} and np.sum(x) * 0.1
        key = fingerprint(train, np.array(["a", 1], dtype=object), np.dot, np.add, np.sum)
    """
    script = textwrap.dedent(source) + "print(key)"
    keys = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        run = [sys.executable, "-c", script]
        keys.add(subprocess.run(run, capture_output=True, text=True, env=environment).stdout)
    (key,) = keys
    assert len(key) == 33


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), (x for x in "ab"), Scaled(threading.Lock()), types.ModuleType("helpers")],
    ids=["lock", "generator", "object that holds a lock", "module of one's own"],
)
def test_what_cannot_be_told_has_no_fingerprint(value):
    with pytest.raises(NoFingerprintError):
        fingerprint(value)


def test_an_object_inside_of_itself_has_a_fingerprint():
    loops = []
    for k in (1, 1, 2):
        loop = Scaled(k)
        loop.itself = [loop]
        loops.append(fingerprint(loop))
    assert loops[0] == loops[1] != loops[2]


def test_data_are_known_by_their_values():
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    values = [
        *(np.array([1.0, 2.0]), np.array([1, 2]), np.array([1.0, 2.0], dtype=np.float32)),
        *(masked, np.ma.array([1.0, 2.0]), np.array(["a", 1], dtype=object)),
        *(np.array([["a", 1]], dtype=object), [1.0, 2.0], (1.0, 2.0), {1.0, 2.0}, {1.0: 2.0}),
        *(np.float64(1), 1.0, True, 1, None, "1", b"1", np.random.RandomState(0)),
        *(np.random.default_rng(0), np.random.default_rng(1), np.random.RandomState(1)),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_one_array_in_two_places_is_as_good_as_two_equal_ones():
    values = np.arange(3.0)
    assert fingerprint(values, values) == fingerprint(values, values.copy())


def test_sparse_rows_stay_the_same_when_scipy_notes_something_about_them():
    rows = sp.csr_matrix((np.ones(2), np.array([1, 0]), np.array([0, 1, 2])), shape=(2, 2))
    before = fingerprint(rows)
    assert rows.has_sorted_indices and rows.has_canonical_format
    assert fingerprint(rows) == before != fingerprint(2 * rows)


def test_modules_are_known_by_what_no_tensor_holds():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k
            self.layer = torch.nn.Linear(2, 1)
            torch.nn.init.ones_(self.layer.weight)
            torch.nn.init.ones_(self.layer.bias)

        def forward(self, x):
            return self.k * self.layer(x)

    assert fingerprint(Net(1.0)) == fingerprint(Net(1.0))
    assert fingerprint(Net(1.0)) != fingerprint(Net(2.0))
    hooked, frozen = Net(1.0), Net(1.0)
    hooked.layer.register_forward_hook(lambda *args: 2 * args[-1])
    frozen.layer.weight.requires_grad_(False)
    half = Net(1.0).to(torch.bfloat16)
    found = {fingerprint(module) for module in (Net(1.0), hooked, frozen, half)}
    assert len(found) == 4


# ---------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------


class Counted(RegressorMixin, BaseEstimator):
    """Ridge that counts its fits, and stops before one of them."""

    def __init__(self, fits=None, alpha=1.0, stop=None):
        self.fits, self.alpha, self.stop = fits, alpha, stop

    def __sklearn_clone__(self):
        return type(self)(self.fits, self.alpha, self.stop)

    def fit(self, X, y):
        if len(self.fits.counted) == self.stop:
            raise RuntimeError("stopped")
        self.fits.counted.append(len(y))
        self.ridge_ = Ridge(self.alpha).fit(X, y)
        return self

    def predict(self, X):
        return self.ridge_.predict(X)


class Fits:
    """Counts of an estimator, which are none of its parameters."""

    def __init__(self):
        self.counted = []

    def __reduce__(self):
        return Fits, ()


def refit(model, y_query=None, n_subsets=4, **more):
    X, y = numbers()
    y_query = y[:5] if y_query is None else y_query
    return retrain_on_subsets(
        model, X, y, X[:5], y_query, n_subsets=n_subsets, random_state=0, **more
    )


def test_losses_of_another_learning_rate_are_other_losses():
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("skinfluence.models.torch")

    def trained_at(rate):
        def train(module, X, y):
            optimiser = torch.optim.SGD(module.parameters(), lr=rate)
            inputs, targets = (torch.as_tensor(v, dtype=torch.float32) for v in (X, y))
            for _ in range(5):
                optimiser.zero_grad()
                ((module(inputs)[:, 0] - targets) ** 2).mean().backward()
                optimiser.step()

        return train

    module = torch.nn.Linear(3, 1)
    models_at = [models.TorchModel(module, loss="mse", train=trained_at(r)) for r in (0.01, 0.1)]
    first, second = (refit(model).losses for model in models_at)
    assert np.abs(first - second).max() > 0.01
    assert_array_equal(refit(models_at[0]).losses, first)


def test_a_transformation_that_was_edited_is_fitted_again():
    losses = []
    for k in (1.0, 2.0):
        forward, back = with_closure(k), with_closure(1.0)
        model = TransformedTargetRegressor(
            Ridge(), func=forward, inverse_func=back, check_inverse=False
        )
        losses.append(refit(model).losses)
    assert np.abs(losses[0] - losses[1]).max() > 0.1


def test_an_estimator_whose_class_was_edited_is_fitted_again():
    source = """
        class f(RegressorMixin, BaseEstimator):
            def fit(self, X, y):
                self.value_ = y.mean() + {k}
                return self
            def predict(self, X):
                return np.full(len(X), self.value_)
    """
    space = {"RegressorMixin": RegressorMixin, "BaseEstimator": BaseEstimator, "np": np}
    first, again, other = (refit(defined(source.format(k=k), **space)()).losses for k in (0, 0, 1))
    assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.fixture
def fits():
    return Fits()


def test_equal_runs_share_their_refits(fits):
    first = refit(Counted(fits)).losses
    assert len(fits.counted) == 1 + 4
    assert_array_equal(refit(Counted(fits)).losses, first)
    assert len(fits.counted) == 2 + 4


def test_a_fit_that_refits_do_not_start_from_is_no_part_of_the_key(fits):
    X, y = numbers()
    first = refit(Counted(fits)).losses
    assert_array_equal(refit(Counted(fits).fit(X, 2 * y)).losses, first)
    assert len(fits.counted) == 3 + 4


@pytest.mark.parametrize("fitted", [True, False], ids=["clones", "closed form"])
def test_targets_of_the_queries_belong_to_the_key(fits, fitted):
    _, y = numbers()
    model = Counted(fits) if fitted else Ridge()
    first, second = refit(model, y[:5]).losses, refit(model, y[:5] + 1).losses
    assert np.abs(first - second).max() > 0.1


def test_labels_of_the_queries_belong_to_the_key():
    X, y = numbers()
    model, labels = LogisticRegression(), (y > 0).astype(int)
    losses = [
        retrain_on_subsets(model, X, labels, X[:5], queries, n_subsets=3, random_state=0).losses
        for queries in (labels[:5], 1 - labels[:5])
    ]
    assert (losses[0] != losses[1]).all()


def test_a_penalty_that_was_found_in_other_data_belongs_to_the_key():
    X, y = numbers()
    losses = []
    for targets in (y, np.random.default_rng(1).normal(size=len(y))):
        frozen = FrozenEstimator(RidgeCV([0.1, 100.0]).fit(X, targets))
        losses.append(refit(frozen).losses)
    assert np.abs(losses[0] - losses[1]).max() > 0.1


def test_versions_belong_to_the_key(fits, monkeypatch):
    refit(Counted(fits))
    monkeypatch.setattr(scipy, "__version__", "0.0")
    refit(Counted(fits))
    assert len(fits.counted) == 2 * (1 + 4)


def test_the_version_of_the_models_own_package_belongs_to_the_key(monkeypatch):
    pytest.importorskip("skorch")
    import skorch

    before = fingerprint(skorch.NeuralNetClassifier)
    monkeypatch.setattr(skorch, "__version__", "0.0")
    assert fingerprint(skorch.NeuralNetClassifier) != before


def test_a_frozen_part_of_a_model_is_known_by_its_fit():
    X, y = numbers()
    fitted = [FrozenEstimator(Ridge().fit(X, k * y)) for k in (1.0, 1.0, 2.0)]
    first, again, other = (fingerprint(TransformedTargetRegressor(model)) for model in fitted)
    assert first == again != other
    assert fingerprint(clone(Ridge().fit(X, y))) == fingerprint(Ridge())


class Locked(Counted):
    """An estimator that holds what no key can tell."""

    def __init__(self, fits=None):
        super().__init__(fits)
        self.lock = threading.Lock()

    def __sklearn_clone__(self):
        return type(self)(self.fits)


def test_a_model_that_has_no_key_is_refitted(fits, tmp_path):
    first = refit(Locked(fits)).losses
    assert_array_equal(refit(Locked(fits)).losses, first)
    assert len(fits.counted) == 2 * (1 + 4)
    with pytest.warns(UserWarning, match="refits of Locked are not stored in memory, because"):
        refit(Locked(fits), memory=str(tmp_path))
    assert len(fits.counted) == 3 * (1 + 4)
    assert not list(tmp_path.rglob("output.pkl"))


# ---------------------------------------------------------------------------
# Interruptions
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("disk", [True, False])
def test_a_run_that_is_interrupted_keeps_what_has_ended(fits, tmp_path, disk):
    memory = str(tmp_path) if disk else None
    # The first fit is that on all rows.
    with pytest.raises(RuntimeError, match="stopped"):
        refit(Counted(fits, stop=18), n_subsets=20, memory=memory)
    assert len(fits.counted) == 18
    assert len(list(tmp_path.rglob("output.pkl"))) == 17 * disk
    fits.counted.clear()
    kept = refit(Counted(fits, stop=18), n_subsets=20, memory=memory)
    assert len(fits.counted) == 1 + 3
    # Refits in closed form go to a gradient of 1e-8 of its terms.
    assert_allclose(kept.losses, refit(Ridge(), n_subsets=20).losses, rtol=1e-6, atol=1e-7)


def test_a_process_that_is_killed_keeps_what_has_ended(tmp_path):
    script = f"""
        import os, signal, sys
        import numpy as np
        from sklearn.base import BaseEstimator, RegressorMixin
        from skinfluence.metrics import retrain_on_subsets

        class Mean(RegressorMixin, BaseEstimator):
            def fit(self, X, y):
                if os.environ["KILL"] == "yes" and os.path.getsize("{tmp_path}/fits") == 18:
                    os.kill(os.getpid(), signal.SIGKILL)
                with open("{tmp_path}/fits", "a") as fits:
                    fits.write("x")
                self.mean_ = y.mean()
                return self

            def predict(self, X):
                return np.full(len(X), self.mean_)

        X, y = np.eye(30), np.arange(30.0)
        retrain_on_subsets(
            Mean(), X, y, X[:2], y[:2], n_subsets=20, random_state=0, memory="{tmp_path}/kept"
        )
    """
    fits, script = tmp_path / "fits", textwrap.dedent(script)
    fits.touch()
    runs = []
    for kill in ("yes", "no"):
        environment = {**os.environ, "KILL": kill, "PYTHONPATH": str(ROOT)}
        runs.append(subprocess.run([sys.executable, "-c", script], env=environment).returncode)
    assert runs == [-signal.SIGKILL, 0]
    assert len(fits.read_text()) == 18 + 1 + 3


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing", "sequential"])
def test_backends_change_nothing(backend, monkeypatch):
    monkeypatch.setattr("skinfluence._utils.processes.START", 0.0)
    one = refit(Ridge(), n_subsets=6).losses
    loss_cache.PROCESS_STORE.clear()
    slow = TransformedTargetRegressor(Ridge())
    with joblib.parallel_config(backend=backend, n_jobs=1 if backend == "sequential" else 2):
        assert_allclose(refit(Ridge(), n_subsets=6).losses, one, rtol=1e-9)
        assert_allclose(refit(slow, n_subsets=6).losses, one, rtol=1e-6)


# ---------------------------------------------------------------------------
# Entries
# ---------------------------------------------------------------------------


def overwritten(folder, value):
    files = list(Path(folder).rglob("output.pkl"))
    for file in files:
        if isinstance(value, bytes):
            file.write_bytes(value)
        else:
            joblib.dump(value, file)
    return len(files)


BAD_ENTRIES = {
    "shape": np.zeros(3),
    "axes": np.zeros((1, 6)),
    "type": np.zeros(6, dtype=int),
    "precision": np.zeros(6, dtype=np.float32),
    "list": [0.0] * 6,
    "nothing": None,
    "NaN": np.array([0.0, 1.0, np.nan, 1.0, 1.0, 0.0]),
    "no pickle": b"garbage",
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_an_entry_that_cannot_be_losses_is_refitted(fits, tmp_path, name):
    memory = str(tmp_path)
    expected = refit(Counted(fits), memory=memory).losses
    assert overwritten(memory, BAD_ENTRIES[name]) == 4
    assert_array_equal(refit(Counted(fits), memory=memory).losses, expected)
    assert len(fits.counted) == 2 * (1 + 4)
    # What was wrong is replaced.
    assert_array_equal(refit(Counted(fits), memory=memory).losses, expected)
    assert len(fits.counted) == 2 * (1 + 4) + 1


def test_an_entry_of_the_process_is_checked_too(fits, empty_store, monkeypatch):
    refit(Counted(fits))
    monkeypatch.setattr(empty_store, "get", lambda key: np.zeros(2))
    refit(Counted(fits))
    assert len(fits.counted) == 2 * (1 + 4)


def test_the_losses_that_are_returned_can_be_written_to(fits):
    first = refit(Counted(fits)).losses
    expected = first.copy()
    first[:] = 7
    assert_array_equal(refit(Counted(fits)).losses, expected)


def test_a_memory_without_the_interface_is_refused():
    class Memory:
        def cache(self, function, **more):
            return function

    with pytest.raises(ValueError, match="without call and check_call_in_cache. Expected the job"):
        refit(Ridge(), memory=Memory())


def test_threads_share_one_store():
    store = loss_cache.ProcessStore(50 * 80)

    def work(start):
        for i in range(300):
            key = (start * i) % 120
            store.put(key, np.full(10, float(key)))
            found = store.get((start + i) % 120)
            assert found is None or found[0] == (start + i) % 120

    joblib.Parallel(n_jobs=4, prefer="threads")(joblib.delayed(work)(i) for i in range(1, 5))
    assert store.bytes_kept == 50 * 80
    assert sum(store.get(key) is not None for key in range(120)) == 50


def test_using_losses_saves_them_from_being_forgotten():
    store = loss_cache.ProcessStore(2 * 80)
    for key in "ab":
        store.put(key, np.zeros(10))
    store.get("a")
    store.put("c", np.zeros(10))
    assert [store.get(key) is None for key in "abc"] == [False, True, False]
