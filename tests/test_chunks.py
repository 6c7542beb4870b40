"""Training rows in pieces: the same results as for the concatenated array."""

import os
import pickle
from functools import partial

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from helpers import NEWTON, assert_close, cancer, diabetes, frozen, logistic, perceptron, wine
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    Chunks,
    ClassifierHeadInfluence,
    ExactInfluence,
    KFACInfluence,
    RelativeHessianInfluence,
    SketchedInfluence,
)
from skinfluence.diagnostics import diagnostics_frame, leave_one_out_predict, parameter_covariance
from skinfluence.models import fit_arguments

# A few dozen rows fit into it, so that parts are read one by one, and large ones in batches.
SMALL_MEMORY = 0.02

# First rows of the parts: single rows, and parts that do not fit into the working memory.
UNEVEN = [0, 1, 2, 100, 105]


def chunks_of(X, y, weight=None, starts=UNEVEN):
    """Parts that are read by functions, which differ in their sizes."""
    edges = [*starts, len(y)]
    arrays = [X, y] if weight is None else [X, y, weight]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return Chunks([partial(part_of, arrays, slice(*pair)) for pair in pairs])


def part_of(arrays, rows):
    return tuple(values[rows] for values in arrays)


def in_units(model, X, y, scale, offset):
    """The model, fitted to standardised columns, for ``scale * X + offset``; and these columns."""
    model = clone(model).fit(X, y)
    model.intercept_ = model.intercept_ - np.dot(model.coef_ / scale, offset)
    model.coef_ = model.coef_ / scale
    return FrozenEstimator(model), scale * X + offset


def counts(y):
    return np.round(y / 50)


def two_targets(y):
    return np.column_stack([y, y[::-1]])


MODELS = {
    "ridge": (Ridge(), diabetes),
    "unpenalised": (LinearRegression(), diabetes),
    "no intercept": (Ridge(fit_intercept=False), diabetes),
    "two targets": (Ridge([1.0, 3.0]), lambda: (diabetes()[0], two_targets(diabetes()[1]))),
    "multi output": (
        MultiOutputRegressor(Ridge()),
        lambda: (diabetes()[0], two_targets(diabetes()[1])),
    ),
    "poisson": (PoissonRegressor(), lambda: (diabetes()[0], counts(diabetes()[1]))),
    "huber": (HuberRegressor(), diabetes),
    "logistic": (logistic(), cancer),
    "softmax": (logistic(), wine),
    "balanced": (logistic(class_weight="balanced"), wine),
    "given class weights": (logistic(class_weight={0: 2.0, 1: 0.5}), cancer),
    "liblinear balanced": (
        OneVsRestClassifier(LogisticRegression(solver="liblinear", class_weight="balanced")),
        wine,
    ),
    "ridge classifier": (RidgeClassifier(class_weight="balanced"), wine),
    "pairs of classes": (OneVsOneClassifier(logistic()), wine),
    "descent": (
        SGDClassifier("log_loss", alpha=0.1, tol=1e-5, random_state=0, class_weight="balanced"),
        wine,
    ),
    "pipeline": (make_pipeline(StandardScaler(), logistic()), cancer),
}


def results(influence, X, y):
    """What every estimator gives, by name."""
    n_samples = influence.n_samples_
    return {
        "influence": influence.influence(X, y),
        "mean": influence.influence(X, y, reduce="mean"),
        "self": influence.self_influence(),
        "parameters": influence.parameter_influence([n_samples - 1, 3, 101, 0]),
        "embedding": influence.transform(X, y) @ influence.transform(X, y).T,
        "ranking": influence.most_influential(X, y, k=4)[1],
        "removal": influence.removal_effect([n_samples - 1, 0, 103], X, y),
    }


