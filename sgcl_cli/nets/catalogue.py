"""Encoders of pathology that ``--encoder`` knows by name: where they are, how they are made, and what they expect to see.

Every fact has a source in ``SOURCES``. CONCH v1.5 is left out: its attention pooling is in no library, only in code that would
have to be fetched and run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

Colour = tuple[float, float, float]
_IMAGENET: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Colour, Colour] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_OPTIMUS: tuple[Colour, Colour] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU: tuple[Colour, Colour] = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_LUNIT: tuple[Colour, Colour] = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
_SCALED: Mapping[str, Any] = {"init_values": 1e-5}
_VIRCHOW: Mapping[str, Any] = {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": ""}

TRIDENT = "TRIDENT's trident/patch_encoder_models/load.py and README.md at commit a91fa849"
SOURCES = {
    "architecture, transform, patch size, resolution": TRIDENT,
    "licence gate": "the list of feature extractors in PathBench-MIL's README; for phikon-v2 its users' notes",
    "mean and std of lunit": "eva's pathology/lunit.py, after the authors' release notes",
    "resolution of h-optimus-0": "its model card: 224 x 224 pixels at 0.5 microns per pixel",
    "architecture of hibou": "build_model in https://github.com/HistAI/hibou, hibou/models/__init__.py and vision_transformer.py",
    "licence gate of hibou": "their model cards: hibou-L asks to share contact information, hibou-b does not",
    "architecture of ctranspath": "ctran.py and get_features_CTransPath.py in https://github.com/Xiyue-Wang/TransPath",
    "transform of h0-mini": "the configuration on the hub, as its authors' example reads it; nothing is written down here",
}
UNVERIFIED = {
    "phikon, lunit, gpfm": "whether the hub asks for an agreement",
    "lunit": "the interpolation, which matters only where patches are not 224 pixels",
    "hibou": "the published tensors themselves: their names are those that users list, their number that of the model cards",
    "hibou-b": "the transform, taken for that of hibou-L",
    "ctranspath": "the mirror on the hub; TRIDENT's magnification of 10 is for the weights that CHIEF distributes",
}


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder of the table.

    :ivar hub: address on the hub; for timm's own weights the model's name.
    :ivar architecture: timm's name of it, for weights from a file, or the beginning of the names of its classes in transformers;
        None where it is made from the hub's configuration alone.
    :ivar arguments: further arguments of timm, or the settings of transformers' configuration.
    :ivar swiglu: whether its blocks have a packed SwiGLU.
    :ivar conv_stem: whether patches are embedded by ``conv_stem.ConvStem``.
    :ivar patch_size: side of the recommended patches, pixels.
    :ivar patch_mpp: their resolution, µm per pixel.
    :ivar resize: side that patches are resized to, pixels.
    :ivar colours: mean and standard deviation of RGB in 0..1; None for what the hub records.
    :ivar pool: ``cls``, ``cls+mean`` or ``auto``, as readout.Readout takes it.
    :ivar width: numbers in an embedding.
    :ivar gated: whether the hub asks for an agreement; None where that was not verified.
    :ivar natural: whether it was trained on photographs, which have no resolution.
    :ivar fetched: whether its library can fetch it; otherwise its file on the hub has to be given.
    """

    hub: str
    library: Literal["timm", "transformers"]
    width: int
    patch_size: int
    architecture: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    swiglu: bool = False
    conv_stem: bool = False
    patch_mpp: float = 0.5
    resize: int = 224
    interpolation: str = "bilinear"
    colours: tuple[Colour, Colour] | None = _IMAGENET
    pool: str = "cls"
    gated: bool | None = None
    natural: bool = False
    fetched: bool = True

    @property
    def mpp(self) -> float | None:
        """Resolution of what it sees of the recommended patches after resizing, µm per pixel."""
        return None if self.natural else self.patch_mpp * self.patch_size / self.resize


def _kaiko(architecture: str, width: int, **arguments: Any) -> NamedEncoder:
    hub = f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms"
    return NamedEncoder(
        hub, "timm", width, 256, architecture, {"dynamic_img_size": True, **arguments}, colours=_HALF, gated=False
    )


_DYNAMIC: Mapping[str, Any] = {"dynamic_img_size": True}
_UNI2: Mapping[str, Any] = {
    "img_size": 224,
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2,
    "no_embed_class": True,
    "reg_tokens": 8,
    **_SCALED,
    **_DYNAMIC,
}
_GIGAPATH: Mapping[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 1536,
    "depth": 40,
    "num_heads": 24,
    "mlp_ratio": 5.33334,
    **_DYNAMIC,
}
_GIANT: Mapping[str, Any] = {"img_size": 224, "global_pool": "token", **_SCALED, **_DYNAMIC}


