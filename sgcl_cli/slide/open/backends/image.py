"""PNG and JPEG files, which are decoded as a whole and therefore limited in size.

Source: PNG (ISO/IEC 15948), section 11.2.2.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends.base import Library, translated

EXTENSIONS = (".png", ".jpg", ".jpeg")
MOST_PIXELS = 200_000_000  # decoded at once; at most 4 bytes each
REMEDY = (
    "convert it to a tiled pyramid, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90"
)


class WholeImage:
    """A PNG or JPEG file, decoded into memory; a ``Backend`` with one level."""

    library: Library = "plain"

    def __init__(self, path: Path) -> None:
        """Decode ``path``.

        :raises SlideError: the file is damaged or too large, has more than 8 bits a sample, or is not RGB, grey or of a palette.
        """
        self._path = path
        with translated(path):
            self._handle = openslide.ImageSlide(_decoded(path))
        self.size: tuple[int, int] = self._handle.dimensions
        self.level_sizes: tuple[tuple[int, int], ...] = (self.size,)
        self.downsamples: tuple[float, ...] = (1.0,)
        self.properties: Mapping[str, str] = {}

    def read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``Backend``."""
        with translated(self._path):
            return np.asarray(self._handle.read_region(location, level, size))

    def cache(self, capacity: int) -> None:
        """Without effect: the whole image is in memory."""

    def close(self) -> None:
        """See ``Backend``."""
        self._handle.close()


def _decoded(path: Path) -> Image.Image:
    with bounded():
        try:
            image = Image.open(path)
            try:
                _check_supported(path, image)
                image.load()
            except Exception:
                image.close()
                raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise SlideError(
                f"{path.name} has more than {MOST_PIXELS // 10**6} million pixels, too many for a file without tiles",
                REMEDY,
            ) from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise SlideError(
                f"{path.name} cannot be read: {str(error).replace(str(path), path.name)}",
                "the image is damaged; copy it again",
            ) from error
    return image


def _check_supported(path: Path, image: Image.Image) -> None:
    if _sixteen_bits(path, image):
        raise unsupported(path, "more than 8 bits a sample")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise unsupported(path, f"{image.mode} colours")


def _sixteen_bits(path: Path, image: Image.Image) -> bool:
    """Whether samples have more than 8 bits; Pillow would silently reduce those of some PNG files."""
    if image.format == "PNG":
        with path.open("rb") as stream:
            return stream.read(25)[24] > 8
    return image.mode.startswith(("I", "F"))


def unsupported(path: Path, what: str) -> SlideError:
    """The error for samples or colours that are not supported."""
    return SlideError(
        f"{path.name} has {what}; supported are 8 bits of RGB or grey", "convert it, then check its colours"
    )


@contextmanager
def bounded() -> Iterator[None]:
    """Set Pillow's limit of pixels to ``MOST_PIXELS``, and make its warning an error."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
