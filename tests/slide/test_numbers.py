from __future__ import annotations

import math

import pytest

from sgcl_cli.slide.numbers import decimal


@pytest.mark.parametrize(
    ("text", "value"), [("0.25", 0.25), ("0,25", 0.25), ("0,253", 0.253), (" 20000 ", 2e4), ("-1234,5", -1234.5)]
)
def test_decimal_points_and_commas(text, value):
    assert decimal(text) == value


@pytest.mark.parametrize("text", ["20,000", "1,234,567", "-1,000", "1,2,3", "0.25 um", "", "x"])
def test_what_is_ambiguous_or_no_number_is_nan(text):
    assert math.isnan(decimal(text))


def test_a_comma_that_separates_no_thousands_is_decimal():
    assert decimal("20,125", thousands=False) == 20.125
