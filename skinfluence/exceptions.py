"""Warnings and errors of the package."""

from sklearn import exceptions

__all__ = ["InconsistentVersionWarning", "NumericalWarning", "RowsLeftOutError"]


class NumericalWarning(UserWarning):
    """A curvature is singular or close to it, so that small errors are enlarged."""


class RowsLeftOutError(ValueError, AttributeError):
    """The training rows are asked for, but the fit has not kept them (``keep_rows=False``).

    A subclass of both errors, like scikit-learn's ``NotFittedError``: methods and attributes
    raise the same one.
    """


class InconsistentVersionWarning(exceptions.InconsistentVersionWarning):
    """A stored estimator is loaded by another version of the package.

    A subclass of scikit-learn's warning of the same name, so that a filter for that one holds for
    this one too.

    Parameters
    ----------
    estimator_name : str
        Class of the estimator.
    current_version : str
        Version of skinfluence that loads it.
    original_version : str
        Version that stored it, "unknown" before versions were stored.
    """

    def __init__(self, *, estimator_name, current_version, original_version):
        super().__init__(
            estimator_name=estimator_name,
            current_sklearn_version=current_version,
            original_sklearn_version=original_version,
        )
        self.current_version = current_version
        self.original_version = original_version

    def __str__(self):
        return (
            f"{self.estimator_name} was stored by skinfluence {self.original_version} and is "
            f"loaded by {self.current_version}. Its results may be wrong or its methods fail: "
            "load it with the version that stored it, or fit it again."
        )
