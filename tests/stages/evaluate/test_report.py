"""The page of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.progress import Silent
from sgcl_cli.stages.evaluate import evaluate
from tests.stages.evaluate.made import FAST, bag, rows_of, run, table_of, write_slide, write_table

pytestmark = pytest.mark.usefixtures("quick")


def test_warnings_are_reported_and_stand_in_the_report(slides: Path, tmp_path: Path) -> None:
    rows = table_of(36)
    table = write_table(tmp_path / "labels.csv", [*rows, rows[0]])
    reporter = Silent()
    evaluate(EvaluateConfig(features=str(slides), labels=str(table), out=str(tmp_path / "out"), **FAST), reporter)
    page = (tmp_path / "out/report.html").read_text()
    for warning in ("4 slides with features have no label", "1 repeated rows were merged"):
        assert any(warning in text for text in reporter.warnings)
        assert warning in page


def test_names_that_look_like_code_are_shown_as_text(tmp_path: Path) -> None:
    evil = "[red]<script>alert(1)<"
    rows = []
    for number in range(8):
        name = evil if number == 3 else f"s{number}"
        label = ("=cmd()", "<b>$x$")[number % 2]
        write_slide(tmp_path / "features", name, bag(name, number % 2, least=3))
        rows.append({"slide_id": name, "label": label})
    table = write_table(tmp_path / "labels.csv", rows)
    run(tmp_path / "out", features=str(tmp_path / "features"), labels=str(table), folds=4)
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert (tmp_path / f"out/attention/{evil}.csv").exists()
    predictions = rows_of(tmp_path / "out/predictions.csv")
    assert {row["label"] for row in predictions} == {"'=cmd()", "<b>$x$"}


def test_the_report_names_the_command(slides: Path, labels: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(features="my features", labels="l.csv", out="o", folds=3, allow_missing=True, threads=1)
    assert config.command_line() == "sgcl evaluate 'my features' --out o --labels l.csv --allow-missing --folds 3"
