"""CZI files of Zeiss that OpenSlide does not open, such as those with JPEG XR tiles; needs pylibCZIrw.

Source: https://zeiss.github.io/libczi/. Coordinates are relative to the corner of all subblocks, which need not be (0, 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends.base import Library
from sgcl_cli.slide.open.backends.image import unsupported

EXTENSION = ".czi"
_PIXELS = ("Bgr24", "Gray8")
_PLANES = "TZCVHIBR"  # dimensions that must have length 1
_SMALLEST_LEVEL = 1024  # pixels of the longer side
_WHITE = (1.0, 1.0, 1.0)


class Czi:
    """A slide decoded by libCZI; a ``Backend``. Each level halves the sides of the one before, using the pyramid in the file."""

    library: Library = "czi"

    def __init__(self, path: Path, refused: str = "") -> None:
        """Open ``path``.

        :param refused: OpenSlide's error, repeated in the message if pylibCZIrw is not installed.
        :raises SlideError: pylibCZIrw is not installed, the file is damaged, a stack of planes, or more than 8 bits a sample.
        """
        self._name = path.name
        self._open = ExitStack()
        with self._translated():
            self._reader = self._open.enter_context(_library(path, refused).open_czi(str(path)))
        try:
            with self._translated():
                _check_supported(path, self._reader)
                whole = self._reader.total_bounding_rectangle_no_pyramid
                self._corner = int(whole.x), int(whole.y)
                self.size: tuple[int, int] = int(whole.w), int(whole.h)
                self.properties: Mapping[str, str] = _properties(self._reader.metadata)
        except SlideError:
            self.close()
            raise
        levels = 1
        while max(self.size) >> levels >= _SMALLEST_LEVEL and min(self.size) >> levels:
            levels += 1
        self.level_sizes: tuple[tuple[int, int], ...] = tuple(
            (self.size[0] >> level, self.size[1] >> level) for level in range(levels)
        )
        self.downsamples: tuple[float, ...] = tuple(float(1 << level) for level in range(levels))

    def read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``Backend``; areas that were not scanned are white."""
        factor, (width, height) = 1 << level, size
        x, y = (round(place / factor) for place in location)
        limits = self.level_sizes[level]
        left, right = max(0, x), min(limits[0], x + width)
        top, bottom = max(0, y), min(limits[1], y + height)
        pixels = np.zeros((height, width, 4), np.uint8)
        if left >= right or top >= bottom:
            return pixels
        corner = self._corner[0] + left * factor, self._corner[1] + top * factor
        extent = (right - left) * factor, (bottom - top) * factor
        with self._translated():
            bgr = self._reader.read(roi=(*corner, *extent), zoom=1 / factor, background_pixel=_WHITE)
        if bgr.shape[:2] != (bottom - top, right - left) or bgr.dtype != np.uint8:
            raise SlideError(f"{self._name} cannot be read: libCZI returned shape {bgr.shape}", "the file is damaged")
        place = pixels[top - y : bottom - y, left - x : right - x]
        place[..., :3] = bgr[..., ::-1]
        place[..., 3] = 255
        return pixels

    def cache(self, capacity: int) -> None:
        """Without effect: libCZI has its own cache."""

    def close(self) -> None:
        """See ``Backend``."""
        self._open.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
            raise SlideError(
                f"{self._name} cannot be read: {error}",
                "the file is damaged or of an unsupported kind; export it again",
            ) from error


def _library(path: Path, refused: str) -> Any:
    """pylibCZIrw, imported when a file needs it.

    :raises SlideError: it is not installed.
    """
    try:
        from pylibCZIrw import czi
    except ImportError as error:
        why = refused or f"{path.name} is a CZI"
        raise SlideError(f"{why}; pylibCZIrw may be able to read it", "pip install 'sgcl[czi]'") from error
    return czi


def _check_supported(path: Path, reader: Any) -> None:
    """Check that the file holds one plane of 8-bit samples.

    :raises SlideError: a stack of planes, or other samples.
    """
    kinds = sorted({str(kind) for kind in reader.pixel_types.values()} - set(_PIXELS))
    if kinds:
        raise unsupported(path, f"{kinds[0]} pixels")
    for name, (first, last) in reader.total_bounding_box.items():
        if name in _PLANES and last - first > 1:
            raise SlideError(
                f"{path.name} is a stack of {last - first} images along {name}, not a slide",
                "export the image you need as a separate file",
            )


def _properties(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Resolution in µm per pixel under OpenSlide's names; CZI records metres."""
    scaling = metadata["ImageDocument"]["Metadata"].get("Scaling") or {}
    distances = (scaling.get("Items") or {}).get("Distance") or []
    found = {}
    for distance in [distances] if isinstance(distances, dict) else distances:
        axis, value = str(distance.get("@Id", "")).lower(), float(distance.get("Value") or 0)
        if axis in ("x", "y") and value > 0:
            found[f"openslide.mpp-{axis}"] = repr(value * 1e6)
    return found
