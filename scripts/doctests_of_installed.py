"""Run the doctests of the installed package, away from its sources.

`make dist` runs this in an environment that has nothing but the wheel and what it needs. Models of
torch, and examples of modules of torch, are left out where it is not installed.
"""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

OPTIONS = [
    *("-q", "-p", "no:cacheprovider", "--doctest-modules", "--import-mode=importlib"),
    *("-o", "doctest_optionflags=NORMALIZE_WHITESPACE NUMBER"),
]


def torch_only(package):
    """Files and folders whose doctests need torch."""
    files = package.rglob("*.py")
    return [
        package / "models" / "torch",
        *(p for p in files if ">>> import torch" in p.read_text()),
    ]


def main():
    # Another folder: the sources beside this script would be imported in place of the wheel.
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, "-c", "import skinfluence; print(skinfluence.__file__)"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        package = Path(found.stdout.strip()).parent
        if Path(sys.prefix) not in package.parents:
            sys.exit(f"{package} is not what is installed in {sys.prefix}.")
        left_out = [] if find_spec("torch") else [f"--ignore={p}" for p in torch_only(package)]
        command = [sys.executable, "-m", "pytest", *OPTIONS, *left_out, str(package)]
        sys.exit(subprocess.run(command, cwd=folder).returncode)


if __name__ == "__main__":
    main()
