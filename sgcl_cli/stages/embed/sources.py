"""What is embedded, and where its pixels come from: stored patches, a folder of images, or slides under coordinates."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, peers
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex, of_ours
from sgcl_cli.artefacts.results import Failure
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.decoders import Source as Decoder
from sgcl_cli.engine.loader import Batch, Called, Failed, Loader, Missing, StoredPatches, decode_jpeg
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ArtefactError, ConfigError


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


class Source(Protocol):
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
        """Batches of what is to be done, across the borders of bags; each is valid until the next but one is asked for.

        Closing it ends the processes that decode or read.

        :param sharers: processes of this machine that divide its cores.
        """

    def show(self, slide_id: str, corner: tuple[int, int]) -> NDArray[np.uint8]:
        """One patch, uint8 (size, size, 3), by its level-0 corner.

        :raises SgclError: it cannot be read.
        """

    def picture(self, slide_id: str) -> NDArray[np.uint8] | None:
        """The whole slide, reduced, uint8 (H, W, 3); None where there is no picture of it."""


@dataclass
class Decoded:
    """Pixels that the loader decodes: of stored patches, or of images."""

    id: str
    kind: Kind
    bags: list[Bag]
    decoder: Decoder
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def arrivals(
        self, todo: Sequence[Todo], config: EmbedConfig, runtime: Runtime, sharers: int
    ) -> Generator[Batch | Missing | Failed]:
        rows = [np.arange(each.bag.start + each.done, each.bag.start + each.bag.count) for each in todo]
        every = np.concatenate([np.zeros(0, np.int64), *rows])
        order = [every[at : at + config.batch] for at in range(0, len(every), config.batch)]
        workers = engine.loading_workers(config.workers, runtime, sharers)
        with Loader(self.decoder, batch=config.batch, workers=workers, pin=runtime.on_cuda) as loader:
            for batch in loader.batches(order):
                if isinstance(batch, Failed):
                    yield from loader.one_by_one(batch)
                else:
                    yield batch

    def show(self, slide_id: str, corner: tuple[int, int]) -> NDArray[np.uint8]:
        bag = next(bag for bag in self.bags if bag.slide_id == slide_id)
        row = int((bag.columns["coords"] == corner).all(axis=1).argmax())
        pixels = np.empty((self.decoder.size, self.decoder.size, 3), np.uint8)
        self.decoder.into(bag.start + row, pixels)
        return pixels

    def picture(self, slide_id: str) -> NDArray[np.uint8] | None:
        return stored_picture(next(bag for bag in self.bags if bag.slide_id == slide_id).path)


def images(config: EmbedConfig, card: EncoderCard) -> Decoded:
    """A folder of class folders of images, prepared as an encoder wants them.

    :raises ConfigError: settings that are for slides.
    """
    if config.slides is not None:
        raise ConfigError("--slides is for patches of slides", f"{config.patches} holds images; leave it out")
    side = card.resize or card.input_size
    folder = ImageFolder.open(config.patches, config.groups, crop=side, interpolation=card.interpolation)
    columns = {"name": [*folder.names], "label": folder.label, "group": [*folder.groups] if folder.groups else None}
    identity = replace(folder, groups=None).id
    attributes = {"label_names": json.dumps(list(folder.label_names)), "source_identity": identity}
    bag = Bag(folder.name, folder.id, folder.folder, 0, len(folder), columns, attributes, None, tolerant=True)
    return Decoded(folder.id, Kind(), [bag], Called(folder.read, side))


def patches(config: EmbedConfig) -> Source:
    """Stored patches, or with ``--slides`` the places of patches on slides.

    :raises ConfigError: settings that do not go together, or mixed resolutions.
    :raises ArtefactError: no patches, or none with pixels.
    """
    if config.groups:
        raise ConfigError(
            "--groups is for a folder of class folders of images", "patches of slides stand in labels.csv"
        )
    folder = Path(config.patches)
    ours = _of_ours(folder)
    if config.slides is not None:
        from sgcl_cli.stages.embed import slide_source  # OpenSlide and OpenCV come with it

        return slide_source.of_ours(config) if ours else slide_source.of_peers(config)
    if not ours:
        raise ConfigError(
            f"{folder} holds a peer's coordinates, and no pixels", "add --slides FOLDER, where the slides are"
        )
    damaged: dict[Path, ArtefactError] = {}
    index = PatchIndex.open(folder, pixels=True, damaged=damaged)
    bags = [bag_of(file, int(index.starts[number])) for number, file in enumerate(index.files)]
    return Decoded(index.id, kind_of(index), bags, StoredPatches(index), failed(damaged, folder))


def _of_ours(folder: Path) -> bool:
    """Whether the first file that can be opened is one of ``sgcl tile``; so it is said where there is none."""
    for path in (path for tree in layout.trees(folder) for path in layout.files(tree)):
        with contextlib.suppress(ArtefactError):
            return of_ours(path)
    return True


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
