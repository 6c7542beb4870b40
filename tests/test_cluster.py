"""Loops over refits, splits, trainings and candidates in other processes and on a cluster."""

import os
import pickle
import signal
import threading
import time
from functools import partial

import joblib
import numpy as np
import pytest
from joblib.parallel import ThreadingBackend
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from threadpoolctl import threadpool_info

from skinfluence import (
    AveragedInfluence,
    Chunks,
    ExactInfluence,
    KFACInfluence,
    LeaveOneOutSearch,
    SketchedInfluenceCV,
)
from skinfluence.metrics import InfluenceScorer, retrain_on_subsets
from skinfluence.refitting.loss_cache import PROCESS_STORE
from tests.helpers import cancer, frozen, perceptron, split

MODEL = LogisticRegression(solver="newton-cholesky")
SEARCH = {"sketch_sizes": [4, 8], "dampings": [0.1], "cv": 2, "random_state": 0}


@pytest.fixture(autouse=True)
def nothing_stored():
    """Every refit is made anew."""
    PROCESS_STORE.clear()


class Posting(ThreadingBackend):
    """Threads that get their tasks by post, pickled and weighed, and so send results back."""

    supports_sharedmem = False
    posted = []

    def submit(self, func, callback=None):
        return super().submit(self.post(func), callback)

    def apply_async(self, func, callback=None):
        return super().apply_async(self.post(func), callback)

    def post(self, func):
        # What can be sent as a message: joblib itself pickles functions of notebooks so.
        parcel = pickle.dumps(list(func.items))
        # Older releases of scikit-learn fit models by joblib too.
        if b"skinfluence._utils.parallel" in parcel:
            self.posted.append(len(parcel))
        func.items = pickle.loads(parcel)
        return lambda: returned(func())


