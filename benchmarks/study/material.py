"""From the real slides to patches: the corpora to pretrain on, and the labelled sets to be scored on."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.study.protocol import Study
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.images import EXTENSIONS, ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile import tile

_NOTE = "material.json"


@dataclass(frozen=True)
class Set:
    """Labelled patches or images that are embedded.

    :ivar side: pixels of the encoder's input, the centre of ``whole``. :ivar id: of what is embedded.
    """

    folder: Path
    side: int
    whole: int
    id: str


@dataclass(frozen=True)
class Task:
    """A probe fitted on one part of the features and scored on another.

    :ivar train: the set, and a slide of it where it is not the whole. :ivar patients: table slide_id,patient_id.
    """

    name: str
    train: tuple[str, str | None]
    test: tuple[str, str | None]
    metric: str
    development: bool = False
    patients: Path | None = None


@dataclass(frozen=True)
class Material:
    """What a study works on. ``corpora``: folders of patches, without and with the hold-out."""

    corpora: Mapping[str, Path]
    sets: Mapping[str, Set]
    tasks: tuple[Task, ...]

    @property
    def set_ids(self) -> dict[str, str]:
        """The id of each set."""
        return {name: given.id for name, given in self.sets.items()}


def prepare(study: Study, source: Path, out: Path, *, workers: int | None) -> Material:
    """Tile what is not tiled yet under ``out``; ``source`` is the folder of real data.

    :raises ConfigError: the study names a task that there is not.
    :raises SgclError: as ``sgcl tile``.
    """
    data = study.data
    drawn = _annotations(data, source, out / "annotations")
    common = {"mpp": data["mpp"], "patch_size": data["patch_size"], "workers": workers}
    labelled = {"annotations": str(drawn), "mask_values": data["masks"]["values"]}
    corpora = {"inductive": data["corpus"]}
    if _transductive(study):
        corpora["transductive"] = [*data["corpus"], *data["hold_out"]]
    folders = {}
    for name, slides in corpora.items():
        table = out / "slides" / f"{name}.csv"
        rows = [{"path": str((source / slide["path"]).resolve()), "mpp": slide.get("mpp", "")} for slide in slides]
        store.write_csv(table, ("path", "mpp"), rows)
        folders[name] = out / "tiles" / name
        tile(TileConfig(list=str(table), out=str(folders[name]), **common, **labelled))
    side = centre(data["patch_size"])
    sets: dict[str, Set] = {}
    for part in ("train", "test"):
        folder = _spots(data, source, out, part, {**common, **labelled})
        sets[f"spots-{part}"] = Set(folder, side, data["patch_size"], PatchIndex.open(folder).id)
        folder = out / "tiles" / f"masks-{part}"
        slides = tuple(str(source / "labelled" / f"{name}.tif") for name in data["masks"][part])
        extra = {"slide_mpp": data["masks"]["mpp"], "overlap": data["masks"]["overlap"]}
        tile(TileConfig(slides=slides, out=str(folder), **common, **labelled, **extra))
        sets[f"masks-{part}"] = Set(folder, side, data["patch_size"], PatchIndex.open(folder).id)
    sets |= _images(data["images"], source, out)
    _note(study, folders, sets, out)
    return Material(folders, sets, _chosen(study, out))


def reopen(study: Study, out: Path) -> Material:
    """What ``prepare`` left under ``out``, perhaps on another machine; the slides are not needed.

    :raises ConfigError: nothing was prepared there, or for another study.
    """
    path = out / _NOTE
    if not path.is_file():
        raise ConfigError(f"{path} is absent", "prepare the study where the slides are, or set SGCL_DATA")
    note = store.read_json(path)
    if note["data"] != study.data or (_transductive(study) and "transductive" not in note["corpora"]):
        raise ConfigError(f"{out} was prepared for another study", "prepare this one where the slides are")
    sets = {name: Set(out / folder, *others) for name, (folder, *others) in note["sets"].items()}
    return Material({name: out / folder for name, folder in note["corpora"].items()}, sets, _chosen(study, out))


def _note(study: Study, corpora: Mapping[str, Path], sets: Mapping[str, Set], out: Path) -> None:
    note = {
        "data": dict(study.data),
        "corpora": {name: folder.relative_to(out).as_posix() for name, folder in corpora.items()},
        "sets": {
            name: (part.folder.relative_to(out).as_posix(), part.side, part.whole, part.id)
            for name, part in sets.items()
        },
    }
    store.write_json(out / _NOTE, note)


def _transductive(study: Study) -> bool:
    return any(row.group == "transductive" for row in study.rows)


def _chosen(study: Study, out: Path) -> tuple[Task, ...]:
    tasks = _tasks(study.data, out)
    unknown = sorted({*study.tasks} - {task.name for task in tasks})
    if unknown:
        raise ConfigError(f"there is no task '{unknown[0]}'")
    return tuple(task for task in tasks if not study.tasks or task.name in study.tasks)


def centre(patch_size: int) -> int:
    """What an encoder sees of a patch: 224 of 256 pixels, in proportion, as encoders of ``sgcl pretrain`` do."""
    return patch_size * 7 // 8 // 2 * 2


def _compartment(name: str, compartments: Mapping[str, str]) -> str | None:
    return next((kind for start, kind in compartments.items() if name.startswith(start)), None)


def _annotations(data: Mapping[str, Any], source: Path, folder: Path) -> Path:
    """The spots by compartment, and the masks as they are, named by slide."""
    spots = data["spots"]
    for slide in (*spots["train"], *spots["test"]):
        with (source / "labelled" / f"{slide}.spots.csv").open(newline="", encoding="utf-8") as file:
            rows = [{**row, "name": _compartment(row["name"], spots["compartments"])} for row in csv.DictReader(file)]
        columns = ("x", "y", "name", "radius_px")
        kept = [{column: row[column] for column in columns} for row in rows if row["name"]]
        store.write_csv(folder / f"{slide}.csv", columns, kept)
    for slide in (*data["masks"]["train"], *data["masks"]["test"]):
        _copy(source / "labelled" / f"{slide}.tumour_mask.png", folder / f"{slide}.png")
    return folder


def _spots(data: Mapping[str, Any], source: Path, out: Path, part: str, settings: Mapping[str, Any]) -> Path:
    """One patch around every spot that has a compartment: its coordinates in TRIDENT's form, read by ``sgcl tile``."""
    coordinates, folder = out / "coordinates" / part, out / "tiles" / f"spots-{part}"
    slides = [source / "labelled" / f"{name}.tif" for name in data["spots"][part]]
    for path in slides:
        with Slide(path) as slide:
            side = data["patch_size"] * data["mpp"] / slide.mpp
        rows = store.read_table(out / "annotations" / f"{path.stem}.csv", ["x", "y", "name"])
        centres = np.array([[float(row["x"]), float(row["y"])] for row in rows])
        _write_coordinates(coordinates / f"{path.stem}.h5", centres, side, data["patch_size"])
    tile(TileConfig(slides=tuple(map(str, slides)), out=str(folder), from_coords=str(coordinates), **settings))
    return folder


