"""The doors from a fitted model to its objective and to its head.

Models of torch are registered on first use, so that nobody else waits for torch.
"""

from functools import wraps
from importlib import import_module

from skinfluence.models.heads import head as head_of_known
from skinfluence.models.registry import objective as objective_of_known


def load_optional_models(model):
    """Import the torch models, which registers them, if this is a model of torch or skorch."""
    packages = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    if packages & {"torch", "skorch"}:
        import_module("skinfluence.models.torch")


def _door(dispatch):
    """The dispatching function, after optional models are registered."""

    @wraps(dispatch)
    def door(model, *args, **kwargs):
        load_optional_models(model)
        return dispatch(model, *args, **kwargs)

    return door


objective = _door(objective_of_known)
head = _door(head_of_known)
