"""compare.html: order of metrics and pairs, significance in the forest plot, and cells of the tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.scores.comparison import Difference
from sgcl_cli.report import forest
from sgcl_cli.report.drawing import DrawnFigure
from sgcl_cli.report.forest import ForestRow
from sgcl_cli.stages.evaluate import compare_page
from sgcl_cli.stages.evaluate.compare_page import Compared


def difference(
    value: float | None, p: float | None, pair: str = "ab", metric: str = "auroc", **changes: Any
) -> Difference:
    ends = (None, None) if p is None or value is None else (value - 0.1, value + 0.1)
    return Difference(pair[0], pair[1], metric, value, *ends, p, p, **changes)


def compared(found: dict[str, list[Difference]], names: str = "ab") -> Compared:
    counts = {"slides": 48, "patients": 24, "folds": 3}
    opened = [SimpleNamespace(id=f"id of {name}", splits_id="s" * 64, result={"counts": counts}) for name in names]
    return Compared(
        config=EvaluateConfig(compare=tuple(names), out="out", bootstrap=200),
        names=tuple(names),
        opened=opened,  # type: ignore[arg-type]
        titles={"linear": "Linear <b>", "knn": "kNN"},
        found=found,
        metric="auroc",
        answers=["By AUROC, a is better than b."],
        warnings=["b: a warning"],
    )


TWO = {
    "linear": [difference(0.2, 0.001, metric="macro_f1"), difference(0.3, 0.01)],
    "knn": [difference(-0.1, None, metric="macro_f1", reason="8 patients"), difference(None, None, reason="one class")],
}
THREE = {
    "linear": [difference(0.3, 0.01), difference(0.1, 0.2, "ac"), difference(-0.2, 0.04, "bc")],
    "knn": [difference(0.0, 0.9), difference(0.1, None, "ac", reason="8 patients"), difference(-0.3, 0.001, "bc")],
}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[ForestRow], str]]:
    """What is drawn, as the arguments of the forest plot."""
    seen: list[tuple[str, list[ForestRow], str]] = []

    def draw(title: str, drawn: list[ForestRow], axis: str) -> DrawnFigure:
        seen.append((title, drawn, axis))
        return DrawnFigure(b"png", b"svg")

    monkeypatch.setattr(forest, "forest", draw)
    return seen


def test_the_metric_of_the_answers_comes_first_and_pairs_stay_together() -> None:
    assert compared(TWO).metrics == ["auroc", "macro_f1"]
    of_three = [(model, one.first + one.second) for model, one in compared(THREE, "abc").of("auroc")]
    assert of_three == [(model, pair) for model in ("Linear <b>", "kNN") for pair in ("ab", "ac", "bc")]


def test_the_forest_has_defined_differences_and_marks_significant_ones(rows: list[Any]) -> None:
    drawn = compare_page.pictures(compared(THREE, "abc"))
    (title, found, axis) = rows[0]
    assert (title, axis) == ("AUROC", "first minus second")
    assert [(row.name, row.significant) for row in found] == [
        ("Linear <b>: a - b", True),
        ("Linear <b>: a - c", False),
        ("Linear <b>: b - c", True),
        ("kNN: a - b", False),
        ("kNN: a - c", False),
        ("kNN: b - c", True),
    ]
    assert (found[0].value, found[0].low, found[0].high) == (0.3, pytest.approx(0.2), pytest.approx(0.4))
    assert found[4].low is None and "first minus second, with their 95 % intervals" in drawn["forest"].caption


def test_two_results_are_named_on_the_axis_and_undefined_differences_left_out(rows: list[Any]) -> None:
    assert set(compare_page.pictures(compared(TWO))) == {"forest"}
    assert [row.name for row in rows[0][1]] == ["Linear <b>"] and rows[0][2] == "a minus b"
    assert compare_page.pictures(compared({"knn": [difference(None, None, reason="one class")]})) == {}
    assert len(rows) == 1


def test_tables_have_the_difference_or_the_reason() -> None:
    table = compare_page._table(compared(TWO), "auroc")
    assert table.columns == ["Model", "Difference", "p", "p after Holm"] and table.narrow
    assert table.rows == [
        ["Linear <b>", "+0.300 (+0.200 to +0.400)", "0.01", "0.01"],
        ["kNN", "undefined: one class", "–", "–"],
    ]
    assert table.note == "AUROC, a minus b."
    second = compare_page._table(compared(TWO), "macro_f1")
    assert second.rows[1][1] == "-0.100, no interval: 8 patients" and second.rows[0][2] == "< 1/201"
    errors = {"linear": [difference(0.2, 0.01, metric="mae")]}
    assert compare_page._table(compared(errors, "abc"), "mae").note.endswith("first minus second. Less is better.")


@pytest.mark.parametrize(
    ("names", "found", "title"), [("ab", TWO, "Is a better than b?"), ("abc", THREE, "Which is better: a, b, c?")]
)
def test_the_page_has_title_answer_counts_and_escaped_names(
    names: str, found: dict[str, list[Difference]], title: str
) -> None:
    one = compared(found, names)
    page = compare_page.rendered(one, {"metric": "auroc"}, {})
    assert title in page and "By AUROC, a is better than b." in page and "b: a warning" in page
    for fact in (f"{len(names)} results", "48 slides", "24 patients", "3 folds", "s" * 64 + ", equal in all"):
        assert fact in page
    assert "Linear &lt;b&gt;" in page and "Linear <b>" not in page
    assert "200 times" in page and "is below 0.05" in page