def compare(model, X, y, weight=None, starts=UNEVEN, tol=1e-12, cls=ExactInfluence, **params):
    """Assert that chunks give the results of the array."""
    dense = X.toarray() if sp.issparse(X) else X
    queries = dense[5:9], y[5:9]
    expected = cls(model, **params).fit(X, y, weight)
    chunks = chunks_of(X, y, weight, starts)
    with sklearn.config_context(working_memory=SMALL_MEMORY):
        found = cls(model, **params).fit(chunks)
        found_results = results(found, *queries)
    for name, value in results(expected, *queries).items():
        assert_close(found_results[name], value, tol)
    assert (found.n_samples_, found.n_params_) == (expected.n_samples_, expected.n_params_)
    assert found.n_features_in_ == expected.n_features_in_
    assert abs(found.stationarity_ - expected.stationarity_) < 1e-9


# Members of these take weights by metadata routing alone.
UNWEIGHTED = {"liblinear balanced", "pairs of classes"}


@pytest.mark.filterwarnings("ignore:.*has not converged", "ignore:.*did not converge")
@pytest.mark.parametrize("name", MODELS)
def test_chunks_give_the_results_of_the_array(name, rng):
    model, load = MODELS[name]
    X, y = load()
    weight = None if name in UNWEIGHTED else rng.uniform(0.0, 2.0, len(y))
    fitted = model.fit(X, y, **fit_arguments(model, weight))
    compare(FrozenEstimator(fitted), X, y, weight)


@pytest.mark.parametrize(
    "starts", [range(0, 178), [0], [0, 177]], ids=["rows", "one part", "last"]
)
def test_any_division_gives_the_same(starts):
    X, y = wine()
    compare(frozen(logistic(), X, y), X, y, starts=starts)


@pytest.mark.parametrize("offset", [1e4, 1e6, 1e8])
@pytest.mark.parametrize(
    "model",
    [LinearRegression(), LogisticRegression(C=np.inf, **NEWTON)],
    ids=["regression", "logistic"],
)
def test_raw_units_and_offsets(model, offset, rng):
    X, y = cancer()
    y = y ^ (rng.random(len(y)) < 0.1)
    scale = np.array([1.0, 1e3, 50.0, 0.1])
    model, X = in_units(model, X[:, [0, 1, 5, 8]], y, scale, offset * np.ones(4))
    compare(model, X, y)


def test_parts_that_differ_in_their_means():
    X, y = diabetes()
    # A timestamp in order, and a column that all but the first rows have in common.
    time = (np.arange(len(y)) - len(y) / 2) / len(y)
    X = np.column_stack([X, time, np.arange(len(y)) < 2])
    scale = np.append(np.ones(10), [len(y) * 86400.0, 1.0])
    model, X = in_units(LinearRegression(), X, y, scale, np.append(np.zeros(10), [1.6e9, 1e6]))
    compare(model, X, y)


@pytest.mark.parametrize("full", [False, True], ids=["with zeros", "a column without zeros"])
def test_sparse_features(full, rng):
    X, y = wine()
    X = X * (rng.random(X.shape) < 0.4)
    if full:
        X[:, 0] = 1e6 + rng.standard_normal(len(y))
    X[1] = 0.0 if not full else X[1]
    X = sp.csr_matrix(X)
    compare(frozen(Ridge(), X, y), X, y)


@pytest.mark.parametrize(
    "cls, params",
    [
        (ExactInfluence, {"curvature": "empirical_fisher"}),
        (SketchedInfluence, {"sketch_size": 12, "random_state": 0}),
        (SketchedInfluence, {"sketch_size": 12, "random_state": 0, "tail": False}),
        (SketchedInfluence, {"sketch_size": 30, "sketch": "sjlt", "random_state": 0}),
        (ClassifierHeadInfluence, {}),
    ],
)
def test_other_curvatures(cls, params):
    X, y = wine()
    compare(frozen(logistic(), X, y), X, y, cls=cls, tol=1e-11, **params)


