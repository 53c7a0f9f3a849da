"""Named encoders as networks: an entry of the catalogue made by timm or transformers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.catalogue import CATALOGUE, NamedEncoder
from sgcl_cli.nets.conv_stem import ConvStem, renamed
from sgcl_cli.nets.foreign import (
    Foreign,
    Preprocessing,
    import_library,
    read_timm,
    read_transformers,
    recorded_by_timm,
)


def is_named(name: str) -> bool:
    """Whether the catalogue has an encoder of this name."""
    return name in CATALOGUE


def takes_folder(name: str) -> bool:
    """Whether weights of this encoder are a folder (config.json and tensors), not a state dict."""
    return CATALOGUE[name].library == "transformers"


def build_named(name: str, weights: str | None) -> Foreign:
    """Make an encoder of the catalogue.

    :param weights: None to fetch the published ones. A state dict is left to the caller to load; a folder is read here.
    :raises ConfigError: the library is absent, the hub cannot be reached or refuses, or weights are needed in another form.
    """
    entry = CATALOGUE[name]
    if entry.library == "transformers":
        return _by_transformers(name, entry, weights)
    return _by_timm(name, entry, pretrained=weights is None)


def _by_timm(name: str, entry: NamedEncoder, *, pretrained: bool) -> Foreign:
    library = import_library("timm", name)
    if not pretrained and entry.architecture is None:
        raise ConfigError(
            f"{name} is made from its configuration on the hub", "leave --weights out; its weights are fetched"
        )
    if pretrained and not entry.fetched:
        raise ConfigError(
            f"{name} has no weights that timm can fetch", f"download its file from {entry.hub} and give it as --weights"
        )
    arguments: dict[str, Any] = {**entry.arguments}
    if entry.conv_stem:
        arguments["embed_layer"] = ConvStem
    if entry.swiglu:
        arguments |= {"mlp_layer": library.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    wanted = entry.architecture
    if pretrained:
        wanted = f"hf-hub:{entry.hub}" if "/" in entry.hub else entry.hub
    try:
        network = library.create_model(wanted, pretrained=pretrained, num_classes=0, **arguments)
    except Exception as error:
        raise ConfigError(f"{name} cannot be made: {error}", _remedy(entry)) from error
    feed = _feed(entry)
    if feed is None:
        feed = replace(recorded_by_timm(network, name), mpp=entry.mpp)
    pooled = partial(_pooled, entry)
    rename = renamed if entry.conv_stem else dict
    return Foreign(network, feed, lambda pool: read_timm(network, pooled(pool)), rename=rename)


def _by_transformers(name: str, entry: NamedEncoder, weights: str | None) -> Foreign:
    library = import_library("transformers", name)
    if weights is not None and not (Path(weights) / "config.json").is_file():
        raise ConfigError(
            f"--weights {weights}: {name} needs a folder with config.json and its weights",
            f"download all files of {entry.hub} into one folder",
        )
    try:
        network = _pretrained(library, entry, weights or entry.hub)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{name} cannot be made: {error}", _remedy(entry)) from error
    feed, pooled = _feed(entry) or Preprocessing(), partial(_pooled, entry)
    return Foreign(network, feed, lambda pool: read_transformers(network, pooled(pool)))


def _pretrained(library: Any, entry: NamedEncoder, source: str) -> Any:
    """A model of transformers with the weights of a folder or the hub; its class is never taken from there where it is known.

    :raises ConfigError: weights are missing, which the library would leave random.
    """
    if entry.architecture is None:
        return library.AutoModel.from_pretrained(source)
    config = getattr(library, f"{entry.architecture}Config")(**entry.arguments)
    model = getattr(library, f"{entry.architecture}Model")
    network, loaded = model.from_pretrained(source, config=config, output_loading_info=True)
    if missing := sorted(loaded["missing_keys"]):
        raise ConfigError(
            f"{source} lacks {len(missing)} of the encoder's tensors, '{missing[0]}' among them", _remedy(entry)
        )
    return network


def _pooled(entry: NamedEncoder, pool: str) -> str:
    return entry.pool if pool == "auto" else pool


def _feed(entry: NamedEncoder) -> Preprocessing | None:
    if entry.colours is None:
        return None
    mean, std = entry.colours
    return Preprocessing(224, mean, std, entry.resize, entry.interpolation, entry.mpp)


def _remedy(entry: NamedEncoder) -> str:
    gate = "agree to its terms there and log in with hf auth login; " if entry.gated else ""
    kind = "a folder with its files" if entry.library == "transformers" else "its file of weights"
    return f"https://huggingface.co/{entry.hub}: {gate}without a network give {kind} as --weights"
