"""Draw the picture of the ten lines in README.md: what they show when they are run.

    python scripts/readme_picture.py

writes ``docs/ten_lines.png``. The lengths of the bars are stored in the file too, so that a test
compares them with those of a run.
"""

import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "ten_lines.png"


def ten_lines():
    """The code that README.md begins with."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)


def drawn():
    """The figure that the ten lines draw."""
    plt.close("all")
    exec(compile(ten_lines(), "README.md", "exec"), {})
    return plt.gcf()


def lengths(figure):
    """Lengths of the bars of a figure, to four digits."""
    return [float(f"{bar.get_width():.4g}") for bar in figure.axes[0].patches]


if __name__ == "__main__":
    figure = drawn()
    figure.savefig(PICTURE, dpi=110, metadata={"Description": json.dumps(lengths(figure))})
