"""Inputs of a linear layer: arrays, CSR matrices, or features that compute their own products."""

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.batching import near_batches


def weighted_gram(u, weight):
    """``u' diag(weight) u`` as an array (d, d), for weights of either sign."""
    if hasattr(u, "weighted_gram"):
        return u.weighted_gram(weight)
    if sp.issparse(u):
        return np.asarray((u.T @ u.multiply(weight[:, None]).tocsr()).todense())
    if weight.min(initial=0) >= 0:
        # A product of a matrix with its own transpose costs half: BLAS calls syrk.
        scaled = u * np.sqrt(weight)[:, None]
        return scaled.T @ scaled
    return u.T @ (u * weight[:, None])


def stacked(activations):
    """Inputs of further samples below those of others, in their own precision."""
    if sp.issparse(activations[0]):
        return sp.vstack(activations, format="csr")
    return np.concatenate([np.asarray(activation) for activation in activations])


def is_sparse_activation(activation):
    """Whether inputs are sparse."""
    return sp.issparse(activation) or getattr(activation, "is_sparse", False)


def dense_activation(activation, dtype=np.float64):
    """Inputs as an array."""
    if sp.issparse(activation):
        activation = activation.toarray()
    return np.asarray(activation, dtype=dtype)


def activation_product(activation, matrix, dtype=np.float64):
    """Inputs times a matrix."""
    if is_sparse_activation(activation):
        return np.asarray(activation @ matrix)
    return dense_activation(activation, dtype) @ matrix


def product_with_activation(matrix, activation, dtype=np.float64):
    """A matrix times inputs."""
    if is_sparse_activation(activation):
        return np.asarray(matrix @ activation)
    return matrix @ dense_activation(activation, dtype)


def activation_gram(left, right):
    """Inner products of inputs with others."""
    if hasattr(left, "gram") and hasattr(right, "gram"):
        return left.gram(right)
    product = left @ right.T if sp.issparse(left) or sp.issparse(right) else None
    if product is None:
        return dense_activation(left) @ dense_activation(right).T
    return product.toarray() if sp.issparse(product) else np.asarray(product)


def activation_norms(activation):
    """Squared Euclidean norms of inputs."""
    if hasattr(activation, "squared_norms"):
        return activation.squared_norms()
    if sp.issparse(activation):
        return np.asarray(activation.multiply(activation).sum(axis=1)).ravel()
    norms = np.empty(len(activation))
    for batch in near_batches(len(activation), 8 * activation.shape[1]):
        part = dense_activation(activation[batch])
        norms[batch] = np.einsum("nd,nd->n", part, part)
    return norms
