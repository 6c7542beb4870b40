"""Maps between the coordinates of a model and of its curvature."""


class Space:
    """The coordinates in which a curvature is solved: here the objective's own.

    A subclass that changes coordinates overrides `project` and `lift`; a subclass that treats
    queries apart overrides `project_queries` too.

    Parameters
    ----------
    penalty : ndarray of shape (n_columns,)
        Penalty of the mean objective on every column of the projected rows.
    """

    # Whether the coordinates are the objective's own.
    is_identity = True

    # Whether projected rows have all columns, so that nothing of them is lost.
    is_full = True

    def __init__(self, penalty):
        self.penalty = penalty

    def project(self, rows):
        """Rows of the objective as the curvature sees them."""
        return rows

    def project_queries(self, rows):
        """Rows of queries as the curvature sees them."""
        return self.project(rows)

    def lift(self, array):
        """Vectors (m, n_coordinates) of the objective from solved vectors (m, n_columns)."""
        return array

    def product(self, multiply):
        """Products with F in these coordinates, from those in the objective's, if `is_full`."""
        return multiply
