"""Maps of features beside the tissue, the page that holds them, and montages of similar patches."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from sgcl_cli.report.colour_scale import viridis
from sgcl_cli.report.page import environment

LIMIT = 2.5  # standard deviations at the ends of the colour bar
TICKS = (-2, -1, 0, 1, 2)
BAR_NAME = "component score, standard deviations from the mean of all slides"

_SIDE = 1600  # pixels of a picture's longer side, at most
_LARGEST_CELL = 16
_TILE = 176  # pixels
_LEAST_COLUMNS = 4
_GLASS = (244, 246, 247)
_INK, _MUTED, _FRAME = (31, 41, 51), (91, 103, 115), (213, 94, 0)
_GAP, _LINE, _LETTERS = 10, 17, 13  # pixels
_STOPS = 24  # of the colour bar on the page


def shade(scores: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGB (N, 3) of scores in standard deviations (N,), on the one scale of all slides and components."""
    return viridis((scores + LIMIT) / (2 * LIMIT))


def paint(corners: NDArray[np.float64], colours: NDArray[np.uint8], side: int = _SIDE) -> bytes:
    """Patches as squares of their colours, as a PNG file; the squares are equal unless a patch is smaller than a pixel.

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


def crop(picture: NDArray[np.uint8], frame: ArrayLike, size: tuple[int, int]) -> Image.Image:
    """A part of a picture at another size; outside the picture it has the colour of glass.

    :param picture: uint8 (H, W, 3).
    :param frame: left, top, right and bottom of the part, as shares of the picture's width and height.
    :param size: (width, height) of the result, pixels.
    """
    height, width = picture.shape[:2]
    box = np.array(frame) * (width, height, width, height)
    inside = np.array([*np.maximum(box[:2], 0), *np.minimum(box[2:], (width, height))])
    sheet = Image.new("RGB", size, _GLASS)
    if (inside[2:] <= inside[:2]).any():
        return sheet
    scale = np.divide(size, box[2:] - box[:2])
    left, top = np.rint((inside[:2] - box[:2]) * scale).astype(int).tolist()
    right, bottom = np.rint((inside[2:] - box[:2]) * scale).astype(int).tolist()
    part = max(1, right - left), max(1, bottom - top)
    resized = Image.fromarray(picture).resize(part, Image.Resampling.LANCZOS, box=tuple(inside.tolist()))
    sheet.paste(resized, (left, top))
    return sheet


@dataclass(frozen=True)
class Panel:
    """A picture with its name."""

    name: str
    png: bytes

    @classmethod
    def of(cls, name: str, image: Image.Image) -> Panel:
        """A panel of a picture."""
        return cls(name, _png(image))

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def image(self) -> Image.Image:
        """The decoded picture."""
        return Image.open(io.BytesIO(self.png)).convert("RGB")


def combined(title: str, panels: Sequence[Panel]) -> bytes:
    """Panels of one size under their names, side by side or in two columns, with the colour bar below, as a PNG file."""
    pictures = [panel.image for panel in panels]
    width, height = pictures[0].size
    columns = len(pictures) if width <= height else min(2, len(pictures))
    rows = -(-len(pictures) // columns)
    line = 2 * _LINE
    across, down = max(640, columns * (width + _GAP) + _GAP), rows * (height + line + _GAP) + 2 * line + 2 * _GAP
    sheet = Image.new("RGB", (across, down + 2 * line), (255, 255, 255))
    pen, letters = ImageDraw.Draw(sheet), font(20)
    pen.text((_GAP, _GAP), fitted(pen, title, across - 2 * _GAP, letters), fill=_INK, font=letters)
    for number, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        x = _GAP + number % columns * (width + _GAP)
        y = _GAP + line + number // columns * (height + line + _GAP)
        pen.text((x, y), fitted(pen, panel.name, width, letters), fill=_MUTED, font=letters)
        sheet.paste(picture, (x, y + line))
    _bar(sheet, pen, down - line)
    return _png(sheet)


def _bar(sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int) -> None:
    """The colour bar with its numbers and its name."""
    letters, left = font(18), _GAP + 14
    right = min(sheet.width - left, left + 600)
    ramp = shade(np.linspace(-LIMIT, LIMIT, right - left))
    sheet.paste(Image.fromarray(np.repeat(ramp[None], 22, axis=0)), (left, top))
    for tick in TICKS:
        x = left + (right - left) * (tick + LIMIT) / (2 * LIMIT)
        pen.line((x, top + 22, x, top + 27), fill=_INK)
        pen.text((x, top + 29), f"{tick:+d}" if tick else "0", fill=_INK, font=letters, anchor="ma")
    pen.text((left, top + 52), fitted(pen, BAR_NAME, sheet.width - 2 * left, letters), fill=_MUTED, font=letters)


def bar_stops() -> list[tuple[float, str]]:
    """The colour bar as (percent, colour as #rrggbb) from its low end to its high one."""
    places = np.linspace(-LIMIT, LIMIT, _STOPS)
    return [
        (round(100 * number / (_STOPS - 1), 2), "#{:02x}{:02x}{:02x}".format(*colour))
        for number, colour in enumerate(shade(places).tolist())
    ]


def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib has with it, at a size in pixels; it has Latin, Greek and Cyrillic letters."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@dataclass(frozen=True)
class Tile:
    """A patch of a montage at the size it has there, and the lines under it."""

    picture: Image.Image
    lines: Sequence[str]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], *lines: str) -> Tile:
        """A tile of a patch, uint8 (H, W, 3)."""
        return cls(Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS), lines)


