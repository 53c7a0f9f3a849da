"""Folders of class folders of images, the usual form of data sets of single patches: <folder>/<class>/<image>."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, reading, store
from sgcl_cli.errors import ArtefactError, LabelError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_LARGEST_SIDE = 2**14


@dataclass(frozen=True)
class ImageFolder:
    """Images of a folder of class folders, sorted by relative path.

    :ivar folder: the folder.
    :ivar names: relative paths (N).
    :ivar label: int16 (N,), indices into ``label_names``.
    :ivar label_names: the class folders, sorted.
    :ivar groups: group of each image (N), such as the patient; None if unknown.
    :ivar crop: side of the centre crop that ``read`` returns, pixels.
    :ivar interpolation: bilinear or bicubic, to resize the shorter side to ``crop`` before the crop; None: no resizing.
    """

    folder: Path
    names: tuple[str, ...]
    label: NDArray[np.int16]
    label_names: tuple[str, ...]
    groups: tuple[str, ...] | None
    crop: int
    interpolation: str | None = None

    @staticmethod
    def is_one(folder: str | Path) -> bool:
        """Whether a folder holds class folders of images rather than patches."""
        folder = Path(folder)
        if not folder.is_dir() or (folder / "patches").is_dir() or layout.trees(folder):
            return False
        return any(path.suffix.lower() in EXTENSIONS for path in folder.glob("*/*"))

    @classmethod
    def open(
        cls, folder: str | Path, groups: str | Path | None = None, *, crop: int, interpolation: str | None = None
    ) -> ImageFolder:
        """List the images, except hidden files.

        :param groups: a table name,group; names are relative paths or file names.
        :param crop: see the class.
        :param interpolation: see the class.
        :raises LabelError: an image is not in the table.
        """
        folder = Path(folder)
        found = sorted(
            path.relative_to(folder)
            for path in folder.glob("*/*")
            if path.suffix.lower() in EXTENSIONS
            and not path.name.startswith(".")
            and not path.parent.name.startswith(".")
        )
        classes = sorted({path.parts[0] for path in found})
        label = np.array([classes.index(path.parts[0]) for path in found], np.int16)
        names = tuple(path.as_posix() for path in found)
        return cls(folder, names, label, tuple(classes), _groups(names, groups), crop, interpolation)

    @property
    def name(self) -> str:
        """Name of the folder, which is also that of its feature file."""
        return self.folder.resolve().name

    @property
    def id(self) -> str:
        """Hash of the names, sizes, modification times and groups of the images."""
        stats = [(name, (self.folder / name).stat()) for name in self.names]
        listing = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
        return store.artefact_id("images", {"groups": self.groups}, listing)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> NDArray[np.uint8]:
        """Centre crop of an image, uint8 (crop, crop, 3), resized before if ``interpolation`` is set.

        :raises ArtefactError: unreadable, larger than 16,384 pixels a side, or smaller than the crop.
        """
        from PIL import Image, UnidentifiedImageError

        path = self.folder / self.names[row]
        try:
            data = reading.plain(path).read_bytes()
        except OSError as error:
            raise reading.unreadable(path, error, "an image", "replace or remove it") from error
        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                smallest = self.crop if self.interpolation is None else 1
                if not smallest <= min(width, height) <= max(width, height) <= _LARGEST_SIDE:
                    raise ArtefactError(
                        f"{path} is {width} x {height} pixels",
                        f"each side must have {smallest} pixels, the encoder's input, to {_LARGEST_SIDE}",
                    )
                colour: Image.Image = image.convert("RGB")
                if self.interpolation is not None:
                    short = min(width, height)
                    width, height = self.crop * width // short, self.crop * height // short
                    colour = colour.resize((width, height), Image.Resampling[self.interpolation.upper()])
                left, top = (width - self.crop) // 2, (height - self.crop) // 2
                return np.asarray(colour.crop((left, top, left + self.crop, top + self.crop)))
        except ArtefactError:
            raise
        except UnidentifiedImageError as error:
            raise ArtefactError(f"{path} is not an image of a known format", "replace or remove it") from error
        except Exception as error:  # Pillow's decoders can raise anything on damaged images
            raise ArtefactError(f"{path} is not a readable image: {error}", "replace or remove it") from error


def _groups(names: tuple[str, ...], table: str | Path | None) -> tuple[str, ...] | None:
    if table is None:
        return None
    rows: Mapping[str, str] = {row["name"]: row["group"] for row in store.read_table(table, ["name", "group"])}
    missing = [name for name in names if name not in rows and Path(name).name not in rows]
    if missing:
        raise LabelError(
            f"{table} has no group for {len(missing)} of {len(names)} images, first '{missing[0]}'", "add them"
        )
    return tuple(rows.get(name) or rows[Path(name).name] for name in names)
