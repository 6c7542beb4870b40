"""One spelling for arrays of NumPy and for tensors on a device.

Both know operators, slices, ``reshape``, ``swapaxes``, sums over an ``axis`` and functions such as
``matmul``, ``square`` or ``concatenate``, which `namespace` finds. Here is what they spell
differently. Arrays pass through without a copy.
"""

import sys

import numpy as np
import scipy.linalg


def namespace(array):
    """The library of an array: NumPy, or torch of a tensor, which is imported already."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def is_tensor(array):
    """Whether an array is a tensor, which may lie on a device."""
    return hasattr(array, "cpu")


def to_numpy(array):
    """The numbers of an array or a tensor as an array."""
    return array.detach().cpu().numpy() if is_tensor(array) else array


def n_numbers(array):
    """Count of the numbers that an array, a sparse matrix or a tensor holds."""
    return array.numel() if is_tensor(array) else array.size


def astype(array, dtype):
    """An array in a type of its own library."""
    return array.to(dtype) if is_tensor(array) else array.astype(dtype, copy=False)


def in_double(array, *, copy=False):
    """An array in double precision."""
    if is_tensor(array):
        return array.to(namespace(array).float64, copy=copy)
    return array.astype(np.float64, copy=copy)


def beside(array, other):
    """An array in the library and on the device of another, in its own type."""
    if not is_tensor(other):
        return to_numpy(array)
    if not is_tensor(array):
        # Tensors share memory with arrays, and torch knows none that cannot be written to.
        array = namespace(other).as_tensor(np.require(array, requirements="CW"))
    return array.to(other.device)


def like(array, other):
    """An array in the library, on the device and in the type of another."""
    return astype(beside(array, other), other.dtype)


def zeros(shape, other):
    """Zeros in double precision, in the library and on the device of another array."""
    if is_tensor(other):
        return other.new_zeros(shape, dtype=namespace(other).float64)
    return np.zeros(shape)


def empty(shape, other):
    """An array to be filled, in the library, on the device and in the type of another."""
    return other.new_empty(shape) if is_tensor(other) else np.empty(shape, other.dtype)


def dot(left, right):
    """The matrix product by NumPy's rules of types, which torch has for no matrix product."""
    dtype = namespace(right).promote_types(left.dtype, right.dtype)
    return astype(left, dtype) @ astype(right, dtype)


def eigh(matrix):
    """Eigenvalues of a symmetric matrix, an array, and eigenvectors, where the matrix is."""
    solve = namespace(matrix).linalg.eigh if is_tensor(matrix) else scipy.linalg.eigh
    values, vectors = solve(matrix)
    return to_numpy(values), vectors


def total(terms):
    """The sum of arrays and tensors, where the first of them is."""
    terms = iter(terms)
    found = next(terms)
    for term in terms:
        found = found + beside(term, found)
    return found
