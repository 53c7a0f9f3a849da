"""sgcl.checkpoint: everything a training run needs to go on, and the encoder in the form that others load.

A checkpoint holds tensors and plain values only and is read with ``weights_only=True``. The exported encoder is
``encoder.safetensors`` (torchvision's parameter names) and ``encoder.json`` (what surrounds the weights).
"""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from sgcl_cli.artefacts import store
from sgcl_cli.errors import ArtefactError

FORMAT = "sgcl.checkpoint/1"
ENCODER_FORMAT = "sgcl.encoder/1"


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. ``content`` holds tensors and plain values."""
    with store.atomic(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    :raises ArtefactError: missing, damaged, holding Python objects, or of another format.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ArtefactError(f"no such checkpoint: {path}", "check the path") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ArtefactError(
            f"{path} is not a checkpoint: damaged, or it holds Python objects, which are refused",
            "give a last.pt or best.pt that sgcl pretrain wrote",
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ArtefactError(
            f"{path} is not {FORMAT}: its format is {found!r}",
            "give a checkpoint that this version of sgcl pretrain wrote",
        )
    result: dict[str, Any] = content
    return result


@dataclass(frozen=True)
class EncoderCard:
    """What stands beside the weights: how to build the encoder and how to feed it.

    :param input_size: side of the square input in pixels, a centre crop of a patch at ``mpp``.
    :param mean, std: per RGB channel, of pixels scaled to 0..1.
    :param mpp: um per pixel of the input; None where unknown.
    :param patch_size: side of the patches that it was trained on, pixels.
    :param pretrain_slides: identities of the slides that it was trained on.
    :param probe_slides: identities of the slides (ids of the image folders) whose labels a probe used during training.
    """

    name: str
    embedding_size: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mpp: float | None
    patch_size: int | None
    sha256: str = ""
    run_id: str = ""
    epochs: float = 0.0
    pretrain_slides: tuple[str, ...] = ()
    probe_slides: tuple[str, ...] = ()


def save_encoder(folder: str | Path, card: EncoderCard, state: dict[str, torch.Tensor]) -> EncoderCard:
    """Write encoder.safetensors and then encoder.json with the weights' sha256; returns the card so completed."""
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    store.write_bytes(folder / "encoder.safetensors", safetensors.torch.save(tensors))
    complete = EncoderCard(**{**asdict(card), "sha256": store.file_sha256(folder / "encoder.safetensors")})
    store.write_json(folder / "encoder.json", {"format": ENCODER_FORMAT, **asdict(complete)})
    return complete


def load_encoder(path: str | Path) -> tuple[EncoderCard, dict[str, torch.Tensor]]:
    """The card and the weights from a run's folder, its encoder.safetensors, or one of its checkpoints.

    :raises ArtefactError: missing, damaged, another format, or weights that do not belong to their card.
    """
    path = Path(path)
    if not path.exists():
        raise ArtefactError(f"no such encoder: {path}", "give the folder that sgcl pretrain wrote")
    if path.suffix in (".pt", ".pth"):
        content = load_checkpoint(path)["encoder"]
        return _card(content["card"], path), content["state"]
    folder = path if path.is_dir() else path.parent
    weights = folder / "encoder.safetensors" if path.is_dir() else path
    if not weights.exists():
        remedy = (
            "the run is not finished: run sgcl pretrain again"
            if (folder / "last.pt").exists()
            else "give a pretrain folder"
        )
        raise ArtefactError(f"{folder} has no encoder.safetensors", remedy)
    content = store.read_json(folder / "encoder.json")
    if content.get("format") != ENCODER_FORMAT:
        raise ArtefactError(
            f"{folder / 'encoder.json'} is not {ENCODER_FORMAT}", "give a folder that this version wrote"
        )
    card = _card(content, folder / "encoder.json")
    if store.file_sha256(weights) != card.sha256:
        raise ArtefactError(f"{weights} does not belong to its encoder.json", "take both files from one run")
    try:
        return card, safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"{weights} is damaged: {error}", "run sgcl pretrain again") from error


def _card(content: dict[str, Any], path: Path) -> EncoderCard:
    try:
        fields = {key: content[key] for key in EncoderCard.__dataclass_fields__ if key in content}
        for key in ("mean", "std", "pretrain_slides", "probe_slides"):
            fields[key] = tuple(fields.get(key, ()))
        card = EncoderCard(**fields)
        sizes_right = card.input_size > 0 and card.embedding_size > 0 and len(card.mean) == len(card.std) == 3
        numbers_right = all(math.isfinite(value) for value in (*card.mean, *card.std)) and min(card.std) > 0
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path} lacks what an encoder needs: {error}", "take the file that sgcl pretrain wrote"
        ) from error
    if not (sizes_right and numbers_right):
        raise ArtefactError(f"{path} describes no usable encoder", "take the file that sgcl pretrain wrote")
    return card


def card_values(card: EncoderCard) -> dict[str, Any]:
    """A card as plain values, for a checkpoint."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(card)))
    return values
