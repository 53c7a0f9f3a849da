"""Data of the study: corpora of patches for pretraining and labelled sets for scoring, from the real slides."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
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

_NOTE = "material.json"


@dataclass(frozen=True)
class Set:
    """Labelled patches or images.

    :ivar folder: of the patches or images.
    :ivar side: side of the encoder's input in pixels, the centre of ``whole``.
    :ivar whole: side of a patch or image in pixels.
    :ivar id: of the content.
    :ivar groups: table name,group of images, such as the patient of each.
    """

    folder: Path
    side: int
    whole: int
    id: str
    groups: Path | None = None


@dataclass(frozen=True)
class Task:
    """A probe fitted on one part of the features and scored on another.

    :ivar train, test: name of the set, and a slide of it or None for the whole set.
    :ivar patients: table slide_id,patient_id.
    """

    name: str
    train: tuple[str, str | None]
    test: tuple[str, str | None]
    metric: str
    development: bool = False
    patients: Path | None = None


@dataclass(frozen=True)
class Material:
    """Data of a study; ``corpora`` are folders of patches, without and with the hold-out."""

    corpora: Mapping[str, Path]
    sets: Mapping[str, Set]
    tasks: tuple[Task, ...]

    @property
    def set_ids(self) -> dict[str, str]:
        """The id of each set."""
        return {name: given.id for name, given in self.sets.items()}


def prepare(study: Study, source: Path, out: Path, *, workers: int | None) -> Material:
    """Prepare all data in ``out``; finished parts are kept. ``source`` is the folder of real data.

    :raises ConfigError: the study names an unknown task.
    :raises SgclError: as ``sgcl tile``.
    """
    from sgcl_cli.stages.tile import tile  # imports OpenSlide, which reopen() does not need

    data = study.data
    drawn = _annotations(data, source, out / "annotations")
    common = {"mpp": data["mpp"], "patch_size": data["patch_size"], "workers": workers}
    labelled = {"annotations": str(drawn), "mask_values": data["masks"]["values"]}
    folders = {name: out / "tiles" / name for name in ("inductive", *(["transductive"] * _transductive(study)))}
    if isinstance(data["corpus"], str):
        ready_corpus(study, source / data["corpus"], folders["inductive"])
    else:
        for name, folder in folders.items():
            slides = [*data["corpus"], *(data["hold_out"] if name == "transductive" else [])]
            table = out / "slides" / f"{name}.csv"
            rows = [{"path": str((source / slide["path"]).resolve()), "mpp": slide.get("mpp", "")} for slide in slides]
            store.write_csv(table, ("path", "mpp"), rows)
            tile(TileConfig(list=str(table), out=str(folder), **common, **labelled))
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
    for task in data["tasks"]:
        sets |= images(task, source, out)
    _note(study, folders, sets, out)
    return Material(folders, sets, _chosen(study, out))


def reopen(study: Study, out: Path) -> Material:
    """The data that ``prepare`` wrote to ``out``, possibly on another machine; the slides are not needed.

    :raises ConfigError: no prepared data, or data of another study.
    """
    path = out / _NOTE
    if not path.is_file():
        raise ConfigError(f"{path} is absent", "prepare the study where the slides are, or set SGCL_DATA")
    note = store.read_json(path)
    if note["data"] != study.data or (_transductive(study) and "transductive" not in note["corpora"]):
        raise ConfigError(f"{out} was prepared for another study", "prepare this one where the slides are")
    sets = {
        name: Set(out / folder, side, whole, found, groups and out / groups)
        for name, (folder, side, whole, found, groups) in note["sets"].items()
    }
    return Material({name: out / folder for name, folder in note["corpora"].items()}, sets, _chosen(study, out))


def _note(study: Study, corpora: Mapping[str, Path], sets: Mapping[str, Set], out: Path) -> None:
    note = {
        "data": dict(study.data),
        "corpora": {name: folder.relative_to(out).as_posix() for name, folder in corpora.items()},
        "sets": {
            name: (
                part.folder.relative_to(out).as_posix(),
                part.side,
                part.whole,
                part.id,
                part.groups and part.groups.relative_to(out).as_posix(),
            )
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
    """Side of the encoder's input: 224 of 256 pixels in proportion, as for encoders of ``sgcl pretrain``."""
    return patch_size * 7 // 8 // 2 * 2


