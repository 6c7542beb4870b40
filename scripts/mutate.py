"""How many small faults, planted one at a time into covered lines, do the tests notice?

Run by ``make mutate``. Draws mutants by seed, at most one a line, and runs the tests whose
coverage context holds the line, the fastest first, until one fails. A line that runs only
outside of test functions (on import, in fixtures) gets the tests that run anything in its file,
or in its folder where that file is an ``__init__``, and those that read the package's sources.
Doctests are left out. Everything runs in copies of the tree, in which the tests must pass first;
the tree itself stays as it is.

A mutant that no test can tell from the original stands in ``equivalent_mutants.txt`` with the
reason and leaves the rate. One that runs out of time counts as alive. Numbers below 0.001 are
tolerances and are not mutated. Coverage and reports are kept in ``.cache/mutate``; coverage is
measured again for the test files that changed, or for all when the package did, which takes as
long as the tests do. Needs a system with ``fork``.
"""

import argparse
import ast
import copy
import difflib
import hashlib
import importlib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from coverage import CoverageData

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "mutate"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
ROOMS = ["rows", "curvature", "models", "refitting", "sketching"]

# Tests are run in copies of this process, which has imported what is slow to import.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "SCIPY_ARRAY_API": "1", "MPLBACKEND": "agg"}
os.environ.update(ENVIRONMENT)
PRELOADED = ["pandas", "sklearn.utils.estimator_checks", "statsmodels.api", "torch"]

# Its tests run few lines of the package, but read them.
READERS = "tests/test_package.py::"

# Tests that every mutant meets before the others are collected.
N_FIRST = 8

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
PAIRS = [("min", "max"), ("minimum", "maximum"), ("argmin", "argmax")]
NAMES = dict(PAIRS) | {second: first for first, second in PAIRS}


class Mutant(NamedTuple):
    """A file of the package, a line of it, and its whole text with the fault."""

    path: str
    line: int
    source: str
    mutated: str

    def changed(self):
        """The lines that differ, as in a unified diff."""
        texts = (text.splitlines() for text in (self.source, self.mutated))
        return [line for line in difflib.unified_diff(*texts, n=0, lineterm="")][3:]

    def code(self):
        """The new lines in one, which name the mutant whatever its line number is."""
        return " ".join(line[1:].strip() for line in self.changed() if line.startswith("+"))


# ---------------------------------------------------------------------------
# Faults
# ---------------------------------------------------------------------------


def replaced(node, **fields):
    """A copy of the node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def other_number(value):
    """0 and 1 change places, a whole number grows by one, another one doubles."""
    if value in (0, 1):
        return type(value)(1 - value)
    return value + 1 if isinstance(value, int) else 2 * value


def is_number(node):
    """Whether the node is a number that is no tolerance."""
    number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return number and (node.value == 0 or node.value >= 1e-3)


def faults(node):
    """Nodes to put in place of this one, each with one fault."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op):
            return [replaced(node, op=new()) for new in OPERATORS.get(type(op), [])]
        case ast.Compare(ops=[op]):
            return [replaced(node, ops=[new()]) for new in OPERATORS[type(op)]]
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            return [node.operand]
        case ast.Constant() if is_number(node):
            return [replaced(node, value=other_number(node.value))]
        case ast.Name(id=name) if name in NAMES:
            return [replaced(node, id=NAMES[name])]
        case ast.Attribute(attr=name) if name in NAMES:
            return [replaced(node, attr=NAMES[name])]
        case ast.AugAssign():
            return [ast.Assign([node.target], node.value, lineno=node.lineno)]
    return []


def places(tree):
    """Pairs of a node and what may take its place."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        # Python 3.11 misplaces what stands in an f-string.
        if isinstance(node, ast.JoinedStr):
            continue
        nodes += ast.iter_child_nodes(node)
        yield from ((node, new) for new in faults(node))
        if isinstance(node, ast.If | ast.IfExp):
            yield node.test, ast.UnaryOp(ast.Not(), node.test)


def with_fault(source, node, new):
    """The source with the new node's text in place of the old one's."""
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    stop = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    text = ast.unparse(new)
    compound = isinstance(new, ast.BinOp | ast.BoolOp | ast.Compare | ast.UnaryOp)
    text = f"({text})" if compound else text
    whole = source.encode()
    return (whole[:start] + text.encode() + whole[stop:]).decode()


def mutants_of(path):
    """All mutants of a file, by line."""
    source = (ROOT / path).read_text()
    found = defaultdict(list)
    for node, new in places(ast.parse(source)):
        found[node.lineno].append((source, node, new))
    return found


def drawn(covered, rooms, number, rng):
    """A sample of mutants, one on each of so many covered lines, and the lines to draw from."""
    files = [p for room in rooms for p in sorted((ROOT / "skinfluence" / room).rglob("*.py"))]
    candidates, lines, unreached = {}, [], 0
    for path in (str(file.relative_to(ROOT)) for file in files):
        candidates[path] = mutants_of(path)
        reached = [line for line in sorted(candidates[path]) if line in covered[path]]
        lines += [(path, line) for line in reached]
        unreached += len(candidates[path]) - len(reached)
    print(f"{len(lines)} covered lines can be mutated, {unreached} are not covered")
    sample = rng.sample(lines, min(number, len(lines)))
    for path, line in sample:
        source, node, new = rng.choice(candidates[path][line])
        yield Mutant(path, line, source, with_fault(source, node, new))


# ---------------------------------------------------------------------------
# Copies of the tree
# ---------------------------------------------------------------------------


def copy_tree(folder):
    """Copy what git tracks or would track, and compile it."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), names.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    # By their hash: a fault may change neither the size of a file nor the second of its date.
    by_hash = ["--invalidation-mode", "checked-hash"]
    compiling = [sys.executable, "-m", "compileall", "-q", *by_hash, "skinfluence"]
    subprocess.run(compiling, cwd=folder, check=True)