def returned(results):
    """Results as another process sends them, whose arrays nobody may write to."""
    buffers = []
    parcel = pickle.dumps(results, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(parcel, buffers=[bytes(buffer.raw()) for buffer in buffers])


joblib.register_parallel_backend("posting", Posting)


@pytest.fixture
def posted():
    """Sizes of the tasks of the loops inside the test."""
    Posting.posted.clear()
    with joblib.parallel_config("posting", n_jobs=2):
        yield Posting.posted


def losses(model, X, y, Xq, yq, **settings):
    settings = {"n_subsets": 4, "random_state": 0} | settings
    PROCESS_STORE.clear()
    return retrain_on_subsets(model, X, y, Xq, yq, **settings).losses


def every_pass(chunks, model, Xq, yq):
    """What a fit on chunks and passes over them give, in one array."""
    influence = ExactInfluence(model).fit(chunks)
    found = [
        influence.self_influence(),
        influence.influence(Xq, yq),
        *influence.most_influential(Xq, yq, k=3),
    ]
    return np.concatenate([value.ravel() for value in found])


def effects_of(job):
    """What a loop gives: plain arrays."""
    X, y, Xq, yq = split(*cancer(), n_queries=10, n_train=150)
    if job == "refits of clones":
        return losses(GaussianNB(), X, y, Xq, yq)
    if job == "refits in closed form":
        return losses(MODEL, X, y, Xq, yq)
    if job == "splits":
        scoring = InfluenceScorer("faithfulness")
        search = SketchedInfluenceCV(MODEL, scoring=scoring, **SEARCH).fit(X, y)
        return search.cv_results_["mean_test_score"]
    if job == "trainings":
        model = KFACInfluence(perceptron(max_iter=20))
        return AveragedInfluence(model, n_fits=2, random_state=0).fit(X, y).influence(Xq, yq)
    if job == "candidates":
        return LeaveOneOutSearch(MODEL, {"C": [0.1, 1.0]}).fit(X, y).cv_results_["mean_test_score"]
    if job == "score":
        return np.array(ExactInfluence(MODEL).fit(X, y).score(Xq, yq))
    if job == "chunks":
        return every_pass(Chunks.from_array(X, y, chunk_size=40), frozen(MODEL, X, y), Xq, yq)
    assert job == "influence"
    return ExactInfluence(MODEL, n_jobs=2, batch_size=20).fit(X, y).influence(Xq, yq)


JOBS = [
    *("refits of clones", "refits in closed form", "splits", "trainings", "candidates", "score"),
    *("chunks", "influence"),
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:MLPClassifier has not converged"),
    pytest.mark.filterwarnings("ignore:lbfgs failed"),
]


@pytest.mark.parametrize("job", JOBS)
def test_tasks_that_come_by_post_give_the_same(job):
    alone = effects_of(job)
    Posting.posted.clear()
    PROCESS_STORE.clear()
    with joblib.parallel_config("posting", n_jobs=2):
        assert_allclose(effects_of(job), alone, rtol=1e-10)
    # Scores are written into one result, by threads; candidates are tasks of GridSearchCV.
    assert bool(Posting.posted) == (job not in ("influence", "candidates"))


@pytest.fixture
def mapped(tmp_path):
    """Function that puts rows into a file and opens it, and the rows in memory."""

    def put(n_bytes, d=16, mode="r"):
        X = np.random.default_rng(0).standard_normal((n_bytes // (8 * d), d))
        np.save(tmp_path / "rows.npy", X)
        return np.load(tmp_path / "rows.npy", mmap_mode=mode), X

    return put


def labels(X):
    return (X[:, 0] + X[:, 1] > 0).astype(int)


# joblib puts arrays of 1 MB and more into memory maps that nobody may write to.
@pytest.mark.parametrize("n_bytes", [2**20 - 128, 2**20 + 128], ids=["below 1 MB", "above 1 MB"])
@pytest.mark.parametrize("model", [GaussianNB(), MODEL], ids=["clones", "closed form"])
def test_rows_that_nobody_may_write_to_are_sent(model, n_bytes, mapped, posted):
    rows, X = mapped(n_bytes)
    y, Xq = labels(X), X[:5] + 0.1
    weight = np.ones(len(y))
    weight.flags.writeable = False
    found = losses(model, rows, y, Xq, labels(Xq), sample_weight=weight)
    assert_allclose(found, losses(model, X, y, Xq, labels(Xq), n_jobs=1), rtol=1e-9)


@pytest.mark.parametrize("model", [GaussianNB(), MODEL], ids=["clones", "closed form"])
def test_many_rows_in_a_file_are_sent_by_the_name_of_the_file(model, mapped, posted, monkeypatch):
    # Fewer would be copied by the fit, since a file may change.
    monkeypatch.setattr("skinfluence._utils.kept_rows.SMALL", 0)
    rows, X = mapped(2**21)
    y = labels(X)
    found = losses(model, rows, y, X[:5], y[:5])
    # Targets, weights, outputs and masks: a few numbers for each row of 16.
    assert max(posted) < 0.5 * rows.nbytes
    assert_allclose(found, losses(model, X, y, X[:5], y[:5], n_jobs=1), rtol=1e-9)


@pytest.mark.parametrize("in_file", [True, False])
def test_of_chunks_each_task_takes_its_own_rows(in_file, mapped, posted):
    rows, X = mapped(2**22)
    y = labels(X)
    model = frozen(MODEL, X, y)
    chunks = Chunks.from_array(rows if in_file else X, y, chunk_size=len(y) // 8)
    found = every_pass(chunks, model, X[:5], y[:5])
    # First sums, curvature, self-influence, scores and rankings.
    assert len(posted) == 5 * len(chunks.parts)
    # Targets, and the sums of 16 columns; without a file also an eighth of the rows.
    assert max(posted) < y.nbytes / 8 + 2e4 + (0 if in_file else X.nbytes / 8)
    with joblib.parallel_config("sequential"):
        alone = every_pass(Chunks.from_array(X, y, chunk_size=len(y) // 8), model, X[:5], y[:5])
    assert_array_equal(found, alone)


def test_what_was_written_into_a_copy_on_write_is_sent(mapped, posted):
    rows, X = mapped(2**18, mode="c")
    rows[:, 2] *= -3
    X = np.array(rows)
    y = labels(X)
    found = losses(GaussianNB(), rows, y, X[:5], y[:5])
    assert_array_equal(found, losses(GaussianNB(), X, y, X[:5], y[:5], n_jobs=1))


def test_a_file_that_a_worker_cannot_see_is_named(mapped, posted, tmp_path, monkeypatch):
    monkeypatch.setattr("skinfluence._utils.kept_rows.SMALL", 0)
    rows, X = mapped(2**18)
    y = labels(X)
    (tmp_path / "rows.npy").unlink()
    with pytest.raises(FileNotFoundError, match="a folder that they share"):
        losses(GaussianNB(), rows, y, X[:5], y[:5])


def test_threads_share_the_cores(monkeypatch):
    seen = []
    X, y, Xq, yq = split(*cancer(), n_queries=10, n_train=150)
    influence = ExactInfluence(MODEL, n_jobs=2, batch_size=20).fit(X, y)
    inner = type(influence.linearisation_.training_rows).__getitem__

    def note(rows, index):
        if threading.current_thread() is not threading.main_thread():
            seen.append(max((pool["num_threads"] for pool in threadpool_info()), default=1))
        return inner(rows, index)

    monkeypatch.setattr(type(influence.linearisation_.training_rows), "__getitem__", note)
    influence.influence(Xq, yq)
    assert seen and max(seen) <= max(1, joblib.cpu_count() // 2)


# ---------------------------------------------------------------------------
# Processes, and a cluster of two workers
# ---------------------------------------------------------------------------


class DiesOnce(GaussianNB):
    """A model whose first fit in another process kills that process."""

    def __init__(self, mark=None, times=1):
        super().__init__()
        self.mark = mark
        self.times = times

    def fit(self, X, y, sample_weight=None):
        deaths = len(os.listdir(self.mark)) - 1
        parent = int(os.listdir(self.mark)[0] if deaths < 0 else min(os.listdir(self.mark)))
        if os.getpid() != parent and deaths < self.times:
            open(os.path.join(self.mark, f"x{os.getpid()}"), "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(X, y, sample_weight)


@pytest.fixture
def mark(tmp_path):
    folder = tmp_path / "deaths"
    folder.mkdir()
    (folder / str(os.getpid())).touch()
    return str(folder)


class Noted(GaussianNB):
    """A model whose fits take some time, and tell which process has made them."""

    def __init__(self, folder=None, seconds=0.0):
        super().__init__()
        self.folder = folder
        self.seconds = seconds

    def fit(self, X, y, sample_weight=None):
        open(os.path.join(self.folder, str(os.getpid())), "w").close()
        time.sleep(self.seconds)
        return super().fit(X, y, sample_weight)


def test_a_short_loop_starts_no_processes(tmp_path):
    X, y, Xq, yq = split(*cancer(), n_queries=5, n_train=100)
    found = losses(Noted(tmp_path), X, y, Xq, yq, n_jobs=2)
    assert os.listdir(tmp_path) == [str(os.getpid())]
    assert_array_equal(found, losses(GaussianNB(), X, y, Xq, yq))


@pytest.mark.slow
@pytest.mark.parametrize(
    "start, seconds", [(0.2, 0.1), (0.1, 0.2)], ids=["many tasks", "a long task"]
)
def test_a_long_loop_starts_processes(start, seconds, tmp_path, monkeypatch):
    monkeypatch.setattr("skinfluence._utils.processes.START", start)
    X, y, Xq, yq = split(*cancer(), n_queries=5, n_train=100)
    found = losses(Noted(tmp_path, seconds), X, y, Xq, yq, n_jobs=2, n_subsets=12)
    # The first refit is made here, and the others elsewhere.
    assert str(os.getpid()) in os.listdir(tmp_path) and len(os.listdir(tmp_path)) > 1
    assert_array_equal(found, losses(GaussianNB(), X, y, Xq, yq, n_subsets=12))


@pytest.fixture
def started_at_once(monkeypatch):
    """Processes are started whatever they save."""
    monkeypatch.setattr("skinfluence._utils.processes.START", 0.0)


@pytest.mark.slow
def test_results_of_processes_come_in_order(started_at_once):
    alone = effects_of("trainings"), effects_of("splits")
    with joblib.parallel_config("loky", n_jobs=2):
        for found, expected in zip(
            (effects_of("trainings"), effects_of("splits")), alone, strict=True
        ):
            assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [2**20 - 128, 2**20 + 128], ids=["below 1 MB", "above 1 MB"])
@pytest.mark.parametrize("model", [GaussianNB(), MODEL], ids=["clones", "closed form"])
def test_other_processes_give_the_same(model, n_bytes, mapped, started_at_once):
    rows, X = mapped(n_bytes)
    y, Xq = labels(X), X[:5] + 0.1
    alone = losses(model, X, y, Xq, labels(Xq))
    with joblib.parallel_config("loky", n_jobs=2):
        for given in (X, rows):
            assert_allclose(losses(model, given, y, Xq, labels(Xq)), alone, rtol=1e-9)


@pytest.mark.slow
def test_a_process_that_is_killed_is_an_error(mark, started_at_once):
    X, y, Xq, yq = split(*cancer(), n_queries=5, n_train=100)
    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(RuntimeError, match="worker"):
        losses(DiesOnce(mark), X, y, Xq, yq)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1"}
    with (
        distributed.LocalCluster(dashboard_address=None, **settings) as made,
        distributed.Client(made) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_cluster_gives_the_same(job, cluster):
    alone = effects_of(job)
    PROCESS_STORE.clear()
    with joblib.parallel_config("dask"):
        assert_allclose(effects_of(job), alone, rtol=1e-10)


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    with pytest.MonkeyPatch.context() as patch:
        # One machine, on the loopback address.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        settings = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(num_cpus=2, object_store_memory=2**27, _node_ip_address="127.0.0.1", **settings)
        register_ray()
        yield
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("job", JOBS)
def test_ray_gives_the_same(job, ray_cluster):
    alone = effects_of(job)
    PROCESS_STORE.clear()
    with joblib.parallel_config("ray", n_jobs=2):
        assert_allclose(effects_of(job), alone, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_workers_of_ray_read_their_own_parts(ray_cluster, tmp_path):
    X, y = cancer()

    # A function of this place, since workers cannot import the tests.
    def part(start):
        (tmp_path / str(os.getpid())).touch()
        return X[start : start + 100], y[start : start + 100]

    starts = range(100, len(y), 100)
    chunks = Chunks([(X[:100], y[:100]), *(partial(part, start) for start in starts)])
    model = frozen(MODEL, X, y)
    with joblib.parallel_config("ray", n_jobs=2):
        found = ExactInfluence(model).fit(chunks).self_influence()
    readers = {path.name for path in tmp_path.iterdir()}
    assert readers and str(os.getpid()) not in readers
    assert_allclose(found, ExactInfluence(model).fit(X, y).self_influence(), rtol=1e-10)


@pytest.mark.slow
def test_a_large_file_does_not_pass_through_the_scheduler(cluster, mapped):
    psutil = pytest.importorskip("psutil")
    rows, X = mapped(100 * 2**20, d=128)
    y = labels(X)
    before = sum(psutil.net_io_counters(pernic=True)["lo"][:1])
    with joblib.parallel_config("dask"):
        found = losses(GaussianNB(), rows, y, X[:5], y[:5])
    sent = sum(psutil.net_io_counters(pernic=True)["lo"][:1]) - before
    assert_allclose(found, losses(GaussianNB(), X, y, X[:5], y[:5]), rtol=1e-9)
    # Targets, weights and masks.
    assert sent < 0.2 * rows.nbytes


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_no_result(cluster, mark):
    X, y, Xq, yq = split(*cancer(), n_queries=5, n_train=100)
    with joblib.parallel_config("dask"):
        found = losses(DiesOnce(mark), X, y, Xq, yq, n_subsets=8)
    assert len(os.listdir(mark)) == 2
    assert_allclose(found, losses(GaussianNB(), X, y, Xq, yq, n_subsets=8), rtol=1e-10)
