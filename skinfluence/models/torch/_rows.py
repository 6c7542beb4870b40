"""Rows of a module, on its device as long as they may be."""

from copy import copy
from functools import cached_property

import numpy as np

from skinfluence.models.torch._network import to_array, weighted_vectors
from skinfluence.rows import BlockRows


class ModuleRows(BlockRows):
    """Rows ``w_i J_i' v_ij diag(scale)``: factors, or written out on the device for sketches.

    Rows are computed on first use, and factors only once. `device_blocks` hold them as the
    network keeps them, `blocks` as arrays.

    Parameters
    ----------
    network : Network
        The module.
    features : array of shape (n_samples, ...)
        Samples.
    vectors : ndarray or OutputVectors of shape (n_samples, rows_per_sample, k)
        Vectors by which the Jacobian of the outputs is multiplied.
    weight : ndarray of shape (n_samples,), default=None
        Factors of the rows of each sample, in double precision.
    scale : ndarray of shape (n_columns,), default=None
        Factors of the columns.
    is_summed : bool, default=False
        Whether shared layers are summed over their positions, see `summed`.
    """

    def __init__(self, network, features, vectors, weight=None, scale=None, *, is_summed=False):
        self.network = network
        self.features = features
        self.vectors = vectors
        self.weight = weight
        self.scale = scale
        self.is_summed = is_summed

    @cached_property
    def device_blocks(self):
        """The blocks of columns, factored."""
        settings = {"weight": self.weight, "summed": self.is_summed}
        blocks = self.network.rows(self.features, self.vectors, **settings)
        return blocks if self.scale is None else _rescaled(blocks, self.scale)

    @property
    def blocks(self):
        return [block.on_host() for block in self.device_blocks]

    @property
    def n_samples(self):
        return len(self.vectors)

    @property
    def rows_per_sample(self):
        return self.vectors.shape[1]

    @property
    def n_columns(self):
        return self.network.n_columns

    @property
    def device(self):
        # On the CPU arrays are sketched faster than tensors.
        device = self.network.device
        return None if device.type == "cpu" else device

    def pieces(self):
        scale = None if self.scale is None else self.network.tensor(self.scale)
        for batch in self.batches(cached=True):
            vectors = weighted_vectors(self.vectors, self.weight, batch)
            rows = self.network.gradients(self.features[batch], vectors)
            rows = rows if scale is None else rows * scale
            yield to_array(rows) if self.device is None else rows

    def _changed(self, change, **attributes):
        """Rows with other attributes, and the same factors if they are known."""
        rows = copy(self)
        vars(rows).update(attributes)
        vars(rows).pop("_twin", None)
        if "device_blocks" in vars(self):
            rows.device_blocks = [change(block) for block in self.device_blocks]
        return rows

    def __getitem__(self, samples):
        return self._changed(
            lambda block: block[samples],
            features=self.features[samples],
            vectors=self.vectors[samples],
            weight=None if self.weight is None else self.weight[samples],
        )

    def picked(self, index):
        samples, place = np.divmod(index, self.rows_per_sample)
        vectors = np.asarray(self.vectors[samples])[np.arange(len(index)), place]
        return self._changed(
            lambda block: block.picked(index),
            features=self.features[samples],
            vectors=vectors[:, None],
            weight=None if self.weight is None else self.weight[samples],
        )

    def weighted(self, weight):
        total = np.asarray(weight) if self.weight is None else weight * self.weight
        return self._changed(lambda block: block.weighted(weight), weight=total)

    def summed(self):
        return self if self.is_summed else self._twin

    @cached_property
    def _twin(self):
        """The same rows, summed over positions once for all who ask."""
        rows = copy(self)
        rows.is_summed = True
        vars(rows).pop("device_blocks", None)
        return rows

    def rescaled(self, scale):
        rows = copy(self)
        vars(rows).pop("_twin", None)
        rows.scale = scale if self.scale is None else scale * self.scale
        if "device_blocks" in vars(self):
            rows.device_blocks = _rescaled(self.device_blocks, scale)
        return rows


def _rescaled(blocks, scale):
    """Blocks with other columns, as arrays: only curvatures that need arrays ask for them."""
    return BlockRows(block.on_host() for block in blocks).rescaled(scale).blocks
