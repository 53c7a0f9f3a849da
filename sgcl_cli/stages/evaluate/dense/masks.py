"""Masks of ``sgcl evaluate --dense``: their slides, the groups that are left out together, and the class of each pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.labels import Columns, LabelRow, Labels, read_labels
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.artefacts.spelling import in_quotes, listed, lookalikes
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import LabelError
from sgcl_cli.slide.annotations import files
from sgcl_cli.slide.annotations.files import MaskReading
from sgcl_cli.slide.annotations.find import Found, find
from sgcl_cli.slide.annotations.outlines import Raster

_NAMED = 5


@dataclass(frozen=True)
class Masked:
    """A slide with patches and a mask.

    :ivar number: its index among all such slides.
    :ivar file: its patches.
    :ivar patient: its patient.
    :ivar group: the patient, slide or site that is left out as a whole.
    :ivar raster: the mask.
    """

    number: int
    file: PatchFile
    patient: str
    group: str
    raster: Raster

    def truth(self, row: int, size: int, classes: Sequence[str]) -> NDArray[np.int64]:
        """The class of each pixel of a patch, int64 (size, size), -1 for none: that of the mask pixel at its centre.

        :param row: index of the patch.
        :param size: side of the patch, pixels.
        :param classes: names in the order of their numbers.
        """
        values = self.raster.values
        steps = self.file.sides / size
        corner = self.file.coords[row] - np.asarray(self.raster.corner)
        across, down = (
            np.floor(corner[axis] + (np.arange(size) + 0.5) * steps[axis]).astype(np.int64) for axis in (0, 1)
        )
        inside = ((down >= 0) & (down < values.shape[0]))[:, None] & ((across >= 0) & (across < values.shape[1]))
        seen = values[np.clip(down, 0, values.shape[0] - 1)[:, None], np.clip(across, 0, values.shape[1] - 1)]
        truth = np.full((size, size), -1, dtype=np.int64)
        for value, name in self.raster.classes.items():
            truth[inside & (seen == value)] = classes.index(name)
        return truth


@dataclass(frozen=True)
class Masks:
    """All slides with patches and a mask.

    :ivar slides: in the order of the patches.
    :ivar classes: in the order of their numbers.
    :ivar unit: what is resampled: ``patients``, or ``slides`` where patients are unknown.
    :ivar left_out: what is left out in turn: ``patients``, ``slides`` or ``sites``.
    :ivar uncounted: mask values without a class, with their share of all pixels.
    :ivar id: a hash of the masks.
    :ivar warnings: about masks, slides and the table.
    """

    slides: tuple[Masked, ...]
    classes: tuple[str, ...]
    unit: str
    left_out: str
    uncounted: Mapping[int, float]
    id: str
    warnings: tuple[str, ...]

    @property
    def patient(self) -> NDArray[np.str_]:
        """The patient of each slide."""
        return np.array([slide.patient for slide in self.slides])

    @property
    def group(self) -> NDArray[np.str_]:
        """The group of each slide."""
        return np.array([slide.group for slide in self.slides])


def open_masks(config: EvaluateConfig, index: PatchIndex) -> Masks:
    """Read the mask of each slide, and its patient and site from ``--labels``.

    :raises ConfigError: the folder does not exist or holds no mask of any slide.
    :raises LabelError: a slide has two masks; a file is not a mask, or has another size than its slide; there are fewer than two
        groups or classes, or no value of ``--mask-values``; with ``--cv site`` a slide has no site, or a patient has two.
    """
    named = None if config.mask_values is None else files.parse_mask_values(config.mask_values)
    found = _found(config, index)
    paths = found.files
    rasters, hashes, pixels = {}, [], dict[int, int]()
    for slide_id, path in sorted(paths.items()):
        content = files.read(path, MaskReading(None, named))
        if content.values is None:
            raise LabelError(f"{path} is not a mask image", "give PNG or TIFF with one channel of whole numbers")
        for value, count in zip(*np.unique(content.values, return_counts=True), strict=True):
            pixels[int(value)] = pixels.get(int(value), 0) + int(count)
        rasters[slide_id] = content.values
        hashes.append(f"{slide_id} {content.sha256}")
    kinds = {value: str(value) for value in sorted(pixels)} if named is None else named
    kinds = {value: name for value, name in kinds.items() if value != config.ignore}
    classes = _classes(kinds, pixels)
    table = None if config.labels is None else read_labels(config.labels, Columns(config.id.strip().lower(), None))
    slides, lone = _matched(config, index, rasters, paths, kinds, table={} if table is None else table.by_slide())
    masks = Masks(
        slides=slides,
        classes=classes,
        unit="patients" if table is not None and table.has_patients else "slides",
        left_out="sites" if config.cv == "site" else "patients" if table and table.has_patients else "slides",
        uncounted={v: n / sum(pixels.values()) for v, n in sorted(pixels.items()) if v not in kinds},
        id=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        warnings=tuple(_warnings(index, found, kinds, pixels, table=table, lone=lone)),
    )
    _check(masks, config)
    return masks


def _found(config: EvaluateConfig, index: PatchIndex) -> Found:
    """The mask of each slide, and files that match no slide; only PNG files if there are any, since slides may be TIFF."""
    assert config.dense is not None
    folder = Path(config.dense)
    png = folder.is_dir() and any(path.suffix.lower() == ".png" for path in folder.iterdir())
    found = find(folder, index.slide_ids, [], (".png",) if png else (".tif", ".tiff"))
    for slide_id, names in found.doubled.items():
        raise LabelError(f"{folder} has two files for slide {slide_id}: {' and '.join(names[:2])}", "remove one")
    return found


def _classes(kinds: Mapping[int, str], pixels: Mapping[int, int]) -> tuple[str, ...]:
    """The classes that occur in the masks.

    :raises LabelError: fewer than two.
    """
    found = frozenset(name for value, name in kinds.items() if value in pixels)
    if len(found) < 2:
        values = ", ".join(map(str, sorted(pixels)))
        raise LabelError(
            f"the masks hold {f'one class only: {min(found)}' if found else 'none of the classes'}; "
            f"their values are {values}",
            "see --mask-values and --ignore",
        )
    return files.in_order(found)


def _matched(
    config: EvaluateConfig,
    index: PatchIndex,
    rasters: Mapping[str, NDArray[np.integer[Any]]],
    paths: Mapping[str, Path],
    kinds: Mapping[int, str],
    *,
    table: Mapping[str, LabelRow],
) -> tuple[tuple[Masked, ...], list[str]]:
    """Slides with a mask and patches, and ids of slides with a mask but no patches."""
    found: list[Masked] = []
    lone = []
    for file in index.files:
        if file.slide_id not in rasters:
            continue
        values = rasters[file.slide_id]
        corner = _corner(config, file, values.shape, paths[file.slide_id])
        if not len(file):
            lone.append(file.slide_id)
            continue
        row = table.get(file.slide_id)
        patient = file.slide_id if row is None else row.patient_id
        group = patient if config.cv == "patient" else (row.site if row and row.site else "")
        own = {value: name for value, name in kinds.items() if (values == value).any()}
        found.append(Masked(len(found), file, patient, group, Raster(values, (1.0, 1.0), own, corner)))
    return tuple(found), lone


def _corner(config: EvaluateConfig, file: PatchFile, shape: tuple[int, ...], path: Path) -> tuple[float, float]:
    """The position of a mask's top-left corner on its slide, level-0 pixels.

    :param shape: (H, W) of the mask.
    :raises LabelError: the mask has another size than the slide, or the scanned part, that it should cover.
    """
    height, width = shape
    x, y, *scanned = file.source.get("bounds") or (0, 0, width, height)
    whole = [file.geometry.get("level0_width", width), file.geometry.get("level0_height", height)]
    in_part = config.mask_origin == "bounds" and file.source.get("bounds") is not None
    size, other = (scanned, whole) if in_part else (whole, scanned)
    if [width, height] != size:
        what = "the scanned part of its slide" if in_part else "its slide"
        hint = f"give --mask-origin {'slide' if in_part else 'bounds'}: the mask has that size"
        raise LabelError(
            f"{path.name} is {width} x {height} pixels, {what} {size[0]} x {size[1]}",
            hint if [width, height] == other and file.source.get("bounds") else "give masks of the slides' full size",
        )
    return (x, y) if in_part else (0, 0)


def _check(masks: Masks, config: EvaluateConfig) -> None:
    groups = masks.group
    if config.cv == "site":
        without = [slide.file.slide_id for slide in masks.slides if not slide.group]
        if without:
            raise LabelError(f"'{without[0]}' has no site", "--cv site needs one for every slide in --labels")
        for patient in np.unique(masks.patient).tolist():
            if len(set(groups[masks.patient == patient])) > 1:
                raise LabelError(f"patient '{patient}' has two sites", "give each patient one site in --labels")
    if len(np.unique(groups)) < 2:
        raise LabelError(
            f"only one of the {masks.left_out} has both masks and patches: '{groups[0]}'"
            if len(groups)
            else "no slide has both a mask and patches",
            "give at least two: a head is fitted on some and tested on the others",
        )


def _warnings(
    index: PatchIndex,
    found: Found,
    kinds: Mapping[int, str],
    pixels: Mapping[int, int],
    *,
    table: Labels | None,
    lone: Sequence[str],
) -> list[str]:
    absent = [f"{value}={name}" for value, name in kinds.items() if value not in pixels]
    bare = sorted(set(index.slide_ids) - set(found.files))
    unlisted = [] if table is None else sorted(set(found.files) - set(table.by_slide()))
    left_out = {
        "masks match no slide with patches": found.strangers,
        "slides have no mask and are left out": bare,
        "slides with a mask have no patches": lone,
        "values of --mask-values occur in no mask": absent,
        f"slides with a mask are not in {table.path.name if table else ''}, each counts as a patient of its own": unlisted,
    }
    alike = [f"classes differ only in case or blanks: {in_quotes(group)}" for group in lookalikes(kinds.values())]
    return [
        *(f"{len(names)} {what}: {listed(names, _NAMED, quoted=False)}" for what, names in left_out.items() if names),
        *alike,
    ]
