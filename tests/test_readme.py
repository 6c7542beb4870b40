"""What the README says: its code runs, its picture and its figures are those of the benchmarks."""

import json

import pytest

from tests.markdown_tables import README, ROOT, agree, numbers, results, row, table, tables


def test_the_ten_lines_draw_the_picture():
    pytest.importorskip("matplotlib").use("Agg")
    image = pytest.importorskip("PIL.Image")
    from scripts.readme_picture import PICTURE, drawn, lengths, ten_lines

    assert len([line for line in ten_lines().splitlines() if line.strip()]) == 10
    stored = json.loads(image.open(PICTURE).text["Description"])
    assert lengths(drawn()) == pytest.approx(stored, rel=2e-3)
    assert len(stored) == 10
    assert str(PICTURE.relative_to(ROOT)) in README


def test_it_takes_two_screens():
    assert len(README.splitlines()) <= 120


def test_effects_of_leaving_out_are_those_that_were_measured():
    measured = table(results("exact.md"), "data and model", "rows", "influence")
    shown = table(README, "model, rows")
    assert len(shown) > 5
    for cells in shown:
        name, rows = cells["model, rows"].rsplit(", ", 1)
        found = row(measured, **{"data and model": name, "rows": rows})
        agree(numbers(cells["influence alone"]), numbers(found["influence"]))
        agree(numbers(cells["`leave_one_out_effect`"]), numbers(found["leave_one_out_effect"]))


def test_times_are_those_that_were_measured():
    measured = table(results("leave_one_out.md"), "model", "data", "n x columns")
    shown = table(README, "model, data")
    assert len(shown) > 5
    for cells in shown:
        model, data = cells["model, data"].split(", ")
        found = row(measured, model=model, data=data)
        own = [cells[name] for name in list(cells)[1:]]
        names = ("n x columns", "s", "refits, s", "times faster", "largest error")
        assert own == [found[name] for name in names]


def test_every_table_with_figures_is_compared():
    with_figures = [rows for rows in tables(README) if any("0." in str(cells) for cells in rows)]
    assert len(with_figures) == 2
