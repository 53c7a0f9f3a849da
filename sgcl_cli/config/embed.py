"""Settings of ``sgcl embed``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sgcl_cli.config.base import REQUIRED, Config, failures_allowed, option
from sgcl_cli.config.choices import Layout, Precision
from sgcl_cli.config.encoders import ARCHITECTURES, check_architecture, colours
from sgcl_cli.errors import ConfigError

FORMS = ("pt", "anndata", "parquet")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """Settings of ``sgcl embed``."""

    table: ClassVar[str] = "embed"
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "clam": {"dtype": "float32"},
        "trident": {"dtype": "float32"},
    }
    recipe_field: ClassVar[str] = "layout"

    seed: int = option(
        0, "Seed of random:ARCH's weights and of --map's sample.", low=0, high=2**31 - 1, affects=False, panel="Run"
    )
    patches: str = option(
        REQUIRED,
        "Folder that sgcl tile wrote, a folder of class folders of images, or, with --slides, coordinates of CLAM or TRIDENT.",
        affects=False,
        argument=True,
    )
    encoder: str = option(
        REQUIRED,
        "Folder that sgcl pretrain wrote, its encoder.safetensors or a checkpoint; a state dict, with --arch; a name that "
        "sgcl encoders lists, such as uni2; timm:NAME; transformers:NAME; PACKAGE.MODULE:FUNCTION; or a baseline: "
        "mean-colour, colour-histogram, random:ARCH.",
        affects=False,
    )
    slides: str | None = option(
        None, "Folder of the slides: read pixels there, where patches are coordinates alone.", affects=False
    )
    slide_mpp: float | None = option(
        None,
        "With a peer's coordinates: level-0 resolution of slides that record none, µm per pixel.",
        low=0.001,
        high=100,
        affects=False,
    )
    layout: Layout = option(
        "sgcl",
        "Where files go: OUT/<slide_id>.h5, CLAM's OUT/h5_files, or TRIDENT's OUT/<tree>/features_<encoder>.",
        affects=False,
        panel="Other tools",
    )
    also: str | None = option(
        None,
        "Further forms, separated by commas: pt (CLAM's pt_files), anndata, parquet.",
        affects=False,
        panel="Other tools",
    )
    map: bool = option(
        False,
        "Draw each slide's first three principal components as colours, and one page of them.",
        affects=False,
        panel="Pictures",
    )
    query: str | None = option(
        None,
        "SLIDE_ID:X,Y in level-0 pixels: the patches most like the one there, as a picture and a table.",
        affects=False,
        panel="Pictures",
    )
    query_top: int = option(15, "Patches that --query finds.", low=1, high=1000, affects=False, panel="Pictures")
    slide_embedding: str | None = option(
        None,
        "One vector a slide, as AnnData and CSV: mean, or a folder that sgcl evaluate wrote, the attention of whose model pools.",
        affects=False,
        panel="Other tools",
    )
    arch: str | None = option(
        None,
        f"Architecture of a state dict: {', '.join(ARCHITECTURES)}, timm:NAME or PACKAGE.MODULE:FUNCTION.",
        affects=False,
        panel="Encoder",
    )
    weights: str | None = option(
        None, "Weights for a named encoder or timm:NAME, instead of fetching them.", affects=False, panel="Encoder"
    )
    layer: str | None = option(
        None,
        "Layer that is embedded: layer1 to layer4 of a ResNet, block1 to block12 of a vision transformer; default: the last.",
        affects=False,
        panel="Encoder",
    )
    pool: Literal["auto", "cls", "mean", "cls+mean"] = option(
        "auto",
        "What of a layer is taken: the class token, the mean over the image, or both; auto: what the encoder is made for.",
        affects=False,
        panel="Encoder",
    )
    input_size: int | None = option(
        None,
        "Side of the encoder's input in pixels; default: its own.",
        low=16,
        high=8192,
        affects=False,
        panel="Encoder",
    )
    mean: str | None = option(
        None,
        "Mean of red,green,blue in 0..1 that is subtracted; default: the encoder's own.",
        affects=False,
        panel="Encoder",
    )
    std: str | None = option(
        None,
        "Standard deviation of red,green,blue by which is divided; default: the encoder's own.",
        affects=False,
        panel="Encoder",
    )
    encoder_mpp: float | None = option(
        None,
        "Resolution that the encoder was trained at, µm per pixel; default: what it records.",
        low=0.001,
        high=100,
        affects=False,
        panel="Encoder",
    )
    allow_mpp: bool = option(
        False, "Go on where patches and encoder differ in resolution by more than 10 %.", affects=False, panel="Encoder"
    )
    groups: str | None = option(
        None, "Table name,group for a folder of images: the patient of each image, say.", affects=False
    )
    batch: int = option(256, "Patches in a batch.", low=1, high=2**16, affects=False)
    dtype: Literal["float16", "float32"] = option(
        "float16", "How features are stored; with --layout clam or trident float32 by default, which their models need."
    )
    precision: Precision = option("auto", "Arithmetic of the encoder; auto is bf16 on CUDA, fp32 on CPU.")
    workers: int | None = option(
        None,
        "Processes that read and decode patches; default: from the cores.",
        low=0,
        high=1024,
        affects=False,
        panel="Run",
    )
    slide_timeout: float = option(
        600.0,
        "With --slides: seconds without a patch after which a slide is given up.",
        above=0,
        high=1e6,
        affects=False,
        panel="Run",
    )
    allow_failures: str = option(
        "0", "Failed slides, as N or P%, up to which the exit code stays 0.", affects=False, panel="Run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        failures_allowed(self.allow_failures, 100)
        if self.arch is not None:
            check_architecture("arch", self.arch)
        colours("mean", self.mean)
        colours("std", self.std)
        further_forms(self.also)
        if self.query is not None:
            parse_query(self.query)


def further_forms(text: str | None) -> tuple[str, ...]:
    """The forms that ``--also`` names, each once.

    :raises ConfigError: one of them is not known.
    """
    named = tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    for name in named:
        if name not in FORMS:
            raise ConfigError(f"--also {text}: '{name}' is not known", f"known: {', '.join(FORMS)}")
    return named


def parse_query(text: str) -> tuple[str, float, float]:
    """Slide id, x and y of ``SLIDE_ID:X,Y``.

    :raises ConfigError: it is not of that form.
    """
    slide_id, _, place = text.rpartition(":")
    try:
        x, y = (float(part) for part in place.split(","))
    except ValueError:
        x = y = math.nan
    if not slide_id or not (math.isfinite(x) and math.isfinite(y)):
        raise ConfigError(f"--query is '{text[:60]}'", "give SLIDE_ID:X,Y, a place in level-0 pixels")
    return slide_id, x, y
