"""Features as colours on their slides, one page of them, and montages of patches that are alike."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sgcl_cli.report.page import environment

_SIDE = 1600  # pixels of a picture's longer side, at most
_LARGEST_CELL = 16
_TILE = 160  # pixels
_LEAST_COLUMNS = 4
_GLASS = (244, 246, 247)
_INK, _MUTED = (31, 41, 51), (91, 103, 115)
_GAP, _LINE = 8, 14  # pixels


def paint(corners: NDArray[np.float64], colours: NDArray[np.uint8], side: int = _SIDE) -> bytes:
    """Patches as squares of one colour, all of one size where a pixel is not larger than they are, as a PNG file.

    :param corners: (N, 2), x and y of the top-left corners in patch widths.
    :param colours: uint8 (N, 3), RGB.
    :param side: pixels of the picture's longer side, at most.
    """
    origin = corners.min(axis=0)
    extent = corners.max(axis=0) - origin + 1
    cell = min(_LARGEST_CELL, side / float(extent.max()))
    cell = math.floor(cell) if cell >= 1 else cell
    width, height = (max(1, round(float(side) * cell)) for side in extent)
    pixels = np.full((height, width, 3), _GLASS, np.uint8)
    starts = np.rint((corners - origin) * cell).astype(int)
    stops = np.maximum(starts + 1, np.rint((corners - origin + 1) * cell).astype(int))
    for (left, top), (right, bottom), colour in zip(starts.tolist(), stops.tolist(), colours, strict=True):
        pixels[top:bottom, left:right] = colour
    return _png(Image.fromarray(pixels))


@dataclass(frozen=True)
class Tile:
    """One patch of a montage, as small as it will be there, and the lines under it."""

    picture: Image.Image
    lines: Sequence[str]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], *lines: str) -> Tile:
        """Of a patch, uint8 (H, W, 3)."""
        return cls(Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS), lines)


def montage(tiles: Sequence[Tile]) -> bytes:
    """Patches side by side with their captions, as a PNG file; the first, which was asked for, has a frame."""
    side, lines = _TILE, max(len(tile.lines) for tile in tiles)
    width, height = side + _GAP, side + _LINE * lines + _GAP
    columns = max(_LEAST_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        sheet.paste(tile.picture, (x, y))
        if number == 0:
            pen.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), outline=(15, 118, 110), width=3)
        for place, line in enumerate(tile.lines):
            pen.text((x, y + side + 2 + place * _LINE), _fitted(pen, line, side), fill=_MUTED if place else _INK)
    return _png(sheet)


def _fitted(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, its middle left out where it is too long."""
    text = text.encode("ascii", "replace").decode("ascii")  # what Pillow's built-in font has
    kept = text
    while len(text) > 4 and pen.textlength(kept) > width:
        text = text[: len(text) // 2] + text[len(text) // 2 + 1 :]
        kept = text[: len(text) // 2] + "..." + text[len(text) // 2 :]
    return kept


@dataclass(frozen=True)
class SlideMap:
    """One slide on the page; ``png`` as ``paint`` makes it."""

    slide_id: str
    patches: int
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class MapPage:
    """All that the page says.

    :ivar facts: short phrases under the title. :ivar note: how the colours are to be read.
    :ivar command: how to make it again. :ivar provenance: (name, value) of settings and ids.
    :ivar warnings: what is not shown.
    """

    title: str
    facts: Sequence[str]
    note: str
    slides: Sequence[SlideMap]
    command: str
    provenance: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()


def render(page: MapPage) -> str:
    """The page as HTML text, without scripts; it needs nothing else, its pictures are links to the larger ones beside it."""
    return environment().get_template("maps.html").render(page=page)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
