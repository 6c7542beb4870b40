"""The data sets of the benchmarks that need nothing beyond the test dependencies."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks.datasets import LOADERS, flip_labels


@pytest.mark.parametrize(
    "name, shape, n_values",
    [
        ("digits", (1797, 64), 10),
        ("breast_cancer", (569, 30), 2),
        ("diabetes", (442, 10), 214),
        ("wine", (178, 13), 3),
        ("randhie", (20190, 9), 59),
        ("fair", (6366, 8), 2),
    ],
)
def test_shapes(name, shape, n_values):
    X, y = LOADERS[name]()
    assert X.shape == shape and y.shape == shape[:1]
    assert X.dtype == np.float64 and np.isfinite(X).all()
    assert len(np.unique(y)) == n_values


def test_statsmodels_reads_the_same_numbers():
    from statsmodels.datasets import fair, randhie

    X, y = LOADERS["randhie"]()
    assert_array_equal(np.column_stack([y, X]), randhie.load_pandas().data)
    X, y = LOADERS["fair"]()
    data = fair.load_pandas()
    assert_array_equal(X, data.exog)
    assert_array_equal(y, data.endog > 0)


@pytest.mark.parametrize("classes", [[-1, 1], [0, 1, 2], ["ham", "spam", "eggs"]])
def test_flipped_labels_are_wrong_labels(classes, global_random_seed):
    y = np.resize(classes, 101)
    before = y.copy()
    y_flipped, flipped = flip_labels(y, 0.2, global_random_seed)
    assert_array_equal(y, before)
    assert_array_equal(y_flipped != y, flipped)
    assert flipped.sum() == 20
    assert set(y_flipped) <= set(classes)


def test_labels_of_one_class_cannot_be_flipped():
    with pytest.raises(ValueError, match="at least two classes. Got 1 instead"):
        flip_labels(np.ones(5), 0.2)
