"""A cheap approximation of any curvature, by its products with random vectors."""

import numpy as np
from scipy.linalg import eigh
from sklearn.utils import check_random_state

from skinfluence._utils.batching import batches
from skinfluence.curvature._base import Curvature
from skinfluence.rows import DenseRows


class NystromCurvature(Curvature):
    """F on its leading directions, and the smallest of their eigenvalues outside them.

    The randomised Nystroem approximation [1]_: a preconditioner that needs one block product.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> F vectors`` for vectors (m, n_coordinates).
    penalty : ndarray of shape (n_coordinates,)
        The model's own penalty, of which the median counts.
    rank : int, default=100
        Number of directions.
    random_state : int or RandomState, default=None
        Draws the test vectors.

    References
    ----------
    .. [1] Frangella, Tropp, Udell, "Randomized Nystroem preconditioning", SIAM Journal on
       Matrix Analysis and Applications 44(2), 2023.
    """

    def __init__(self, product, penalty, *, rank=100, random_state=None):
        self.penalty = penalty
        p, random_state = len(penalty), check_random_state(random_state)
        test = np.linalg.qr(random_state.standard_normal((p, min(rank, p))))[0].T
        image = product(test)
        # A shift keeps the small core matrix positive definite in floating point.
        shift = np.sqrt(p) * np.finfo(np.float64).eps * np.linalg.norm(image)
        image += shift * test
        # The Hessian of a network may have negative eigenvalues, which the preconditioner
        # leaves out.
        values, vectors = eigh((test @ image.T + image @ test.T) / 2)
        kept = values > max(shift, 0.0)
        kept[-1] = True
        root = vectors[:, kept] / np.sqrt(np.where(values > 0, values, 1.0)[kept])
        factor = root.T @ image
        _, singular, self._basis = np.linalg.svd(factor, full_matrices=False)
        self._values = np.maximum(0, singular**2 - shift)

    def precondition(self, vectors, damping):
        floor = np.median(self.penalty) + damping
        # All eigenvalues that the basis misses lie below its last one.
        complete = len(self._values) == len(self.penalty)
        last = floor + (0 if complete else self._values[-1])
        last = last if last > 0 else 1.0
        inside = vectors @ self._basis.T
        ratio = last / np.maximum(self._values + floor, 1e-300) - 1
        return (vectors + (inside * ratio) @ self._basis) / last

    def solve(self, rows, damping):
        return DenseRows(self.precondition(rows.toarray(), damping), rows.rows_per_sample)

    def leverages(self, rows, damping):
        s = rows.rows_per_sample
        out = np.empty((rows.n_samples, s, s))
        for batch in batches(rows.n_samples, 8 * 3 * s * rows.n_columns):
            array = rows[batch].toarray()
            solved = self.precondition(array, damping)
            cube = (part.reshape(-1, s, part.shape[1]) for part in (array, solved))
            out[batch] = np.einsum("njp,nkp->njk", *cube)
        return out

    def effective_dimension(self, damping):
        return float(np.sum(self._values / (self._values + np.median(self.penalty) + damping)))
