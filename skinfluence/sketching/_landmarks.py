"""The sketch whose rows are rows of the data."""

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dpstrf

from skinfluence._utils.batching import batches
from skinfluence.rows import DenseRows
from skinfluence.sketching._base import Sketch, as_rows, floating, stream

# Smallest squared sine to the span of earlier landmarks for a new one to count as independent.
INDEPENDENT = 1e-9


class LandmarkSketch(Sketch):
    """Orthonormal basis of the span of some of the rows of given data: the landmarks.

    ``P = L^{-1} C`` for landmarks C with the Gram matrix ``CC' = LL'``, so that ``PP'`` is the
    identity and ``F_P`` is the Nystroem approximation by landmarks [1]_. Products with P are
    inner products with landmarks, which stay factored: P is never written out, however long
    the rows are.

    Parameters
    ----------
    landmarks : Rows
        Landmarks, one row for each sample, of unit length and linearly independent.
    seed : int, default=0
        Seed that drew the landmarks.

    See Also
    --------
    LandmarkSketch.draw : Chooses the landmarks.
    NystromSketch : A better basis of the same size, but written out.

    References
    ----------
    .. [1] Drineas, Mahoney, "On the Nystroem Method for Approximating a Gram Matrix for
       Improved Kernel-Based Learning", Journal of Machine Learning Research 6, 2005.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.sketching import LandmarkSketch
    >>> data = np.random.default_rng(0).standard_normal((50, 1000))
    >>> sketch = LandmarkSketch.draw(data, 20, seed=0)
    >>> (data @ sketch).shape
    (50, 20)
    """

    is_basis = True

    def __init__(self, landmarks, seed=0):
        super().__init__(landmarks.n_columns, len(landmarks), seed)
        self.landmarks = landmarks
        self._lower = cholesky(landmarks.inner(landmarks), lower=True)

    @classmethod
    def draw(cls, data, size, seed=0):
        """Choose rows at random, long ones more often.

        A row is drawn with a probability proportional to its squared length, without
        replacement; rows that depend linearly on earlier ones are left out. A larger sketch with
        the same seed includes the landmarks of a smaller one.

        Parameters
        ----------
        data : {ndarray, CSR matrix, Rows} of shape (n_rows, n_columns)
            Rows whose Gram matrix ``data' data`` the sketch should preserve.
        size : int
            Number of landmarks, or fewer if fewer rows are linearly independent.
        seed : int, default=0
            Draws the landmarks.

        Returns
        -------
        LandmarkSketch
        """
        rows = as_rows(data)
        length = np.sqrt(rows.squared_norms())
        moving = np.flatnonzero(length)
        # Sorting exponential variables with these rates is a draw without replacement with
        # these probabilities (Efraimidis and Spirakis, 2006).
        arrival = stream(seed, 0).standard_exponential(len(length))[moving] / length[moving] ** 2
        order = moving[np.argsort(arrival)]
        # Repeated rows may leave too few landmarks: then twice as many candidates are tried.
        for n_candidates in (size, 2 * size):
            index = order[:n_candidates]
            landmarks = rows.picked(index).weighted(1 / length[index])
            kept = _independent(landmarks.inner(landmarks))[:size]
            if len(kept) == size:
                break
        return cls(landmarks[kept], seed)

    def leading(self, size):
        """The sketch with the same seed and fewer landmarks.

        Parameters
        ----------
        size : int
            Number of landmarks.

        Returns
        -------
        LandmarkSketch
            A sketch of the first landmarks.
        """
        return LandmarkSketch(self.landmarks[:size], self.seed)

    def _project(self, array):
        projected = self._project_rows(as_rows(array)).array
        return projected.astype(floating(array), copy=False)

    def _project_rows(self, rows):
        s = rows.rows_per_sample
        parts = [np.empty((0, self.size))]
        for batch in rows.batches():
            held = rows[batch]
            fitting = batches(held.n_samples, 8 * 2 * s * self.size)
            parts += [self._white(self.landmarks.inner(held[part])) for part in fitting]
        return DenseRows(np.concatenate(parts), s)

    def _white(self, inner):
        return solve_triangular(self._lower, inner, lower=True, check_finite=False).T

    def _lift(self, array):
        inverse = solve_triangular(self._lower, array.T, lower=True, trans="T").T
        return np.ascontiguousarray(inverse) @ self.landmarks


def _independent(gram):
    """Ascending positions of linearly independent vectors, whose Gram matrix is given."""
    _, order, rank, _ = dpstrf(gram, tol=INDEPENDENT, lower=1)
    return np.sort(order[:rank] - 1)
