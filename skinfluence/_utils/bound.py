"""Methods of objects, as values that a fitted estimator holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A method of an object, called like it.

    Formats that name a method by its class and module, such as that of skops, lose one that the
    class inherits from another module. Here the name is looked up when it is called.

    Parameters
    ----------
    owner : object
        The object.
    name : str
        Name of its method.
    """

    owner: object
    name: str

    def __call__(self, *args, **kwargs):
        return getattr(self.owner, self.name)(*args, **kwargs)
