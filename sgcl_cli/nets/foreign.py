"""Encoders defined outside this package: by timm, by transformers, or by a function of the user.

timm and transformers are imported only here, and only when needed. Names come from the command line or a settings file alone;
the name in an artefact may only be a plain timm architecture.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.readout import Readout

TIMM, TRANSFORMERS = "timm:", "transformers:"
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PLAIN = re.compile(r"timm:[A-Za-z0-9_.]+")
_PIL_RESAMPLING = {2: "bilinear", 3: "bicubic"}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an encoder: resize, centre crop, then (x - mean) / std per RGB channel of pixels in 0..1.

    :ivar input_size: side of the centre crop, pixels.
    :ivar mean: by channel.
    :ivar std: by channel.
    :ivar resize: length of the shorter side before the crop, pixels; None for no resizing.
    :ivar interpolation: of the resizing.
    :ivar mpp: resolution that the encoder was trained at, µm per pixel, if known.
    """

    input_size: int = 224
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    resize: int | None = None
    interpolation: str | None = None
    mpp: float | None = None


@dataclass(frozen=True)
class Foreign:
    """A network built by another library.

    :ivar network: the module that weights are loaded into.
    :ivar feed: its preprocessing.
    :ivar readout: name of a pooling -> the module that computes embeddings.
    :ivar optional: prefixes of parameters that the embedding does not use.
    :ivar rename: a state dict from a file -> the same under the names of ``network``.
    """

    network: nn.Module
    feed: Preprocessing
    readout: Callable[[str], Readout]
    optional: tuple[str, ...] = ()
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict


def is_foreign(name: str) -> bool:
    """Whether a name is ``timm:NAME``, ``transformers:NAME`` or ``package.module:factory``."""
    return name.startswith((TIMM, TRANSFORMERS)) or _FACTORY.fullmatch(name) is not None


def is_plain_timm(name: str) -> bool:
    """Whether a name is an architecture defined by timm itself, not one from a hub or a folder."""
    return _PLAIN.fullmatch(name) is not None


def build_foreign(name: str, *, pretrained: bool) -> Foreign:
    """Build the encoder of such a name.

    :param pretrained: whether the library downloads the weights that it publishes under this name.
    :raises ConfigError: the library is not installed, or cannot build this encoder.
    """
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), pretrained)
    if name.startswith(TRANSFORMERS):
        return _transformers(name.removeprefix(TRANSFORMERS), pretrained)
    return _own(name)


def import_library(library: str, wanted: str) -> ModuleType:
    """Import timm or transformers, or a module of them.

    :param wanted: the encoder that needs it, for the message.
    :raises ConfigError: it cannot be imported.
    """
    try:
        return importlib.import_module(library)
    except Exception as error:
        raise ConfigError(
            f"{wanted} needs {library}, which cannot be imported: {error}", f"pip install 'sgcl[{library}]'"
        ) from error


def _timm(name: str, pretrained: bool) -> Foreign:
    library = import_library("timm", TIMM + name)
    try:
        network = _any_size(library.create_model, name, pretrained)
        feed = recorded_by_timm(network, TIMM + name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"timm cannot build '{name}': {error}",
            "timm.list_models() names its encoders; without a network give --weights FILE, or timm:local-dir:FOLDER",
        ) from error
    return Foreign(network, feed, lambda pool: read_timm(network, pool))


def recorded_by_timm(network: nn.Module, name: str) -> Preprocessing:
    """The transform that a model of timm records."""
    config = import_library("timm.data", name).resolve_model_data_config(network)
    size = int(config["input_size"][-1])
    return Preprocessing(
        size,
        _triple(config["mean"]),
        _triple(config["std"]),
        math.floor(size / float(config["crop_pct"])),
        str(config["interpolation"]),
    )


