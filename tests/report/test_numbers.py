from __future__ import annotations

from sgcl_cli.report.numbers import with_interval


def test_a_score_has_three_decimals_and_its_interval() -> None:
    assert with_interval(0.9123, 0.8699, 1) == "0.912 (0.870 to 1.000)"
    assert with_interval(0.5, 0.25, 0.75, form="{}\n{} to {}") == "0.500\n0.250 to 0.750"


def test_differences_have_signs() -> None:
    assert with_interval(0.01, -0.02, 0.04, sign="+") == "+0.010 (-0.020 to +0.040)"
    assert with_interval(-0.5, None, None, sign="+") == "-0.500"


def test_without_an_interval_the_value_is_shown() -> None:
    assert with_interval(0.5, None, None) == "0.500"
