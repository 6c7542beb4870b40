"""The pages of the site: their code runs, and they name everything that is public."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
MODULES = ["", ".models.torch", ".inspection", ".diagnostics", ".metrics", ".sketching"]
MODULES.append(".exceptions")


def code_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda page: page.stem
)
def test_code_of_a_page_runs_from_top_to_bottom(page):
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("pandas")
    namespace = {"__name__": "page"}
    exec(compile("\n".join(code_of(page)), str(page), "exec"), namespace)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module):
    if module == ".models.torch":
        pytest.importorskip("torch")
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    sections = text.split(".. currentmodule:: ")[1:]
    listed = {
        name
        for section in sections
        if section.split("\n")[0] == f"skinfluence{module}"
        for name in re.findall(r"^   (\w+)$", section, flags=re.MULTILINE)
    }
    assert listed == set(import_module(f"skinfluence{module}").__all__) - {"SKETCHES"}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            # The site has a copy of the tables that benchmarks write.
            written = target.startswith("results/")
            place = DOCS.parent / "benchmarks" if written else page.parent
            assert (place / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    sphinx = pytest.importorskip("sphinx.cmd.build")
    for name in ("numpydoc", "myst_parser", "sphinx_gallery", "pydata_sphinx_theme"):
        pytest.importorskip(name)
    arguments = ["-W", "--keep-going", "-q", "-b", "html", "-D", "plot_gallery=0"]
    assert sphinx.main([*arguments, str(DOCS), str(tmp_path)]) == 0
    assert (tmp_path / "start.html").exists()


EXAMPLES = sorted((DOCS.parent / "examples").glob("plot_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_takes_less_than_a_minute(example, tmp_path):
    if "torch" in example.read_text(encoding="utf-8"):
        pytest.importorskip("torch")
    before = children_seconds()
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(DOCS.parent)}
    run = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert children_seconds() - before < 60


def children_seconds():
    """CPU seconds of the processes that this one has started."""
    times = os.times()
    return times.children_user + times.children_system
