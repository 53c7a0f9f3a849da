"""Feature files (sgcl.features): the embeddings of one slide, or of one folder of class folders, in one HDF5 file.

``FeatureWriter`` stores unfinished work as raw rows and a row count under ``.part/`` and converts it to HDF5 at the end, so that
an interrupted slide is continued. ``open_features`` also reads files of CLAM, TRIDENT and STAMP, and plain .pt and .npy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import hdf5, layout, names, open_files, peers, reading, store
from sgcl_cli.artefacts.store import TEXT, Attribute, Column, Schema
from sgcl_cli.errors import ArtefactError

SCHEMA = Schema(
    name="sgcl.features",
    version=1,
    columns=(
        Column("features", ("float16", "float32"), ("N", "D"), "one embedding per patch"),
        Column("coords", ("int64",), ("N", 2), "x, y of the top-left corner at level 0, pixels", required=False),
        Column("grid", ("int32",), ("N", 2), "column, row in the slide's lattice", required=False),
        Column(
            "name",
            (TEXT,),
            ("N",),
            "relative path of the image, if the source is a folder of images",
            required=False,
        ),
        Column("label", ("int16",), ("N",), "class of the patch, -1 unknown; names in label_names", required=False),
        Column("group", (TEXT,), ("N",), "group of the image (such as the patient), if known", required=False),
        Column(
            "unreadable",
            (TEXT,),
            ("lost",),
            "patches or images that could not be read and have no row: position in the source, reason; JSON",
            required=False,
        ),
    ),
    attributes=(
        Attribute("id", str, "hash of the format, the settings, the encoder and the patches"),
        Attribute("slide_id", str, "name of the slide or folder"),
        Attribute("encoder", str, "name of the encoder"),
        Attribute("encoder_sha256", str, "SHA-256 of the encoder's weights"),
        Attribute(
            "encoder_feed",
            str,
            "input size, mean, std, resizing, layer and pooling, JSON; the same for all files of a folder",
            required=False,
        ),
        Attribute(
            "encoder_mpp", np.floating, "resolution at which the encoder was trained, µm per pixel", required=False
        ),
        Attribute("dim", np.integer, "D"),
        Attribute("patches_id", str, "id of the patches"),
        Attribute("patches_path", str, "path of the patches, relative to this folder", required=False),
        Attribute("pixels", str, "origin of the pixels: stored (with the patches), or slides", required=False),
        Attribute(
            "pretrain_slides",
            str,
            "identities of the slides that the encoder was trained on, JSON list",
            required=False,
        ),
        Attribute(
            "probe_slides",
            str,
            "identities of the slides, or ids of the image folders, whose labels a probe used while the encoder trained, "
            "JSON list",
            required=False,
        ),
        Attribute(
            "source_identity",
            str,
            "identity of the slide; for a folder of images its id, which does not depend on groups",
            required=False,
        ),
        Attribute("label_names", str, "names of the classes, JSON list", required=False),
        Attribute("config", str, "the settings that affect the result, JSON"),
        Attribute(
            "rounding_max",
            np.floating,
            "largest absolute difference between the encoder's float32 output and the stored features",
            required=False,
        ),
        Attribute("rounding_mean", np.floating, "mean of these differences", required=False),
    ),
)


_TEXTS = ("id", "encoder", "encoder_sha256", "encoder_feed", "patches_id", "patches_path", "pixels", "source_identity")
PARTS = ".part"
_FARTHEST = 2**31  # level-0 pixels
_WHOLE = "get the file again"


@dataclass(frozen=True)
class Rounding:
    """Absolute differences between float32 features and stored features.

    :ivar largest: maximum.
    :ivar total: sum.
    :ivar count: number of stored values.
    """

    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    def after(self, features: NDArray[Any], stored: NDArray[Any]) -> Rounding:
        """Include the differences of further rows (n, D); the result does not depend on how rows are batched."""
        if stored.dtype == features.dtype or not stored.size:
            return Rounding(self.largest, self.total, self.count + stored.size)
        differences = np.abs(features.astype(np.float64) - stored.astype(np.float64))
        total = np.cumsum(np.concatenate([[self.total], differences.sum(axis=1)]))[-1]
        return Rounding(max(self.largest, float(differences.max())), float(total), self.count + stored.size)

    def joined(self, other: Rounding) -> Rounding:
        """Combine with the differences of other rows."""
        return Rounding(max(self.largest, other.largest), self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        """Mean difference; 0 without values."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True)
