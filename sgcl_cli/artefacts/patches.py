"""Patch files (sgcl.patches): the patches of one slide in one HDF5 file, and an index over a folder of such files.

``PatchWriter`` streams the JPEG files of a slide through a temporary file, so that its memory does not grow with the slide.
``PatchIndex`` assigns a global index to every patch of a folder, in order of slide ids, and memory-maps the JPEG data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import hdf5, layout, names, peers, reading, store
from sgcl_cli.artefacts.store import Attribute, Column, Schema
from sgcl_cli.errors import ArtefactError

__all__ = ["SCHEMA", "PatchFile", "PatchIndex", "PatchWriter", "folder_id", "of_ours"]

SCHEMA = Schema(
    name="sgcl.patches",
    version=1,
    columns=(
        Column("coords", ("int64",), ("N", 2), "x, y of the top-left corner at level 0, pixels"),
        Column(
            "grid", ("int32",), ("N", 2), "column, row in the slide's lattice; one step is one stride; -1: no lattice"
        ),
        Column("tissue", ("float32",), ("N",), "share of the patch that is tissue; NaN: not computed"),
        Column("jpeg", ("uint8",), ("bytes",), "all patches' JPEG files end to end", required=False),
        Column("jpeg_offsets", ("int64",), ("N+1",), "patch i is jpeg[offsets[i]:offsets[i + 1]]", required=False),
        Column("label", ("int16",), ("N",), "class of the patch, -1 unknown; names in label_names", required=False),
        Column("label_share", ("float32",), ("N",), "share of the patch that its class covers", required=False),
        Column(
            "blur",
            ("float32",),
            ("N",),
            "blur of the patch, µm: sigma of the Gaussian that makes white noise as smooth; NaN without structure",
            required=False,
        ),
        Column("pen", ("float32",), ("N",), "share of the patch under pen marks or black borders", required=False),
    ),
    attributes=(
        Attribute("id", str, "hash of the format, the settings and the slide's identity"),
        Attribute("slide_id", str, "name of the slide"),
        Attribute("config", str, "the settings that affect the result, JSON"),
        Attribute(
            "source",
            str,
            "size, modification time and identity of the slide, how it was read, and patches that could not be read, JSON",
        ),
        Attribute("label_names", str, "names of the classes, JSON list", required=False),
        Attribute("reason", str, "why there are no patches", required=False),
    ),
)

_BLOCK = 16 * 2**20
_LARGEST = 2**31  # level-0 pixels
_CONFIG = {
    "mpp": reading.number(1e-3, 1e3),
    "patch_size": reading.whole(1, 2**15),
    "overlap": reading.whole(0, 2**15),
    "slide_mpp": reading.number(1e-6, 1e6),
}
_SOURCE = {
    **dict.fromkeys(("name", "identity", "remarks", "tissue_preset", "mpp_source", "path", "path_why"), reading.TEXT),
    "given_mpp": reading.number(1e-6, 1e6),
    "unreadable": reading.listed(reading.listed(reading.whole(-_LARGEST, _LARGEST), count=2)),
    "overhanging": reading.whole(0, _LARGEST),
    "level": reading.whole(0, 1000),
    **dict.fromkeys(("tissue_mm2", "ink_mm2"), reading.number(0, 1e12)),
}


class PatchWriter:
    """Writer of one patch file: ``append`` JPEG files one by one, then ``finish`` with the columns.

    If the ``with`` block is left without ``finish``, no files remain.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lengths: list[int] = []
        self._blob_path = store.temporary_name(self.path.with_name(self.path.name + ".jpeg"))

    def __enter__(self) -> Self:
        with store.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._blob = self._blob_path.open("wb")
        return self

    def append(self, jpeg: bytes) -> None:
        """Add the next patch's JPEG file."""
        with store.writing(self.path):
            self._blob.write(jpeg)
        self._lengths.append(len(jpeg))

    def finish(
        self,
        *,
        coords: NDArray[np.int64],
        grid: NDArray[np.int32],
        tissue: NDArray[np.float32],
        attributes: Mapping[str, Any],
        coords_attributes: Mapping[str, Any],
        pixels: bool,
        label: NDArray[np.int16] | None = None,
        shares: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Assemble the file and rename it to its final name.

        :param coords: int64 (N, 2), level-0 corners, x and y.
        :param grid: int32 (N, 2), column and row in the slide's lattice.
        :param tissue: float32 (N,), share of each patch that is tissue.
        :param attributes: the root attributes of ``SCHEMA``; ``config``, ``source`` and ``label_names`` as plain values.
        :param coords_attributes: attributes of ``coords`` for the readers of CLAM and TRIDENT, and the resolution.
        :param pixels: whether patches are stored; if not, the jpeg columns are absent.
        :param label: int16 (N,), class of each patch, -1 unknown.
        :param shares: the optional float32 columns label_share, blur and pen.
        """
        with store.writing(self.path):
            self._blob.close()
        offsets = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]).astype(np.int64)
        assert not pixels or len(self._lengths) == len(coords)
        texts = {
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for key, value in attributes.items()
        }
        columns: dict[str, Any] = {"coords": coords, "grid": grid, "tissue": tissue, "label": label, **(shares or {})}
        if pixels:
            columns["jpeg_offsets"] = offsets
        with store.atomic(self.path) as temporary:
            with hdf5.created(temporary) as file:
                store.fill(file, SCHEMA, columns, texts)
                for name, value in coords_attributes.items():
                    file["coords"].attrs[name] = value
                if pixels:
                    self._copy_blob(file.create_dataset("jpeg", shape=(int(offsets[-1]),), dtype=np.uint8))
            store.verify(temporary, SCHEMA)

    def _copy_blob(self, target: Any) -> None:
        done = 0
        with self._blob_path.open("rb") as blob:
            while block := blob.read(_BLOCK):
                target[done : done + len(block)] = np.frombuffer(block, np.uint8)
                done += len(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk, reported by append
            self._blob.close()
        self._blob_path.unlink(missing_ok=True)


@dataclass(frozen=True)
class PatchFile:
    """The patches of one slide, with columns in memory and JPEG data on disk; optional columns may be None.

    :ivar path: the file.
    :ivar id: its artefact id.
    :ivar slide_id: name of the slide.
    :ivar coords: int64 (N, 2), level-0 corners, x and y.
    :ivar grid: int32 (N, 2), column and row in the slide's lattice; -1 without one.
    :ivar tissue: float32 (N,), share of each patch that is tissue; NaN if not computed.
    :ivar label: int16 (N,), indices into ``label_names``; -1 unknown.
    :ivar label_names: names of the classes.
    :ivar config: settings of ``sgcl tile`` that affect the result.
    :ivar source: how the slide was read.
    :ivar reason: why there are no patches; "" if there are.
    :ivar geometry: attributes of ``coords``.
    :ivar jpeg_offsets: int64 (N + 1,), patch i is ``jpeg[offsets[i]:offsets[i + 1]]``; None without pixels.
    :ivar jpeg_start: position of the JPEG data in the file, bytes.
    :ivar label_share: float32 (N,), share of each patch covered by its class.
    :ivar blur: float32 (N,), µm.
    :ivar pen: float32 (N,), share of each patch under pen marks or black borders.
    """

    path: Path
    id: str
    slide_id: str
    coords: NDArray[np.int64]
    grid: NDArray[np.int32]
    tissue: NDArray[np.float32]
    label: NDArray[np.int16] | None
    label_names: tuple[str, ...]
    config: dict[str, Any]
    source: dict[str, Any]
    reason: str
    geometry: dict[str, Any]
    jpeg_offsets: NDArray[np.int64] | None
    jpeg_start: int = field(repr=False, default=0)
    label_share: NDArray[np.float32] | None = None
    blur: NDArray[np.float32] | None = None
    pen: NDArray[np.float32] | None = None

    @classmethod
    def open(cls, path: str | Path) -> PatchFile:
        """Read and check one file.

        :raises ArtefactError: missing, damaged, of another format, or with offsets that are not monotone or out of range.
        """
        path = Path(path)
        with store.opened(path, SCHEMA) as file:
            columns = {c.name: file[c.name][:] for c in SCHEMA.columns if c.name in file and c.name != "jpeg"}
            offsets, start = columns.get("jpeg_offsets"), 0
            if (offsets is None) != ("jpeg" not in file):
                raise ArtefactError(f"{path} has only one of 'jpeg' and 'jpeg_offsets'", "make the file again")
            if offsets is not None:
                jpeg = file["jpeg"]
                if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != jpeg.size or (np.diff(offsets) < 0).any():
                    raise ArtefactError(
                        f"{path}: 'jpeg_offsets' does not fit 'jpeg'", "the file is damaged; make it again"
                    )
                if jpeg.chunks is not None:
                    raise ArtefactError(f"{path}: 'jpeg' is not stored contiguously", "make the file again")
                start = (jpeg.id.get_offset() or 0) if jpeg.size else 0
            attributes = store.attributes_of(file, path)
            geometry = peers.read_geometry(file["coords"], path)
        for name in ("coords", "grid"):
            if len(columns[name]) and not -_LARGEST < columns[name].min() <= columns[name].max() < _LARGEST:
                raise ArtefactError(f"{path}: '{name}' reaches beyond any slide", reading.DAMAGED)
        known = reading.texts_in(attributes, "label_names", path)
        label = columns.get("label")
        if label is not None and len(label) and not -1 <= label.min() <= label.max() < len(known):
            raise ArtefactError(
                f"{path} has patches of class {label.max()} and names {len(known)} classes", reading.DAMAGED
            )
        return cls(
            path=path,
            id=attributes["id"],
            slide_id=names.checked(attributes["slide_id"], path),
            coords=columns["coords"],
            grid=columns["grid"],
            tissue=columns["tissue"],
            label=label,
            label_names=known,
            config=reading.typed(
                reading.json_in(attributes, "config", path), _CONFIG, f"{path}: 'config'", reading.DAMAGED
            ),
            source=reading.typed(
                reading.json_in(attributes, "source", path), _SOURCE, f"{path}: 'source'", reading.DAMAGED
            ),
            reason=attributes.get("reason", ""),
            geometry=geometry,
            jpeg_offsets=offsets,
            jpeg_start=start,
            label_share=columns.get("label_share"),
            blur=columns.get("blur"),
            pen=columns.get("pen"),
        )

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def sides(self) -> NDArray[np.float64]:
        """Width and height of a patch in level-0 pixels, float64 (2,).

        :raises ArtefactError: the file does not record it.
        """
        found = peers.sides(self.geometry)
        if found is None:
            raise ArtefactError(f"{self.path}: 'coords' has no attribute patch_size_level0", reading.DAMAGED)
        return found

    @property
    def has_pixels(self) -> bool:
        """Whether JPEG files are stored, not only coordinates."""
        return self.jpeg_offsets is not None

    @cached_property
    def jpeg(self) -> NDArray[np.uint8]:
        """JPEG data of all patches, uint8 (bytes,), memory-mapped."""
        assert self.jpeg_offsets is not None
        size = int(self.jpeg_offsets[-1])
        if size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.jpeg_start, (size,))

    def read(self, row: int) -> bytes:
        """JPEG file of a patch."""
        assert self.jpeg_offsets is not None
        return self.jpeg[self.jpeg_offsets[row] : self.jpeg_offsets[row + 1]].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "jpeg"}


@dataclass(frozen=True)
class PatchIndex:
    """All patches of a folder under one global index, in order of slide ids.

    :ivar folder: the folder.
    :ivar files: one per slide, including slides without patches.
    """

    folder: Path
    files: tuple[PatchFile, ...]

    @classmethod
    def open(
        cls, folder: str | Path, *, pixels: bool = False, damaged: dict[Path, ArtefactError] | None = None
    ) -> PatchIndex:
        """Open an output of ``sgcl tile`` in any layout, or the folder of patches in it.

        :param pixels: whether JPEG files are needed.
        :param damaged: receives the files that cannot be read, which are left out; None: their errors are raised.
        :raises ArtefactError: no such folder, no patches, several layouts, mixed settings, or only coordinates if pixels are
            needed.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ArtefactError(f"no such folder: {folder}", "give the folder written by sgcl tile")
        trees = layout.trees(folder)
        if not trees:
            raise ArtefactError(f"no patches in {folder}", "run sgcl tile first, and give its output folder")
        if len(trees) > 1:
            found = ", ".join(path.relative_to(folder).as_posix() for path in trees)
            raise ArtefactError(f"{folder} contains several folders of patches: {found}", "give one of them")
        inner = trees[0]
        files = tuple(file for path in layout.files(inner) if (file := _opened(path, damaged)) is not None)
        if damaged and not files:
            raise next(iter(damaged.values()))
        names.refuse_twins((file.slide_id, file.path) for file in files)
        for file in files[1:]:
            for key in ("mpp", "patch_size", "overlap"):
                if file.config.get(key) != files[0].config.get(key):
                    raise ArtefactError(
                        f"{file.path} was made with {key} {file.config.get(key)}, "
                        f"{files[0].path.name} with {files[0].config.get(key)}",
                        "tile all slides with the same settings",
                    )
        for file in files:
            if not all(isinstance(file.config.get(key), int | float) for key in ("mpp", "patch_size")):
                raise ArtefactError(f"{file.path} does not record its mpp and patch_size", reading.DAMAGED)
        if sum(map(len, files)) == 0:
            raise ArtefactError(f"no slide in {inner} has patches", "see slides.csv for the reasons")
        if pixels:
            bare = [file.path.name for file in files if not file.has_pixels and len(file)]
            if bare:
                raise ArtefactError(
                    f"{len(bare)} of {len(files)} files in {inner} have coordinates without pixels, first {bare[0]}",
                    "run sgcl tile without --coords-only, or give embed the --slides",
                )
        return cls(folder, files)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Global index of each slide's first patch, int64 (slides + 1,); the last entry is N."""
        return np.concatenate([[0], np.cumsum([len(file) for file in self.files])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def id(self) -> str:
        """Identity of the folder: a hash of the ids of its files."""
        return folder_id([file.id for file in self.files])

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Slide ids, in index order."""
        return tuple(file.slide_id for file in self.files)

    @cached_property
    def slide_of(self) -> NDArray[np.int64]:
        """Position of each patch's slide in ``files``, int64 (N,)."""
        return np.repeat(np.arange(len(self.files)), np.diff(self.starts)).astype(np.int64)

    @cached_property
    def grid(self) -> NDArray[np.int32]:
        """Lattice cells of all patches, int32 (N, 2) as column, row."""
        return np.concatenate([file.grid for file in self.files])

    @cached_property
    def coords(self) -> NDArray[np.int64]:
        """Level-0 corners of all patches, int64 (N, 2) as x, y."""
        return np.concatenate([file.coords for file in self.files])

    @cached_property
    def cells(self) -> NDArray[np.float64]:
        """Positions of the patches in patch widths, float64 (N, 2) as column, row: lattice cells times stride / patch size, or
        level-0 corners / level-0 side of a patch if there is no lattice (grid -1, coordinates of other tools)."""
        parts = []
        for file in self.files:
            on_lattice = len(file) == 0 or int(file.grid.min()) >= 0
            if on_lattice:
                parts.append(file.grid.astype(np.float64) * (self.stride / self.patch_size))
            else:
                parts.append(file.coords.astype(np.float64) / file.sides)
        return np.concatenate(parts)

    @property
    def patch_size(self) -> int:
        """Side of a stored patch in pixels."""
        return int(self.files[0].config["patch_size"])

    @property
    def mpp(self) -> float:
        """Resolution of a stored patch, µm per pixel."""
        return float(self.files[0].config["mpp"])

    @property
    def stride(self) -> int:
        """Step of the lattice in pixels of a stored patch."""
        return self.patch_size - int(self.files[0].config.get("overlap", 0))

    def locate(self, index: int) -> tuple[PatchFile, int]:
        """File and row of a global index."""
        slide = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.files[slide], index - int(self.starts[slide])

    def read(self, index: int) -> bytes:
        """JPEG file of a patch, by global index."""
        file, row = self.locate(index)
        return file.read(row)


def _opened(path: Path, damaged: dict[Path, ArtefactError] | None) -> PatchFile | None:
    try:
        return PatchFile.open(path)
    except ArtefactError as error:
        if damaged is None:
            raise
        damaged[path] = error
        return None


def of_ours(path: Path) -> bool:
    """Whether an HDF5 file has the format of ``sgcl tile``.

    :raises ArtefactError: not an HDF5 file.
    """
    with store.opened(path) as file:
        return str(store.attributes_of(file, path).get("format", "")).startswith(f"{SCHEMA.name}/")


def folder_id(file_ids: Sequence[str]) -> str:
    """Identity of a folder: a hash of the sorted ids of its files."""
    return store.artefact_id("folder", {}, sorted(file_ids))
