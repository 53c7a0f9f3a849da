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
        0,
        "Random seed, for the weights of random:ARCH and the sample of --map.",
        low=0,
        high=2**31 - 1,
        affects=False,
        panel="Run",
    )
    patches: str = option(
        REQUIRED,
        "Folder written by sgcl tile, a folder of class folders of images, or, with --slides, coordinates of CLAM or TRIDENT.",
        affects=False,
        argument=True,
    )
    encoder: str = option(
        REQUIRED,
        "Folder written by sgcl pretrain, its encoder.safetensors or a checkpoint; a state dict, with --arch; a name listed by "
        "sgcl encoders, such as uni2; timm:NAME; transformers:NAME; PACKAGE.MODULE:FUNCTION; or a baseline: "
        "mean-colour, colour-histogram, random:ARCH.",
        affects=False,
    )
    slides: str | None = option(
        None, "Folder of the slides, to read pixels from if PATCHES has coordinates only.", affects=False
    )
    slide_mpp: float | None = option(
        None,
        "With coordinates of CLAM or TRIDENT: level-0 resolution of slides that record none, µm per pixel.",
        low=0.001,
        high=100,
        affects=False,
    )
    layout: Layout = option(
        "sgcl",
        "Output layout: OUT/<slide_id>.h5 (sgcl), OUT/h5_files (clam), or OUT/<tree>/features_<encoder> (trident).",
        affects=False,
        panel="Other tools",
    )
    also: str | None = option(
        None,
        "Additional formats, separated by commas: pt (CLAM's pt_files), anndata, parquet.",
        affects=False,
        panel="Other tools",
    )
    map: bool = option(
        False,
        "Draw each slide's tissue beside maps of the first three principal components, and one page of them.",
        affects=False,
        panel="Pictures",
    )
    query: str | None = option(
        None,
        "SLIDE_ID:X,Y in level-0 pixels: write the patches most similar to the one at this position, as a picture and a table.",
        affects=False,
        panel="Pictures",
    )
    query_top: int = option(
        15, "Number of patches that --query returns.", low=1, high=1000, affects=False, panel="Pictures"
    )
    slide_embedding: str | None = option(
        None,
        "One vector per slide, as AnnData and CSV: mean, or the output folder of sgcl evaluate, whose attention model pools.",
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
        None, "Weights for a named encoder or timm:NAME, instead of downloading them.", affects=False, panel="Encoder"
    )
    layer: str | None = option(
        None,
        "Layer to embed: layer1 to layer4 of a ResNet, block1 to block12 of a vision transformer; default: the last.",
        affects=False,
        panel="Encoder",
    )
    pool: Literal["auto", "cls", "mean", "cls+mean"] = option(
        "auto",
        "Pooling of the layer: its class token (cls), the mean over the image (mean), or both; auto: as the encoder intends.",
        affects=False,
        panel="Encoder",
    )
    input_size: int | None = option(
        None,
        "Side of the encoder's input, pixels; default: as recorded for the encoder.",
        low=16,
        high=8192,
        affects=False,
        panel="Encoder",
    )
    mean: str | None = option(
        None,
        "Mean of red,green,blue in 0..1, to be subtracted; default: as recorded for the encoder.",
        affects=False,
        panel="Encoder",
    )
    std: str | None = option(
        None,
        "Standard deviation of red,green,blue in 0..1, to divide by; default: as recorded for the encoder.",
        affects=False,
        panel="Encoder",
    )
    encoder_mpp: float | None = option(
        None,
        "Resolution at which the encoder was trained, µm per pixel; default: as recorded for the encoder.",
        low=0.001,
        high=100,
        affects=False,
        panel="Encoder",
    )
    allow_mpp: bool = option(
        False, "Continue if patches and encoder differ in resolution by more than 10 %.", affects=False, panel="Encoder"
    )
    groups: str | None = option(
        None, "For a folder of images: table name,group, for example with the patient of each image.", affects=False
    )
    batch: int = option(256, "Patches per batch.", low=1, high=2**16, affects=False)
    dtype: Literal["float16", "float32"] = option(
        "float16",
        "Data type of stored features; --layout clam and trident default to float32, which their models need.",
    )
    precision: Precision = option("auto", "Arithmetic of the encoder; auto: bf16 on CUDA, fp32 on CPU.")
    workers: int | None = option(
        None,
        "Processes that read and decode patches; default: by the number of cores.",
        low=0,
        high=1024,
        affects=False,
        panel="Run",
    )
    slide_timeout: float = option(
        600.0,
        "With --slides: seconds without a new patch after which a slide counts as failed.",
        above=0,
        high=1e6,
        affects=False,
        panel="Run",
    )
    allow_failures: str = option(
        "0", "Number N or percentage P% of slides that may fail with exit code 0.", affects=False, panel="Run"
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
    """The formats named by ``--also``, each once.

    :raises ConfigError: an unknown format.
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
        raise ConfigError(f"--query is '{text[:60]}'", "give SLIDE_ID:X,Y, a position in level-0 pixels")
    return slide_id, x, y
