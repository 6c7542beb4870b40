"""Vectors that follow from the outputs of a network, made whenever they are read."""

import numpy as np

from skinfluence._utils.batching import batches

# Outputs of so many bytes are computed at once: more would not be any faster.
READ_BYTES = 2**25


class OutputVectors:
    """An array of vectors (n, s, k) that is never held: slices of it know how to make theirs.

    Outputs with a number for each token of a vocabulary at each position of a text do not fit into
    memory for all samples.

    Parameters
    ----------
    make : callable
        ``make(samples)`` gives the vectors of samples (index array), (len(samples), s, k).
    n_samples : int
        Number of samples.
    """

    def __init__(self, make, n_samples):
        self.make = make
        self.samples = np.arange(n_samples)
        self.row_shape = make(self.samples[:1]).shape[1:]

    @property
    def shape(self):
        """Samples, vectors of each, and outputs."""
        return len(self.samples), *self.row_shape

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, samples):
        """Vectors of some of the samples (slice or index array)."""
        part = object.__new__(OutputVectors)
        part.make, part.samples, part.row_shape = self.make, self.samples[samples], self.row_shape
        return part

    def __array__(self, dtype=None, copy=None):
        out = np.empty(self.shape)
        for batch in batches(len(self), 1, max(1, READ_BYTES // (8 * max(1, out[:1].size)))):
            out[batch] = self.make(self.samples[batch])
        return out if dtype is None else out.astype(dtype, copy=False)