class FeatureFile:
    """The embeddings of one slide or folder; columns that the file does not have are None.

    :ivar path: the file.
    :ivar slide_id: name of the slide or folder.
    :ivar features: float16 or float32 (N, D).
    :ivar coords: int64 (N, 2), x and y of the top-left corners, level-0 pixels.
    :ivar grid: int32 (N, 2), column and row in the slide's lattice.
    :ivar name: relative paths of images (N).
    :ivar label: int16 (N,), indices into ``label_names``; -1 unknown.
    :ivar group: groups of images (N).
    :ivar label_names: names of the classes.
    :ivar attributes: those of ``SCHEMA``; files of other tools have few of them.
    :ivar geometry: attributes of ``coords``.
    """

    path: Path
    slide_id: str
    features: NDArray[Any]
    coords: NDArray[np.int64] | None = None
    grid: NDArray[np.int32] | None = None
    name: tuple[str, ...] | None = None
    label: NDArray[np.int16] | None = None
    group: tuple[str, ...] | None = None
    label_names: tuple[str, ...] = ()
    attributes: Mapping[str, Any] | None = None
    geometry: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def id(self) -> str:
        """Identity of the file; for files of other tools a hash of the content."""
        if self.attributes and "id" in self.attributes:
            return str(self.attributes["id"])
        return store.artefact_id("foreign features", {}, [store.file_sha256(self.path)])


@dataclass(frozen=True)
class FeatureSet:
    """The feature files of a folder, sorted by slide id."""

    folder: Path
    files: tuple[FeatureFile, ...]

    @property
    def id(self) -> str:
        """Identity of the folder: a hash of the ids of its files."""
        return store.artefact_id("folder", {}, sorted(file.id for file in self.files))

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return int(self.files[0].features.shape[1])

    def by_slide(self) -> dict[str, FeatureFile]:
        """The files by slide id."""
        return {file.slide_id: file for file in self.files}


def open_features(path: str | Path, *, mapped: bool = False) -> FeatureSet:
    """Open a folder of features: sgcl, CLAM (h5_files or pt_files), TRIDENT (``features_<encoder>``), STAMP, or plain .pt, .npy.

    :param mapped: memory-map features, read-only, if they are contiguous in the file, as in files of sgcl; each such file
        remains open.
    :raises ArtefactError: no such folder, no features, different dimensions, two encoders in one folder, damaged files.
    """
    folder = Path(path)
    if folder.is_file():
        return FeatureSet(folder.parent, (open_file(folder, mapped=mapped),))
    if not folder.is_dir():
        raise ArtefactError(f"no such folder: {folder}", "give the folder written by sgcl embed")
    found = layout.features_trees(folder)
    if len(found) > 1:
        found_twice = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise ArtefactError(f"{folder} contains several folders of features: {found_twice}", "give one of them")
    inner = found[0] if found else folder
    paths = sorted(
        (p for p in inner.iterdir() if p.suffix in (".h5", ".pt", ".npy") and not p.name.startswith(".")),
        key=lambda p: (p.stem, p.suffix),
    )
    paths = [p for i, p in enumerate(paths) if i == 0 or paths[i - 1].stem != p.stem]
    if not paths:
        raise ArtefactError(f"no features in {inner}", "run sgcl embed first, and give its output folder")
    if mapped:
        open_files.allow(len(paths))
    files = tuple(open_file(p, mapped=mapped) for p in paths)
    names.refuse_twins((file.slide_id, file.path) for file in files)
    for file in files[1:]:
        if file.features.shape[1] != files[0].features.shape[1]:
            raise ArtefactError(
                f"{file.path.name} has {file.features.shape[1]} dimensions, {files[0].path.name} {files[0].features.shape[1]}",
                "a folder must contain the features of one encoder",
            )
        ours, first = (f.attributes or {} for f in (file, files[0]))
        if ours.get("encoder_sha256") != first.get("encoder_sha256"):
            raise ArtefactError(
                f"{file.path.name} and {files[0].path.name} come from different encoders",
                "embed all slides with one encoder",
            )
        if ours.get("encoder_feed") != first.get("encoder_feed"):
            raise ArtefactError(
                f"{file.path.name} and {files[0].path.name} were embedded in different ways: {ours.get('encoder_feed')}, "
                f"{first.get('encoder_feed')}",
                "embed all slides with the same --layer, --pool and --input-size",
            )
    return FeatureSet(folder, files)


