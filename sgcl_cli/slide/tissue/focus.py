"""Blur of patches, estimated from their pixels while they are encoded.

White noise smoothed by a Gaussian of standard deviation sigma has the autocorrelation r(k) = exp(-k^2 / (4 sigma^2)) at a lag of
k pixels, so the mean squared differences D over one and two pixels have the ratio

    D2 / D1 = (1 - x^4) / (1 - x) = 1 + x + x^2 + x^3,    x = exp(-1 / (4 sigma^2)),

from 1 for noise to 4 for a ramp. The sigma of a patch's ratio is its blur, independent of the strength of the stain: about one
pixel for cells in focus. It is estimated from a few lines of the green channel, which all stains absorb, and averaged over the
horizontal and the vertical ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.slide import jpeg

_LINES = 8  # horizontal lines, and as many vertical ones
_ROUNDING = 1 / 6  # mean squared difference due to rounding to 8 bits: twice the variance of 1/12
_AT_ONCE = 32  # patches
_LEAST = 0.5  # smallest mean squared difference that counts as structure, grey levels squared
_SIGMAS = np.geomspace(0.25, 16, 193)
_RATIOS = np.polyval([1, 1, 1, 1], np.exp(-1 / (4 * _SIGMAS**2)))


class Encoded(NamedTuple):
    """An encoded patch.

    :ivar jpeg: the JPEG file.
    :ivar sample: uint8 (lines, S), the lines from which blur is estimated.
    """

    jpeg: bytes
    sample: NDArray[np.uint8]


def encode(rgb: NDArray[np.uint8], quality: int) -> Encoded:
    """Encode a patch, uint8 (S, S, 3), and sample its lines."""
    lines = sample(rgb)
    return Encoded(jpeg.encode(rgb, quality), lines)


def sample(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lines of the green channel of a patch, uint8 (S, S, 3): as many horizontal as vertical ones, uint8 (lines, S)."""
    step = max(1, len(rgb) // _LINES)
    begin = step // 2
    return np.concatenate([rgb[begin::step, :, 1], rgb[:, begin::step, 1].T])


def blur(samples: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blur of patches: standard deviation of the Gaussian that would smooth noise to the same degree; NaN without structure.

    :param samples: uint8 (N, lines, S), see ``sample``.
    :returns: float32 (N,), pixels.
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
    """Blur of a sequence of patches, computed in batches."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.uint8]] = []
        self._measured: list[NDArray[np.float32]] = []

    def add(self, patch: Encoded) -> None:
        """Add the next patch; all have the same size."""
        self._waiting.append(patch.sample)
        if len(self._waiting) == _AT_ONCE:
            self._measure()

    def blur(self) -> NDArray[np.float32]:
        """Blur of all patches added, float32 (N,), pixels."""
        self._measure()
        return np.concatenate([np.zeros(0, np.float32), *self._measured])

    def _measure(self) -> None:
        if self._waiting:
            self._measured.append(blur(np.stack(self._waiting)))
            self._waiting = []
