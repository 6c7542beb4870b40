"""A hash of everything that a refit depends on, code included, or a refusal to give one.

The name and the version of its package stand for code of an installed package, the content for
all other code: instructions, constants, defaults, variables of closures, and the globals and
imports that the code names. An object whose content cannot be read has no fingerprint.
"""

import copyreg
import dis
import platform
import sys
import sysconfig
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType

import joblib
import numpy as np
from scipy.sparse import issparse

OWN_PACKAGE = __name__.split(".")[0]

# Packages whose code every refit goes through.
PACKAGES = (OWN_PACKAGE, "sklearn", "numpy", "scipy")

# Folders whose code changes with the version of Python or of a package, and not otherwise.
STANDARD_LIBRARY = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
INSTALLED = {"site-packages", "dist-packages"}

ATOMS = {type(None), bool, int, float, complex, str, bytes}
# Other arrays, such as masked ones, consist of more than their numbers.
ARRAYS = {np.ndarray, np.memmap}

# Attributes of a class that do not affect what its objects do.
INERT = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "_abc_impl"),
    *("__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
}


class NoFingerprintError(TypeError):
    """A value whose content cannot be read."""


def fingerprint(*parts):
    """Hash that is the same for the same data, parameters and code in any process.

    Parameters
    ----------
    *parts : object
        Everything that a result depends on.

    Returns
    -------
    str

    Raises
    ------
    NoFingerprintError
        If the content of an object cannot be read: a lock, a generator, or compiled code that
        belongs to no installed package.
    """
    try:
        return joblib.hash(_Content().of(parts))
    except Exception as error:
        # Objects may raise any error when asked for their state.
        raise NoFingerprintError(f"{type(error).__name__}: {error}") from error


