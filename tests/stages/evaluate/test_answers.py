from __future__ import annotations

import pytest

from sgcl_cli.probe.scores.comparison import Difference
from sgcl_cli.stages.evaluate.answers import answers, differs, holm_text, matrix, p_text

TITLES = {"linear": "Linear", "knn": "kNN", "abmil": "ABMIL"}


def difference(value: float | None, adjusted: float | None, reason: str = "", metric: str = "auroc") -> Difference:
    low, high = (None, None) if value is None or adjusted is None else (value - 0.1, value + 0.1)
    return Difference("x", "y", metric, value, low, high, adjusted and adjusted / 2, adjusted, reason)


def said(**found: Difference) -> list[str]:
    return answers({key: [one] for key, one in found.items()}, TITLES, "auroc", 0.05)


def test_a_difference_is_told_below_alpha_only() -> None:
    assert [differs(difference(0.1, p), 0.05) for p in (0.049, 0.05, None)] == [True, False, False]


def test_the_better_result_is_named_with_its_models() -> None:
    assert said(linear=difference(0.2, 0.01), knn=difference(-0.2, 0.01), abmil=difference(0.1, 0.5)) == [
        "By AUROC, x is better than y with “Linear”; y is better than x with “kNN”; the difference is not significant with "
        "“ABMIL”."
    ]


def test_all_models_alike_are_every_model() -> None:
    assert said(linear=difference(0.2, 0.6), knn=difference(0.1, 0.5)) == [
        "By AUROC, the difference between x and y is not significant with any model."
    ]


def test_a_missing_interval_has_its_reason() -> None:
    assert said(linear=difference(None, None, "one class"), knn=difference(0.1, None, "one class")) == [
        "By AUROC, the difference has no interval with any model (one class)."
    ]


def test_other_metrics_do_not_answer() -> None:
    assert said(linear=difference(0.2, 0.01, metric="mae")) == []


def test_p_is_a_bound_where_resamples_can_tell_no_less() -> None:
    least = Difference("x", "y", "auroc", 0.1, 0.0, 0.2, 1 / 2001, 3 / 2001)
    assert (p_text(least, 2000), holm_text(least, 2000)) == ("< 1/2001", "< 0.0015")
    other = Difference("x", "y", "auroc", 0.1, 0.0, 0.2, 0.0123, 0.0369)
    assert (p_text(other, 2000), holm_text(other, 2000)) == ("0.012", "0.037")
    none = difference(None, None)
    assert (p_text(none, 2000), holm_text(none, 2000)) == ("–", "–")


@pytest.mark.parametrize("value", [None, 0.25])
def test_the_matrix_leads_to_the_reasons(value: float | None) -> None:
    known, unknown = difference(0.2, 0.01), difference(value, None, "too few")
    found = matrix({"linear": [known, difference(0.1, 0.2, metric="accuracy")], "knn": [unknown]}, TITLES, 2000)
    shown = "undefined [1]" if value is None else "+0.250 [1]"
    assert [*found.columns] == ["AUROC"]
    assert [*found.rows] == [("Linear\nx - y", ["+0.200\n+0.100 to +0.300\nHolm p 0.01"]), ("kNN\nx - y", [shown])]
    assert found.notes == ["[1] no interval: too few"]
