"""Checkpoints (sgcl.checkpoint), the exported encoder, and state dicts of other projects.

A checkpoint contains only tensors and plain values and is read with ``weights_only=True``. The exported encoder is
``encoder.safetensors``, with torchvision's parameter names for ResNets and timm's for vision transformers, and
``encoder.json``, its card. ``read_weights`` also reads state dicts of other projects.
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

_LONGEST_NAME = 200  # most characters of an encoder's name
FORMAT = "sgcl.checkpoint/1"
ENCODER_FORMAT = "sgcl.encoder/1"
# Keys under which other projects store the weights in a checkpoint; averaged weights, which are meant for inference, first.
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
    """Write a checkpoint atomically.

    :param content: tensors and plain values.
    """
    with store.atomic(path) as temporary:
        tensors.save({"format": FORMAT, **content}, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    :raises ArtefactError: missing, damaged, containing Python objects, or of another format.
    """
    content = tensors.load(Path(path), "checkpoint", "give a last.pt or best.pt that sgcl pretrain wrote")
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ArtefactError(
            f"{path} is not {FORMAT}: its format is {found!r}",
            "give a checkpoint written by this version of sgcl pretrain; for weights of other projects, set --arch",
        )
    result: dict[str, Any] = content
    return result


@dataclass(frozen=True)
class EncoderCard:
    """Architecture, preprocessing and origin of an encoder's weights.

    :ivar name: an architecture of this package, ``timm:NAME``, ``transformers:NAME`` or ``package.module:factory``.
    :ivar embedding_size: dimensions of an embedding.
    :ivar input_size: side of the square input, a centre crop of a patch at ``mpp``, pixels.
    :ivar mean: per RGB channel, of pixels scaled to 0..1.
    :ivar std: per RGB channel, of pixels scaled to 0..1.
    :ivar mpp: resolution of the input, µm per pixel; None if unknown.
    :ivar patch_size: side of the training patches, pixels.
    :ivar sha256: of encoder.safetensors.
    :ivar run_id: id of the training run.
    :ivar epochs: length of the training.
    :ivar pretrain_slides: identities of the slides that it was trained on.
    :ivar probe_slides: identities of the slides, or ids of the image folders, whose labels a probe used during training.
    :ivar resize: length to which the shorter side of an image is resized before the crop, pixels; None for no resizing.
    :ivar interpolation: bilinear or bicubic, antialiased; None without ``resize``.
    :ivar layer: the embedded layer, as named by ``sgcl embed``.
    :ivar pool: the pooling of this layer, as named by ``sgcl embed``.
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
        """All that determines the embedding of an image besides the weights, as JSON values."""
        names = ("name", "input_size", "mean", "std", "resize", "interpolation", "layer", "pool")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


def save_encoder(folder: str | Path, card: EncoderCard, state: dict[str, torch.Tensor]) -> EncoderCard:
    """Write encoder.safetensors and then encoder.json.

    :returns: the card with the SHA-256 of the weights.
    """
    folder = Path(folder)
    store.write_bytes(folder / "encoder.safetensors", _exported(state))
    complete = EncoderCard(**{**asdict(card), "sha256": store.file_sha256(folder / "encoder.safetensors")})
    store.write_json(folder / "encoder.json", {"format": ENCODER_FORMAT, **asdict(complete)})
    return complete


def load_encoder(path: str | Path) -> tuple[EncoderCard, dict[str, torch.Tensor]]:
    """Read the card and the weights from the folder of a run, its encoder.safetensors, or one of its checkpoints.

    :raises ArtefactError: missing, damaged, of another format, or weights that do not match their card.
    """
    path = Path(path)
    if not path.exists():
        raise ArtefactError(f"no such encoder: {path}", "give the folder written by sgcl pretrain")
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
        raise ArtefactError(f"{weights} has no encoder.json beside it", "take both files from one run, or set --arch")
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
    """The card, with the SHA-256 of the encoder as exported, and the weights."""
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
        if not reading.is_valid_text(str(reading.plain(path))):  # the library cannot open a file with such a name
            return safetensors.torch.load(path.read_bytes())
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise reading.unreadable(path, error, "a file of weights", "get the file again") from error
    except Exception as error:  # the header can be any JSON
        raise ArtefactError(f"{path} is damaged: {error}", "get the file again") from error


@dataclass(frozen=True)
class Weights:
    """Content of a file of weights.

    :ivar path: the file, or the folder of a run.
    :ivar groups: state dicts by the key under which the file has them, "" for the top level.
    :ivar sha256: of the file; for a run or checkpoint of sgcl, of its encoder.safetensors.
    :ivar card: card of an encoder of sgcl; None for files of other projects.
    """

    path: Path
    groups: Mapping[str, Mapping[str, torch.Tensor]]
    sha256: str
    card: EncoderCard | None


def read_weights(path: str | Path) -> Weights:
    """Read weights of sgcl pretrain or a state dict of another project: .safetensors, or .pt and .pth without Python objects.

    State dicts under a key of a checkpoint (``state_dict``, ``model``, ``teacher`` and others, see ``CONTAINERS``) are found.

    :raises ArtefactError: missing, damaged, or containing Python objects.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        return _ours(path, *load_encoder(path))
    if path.suffix == ".safetensors":
        if path.name == "encoder.safetensors" and (path.parent / "encoder.json").exists():
            return _ours(path, *load_encoder(path))
        return Weights(path, {"": _safetensors(path)}, _sha256(path), None)
    content = tensors.load(path, "file of weights", "save only its tensors: torch.save(model.state_dict(), FILE)")
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
    """Build an encoder's card from plain values.

    :raises ArtefactError: an entry is missing or invalid.
    """
    remedy = "use the file written by sgcl pretrain"
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
    """Card as plain values, for a checkpoint."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(card)))
    return values
