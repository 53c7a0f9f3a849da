"""Slides that OpenSlide opens.

Source: https://openslide.org/api/python/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends.base import Library, translated

_MIRAX_INDEX = "Slidedat.ini"


class UnknownFormatError(SlideError):
    """OpenSlide does not recognise the format of a file."""


class OpenSlideBackend:
    """A slide opened by OpenSlide; a ``Backend``."""

    library: Library = "openslide"

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        :raises UnknownFormatError: OpenSlide does not recognise the format.
        :raises SlideError: the file is damaged.
        """
        self._path = path
        self._capacity: int | None = None
        with self._translated():
            self._handle = openslide.OpenSlide(path)
        try:
            with self._translated():
                self.size: tuple[int, int] = self._handle.dimensions
                self.level_sizes: tuple[tuple[int, int], ...] = tuple(self._handle.level_dimensions)
                self.downsamples: tuple[float, ...] = tuple(self._handle.level_downsamples)
                self.properties: Mapping[str, str] = dict(self._handle.properties)
        except SlideError:
            self.close()
            raise

    def read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``Backend``."""
        with self._translated():
            return np.asarray(self._handle.read_region(location, level, size))

    def cache(self, capacity: int) -> None:
        """See ``Backend``."""
        self._capacity = capacity
        self._handle.set_cache(openslide.OpenSlideCache(capacity))

    def close(self) -> None:
        """See ``Backend``."""
        self._handle.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        name = self._path.name
        try:
            with translated(self._path):
                yield
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnknownFormatError(
                f"{name} is not a slide that OpenSlide recognises: {_what_is_missing(self._path) or error}",
                _remedy(self._path),
            ) from error
        except openslide.OpenSlideError as error:
            self._reopen()
            raise SlideError(
                f"{name} cannot be read: {str(error).replace(str(self._path), name)}",
                "the file is damaged or of an unsupported kind; export or copy it again",
            ) from error

    def _reopen(self) -> None:
        """Open the file again, so that other places can be read: after an error OpenSlide repeats it on every call."""
        if hasattr(self, "_handle"):
            with suppress(openslide.OpenSlideError, OSError):
                fresh = openslide.OpenSlide(self._path)
                self._handle.close()
                self._handle = fresh
                if self._capacity is not None:
                    self.cache(self._capacity)


def dicom_series(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM slide; None if OpenSlide cannot open it, which is reported when it is tiled."""
    try:
        with openslide.OpenSlide(path) as slide:
            uid = slide.properties.get("dicom.SeriesInstanceUID")
            return None if uid is None else str(uid)
    except (openslide.OpenSlideError, OSError):
        return None


def _what_is_missing(path: Path) -> str:
    """The folder that a MIRAX slide lacks, which OpenSlide does not report; "" if nothing is missing."""
    folder = path.with_suffix("")
    if path.suffix.lower() != ".mrxs" or (folder / _MIRAX_INDEX).is_file():
        return ""
    what = f"has no {_MIRAX_INDEX}" if folder.is_dir() else "is missing"
    return f"the folder {folder.name} beside it, which holds its pixels, {what}"


def _remedy(path: Path) -> str:
    if path.suffix.lower() == ".mrxs":
        return "copy the .mrxs file together with the whole folder of the same name"
    if path.stat().st_size == 0:
        return "the file is empty; copy it again"
    return "check that it is a whole-slide image and complete"
