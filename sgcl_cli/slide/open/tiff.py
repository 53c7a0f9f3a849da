"""Tiles of a TIFF: their places in the file, and each JPEG tile as a complete JPEG file.

Sources: TIFF 6.0, section 15 "Tiled Images"; TIFF Technical Note 2 (JPEGTables); ITU-T T.81, annex B (marker segments);
ITU-T T.871 (JFIF) and T.872, section 6.5.3 (the Adobe marker).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from sgcl_cli.artefacts import reading
from sgcl_cli.errors import SlideError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damage is reported by the errors of this package

_JPEG, _RGB, _YCBCR = 7, 2, 6
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_JFIF, _ADOBE = 0xE0, 0xEE
_HEADERS = 4  # cached headers; usually all tiles of a slide have the same
_YCBCR_HEADER = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_RGB_HEADER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class TiledLevel:
    """The tiles of one directory, row by row.

    :ivar size: (width, height) of the level, pixels.
    :ivar tile: (width, height) of a tile, pixels.
    :ivar offsets: int64 (rows, columns), position of each tile in the file, bytes.
    :ivar counts: int64 (rows, columns), length of each tile, bytes; 0 for a missing tile.
    :ivar head: start of image, colour marker and tables that complete a tile to a JPEG file.
    :ivar obstacle: reason why tiles cannot be decoded directly; "" if they can.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    head: bytes
    obstacle: str
    _headers: dict[bytes, bytes] = field(default_factory=dict, repr=False)  # headers of tiles, each with the merged one

    def jpeg(self, data: bytes) -> bytes:
        """A tile as a complete JPEG file, with the tables and with the marker of its colour space.

        The directory determines the colour space, RGB or YCbCr; markers in the tile are replaced.

        :param data: the tile's bytes in the TIFF.
        :raises ValueError: not JPEG data.
        """
        for given, merged in self._headers.items():
            if data.startswith(given):
                return merged + data[len(given) :]
        *segments, scan = _segments(data)
        given, merged = data[: len(data) - len(scan) + 2], self.head + b"".join(segments) + scan[:2]
        if len(self._headers) < _HEADERS:
            self._headers[given] = merged
        return merged + scan[2:]


def tiled_levels(path: Path) -> list[TiledLevel]:
    """The tiled directories of a TIFF, in the file's order; empty for other files."""
    try:
        with tifffile.TiffFile(reading.plain(path)) as tiff:
            return [_level(page) for page in image_pages(tiff) if page.is_tiled]
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, TypeError):
        return []


def image_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """The directories of a TIFF, in the file's order, up to one that was seen before: damaged files may chain them in a loop."""
    seen = set()
    for page in tiff.pages:
        if page.offset in seen:
            return
        seen.add(page.offset)
        if isinstance(page, tifffile.TiffPage):
            yield page


def largest_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage | None:
    """The page with the most pixels, which is taken for the slide; None if there is no image."""
    return max(image_pages(tiff), key=lambda page: page.imagewidth * page.imagelength, default=None)


def check_whole(path: Path) -> None:
    """Check that a TIFF is complete; an interrupted copy is not.

    :raises SlideError: tiles lie beyond the end of the file.
    """
    levels = tiled_levels(path)
    length = path.stat().st_size if levels else 0
    beyond = sum(int(((level.offsets + level.counts > length) & (level.counts > 0)).sum()) for level in levels)
    if beyond:
        total = sum(level.counts.size for level in levels)
        raise SlideError(
            f"{path.name} is cut short: {beyond} of {total} tiles lie beyond its end", "copy or export it again"
        )


def _level(page: tifffile.TiffPage) -> TiledLevel:
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    offsets, counts = (np.array(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    obstacle = _obstacle(page)
    planes = offsets.size // (across * down)
    if planes * across * down != offsets.size or counts.size != offsets.size:
        raise ValueError("the number of tiles does not fit the size")
    shape = (planes * down, across)
    return TiledLevel(
        size=(page.imagewidth, page.imagelength),
        tile=(page.tilewidth, page.tilelength),
        offsets=offsets.reshape(shape),
        counts=counts.reshape(shape),
        head=b"" if obstacle else _head(page),
        obstacle=obstacle,
    )


def _obstacle(page: tifffile.TiffPage) -> str:
    if page.compression != _JPEG:
        return f"its tiles are compressed by {getattr(page.compression, 'name', page.compression)}, not JPEG"
    if page.photometric not in (_RGB, _YCBCR):
        return f"its colours are {getattr(page.photometric, 'name', page.photometric)}"
    if page.samplesperpixel != 3 or page.bitspersample != 8 or page.planarconfig != 1:
        return "its samples are not three interleaved channels of 8 bits"
    return ""


def _head(page: tifffile.TiffPage) -> bytes:
    *tables, _ = _segments(page.jpegtables) if page.jpegtables else (b"",)
    return b"\xff\xd8" + (_RGB_HEADER if page.photometric == _RGB else _YCBCR_HEADER) + b"".join(tables)


def _segments(data: bytes) -> Iterator[bytes]:
    """The marker segments after the start of image, without JFIF and Adobe markers; last, all data from the scan or end on."""
    if data[:2] != bytes([0xFF, _START]):
        raise ValueError("no JPEG data: the start of image is missing")
    position = 2
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            raise ValueError("damaged JPEG data: a marker is missing")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in (_SCAN, _END):
            yield data[position:]
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if end < position + 4:
            raise ValueError("damaged JPEG data: a segment without length")
        if marker not in (_JFIF, _ADOBE):
            yield data[position:end]
        position = end
    raise ValueError("damaged JPEG data: neither a scan nor an end")
