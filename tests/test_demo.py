"""The demo: what it leaves behind."""

import pytest
from sklearn.datasets import load_breast_cancer

for name in ("matplotlib", "jinja2", "pandas"):
    pytest.importorskip(name)


def test_the_demo_writes_a_report_and_its_tables(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    from scripts import demo

    # A table that needs no installation takes the place of the e-mails.
    monkeypatch.setattr("scripts.demo.load_spambase", lambda: load_breast_cancer(return_X_y=True))
    monkeypatch.setattr("scripts.demo.FOLDER", tmp_path / "demo")
    demo.main()
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    expected = {"harmful_rows.csv", "label_errors.png", "report.html", "report.csv"}
    assert written == expected
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Influence report of LogisticRegression" in page
    n_rows = len((tmp_path / "demo" / "harmful_rows.csv").read_text().splitlines()) - 1
    assert len((tmp_path / "demo" / "report.csv").read_text().splitlines()) - 1 == n_rows
    told = capsys.readouterr().out
    assert "SKI006 Suspected labels: issue" in told and "demo/report.html" in told
