"""Opening of encoders: the options ``--encoder``, ``--arch``, ``--weights`` and ``--init`` become a network and its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgcl_cli.artefacts import reading
from sgcl_cli.artefacts.checkpoint import EncoderCard, Weights, load_encoder, read_weights
from sgcl_cli.config import EmbedConfig, colours, differences
from sgcl_cli.engine.runtime import seeded
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.nets.baselines import COLOURS, RANDOM, build_baseline, definition_sha256, is_baseline
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.foreign import Foreign, Preprocessing, build_foreign, is_foreign, is_plain_timm
from sgcl_cli.nets.named import build_named, is_named, takes_folder
from sgcl_cli.nets.readout import Readout, read_own
from sgcl_cli.nets.vit import VisionTransformer
from sgcl_cli.nets.weights import WeightsFit, fit_weights, weights_sha256

_MPP_TOLERANCE = 0.1


@dataclass(frozen=True)
class Opened:
    """An encoder to embed with.

    :ivar readout: images (B, 3, input, input), normalised by the card's mean and std, -> (B, card.embedding_size).
    :ivar notes: lines for the user.
    """

    card: EncoderCard
    readout: Readout
    notes: tuple[str, ...] = ()


# For embedding.


def open_encoder(config: EmbedConfig, patch_size: int | None = None) -> Opened:
    """Open the encoder that ``--encoder`` names, in evaluation mode on the CPU, and test it on one image.

    :param patch_size: side of the patches in pixels, where known; it determines the input size of a baseline.
    :raises ConfigError: it cannot be built, or not with this layer, pooling or input size.
    :raises ArtefactError: weights are missing, damaged, or do not fit.
    """
    if (is_baseline(config.encoder) or config.encoder.startswith(RANDOM)) and not Path(config.encoder).exists():
        opened = _baseline(config, patch_size)
    elif (is_foreign(config.encoder) or is_named(config.encoder)) and not Path(config.encoder).exists():
        opened = _from_library(config)
    elif config.weights is not None:
        raise ConfigError(
            f"--weights {config.weights}: --encoder {config.encoder} already names weights",
            "give the weights as --encoder and their architecture as --arch",
        )
    elif config.arch is not None:
        opened = _from_weights(config, config.arch)
    else:
        opened = _from_run(config)
    opened.readout.eval()
    side = opened.card.input_size
    found = embedding_of(opened.readout, side, opened.card.name, "use another --input-size")
    stated = opened.card.embedding_size
    if stated not in (0, found):
        raise ArtefactError(
            f"{config.encoder} gives {found} numbers an image, its card records {stated}",
            "take both files from one run",
        )
    return replace(opened, card=replace(opened.card, embedding_size=found))


def embedding_of(network: nn.Module, side: int, name: str, remedy: str) -> int:
    """The dimension of the embedding of an image of ``side`` pixels, found by embedding a black one without gradient.

    :param remedy: hint for the case that the network does not accept images of this size.
    :raises ConfigError: it does not accept them, or returns something other than one vector an image.
    """
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            found = network(torch.zeros(1, 3, side, side))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{name} cannot take images of {side} x {side} pixels: {error}", remedy) from error
    finally:
        network.train(training)
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ConfigError(f"{name} gives {shape} for one image, not one vector", "make its function return (B, D)")
    return int(found.shape[1])


def _baseline(config: EmbedConfig, patch_size: int | None) -> Opened:
    """A baseline; its input is the crop that an encoder trained on such patches would get."""
    name = config.encoder
    if not is_baseline(name):
        raise ConfigError(f"--encoder {name} is not an architecture of this package", f"known: {', '.join(ENCODERS)}")
    for option, given in (("--arch", config.arch), ("--weights", config.weights)):
        if given is not None:
            raise ConfigError(
                f"{option} cannot be used with --encoder {name}, which has no weights to load", "leave it out"
            )
    with seeded(config.seed):
        network = build_baseline(name)
    side = Preprocessing().input_size if patch_size is None else input_side(network, patch_size)
    if name in COLOURS:
        if config.layer is not None or config.pool != "auto" or config.mean is not None or config.std is not None:
            raise ConfigError(
                f"--encoder {name} takes colours without normalisation", "leave out --layer, --pool, --mean and --std"
            )
        card = EncoderCard(name, 0, side, (0.0,) * 3, (1.0,) * 3, None, patch_size, definition_sha256(name))
        card = _fed(config, card)
        return Opened(card, Readout(network, network, "auto"))
    feed = Preprocessing()
    card = EncoderCard(name, 0, side, feed.mean, feed.std, None, patch_size, weights_sha256(network.state_dict()))
    card = _fed(config, card)
    note = f"{name.removeprefix(RANDOM)} with random weights of seed {config.seed}"
    return Opened(card, _read(network, None, card), (note,))


def _from_library(config: EmbedConfig) -> Opened:
    if config.arch is not None or config.layer is not None:
        given = "--arch" if config.arch is not None else "--layer"
        raise ConfigError(
            f"{given} cannot be used with --encoder {config.encoder}", f"leave out {given}; --pool chooses the pooling"
        )
    named = is_named(config.encoder)
    if named:
        made = build_named(config.encoder, config.weights)
    else:
        made = build_foreign(config.encoder, pretrained=config.weights is None)
    notes: tuple[str, ...] = ()
    if config.weights is None or (named and takes_folder(config.encoder)):
        sha256 = weights_sha256(made.network.state_dict())
    else:
        weights = read_weights(config.weights)
        groups = {name: made.rename(group) for name, group in weights.groups.items()}
        fit = fit_weights(made.network, groups, arch=config.encoder, where=str(weights.path), optional=made.optional)
        sha256, notes = weights.sha256, (f"{weights.path.name}: {fit.describe()}",)
    card = _fed(config, EncoderCard(config.encoder, 0, **asdict(made.feed), patch_size=None, sha256=sha256))
    return Opened(card, made.readout(config.pool), notes)


def _from_weights(config: EmbedConfig, arch: str) -> Opened:
    weights = read_weights(config.encoder)
    network, made = _build(arch)
    fit = fit_weights(network, weights.groups, arch=arch, where=str(weights.path))
    feeding = asdict(made.feed if made else Preprocessing())
    if weights.card is None:
        card = EncoderCard(arch, 0, **feeding, patch_size=None, sha256=weights.sha256)
    else:
        card = replace(weights.card, name=arch, sha256=weights.sha256)
    card = _fed(config, card)
    return Opened(card, _read(network, made, card), (f"{weights.path.name}: {fit.describe()}",))


def _from_run(config: EmbedConfig) -> Opened:
    card, state = load_encoder(config.encoder)
    if card.name not in ENCODERS and not is_plain_timm(card.name):
        named = is_foreign(card.name)
        raise ArtefactError(
            f"encoder '{card.name}' is not known",
            f"if you trust it, add --arch {card.name}" if named else f"known: {', '.join(ENCODERS)}",
        )
    network, made = _build(card.name)
    fit_weights(network, {"": state}, arch=card.name, where=config.encoder)
    card = _fed(config, card)
    return Opened(card, _read(network, made, card))


def untrained(opened: Opened, seed: int) -> Opened | None:
    """The same architecture with random weights, preprocessing and readout unchanged; None where its weights are random already,
    or it cannot be built from its name.

    As for ``random:``, batch norm of convolutional networks then uses mean 0 and variance 1.
    """
    card = opened.card
    if card.name not in ENCODERS and not is_plain_timm(card.name):
        return None
    with seeded(seed):
        network, made = _build(card.name)
    card = replace(card, name=RANDOM + card.name, sha256=weights_sha256(network.state_dict()))
    readout = _read(network, made, card)
    return Opened(card, readout.eval())


def _build(arch: str) -> tuple[nn.Module, Foreign | None]:
    if arch in ENCODERS:
        return ENCODERS[arch](), None
    made = build_foreign(arch, pretrained=False)
    return made.network, made


def _read(network: nn.Module, made: Foreign | None, card: EncoderCard) -> Readout:
    if made is None:
        return read_own(network, card.layer, card.pool)  # type: ignore[arg-type]
    if card.layer is not None:
        raise ConfigError(f"{card.name} has no selectable layers", "leave --layer out")
    return made.readout(card.pool)


def _fed(config: EmbedConfig, card: EncoderCard) -> EncoderCard:
    """The card with the settings of the command; the embedding size of another layer or pooling is 0, not known yet."""
    size = config.input_size or card.input_size
    changed = config.layer is not None or config.pool != "auto"
    return replace(
        card,
        input_size=size,
        resize=None if card.resize is None else round(card.resize * size / card.input_size),
        mean=colours("mean", config.mean) or card.mean,
        std=colours("std", config.std) or card.std,
        mpp=config.encoder_mpp or card.mpp,
        layer=config.layer,
        pool=config.pool,
        embedding_size=0 if changed else card.embedding_size,
    )


def check_resolution(card: EncoderCard, mpp: float | None, size: int | None, *, allowed: bool) -> list[str]:
    """Compare the resolution of the patches, after the encoder's resizing, with the one that the encoder was trained at.

    :param mpp: of the patches, µm per pixel; None where unknown.
    :param size: side of the patches in pixels; None where unknown.
    :returns: warnings.
    :raises ConfigError: they differ by more than 10 % and this is not ``allowed``, or the patches are smaller than the input.
    """
    if size is not None and card.resize is None and size < card.input_size:
        wanted = f"tile with --patch-size {card.patch_size or card.input_size}"
        raise ConfigError(f"the patches are {size} pixels, the encoder's input is {card.input_size}", wanted)
    if card.mpp is None and is_baseline(card.name):
        return []
    if mpp is None or card.mpp is None:
        return [
            f"resolution unknown: the encoder was trained at {card.mpp or 'unknown'} µm/px, the images are at {mpp or 'unknown'}"
        ]
    scale = 1.0 if card.resize is None or size is None else size / card.resize
    seen = mpp * scale
    if abs(seen / card.mpp - 1) <= _MPP_TOLERANCE:
        return []
    resized = f" ({seen:.3g} after its resizing)" if scale != 1.0 else ""
    message = f"the patches are at {mpp:g} µm/px{resized}, the encoder was trained at {card.mpp:g}"
    if not allowed:
        raise ConfigError(message, f"tile with --mpp {card.mpp / scale:.3g}, or go on with --allow-mpp")
    return [message]


def other_encoder(attributes: Mapping[str, Any], card: EncoderCard) -> str | None:
    """The difference between the encoder of a features file and ``card``, in words; None where there is none."""
    if attributes.get("encoder_sha256") != card.sha256:
        return f"another encoder ({attributes.get('encoder')}, weights {str(attributes.get('encoder_sha256'))[:12]})"
    try:
        fed = reading.parse_json(attributes.get("encoder_feed", "{}"))
    except ValueError:
        fed = None
    if not isinstance(fed, dict):
        return "an encoder with unknown preprocessing"
    changed = "; ".join(differences(fed, card.feed()))
    return f"other settings: {changed}" if changed else None


# For training.


@dataclass(frozen=True)
class Start:
    """The encoder that training starts from: an architecture, and weights or None for random ones."""

    arch: str
    weights: Weights | None

    @property
    def settings(self) -> dict[str, str]:
        """What is part of the run's identity besides its options."""
        return {} if self.weights is None else {"init": self.weights.sha256}

    @property
    def slides(self) -> tuple[str, ...]:
        """Identities of the slides that the weights were trained on."""
        card = None if self.weights is None else self.weights.card
        return () if card is None else card.pretrain_slides