def _any_size(create: Callable[..., nn.Module], name: str, pretrained: bool) -> nn.Module:
    """A timm model without its classifier, for images of any size if the architecture supports it."""
    try:
        return create(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
    return create(name, pretrained=pretrained, num_classes=0)


def read_timm(network: Any, pool: str) -> Readout:
    """The readout of a model of timm; ``auto`` is what it gives without its classifier."""
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    def features(x: Tensor) -> Tensor:
        found: Tensor = network.forward_features(x)
        return found.permute(0, 3, 1, 2) if channels_last and found.ndim == 4 else found

    prefix = int(getattr(network, "num_prefix_tokens", 0))
    has_class = getattr(network, "cls_token", None) is not None
    taken = network if pool == "auto" else features
    return Readout(network, taken, pool, prefix=lambda *_: prefix, has_class=has_class, spatial=features)


def _transformers(name: str, pretrained: bool) -> Foreign:
    library = import_library("transformers", TRANSFORMERS + name)
    try:
        if pretrained:
            network = library.AutoModel.from_pretrained(name)
        else:
            network = library.AutoModel.from_config(library.AutoConfig.from_pretrained(name))
        feed = _processor_feed(library.AutoImageProcessor.from_pretrained(name))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"transformers cannot build '{name}': {error}",
            "give a name of the hub, or a folder with config.json, preprocessor_config.json and the weights",
        ) from error
    return Foreign(network, feed, lambda pool: read_transformers(network, pool), optional=("pooler.",))


def _processor_feed(processor: Any) -> Preprocessing:
    """The preprocessing that an image processor does, from its attributes, named as in preprocessor_config.json."""
    resize = _side(processor.size) if processor.do_resize else None
    crop = _side(processor.crop_size) if getattr(processor, "do_center_crop", None) else resize
    if crop is None:
        raise ConfigError(
            "the image processor does not define an input size", "use an encoder whose preprocessor_config.json does"
        )
    resampling = int(processor.resample)
    if resize is not None and resampling not in _PIL_RESAMPLING:
        raise ConfigError(f"the image processor resamples by PIL's method {resampling}", "only 2 and 3 are supported")
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean = _triple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0)
    std = _triple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0)
    scale = 255 * factor
    return Preprocessing(
        crop,
        (mean[0] / scale, mean[1] / scale, mean[2] / scale),
        (std[0] / scale, std[1] / scale, std[2] / scale),
        resize,
        None if resize is None else _PIL_RESAMPLING[resampling],
    )


def _side(size: Any) -> int:
    """The side of a square size: ``{"shortest_edge": n}``, ``{"height": n, "width": n}`` or n."""
    if isinstance(size, int):
        return size
    sides: Mapping[str, Any] = size if isinstance(size, Mapping) else vars(size)
    edge, height, width = (sides.get(key) for key in ("shortest_edge", "height", "width"))
    if edge is not None:
        return int(edge)
    if height is None or height != width:
        raise ConfigError(f"the image processor's size {size} is not square", "only square inputs are supported")
    return int(height)


def read_transformers(network: Any, pool: str) -> Readout:
    """The readout of a model of transformers; ``auto`` is its class token, or its image features."""
    seeing = getattr(network, "vision_model", network)
    vision = getattr(network.config, "vision_config", network.config)

    def project(x: Tensor) -> Tensor:
        found = network.get_image_features(pixel_values=x)
        projected: Tensor = getattr(found, "pooler_output", found)
        return projected

    def features(x: Tensor) -> Tensor:
        found: Tensor = seeing(pixel_values=x).last_hidden_state
        return found

    def prefix(tokens: int, height: int, width: int) -> int:
        patch = getattr(vision, "patch_size", None)
        return max(0, tokens - (height // patch) * (width // patch)) if isinstance(patch, int) else 0

    taken = project if pool == "auto" and hasattr(network, "get_image_features") else features
    return Readout(network, taken, pool, prefix=prefix, spatial=features)


def _own(name: str) -> Foreign:
    module, _, function = name.partition(":")
    try:
        with _working_folder_importable():
            made = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise ConfigError(
            f"{name} cannot be called: {type(error).__name__}: {error}",
            "PACKAGE.MODULE:FUNCTION names a function without arguments that returns a torch module",
        ) from error
    network, properties = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    known = {field.name for field in fields(Preprocessing)}
    if not isinstance(network, nn.Module) or not isinstance(properties, Mapping) or not known >= properties.keys():
        raise ConfigError(
            f"{name} returned {_described(made)}",
            f"return a torch module, or one and a dict of: {', '.join(sorted(known))}",
        )
    values: dict[str, Any] = {
        key: _triple(properties[key]) if key in ("mean", "std") else properties[key] for key in properties
    }
    feed = Preprocessing(**values)
    return Foreign(network, feed, lambda pool: Readout(network, network, pool))


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _described(made: Any) -> str:
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
        return f"a {type(made[0]).__name__} with {', '.join(map(str, made[1]))}"
    return f"a {type(made).__name__}"


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
