"""What a run of pretraining left in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sgcl_cli.artefacts.checkpoint import load_encoder


def weights_of(out: str) -> dict[str, torch.Tensor]:
    return load_encoder(out)[1]


def steps_of(out: str) -> list[dict]:
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]
