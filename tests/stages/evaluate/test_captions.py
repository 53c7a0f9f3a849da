from __future__ import annotations

from typing import Any

from sgcl_cli.stages.evaluate.captions import Caption, captions


def rows(**columns: list[Any]) -> list[dict[str, str]]:
    """A row a slide of the model in question, and one of another model, which must not count."""
    given = [dict(zip(columns, map(str, values), strict=True)) for values in zip(*columns.values(), strict=True)]
    mine = [{"slide_id": f"s{number}", "model": "abmil", **row} for number, row in enumerate(given)]
    return [*mine, {**mine[0], "slide_id": "s0", "model": "other", **dict.fromkeys(columns, "9")}]


def test_classes_are_grouped_by_truth() -> None:
    found = captions(
        {"task": "binary", "attention_model": "abmil"}, rows(label=["a", "b"], p_a=[0.75, 0.6], p_b=[0.25, 0.4])
    )
    assert found == {
        "s0": Caption("a slides", 0.75, "a, to which the model gives a probability of 75\u00a0%"),
        "s1": Caption("b slides", 0.4, "b, to which the model gives a probability of 40\u00a0%"),
    }


def test_numbers_are_grouped_by_what_is_predicted() -> None:
    found = captions({"task": "regression", "attention_model": "abmil"}, rows(label=[1, 2, 30], predicted=[10, 12, 17]))
    assert found["s0"] == Caption("slides of low predicted values", 2, "measured 1, predicted 10")
    assert found["s2"] == Caption("slides of high predicted values", 5, "measured 30, predicted 17")


def test_risks_are_compared_within_their_fold() -> None:
    found = captions(
        {"task": "survival", "attention_model": "abmil"},
        rows(fold=[1, 1, 2, 2], risk=[1, 3, 10, 20], time=[5, 6, 7.25, 8], event=[1, 0, 0, 1]),
    )
    assert found["s1"] == Caption("slides of high predicted risk", 1, "high predicted risk, censored at 6")
    assert found["s2"] == Caption("slides of low predicted risk", 5, "low predicted risk, censored at 7.25")
    assert found["s3"].text == "high predicted risk, event at 8"
