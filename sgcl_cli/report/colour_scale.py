"""Scales of colours: diverging from blue through a pale middle to red, and sequential from violet to yellow (viridis)."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray

_VIRIDIS_STEPS = 256


@dataclass(frozen=True)
class ColourScale:
    """A diverging scale: blue at ``low``, pale at ``middle``, red at ``high``.

    :ivar labels: the text at its low end, middle and high end.
    :ivar meaning: what the numbers are, in ASCII.
    """

    low: float
    middle: float
    high: float
    labels: tuple[str, str, str]
    meaning: str


def viridis(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGB (..., 3) of shares in [0, 1], 0 violet and 1 yellow; values outside have the colour of the nearer end.

    Viridis (Smith and van der Walt, 2015) is perceptually uniform, and its lightness grows steadily, so that it is read alike
    in grey and with any kind of colour blindness: https://bids.github.io/colormap/
    """
    table = matplotlib.colormaps["viridis"](np.arange(_VIRIDIS_STEPS), bytes=True)[:, :3]
    rows = np.rint(np.clip(shares, 0, 1) * (_VIRIDIS_STEPS - 1)).astype(int)
    colours: NDArray[np.uint8] = table[rows]
    return colours
