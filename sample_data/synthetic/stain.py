"""From amounts of stain to colour: the optics of stained tissue on glass, with the marks a real slide carries.

Light follows Beer and Lambert: I = I0 exp(-OD), OD = H h + E e per colour channel (Ruifrok and Johnston 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from synthetic.noise import Block, Plane, smooth_noise
from synthetic.regions import KINDS
from synthetic.tissue import Tissue

Image = NDArray[np.uint8]
BLOCK = 512


@dataclass(frozen=True)
class Stain:
    """How a laboratory stains and a scanner sees. Vectors are optical density (natural logarithm) per unit, R G B.

    :param haematoxylin: density of one unit of haematoxylin; :param eosin: of one unit of eosin.
    :param glass: colour of empty glass, grey levels.
    :param mean_amounts: (haematoxylin, eosin) such that every tissue kind's mean colour is made equal to the colour of
        that much stain, evenly spread.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    glass: tuple[float, float, float]
    mean_amounts: tuple[float, float] = (0.18, 0.29)

    @property
    def mean_colour(self) -> NDArray[np.float64]:
        """Mean colour that every kind is brought to, float64 (3,), grey levels."""
        h, e = self.mean_amounts
        return np.asarray(self.glass) * np.exp(-h * np.asarray(self.haematoxylin) - e * np.asarray(self.eosin))


SITES = {
    "north": Stain((1.00, 1.22, 0.56), (0.10, 0.98, 0.36), (243, 243, 245)),
    "east": Stain((1.16, 1.18, 0.46), (0.16, 1.10, 0.30), (238, 240, 238)),
    "south": Stain((0.86, 1.16, 0.66), (0.07, 0.86, 0.50), (247, 244, 242)),
}


def vary(stain: Stain, rng: np.random.Generator) -> Stain:
    """The stain of one slide of a site: a little stronger or weaker, a little redder or bluer."""
    h = np.asarray(stain.haematoxylin) * rng.normal(1, 0.07) * rng.normal(1, 0.03, 3)
    e = np.asarray(stain.eosin) * rng.normal(1, 0.09) * rng.normal(1, 0.04, 3)
    glass = np.minimum(np.asarray(stain.glass) + rng.normal(0, 1.2, 3), 252)
    return Stain(tuple(h.tolist()), tuple(e.tolist()), tuple(glass.tolist()), stain.mean_amounts)


def develop(tissue: Tissue, stain: Stain, rng: np.random.Generator) -> Image:
    """What a scanner records of stained tissue: uint8 (height, width, 3), R G B.

    In each channel the optical density of each kind is scaled so that the kind's mean over the slide is
    ``stain.mean_colour``: the kinds then differ in texture only.
    """
    width, height = tissue.size
    gains = _gains(tissue, stain)
    grain = rng.normal(0, 1.1, (BLOCK, BLOCK, 3)).astype(np.float32)
    blur = 0.28 / tissue.mpp
    margin = int(np.ceil(4 * blur))
    image = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, BLOCK):
        for x in range(0, width, BLOCK):
            reach = Block(x - margin, y - margin, min(x + BLOCK, width) + margin, min(y + BLOCK, height) + margin)
            light = cv2.GaussianBlur(_transmit(tissue, stain, gains, reach), (0, 0), blur)[
                margin:-margin, margin:-margin
            ]
            light += grain[: light.shape[0], : light.shape[1]]
            image[y : y + BLOCK, x : x + BLOCK] = np.clip(light + 0.5, 0, 255)
    return image


def _transmit(tissue: Tissue, stain: Stain, gains: NDArray[np.float64], block: Block) -> Plane:
    """Light through a block, float32 (height, width, 3), grey levels. gains: (kinds, 3)."""
    haematoxylin, eosin, weights = tissue.stains(block)
    light = np.empty((*eosin.shape, 3), np.float32)
    light[:] = stain.glass
    if weights.any():
        for c in range(3):
            density = haematoxylin * stain.haematoxylin[c] + eosin * stain.eosin[c]
            gain = 1 + sum(weight * (float(g) - 1) for weight, g in zip(weights, gains[:, c], strict=True))
            light[..., c] *= cv2.exp(-density * gain)
    return light


