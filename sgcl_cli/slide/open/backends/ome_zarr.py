"""OME-Zarr, versions 0.4 and 0.5: folders with one array per level of an image; needs zarr.

Only local folders are opened, and only codecs that decode bytes and do nothing else are allowed.
Source: https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends.base import Library
from sgcl_cli.slide.open.backends.image import unsupported

_CODECS = frozenset(
    {"bytes", "blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "crc32c", "transpose", "sharding_indexed"}
)
_UM = {"micrometer": 1.0, "millimeter": 1e3, "nanometer": 1e-3, "centimeter": 1e4, "meter": 1e6}
_HINT = "check that it is a complete OME-Zarr image of version 0.4 or 0.5"


class OmeZarr:
    """The first image of an OME-Zarr folder; a ``Backend``."""

    library: Library = "zarr"

    def __init__(self, path: Path) -> None:
        """Read the metadata.

        :raises SlideError: zarr is not installed, no image, a stack of planes, more than 8 bits a sample, or other codecs.
        """
        self._path = path
        library = _library(path)
        with self._translated():
            group = library.open_group(library.storage.LocalStore(path, read_only=True), mode="r")
            image = _image(dict(group.attrs))
            self._axes = [str(axis["name"]).lower() for axis in image["axes"]]
            self._arrays = [group[_inside(level["path"])] for level in image["datasets"]]
            for array in self._arrays:
                _check_supported(path, array, self._axes)
            self.level_sizes: tuple[tuple[int, int], ...] = tuple(self._size(array.shape) for array in self._arrays)
            self.properties: Mapping[str, str] = _properties(image) | self._tiles()
        self.size: tuple[int, int] = self.level_sizes[0]
        (width, height), sizes = self.size, self.level_sizes
        self.downsamples: tuple[float, ...] = tuple((width / size[0] + height / size[1]) / 2 for size in sizes)

    def read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``Backend``."""
        (width, height), limits = size, self.level_sizes[level]
        x, y = (round(place / self.downsamples[level]) for place in location)
        left, right = max(0, x), min(limits[0], x + width)
        top, bottom = max(0, y), min(limits[1], y + height)
        pixels = np.zeros((height, width, 4), np.uint8)
        if left >= right or top >= bottom:
            return pixels
        chosen = {"x": slice(left, right), "y": slice(top, bottom), "c": slice(0, 3)}
        with self._translated():
            part = np.asarray(self._arrays[level][tuple(chosen.get(name, 0) for name in self._axes)], np.uint8)
        kept = [name for name in self._axes if name in chosen]
        part = part if "c" in kept else part[..., None]
        part = part.transpose([[*kept, "c"].index(name) for name in "yxc"])
        place = pixels[top - y : bottom - y, left - x : right - x]
        place[..., :3] = part
        place[..., 3] = 255
        return pixels

    def cache(self, capacity: int) -> None:
        """Without effect: decoded chunks are not cached."""

    def close(self) -> None:
        """Without effect: no file stays open between reads."""

    def _size(self, shape: Sequence[int]) -> tuple[int, int]:
        return int(shape[self._axes.index("x")]), int(shape[self._axes.index("y")])

    def _tiles(self) -> dict[str, str]:
        """Sizes of the chunks or shards under OpenSlide's names of tile sizes, so that ``Slide`` checks them."""
        found: dict[str, str] = {}
        for level, array in enumerate(self._arrays):
            width, height = self._size(getattr(array, "shards", None) or array.chunks)
            found[f"openslide.level[{level}].tile-width"] = str(width)
            found[f"openslide.level[{level}].tile-height"] = str(height)
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except SlideError:
            raise
        except Exception as error:  # on damaged folders zarr and its codecs raise exceptions of any class
            raise SlideError(
                f"{self._path.name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}", _HINT
            ) from error


def _library(path: Path) -> Any:
    """zarr, imported when a folder needs it.

    :raises SlideError: it is not installed.
    """
    try:
        import zarr
        import zarr.storage
    except ImportError as error:
        raise SlideError(f"{path.name} needs zarr, which is not installed", "pip install 'sgcl[zarr]'") from error
    return zarr


def _image(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata of the first image: under ``ome`` in version 0.5, at the top level in 0.4."""
    image: Mapping[str, Any] = attributes.get("ome", attributes)["multiscales"][0]
    return image


def _inside(path: str) -> str:
    """Return ``path`` if it stays within the folder.

    :raises ValueError: it leads out.
    """
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"the path {path} leads out of the folder")
    return path


def _check_supported(path: Path, array: Any, axes: Sequence[str]) -> None:
    """Check that an array is one plane of 8-bit samples, RGB or grey, in allowed codecs.

    :raises SlideError: it is not.
    """
    lengths = dict(zip(axes, array.shape, strict=True))
    if str(array.dtype) != "uint8":
        raise unsupported(path, f"{array.dtype} samples")
    if not {"x", "y"} <= set(axes) <= set("tczyx") or lengths.get("c", 1) not in (1, 3):
        raise unsupported(path, f"{lengths.get('c', 1)} channels along {', '.join(axes)}")
    for name in ("t", "z"):
        if lengths.get(name, 1) > 1:
            raise SlideError(
                f"{path.name} is a stack of {lengths[name]} images along {name}, not a slide",
                "export the image you need as a separate file",
            )
    unknown = sorted(_codecs(array.metadata.to_dict()) - _CODECS)
    if unknown:
        raise SlideError(
            f"{path.name} uses codec {', '.join(unknown)}, which is not supported",
            f"convert it to one of {', '.join(sorted(_CODECS))}",
        )


def _codecs(metadata: Any) -> set[str]:
    """Names of all codecs, filters and compressors of an array, including those within shards."""
    if isinstance(metadata, list | tuple):
        return set().union(*map(_codecs, metadata)) if metadata else set()
    if not isinstance(metadata, Mapping):
        return set()
    listed = [metadata.get(key) for key in ("codecs", "index_codecs", "filters", "compressor")]
    given = [one for part in listed for one in (part if isinstance(part, list | tuple) else [part]) if one is not None]
    names = {str(one.get("name", one.get("id"))) for one in given}
    return names.union(*(_codecs(one.get("configuration")) for one in given))


def _properties(image: Mapping[str, Any]) -> dict[str, str]:
    """Resolution of level 0 in µm per pixel under OpenSlide's names; empty if its scale has no unit of length."""
    first = image["datasets"][0].get("coordinateTransformations") or []
    common = image.get("coordinateTransformations") or []
    found = {}
    for number, axis in enumerate(image["axes"]):
        name, unit = str(axis["name"]).lower(), _UM.get(str(axis.get("unit", "")).lower())
        if name in "xy" and unit is not None:
            scales = [step["scale"][number] for step in (*first, *common) if step.get("type") == "scale"]
            if scales:
                found[f"openslide.mpp-{name}"] = repr(float(np.prod(scales)) * unit)
    return found
