"""Bags of patches, one file of features each, and what a source of them offers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, peers
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.artefacts.results import Failure
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine.loader import Batch, Failed, Missing, decode_jpeg
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ArtefactError


@dataclass(frozen=True)
class Bag:
    """What becomes one file of features: the global indices ``start`` .. ``start + count - 1``.

    :ivar columns: of the features file, a value a row, or None.
    :ivar tolerant: whether rows that cannot be read are left out; else the first of them costs the bag.
    """

    slide_id: str
    source_id: str
    path: Path
    start: int
    count: int
    columns: dict[str, Any]
    attributes: dict[str, Any]
    geometry: dict[str, Any] | None
    tolerant: bool = False


@dataclass(frozen=True)
class Todo:
    """A bag of which ``done`` rows are there already."""

    bag: Bag
    done: int


@dataclass(frozen=True)
class Kind:
    """What is common to all patches, where it is known: um per pixel, side in pixels, and the overlap in pixels of a patch."""

    mpp: float | None = None
    patch_size: int | None = None
    overlap: int = 0

    @property
    def tree(self) -> str | None:
        """TRIDENT's name for it."""
        if self.mpp is None or self.patch_size is None:
            return None
        return layout.tree_name(mpp=self.mpp, patch_size=self.patch_size, overlap=self.overlap)


class PatchSource(Protocol):
    """Bags, and a way to their pixels.

    :ivar failures: of bags that cannot even be begun.
    :ivar settings: what besides the command's settings decides the result.
    """

    id: str
    kind: Kind
    bags: list[Bag]
    failures: list[Failure]
    warnings: list[str]
    settings: dict[str, Any]

    def arrivals(
        self, todo: Sequence[Todo], config: EmbedConfig, runtime: Runtime, sharers: int
    ) -> Generator[Batch | Missing | Failed]:
        """Batches of what is to be done, in the bags' order; each is valid until the next but one is asked for.

        Closing it ends the processes that decode or read.

        :param sharers: processes of this machine that divide its cores.
        """

    def show(self, slide_id: str, corner: tuple[int, int]) -> NDArray[np.uint8]:
        """One patch, uint8 (size, size, 3), by its level-0 corner.

        :raises SgclError: it cannot be read.
        """

    def picture(self, slide_id: str) -> NDArray[np.uint8] | None:
        """The whole slide, reduced, uint8 (H, W, 3); None where there is no picture of it."""


def kind_of(index: PatchIndex) -> Kind:
    """What all patches of an index have in common."""
    return Kind(index.mpp, index.patch_size, index.patch_size - index.stride)


def bag_of(file: PatchFile, start: int, *, tolerant: bool = False) -> Bag:
    """What a file of patches of ours says of its slide."""
    columns = {"coords": file.coords, "grid": file.grid, "label": file.label}
    attributes: dict[str, Any] = {"source_identity": file.source.get("identity")}
    if file.label is not None:
        attributes["label_names"] = json.dumps(list(file.label_names))
    return Bag(
        file.slide_id, file.id, file.path, start, len(file), columns, attributes, peers.whole(file.geometry), tolerant
    )


def stored_picture(file: Path) -> NDArray[np.uint8] | None:
    """The picture that ``sgcl tile`` left of the slide of a file of patches, uint8 (H, W, 3); None where it is not there."""
    path = layout.thumbnail(file)
    with contextlib.suppress(ArtefactError, OSError):
        return None if path is None else decode_jpeg(path.read_bytes(), str(path))
    return None


def failed(damaged: dict[Path, ArtefactError], root: Path) -> list[Failure]:
    """Files of patches that could not be opened."""
    return [
        Failure(layout.slide_id(path), path.relative_to(root).as_posix(), error.message, error.hint)
        for path, error in damaged.items()
    ]
