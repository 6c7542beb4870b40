"""Training rows that are kept on disk."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pytest
from helpers import assert_close, cancer, frozen, iris, logistic, perceptron
from numpy.testing import assert_array_equal
from sklearn.frozen import FrozenEstimator

from skinfluence import Chunks, KFACInfluence, SketchedInfluence

CASES = {
    "sketched linear": (SketchedInfluence, {"sketch_size": 12, "tail": False}),
    "sketched linear with tail": (SketchedInfluence, {"sketch_size": 12}),
    "full gradients": (SketchedInfluence, {"sketch_size": 12, "sketch": "sjlt"}),
    "factored linear": (KFACInfluence, {}),
}


def network():
    X, y = iris()
    return frozen(perceptron(), X, y), X, y


def linear():
    X, y = cancer()
    return frozen(logistic(), X, y), X, y


def assert_same(found, expected, X, y, tol=1e-12):
    assert_close(found.influence(X[:5], y[:5]), expected.influence(X[:5], y[:5]), tol)
    assert_close(found.self_influence(), expected.self_influence(), tol)
    assert_array_equal(
        found.most_influential(X[:5], y[:5], k=3)[0],
        expected.most_influential(X[:5], y[:5], k=3)[0],
    )


@pytest.mark.parametrize("name", CASES)
def test_stored_rows_give_the_scores_of_those_in_memory(name, tmp_path):
    cls, params = CASES[name]
    model, X, y = linear()
    expected = cls(model, random_state=0, **params).fit(X, y)
    found = cls(model, random_state=0, storage=tmp_path, batch_size=100, **params).fit(X, y)
    assert_same(found, expected, X, y)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        *(f"part-{i:06d}.npy" for i in range(6)),
    ]


NETWORKS = {
    "landmarks": (SketchedInfluence, {"sketch_size": 20, "curvature": "ggn"}),
    "projected": (SketchedInfluence, {"sketch_size": 20, "sketch": "sjlt", "curvature": "ggn"}),
    "layers": (KFACInfluence, {}),
    "projected layers": (KFACInfluence, {"sketch_size": (4, 2)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_of_networks_are_stored_by_layer(name, tmp_path):
    cls, params = NETWORKS[name]
    model, X, y = network()
    expected = cls(model, random_state=0, **params).fit(X, y)
    found = cls(model, random_state=0, storage=str(tmp_path), batch_size=64, **params).fit(X, y)
    assert_same(found, expected, X, y)
    # Another process needs neither the model's rows nor its backward pass.
    loaded = pickle.loads(pickle.dumps(found))
    loaded.linearisation_.objective.features = None
    assert_same(loaded, expected, X, y)


@pytest.mark.filterwarnings("ignore:.*has not converged", "ignore:.*early")
@pytest.mark.parametrize("kind", ["convolution", "tokens", "sequence"])
def test_rows_of_modules_of_torch(kind, tmp_path, rng):
    torch = pytest.importorskip("torch")
    from skinfluence.models.torch import TorchModel

    class ToIndex(torch.nn.Module):
        def forward(self, x):
            return x.long()

    torch.manual_seed(0)
    y = np.arange(40) % 2
    if kind == "convolution":
        X = rng.standard_normal((40, 1, 6, 6))
        layers = [torch.nn.Conv2d(1, 2, 3), torch.nn.Tanh(), torch.nn.Flatten()]
        module = torch.nn.Sequential(*layers, torch.nn.Linear(32, 2))
    elif kind == "tokens":
        X = rng.integers(0, 9, (40, 5)).astype(float)
        flat = torch.nn.Flatten()
        module = torch.nn.Sequential(ToIndex(), torch.nn.Embedding(9, 3), flat)
        module.append(torch.nn.Linear(15, 2))
    else:
        X = rng.standard_normal((40, 12))
        shape = torch.nn.Unflatten(1, (4, 3))
        module = torch.nn.Sequential(shape, torch.nn.Linear(3, 2), torch.nn.Flatten())
        module.append(torch.nn.Linear(8, 2))
    model = TorchModel(module.double(), l2=0.01)
    settings = {"random_state": 0, "damping": 0.1}
    model = FrozenEstimator(model.fit(X, y))
    expected = KFACInfluence(model, **settings).fit(X, y)
    found = KFACInfluence(model, storage=tmp_path, batch_size=16, **settings).fit(X, y)
    assert_same(found, expected, X, y, tol=1e-10)
    # Factors stay factors, of layers with positions and of embeddings.
    block = found.linearisation_.training_rows[:3].blocks[0]
    assert block.is_layer
    assert (block.is_shared, block.reads_tokens) == (kind != "tokens", kind == "tokens")


def test_rows_in_pieces_are_stored(tmp_path):
    model, X, y = linear()
    chunks = Chunks.from_array(X, y, chunk_size=200)
    settings = {"sketch_size": 12, "tail": False, "random_state": 0}
    expected = SketchedInfluence(model, **settings).fit(X, y)
    found = SketchedInfluence(model, storage=tmp_path, **settings).fit(chunks)
    assert_same(found, expected, X, y)


# ---------------------------------------------------------------------------
# What a folder may hold
# ---------------------------------------------------------------------------


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_second_fit_writes_nothing(tmp_path):
    model, X, y = linear()
    influence = SketchedInfluence(model, sketch_size=12, random_state=0, storage=tmp_path)
    influence.set_params(batch_size=100).fit(X, y)
    before = written(tmp_path)
    # Parts of another size hold the same rows.
    influence.set_params(batch_size=50).fit(X, y)
    assert written(tmp_path) == before


@pytest.mark.parametrize("change", ["data", "model", "sketch", "versions", "format", "layout"])
def test_rows_of_something_else_are_refused(change, tmp_path):
    model, X, y = linear()
    settings = {"sketch_size": 12, "tail": False, "random_state": 0, "storage": tmp_path}
    influence = SketchedInfluence(model, **settings).fit(X, y)
    if change == "data":
        X[300, 4] += 1.0
    elif change == "model":
        model = frozen(logistic(0.2), X, y)
    elif change == "sketch":
        influence.set_params(sketch="gaussian", random_state=3)
    elif change == "layout":
        influence.set_params(sketch_size=10)
    else:
        path = tmp_path / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest[change] = {"numpy": "1.0"} if change == "versions" else 0
        path.write_text(json.dumps(manifest), encoding="utf-8")
    before = written(tmp_path)
    message = f"holds the rows of another fit: it differs in .*{change}"
    with pytest.raises(ValueError, match=message):
        influence.set_params(estimator=model).fit(X, y)
    assert written(tmp_path) == before


def test_a_folder_of_other_files_is_refused(tmp_path):
    model, X, y = linear()
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has files but no manifest\.json"):
        SketchedInfluence(model, sketch_size=12, storage=tmp_path).fit(X, y)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_a_part_that_is_gone_is_named_and_made_again(tmp_path):
    model, X, y = linear()
    influence = SketchedInfluence(model, sketch_size=12, tail=False, random_state=0)
    influence.set_params(storage=tmp_path, batch_size=100).fit(X, y)
    expected = influence.influence(X[:5], y[:5])
    (tmp_path / "part-000002.npy").unlink()
    with pytest.raises(FileNotFoundError, match="part-000002.npy is missing"):
        influence.influence(X[:5], y[:5])
    # Half a file, as a full disk leaves it.
    part = tmp_path / "part-000004.npy"
    part.write_bytes(part.read_bytes()[:1000])
    assert_close(influence.fit(X, y).influence(X[:5], y[:5]), expected, 1e-12)


FIT = """
import sys, joblib
influence, X, y = joblib.load(sys.argv[1])
influence.fit(X, y)
"""


def test_a_fit_that_was_killed_goes_on(tmp_path):
    model, X, y = linear()
    settings = {"sketch_size": 12, "tail": False, "random_state": 0}
    folder = tmp_path / "rows"
    influence = SketchedInfluence(model, storage=folder, batch_size=16, **settings)
    joblib.dump((influence, X, y), tmp_path / "fit.joblib")
    process = subprocess.Popen([sys.executable, "-c", FIT, tmp_path / "fit.joblib"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if folder.exists() and len(list(folder.glob("part-*.npy"))) > 5:
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {name: at for name, at in written(folder).items() if not name.startswith(".")}
    n_parts = -(-len(y) // 16)
    assert 5 < len(before) < n_parts
    influence.fit(X, y)
    after = written(folder)
    assert {name: after[name] for name in before} == before
    assert len(list(folder.glob("part-*.npy"))) == n_parts
    assert_same(influence, SketchedInfluence(model, **settings).fit(X, y), X, y)