def montage(tiles: Sequence[Tile], title: str = "", notes: Sequence[str] = ()) -> bytes:
    """Patches side by side with their captions, as a PNG file; the first, the query, has a frame.

    :param title: a line above. :param notes: lines below, broken where they are longer than the picture is wide.
    """
    side, lines = _TILE, max(len(tile.lines) for tile in tiles)
    width, height = side + _GAP, side + _LINE * lines + _GAP
    columns = max(_LEAST_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    across = columns * width + _GAP
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    letters, large = font(_LETTERS), font(_LETTERS + 3)
    head = _LINE + _GAP if title else 0
    below = [line for note in notes for line in _wrapped(pen, note, across - 2 * _GAP, letters)]
    foot = _LINE * len(below) + _GAP if below else 0
    sheet = Image.new("RGB", (across, head + rows * height + _GAP + foot), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), fitted(pen, title, across - 2 * _GAP, large), fill=_INK, font=large)
    for number, tile in enumerate(tiles):
        x, y = _GAP + number % columns * width, head + _GAP + number // columns * height
        sheet.paste(tile.picture, (x, y))
        if number == 0:
            pen.rectangle((x - 4, y - 4, x + side + 3, y + side + 3), outline=_FRAME, width=4)
        for place, line in enumerate(tile.lines):
            text = fitted(pen, line, side, letters)
            pen.text((x, y + side + 3 + place * _LINE), text, fill=_MUTED if place else _INK, font=letters)
    for place, line in enumerate(below):
        pen.text((_GAP, head + rows * height + _GAP + place * _LINE), line, fill=_MUTED, font=letters)
    return _png(sheet)


def fitted(pen: ImageDraw.ImageDraw, text: str, width: int, letters: ImageFont.FreeTypeFont) -> str:
    """The text, with its middle left out where it is wider than ``width`` pixels."""
    kept = text
    while len(text) > 4 and pen.textlength(kept, font=letters) > width:
        text = text[: len(text) // 2] + text[len(text) // 2 + 1 :]
        kept = text[: len(text) // 2] + "…" + text[len(text) // 2 :]
    return kept


def _wrapped(pen: ImageDraw.ImageDraw, text: str, width: int, letters: ImageFont.FreeTypeFont) -> list[str]:
    """The text in lines of at most ``width`` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and pen.textlength(longer, font=letters) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@dataclass(frozen=True)
class SlideMap:
    """One slide on the page.

    :ivar panels: the tissue, where there is a picture of it, and a map a component, all of one size.
    """

    slide_id: str
    patches: int
    panels: Sequence[Panel]


@dataclass(frozen=True)
class MapPage:
    """The content of maps.html.

    :ivar facts: short phrases under the title.
    :ivar notes: paragraphs on how to read the maps.
    :ivar command: the command line that made it.
    :ivar provenance: (name, value) of settings and ids.
    :ivar warnings: what is not shown.
    """

    title: str
    facts: Sequence[str]
    notes: Sequence[str]
    slides: Sequence[SlideMap]
    command: str
    provenance: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()


def render(page: MapPage) -> str:
    """The page as an HTML string, without scripts or outside files; its pictures link to the larger ones in maps/."""
    ticks = [(100 * (tick + LIMIT) / (2 * LIMIT), f"{tick:+d}" if tick else "0") for tick in TICKS]
    template = environment().get_template("maps.html")
    return template.render(page=page, stops=bar_stops(), ticks=ticks, bar_name=BAR_NAME)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
