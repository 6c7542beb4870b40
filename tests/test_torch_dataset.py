"""Datasets and loaders of torch as training rows and queries."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset

from skinfluence import ExactInfluence, KFACInfluence
from skinfluence.metrics import InfluenceScorer
from skinfluence.models.torch import DatasetInputs, TorchModel, read_dataset
from tests.helpers import assert_close

# Threads cost more than they bring on networks of this size.
torch.set_num_threads(1)

# The modules here are as they are initialised.
pytestmark = pytest.mark.filterwarnings("ignore:TorchModel has not converged")

N = 14


class Sentences(Dataset):
    """Dicts of ragged tokens and a label, that count how often they are read."""

    def __init__(self, n=N, seed=0, longest=6):
        rng = np.random.default_rng(seed)
        lengths = np.append(rng.integers(1, longest, n - 1), longest)
        self.tokens = [rng.integers(1, 9, length) for length in lengths]
        self.prices = rng.standard_normal((n, 2))
        self.labels = rng.integers(0, 3, n)
        self.read = []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        self.read.append(i)
        tokens = torch.as_tensor(self.tokens[i])
        return {"tokens": tokens, "price": self.prices[i], "labels": int(self.labels[i])}


class Classifier(nn.Module):
    """The mean of the tokens that are no padding, beside numbers, with a norm in between."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens, price, attention_mask):
        assert tokens.dtype == torch.long and attention_mask.dtype == torch.bool
        words = self.words(tokens) * attention_mask[..., None]
        mean = words.sum(1) / attention_mask.sum(1, keepdim=True)
        return self.head(self.norm(torch.cat([mean, price.to(mean.dtype)], dim=1)))


def exact(inputs, X, y, **params):
    model = TorchModel(Classifier().double(), inputs=inputs, **params)
    return ExactInfluence(model, curvature="ggn", damping=0.1).fit(X, y)


# ---------------------------------------------------------------------------
# Read once
# ---------------------------------------------------------------------------


def test_ragged_samples_are_padded_and_masked():
    data = Sentences()
    X, y = read_dataset(data, padding=7)
    assert data.read == list(range(N))
    assert list(X) == ["tokens", "price", "attention_mask"]
    assert_array_equal(y, data.labels)
    assert_array_equal(X["price"], data.prices)
    lengths = [len(tokens) for tokens in data.tokens]
    assert_array_equal(X["attention_mask"].sum(axis=1), lengths)
    for row, mask, tokens in zip(X["tokens"], X["attention_mask"], data.tokens, strict=True):
        assert_array_equal(row[mask], tokens)
        assert (row[~mask] == 7).all() and X["tokens"].shape == (N, 6)


def test_influence_does_not_depend_on_padding():
    X, y = read_dataset(Sentences())
    assert (X["tokens"][~X["attention_mask"]] == 0).all()
    found = exact(X, X, y).influence(X, y)
    more = {name: np.pad(X[name], ((0, 0), (0, 3))) for name in ("tokens", "attention_mask")}
    more = {name: X[name] if name == "price" else more[name] for name in X}
    assert_close(exact(more, more, y).influence(more, y), found, 1e-10)


def three_parts():
    """Two inputs and a label of every sample."""
    rng = np.random.default_rng(0)
    x, z, y = rng.standard_normal((N, 3)), rng.standard_normal((N, 2, 2)), rng.integers(0, 2, N)
    return x.astype(np.float32), z, y