def stored_bytes(path: str | Path) -> int:
    """Total bytes of the feature files below a folder, or of one file; 0 without any."""
    path = Path(path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in (".h5", ".pt", ".npy")]
    return sum(file.stat().st_size for file in files)


def open_file(path: str | Path, *, mapped: bool = False) -> FeatureFile:
    """Open one feature file of any supported format, see ``open_features``.

    :raises ArtefactError: missing, damaged, or without a two-dimensional array of finite numbers.
    """
    path = Path(path)
    if path.suffix == ".h5":
        return _open_h5(path, mapped)
    slide_id = names.of_file(path)
    array = _open_npy(path, mapped) if path.suffix == ".npy" else _open_pt(path)
    return FeatureFile(path, slide_id, _features(array, path))


@dataclass(frozen=True)
class Header:
    """Attributes and size of a feature file of sgcl.

    :ivar attributes: those of ``SCHEMA``.
    :ivar rows: number of rows.
    :ivar dim: dimensions of an embedding.
    :ivar unreadable: positions in the source without a row -> why.
    """

    attributes: dict[str, Any]
    rows: int
    dim: int
    unreadable: dict[int, str]

    @property
    def rounding(self) -> Rounding:
        """Rounding by conversion to the stored data type."""
        count = self.rows * self.dim
        mean = float(self.attributes.get("rounding_mean", 0.0))
        return Rounding(float(self.attributes.get("rounding_max", 0.0)), mean * count, count)


def read_header(path: Path) -> Header:
    """Read the header of a feature file of sgcl, without its features.

    :raises ArtefactError: missing, damaged or of another format.
    """
    with store.opened(path, SCHEMA) as file:
        entries = store.texts_of(file["unreadable"], path) if "unreadable" in file else []
        shape, attributes = file["features"].shape, store.attributes_of(file, path)
    names.checked(attributes["slide_id"], path)
    with reading.understood(path, store.MAKE_AGAIN):
        unreadable = {int(row): str(reason) for row, reason in map(reading.parse_json, entries)}
    return Header(attributes, int(shape[0]), int(shape[1]), unreadable)


def _open_h5(path: Path, mapped: bool = False) -> FeatureFile:
    with store.opened(path) as file:
        if "format" in file.attrs:
            SCHEMA.check(file, path)
        name = next((key for key in ("features", "feats") if isinstance(file.get(key), h5py.Dataset)), None)
        if name is None:
            raise ArtefactError(f"{path} has neither 'features' nor 'feats'", "give a folder of feature files")
        attributes = store.attributes_of(file, path)
        if file[name].dtype.kind not in "fiu":
            raise ArtefactError(f"{path}: '{name}' is {file[name].dtype}, not numbers", _WHOLE)
        array = _array(file[name], path, mapped)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        array = _features(array, path)
        columns: dict[str, Any] = {"coords": _coords(file, len(array), attributes, path)}
        for key, shape in (("grid", (len(array), 2)), ("label", (len(array),))):
            if key in file and file[key].shape == shape and file[key].dtype.kind in "iu":
                columns[key] = file[key][:]
        for key in ("name", "group"):
            if key in file and file[key].shape == (len(array),):
                columns[key] = tuple(store.texts_of(file[key], path))
        geometry = peers.read_geometry(file["coords"], path) if columns["coords"] is not None else None
    kept = {key: value for key, value in attributes.items() if key not in _TEXTS or isinstance(value, str)}
    return FeatureFile(
        path=path,
        slide_id=names.checked(attributes["slide_id"], path) if "slide_id" in attributes else names.of_file(path),
        features=array,
        label_names=reading.texts_in(attributes, "label_names", path),
        attributes=kept,
        geometry=geometry,
        **columns,
    )


