"""Rules that hold for the package as a whole, read from its sources."""

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import skinfluence

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skinfluence"

# ---------------------------------------------------------------------------
# Rooms: which file may import which
# ---------------------------------------------------------------------------

# From top to bottom. A file imports files of its own room and of rooms below it.
ROOMS = [
    *("selection", "estimators", "inspection", "diagnostics", "metrics", "refitting"),
    *("curvature", "models", "sketching", "rows", "data", "_utils", "exceptions"),
]

# Third-party packages that only these modules may import, at any depth.
CONFINED = {
    "torch": ("models.torch",),
    "skorch": ("models.torch",),
    "matplotlib": ("inspection",),
    "pandas": ("data", "diagnostics", "inspection.report"),
    "pyarrow": ("data",),
    "dask": (),
    "jinja2": ("inspection.report",),
    "skore": ("inspection.report",),
    "polars": (),
    "imblearn": (),
}


def module_name(path):
    """Name below `skinfluence`; the package itself is the empty string."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(path):
    """Absolute dotted names of everything that a source file imports, by name or by string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def imported_modules(name):
    """Modules of the package that a module imports."""
    for imported in imported_names(SOURCES[name]):
        parts = imported.split(".")
        if parts[0] == "skinfluence":
            # The last part may be a name inside a module.
            found = ".".join(parts[1:])
            yield found if found in SOURCES else found.rpartition(".")[0]


def floor(name):
    """Position of a module's room, counted from the top; the public names come first."""
    return 1 + ROOMS.index(name.split(".")[0]) if name else 0


@pytest.mark.parametrize("name", SOURCES)
def test_a_room_imports_only_rooms_below_it(name):
    assert all(floor(name) <= floor(imported) for imported in imported_modules(name))