@contextmanager
def copies(number):
    """A queue of copies of the tree."""
    trees = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        for job in range(number):
            tree = Path(folder) / str(job)
            copy_tree(tree)
            trees.put(tree)
        yield trees


def environment(tree):
    """Variables for the tests of a copy."""
    return os.environ | ENVIRONMENT | {"PYTHONPATH": str(tree)}


# ---------------------------------------------------------------------------
# Tests of a line
# ---------------------------------------------------------------------------


def digest(files):
    """Hash of the contents of files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def measured(test_file, shared, trees):
    """Coverage by test function, and the tests' times: files that are made if they are missing."""
    stem = CACHE / f"{test_file.stem}-{shared}-{digest([test_file])}"
    data, times = stem.with_suffix(".coverage"), stem.with_suffix(".xml")
    if times.exists():
        return data, times
    settings = CACHE / "coveragerc"
    settings.write_text(
        "[run]\ndynamic_context = test_function\nrelative_files = true\ninclude = skinfluence/*\n"
    )
    measure = ["-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={data}"]
    command = [sys.executable, *measure, *PYTEST[1:], f"--junitxml={times}.new"]
    tree = trees.get()
    done = subprocess.run(
        [*command, f"tests/{test_file.name}"],
        cwd=tree,
        env=environment(tree),
        capture_output=True,
        text=True,
    )
    trees.put(tree)
    if done.returncode not in (0, 5):
        raise SystemExit(f"The tests must pass before they can judge mutants.\n{done.stdout}")
    os.replace(f"{times}.new", times)
    return data, times


def test_id(file, function):
    """Name of a test for pytest, from its name with dots."""
    return "::".join([f"tests/{file.name}", *function.split(f"{file.stem}.")[-1].split(".")])


def tests_by_line(trees, jobs):
    """For every file of the package and covered line, the tests that run it; and tests' times."""
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    helpers = [ROOT / "conftest.py", ROOT / "tests" / "conftest.py", ROOT / "tests" / "helpers.py"]
    shared = digest(sorted((ROOT / "skinfluence").rglob("*.py")) + helpers)
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda file: measured(file, shared, trees), tests))
    seconds, covered = Counter(), defaultdict(lambda: defaultdict(set))
    for file, (data_file, times) in zip(tests, runs, strict=True):
        for case in ElementTree.parse(times).iter("testcase"):
            function = f"{case.get('classname')}.{case.get('name').split('[')[0]}"
            seconds[test_id(file, function)] += float(case.get("time"))
        if not data_file.exists():
            continue
        data = CoverageData(str(data_file))
        data.read()
        for path in data.measured_files():
            for line, contexts in data.contexts_by_lineno(path).items():
                ids = {test_id(file, context) for context in contexts}
                covered[path][line] |= ids & seconds.keys()
    return covered, seconds


def tests_of(mutant, covered, seconds):
    """The tests that can notice the fault, the fastest first."""
    tests = covered[mutant.path][mutant.line]
    if not tests:
        path = Path(mutant.path)
        together = [path] if path.stem != "__init__" else map(Path, covered)
        near = [covered[str(p)] for p in together if p.is_relative_to(path.parent)]
        tests = {test for test in seconds if test.startswith(READERS)}
        tests = tests.union(*(ids for lines in near for ids in lines.values()))
    return sorted(tests, key=lambda test: (seconds[test], test))


# ---------------------------------------------------------------------------
# Verdicts
# ---------------------------------------------------------------------------