ASKED = {
    "refined sketch": (
        SketchedInfluence,
        {"sketch_size": 12, "refine": 3, "random_state": 0},
        lambda fit, X, y: fit.influence(X, y, return_error=True),
    ),
    "certified": (
        SketchedInfluence,
        {"sketch_size": "certified", "random_state": 0},
        lambda fit, X, y: fit.sketch_error(X, y).spearman.median.value,
    ),
    "kfac": (KFACInfluence, {}, lambda fit, X, y: fit.influence(X, y)),
    "relative": (
        RelativeHessianInfluence,
        {"subset_size": 60, "random_state": 0},
        lambda fit, X, y: fit.influence(X, y),
    ),
    "threads": (ExactInfluence, {"n_jobs": 2}, lambda fit, X, y: fit.influence(X, y)),
    "gram": (ExactInfluence, {"solver": "gram"}, lambda fit, X, y: fit.influence(X, y)),
    "labels": (ExactInfluence, {}, lambda fit, X, y: fit.relabel_effect([1, 60], [1, 0], X, y)),
    "predictions": (
        ExactInfluence,
        {},
        lambda fit, X, y: leave_one_out_predict(fit, method="predict_proba"),
    ),
    "frame": (
        ExactInfluence,
        {},
        lambda fit, X, y: diagnostics_frame(fit).select_dtypes("number").to_numpy(),
    ),
    "covariance": (ExactInfluence, {}, lambda fit, X, y: parameter_covariance(fit)),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_else_is_asked_of_rows_in_pieces(name):
    cls, params, ask = ASKED[name]
    X, y = wine()
    model = frozen(logistic(), X, y)
    expected = ask(cls(model, **params).fit(X, y), X[5:8], y[5:8])
    with sklearn.config_context(working_memory=0.1):
        found = ask(cls(model, **params).fit(chunks_of(X, y)), X[5:8], y[5:8])
    for value, exact in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
        assert_close(value, exact, 1e-9)


def test_conjugate_gradients():
    X, y = cancer()
    model = frozen(logistic(), X, y)
    expected = ExactInfluence(model, solver="cg").fit(X, y).influence(X[:5], y[:5])
    found = ExactInfluence(model, solver="cg").fit(chunks_of(X, y)).influence(X[:5], y[:5])
    assert_close(found, expected, 1e-9)


@pytest.mark.filterwarnings("ignore:Lasso has an L1 penalty")
def test_an_active_set():
    X, y = diabetes()
    compare(frozen(Lasso(5.0), X, y), X, y)


def test_effects_of_each_row_and_refits_of_subsets():
    X, y = wine()
    model = frozen(logistic(), X, y)
    expected, found = ExactInfluence(model).fit(X, y), ExactInfluence(model).fit(chunks_of(X, y))
    effect = expected.leave_one_out_effect(X[:5], y[:5])
    assert_close(found.leave_one_out_effect(X[:5], y[:5]), effect, 1e-11)
    weights = np.where(np.arange(len(y)) % 3, 1.0, 2.0)
    change = expected.reweighting_effect(weights, X[:5], y[:5])
    assert_close(found.reweighting_effect(weights, X[:5], y[:5]), change, 1e-11)
    assert found.score(X[:10], y[:10]) == pytest.approx(expected.score(X[:10], y[:10]), rel=1e-9)


def test_a_model_that_is_not_fitted_gets_all_rows():
    X, y = cancer()
    found = ExactInfluence(logistic()).fit(chunks_of(X, y)).self_influence()
    assert_array_equal(found, ExactInfluence(logistic()).fit(X, y).self_influence())
    net = frozen(perceptron(), X, y)
    found = ExactInfluence(net).fit(chunks_of(X, y)).self_influence()
    assert_array_equal(found, ExactInfluence(net).fit(X, y).self_influence())
    with (
        sklearn.config_context(working_memory=0.01),
        pytest.raises(MemoryError, match="FrozenEstimator"),
    ):
        ExactInfluence(logistic()).fit(chunks_of(X, y))


class Counting:
    """A function that reads a part, and knows how many rows were held at once."""

    def __init__(self, X, y):
        self.X, self.y, self.n_reads = X, y, 0

    def __call__(self):
        self.n_reads += 1
        return self.X, self.y


@pytest.mark.parametrize("class_weight, passes", [(None, 2), ("balanced", 3)])
def test_the_number_of_passes(class_weight, passes):
    X, y = wine()
    model = logistic(class_weight=class_weight)
    # A constant column is as near to its mean as rounding lets it.
    X = np.column_stack([X, np.full(len(y), 0.1)])
    model, X = in_units(model, X, y, np.ones(14), 1e3 * np.ones(14))
    parts = [Counting(X[i : i + 60], y[i : i + 60]) for i in range(0, len(y), 60)]
    with sklearn.config_context(working_memory=0.02):
        influence = ExactInfluence(model).fit(Chunks(parts))
        fitted = [part.n_reads for part in parts]
        influence.self_influence()
        scored = [part.n_reads for part in parts]
    # The first part is looked at before, and the first row of it by the rows.
    assert fitted[1:] == [passes] * (len(parts) - 1) and fitted[0] <= passes + 3
    assert scored[1:] == [passes + 1] * (len(parts) - 1)


def part_with_a_trace(folder, arrays, rows):
    """A part, and a file that tells which process has read it how often."""
    place = folder / str(os.getpid())
    place.mkdir(exist_ok=True)
    with open(place / f"{rows.start}", "a", encoding="utf-8") as file:
        file.write(".")
    return part_of(arrays, rows)


def every_pass(model, chunks, X, y, **params):
    """What needs a pass over the chunks each, the fit included."""
    influence = ExactInfluence(model, **params).fit(chunks)
    return [
        influence.influence(X, y),
        influence.influence(X, y, reduce="mean"),
        np.concatenate([scores for _, scores in influence.iter_influence(X, y)]),
        *influence.most_influential(X, y, k=7, by="absolute"),
        influence.self_influence(),
    ]


def test_workers_read_their_own_parts(tmp_path):
    X, y = cancer()
    parts = [
        partial(part_with_a_trace, tmp_path, (X, y), slice(i, i + 100))
        for i in range(0, len(y), 100)
    ]
    model = frozen(logistic(), X, y)
    with sklearn.config_context(working_memory=SMALL_MEMORY):
        alone = every_pass(model, chunks_of(X, y, starts=range(0, len(y), 100)), X[:9], y[:9])
        # Processes that are forked start at once.
        with joblib.parallel_config("multiprocessing", n_jobs=2):
            found = every_pass(model, Chunks(parts), X[:9], y[:9])
    for value, expected in zip(found, alone, strict=True):
        assert_array_equal(value, expected)
    mine = tmp_path / str(os.getpid())
    read = [path.name for path in tmp_path.glob("*/*") if path.parent != mine]
    assert set(read) == {str(i) for i in range(0, len(y), 100)}
    # The first rows alone tell of what kind the others are.
    assert [path.name for path in mine.glob("*")] == ["0"]


@pytest.mark.parametrize("load", [cancer, wine])
def test_results_are_the_same_for_any_number_of_workers(load):
    X, y = load()
    model, chunks = frozen(logistic(class_weight="balanced"), X, y), chunks_of(X, y)
    with sklearn.config_context(working_memory=SMALL_MEMORY):
        alone = every_pass(model, chunks, X[:40], y[:40])
        together = every_pass(model, chunks, X[:40], y[:40], n_jobs=2)
    for value, expected in zip(together, alone, strict=True):
        assert_array_equal(value, expected)


def test_indices_and_lengths_are_those_of_the_concatenation():
    X, y = cancer()
    chunks = chunks_of(X, y)
    assert len(chunks) == chunks.n_samples == len(y)
    assert_array_equal(chunks.edges, [*UNEVEN, len(y)])
    whole = chunks.concatenated()
    assert_array_equal(whole.X, X)
    assert_array_equal(whole.y, y)


def test_a_pickle_reads_its_parts_again():
    X, y = cancer()
    influence = ExactInfluence(frozen(logistic(), X, y)).fit(chunks_of(X, y))
    expected = influence.influence(X[:5], y[:5])
    influence.leave_one_out_effect(X[:2], y[:2])
    assert_array_equal(pickle.loads(pickle.dumps(influence)).influence(X[:5], y[:5]), expected)


# ---------------------------------------------------------------------------
# Where parts come from
# ---------------------------------------------------------------------------


def assert_like_arrays(chunks, X, y, weight=None, model=None):
    """Assert that chunks hold the rows of the arrays, and give their results."""
    model = frozen(logistic(), np.asarray(X), y) if model is None else model
    X = np.asarray(X) if not hasattr(model, "feature_names_in_") else X
    expected = ExactInfluence(model).fit(X, y, weight)
    found = ExactInfluence(model).fit(chunks)
    assert len(chunks.parts) > 1 and len(chunks) == len(y)
    assert_close(found.self_influence(), expected.self_influence(), 1e-12)
    assert_close(found.influence(X[:5], y[:5]), expected.influence(X[:5], y[:5]), 1e-12)


def test_a_memory_map_is_read_in_slices_and_stays_single_on_disk(tmp_path):
    X, y = cancer()
    stored = np.memmap(tmp_path / "X.bin", dtype=np.float32, mode="w+", shape=X.shape)
    stored[:] = X
    stored.flush()
    on_disk = np.memmap(tmp_path / "X.bin", dtype=np.float32, mode="r", shape=X.shape)
    chunks = Chunks.from_array(on_disk, y, chunk_size=100)
    first = chunks.read(0).X
    assert first.shape == (100, 30) and first.dtype == np.float32
    assert np.may_share_memory(first, on_disk)
    assert_like_arrays(chunks, on_disk, y)
    assert len(pickle.dumps(Chunks.from_array(np.zeros((3, 2)), np.zeros(3)))) < 1000


def test_arrays_with_weights_and_sizes_that_do_not_divide(rng):
    X, y = cancer()
    weight = rng.uniform(0.5, 2.0, len(y))
    model = FrozenEstimator(logistic().fit(X, y, weight))
    chunks = Chunks.from_array(X, y, sample_weight=weight, chunk_size=200)
    assert_like_arrays(chunks, X, y, weight, model)
    sparse = Chunks.from_array(sp.csr_matrix(X), y, sample_weight=weight, chunk_size=200)
    assert_like_arrays(sparse, X, y, weight, model)
    with pytest.raises(ValueError, match="chunk_size must be an integer of at least 1. Got 0"):
        Chunks.from_array(X, y, chunk_size=0)


def test_a_dask_array():
    da = pytest.importorskip("dask.array")
    X, y = cancer()
    blocks = da.from_array(X, chunks=(150, 7))
    assert_like_arrays(Chunks.from_dask(blocks, da.from_array(y, chunks=99)), X, y)
    weight = np.linspace(0.5, 2.0, len(y))
    model = FrozenEstimator(logistic().fit(X, y, weight))
    chunks = Chunks.from_dask(blocks, da.from_array(y, chunks=99), da.from_array(weight))
    assert_like_arrays(chunks, X, y, weight, model)


def frame_of(X, y):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :4], columns=["a", "b", "c", "d"])
    return frame.assign(label=y, weight=np.linspace(0.5, 2.0, len(y)))


