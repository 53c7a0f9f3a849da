"""The interface between ``Slide`` and the libraries that decode pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sgcl_cli.errors import SlideError

Library = Literal["openslide", "plain", "czi", "zarr"]


class Backend(Protocol):
    """The levels of one open image, from fine to coarse.

    Sizes are (width, height), places (x, y). A backend translates the exceptions of its library into ``SlideError``.

    :ivar library: name of the library, as artefacts record it.
    :ivar size: of level 0, pixels.
    :ivar level_sizes: of each level, pixels.
    :ivar downsamples: of each level, level-0 pixels per pixel.
    :ivar properties: metadata under OpenSlide's names; may be empty.
    """

    @property
    def library(self) -> Library: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def downsamples(self) -> tuple[float, ...]: ...
    @property
    def properties(self) -> Mapping[str, str]: ...

    def read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A rectangle, uint8 (height, width, 4), RGBA; transparent outside the image.

        :param location: of its corner, level-0 pixels.
        :param size: of the rectangle, pixels of the level.
        :raises SlideError: it cannot be decoded; other places can still be read.
        """

    def cache(self, capacity: int) -> None:
        """Set the size of the cache of decoded tiles, bytes; without effect in libraries that do not support it."""

    def close(self) -> None:
        """Close the file."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate errors of Pillow and of the operating system into ``SlideError``."""
    try:
        yield
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, OSError) as error:
        raise SlideError(f"{path.name} cannot be read: {error}", "the image is damaged; copy it again") from error