def run_pytest(tree, tests, log):
    """Run tests in a copy of the tree, in a process of its own, which ends with this."""
    os.setsid()
    os.chdir(tree)
    os.environ.update(environment(tree))
    sys.path.insert(0, str(tree))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 3
    try:
        status = int(pytest.main([*PYTEST[3:], "-x", "--tb=line", *tests]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def status_of(child, timeout):
    """Exit status of a process, None where it had to be stopped."""
    stop = time.monotonic() + timeout
    while time.monotonic() < stop:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_tests(tree, tests, timeout):
    """Outcome of the tests in a tree: killed, survived or timeout; and what failed first."""
    log = tree / "output.txt"
    child = os.fork()
    if child == 0:
        run_pytest(tree, tests, log)
    status = status_of(child, timeout)
    if status is None:
        return "timeout", ""
    return ("killed", first_failure(log)) if status else ("survived", "")


def first_failure(log):
    """The test that failed; an error where none did, as nothing then speaks of the fault."""
    for line in log.read_text().splitlines():
        if line.startswith(("FAILED ", "ERROR tests/")):
            return line.split()[1]
        if line.startswith("ImportError while loading conftest"):
            return "(import)"
    raise RuntimeError(f"The tests ended without a verdict:\n{log.read_text()}")


def verdict(mutant, tests, tree, timeout):
    """Outcome of a mutant, and the test that killed it."""
    file = tree / mutant.path
    file.write_text(mutant.mutated)
    try:
        # Most die at once, and the few first tests are in few files.
        outcome = run_tests(tree, tests[:N_FIRST], timeout)
        if outcome[0] == "survived" and tests[N_FIRST:]:
            outcome = run_tests(tree, tests[N_FIRST:], timeout)
    finally:
        file.write_text(mutant.source)
    return outcome


def known_equivalent():
    """Pairs of a file and the code of a mutant that no test can notice."""
    lines = EQUIVALENT.read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return {(path.strip(), code.strip()) for path, code, _ in rows}


def judged(mutants, covered, seconds, trees, arguments):
    """Outcome and killer of every mutant, in order, printed as they come."""
    equivalent = known_equivalent()

    def judge(mutant):
        if (mutant.path, mutant.code()) in equivalent:
            outcome, by = "equivalent", ""
        else:
            tree = trees.get()
            tests = tests_of(mutant, covered, seconds)
            outcome, by = verdict(mutant, tests, tree, arguments.timeout)
            trees.put(tree)
        print(f"{outcome:<11}{mutant.path}:{mutant.line}  {mutant.code()}  {by}", flush=True)
        return outcome, by

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return list(pool.map(judge, mutants))


def check_killers(killers, trees, timeout):
    """Stop where a test that killed fails without any fault too."""
    tests = sorted({killer.split("[")[0] for killer in killers if "::" in killer})
    tree = trees.get()
    outcome, by = run_tests(tree, tests, 10 * timeout)
    trees.put(tree)
    if outcome != "survived":
        raise SystemExit(f"The kills mean nothing: {by} fails without a fault too ({outcome}).")


def report(mutants, outcomes):
    """Lines of the table by room, and the diffs of what is still alive."""
    counts = defaultdict(Counter)
    for mutant, outcome in zip(mutants, outcomes, strict=True):
        counts[mutant.path.split("/")[1]][outcome] += 1
        counts["all"][outcome] += 1
    columns = ["killed", "survived", "timeout", "equivalent"]
    yield f"{'room':<12}" + "".join(f"{name:>12}" for name in [*columns, "rate"])
    for room in sorted(counts, key=lambda room: (room == "all", room)):
        judged_here = counts[room].total() - counts[room]["equivalent"]
        rate = counts[room]["killed"] / max(1, judged_here)
        yield f"{room:<12}" + "".join(f"{counts[room][c]:>12}" for c in columns) + f"{rate:>12.1%}"
    for mutant, outcome in zip(mutants, outcomes, strict=True):
        if outcome in ("survived", "timeout"):
            yield f"\n{outcome}: {mutant.path}:{mutant.line}"
            yield from mutant.changed()


def parsed_arguments():
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=40, help="mutants to draw")
    parser.add_argument("--rooms", nargs="+", default=ROOMS, help="folders of the package")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one mutant")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    return parser.parse_args()


def main():
    """Draw mutants, run their tests, and write the table."""
    arguments = parsed_arguments()
    for module in PRELOADED:
        importlib.import_module(module)
    CACHE.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)
    with copies(arguments.jobs) as trees:
        covered, seconds = tests_by_line(trees, arguments.jobs)
        mutants = list(drawn(covered, arguments.rooms, arguments.number, rng))
        verdicts = judged(mutants, covered, seconds, trees, arguments)
        check_killers([by for _, by in verdicts], trees, arguments.timeout)
    lines = "\n".join(report(mutants, [outcome for outcome, _ in verdicts]))
    print(f"\n{lines}")
    (CACHE / f"report-seed{arguments.seed}.txt").write_text(lines + "\n")


if __name__ == "__main__":
    main()
