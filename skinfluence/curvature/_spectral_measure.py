"""How the squared length of a vector is spread over the eigenvalues of a curvature."""

import numpy as np


def spectral_measure(product, vector, n_steps):
    """Eigenvalues and squared lengths that stand for a vector's parts along all eigenvectors.

    Gauss quadrature by Lanczos iteration: ``sum_i weights_i f(values_i)`` equals ``v' f(H) v`` for
    every polynomial f of degree below ``2 n_steps``.

    Parameters
    ----------
    product : callable
        ``product(vectors) -> H vectors`` for vectors (m, p), H symmetric and not negative.
    vector : ndarray of shape (p,)
        The vector v.
    n_steps : int
        Products with H, at most.

    Returns
    -------
    values : ndarray of shape (n_values,)
        Eigenvalues, ascending.
    weights : ndarray of shape (n_values,)
        Squared lengths, with the sum ``v' v``.

    References
    ----------
    Golub and Meurant, *Matrices, Moments and Quadrature*, 1994.
    """
    length = np.linalg.norm(vector)
    if not length:
        return np.zeros(1), np.zeros(1)
    basis, diagonal, edge = [vector / length], [], []
    for _ in range(min(n_steps, len(vector))):
        image = product(basis[-1][None])[0]
        diagonal.append(basis[-1] @ image)
        # Twice: Lanczos vectors lose their right angles by rounding.
        for _ in range(2):
            image = image - (np.array(basis) @ image) @ np.array(basis)
        left = np.linalg.norm(image)
        if left <= 1e-10 * abs(diagonal[0]):
            break
        edge.append(left)
        basis.append(image / left)
    edge = np.array(edge[: len(diagonal) - 1])
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(edge, 1) + np.diag(edge, -1))
    return np.clip(values, 0.0, None), (length * vectors[0]) ** 2