def _compartment(name: str, compartments: Mapping[str, str]) -> str | None:
    return next((kind for start, kind in compartments.items() if name.startswith(start)), None)


def _annotations(data: Mapping[str, Any], source: Path, folder: Path) -> Path:
    """Write annotations named by slide: spots with their compartments, and copies of the masks."""
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
    """Tile one patch around every spot with a compartment, from coordinates in the format of TRIDENT."""
    from sgcl_cli.slide.open.reader import Slide
    from sgcl_cli.stages.tile import tile

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


def ready_corpus(study: Study, source: Path, folder: Path) -> None:
    """Copy a corpus of tiled patches.

    :raises ConfigError: it is absent, or a row needs the slides of the hold-out in it.
    """
    files = sorted((source / "patches").glob("*.h5"))
    if not files:
        raise ConfigError(f"{source} has no patches/*.h5", "name a folder that sgcl tile wrote, or another --size")
    if _transductive(study):
        raise ConfigError(
            f"the corpus {source.name} is tiled already, so no hold-out can be added", "leave out transductive rows"
        )
    for path in files:
        _copy(path, folder / "patches" / path.name)


def images(task: Mapping[str, Any], source: Path, out: Path) -> dict[str, Set]:
    """The training and test images of a task and of its development data, copied so that ``out`` is complete."""
    every = round(1 / task["development"]) if "development" in task else 0
    groups: dict[str, str] = {}
    parts = ["train", "test", *(["development-train", "development-test"] if every else [])]
    folders = {part: out / "images" / f"{task['name']} {part}" for part in parts}
    for part in ("train", "test"):
        for number, (path, label, group) in enumerate(_listed(source / task[part])):
            copied = f"{label}/{path.name}"
            _copy(path, folders[part] / copied)
            if every and part == "train":
                half = "development-train" if number % every else "development-test"
                _copy(path, folders[half] / copied)
            if group:
                groups[copied] = group
    table = None
    if groups:
        table = out / "images" / f"{task['name']}.groups.csv"
        store.write_csv(table, ("name", "group"), [{"name": name, "group": group} for name, group in groups.items()])
    side = int(task["side"])
    return {
        f"{task['name']} {part}": Set(folder, side, side, ImageFolder.open(folder, crop=side).id, table)
        for part, folder in folders.items()
    }


def _listed(source: Path) -> list[tuple[Path, str, str]]:
    """Images with their classes and groups, from class folders or a table image,label[,group] with relative paths.

    :raises ConfigError: no images, or two images of a class with the same name.
    """
    if source.suffix == ".csv":
        rows = store.read_table(source, ["image", "label"])
        found = [(source.parent / row["image"], row["label"], row.get("group") or "") for row in rows]
    else:
        images = sorted(path for path in source.glob("*/*") if path.suffix.lower() in EXTENSIONS)
        found = [(path, path.parent.name, "") for path in images]
    if not found:
        raise ConfigError(f"{source} has no images", "give class folders of images, or a table image,label[,group]")
    name, count = Counter(f"{label}/{path.name}" for path, label, _ in found).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{source} has {count} images {name}", "give them different file names")
    return found


def _copy(source: Path, path: Path) -> None:
    """Copy a file with its modification time, which is part of the identity of images; an existing file is kept."""
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
    tasks = [
        Task("her2st", ("spots-train", None), ("spots-test", None), "auroc", patients=table),
        Task("bcss", ("masks-train", None), ("masks-test", None), "auroc"),
        Task("her2st sections", ("spots-train", first), ("spots-train", second), "auroc", development=True),
    ]
    for given in data["tasks"]:
        name, metric = given["name"], given.get("metric", "balanced_accuracy")
        tasks.append(Task(name, (f"{name} train", None), (f"{name} test", None), metric))
        if "development" in given:
            halves = ((f"{name} development-train", None), (f"{name} development-test", None))
            tasks.append(Task(f"{name} halves", *halves, metric, development=True))
    return tuple(sorted(tasks, key=lambda task: task.development))