def open_start(arch: str, init: str | None) -> Start:
    """Read the weights of ``--init``.

    :raises ArtefactError: they are missing or damaged.
    """
    return Start(arch, None if init is None else read_weights(init))


def open_ours(setting: str, path: str) -> tuple[Start, EncoderCard]:
    """An encoder that ``sgcl pretrain`` wrote, to be trained further, and its card.

    :param setting: the option that names it, for messages.
    :raises ConfigError: it is a baseline or comes from elsewhere, or has another preprocessing than that of ``sgcl pretrain``.
    :raises ArtefactError: it is missing or damaged.
    """
    wanted = "give a folder that sgcl pretrain wrote, its encoder.safetensors or a checkpoint"
    baseline = is_baseline(path) or path.startswith(RANDOM)
    if not Path(path).exists() and (baseline or is_foreign(path)):
        kind = "a baseline" if baseline else "another library's encoder"
        raise ConfigError(f"{setting} {path} is {kind}, not an encoder of sgcl pretrain", wanted)
    weights = read_weights(path)
    card = weights.card
    if card is None:
        raise ConfigError(f"{setting} {path} holds weights without a card, not an encoder of sgcl pretrain", wanted)
    if card.name not in ENCODERS and not is_plain_timm(card.name):
        raise ConfigError(f"{setting} {path}: encoder '{card.name}' cannot be built from its name alone", wanted)
    if (card.mean, card.std, card.resize) != (MEAN, STD, None):
        raise ConfigError(f"{setting} {path} has another preprocessing than encoders of sgcl pretrain", wanted)
    return Start(card.name, weights), card