def versions():
    """Versions of Python and of the packages that every refit goes through."""
    packages = {name: import_module(name).__version__ for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


class _Content:
    """The content of values, as nested tuples and lists of numbers, strings and arrays.

    The number of a value stands for its second occurrence, which ends cycles.
    """

    def __init__(self):
        self._met = {}

    def of(self, value):
        """Content of a value."""
        if type(value) in ATOMS or (type(value) in ARRAYS and not value.dtype.hasobject):
            return value
        if type(value) is tuple:
            # The compiler may or may not share equal tuples, so they get no number.
            return "tuple", self._all(value)
        if id(value) in self._met:
            return "met", self._met[id(value)][0]
        # Storing the value keeps Python from giving its id to another one.
        self._met[id(value)] = len(self._met), value
        tell = _TELL.get(type(value))
        if tell is not None:
            return type(value).__name__, tell(self, value)
        return self._class(value) if isinstance(value, type) else self._object(value)

    def _all(self, values):
        return [self.of(value) for value in values]

    def _items(self, mapping):
        return [(self.of(key), self.of(value)) for key, value in mapping.items()]

    def _unordered(self, values):
        return sorted(joblib.hash(self.of(value)) for value in values)

    def _array_of_objects(self, array):
        return array.shape, self._all(array.ravel().tolist())

    def _method(self, method):
        return self._all([method.__func__, method.__self__])

    def _wrapped(self, method):
        return self.of(method.__func__)

    def _cached_property(self, cached):
        # Until Python 3.12 a cached property also has a lock.
        return self.of(cached.func)

    def _property(self, accessors):
        return self._all([accessors.fget, accessors.fset, accessors.fdel])

    def _object(self, value):
        if issparse(value):
            entries = value.tocoo()
            return value.format, value.shape, entries.data, *entries.coords
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            return self._tensor(value)
        if hasattr(value, "get_params"):
            # Nets of skorch pickle some parameters as their names alone.
            return "estimator", self.of(type(value)), self.of(vars(value))
        return self._pickled(value)

    def _tensor(self, tensor):
        values = tensor.detach().cpu()
        # NumPy has no bfloat16; float64 represents its numbers exactly.
        numbers = (values.double() if "bfloat16" in str(values.dtype) else values).numpy()
        return type(tensor).__name__, str(tensor.dtype), tensor.requires_grad, numbers

    def _pickled(self, value):
        """Content of an object as a pickle would store it."""
        reduce = copyreg.dispatch_table.get(type(value))
        state = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(state, str):
            module = getattr(value, "__module__", None) or type(value).__module__
            if not _is_installed(module):
                raise TypeError(f"{module}.{state} pickles as its name alone")
            return "global", state, _release(module)
        # Iterators over items follow the function, its arguments and the state.
        items = [None if part is None else list(part) for part in state[3:5]]
        return "object", self._all([*state[:3], *items, *state[5:]])

    def _class(self, cls):
        name = cls.__module__, cls.__qualname__
        if _is_installed(cls.__module__):
            return "class", name, _release(cls.__module__)
        body = {key: value for key, value in vars(cls).items() if key not in INERT}
        return "class", name, self.of(type(cls)), self._all(cls.__bases__), self._items(body)

    def _module(self, module):
        if not _is_installed(module.__name__):
            raise TypeError(f"the module {module.__name__} belongs to no installed package")
        return module.__name__, _release(module.__name__)

    def _function(self, function):
        name = function.__module__, function.__qualname__
        given = self._all([function.__defaults__, function.__kwdefaults__, vars(function)])
        free = self._all(map(_contents, function.__closure__ or ()))
        told = name, self._code(function.__code__), given, free
        if _is_installed(function.__module__):
            return told, _release(function.__module__)
        return told, self._reached(function)

    def _code(self, code):
        constants = self._all(code.co_consts)
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        return (
            code.co_code,
            code.co_exceptiontable,
            constants,
            list(map(list, names)),
            list(counts),
        )

    def _reached(self, function):
        """Globals and imports that the code of a function names."""
        codes = list(_nested(function.__code__))
        names = sorted({name for code in codes for name in code.co_names})
        space = function.__globals__
        found = [space[name] for name in names if name in space]
        for code in codes:
            for name in _imports(code):
                found += _imported(name, space.get("__package__") or "")
        return names, [self._named(value, names) for value in found]

    def _named(self, value, names, path=()):
        """Content of a value; for the user's own modules, of the attributes with these names."""
        if not isinstance(value, ModuleType) or _is_installed(value.__name__):
            return self.of(value)
        if value in path:
            return value.__name__
        path, held = (*path, value), vars(value)
        return [(name, self._named(held[name], names, path)) for name in names if name in held]


_TELL = {
    list: _Content._all,
    dict: _Content._items,
    MappingProxyType: _Content._items,
    set: _Content._unordered,
    frozenset: _Content._unordered,
    np.ndarray: _Content._array_of_objects,
    FunctionType: _Content._function,
    CodeType: _Content._code,
    MethodType: _Content._method,
    staticmethod: _Content._wrapped,
    classmethod: _Content._wrapped,
    property: _Content._property,
    cached_property: _Content._cached_property,
    ModuleType: _Content._module,
}


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:
        # The variable has no value yet.
        return ()


def _nested(code):
    """A code object and the code objects of functions and classes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _imports(code):
    """Modules that a code object imports when it runs."""
    return [step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"]


def _imported(name, package):
    """Modules that an import in the code of a package can find."""
    parents = list(accumulate(package.split("."), "{}.{}".format)) if package else []
    names = [f"{parent}.{name}".rstrip(".") for parent in parents] + [name]
    known = [sys.modules[name] for name in names if name in sys.modules]
    if not known and not _is_installed(name):
        raise TypeError(f"the module {name} is imported by code and not loaded yet")
    return known


def _is_installed(module):
    """Whether code changes with the version of its package only."""
    top = (module or "__main__").split(".")[0]
    if top == "__main__":
        return False
    if top == OWN_PACKAGE or top in sys.builtin_module_names:
        return True
    path = _file(module) or _file(top)
    return path is not None and (
        not INSTALLED.isdisjoint(path.parts)
        or any(path.is_relative_to(folder) for folder in STANDARD_LIBRARY)
    )


def _file(name):
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        spec = None if "." in name else find_spec(name)
        file = None if spec is None else spec.origin
    return None if file is None else Path(file)


def _release(module):
    """Top-level package of a module and its version."""
    top = module.split(".")[0]
    return top, getattr(sys.modules.get(top), "__version__", "")
