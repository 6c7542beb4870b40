"""Tables in Markdown."""


def table(columns, rows):
    """A table of rows of cells, as text.

    >>> print(table(["name", "size"], [["a", "1"]]), end="")
    | name | size |
    |---|---|
    | a | 1 |
    """
    head = [_line(columns), "|---" * len(columns) + "|\n"]
    return "".join([*head, *map(_line, rows)])


def _line(cells):
    return f"| {' | '.join(cells)} |\n"
