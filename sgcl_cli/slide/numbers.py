"""Numbers in tables, written with a decimal point or a decimal comma."""

from __future__ import annotations

import math
import re

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def decimal(text: str, thousands: bool = True) -> float:
    """The number that a text holds; NaN if it holds none.

    :param thousands: whether commas may separate thousands; then ``20,000`` is ambiguous and NaN.
    """
    if thousands and _THOUSANDS.fullmatch(text.strip()):
        return math.nan
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan
