"""How far curvatures from different rows are apart, relative to another one."""

import numpy as np
from scipy.linalg import LinAlgError

from skinfluence.rows import DenseRows

# Steps of the Lanczos iteration: the ends of a spectrum are found to some percent.
N_STEPS = 20

# Squared length, relative to the first, of what rounding leaves of a vector.
ROUNDING = 1e-20


def contrast_norms(curvatures, contrasts, reference, damping, random_state):
    """Norms of ``H^{-1/2} (sum_i c_i H_i) H^{-1/2}``, by Lanczos iterations in the metric of H.

    Parameters
    ----------
    curvatures : list of Curvature, of length n_curvatures
        The curvatures, with a ``multiply``.
    contrasts : ndarray of shape (n_contrasts, n_curvatures)
        Coefficients c, with the sum 0.
    reference : Curvature
        Whose H is the metric.
    damping : float
        Added to the eigenvalues of each curvature.
    random_state : RandomState
        Draws the starts.

    Returns
    -------
    ndarray of shape (n_contrasts,)
        The largest Ritz values: never above the norms, and a few percent below them. Infinite
        where H has a negative eigenvalue.
    """

    def contrasted(vectors):
        images = [curvature.multiply(vectors, damping) for curvature in curvatures]
        return np.einsum("ci,icp->cp", contrasts, images)

    # For each contrast C, vectors v that are orthonormal in the metric, with H v and C v.
    shape = len(contrasts), len(reference.penalty)
    basis = lifted = moved = np.empty((shape[0], 0, shape[1]))
    image = contrasted(random_state.standard_normal(shape))
    start = None
    for _ in range(min(N_STEPS, shape[1])):
        try:
            vector = reference.solve(DenseRows(image), damping).toarray()
        except LinAlgError:
            return np.full(len(contrasts), np.inf)
        for _ in range(2):
            along = np.einsum("cp,ckp->ck", vector, lifted)
            vector = vector - np.einsum("ck,ckp->cp", along, basis)
            image = image - np.einsum("ck,ckp->cp", along, lifted)
        energy = np.einsum("cp,cp->c", vector, image)
        start = energy if start is None else start
        if (start < 0).any():
            return np.full(len(contrasts), np.inf)
        # An iteration that has ended goes on with vectors of 0.
        length = np.where(energy > ROUNDING * start, np.sqrt(np.abs(energy)), np.inf)[:, None]
        basis, lifted = _appended(basis, vector / length), _appended(lifted, image / length)
        image = contrasted(basis[:, -1])
        moved = _appended(moved, image)
    ritz = basis @ moved.transpose(0, 2, 1)
    return np.abs(np.linalg.eigvalsh((ritz + ritz.transpose(0, 2, 1)) / 2)).max(axis=1)


def _appended(vectors, last):
    return np.concatenate([vectors, last[:, None]], axis=1)
