"""sgcl.checkpoint: everything a training run needs to go on, and the encoder in the form that others load.

A checkpoint holds tensors and plain values only and is read with ``weights_only=True``. The exported encoder is
``encoder.safetensors`` (torchvision's parameter names for ResNets, timm's for vision transformers) and ``encoder.json`` (what
surrounds the weights). ``read_weights`` also reads the state dicts of others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from sgcl_cli.artefacts import reading, store, tensors
from sgcl_cli.errors import ArtefactError

_LONGEST_NAME = 200  # characters
FORMAT = "sgcl.checkpoint/1"
ENCODER_FORMAT = "sgcl.encoder/1"
# Where others put the weights in a checkpoint; the averaged ones, which are meant for use, come first.
CONTAINERS = (
    "teacher",
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "encoder",
)


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. ``content`` holds tensors and plain values."""
    with store.atomic(path) as temporary:
        tensors.save({"format": FORMAT, **content}, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    :raises ArtefactError: missing, damaged, holding Python objects, or of another format.
    """
    content = tensors.load(Path(path), "checkpoint", "give a last.pt or best.pt that sgcl pretrain wrote")
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ArtefactError(
            f"{path} is not {FORMAT}: its format is {found!r}",
            "give a checkpoint that this version of sgcl pretrain wrote; for others' weights name their --arch",
        )
    result: dict[str, Any] = content
    return result


@dataclass(frozen=True)
class EncoderCard:
    """What stands beside the weights: how to build the encoder and how to feed it.

    :ivar name: an architecture of this package, ``timm:NAME``, ``transformers:NAME`` or ``package.module:factory``.
    :ivar input_size: side of the square input in pixels, a centre crop of a patch at ``mpp``.
    :ivar mean, std: per RGB channel, of pixels scaled to 0..1.
    :ivar mpp: um per pixel of the input; None where unknown.
    :ivar patch_size: side of the patches that it was trained on, pixels.
    :ivar pretrain_slides: identities of the slides that it was trained on.
    :ivar probe_slides: identities of the slides (ids of the image folders) whose labels a probe used during training.
    :ivar resize: the shorter side in pixels to which an image is resized before the crop; None where it is not.
    :ivar interpolation: bilinear or bicubic, antialiased; None without ``resize``.
    :ivar layer, pool: what is taken as the embedding, as ``sgcl embed`` names it.
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
    resize: int | None = None
    interpolation: str | None = None
    layer: str | None = None
    pool: str = "auto"

    def feed(self) -> dict[str, Any]:
        """What besides the weights decides the embedding of an image, as JSON values."""
        names = ("name", "input_size", "mean", "std", "resize", "interpolation", "layer", "pool")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


def save_encoder(folder: str | Path, card: EncoderCard, state: dict[str, torch.Tensor]) -> EncoderCard:
    """Write encoder.safetensors and then encoder.json with the weights' sha256; returns the card so completed."""
    folder = Path(folder)
    store.write_bytes(folder / "encoder.safetensors", _exported(state))
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
        return _from_checkpoint(load_checkpoint(path), path)
    folder = path if path.is_dir() else path.parent
    weights = folder / "encoder.safetensors" if path.is_dir() else path
    if not weights.exists():
        remedy = (
            "the run is not finished: run sgcl pretrain again"
            if (folder / "last.pt").exists()
            else "give a pretrain folder"
        )
        raise ArtefactError(f"{folder} has no encoder.safetensors", remedy)
    if not (folder / "encoder.json").exists():
        raise ArtefactError(
            f"{weights} has no encoder.json beside it", "take both files from one run, or name the weights' --arch"
        )
    content = store.read_json(folder / "encoder.json")
    if not isinstance(content, dict) or content.get("format") != ENCODER_FORMAT:
        raise ArtefactError(
            f"{folder / 'encoder.json'} is not {ENCODER_FORMAT}", "give a folder that this version wrote"
        )
    card = _card(content, folder / "encoder.json")
    if _sha256(weights) != card.sha256:
        raise ArtefactError(f"{weights} does not belong to its encoder.json", "take both files from one run")
    return card, _safetensors(weights)


def _from_checkpoint(content: Mapping[str, Any], path: Path) -> tuple[EncoderCard, dict[str, torch.Tensor]]:
    """The card, with the sha256 that the encoder would have as encoder.safetensors, and the weights."""
    encoder = content.get("encoder")
    card, state = (encoder.get("card"), encoder.get("state")) if isinstance(encoder, Mapping) else (None, None)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise ArtefactError(f"{path} holds no encoder", "give a last.pt that sgcl pretrain wrote")
    tensors.check_all(state, str(path))
    return replace(_card(card, path), sha256=hashlib.sha256(_exported(state)).hexdigest()), dict(state)


def _exported(state: Mapping[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        if not reading.is_valid_text(str(reading.plain(path))):  # the library opens no file of such a name
            return safetensors.torch.load(path.read_bytes())
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise reading.unreadable(path, error, "a file of weights", "get the file again") from error
    except Exception as error:  # its header is JSON of any content
        raise ArtefactError(f"{path} is damaged: {error}", "get the file again") from error


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    :ivar groups: state dicts by the name of the container that they stood in, "" for the file itself.
    :ivar sha256: of the file; of a run or checkpoint of ours, that of its encoder.safetensors.
    :ivar card: what an encoder of ours says about itself; None for others' files.
    """

    path: Path
    groups: Mapping[str, Mapping[str, torch.Tensor]]
    sha256: str
    card: EncoderCard | None


def read_weights(path: str | Path) -> Weights:
    """Read weights that sgcl pretrain wrote, or a state dict of others: .safetensors, or .pt and .pth without Python objects.

    Checkpoints that hold the state dict in a container (``state_dict``, ``model``, ``teacher`` and others) are looked through.

    :raises ArtefactError: missing, damaged, holding Python objects, or without tensors.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        return _ours(path, *load_encoder(path))
    if path.suffix == ".safetensors":
        if path.name == "encoder.safetensors" and (path.parent / "encoder.json").exists():
            return _ours(path, *load_encoder(path))
        return Weights(path, {"": _safetensors(path)}, _sha256(path), None)
    content = tensors.load(path, "file of weights", "save its tensors alone: torch.save(model.state_dict(), FILE)")
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        return _ours(path, *_from_checkpoint(content, path))
    groups = _groups(content)
    for group in groups.values():
        tensors.check_all(group, str(path))
    return Weights(path, groups, _sha256(path), None)


def _ours(path: Path, card: EncoderCard, state: dict[str, torch.Tensor]) -> Weights:
    return Weights(path, {"": state}, card.sha256, card)


def _sha256(path: Path) -> str:
    try:
        return store.file_sha256(reading.plain(path))
    except OSError as error:
        raise reading.unreadable(path, error, "a file of weights", "get the file again") from error


def _groups(content: Any) -> dict[str, Mapping[str, torch.Tensor]]:
    if not isinstance(content, Mapping):
        return {}
    parts = {"": content, **{name: content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)}}
    found = {
        name: {key: value for key, value in part.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
        for name, part in parts.items()
    }
    return {name: group for name, group in found.items() if group}


_SIDE = reading.whole(1, 2**14)  # pixels
_CHANNELS = reading.listed(reading.number(-1e6, 1e6), count=3)
_CARD = {
    **dict.fromkeys(("name", "sha256", "run_id", "pool"), reading.TEXT),
    "embedding_size": reading.whole(1, 2**20),
    **dict.fromkeys(("input_size", "patch_size", "resize"), _SIDE),
    "mean": _CHANNELS,
    "std": reading.listed(reading.number(1e-9, 1e6), count=3),
    "mpp": reading.number(1e-3, 1e3),
    "epochs": reading.number(0, 1e12),
    **dict.fromkeys(("pretrain_slides", "probe_slides"), reading.TEXTS),
    "interpolation": reading.one_of("bilinear", "bicubic"),
    "layer": reading.TEXT,
}
_NEEDED = ("name", "embedding_size", "input_size", "mean", "std")


def _card(content: Any, path: Path) -> EncoderCard:
    """An encoder's card from plain values.

    :raises ArtefactError: an entry is missing, or not what it must be.
    """
    remedy = "take the file that sgcl pretrain wrote"
    values = reading.typed(content, _CARD, f"{path}, the encoder's card", remedy, _NEEDED)
    fields = {name: values[name] for name in EncoderCard.__dataclass_fields__ if values.get(name) is not None}
    if not fields["name"].isprintable() or len(fields["name"]) > _LONGEST_NAME:
        raise ArtefactError(f"{path}: the encoder's name cannot be shown", remedy)
    if (values.get("resize") is None) != (values.get("interpolation") is None):
        raise ArtefactError(f"{path} describes no usable encoder: resize and interpolation go together", remedy)
    for name in ("mean", "std", "pretrain_slides", "probe_slides"):
        fields[name] = tuple(fields.get(name, ()))
    return EncoderCard(**{"mpp": None, "patch_size": None, **fields})


def card_values(card: EncoderCard) -> dict[str, Any]:
    """A card as plain values, for a checkpoint."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(card)))
    return values
