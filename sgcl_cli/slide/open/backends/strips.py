"""The largest image of a TIFF and its reduced copies, in strips or tiles that are decoded on demand.

Used for files that OpenSlide does not open, or in which it takes another image for the slide or does not render it as stored.
Strips and tiles are limited in size, images are not.

Source: TIFF 6.0, sections 2, 8, 14 and 15.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends import image as plain
from sgcl_cli.slide.open.backends.base import Library, translated
from sgcl_cli.slide.open.backends.image import REMEDY, bounded, unsupported
from sgcl_cli.slide.open.levels import mismatch
from sgcl_cli.slide.open.tiff import image_pages, largest_page

_KEPT = 256 * 2**20  # bytes, size of the cache of decoded strips and tiles
_ROWS = 256  # rows of an uncompressed strip that are read at once
_UNCOMPRESSED, _CHUNKY = 1, 1
_REDUCED = 1  # bit of NewSubfileType
_COLOURS = {0: (1, 2), 1: (1, 2), 2: (3, 4), 3: (1,), 6: (3,)}  # photometric interpretation: samples per pixel
_CARRIED = (258, 259, 262, 266, 277, 284, 317, 320, 338, 347, 530, 532)  # tags that decoding a strip depends on
_DAMAGED = (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, TypeError, struct.error)


def is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF with an image."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return largest_page(tiff) is not None
    except _DAMAGED:
        return False


def check_generic(path: Path, size: tuple[int, int]) -> bool:
    """Check a TIFF that OpenSlide opens as generic-tiff.

    :param size: (width, height) of OpenSlide's level 0, pixels.
    :returns: whether that is the largest image of the file, rendered as it is stored.
    :raises SlideError: a stack of images, or samples or colours that are not supported.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = largest_page(tiff)
            if page is None:
                return True
            _check_supported(path, tiff, page)
            largest = page.imagewidth * page.imagelength <= size[0] * size[1]
            return bool(largest and _is_rendered_as_stored(page))
    except _DAMAGED:
        return True


