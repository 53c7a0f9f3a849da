"""--probe: kNN accuracy of the encoder during training, each patch classified by patches of other slides or patients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import LabelError
from sgcl_cli.probe.models.nearest import balanced_accuracy, leave_groups_out

_MOST = 4_000
_BATCH = 64


@dataclass(frozen=True)
class Labelled:
    """The labelled patches of a probe, n of them.

    :ivar read: a number of ``rows`` -> the patch, uint8 (H, W, 3).
    :ivar rows: int64 (n,), numbers of the patches.
    :ivar label: int64 (n,), the class of each.
    :ivar group: int64 (n,), the slide, patient or group of images that each belongs to.
    :ivar names: of the classes.
    :ivar slides: identities of the slides, or the ids of the image folder, whose labels are used.
    :ivar slide_ids: names of the run's own slides among them.
    :ivar unit: what a group is: slide, patient, image or group.
    """

    read: Callable[[int], NDArray[np.uint8]]
    rows: NDArray[np.int64]
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    names: tuple[str, ...]
    slides: tuple[str, ...]
    slide_ids: tuple[str, ...]
    unit: str

    @property
    def groups(self) -> int:
        """Number of distinct groups."""
        return len(np.unique(self.group))

    def describe(self) -> str:
        """A summary in words."""
        return f"{len(self.rows):,} patches of {self.groups} {self.unit}s, classes {', '.join(self.names)}"


class Probe:
    """Scores an encoder on labelled patches, which are read again each time.

    Patches of another folder are read once at the start, so that an unreadable one costs no epoch of training.

    :raises LabelError: no labels, one class only, or all labels on one slide.
    :raises ArtefactError: the folder, or one of the patches in use, cannot be read.
    """

    def __init__(self, config: PretrainConfig, index: PatchIndex, runtime: Runtime, input_size: int) -> None:
        self._runtime = runtime
        self.labelled = _labelled(config, index, input_size)
        if config.probe != "labels":
            for row in self.labelled.rows:
                self.labelled.read(int(row))

    def score(self, card: EncoderCard, encoder: nn.Module) -> dict[str, Any]:
        """Balanced accuracy of kNN on h, each patch classified by patches of other groups only.

        The encoder is not changed: a copy is scored.
        """
        frozen, asked = FrozenEncoder(card, copy.deepcopy(encoder), self._runtime), self.labelled
        parts = []
        for start in range(0, len(asked.rows), _BATCH):
            images = [asked.read(int(row)) for row in asked.rows[start : start + _BATCH]]
            parts.append(torch.from_numpy(frozen(torch.from_numpy(np.stack(images)))))
        device = self._runtime.device
        label = torch.from_numpy(asked.label).to(device)
        group, classes = torch.from_numpy(asked.group).to(device), len(asked.names)
        predicted = leave_groups_out(torch.cat(parts).to(device), label, group, classes=classes)
        return {
            "balanced_accuracy": balanced_accuracy(label, predicted, classes),
            "chance": 1 / classes,
            "patches": len(asked.rows),
            f"{asked.unit}s": asked.groups,
        }


def _labelled(config: PretrainConfig, index: PatchIndex, input_size: int) -> Labelled:
    where = str(config.probe)
    if where != "labels" and ImageFolder.is_one(where):
        found = _images(where, config.probe_groups, input_size)
    else:
        own = where == "labels"
        found = _patches(index if own else PatchIndex.open(where, pixels=True), config.probe_groups, own=own)
    _require(found, where)
    return _thinned(found, config.seed)


def _patches(index: PatchIndex, patients: str | None, *, own: bool) -> Labelled:
    names = next((file.label_names for file in index.files if file.label is not None), ())
    odd = [file.slide_id for file in index.files if file.label is not None and file.label_names != names]
    if odd:
        raise LabelError(
            f"--probe: '{odd[0]}' has other classes than the slides before it",
            "tile with one --label-names for all slides",
        )
    label = np.concatenate([np.full(len(f), -1) if f.label is None else f.label for f in index.files]).astype(np.int64)
    rows = np.flatnonzero(label >= 0)
    unit, group_of_slide = _patients(index, patients)
    used = [index.files[slide] for slide in np.unique(index.slide_of[rows])]
    return Labelled(
        read=StoredPatches(index),
        rows=rows,
        label=label[rows],
        group=group_of_slide[index.slide_of[rows]],
        names=names,
        slides=tuple(str(file.source.get("identity", file.id)) for file in used),
        slide_ids=tuple(file.slide_id for file in used) if own else (),
        unit=unit,
    )


def _patients(index: PatchIndex, table: str | None) -> tuple[str, NDArray[np.int64]]:
    """The kind of group, and the group of each slide; a slide that is not in the table is a patient of its own."""
    if table is None:
        return "slide", np.arange(len(index.files), dtype=np.int64)
    patient = {row["slide_id"]: row["patient_id"] for row in store.read_table(table, ["slide_id", "patient_id"])}
    of_slide = [patient.get(slide) or f"\0{slide}" for slide in index.slide_ids]
    return "patient", np.unique(of_slide, return_inverse=True)[1].astype(np.int64)


def _images(folder: str, groups: str | None, input_size: int) -> Labelled:
    images = ImageFolder.open(folder, groups, crop=input_size)
    plain = ImageFolder.open(folder, crop=input_size)
    group = np.arange(len(images)) if images.groups is None else np.unique(images.groups, return_inverse=True)[1]
    return Labelled(
        read=images.read,
        rows=np.arange(len(images), dtype=np.int64),
        label=images.label.astype(np.int64),
        group=group.astype(np.int64),
        names=images.label_names,
        slides=tuple(sorted({images.id, plain.id})),
        slide_ids=(),
        unit="image" if images.groups is None else "group",
    )


def _require(found: Labelled, where: str) -> None:
    if len(np.unique(found.label)) < 2:
        what = "no patch has a label" if len(found.rows) == 0 else "all labelled patches are of one class"
        hint = "tile with --annotations, or give --probe a labelled folder"
        raise LabelError(f"--probe {where}: {what}", hint)
    if found.groups < 2:
        raise LabelError(
            f"--probe {where}: all labelled patches are of one {found.unit}, but each is classified by those of others",
            f"label patches of a second {found.unit}",
        )


def _thinned(found: Labelled, seed: int) -> Labelled:
    """At most 4,000 patches, balanced over the classes as far as possible; determined by the seed."""
    if len(found.rows) <= _MOST:
        return found
    draw = np.random.default_rng([seed, _MOST])
    order = draw.permutation(len(found.rows))
    turn = np.empty(len(order), np.int64)
    for label in np.unique(found.label):
        own = order[found.label[order] == label]
        turn[own] = np.arange(len(own))
    kept = np.sort(np.argsort(turn, kind="stable")[:_MOST])
    values = {**found.__dict__, "rows": found.rows[kept], "label": found.label[kept], "group": found.group[kept]}
    return Labelled(**values)
