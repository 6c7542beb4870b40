"""What a stored estimator says of its version, and which types it may hold."""

import pkgutil
from importlib import import_module
from inspect import isclass, isfunction

from skinfluence._utils.warnings import warn_user
from skinfluence.exceptions import InconsistentVersionWarning

OWN_PACKAGE = __name__.split(".")[0]

# Needs torch, whose modules skops cannot store.
OPTIONAL = f"{OWN_PACKAGE}.models.torch"

# Types of other packages inside fitted estimators, private ones of scikit-learn among them. None
# does anything while a file is read: a partial function calls nothing by itself, and what it would
# call has to be trusted too.
OTHERS = (
    "functools.partial",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
)


def own_version():
    """Version of this package."""
    return import_module(OWN_PACKAGE).__version__


class VersionedMixin:
    """Stores the version of this package with an estimator, and warns if another one loads it."""

    def __getstate__(self):
        return {**super().__getstate__(), "_skinfluence_version": own_version()}

    def __setstate__(self, state):
        state = dict(state)
        stored = state.pop("_skinfluence_version", "unknown")
        if stored != own_version():
            warn_user(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_version=own_version(),
                    original_version=stored,
                )
            )
        super().__setstate__(state)


def trusted_types():
    """Names of the types that `skops.io.load` may trust to load a fitted estimator.

    Returns
    -------
    list of str
        All classes and functions of the package, without those for torch, and the few private
        types of scikit-learn that fitted estimators hold. The types of your own model, of your
        own scorer or of a functional of your own are not among them.

    Notes
    -----
    A pickle runs code when it is loaded; a file of skops only makes objects of types that the
    reader trusts. Loading objects of these types runs no code from the file, imports nothing else
    and reads no other file. What a loaded object does later is up to it: an
    :class:`~skinfluence.metrics.InfluenceScorer` reads the folder of its ``memory``, whose
    entries are pickles. skops stores no module of torch, so that a
    :class:`~skinfluence.models.torch.TorchModel` needs a pickle.

    Examples
    --------
    >>> from skinfluence import trusted_types
    >>> "skinfluence.estimators._exact.ExactInfluence" in trusted_types()
    True

    With skops installed, ``skops.io.load(path, trusted=trusted_types())`` loads what
    ``skops.io.dump(influence, path)`` has stored.
    """
    own = {
        f"{name}.{thing.__qualname__}"
        for name in _modules(import_module(OWN_PACKAGE))
        for thing in vars(import_module(name)).values()
        if (isclass(thing) or isfunction(thing)) and thing.__module__ == name
    }
    return sorted(own.union(OTHERS))


def _modules(package):
    """Names of the modules of a package, at any depth, that need no optional package."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name != OPTIONAL:
            yield module.name
            if module.ispkg:
                yield from _modules(import_module(module.name))
