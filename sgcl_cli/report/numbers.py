"""Numbers as text, for pages, tables and the terminal."""

from __future__ import annotations


def with_interval(
    value: float, low: float | None, high: float | None, *, sign: str = "", form: str = "{} ({} to {})"
) -> str:
    """A score with its interval, three decimals each: ``0.912 (0.870 to 0.950)``; without an interval ``0.912``.

    :param sign: "+" to show the sign of positive numbers, as in differences.
    :param form: the format of value, low and high.
    """
    if low is None or high is None:
        return f"{value:{sign}.3f}"
    return form.format(*(f"{number:{sign}.3f}" for number in (value, low, high)))