def test_no_files_import_each_other_in_a_circle():
    graph = {name: set(imported_modules(name)) - {name} for name in SOURCES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", CONFINED)
def test_optional_packages_are_imported_only_where_they_belong(package):
    importers = [
        name
        for name, path in SOURCES.items()
        if package in {imported.split(".")[0] for imported in imported_names(path)}
    ]
    assert all(name.startswith(CONFINED[package]) for name in importers)


def test_import_leaves_optional_packages_alone():
    modules = [
        f"skinfluence.{name}".rstrip(".")
        for name in SOURCES
        if not name.startswith("models.torch")
    ]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    # Some versions of scikit-learn import pandas themselves, which imports pyarrow.
    imported = CONFINED.keys() & set(run.stdout.split()) - {"pandas", "pyarrow"}
    assert not imported


# ---------------------------------------------------------------------------
# Docstrings
# ---------------------------------------------------------------------------

# The codes of numpydoc.validate that are errors here; PR01 to PR03 hold that a docstring has the
# parameters of the signature in its order. Left out are rules of layout (GL01-GL03), and extended
# summary, "See Also" and examples, which not every method needs.
NUMPYDOC_ERRORS = {
    *("GL05", "GL06", "GL07", "GL08", "GL09", "GL10"),  # sections
    *("SS01", "SS02", "SS03", "SS04", "SS06"),  # one line, a sentence
    *("PR01", "PR02", "PR03", "PR04", "PR05", "PR06", "PR07", "PR08", "PR09", "PR10"),
    *("RT01", "RT03", "RT04", "RT05"),  # Returns
    *("YD01", "SA02", "SA03", "SA04"),
}


def is_ours(thing):
    module = getattr(inspect.unwrap(thing), "__module__", None) or ""
    return callable(thing) and module.split(".")[0] == "skinfluence"


def public_names(namespace):
    return [name for name in vars(namespace) if not name.startswith("_")]


def public_objects():
    """Dotted name and object of every public class, method and function."""
    found = {}

    def add(thing):
        if not is_ours(thing):
            return
        found[f"{thing.__module__}.{thing.__qualname__}"] = thing
        if inspect.isclass(thing):
            for klass in filter(is_ours, thing.__mro__):
                for name in public_names(klass):
                    add(getattr(klass, name))

    for name in getattr(skinfluence, "__all__", []):
        add(getattr(skinfluence, name))
    if find_spec("torch") is not None:
        add(import_module("skinfluence.models.torch").TorchModel)
    for name in ("sketching", "metrics", "inspection", "diagnostics"):
        module = import_module(f"skinfluence.{name}")
        for public in getattr(module, "__all__", public_names(module)):
            add(getattr(module, public))
    return found


PUBLIC = public_objects()


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_follow_numpydoc(name):
    errors = [
        f"{code}: {message}"
        for code, message in validate(name)["errors"]
        if code in NUMPYDOC_ERRORS
    ]
    assert not errors, "\n".join([name, *errors])


def documented_parameters(docstring):
    """Name and type of each parameter, a line `X, y : ...` taken apart."""
    for parameter in NumpyDocString(docstring or "")["Parameters"]:
        for name in parameter.name.split(","):
            yield name.strip().lstrip("*"), parameter.type


def documented_default(type_):
    """What stands after `default=`, as an object where it is a literal."""
    match = re.search(r"default=(.+)$", type_)
    if match is None:
        return inspect.Parameter.empty
    if match[1] == "nan":
        return float("nan")
    try:
        return ast.literal_eval(match[1])
    except (SyntaxError, ValueError):
        return match[1]


@pytest.mark.parametrize("name", PUBLIC)
def test_documented_defaults_are_the_defaults(name):
    parameters = inspect.signature(PUBLIC[name]).parameters
    documented = {
        parameter: documented_default(type_)
        for parameter, type_ in documented_parameters(inspect.getdoc(PUBLIC[name]))
        if parameter in parameters
    }
    actual = {parameter: parameters[parameter].default for parameter in documented}
    # `True == 1` and `1 == 1.0`, but the text of a default says which it is.
    assert {k: repr(v) for k, v in documented.items()} == {k: repr(v) for k, v in actual.items()}


def documented_objects(name):
    """Every class, method and function of a module that documents a default."""
    module = import_module(f"skinfluence.{name}".rstrip("."))
    own = [thing for thing in vars(module).values() if is_ours(thing)]
    own = [thing for thing in own if thing.__module__ == module.__name__]
    for cls in filter(inspect.isclass, tuple(own)):
        own += filter(is_ours, (getattr(cls, member) for member in vars(cls)))
    return [thing for thing in own if "default=" in (inspect.getdoc(thing) or "")]


@pytest.mark.parametrize("name", SOURCES)
def test_defaults_documented_inside_are_the_defaults(name):
    # The others are imported inside functions.
    for package in ("torch", "skorch"):
        if name.startswith(CONFINED[package]):
            pytest.importorskip(package)
    for thing in documented_objects(name):
        parameters = inspect.signature(thing).parameters
        for parameter, type_ in documented_parameters(inspect.getdoc(thing)):
            if parameter in parameters and "default=" in type_:
                actual = str(parameters[parameter].default)
                # Made anew for every object of a dataclass.
                if actual != "<factory>":
                    assert str(documented_default(type_)) == actual, (thing, parameter)


# What several estimators say about a parameter or an attribute, they say in the same words. A
# class is left out where the name means something else: other models, splits instead of threads.
SHARED = {
    "estimator": {
        *("ClassifierHeadInfluence", "SketchedInfluenceCV", "FilteredEstimator"),
        *("LeaveOneOutSearch", "AveragedInfluence"),
    },
    "n_jobs": {"SketchedInfluenceCV", "LeaveOneOutSearch", "AveragedInfluence"},
    # It prints what GridSearchCV prints.
    "verbose": {"LeaveOneOutSearch"},
    # A scorer of models, not of influences.
    "scoring": {"LeaveOneOutSearch"},
    # The other rows are not there.
    "estimator_": {"FilteredEstimator"},
    # A head may be sketched instead of solved.
    "solver_": {"ClassifierHeadInfluence"},
    # Its candidates have the parameter; steps of removals, not of solutions.
    "refine": {"SketchedInfluenceCV", "LeaveOneOutSearch"},
} | {
    name: set()
    for name in (
        *("damping", "curvature", "solver", "batch_size", "storage", "tail", "factorized"),
        "delta",
        *("debias", "project_queries", "damping_", "curvature_kind_", "stationarity_"),
        *("n_features_in_", "feature_names_in_", "classes_"),
    )
}


def shared_paragraphs(name):
    """Paragraph about a parameter or an attribute, of every public class that has it."""
    for cls in (getattr(skinfluence, public) for public in skinfluence.__all__):
        if inspect.isclass(cls) and cls.__name__ not in SHARED[name]:
            doc = NumpyDocString(inspect.getdoc(cls))
            for entry in (*doc["Parameters"], *doc["Attributes"]):
                if name in entry.name.split(", "):
                    yield cls.__name__, " ".join(entry.desc)


@pytest.mark.parametrize("name", SHARED)
def test_shared_parameters_are_described_in_the_same_words(name):
    paragraphs = dict(shared_paragraphs(name))
    assert len(paragraphs) > 1 and len(set(paragraphs.values())) == 1, paragraphs


def test_default_of_a_docstring_is_read():
    assert documented_default("float, default=1.0") == 1.0
    assert documented_default("tuple of int, default=(1, 2)") == (1, 2)
    assert documented_default('{"a", "b"}, default="a"') == "a"
    assert documented_default("bool") is inspect.Parameter.empty


# ---------------------------------------------------------------------------
# The repository can be read on its own
# ---------------------------------------------------------------------------

TEXT = {".py", ".md", ".rst", ".txt", ".toml", ".cfg", ".yml", ".yaml", ".csv"}
# What tools, not people, write.
GENERATED = ("build", "dist", "demo")
BUILT_PAGES = ("_build", "generated", "auto_examples", "results")


def text_files():
    for path in sorted(ROOT.rglob("*")):
        top, *inside = path.relative_to(ROOT).parts
        hidden = top.startswith(".") and top != ".ci"
        if hidden or top in GENERATED or top.endswith(".egg-info"):
            continue
        if top == "docs" and inside and inside[0] in BUILT_PAGES:
            continue
        if path.is_file() and (path.suffix in TEXT or not path.suffix):
            yield path


TEXT_FILES = {str(path.relative_to(ROOT)): path for path in text_files()}


@pytest.mark.parametrize("name", TEXT_FILES)
def test_files_name_no_folder_of_one_machine(name):
    text = TEXT_FILES[name].read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.)\]])/(?:work|home|root|tmp|opt|Users)/\S*", text)


@pytest.mark.parametrize("name", TEXT_FILES)
def test_documents_that_are_mentioned_exist(name):
    text = TEXT_FILES[name].read_text(encoding="utf-8")
    mentioned = set(re.findall(r"[\w-]+\.(?:md|rst)\b", text))
    existing = {path.name for path in TEXT_FILES.values()}
    assert mentioned <= existing


# ---------------------------------------------------------------------------
# Tests address behaviour
# ---------------------------------------------------------------------------

# A test may move a limit by its dotted path: these are module constants, in capitals.
CONSTANT = re.compile(r"[\w.{}]+\.[A-Z][A-Z_0-9]*")


def is_private(name):
    # Names that end with an underscore too are protocols, such as `__len__` and `_repr_html_`.
    return name.startswith("_") and not name.endswith("_")


def private_names(tree):
    """Private attributes, imports and patched paths of the package that a test file names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skinfluence"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from filter(is_private, names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
            path = ast.unparse(node.args[0]).strip("f'\"")
            if any(map(is_private, path.split("."))) and not CONSTANT.fullmatch(path):
                yield path


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda p: p.name)
def test_tests_reach_nothing_private(path):
    assert not list(private_names(ast.parse(path.read_text(encoding="utf-8"))))
