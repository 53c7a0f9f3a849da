"""Encoders with other input scales or batch norm statistics, to test the effect of differences between training and probes.

In training an encoder sees crops resized to the view, and smaller ones of the corners; the running statistics of batch norm mix
both. Probes use whole images at their original scale. A row that is ``of`` another uses the encoder of that row with statistics
recomputed from the corpus at the scale of the probes (``norms``), or with all images resized to the mean scale of the views
(``shrunk``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import nn

from benchmarks.study.material import Set, centre
from benchmarks.study.protocol import Row
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import runtime
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.errors import ArtefactError
from sgcl_cli.stages.encoders import open_encoder

_SEEN = 1024  # patches of the corpus, evenly spaced, for the statistics
_AT_ONCE = 64


def encoders(row: Row, run: Path, corpus: PatchIndex, sets: Mapping[str, Set], out: Path) -> dict[str, str]:
    """Write the encoder of a run for each labelled set, with the input of the row; returns values of ``--encoder`` by set.

    :raises ArtefactError: the run is not finished.
    """
    if not (run / "encoder.safetensors").exists():
        raise ArtefactError(f"row '{row.of}' is not pretrained yet", "run it first")
    opened = open_encoder(EmbedConfig(patches="-", encoder=str(run), out="-"), corpus.patch_size)
    scale = view_scale(store.read_json(run / "run.json")["config"], corpus.patch_size) if row.shrunk else 1.0
    if row.norms:
        restate(opened.readout, fed(opened.card, centre(corpus.patch_size), corpus.patch_size, scale), corpus)
    state = opened.readout.network.state_dict()
    for name, given in sets.items():
        save_encoder(out / name, fed(opened.card, given.side, given.whole, scale), state)
    return {name: str(out / name) for name in sets}


def view_scale(config: Mapping[str, Any], patch_size: int) -> float:
    """Pixels of a view per pixel of a patch, at the mean area of the crops."""
    area = (config["crop_low"] + config["crop_high"]) / 2
    return float(config["view"] / (patch_size * area**0.5))


def fed(card: EncoderCard, side: int, whole: int, scale: float) -> EncoderCard:
    """The card of an encoder whose input is the central ``side`` of ``whole`` pixels, resized by ``scale``."""
    if scale == 1:
        return replace(card, input_size=side)
    input_size, resize = round(side * scale), round(whole * scale)
    mpp = None if card.mpp is None else card.mpp * whole / resize
    return replace(card, input_size=input_size, resize=resize, interpolation="bilinear", mpp=mpp)


def restate(network: nn.Module, card: EncoderCard, corpus: PatchIndex) -> None:
    """Recompute the running statistics of batch norm, as means over batches of the corpus; weights do not change."""
    encoder = FrozenEncoder(card, network, runtime.start("cpu", "fp32", None))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    for patches in _batches(corpus):
        encoder(patches)
    network.eval()


def _batches(corpus: PatchIndex) -> Iterator[torch.Tensor]:
    chosen = np.unique(np.linspace(0, len(corpus) - 1, min(_SEEN, len(corpus))).astype(np.int64))
    for rows in np.array_split(chosen, -(-len(chosen) // _AT_ONCE)):
        yield torch.from_numpy(np.stack([simplejpeg.decode_jpeg(corpus.read(int(i))) for i in rows]))