def _write_coordinates(path: Path, centres: np.ndarray, side: float, patch_size: int) -> None:
    corners = np.floor(centres - side / 2 + 0.5).astype(np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic(path) as temporary, h5py.File(temporary, "w") as file:
        coords = file.create_dataset("coords", data=corners[(corners >= 0).all(axis=1)])
        coords.attrs.update({"patch_size": patch_size, "patch_size_level0": side})


def _images(given: Mapping[str, Any], source: Path, out: Path) -> dict[str, Set]:
    """crc5's two parts, and its training part divided once more; copies, so that ``out`` has all that a study needs."""
    every = round(1 / given["development"])
    for part in ("train", "test"):
        for kind in sorted(path for path in (source / given[part]).iterdir() if path.is_dir()):
            images = sorted(path for path in kind.iterdir() if path.suffix.lower() in EXTENSIONS)
            for number, path in enumerate(images):
                _copy(path, out / "images" / part / kind.name / path.name)
                if part == "train":
                    half = "development-train" if number % every else "development-test"
                    _copy(path, out / "images" / half / kind.name / path.name)
    side, found = int(given["side"]), {}
    for name in ("train", "test", "development-train", "development-test"):
        folder = out / "images" / name
        found[name if name.startswith("dev") else f"images-{name}"] = Set(
            folder, side, side, ImageFolder.open(folder, crop=side).id
        )
    return found


def _copy(source: Path, path: Path) -> None:
    """With its modification time, by which images are told apart; what is there already stays."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic(path) as temporary:
            shutil.copy2(source, temporary)


def _tasks(data: Mapping[str, Any], out: Path) -> tuple[Task, ...]:
    patients: Sequence[dict[str, str]] = [
        {"slide_id": slide, "patient_id": patient} for slide, patient in data["spots"]["patients"].items()
    ]
    table = out / "slides" / "patients.csv"
    store.write_csv(table, ("slide_id", "patient_id"), patients)
    first, second = data["spots"]["train"]
    return (
        Task("her2st", ("spots-train", None), ("spots-test", None), "auroc", patients=table),
        Task("bcss", ("masks-train", None), ("masks-test", None), "auroc"),
        Task("crc5", ("images-train", None), ("images-test", None), "balanced_accuracy"),
        Task("her2st sections", ("spots-train", first), ("spots-train", second), "auroc", development=True),
        Task("crc5 halves", ("development-train", None), ("development-test", None), "balanced_accuracy", True),
    )
