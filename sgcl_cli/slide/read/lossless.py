"""Native tiles as patches, with their JPEG bytes copied instead of encoded again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.read.bands import Patch, WindowSource
from sgcl_cli.slide.read.direct import Direct, OddTileError
from sgcl_cli.slide.tissue import focus
from sgcl_cli.slide.tissue.focus import Encoded

_TOLERANCE = 0.5  # level-0 pixels, largest distance between the edges of a patch and of its tile


def files(
    source: WindowSource, corners: NDArray[np.int64], patch: Patch, quality: int
) -> Iterator[tuple[int, Encoded | SlideError]]:
    """The JPEG file of each patch with its index in ``corners``, or the error if it cannot be read.

    Each file is decoded as a check. Only missing tiles of a sparse file are encoded, as OpenSlide renders them.

    :param corners: int64 (N, 2), level-0 pixels.
    :param quality: JPEG quality of missing tiles.
    :raises SlideError: the slide has no JPEG tiles that can be decoded directly, or a patch is not a tile.
    """
    level = checked(source, corners, patch)
    return _copied(level, _tiles(level, corners, patch), quality)


def checked(source: WindowSource, corners: NDArray[np.int64], patch: Patch) -> Direct:
    """Return the source if the patches are tiles that can be copied.

    :raises SlideError: the slide has no JPEG tiles that can be decoded directly, or a patch is not a tile.
    """
    if not isinstance(source, Direct):
        raise SlideError(f"there are no native JPEG files to copy: {source.why}", "leave out --lossless")
    _tiles(source, corners, patch)
    return source


def _tiles(source: Direct, corners: NDArray[np.int64], patch: Patch) -> NDArray[np.int64]:
    """Column and row of each patch's tile, int64 (N, 2).

    :raises SlideError: a patch is not a tile.
    """
    tile, downsample = source.tiles.level.tile, source.slide.downsamples[source.level]
    side = np.array(tile) * downsample
    found = np.rint(corners / side).astype(np.int64)
    near = np.abs(found * side - corners).max(initial=0)
    far = np.abs((found + 1) * side - corners - patch.extent).max(initial=0)
    if tile != (patch.size, patch.size) or max(near, far) > _TOLERANCE:
        mpp = source.slide.mpp * downsample
        raise SlideError(
            f"{source.slide.path.name}: its tiles are {tile[0]} x {tile[1]} pixels at {mpp:.6g} µm/px, "
            f"the patches {patch.size} x {patch.size} at {source.slide.mpp * patch.extent / patch.size:.6g}",
            f"use --mpp {mpp:.6g} --patch-size {tile[0]}, or leave out --lossless"
            if tile[0] == tile[1]
            else "leave out --lossless: its tiles are not square",
        )
    return found


def _copied(source: Direct, tiles: NDArray[np.int64], quality: int) -> Iterator[tuple[int, Encoded | SlideError]]:
    for position, (column, row) in enumerate(tiles.tolist()):
        try:
            pixels = source.tiles.decode(column, row)
            yield position, Encoded(source.tiles.jpeg(column, row), focus.sample(pixels))
        except OddTileError:
            yield position, focus.encode(source.render(column, row), quality)
        except SlideError as error:
            yield position, error