def _virchow(hub: str, **arguments: Any) -> NamedEncoder:
    return NamedEncoder(
        hub,
        "timm",
        2560,
        224,
        "vit_huge_patch14_224",
        {**_VIRCHOW, **_DYNAMIC, **arguments},
        swiglu=True,
        interpolation="bicubic",
        pool="cls+mean",
        gated=True,
    )


def _h_optimus(hub: str, *, gated: bool) -> NamedEncoder:
    architecture = "vit_giant_patch14_reg4_dinov2"
    return NamedEncoder(hub, "timm", 1536, 224, architecture, _GIANT, colours=_OPTIMUS, gated=gated)


def _hibou(hub: str, width: int, depth: int, heads: int, *, gated: bool) -> NamedEncoder:
    settings = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "use_swiglu_ffn": True,
        "num_register_tokens": 4,
        "patch_size": 14,
        "image_size": 224,
    }
    return NamedEncoder(
        hub,
        "transformers",
        width,
        224,
        "Dinov2WithRegisters",
        settings,
        interpolation="bicubic",
        colours=_HIBOU,
        gated=gated,
    )


CATALOGUE: Mapping[str, NamedEncoder] = {
    "resnet50-imagenet": NamedEncoder(
        "resnet50.tv_in1k", "timm", 2048, 256, "resnet50", pool="auto", gated=False, natural=True
    ),
    "lunit-vits8": NamedEncoder(
        "1aurent/vit_small_patch8_224.lunit_dino", "timm", 384, 224, "vit_small_patch8_224", _DYNAMIC, colours=_LUNIT
    ),
    "phikon": NamedEncoder("owkin/phikon", "transformers", 768, 224),
    "phikon-v2": NamedEncoder("owkin/phikon-v2", "transformers", 1024, 224, gated=False),
    "uni": NamedEncoder(
        "MahmoodLab/UNI", "timm", 1024, 256, "vit_large_patch16_224", {**_SCALED, **_DYNAMIC}, gated=True
    ),
    "uni2": NamedEncoder(
        "MahmoodLab/UNI2-h", "timm", 1536, 256, "vit_giant_patch14_224", _UNI2, swiglu=True, gated=True
    ),
    "virchow": _virchow("paige-ai/Virchow"),
    "virchow2": _virchow("paige-ai/Virchow2", reg_tokens=4),
    "gigapath": NamedEncoder(
        "prov-gigapath/prov-gigapath",
        "timm",
        1536,
        256,
        "vit_giant_patch14_dinov2",
        _GIGAPATH,
        resize=256,
        interpolation="bicubic",
        gated=True,
    ),
    "h-optimus-0": _h_optimus("bioptimus/H-optimus-0", gated=False),
    "h-optimus-1": _h_optimus("bioptimus/H-optimus-1", gated=True),
    "h0-mini": NamedEncoder(
        "bioptimus/H0-mini", "timm", 768, 224, None, _DYNAMIC, swiglu=True, colours=None, gated=True
    ),
    "kaiko-vits8": _kaiko("vit_small_patch8_224", 384),
    "kaiko-vits16": _kaiko("vit_small_patch16_224", 384),
    "kaiko-vitb8": _kaiko("vit_base_patch8_224", 768),
    "kaiko-vitb16": _kaiko("vit_base_patch16_224", 768),
    "kaiko-vitl14": _kaiko("vit_large_patch14_reg4_dinov2", 1024, img_size=518),
    "midnight": NamedEncoder(
        "kaiko-ai/midnight", "transformers", 3072, 224, colours=_HALF, pool="cls+mean", gated=False
    ),
    "hibou-b": _hibou("histai/hibou-b", 768, 12, 12, gated=False),
    "hibou-l": _hibou("histai/hibou-L", 1024, 24, 16, gated=True),
    "ctranspath": NamedEncoder(
        "1aurent/swin_tiny_patch4_window7_224.CTransPath",
        "timm",
        768,
        256,
        "swin_tiny_patch4_window7_224",
        conv_stem=True,
        patch_mpp=1.0,
        pool="auto",
        gated=False,
    ),
    "gpfm": NamedEncoder(
        "majiabo/GPFM",
        "timm",
        1024,
        224,
        "vit_large_patch14_dinov2",
        {"img_size": 224, **_SCALED, **_DYNAMIC},
        interpolation="bicubic",
        fetched=False,
    ),
}


def availability(entry: NamedEncoder) -> str:
    """Whether an encoder can be used here, and what is missing otherwise."""
    if find_spec(entry.library) is None:
        return f"needs pip install 'sgcl[{entry.library}]'"
    if not entry.fetched:
        return f"yes, by --weights with its file from the hub, {entry.hub}"
    if _cache(entry).is_dir():
        return "yes, its weights are in the hub's cache"
    return "yes, weights are fetched from the hub" + (" after you agreed to its terms" if entry.gated else "")


def _cache(entry: NamedEncoder) -> Path:
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")
    name = entry.hub if "/" in entry.hub else f"timm/{entry.hub}"
    return Path(folder) / f"models--{name.replace('/', '--')}"
