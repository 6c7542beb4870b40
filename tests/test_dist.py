"""What is promised about versions and what is packed: read from the files that say so."""

import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = re.compile(r"^([A-Za-z][\w-]*)(?:\[.*\])?>=([\d.]+)$", flags=re.MULTILINE)


@pytest.fixture
def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def floors(text):
    return dict(FLOOR.findall(text))


def release(version):
    return tuple(int(part) for part in version.split("."))


def test_the_oldest_versions_that_are_tested_are_the_floors(settings):
    pinned = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", pinned, flags=re.MULTILINE))
    wanted = floors(settings["options"]["install_requires"])
    assert len(wanted) >= 4
    for extra in ("torch", "plot", "imblearn", "diagnostics"):
        wanted |= floors(settings["options.extras_require"][extra])
    for name, floor in wanted.items():
        assert release(pinned[name])[: len(release(floor))] == release(floor), name


def test_supported_versions_are_at_least_those_of_spec_0(settings):
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|", page, flags=re.MULTILINE)
    promised = {name.lower(): (asked, supported) for name, asked, supported in rows}
    floor = floors(settings["options"]["install_requires"])
    floor |= floors(settings["options.extras_require"]["plot"])
    floor |= floors(settings["options.extras_require"]["diagnostics"])
    floor["python"] = settings["options"]["python_requires"].removeprefix(">=")
    assert {"python", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib"} <= set(promised)
    for name, (asked, supported) in promised.items():
        assert supported == floor[name], name
        assert release(supported) <= release(asked), name


def test_what_other_projects_look_for_is_there():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert citation.count("type: article") == 2 and "arXiv:2602.10449" in citation
    assert "trusted_types()" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    # A folder of its own: the build writes beside the sources.
    copy = "shutil.copytree(source, target, ignore=shutil.ignore_patterns('.*', 'build', 'dist'))"
    code = f"import shutil, sys; source, target = sys.argv[1:]; {copy}"
    subprocess.run([sys.executable, "-c", code, str(ROOT), str(tmp_path / "copy")], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(tmp_path / "copy")], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "skinfluence").rglob("*")
        if path.suffix in (".py", ".j2", ".css")
    }
    assert packed == sources
