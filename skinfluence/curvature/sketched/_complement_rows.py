"""Rows with their sketch, and the rows of the sketch."""

from skinfluence.rows import DenseRows, Rows, WrappedRows


class ComplementRows(WrappedRows):
    """Rows together with their sketch.

    Parameters
    ----------
    rows : Rows
        The rows.
    sketch : Sketch
        Sketch with orthonormal rows.
    reduced : Rows, default=None
        ``rows @ sketch``, where already known.
    """

    def __init__(self, rows, sketch, reduced=None):
        super().__init__(rows)
        self.sketch = sketch
        self.reduced = rows @ sketch if reduced is None else reduced

    @property
    def n_stored(self):
        return self.rows.n_stored + self.reduced.n_stored

    def __getitem__(self, samples):
        return ComplementRows(self.rows[samples], self.sketch, self.reduced[samples])

    def __matmul__(self, matrix):
        return self.reduced if matrix is self.sketch else self.rows.__matmul__(matrix)

    def __rmatmul__(self, matrix):
        return self.rows.__rmatmul__(matrix)

    def inner(self, other, out=None):
        return self.rows.inner(other, out)

    def dotted_by(self, vectors, out=None):
        return self.rows.dotted_by(vectors, out)

    def squared_norms(self):
        return self.rows.squared_norms()

    def rescaled(self, scale):
        return self.rows.rescaled(scale)

    def weighted(self, weight):
        reduced = self.reduced.weighted(weight)
        return ComplementRows(self.rows.weighted(weight), self.sketch, reduced)


class BasisRows(Rows):
    """The rows of the sketch; `ComplementRows` know their products with these."""

    n_samples = property(lambda self: self.sketch.size)
    n_columns = property(lambda self: self.sketch.n_columns)

    def __init__(self, sketch):
        self.sketch = sketch

    def __getitem__(self, samples):
        return DenseRows(self.toarray()[samples])

    def toarray(self):
        return self.sketch.toarray()

    def __rmatmul__(self, matrix):
        return self.sketch.lift(matrix)

    def inner(self, other, out=None):
        return (other @ self.sketch).toarray().T
