"""Sources of patches: stored patches, a folder of images, or slides with the coordinates of patches."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex, of_ours
from sgcl_cli.artefacts.results import Failure
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.decoders import PixelSource
from sgcl_cli.engine.loader import Batch, Called, Failed, Loader, Missing, StoredPatches
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.stages.embed.bags import Bag, Kind, PatchSource, Todo, bag_of, failed, kind_of, stored_picture


@dataclass
class Decoded:
    """Stored patches or images, which the loader decodes; a ``PatchSource``."""

    id: str
    kind: Kind
    bags: list[Bag]
    decoder: PixelSource
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def arrivals(
        self, todo: Sequence[Todo], config: EmbedConfig, runtime: Runtime, sharers: int
    ) -> Generator[Batch | Missing | Failed]:
        order = [batch for each in todo for batch in _batches(each, config.batch)]
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


def _batches(todo: Todo, size: int) -> Iterator[NDArray[np.int64]]:
    """Global indices of the remaining rows of a bag, batch by batch.

    Batches begin at multiples of ``size`` within the bag: the last bits of a feature depend on how many rows are encoded at once,
    and this way not on the other bags or on interruptions.
    """
    for begin in range(todo.done // size * size, todo.bag.count, size):
        first, end = max(begin, todo.done), min(begin + size, todo.bag.count)
        yield np.arange(todo.bag.start + first, todo.bag.start + end)


def images(config: EmbedConfig, card: EncoderCard) -> Decoded:
    """A folder of class folders of images, resized and cropped for an encoder.

    :raises ConfigError: a setting that is for slides only.
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


def patches(config: EmbedConfig) -> PatchSource:
    """Stored patches, or with ``--slides`` the slides with the coordinates of patches.

    :raises ConfigError: settings that exclude each other, or patches of several resolutions.
    :raises ArtefactError: there are no patches, or only coordinates without pixels.
    """
    if config.groups:
        raise ConfigError(
            "--groups is for a folder of class folders of images",
            "for slides give patients in labels.csv to sgcl evaluate",
        )
    folder = Path(config.patches)
    ours = _of_ours(folder)
    if config.slides is not None:
        from sgcl_cli.stages.embed import slide_source  # OpenSlide and OpenCV come with it

        return slide_source.of_ours(config) if ours else slide_source.of_peers(config)
    if not ours:
        raise ConfigError(
            f"{folder} holds coordinates of CLAM or TRIDENT without pixels",
            "add --slides FOLDER, the folder of the slides",
        )
    damaged: dict[Path, ArtefactError] = {}
    index = PatchIndex.open(folder, pixels=True, damaged=damaged)
    bags = [bag_of(file, int(index.starts[number])) for number, file in enumerate(index.files)]
    return Decoded(index.id, kind_of(index), bags, StoredPatches(index), failed(damaged, folder))


def _of_ours(folder: Path) -> bool:
    """Whether the first file that can be opened was written by ``sgcl tile``; True where there is none."""
    for path in (path for tree in layout.trees(folder) for path in layout.files(tree)):
        with contextlib.suppress(ArtefactError):
            return of_ours(path)
    return True
