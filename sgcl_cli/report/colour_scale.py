"""Scales of colours from blue by a pale middle to red."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ColourScale:
    """A scale of colours: blue at ``low``, pale at ``middle``, red at ``high``.

    :ivar labels: what is written at its low end, middle and high end. :ivar meaning: what the numbers are, in ASCII.
    """

    low: float
    middle: float
    high: float
    labels: tuple[str, str, str]
    meaning: str