def test_a_dask_data_frame():
    dd = pytest.importorskip("dask.dataframe")
    frame = frame_of(*cancer())
    names, y = ["a", "b", "c", "d"], frame["label"].to_numpy()
    model = FrozenEstimator(logistic().fit(frame[names], y))
    parted = dd.from_pandas(frame, npartitions=4)
    assert_like_arrays(
        Chunks.from_dask(parted[names], parted["label"]), frame[names], y, model=model
    )
    with pytest.raises(ValueError, match="X has 4 blocks of rows"):
        Chunks.from_dask(parted[names], parted["label"].repartition(npartitions=2))


def test_row_groups_of_a_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    frame = frame_of(*cancer())
    path = tmp_path / "rows.parquet"
    frame.to_parquet(path, row_group_size=150)
    names, y, weight = ["a", "b", "c", "d"], frame["label"].to_numpy(), frame["weight"].to_numpy()
    model = FrozenEstimator(logistic().fit(frame[names], y))
    some = Chunks.from_parquet(path, target="label", columns=names)
    assert_like_arrays(some, frame[names], y, model=model)
    model = FrozenEstimator(logistic().fit(frame[names], y, weight))
    every = Chunks.from_parquet(path, target="label", weight="weight")
    assert_like_arrays(every, frame[names], y, weight, model)
    with pytest.raises(ValueError, match=r"The file has no columns \['price'\]"):
        Chunks.from_parquet(path, target="price")
    # A model that is not fitted gets one data frame.
    found = ExactInfluence(logistic()).fit(some)
    assert_array_equal(found.feature_names_in_, names)
    expected = ExactInfluence(logistic()).fit(frame[names], y)
    assert_close(found.self_influence(), expected.self_influence(), 1e-12)