def _coords(file: h5py.File, rows: int, attributes: Mapping[str, Any], path: Path) -> NDArray[np.int64] | None:
    """Corners int64 (rows, 2), level-0 pixels; None if absent, or in another unit, such as STAMP's in µm.

    :raises ArtefactError: not one position per row, or beyond any slide.
    """
    data = file.get("coords")
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiu":
        return None
    coords = data[:]
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    if coords.shape != (rows, 2):
        raise ArtefactError(f"{path} has {rows} rows of features, and coords {coords.shape}", "embed this slide again")
    unit = str(attributes.get("unit", store.attributes_of(data, path).get("unit", "px")))
    whole = coords.dtype.kind in "iu" or (coords.dtype.kind == "f" and bool((coords == np.rint(coords)).all()))
    if not whole or unit != "px":
        return None
    if rows and not -_FARTHEST < coords.min() <= coords.max() < _FARTHEST:
        raise ArtefactError(f"{path}: 'coords' reach beyond any slide", store.MAKE_AGAIN)
    placed: NDArray[np.int64] = coords.astype(np.int64)
    return placed


def _array(data: h5py.Dataset, path: Path, mapped: bool) -> NDArray[Any]:
    offset = data.id.get_offset() if mapped and data.size else None
    if offset is None:
        array: NDArray[Any] = data[:]
        return array
    try:
        return np.memmap(path, data.dtype, "r", offset, data.shape)
    except OSError as error:
        raise reading.unreadable(path, error, "HDF5", _WHOLE) from error