def _gains(tissue: Tissue, stain: Stain) -> NDArray[np.float64]:
    """Factor of each kind's optical density in each channel, float64 (kinds, 3), from every fourth row and column."""
    width, height = tissue.size
    parts = [
        tissue.stains(Block(x, y, min(x + BLOCK, width), min(y + BLOCK, height), every=4))
        for y in range(0, height, BLOCK)
        for x in range(0, width, BLOCK)
    ]
    gains = np.ones((len(KINDS), 3))
    for kind in range(len(KINDS)):
        pure = [weights[kind] > 0.98 for _, _, weights in parts]
        haematoxylin, eosin = (
            np.concatenate([part[i][where] for part, where in zip(parts, pure, strict=True)]) for i in (0, 1)
        )
        for c in range(3):
            if eosin.size:
                density = haematoxylin * stain.haematoxylin[c] + eosin * stain.eosin[c]
                gains[kind, c] = _density_gain(density, stain.mean_colour[c] / stain.glass[c])
    return gains


def _density_gain(density: Plane, transmission: float) -> float:
    """The g for which mean(exp(-g density)) = transmission, by bisection. density: float32 (n,)."""
    low, high = 0.2, 5.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(-middle * density).mean() > transmission else (low, middle)
    return (low + high) / 2


def add_dust(image: Image, mpp: float, rng: np.random.Generator) -> None:
    """Specks and a few lint fibres, out of focus, in place."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(6, 14))):
        side = int(rng.uniform(12, 50) / mpp)
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        mask = np.zeros((side, side), np.float32)
        if rng.random() < 0.7:
            axes = (int(side * rng.uniform(0.08, 0.22)), int(side * rng.uniform(0.08, 0.2)))
            cv2.ellipse(mask, (side // 2, side // 2), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        else:
            steps = np.cumsum(rng.normal(0, side / 14, (7, 2)), axis=0)
            line = np.clip(steps + side / 2, side * 0.2, side * 0.8).astype(np.int32)
            cv2.polylines(mask, [line.reshape(-1, 1, 2)], False, 1.0, max(1, round(1.2 / mpp)), cv2.LINE_AA)
        opacity = cv2.GaussianBlur(mask, (0, 0), 1.6 / mpp) * float(rng.uniform(0.25, 0.6))
        _filter(image[y : y + side, x : x + side], opacity, (0.1, 0.0, 0.0))


INKS = {"blue": (0.20, 0.36, 0.86), "green": (0.16, 0.62, 0.40), "black": (0.16, 0.17, 0.20)}
"""Transmission of felt pens, R G B."""


def add_pen(image: Image, ink: str, rng: np.random.Generator) -> None:
    """A stroke of felt pen near the upper side, over glass and the tissue's edge, in place."""
    coarse = 8
    band = image[: image.shape[0] // 4 // coarse * coarse, : image.shape[1] // coarse * coarse]
    mask = np.zeros((band.shape[0] // coarse, band.shape[1] // coarse), np.float32)
    t = np.linspace(0, 1, 30)
    wobble = np.cumsum(rng.normal(0, 0.012, t.size))
    points = np.stack([(0.15 + 0.6 * t) * mask.shape[1], (0.3 + 0.3 * np.sin(3 * t) + wobble) * mask.shape[0]], axis=-1)
    cv2.polylines(mask, [points.astype(np.int32).reshape(-1, 1, 2)], False, 1.0, max(3, mask.shape[0] // 6))
    opacity = cv2.GaussianBlur(mask, (0, 0), 0.8) * (0.86 + 0.07 * smooth_noise(mask.shape, 5, rng))
    opacity = cv2.resize(opacity, None, fx=coarse, fy=coarse, interpolation=cv2.INTER_LINEAR)
    _filter(band, np.clip(opacity, 0, 1), INKS[ink])


def _filter(image: Image, opacity: Plane, colour: tuple[float, float, float]) -> None:
    """Lay a layer that transmits ``colour`` over ``image`` where ``opacity`` (0 to 1) says, in place."""
    image[:] = image * (1 - opacity[..., None] * (1 - np.array(colour, np.float32)))