# ---------------------------------------------------------------------------
# Unfit parts
# ---------------------------------------------------------------------------


def test_a_generator_is_refused():
    X, y = cancer()
    with pytest.raises(TypeError, match="generator, which can be read only once"):
        Chunks((X[i : i + 9], y[i : i + 9]) for i in range(0, 90, 9))
    with pytest.raises(ValueError, match="parts is empty"):
        Chunks([])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda X, y: (X[:0], y[:0]), "Part 1 of the chunks has no rows"),
        (lambda X, y: (X[:, 1:], y), "Part 1 .* X has 29 features, but ExactInfluence .* 30"),
        (lambda X, y: (X, y + 1), "Part 1 .* labels that the model was not fitted on: .2."),
        (lambda X, y: (X, y[1:]), "Part 1 of the chunks: .* inconsistent"),
        (lambda X, y: (X, None), "Part 1 of the chunks has y=None"),
        (lambda X, y: (np.where(X > 2, np.nan, X), y), "Part 1 of the chunks: .* contains NaN"),
        (lambda X, y: (sp.csr_matrix(X), y), "Part 1 .* sparse: True"),
        (lambda X, y: (X, y, np.ones(len(y))), "Part 1 .* sample weights: True"),
        (lambda X, y: (X, y, -np.ones(len(y))), "Part 1 .* non-negative weight"),
        (lambda X, y: X, "Part 1 of the chunks is of type ndarray"),
    ],
)
def test_unfit_parts_are_named(change, message):
    X, y = cancer()
    chunks = Chunks([(X[:300], y[:300]), lambda: change(X[300:], y[300:])])
    with pytest.raises((ValueError, TypeError), match=message):
        ExactInfluence(frozen(logistic(), X, y)).fit(chunks)


def test_a_part_that_changes_is_refused():
    X, y = cancer()
    order = np.random.default_rng(0)
    model = frozen(logistic(), X, y)

    def shuffled():
        rows = order.permutation(len(y))
        return X[rows], y[rows]

    with pytest.raises(ValueError, match="Part 0 of the chunks holds other rows than when"):
        ExactInfluence(model).fit(Chunks([shuffled]))
    copy = X.copy()
    influence = ExactInfluence(model).fit(Chunks([(copy, y)]))
    copy[:] = 0.0
    with pytest.raises(ValueError, match="or other numbers"):
        influence.influence(X[:5], y[:5])


def test_targets_are_those_of_the_parts():
    X, y = cancer()
    model = frozen(logistic(), X, y)
    with pytest.raises(ValueError, match="Chunks hold targets"):
        ExactInfluence(model).fit(chunks_of(X, y), y)
    with pytest.raises(ValueError, match="at least 2"):
        ExactInfluence(model).fit(Chunks([(X[:1], y[:1])]))
    with pytest.raises(ValueError, match="All sample weights are zero"):
        ExactInfluence(model).fit(Chunks([(X, y, np.zeros(len(y)))]))