def _open_npy(path: Path, mapped: bool) -> NDArray[Any]:
    """Open by memory map, which cannot be larger than the file even if the header is forged."""
    try:
        array = np.load(reading.plain(path), mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise reading.unreadable(path, error, "a plain .npy array", _WHOLE) from error
    except Exception as error:  # a damaged header, which is a Python expression, can raise anything
        raise ArtefactError(
            f"{path} is not a plain .npy array: {error}", "arrays of Python objects are refused"
        ) from error
    return array if mapped or not isinstance(array, np.ndarray) else np.array(array)


def _open_pt(path: Path) -> NDArray[Any]:
    import torch

    from sgcl_cli.artefacts import tensors

    value = tensors.load(path, "plain tensor file", "files with Python objects are refused")
    if isinstance(value, dict):
        value = value.get("features", value.get("feats"))
    if not isinstance(value, torch.Tensor):
        raise ArtefactError(f"{path} contains no tensor of features", "expected a tensor (N, D)")
    tensors.check_dense(value, str(path))
    if value.dtype not in (torch.float16, torch.float32, torch.float64):
        if not value.dtype.is_floating_point:
            raise ArtefactError(f"{path}: features are {value.dtype} {tuple(value.shape)}", "expected numbers (N, D)")
        value = value.float()
    array: NDArray[Any] = value.detach().numpy()
    return array


def _features(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ArtefactError(
            f"{path}: features are {array.dtype} {array.shape}, not numbers (N, D)", "give one row per patch"
        )
    if not np.isfinite(array).all():
        raise ArtefactError(f"{path} has features that are not finite", "embed this slide again, with --precision fp32")
    return array


def sweep_parts(folder: Path, unfinished: Collection[str]) -> None:
    """Remove rows of interrupted runs that belong to none of the unfinished slides."""
    for path in (folder / PARTS).glob("*"):
        if path.stem not in unfinished and path.suffix in (".rows", ".json"):
            path.unlink(missing_ok=True)


class FeatureWriter:
    """Writer of one feature file, row by row; continues rows of an interrupted run with the same id.

    :param path: final name of the file.
    :param identity: id of the finished file; unfinished rows with another id are discarded.
    :param dim: dimensions of an embedding.
    :param dtype: stored data type, float16 or float32.
    :ivar done: number of rows written.
    :ivar lost: positions in the source that could not be read and are left out -> why.
    :ivar rounding: rounding of the rows by conversion to ``dtype``.
    """

    def __init__(self, path: str | Path, identity: str, dim: int, dtype: str) -> None:
        self.path = Path(path)
        self.identity = identity
        self.dim = dim
        self.dtype = np.dtype(dtype)
        part = self.path.parent / PARTS
        self._rows_path = part / f"{self.path.stem}.rows"
        self._count_path = part / f"{self.path.stem}.json"
        self.done = 0
        self.lost: dict[int, str] = {}
        self.rounding = Rounding()

    @property
    def position(self) -> int:
        """Next position in the source."""
        return self.done + len(self.lost)

    def kept(self) -> int:
        """Restore the state of an interrupted run; returns the position from which to continue."""
        self.done, self.lost, self.rounding = 0, {}, Rounding()
        try:
            count = reading.parse_json(reading.plain(self._count_path).read_text(encoding="utf-8"))
            stored = self._rows_path.stat().st_size // (self.dim * self.dtype.itemsize)
            mine = {"id": self.identity, "dim": self.dim, "dtype": self.dtype.name}
            if any(count.get(name) != value for name, value in mine.items()) or stored < count["rows"]:
                return 0
            done, lost = int(count["rows"]), {int(row): str(reason) for row, reason in count["lost"]}
            rounding = Rounding(**count["rounding"])
        except (OSError, *reading.MISTAKEN):
            return 0
        self.done, self.lost, self.rounding = done, lost, rounding
        return self.position

    def __enter__(self) -> Self:
        with store.writing(self.path):
            self._rows_path.parent.mkdir(parents=True, exist_ok=True)
            self.kept()
            self._rows = self._rows_path.open("r+b" if self.done else "w+b")
            self._rows.truncate(self.done * self.dim * self.dtype.itemsize)
            self._rows.seek(0, os.SEEK_END)
        return self

    def append(self, features: NDArray[Any]) -> None:
        """Add rows (n, D).

        :raises ArtefactError: a value is not finite in the stored data type, or the disk is full.
        """
        with np.errstate(over="ignore"):
            rows = features.astype(self.dtype)
        if not np.isfinite(rows).all():
            remedy = (
                "use --dtype float32" if np.isfinite(features).all() else "use --precision fp32, or check the encoder"
            )
            raise ArtefactError(f"features of {self.path.stem} are not finite as {self.dtype.name}", remedy)
        with store.writing(self.path):
            self._rows.write(rows.tobytes())
        self.done += len(rows)
        self.rounding = self.rounding.after(features, rows)

    def lose(self, reason: str) -> None:
        """Leave out the next position of the source."""
        self.lost[self.position] = reason

    def checkpoint(self) -> None:
        """Flush the rows so far to disk, so that they survive a crash; does nothing for a finished file."""
        if self._rows.closed:
            return
        with store.writing(self.path):
            self._rows.flush()
            os.fsync(self._rows.fileno())
        count = {
            "id": self.identity,
            "rows": self.done,
            "dim": self.dim,
            "dtype": self.dtype.name,
            "lost": [*self.lost.items()],
            "rounding": asdict(self.rounding),
        }
        store.write_text(self._count_path, json.dumps(count))

    def finish(
        self, columns: Mapping[str, Any], attributes: Mapping[str, Any], geometry: Mapping[str, Any] | None = None
    ) -> None:
        """Convert the rows to the HDF5 file and remove them.

        :param columns: columns other than the features, without lost rows.
        :param attributes: root attributes of ``SCHEMA``.
        :param geometry: attributes of ``coords``, as in the file of patches.
        """
        with store.writing(self.path):
            self._rows.flush()
        values = {
            "id": self.identity,
            "dim": self.dim,
            "rounding_max": self.rounding.largest,
            "rounding_mean": self.rounding.mean,
            **attributes,
        }
        with store.atomic(self.path) as temporary:
            with hdf5.created(temporary) as file:
                unreadable = [json.dumps(entry) for entry in self.lost.items()] or None
                store.fill(file, SCHEMA, {**columns, "unreadable": unreadable}, values)
                target = file.create_dataset("features", shape=(self.done, self.dim), dtype=self.dtype)
                self._copy_rows(target)
                if geometry and "coords" in file:
                    places = file["coords"].attrs
                    for key, value in geometry.items():
                        places[key] = value
            store.verify(temporary, SCHEMA)
        self._rows.close()
        self._rows_path.unlink(missing_ok=True)
        self._count_path.unlink(missing_ok=True)

    def _copy_rows(self, target: Any, block: int = 8192) -> None:
        self._rows.seek(0)
        for start in range(0, self.done, block):
            count = min(block, self.done - start)
            data = self._rows.read(count * self.dim * self.dtype.itemsize)
            target[start : start + count] = np.frombuffer(data, self.dtype).reshape(count, self.dim)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk, reported by append
            self._rows.close()
