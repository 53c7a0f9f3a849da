"""How far a patch is blurred, measured on its own pixels while it is encoded.

White noise smoothed by a Gaussian of standard deviation sigma has the autocorrelation r(k) = exp(-k^2 / (4 sigma^2)) at a lag of
k pixels, so the mean squared differences D over one and two pixels have the ratio

    D2 / D1 = (1 - x^4) / (1 - x) = 1 + x + x^2 + x^3,    x = exp(-1 / (4 sigma^2)),

from 1 for noise to 4 for a ramp. The sigma that a patch's ratio has is its blur, whatever the strength of the stain: about one
pixel where cells are in focus. It is read from a few lines in green, which all stains absorb, and is the mean of both directions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.slide import jpeg

_LINES = 8  # across, and as many down
_ROUNDING = 1 / 6  # of squared differences of 8-bit values: twice their variance of 1/12
_AT_ONCE = 32  # patches
_LEAST = 0.5  # mean squared difference, grey levels squared; below it there is no structure
_SIGMAS = np.geomspace(0.25, 16, 193)
_RATIOS = np.polyval([1, 1, 1, 1], np.exp(-1 / (4 * _SIGMAS**2)))


class Encoded(NamedTuple):
    """A patch's JPEG file, and the sample of its pixels by which its blur is measured."""

    jpeg: bytes
    sample: NDArray[np.uint8]


def encode(rgb: NDArray[np.uint8], quality: int) -> Encoded:
    """Encode and sample a patch, uint8 (S, S, 3)."""
    lines = sample(rgb)
    return Encoded(jpeg.encode(rgb, quality), lines)


def sample(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lines of a patch, uint8 (S, S, 3), in green: as many across as down, uint8 (lines, S)."""
    step = max(1, len(rgb) // _LINES)
    begin = step // 2
    return np.concatenate([rgb[begin::step, :, 1], rgb[:, begin::step, 1].T])


def blur(samples: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation, in pixels, of the Gaussian that makes noise as smooth as each patch; NaN without structure.

    :param samples: uint8 (N, lines, S), of each patch.
    :returns: float32 (N,).
    """
    count, lines, side = samples.shape
    values = samples.reshape(count * 2, lines // 2, side).astype(np.float32)
    first, second = (_mean_square(values[..., lag:] - values[..., :-lag]) - _ROUNDING for lag in (1, 2))
    sigma = np.interp(second / np.maximum(first, _LEAST), _RATIOS, _SIGMAS)
    either = np.where(first < _LEAST, np.nan, sigma).reshape(count, 2)
    mean: NDArray[np.float32] = either.mean(axis=1).astype(np.float32)
    return mean


def _mean_square(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = differences.reshape(len(differences), 1, -1)
    square: NDArray[np.float32] = (rows @ rows.swapaxes(1, 2))[:, 0, 0] / np.float32(rows.shape[2])
    return square


class BlurMeter:
    """Measures patches as they come, many at once; ``blur`` has them all in the end."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.uint8]] = []
        self._measured: list[NDArray[np.float32]] = []

    def add(self, patch: Encoded) -> None:
        """The next patch; all have one size."""
        self._waiting.append(patch.sample)
        if len(self._waiting) == _AT_ONCE:
            self._measure()

    def blur(self) -> NDArray[np.float32]:
        """Of all patches added, in pixels; float32 (N,)."""
        self._measure()
        return np.concatenate([np.zeros(0, np.float32), *self._measured])

    def _measure(self) -> None:
        if self._waiting:
            self._measured.append(blur(np.stack(self._waiting)))
            self._waiting = []
