"""Bags of patches, one features file each, and the protocol of a source of patches."""

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
    """The patches of one features file: the global indices ``start`` .. ``start + count - 1``.

    :ivar source_id: id of the patches.
    :ivar path: file or folder of the patches.
    :ivar columns: further columns of the features file, a value a row, or None.
    :ivar attributes: further attributes of the features file.
    :ivar geometry: attributes of ``coords``; None where there are no coordinates.
    :ivar tolerant: whether patches that cannot be read are left out; otherwise one of them fails the whole bag.
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
    """A bag, the first ``done`` rows of which are finished."""

    bag: Bag
    done: int


@dataclass(frozen=True)
class Kind:
    """Properties that all patches share.

    :ivar mpp: µm per pixel; None where unknown.
    :ivar patch_size: side of a patch, pixels; None where unknown.
    :ivar overlap: of neighbouring patches, pixels.
    """

    mpp: float | None = None
    patch_size: int | None = None
    overlap: int = 0

    @property
    def tree(self) -> str | None:
        """TRIDENT's name of a folder of such patches; None where resolution or size is unknown."""
        if self.mpp is None or self.patch_size is None:
            return None
        return layout.tree_name(mpp=self.mpp, patch_size=self.patch_size, overlap=self.overlap)


class PatchSource(Protocol):
    """Bags and access to their pixels.

    :ivar failures: bags that cannot be opened.
    :ivar settings: settings of the source that affect the features.
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
        """Batches of the remaining patches, bag by bag; a batch is valid until two more were requested.

        A batch has patches of one bag, and which ones does not depend on ``done``. Closing the generator ends its processes.

        :param sharers: processes on this machine that share its cores.
        """

    def show(self, slide_id: str, corner: tuple[int, int]) -> NDArray[np.uint8]:
        """The patch with this top-left corner (level-0 pixels), uint8 (size, size, 3).

        :raises SgclError: it cannot be read.
        """

    def picture(self, slide_id: str) -> NDArray[np.uint8] | None:
        """A thumbnail of the slide, uint8 (H, W, 3); None where there is none."""


def kind_of(index: PatchIndex) -> Kind:
    """The properties that all patches of an index share."""
    return Kind(index.mpp, index.patch_size, index.patch_size - index.stride)


def bag_of(file: PatchFile, start: int, *, tolerant: bool = False) -> Bag:
    """The bag of a patches file that ``sgcl tile`` wrote."""
    columns = {"coords": file.coords, "grid": file.grid, "label": file.label}
    attributes: dict[str, Any] = {"source_identity": file.source.get("identity")}
    if file.label is not None:
        attributes["label_names"] = json.dumps(list(file.label_names))
    return Bag(
        file.slide_id, file.id, file.path, start, len(file), columns, attributes, peers.whole(file.geometry), tolerant
    )


def stored_picture(file: Path) -> NDArray[np.uint8] | None:
    """The thumbnail that ``sgcl tile`` wrote beside a patches file, uint8 (H, W, 3); None where it is missing or damaged."""
    path = layout.thumbnail(file)
    with contextlib.suppress(ArtefactError, OSError):
        return None if path is None else decode_jpeg(path.read_bytes(), str(path))
    return None


def failed(damaged: dict[Path, ArtefactError], root: Path) -> list[Failure]:
    """Failures of patches files that could not be opened."""
    return [
        Failure(layout.slide_id(path), path.relative_to(root).as_posix(), error.message, error.hint)
        for path, error in damaged.items()
    ]
