"""What stands in the place of training rows that a fit has not kept."""

from skinfluence.exceptions import RowsLeftOutError


def _refuse(*_, **__):
    raise RowsLeftOutError(
        "This needs the training rows, and the fit with keep_rows=False has not kept them: "
        "influence, iter_influence, influence_on, most_influential, self_influence, transform "
        "and parameter_influence are left. Fit with keep_rows=True."
    )


class LeftOut:
    """Training rows, or what belongs to them, that were not kept: every use is an error.

    Parameters
    ----------
    shape : tuple of int, default=None
        Shape of what was left out, where queries are checked against it.
    """

    def __init__(self, shape=None):
        if shape is not None:
            self.shape = shape

    def __getattr__(self, name):
        # Protocols, such as that of copies, ask for what is not there and go on without.
        if name.startswith("__"):
            raise AttributeError(name)
        return _refuse()

    __array__ = __getitem__ = __iter__ = __len__ = _refuse
    __matmul__ = __rmatmul__ = __mul__ = __rmul__ = __add__ = __sub__ = __abs__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = object.__hash__