FORMS = {
    "tuples": lambda x, z, y: TensorDataset(*map(torch.as_tensor, (x, y))),
    "lists": lambda x, z, y: [[row, label] for row, label in zip(x, y, strict=True)],
    "loader": lambda x, z, y: DataLoader(
        TensorDataset(*map(torch.as_tensor, (x, y))), batch_size=4
    ),
    "loader of positions": lambda x, z, y: DataLoader(
        [(x[i], y[i]) for i in range(N)], batch_size=5, drop_last=False
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_input_is_one_array(form):
    x, z, y = three_parts()
    X, labels = read_dataset(FORMS[form](x, z, y))
    assert X.dtype == np.float32
    assert_array_equal(X, x)
    assert_array_equal(labels, y)


def test_several_positional_inputs_are_a_tuple():
    x, z, y = three_parts()
    data = TensorDataset(*map(torch.as_tensor, (x, z, y)))
    X, labels = read_dataset(data)
    assert isinstance(X, tuple) and X[1].shape == (N, 2, 2)
    for found, expected in zip((*X, labels), (x, z, y), strict=True):
        assert_array_equal(found, expected)
    # Another target, or none.
    (_, last), first = read_dataset(data, target=0)
    assert_array_equal(first, x)
    assert_array_equal(last, y)
    everything, none = read_dataset(data, target=False)
    assert len(everything) == 3 and none is None


def test_ragged_tuples_get_their_mask_as_the_last_input():
    samples = [(torch.tensor([3, 4]), 0.5, 1), (torch.tensor([5]), 1.5, 0)]
    (tokens, price, mask), y = read_dataset(samples)
    assert_array_equal(tokens, [[3, 4], [5, 0]])
    assert_array_equal(price, [0.5, 1.5])
    assert_array_equal(mask, [[True, True], [True, False]])
    assert_array_equal(y, [1, 0])
    tokens, _ = read_dataset([sample[::2] for sample in samples], mask=None)
    assert_array_equal(tokens, [[3, 4], [5, 0]])


def test_ragged_targets_are_ignored_where_they_are_padded():
    samples = [
        {"tokens": [1, 2, 3], "labels": np.array([2, 3, 4], dtype=np.uint8)},
        {"tokens": [4], "labels": np.array([5], dtype=np.uint8)},
    ]
    _, y = read_dataset(samples)
    assert_array_equal(y, [[2, 3, 4], [5, -100, -100]])


def test_a_collator_pads_each_batch_to_its_own_longest():
    def collate(samples):
        tokens = pad_sequence([s["tokens"] for s in samples], batch_first=True)
        return {
            "tokens": tokens,
            "price": torch.as_tensor(np.stack([s["price"] for s in samples])),
            "attention_mask": (tokens > 0).long(),
            "labels": torch.tensor([s["labels"] for s in samples]),
        }

    data = Sentences(300)
    # The longest sample is in the second batch.
    expected, y = read_dataset(data)
    for loaded in (
        read_dataset(data, collate_fn=collate),
        read_dataset(DataLoader(data, batch_size=7, collate_fn=collate)),
    ):
        assert_array_equal(loaded[1], y)
        for name in expected:
            assert_array_equal(loaded[0][name], expected[name])
    inputs = DatasetInputs(data, collate_fn=collate)
    _, first = inputs.unpack(torch.as_tensor(inputs.X[:3]), torch.float64)
    for name in expected:
        assert_array_equal(first[name], expected[name][:3])


# ---------------------------------------------------------------------------
# Read whenever needed
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("influence", [ExactInfluence, KFACInfluence])
def test_positions_give_the_influence_of_the_arrays(influence):
    train, queries = Sentences(), Sentences(5, seed=1, longest=4)
    rows = DatasetInputs(ConcatDataset([train, queries]))
    X, y = read_dataset(ConcatDataset([train, queries]))
    packed = TorchModel(Classifier().double(), inputs=X, batch_size=4)
    settings = {"damping": 0.1, "curvature" if influence is ExactInfluence else "fisher": "ggn"}
    settings = {"damping": 0.1} | ({"curvature": "ggn"} if influence is ExactInfluence else {})
    expected = influence(packed, **settings)
    arrays = [{name: X[name][part] for name in X} for part in (slice(0, N), slice(N, None))]
    expected.fit(arrays[0], y[:N])
    found = influence(TorchModel(Classifier().double(), inputs=rows, batch_size=4), **settings)
    found.fit(rows.X[:N], rows.y[:N])
    assert_close(
        found.influence(rows.X[N:], rows.y[N:]), expected.influence(arrays[1], y[N:]), 1e-10
    )
    assert_close(found.influence(rows.X[N:]), expected.influence(arrays[1]), 1e-10)


def test_only_the_samples_of_a_chunk_are_in_memory():
    data = Sentences(40)
    rows = DatasetInputs(data)
    influence = exact(rows, rows.X, rows.y, batch_size=8)
    queries = rows.X[3:5]
    assert influence.estimator_.inputs is rows
    largest = 0

    class Counting(Classifier):
        def forward(self, tokens, price, attention_mask):
            nonlocal largest
            largest = max(largest, len(tokens))
            return super().forward(tokens, price, attention_mask)

    model = TorchModel(Counting().double(), inputs=rows, batch_size=8)
    counted = ExactInfluence(model, curvature="ggn", damping=0.1).fit(rows.X, rows.y)
    found = counted.influence(queries, rows.y[3:5])
    assert largest == 8
    assert_close(found, influence.influence(queries, rows.y[3:5]), 1e-12)


def test_training_reads_the_samples_by_position():
    rows = DatasetInputs(Sentences(24))

    def train(module, X, y):
        assert_array_equal([sample["labels"] for sample in X], y)
        inputs, _ = read_dataset(X)
        batch = {name: torch.as_tensor(value) for name, value in inputs.items()}
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(module(**batch), torch.as_tensor(y)).backward()
            optimiser.step()

    model = TorchModel(Classifier().double(), inputs=rows, train=train)
    scoring = InfluenceScorer(n_subsets=4)
    influence = ExactInfluence(model, curvature="ggn", damping=0.1, scoring=scoring)
    influence.fit(rows.X[:20], rows.y[:20])
    assert -1 <= influence.score(rows.X[20:], rows.y[20:]) <= 1


# ---------------------------------------------------------------------------
# What cannot be read
# ---------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        yield 0


class Augmented(Sentences):
    def __getitem__(self, i):
        return super().__getitem__(i) | {"price": np.random.default_rng().standard_normal(2)}


def loader(**params):
    return DataLoader(TensorDataset(torch.zeros(9, 2)), batch_size=4, **params)


BAD = {
    "shuffled": (lambda: loader(shuffle=True), ValueError, "order of its own.*shuffle=False"),
    "dropped": (lambda: loader(drop_last=True), ValueError, "drops the samples of its last batch"),
    "batches": (
        lambda: DataLoader(Sentences(), batch_sampler=[[0], [1]]),
        ValueError,
        "order of its own",
    ),
    "stream": (lambda: Stream(), TypeError, "Stream has no samples by position.*list"),
    "loader of a stream": (lambda: DataLoader(Stream()), TypeError, "Stream has no samples"),
    "text": (lambda: [{"text": "one", "labels": 0}], TypeError, "'text'.*into tokens first"),
    "kinds": (
        lambda: [{"a": 1.0, "labels": 0}, {"b": 1.0, "labels": 0}],
        TypeError,
        "several parts.*same parts",
    ),
    "axes": (
        lambda: [{"a": np.ones(2), "labels": 0}, {"a": np.ones((2, 2)), "labels": 0}],
        TypeError,
        "'a' of the samples has several numbers of axes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_rows_is_named(case):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        read_dataset(make())


def test_a_target_has_a_name():
    with pytest.raises(ValueError, match="no part target='label'.*'tokens', 'price', 'labels'"):
        read_dataset(Sentences(), target="label")


def test_samples_must_stay_the_same():
    with pytest.raises(ValueError, match="read again.*augmentation"):
        DatasetInputs(Augmented())


@pytest.mark.parametrize("X", [np.ones((3, 2)), [[N]], [[0.5]], [[-1]], [0, 1]])
def test_rows_are_positions(X):
    rows = DatasetInputs(Sentences())
    influence = exact(rows, rows.X, rows.y)
    with pytest.raises(ValueError, match=f"positions of samples, from 0 to {N - 1}.*Concat"):
        influence.influence(X)


def test_a_dataset_without_arrays_is_told_what_reads_it():
    data = Sentences()
    for y in (data.labels, None):
        with pytest.raises(TypeError, match="Sentences.*read_dataset.*DatasetInputs"):
            exact(None, data, y)
