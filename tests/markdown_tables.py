"""Tables of Markdown files, as dictionaries."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EVIDENCE = "\n".join(
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("evidence.md", "papers.md")
)

NUMBER = r"-?\d+(?:\.\d+)?"


def results(name):
    """Text of a file that a benchmark wrote."""
    return (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8")


def section(text, heading):
    """What stands below the heading of the second level that begins with some words."""
    (found,) = [part for part in re.split(r"^## ", text, flags=re.M) if part.startswith(heading)]
    return found


def tables(text):
    """All tables, each a list of rows from column to cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        head, rule, *rows = [_cells(line) for line in block.splitlines()]
        assert all(set(cell) <= set("-: ") for cell in rule), block
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def table(text, *columns):
    """The only table whose first columns are these."""
    fitting = [rows for rows in tables(text) if list(rows[0])[: len(columns)] == list(columns)]
    assert len(fitting) == 1, f"{len(fitting)} tables begin with {columns}"
    return fitting[0]


def row(rows, /, **cells):
    """The only row with these cells, columns named by their first words."""
    fitting = [each for each in rows if all(column(each, c) == v for c, v in cells.items())]
    assert len(fitting) == 1, f"{len(fitting)} rows have {cells}"
    return fitting[0]


def column(cells, name):
    """The cell of the column of this name, or of the first that begins with it."""
    return cells[name] if name in cells else next(cells[c] for c in cells if c.startswith(name))


def numbers(text):
    """All numbers of a text, as they are written."""
    return re.findall(NUMBER, text.replace(",", " "))


def agree(shown, measured):
    """Whether numbers are the measured ones, rounded to the decimals that are shown."""
    assert len(shown) == len(measured), f"{shown} for {measured}"
    for own, other in zip(shown, measured, strict=True):
        decimals = len(own.partition(".")[2])
        # A figure that was rounded before may lie half-way.
        assert abs(float(own) - float(other)) <= 0.501 * 10**-decimals, f"{shown} for {measured}"


def _cells(line):
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]
