"""Sketches made of sketches."""

import numpy as np

from skinfluence.rows import KroneckerRows
from skinfluence.sketching._base import Sketch, floating


class KroneckerSketch(Sketch):
    """``P = P_E (x) P_A``: one sketch for the outputs of a layer, one for its inputs.

    Factored rows ``residual (x) activation`` stay factored, since
    ``(P_E (x) P_A)(r (x) u) = P_E r (x) P_A u``.

    Parameters
    ----------
    outputs : Sketch
        P_E, with c columns.
    features : Sketch
        P_A, with d columns.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.sketching import IdentitySketch, KroneckerSketch, SJLTSketch
    >>> sketch = KroneckerSketch(IdentitySketch(3), SJLTSketch(100, 20, seed=0))
    >>> (np.ones((5, 300)) @ sketch).shape
    (5, 60)
    """

    def __init__(self, outputs, features):
        super().__init__(outputs.n_columns * features.n_columns, outputs.size * features.size)
        self.outputs = outputs
        self.features = features

    @property
    def factors(self):
        return self.outputs, self.features

    def _project(self, array):
        c, d = self.outputs.n_columns, self.features.n_columns
        cube = (array.reshape(-1, d) @ self.features).reshape(-1, c, self.features.size)
        mixed = np.ascontiguousarray(cube.transpose(0, 2, 1)).reshape(-1, c)
        mixed = (mixed @ self.outputs).reshape(len(cube), -1, self.outputs.size)
        return mixed.transpose(0, 2, 1).reshape(len(cube), -1)

    def _project_tensor(self, tensor):
        c, d = self.outputs.n_columns, self.features.n_columns
        cube = (tensor.reshape(-1, d) @ self.features).reshape(
            tensor.shape[0], c, self.features.size
        )
        mixed = cube.swapaxes(1, 2).reshape(-1, c) @ self.outputs
        mixed = mixed.reshape(tensor.shape[0], self.features.size, self.outputs.size)
        return mixed.swapaxes(1, 2).reshape(tensor.shape[0], -1)

    def _project_rows(self, rows):
        layer = (self.outputs.n_columns, self.features.n_columns)
        if not rows.is_factored or rows.layer_shape != layer or rows.has_bias:
            return super()._project_rows(rows)
        n_samples, s, c = rows.residual.shape
        residual = rows.residual.reshape(-1, c) @ self.outputs
        return KroneckerRows(
            residual.reshape(n_samples, s, self.outputs.size),
            rows.activation @ self.features,
        )

    def _lift(self, array):
        c, m = self.outputs.n_columns, self.features.size
        cube = array.reshape(-1, self.outputs.size, m)
        mixed = np.ascontiguousarray(cube.transpose(0, 2, 1))
        mixed = self.outputs.lift(mixed.reshape(-1, self.outputs.size))
        mixed = mixed.reshape(len(cube), m, c).transpose(0, 2, 1)
        lifted = self.features.lift(np.ascontiguousarray(mixed).reshape(-1, m))
        return lifted.reshape(len(cube), -1)


class BlockSketch(Sketch):
    """Independent sketches of blocks of columns side by side.

    The blocks are the layers of ``BlockRows``, or the weights and the intercept columns of
    ``KroneckerRows``, of which the intercept columns stay unsketched (``IdentitySketch``).

    Parameters
    ----------
    sketches : sequence of Sketch
        One for each block of columns.
    """

    def __init__(self, sketches):
        self.sketches = list(sketches)
        columns = [sketch.n_columns for sketch in self.sketches]
        sizes = [sketch.size for sketch in self.sketches]
        super().__init__(sum(columns), sum(sizes))
        self._column_edges = np.cumsum([0, *columns])
        self._size_edges = np.cumsum([0, *sizes])

    @property
    def factors(self):
        # Factors of the first block, the weights; the columns after it stay unsketched.
        return self.sketches[0].factors

    def _project(self, array):
        edges = zip(self._column_edges[:-1], self._column_edges[1:], strict=True)
        parts = [array[:, start:stop] for start, stop in edges]
        out = np.empty((array.shape[0], self.size), dtype=floating(array))
        return self._gather(parts, out)

    def _gather(self, parts, out):
        edges = self._size_edges
        for k, (part, sketch) in enumerate(zip(parts, self.sketches, strict=True)):
            if sketch.size:
                out[:, edges[k] : edges[k + 1]] = part @ sketch
        return out

    def _project_tensor(self, tensor):
        widths = np.diff(self._column_edges).tolist()
        parts = tensor.split(widths, dim=1)
        return self._gather(parts, tensor.new_zeros((tensor.shape[0], self.size)))

    def _project_rows(self, rows):
        widths = [sketch.n_columns for sketch in self.sketches]
        blocks = rows.split(widths)
        if blocks is None:
            return super()._project_rows(rows)
        pairs = zip(blocks, self.sketches, strict=True)
        return rows.joined([block @ sketch for block, sketch in pairs])

    def _lift(self, array):
        parts = np.split(array, self._size_edges[1:-1], axis=1)
        pairs = zip(self.sketches, parts, strict=True)
        return np.concatenate([sketch.lift(part) for sketch, part in pairs], axis=1)