def build_start(start: Start, sides: tuple[int, ...]) -> tuple[nn.Module, int, WeightsFit | None]:
    """The encoder to train, its embedding size (also its attribute ``embedding_size``), and which tensors of ``--init`` matched.

    Random weights are drawn from torch's generator.

    :param sides: sides of the square images that it must accept, pixels.
    :raises ConfigError: it cannot be built, or does not accept images of these sizes.
    :raises ArtefactError: the weights do not fit.
    """
    network, _ = _build(start.arch)
    step = _step(network)
    for side, setting in zip(sides, ("--view", "--corner"), strict=False):
        remedy = f"use {setting} {max(1, round(side / step)) * step}, a multiple of {step}" if step > 1 else setting
        width = embedding_of(network, side, start.arch, remedy)
    network.embedding_size = width  # type: ignore[assignment]
    if start.weights is None:
        return network, width, None
    fit = fit_weights(network, start.weights.groups, arch=start.arch, where=str(start.weights.path))
    return network, width, fit


def input_side(network: nn.Module, patch_size: int) -> int:
    """Side of the centre crop that a trained encoder embeds: 7/8 of the patch, rounded to a size that the encoder accepts."""
    step = _step(network)
    return min(max(1, round(patch_size * 7 / 8 / step)), max(1, patch_size // step)) * step


def _step(network: nn.Module) -> int:
    """The number of pixels that sides of images must be multiples of: the patch size of a vision transformer, else 1."""
    if isinstance(network, VisionTransformer):
        return network.patch
    size = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return int(size[0] if isinstance(size, tuple) else size)
