"""Pixels to a file that OpenSlide opens: pyramids of JPEG tiles in classic TIFF, plain or in Aperio's layout.

tifffile writes JPEG only with imagecodecs, which the project does not need otherwise; the few structures that such a
file takes are written here (TIFF 6.0, sections 2, 15 and 22, and TIFF Technical Note 2 for JPEG). What each reader looks
for is described on OpenSlide's pages about the Aperio and generic tiled TIFF formats.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from synthetic.stain import Image

TILE = 256
_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_FORMAT = {_SHORT: "H", _LONG: "I", _RATIONAL: "II"}


@dataclass(frozen=True)
class Directory:
    """One image of a TIFF file.

    :param size: (width, height), pixels; :param chunks: JPEG files, row by row: tiles, or one strip.
    :param tiled: chunks are tiles of :data:`TILE` pixels, else one strip; :param reduced: it is a smaller copy of the
        first image; :param mpp: um per pixel for the resolution tags, or none; :param description: ImageDescription.
    """

    size: tuple[int, int]
    chunks: list[bytes]
    tiled: bool = True
    reduced: bool = False
    mpp: float | None = None
    description: str = ""


def write_generic(path: Path, image: Image, mpp: float, quality: int) -> None:
    """A generic tiled TIFF, each level half the one before, with its resolution in pixels per centimetre."""
    levels = list(_levels(image, 2))
    directories = [
        Directory(_size(level), _tiles(level, quality), reduced=i > 0, mpp=mpp * 2**i) for i, level in enumerate(levels)
    ]
    write_tiff(path, directories)


def write_aperio(path: Path, image: Image, mpp: float, quality: int) -> None:
    """Aperio's layout: level 0, a thumbnail in one strip, then levels each a quarter of the one before."""
    width, height = _size(image)
    about = f"Aperio Image Library v12.0.0 \r\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q={quality}"
    description = f"{about}|AppMag = {round(10 / mpp)}|MPP = {mpp:g}|Filename = synthetic"
    first, *rest = _levels(image, 4)
    scale = min(512 / width, 512 / height, 1.0)
    thumbnail = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    write_tiff(
        path,
        [
            Directory(_size(first), _tiles(first, quality), description=description),
            Directory(_size(thumbnail), [_jpeg(thumbnail, quality)], tiled=False, description=about),
            *(Directory(_size(level), _tiles(level, quality), description=about) for level in rest),
        ],
    )


def _size(image: Image) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _levels(image: Image, factor: int) -> Iterator[Image]:
    """The image and its area-averaged reductions by ``factor``, down to at most two tiles a side."""
    yield image
    while max(image.shape[:2]) > 2 * TILE:
        size = -(-image.shape[1] // factor), -(-image.shape[0] // factor)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        yield image


def _jpeg(image: Image, quality: int) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling="420")
    return encoded


def _tiles(image: Image, quality: int) -> list[bytes]:
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % TILE, 0, -width % TILE, cv2.BORDER_REPLICATE)
    return [
        _jpeg(padded[y : y + TILE, x : x + TILE], quality)
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]


def write_tiff(path: Path, directories: list[Directory]) -> None:
    """Write a little-endian classic TIFF of JPEG images in YCbCr; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as stream:
        stream.write(struct.pack("<2sHI", b"II", 42, 0))
        link = 4
        for directory in directories:
            offsets = []
            for chunk in directory.chunks:
                offsets.append(stream.tell())
                stream.write(chunk + b"\0" * (len(chunk) % 2))
            start, block, next_link = _directory_block(stream.tell(), _entries(directory, offsets))
            stream.write(block)
            stream.seek(link)
            stream.write(struct.pack("<I", start))
            stream.seek(0, os.SEEK_END)
            link = next_link
    partial.replace(path)


def _entries(directory: Directory, offsets: list[int]) -> dict[int, tuple[int, list[int] | bytes]]:
    """Tag -> (type, values), as TIFF 6.0 names them."""
    width, height = directory.size
    counts = [len(chunk) for chunk in directory.chunks]
    entries: dict[int, tuple[int, list[int] | bytes]] = {
        254: (_LONG, [int(directory.reduced)]),
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [7]),
        262: (_SHORT, [6]),
        277: (_SHORT, [3]),
        284: (_SHORT, [1]),
        530: (_SHORT, [2, 2]),
    }
    if directory.tiled:
        entries |= {322: (_LONG, [TILE]), 323: (_LONG, [TILE]), 324: (_LONG, offsets), 325: (_LONG, counts)}
    else:
        entries |= {273: (_LONG, offsets), 278: (_LONG, [height]), 279: (_LONG, counts)}
    if directory.description:
        entries[270] = (_ASCII, directory.description.encode("ascii") + b"\0")
    if directory.mpp is not None:
        per_centimetre = [round(10_000 / directory.mpp * 1000), 1000]
        entries |= {282: (_RATIONAL, per_centimetre), 283: (_RATIONAL, per_centimetre), 296: (_SHORT, [3])}
    return entries


def _directory_block(position: int, entries: dict[int, tuple[int, list[int] | bytes]]) -> tuple[int, bytes, int]:
    """A directory and the values that do not fit in it.

    :return: where the directory starts, the bytes to write at ``position``, where its link to the next one stands.
    """
    values = b""
    rows = b""
    for tag, (kind, content) in sorted(entries.items()):
        if isinstance(content, bytes):
            count, raw = len(content), content
        else:
            count = len(content) // len(_FORMAT[kind])
            raw = struct.pack(f"<{len(content)}{_FORMAT[kind][0]}", *content)
        if len(raw) > 4:
            offset = position + len(values)
            values += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack("<I", offset)
        rows += struct.pack("<HHI", tag, kind, count) + raw.ljust(4, b"\0")
    start = position + len(values)
    block = values + struct.pack("<H", len(entries)) + rows + struct.pack("<I", 0)
    return start, block, start + 2 + len(rows)
