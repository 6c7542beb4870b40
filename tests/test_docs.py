"""The pages of the site: their code runs, and they name everything that is public."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.chromium import seen_on

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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site, without running its examples."""
    for name in ("sphinx", "numpydoc", "myst_parser", "sphinx_gallery", "pydata_sphinx_theme"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site") / "html"
    # In a process of its own, because the rule that a warning is an error is for our code: here
    # it would end the build at a deprecation inside Sphinx.
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    run = subprocess.run(
        [*command, "-D", "plot_gallery=0", str(DOCS), str(folder)],
        env=os.environ | {"PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    assert (site / "start.html").exists()


@pytest.mark.slow
def test_pages_show_in_a_browser_without_a_fault(site):
    folders = (site, site / "guide", site / "results", site / "auto_examples")
    pages = [page for folder in folders for page in sorted(folder.glob("*.html"))]
    pictures, faults = seen_on(pages, site.parent)
    assert faults == []
    assert pictures == [page.read_text(encoding="utf-8").count("<img ") for page in pages]
    assert pictures[pages.index(site / "evidence.html")] > 0


def test_a_browser_finds_what_is_wrong_with_a_page(tmp_path):
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    (tmp_path / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="3"/>')
    (tmp_path / "text.png").write_text("not a picture")
    good.write_text('<img src="dot.svg">')
    bad.write_text(
        '<link rel="stylesheet" href="lost.css"><script src="lost.js"></script>'
        '<img src="lost.png"><img src="text.png"><img src="dot.svg"><script>lost()</script>'
    )
    assert seen_on([good], tmp_path) == ([1], [])
    pictures, faults = seen_on([good, bad], tmp_path)
    assert pictures == [1, 3]
    assert "lost is not defined" in faults[0]
    lost = [fault.rpartition("/")[2] for fault in faults[1:]]
    assert lost == ["lost.png", "text.png", "lost.css", "lost.js"]


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
