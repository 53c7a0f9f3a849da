"""Patches and features that networks are fine-tuned on, and a small network."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor, nn

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.config import EvaluateConfig

SIDE, VIEW = 32, 28


SLIDES = {f"s{number:02d}": (4, 2) for number in range(24)}


FAST = {
    "bootstrap": 40,
    "threads": 1,
    "device": "cpu",
    "linear": "sgd",
    "linear_epochs": 4,
    "finetune_epochs": 5,
    "finetune_lr": "0.01,0.1",
    "finetune_shares": "50,100",
    "finetune_batch": 16,
}


class Tiny(nn.Module):
    """Two convolutions, quick on a CPU."""

    embedding_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def write_features(
    path: Path, card: EncoderCard, columns: dict[str, Any], names: tuple[str, ...], **others: str
) -> None:
    count = len(columns["label"])
    attributes = {
        "slide_id": path.stem,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "config": "{}",
        "encoder_feed": json.dumps(card.feed()),
        "label_names": json.dumps(names),
        **others,
    }
    with FeatureWriter(path, f"id of {path.stem}", 4, "float32") as writer:
        writer.append(np.random.default_rng([*path.stem.encode()]).normal(size=(count, 4)))
        writer.finish(columns, attributes)


def write_table(path: Path, split: dict[str, str]) -> Path:
    lines = ["slide_id,patient_id,split", *(f"{slide},p{slide},{side}" for slide, side in split.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(data: Path, out: Path, **changes: Any) -> EvaluateConfig:
    named = {"features": "features", "labels": "labels.csv", "finetune": "run"}
    inputs = {key: str(data / name) for key, name in named.items()}
    return EvaluateConfig(**{**inputs, "out": str(out), **FAST, **changes})


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def turn_labels(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["label"][...] = 1 - file["label"][:]


def move_to(path: Path, patches: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["patches_path"] = str(patches / path.name)


def one_to_fit_on(folder: Path) -> Path:
    """A table that leaves no patient for validation."""
    sides = dict.fromkeys(SLIDES, "test") | dict.fromkeys(list(SLIDES)[:1], "train")
    return write_table(folder / "l.csv", sides)


def card_of(data: Path) -> EncoderCard:
    content = json.loads((data / "run/encoder.json").read_text())
    fields = {spec.name: content[spec.name] for spec in dataclasses.fields(EncoderCard)}
    return EncoderCard(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
