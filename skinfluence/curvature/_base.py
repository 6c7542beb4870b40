"""The base class of all curvatures."""

from abc import ABC, abstractmethod
from functools import partial

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.curvature._system import System
from skinfluence.rows import DenseRows


class Curvature(ABC):
    """A damped curvature that can be solved against rows.

    Need to be defined: ``solve``, ``effective_dimension``. May be defined: ``whiten``,
    ``eigenbasis``, ``multiply`` (where training rows give F itself). Should be overridden for
    efficiency: ``leverages``.
    """

    # Name of the solver in `make_curvature`, None for an approximation.
    solver = None

    # Weight of each training row in F (n_samples,), where F comes from some of the rows.
    row_weight = None

    # Whether `solve` has no other error than rounding.
    is_direct = False

    # What bounds the errors of a refined curvature, see `RefinedCurvature`.
    certificate = None

    @property
    def is_own(self):
        """Whether this is the curvature of all training rows, not an approximation."""
        return self.solver is not None and self.row_weight is None

    @property
    def approximation(self):
        """A curvature on all coordinates that is cheap to solve, and near this one."""
        return self

    @property
    def unrefined(self):
        """The curvature without refinement."""
        return self

    @abstractmethod
    def solve(self, rows, damping):
        """Rows ``H^{-1} v`` for every row ``v``."""

    @abstractmethod
    def effective_dimension(self, damping):
        """``tr(F H^{-1})``."""

    def multiply(self, vectors, damping):
        """``H v`` for vectors (m, n_coordinates)."""
        raise ValueError(
            f"{type(self).__name__} knows no products of the curvature with vectors. Use "
            "solver='direct', 'gram' or 'cg'."
        )

    def averaged(self, other, share):
        """Mean of this curvature and another, which has a share between 0 and 1.

        None where the mean has no simple form.
        """
        return None

    def precondition(self, vectors, damping):
        """Approximate ``H^{-1} v`` for vectors (m, n_coordinates), cheaply and symmetrically."""
        return self.solve(DenseRows(vectors), damping).toarray()

    def system(self, product, damping):
        """`System` of another curvature, of which this one is the approximation.

        Parameters
        ----------
        product : callable
            ``product(vectors) -> H vectors`` with the other curvature, the ridge included.
        damping : float
            Added to the eigenvalues of both.
        """
        return System(product, partial(self.precondition, damping=damping))

    def plain(self, damping, n_rows):
        """The same, factorised for so many rows, without what only messages need: for workers."""
        del damping, n_rows
        return self

    def exact_part(self, rows):
        """The part of this curvature that is an exact sum over training rows.

        Only that part can be downdated when a row leaves.

        Parameters
        ----------
        rows : Rows
            Rows in the coordinates of this curvature.

        Returns
        -------
        tuple of (Curvature, Rows) or None
            The part, with ``rows`` projected to it; None if there is none.
        """
        return self, rows

    def whiten(self, rows, damping):
        """Array (n_rows, c) with ``w.w' = v' H^{-1} v'`` for rows ``v, v'``."""
        raise ValueError(
            f"{type(self).__name__} has no square root of the curvature, and so no "
            "embedding. Use solver='direct', or a sketch."
        )

    def eigenbasis(self, damping, query=None):
        """`Eigenbasis` of H, in which inner products with the row ``query`` may be taken."""
        raise ValueError(
            f"{type(self).__name__} has no eigenvectors of the curvature, which memorization "
            "needs. Use solver='direct' or 'gram', or a sketch."
        )

    def leverages(self, rows, damping):
        """``v_ij' H^{-1} v_ik`` within every sample i, (n_samples, s, s)."""
        s = rows.rows_per_sample
        out = np.empty((rows.n_samples, s, s))
        for batch in batches(rows.n_samples, 8, batch_size=max(1, 256 // s)):
            part = rows[batch]
            inner = self.solve(part, damping).inner(part)
            size = part.n_samples
            cube = inner.reshape(size, s, size, s)
            out[batch] = cube[np.arange(size), :, np.arange(size)]
        return out


def leverages_by_whitening(curvature, rows, damping):
    """``v_ij' H^{-1} v_ik`` within every sample i, for a curvature that has a square root."""
    none = np.empty((0, rows.rows_per_sample, rows.rows_per_sample))
    plain = curvature.plain(damping, rows.shape[0])
    found = rows.each(partial(_leverages, plain, damping))
    return np.concatenate([none, *found])


def _leverages(curvature, damping, rows):
    white = curvature.whiten(rows, damping)
    if rows.rows_per_sample == 1:
        return np.einsum("ij,ij->i", white, white)[:, None, None]
    white = white.reshape(-1, rows.rows_per_sample, white.shape[1])
    return white @ white.transpose(0, 2, 1)
