"""The first image of a TIFF without tiles, whose strips are decoded when they are needed: their size is bounded, the image's not.

Source: TIFF 6.0, sections 2, 8 and 14.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide import plain
from sgcl_cli.slide.plain import REMEDY, bounded, unsupported

_KEPT = 256 * 2**20  # bytes of decoded strips
_ROWS = 256  # an uncompressed strip is read in pieces of so many rows
_UNCOMPRESSED, _CHUNKY = 1, 1
_COLOURS = {0: (1, 2), 1: (1, 2), 2: (3, 4), 3: (1,), 6: (3,)}  # photometric interpretation: samples per pixel
_CARRIED = (258, 259, 262, 266, 277, 284, 317, 320, 338, 347, 530, 532)  # tags that a strip is decoded by


def is_untiled_tiff(path: Path) -> bool:
    """Whether a file is a TIFF whose first image is in strips."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return not tiff.pages.first.is_tiled
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, TypeError, struct.error):
        return False


class StrippedTiff:
    """The first image of a TIFF without tiles, in OpenSlide's terms.

    :ivar dimensions: (width, height), pixels.
    """

    level_downsamples = (1.0,)

    def __init__(self, path: Path) -> None:
        """Read the directory.

        :raises SlideError: cut short, a stack of images, samples or colours that are not supported, or strips too large.
        """
        self._name = path.name
        self.properties: Mapping[str, str] = {}
        try:
            with tifffile.TiffFile(path) as tiff:
                self._describe(path, tiff)
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError, struct.error) as error:
            raise SlideError(f"{path.name} cannot be read: {error}", "the file is damaged; copy it again") from error
        self._decoded: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._held = 0
        self._descriptor = os.open(path, os.O_RDONLY)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int]]:
        """The one level's (width, height)."""
        return (self.dimensions,)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A rectangle, uint8 (height, width, 4), RGBA; transparent outside the image.

        :raises SlideError: a strip is damaged; others can still be read.
        """
        (x, y), (width, height) = location, size
        pixels = np.zeros((height, width, 4), np.uint8)
        left, right = max(0, x), min(self.dimensions[0], x + width)
        top, bottom = max(0, y), min(self.dimensions[1], y + height)
        if left >= right or top >= bottom:
            return pixels
        for number in range(top // self._rows, -(-bottom // self._rows)):
            start = number * self._rows
            first, last = max(top, start), min(bottom, start + self._rows)
            part = self._strip(number)[first - start : last - start, left:right]
            place = pixels[first - y : last - y, left - x : right - x]
            place[..., : part.shape[2]] = part
            if part.shape[2] == 3:
                place[..., 3] = 255
        return pixels

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _describe(self, path: Path, tiff: tifffile.TiffFile) -> None:
        page = tiff.pages.first
        assert isinstance(page, tifffile.TiffPage)
        width, height = self.dimensions = page.imagewidth, page.imagelength
        _check_supported(path, tiff, page)
        rows = min(page.rowsperstrip, height)
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        if min(width, height) < 1 or rows < 1 or len(offsets) != -(-height // rows) or len(counts) != len(offsets):
            raise ValueError("the number of strips does not fit the size")
        beyond = sum(offset + count > path.stat().st_size for offset, count in zip(offsets, counts, strict=True))
        if beyond:
            raise SlideError(
                f"{path.name} is cut short: {beyond} of {len(offsets)} strips lie beyond its end",
                "copy or export it again",
            )
        if page.compression == _UNCOMPRESSED:
            offsets, counts, rows = _cut(offsets, counts, rows, height, width * page.samplesperpixel)
        if rows * width > plain.MOST_PIXELS:
            raise SlideError(
                f"{path.name} is stored in strips of {width} x {rows} pixels, too many to decode at once", REMEDY
            )
        self._rows, self._strips = rows, list(zip(offsets, counts, strict=True))
        self._tags = [_packed(page.tags[code]) for code in _CARRIED if code in page.tags]

    def _strip(self, number: int) -> NDArray[np.uint8]:
        """Decoded rows, uint8 (rows, width, 3 or 4)."""
        pixels = self._decoded.pop(number, None)
        if pixels is None:
            pixels = self._decode(number)
            self._held += pixels.nbytes
        self._decoded[number] = pixels
        while self._held > _KEPT and len(self._decoded) > 1:
            self._held -= self._decoded.popitem(last=False)[1].nbytes
        return pixels

    def _decode(self, number: int) -> NDArray[np.uint8]:
        offset, count = self._strips[number]
        width, height = self.dimensions[0], min(self._rows, self.dimensions[1] - number * self._rows)
        try:
            with (
                bounded(),
                Image.open(BytesIO(self._as_file(os.pread(self._descriptor, count, offset), height))) as image,
            ):
                alpha = image.mode in ("RGBA", "RGBa", "LA", "La")
                pixels = np.asarray(image.convert("RGBA" if alpha else "RGB"), np.uint8)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Warning) as error:
            raise SlideError(
                f"{self._name} cannot be read: strip {number} of {len(self._strips)}: {error}",
                "the file is damaged; copy or export it again",
            ) from error
        if pixels.shape[:2] != (height, width):
            raise SlideError(f"{self._name} cannot be read: strip {number} has another size", "the file is damaged")
        return pixels

    def _as_file(self, data: bytes, height: int) -> bytes:
        """A strip as a TIFF of its own: header, data, directory, and the values that do not fit into it."""
        own = {256: self.dimensions[0], 257: height, 273: 8, 278: height, 279: len(data)}
        entries = [(code, struct.pack("<HHI", code, 4, 1), struct.pack("<I", value)) for code, value in own.items()]
        entries = sorted([*entries, *self._tags])
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
        return b"".join(
            [header, data, b"\0" * (len(data) % 2), struct.pack("<H", len(entries)), packed, bytes(4), values]
        )


def _check_supported(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    same = sum(other.imagewidth == page.imagewidth and other.imagelength == page.imagelength for other in _whole(tiff))
    images = max(same, int((tiff.imagej_metadata or {}).get("images", 1)))
    if images > 1:
        raise SlideError(
            f"{path.name} is a stack of {images} images of one size, not a slide",
            "save the one that is meant by itself",
        )
    if page.bitspersample not in (1, 8) or page.sampleformat != 1:
        raise unsupported(path, f"{page.bitspersample} bits a sample")
    if page.samplesperpixel not in _COLOURS.get(page.photometric, ()):
        colours = getattr(page.photometric, "name", page.photometric)
        raise unsupported(path, f"{page.samplesperpixel} samples a pixel as {colours}")
    if page.samplesperpixel > 1 and page.planarconfig != _CHUNKY:
        raise unsupported(path, "its colours in separate planes")


def _whole(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """The images of a file that are not reduced copies or masks of others."""
    for page in tiff.pages:
        if isinstance(page, tifffile.TiffPage) and not page.subfiletype:
            yield page


def _cut(offsets: list[int], counts: list[int], rows: int, height: int, width: int) -> tuple[list[int], list[int], int]:
    """Uncompressed strips of more rows than are read at once, cut into pieces; ``width`` in bytes.

    Only where all pieces but the last have the same number of rows; otherwise the strips stay as they are.
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
    """A tag as code, the first eight bytes of its entry, and its value, little-endian.

    :raises ValueError: of a type that none of the tags that are carried has.
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
