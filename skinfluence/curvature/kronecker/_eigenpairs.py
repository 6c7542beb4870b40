"""Eigenpairs of the moments of a layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from skinfluence._utils.arrays import with_fixed_signs
from skinfluence._utils.namespace import eigh, like, namespace, to_numpy


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs of a symmetric matrix without negative eigenvalues.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Eigenvalues, ascending.
    vectors : {ndarray, tensor} of shape (n, n)
        Eigenvectors, one in each column.
    """

    values: np.ndarray
    vectors: Any

    @classmethod
    def of(cls, matrix):
        """Eigenpairs of an array or a tensor (n, n)."""
        return cls(*eigh(matrix))

    def chosen_by(self, penalty):
        """Eigenvalues, and eigenvectors that are those of a penalty where the matrix vanishes.

        A basis of a null space is arbitrary, and the diagonal of a penalty depends on it.

        Parameters
        ----------
        penalty : ndarray of shape (n,)
            Penalty on each coordinate.
        """
        values, vectors = self.values, self.vectors
        # Eigenvalues ascend, so that these come first.
        rounding = np.finfo(np.float64).eps * len(values) * values[-1]
        n_null = np.count_nonzero(values <= rounding)
        if n_null and np.ptp(penalty):
            inside = vectors[:, :n_null]
            own = inside.T @ (like(penalty, vectors)[:, None] * inside)
            parts = [inside @ eigh(own)[1], vectors[:, n_null:]]
            vectors = namespace(vectors).concatenate(parts, axis=1)
        return values, vectors

    def leading(self, n_vectors):
        """The eigenvectors of the largest eigenvalues, largest first, an array (n_vectors, n)."""
        return with_fixed_signs(to_numpy(self.vectors)[:, ::-1][:, :n_vectors]).T