@dataclass(frozen=True)
class _Blocks:
    """The strips or tiles of one image.

    :ivar size: (width, height) of the image, pixels.
    :ivar block: (width, height) of a block, pixels; the last strip may have fewer rows.
    :ivar tiled: whether blocks are tiles, which have full size at the edges too.
    :ivar places: offset and length of each block in the file, bytes, row by row.
    :ivar tags: code, entry and value of the tags that decoding depends on.
    """

    size: tuple[int, int]
    block: tuple[int, int]
    tiled: bool
    places: list[tuple[int, int]]
    tags: list[tuple[int, bytes, bytes]]

    @property
    def across(self) -> int:
        return -(-self.size[0] // self.block[0])

    def height(self, number: int) -> int:
        """Rows of a block."""
        rows = self.block[1]
        return rows if self.tiled else min(rows, self.size[1] - number // self.across * rows)


class PlainTiff:
    """The largest image of a TIFF, with the pages that are flagged as reduced copies of it; a ``Backend``."""

    library: Library = "plain"

    def __init__(self, path: Path) -> None:
        """Read the directories.

        :raises SlideError: the file is cut short or a stack of images, samples or colours are not supported, or blocks too large.
        """
        self._name = path.name
        self.properties: Mapping[str, str] = {}
        try:
            with tifffile.TiffFile(path) as tiff:
                self._levels = _described(path, tiff)
        except _DAMAGED as error:
            raise SlideError(f"{path.name} cannot be read: {error}", "the file is damaged; copy it again") from error
        self.size = self._levels[0].size
        self._decoded: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._held = 0
        with translated(path):
            self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        return tuple(level.size for level in self._levels)

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, the mean over both axes."""
        (width, height), sizes = self.size, self.level_sizes
        return (1.0, *((width / size[0] + height / size[1]) / 2 for size in sizes[1:]))

    def read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``Backend``."""
        blocks, downsample = self._levels[level], self.downsamples[level]
        x, y = (round(place / downsample) for place in location)
        width, height = size
        pixels = np.zeros((height, width, 4), np.uint8)
        left, right = max(0, x), min(blocks.size[0], x + width)
        top, bottom = max(0, y), min(blocks.size[1], y + height)
        if left >= right or top >= bottom:
            return pixels
        across, down = blocks.block
        for row in range(top // down, -(-bottom // down)):
            for column in range(left // across, -(-right // across)):
                start_x, start_y = column * across, row * down
                first_x, last_x = max(left, start_x), min(right, start_x + across)
                first_y, last_y = max(top, start_y), min(bottom, start_y + down)
                block = self._block(level, row * blocks.across + column)
                part = block[first_y - start_y : last_y - start_y, first_x - start_x : last_x - start_x]
                place = pixels[first_y - y : last_y - y, first_x - x : last_x - x]
                place[..., : part.shape[2]] = part
                if part.shape[2] == 3:
                    place[..., 3] = 255
        return pixels

    def cache(self, capacity: int) -> None:
        """Without effect: the cache has a fixed size."""

    def close(self) -> None:
        """See ``Backend``."""
        os.close(self._descriptor)

    def _block(self, level: int, number: int) -> NDArray[np.uint8]:
        """A decoded strip or tile, uint8 (rows, width, 3 or 4)."""
        pixels = self._decoded.pop((level, number), None)
        if pixels is None:
            pixels = self._decode(self._levels[level], number)
            self._held += pixels.nbytes
        self._decoded[level, number] = pixels
        while self._held > _KEPT and len(self._decoded) > 1:
            self._held -= self._decoded.popitem(last=False)[1].nbytes
        return pixels

    def _decode(self, blocks: _Blocks, number: int) -> NDArray[np.uint8]:
        offset, count = blocks.places[number]
        width, height = blocks.block[0], blocks.height(number)
        if count == 0 and blocks.tiled:
            return np.zeros((height, width, 4), np.uint8)
        what = f"{'tile' if blocks.tiled else 'strip'} {number} of {len(blocks.places)}"
        try:
            data = _as_file(os.pread(self._descriptor, count, offset), (width, height), blocks.tags)
            with bounded(), Image.open(BytesIO(data)) as image:
                alpha = image.mode in ("RGBA", "RGBa", "LA", "La")
                pixels = np.asarray(image.convert("RGBA" if alpha else "RGB"), np.uint8)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Warning) as error:
            raise SlideError(
                f"{self._name} cannot be read: {what}: {error}", "the file is damaged; copy or export it again"
            ) from error
        if pixels.shape[:2] != (height, width):
            raise SlideError(f"{self._name} cannot be read: {what} has another size", "the file is damaged")
        return pixels


def _described(path: Path, tiff: tifffile.TiffFile) -> list[_Blocks]:
    """The largest image, and its reduced copies from large to small."""
    page = largest_page(tiff)
    if page is None:
        raise ValueError("there is no image in it")
    _check_supported(path, tiff, page)
    levels = [_blocks_of(path, page)]
    size = levels[0].size
    for other in sorted(image_pages(tiff), key=lambda other: -other.imagewidth):
        reduced = other.imagewidth, other.imagelength
        if not other.subfiletype & _REDUCED or max(reduced) >= max(size) or mismatch(size, reduced):
            continue
        if _obstacle(path, other) is None:
            levels.append(_blocks_of(path, other))
    return levels


def _blocks_of(path: Path, page: tifffile.TiffPage) -> _Blocks:
    """The strips or tiles of an image.

    :raises SlideError: some lie beyond the end of the file, or are too large.
    :raises ValueError: their number does not fit the size of the image.
    """
    width, height = page.imagewidth, page.imagelength
    tiled = page.is_tiled
    across, down = (page.tilewidth, page.tilelength) if tiled else (width, min(page.rowsperstrip, height))
    kind = "tiles" if tiled else "strips"
    offsets, counts = list(page.dataoffsets), list(page.databytecounts)
    expected = 0 if min(across, down) < 1 else -(-width // across) * -(-height // down)
    if min(width, height) < 1 or len(offsets) != expected or len(counts) != len(offsets):
        raise ValueError(f"the number of {kind} does not fit the size")
    length = path.stat().st_size
    beyond = sum(offset + count > length for offset, count in zip(offsets, counts, strict=True))
    if beyond:
        raise SlideError(
            f"{path.name} is cut short: {beyond} of {len(offsets)} {kind} lie beyond its end", "copy or export it again"
        )
    if page.compression == _UNCOMPRESSED and not tiled:
        offsets, counts, down = _cut(offsets, counts, down, height, width * page.samplesperpixel)
    if across * down > plain.MOST_PIXELS:
        raise SlideError(
            f"{path.name} is stored in {kind} of {across} x {down} pixels, too many to decode at once", REMEDY
        )
    tags = [_packed(page.tags[code]) for code in _CARRIED if code in page.tags]
    return _Blocks((width, height), (across, down), tiled, list(zip(offsets, counts, strict=True)), tags)


def _as_file(data: bytes, size: tuple[int, int], tags: list[tuple[int, bytes, bytes]]) -> bytes:
    """A strip or tile as a complete TIFF file: header, data, directory, and the values that do not fit into its entries."""
    own = {256: size[0], 257: size[1], 273: 8, 278: size[1], 279: len(data)}
    entries = [(code, struct.pack("<HHI", code, 4, 1), struct.pack("<I", value)) for code, value in own.items()]
    entries = sorted([*entries, *tags])
    directory = 8 + len(data) + len(data) % 2
    beyond = directory + 2 + 12 * len(entries) + 4
    packed, values = b"", b""
    for _, head, value in entries:
        if len(value) <= 4:
            packed += head + value.ljust(4, b"\0")
            continue
        packed += head + struct.pack("<I", beyond + len(values))
        values += value + b"\0" * (len(value) % 2)
    header = struct.pack("<2sHI", b"II", 42, directory)
    return b"".join([header, data, b"\0" * (len(data) % 2), struct.pack("<H", len(entries)), packed, bytes(4), values])


def _check_supported(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    size = page.imagewidth, page.imagelength
    same = sum((other.imagewidth, other.imagelength) == size and not other.subfiletype for other in image_pages(tiff))
    images = max(same, int((tiff.imagej_metadata or {}).get("images", 1)))
    if images > 1:
        raise SlideError(
            f"{path.name} is a stack of {images} images of one size, not a slide",
            "export the image you need as a separate file",
        )
    if (obstacle := _obstacle(path, page)) is not None:
        raise obstacle


def _obstacle(path: Path, page: tifffile.TiffPage) -> SlideError | None:
    """The error if the samples or colours of an image are not supported, else None."""
    if page.bitspersample not in (1, 8) or page.sampleformat != 1:
        return unsupported(path, f"{page.bitspersample} bits a sample")
    if page.samplesperpixel not in _COLOURS.get(page.photometric, ()):
        colours = getattr(page.photometric, "name", page.photometric)
        return unsupported(path, f"{page.samplesperpixel} samples a pixel as {colours}")
    if page.samplesperpixel > 1 and page.planarconfig != _CHUNKY:
        return unsupported(path, "its colours in separate planes")
    return None


def _is_rendered_as_stored(page: tifffile.TiffPage) -> bool:
    """False if OpenSlide flips or rotates each tile (Orientation), or takes an unspecified fourth sample for alpha."""
    return page.tags.valueof("Orientation", 1) == 1 and 0 not in page.extrasamples


def _cut(offsets: list[int], counts: list[int], rows: int, height: int, width: int) -> tuple[list[int], list[int], int]:
    """Cut uncompressed strips into pieces of ``_ROWS`` rows; returns offsets, lengths and rows of the pieces.

    Strips are not changed if the pieces, apart from the last, would differ in height.

    :param offsets: of the strips in the file, bytes.
    :param counts: lengths of the strips, bytes.
    :param rows: of a strip.
    :param height: of the image, pixels.
    :param width: of a row, bytes.
    """
    whole = len(offsets) == 1 or rows % _ROWS == 0
    if (
        rows <= _ROWS
        or not whole
        or any(count < min(rows, height - n * rows) * width for n, count in enumerate(counts))
    ):
        return offsets, counts, rows
    starts = [(offset, min(rows, height - number * rows)) for number, offset in enumerate(offsets)]
    pieces = [
        (offset + top * width, min(_ROWS, here - top)) for offset, here in starts for top in range(0, here, _ROWS)
    ]
    return [offset for offset, _ in pieces], [count * width for _, count in pieces], _ROWS


def _packed(tag: tifffile.TiffTag) -> tuple[int, bytes, bytes]:
    """A tag as its code, the first eight bytes of its entry, and its value, little-endian.

    :raises ValueError: the tag has a type that no tag in ``_CARRIED`` may have.
    """
    value: Any = tag.value
    if tag.dtype in (3, 4, 16):
        numbers = np.atleast_1d(np.asarray(value)).ravel()
        return tag.code, struct.pack("<HHI", tag.code, 3, numbers.size), numbers.astype("<u2").tobytes()
    if isinstance(value, bytes):
        return tag.code, struct.pack("<HHI", tag.code, 7, len(value)), value
    if tag.dtype == 5:
        numbers = np.atleast_1d(np.asarray(value)).ravel()
        return tag.code, struct.pack("<HHI", tag.code, 5, numbers.size // 2), numbers.astype("<u4").tobytes()
    raise ValueError(f"tag {tag.code} is of type {tag.dtype}")
