"""Settings of ``sgcl tile``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from sgcl_cli.config.base import Config, failures_allowed, flag, option, whole_number
from sgcl_cli.config.choices import AnnotationsOrigin, IdFrom, Ink, LabelRule, Layout, StainChoice
from sgcl_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TileConfig(Config):
    """Settings of ``sgcl tile``."""

    table: ClassVar[str] = "tile"

    seed: int = option(
        0, "Random seed, which this command does not use.", low=0, high=2**31 - 1, affects=False, panel="Run"
    )
    slides: tuple[str, ...] = option((), "Slides, or folders to search for slides.", affects=False, argument=True)
    list: str | None = option(
        None,
        "CSV table of slides with the column path and, optionally, slide_id, mpp, tissue, ink, min_area, max_hole.",
        affects=False,
    )
    id_from: IdFrom = option(
        "stem", "Slide ids: file names without extension (stem), or relative paths (path).", affects=False
    )

    tissue: StainChoice = option(
        "auto",
        "Stain, for tissue detection: H&E (he), immunohistochemistry (ihc), pale or unstained (faint); auto: chosen per slide.",
        panel="Tissue",
    )
    ink: Ink = option(
        "auto",
        "Detect and exclude pen marks (auto); off is for slides without pen marks, if dense tissue is mistaken for them.",
        panel="Tissue",
    )
    min_area: float = option(20_000.0, "Smallest area of a piece of tissue, µm².", low=0, panel="Tissue")
    max_hole: float = option(6_000.0, "Largest hole that counts as tissue, µm².", low=0, panel="Tissue")

    mpp: float = option(0.5, "Resolution of the patches, µm per pixel.", low=0.001, high=100, panel="Patches")
    patch_size: int = option(256, "Side of a patch, pixels at --mpp.", low=16, high=8192, panel="Patches")
    overlap: int = option(0, "Overlap of neighbouring patches, pixels at --mpp.", low=0, panel="Patches")
    min_tissue: float = option(0.5, "Smallest fraction of tissue in a patch.", low=0, high=1, panel="Patches")
    slide_mpp: float | None = option(
        None, "Level-0 resolution of slides that record none, µm per pixel.", low=0.001, high=100, panel="Patches"
    )
    allow_upsample: bool = option(False, "Upsample slides more than 7 % coarser than --mpp.", panel="Patches")
    coords_only: bool = option(False, "Store coordinates without pixels.", panel="Patches")
    jpeg_quality: int = option(90, "JPEG quality of the stored patches.", low=1, high=100, panel="Patches")
    lossless: bool = option(
        False, "Copy the JPEG data of the slide's own tiles; --mpp and --patch-size must match them.", panel="Patches"
    )

    layout: Layout = option(
        "sgcl",
        "Output layout: patches/ID.h5 (sgcl), the same with patch sizes in pixels of a level, as CLAM reads it (clam), or the "
        "folders of TRIDENT (trident).",
        affects=False,
        panel="Patches",
    )

    annotations: str | None = option(
        None,
        "Folder of annotations, files named by slide_id: QuPath .geojson, ASAP .xml, tables x,y,name,radius_px (.csv), or mask "
        "images (.png, .tif).",
        affects=False,
        panel="Annotations",
    )
    annotations_origin: AnnotationsOrigin | None = option(
        None,
        "Origin of annotation coordinates on slides with openslide.bounds-*: the corner of the slide (slide), or of the scanned "
        "region, as in QuPath (bounds); default: bounds for .geojson, slide for the rest.",
        panel="Annotations",
    )
    label_rule: LabelRule = option(
        "majority",
        "Label of a patch: the class that covers most of it (majority), the largest class, however small (any), or the class "
        "that covers all of it (pure).",
        panel="Annotations",
    )
    label_names: str | None = option(
        None,
        "Classes in the order of their labels: a,b,c. Others are ignored. Default: all classes, sorted.",
        affects=False,
        panel="Annotations",
    )
    mask_mpp: float | None = option(
        None,
        "Resolution of mask images, µm per pixel; default: masks are as large as level 0.",
        low=0.001,
        high=1000,
        panel="Annotations",
    )
    mask_values: str | None = option(
        None,
        "Classes of mask values: 255=tumour,0=other; default: each value above 0 is a class.",
        panel="Annotations",
    )
    roi: str | None = option(
        None,
        "Folder of .geojson files named by slide_id: the regions in which patches may lie.",
        affects=False,
        panel="Annotations",
    )
    roi_origin: AnnotationsOrigin | None = option(
        None, "Origin of the coordinates of --roi, as for --annotations-origin; default: bounds.", panel="Annotations"
    )
    roi_mode: Literal["restrict", "replace"] = option(
        "restrict", "Whether --roi restricts the detected tissue or replaces it.", panel="Annotations"
    )

    from_coords: str | None = option(
        None,
        "Folder of coordinate files of CLAM or TRIDENT; exactly these patches are read.",
        affects=False,
        panel="Patches",
    )

    workers: int | None = option(
        None,
        "Worker processes, the total CPU budget; default: all cores.",
        low=1,
        high=1024,
        affects=False,
        panel="Run",
    )
    shard: str | None = option(
        None,
        "Process part i of n of the slides, as i/n with i from 1, to share them among machines.",
        affects=False,
        panel="Run",
    )
    dask: str | None = option(
        None, "Address tcp://host:port of a dask scheduler; its workers process the slides.", affects=False, panel="Run"
    )
    slide_timeout: float = option(
        3600.0, "Seconds after which a slide counts as failed.", above=0, high=1e6, affects=False, panel="Run"
    )
    allow_failures: str = option(
        "0", "Number N or percentage P% of slides that may fail with exit code 0.", affects=False, panel="Run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.patch_size:
            raise ConfigError(
                f"--overlap {self.overlap} is not smaller than --patch-size {self.patch_size}",
                "the stride is their difference and must be at least one pixel",
            )
        for name in ("label_names", "mask_mpp", "mask_values", "annotations_origin"):
            if self.annotations is None and getattr(self, name) is not None:
                raise ConfigError(f"{flag(name)} needs --annotations", "give the folder of annotations")
        if self.roi is None and self.roi_origin is not None:
            raise ConfigError("--roi-origin needs --roi", "give the folder of regions of interest")
        if self.lossless and (self.overlap or self.coords_only):
            raise ConfigError(
                "--lossless copies whole native tiles",
                f"leave out {'--overlap' if self.overlap else '--coords-only'}, or --lossless",
            )
        if self.from_coords is not None:
            self._check_from_coords()
        failures_allowed(self.allow_failures, 100)
        parse_shard(self.shard)

    def _check_from_coords(self) -> None:
        """Refuse options that select patches, which --from-coords already does."""
        for spec in fields(self):
            name = spec.name
            if name in ("overlap", "min_tissue", "roi", "roi_mode") and getattr(self, name) != spec.default:
                raise ConfigError(f"{flag(name)} and --from-coords both select patches", "leave out one of them")


def parse_shard(text: str | None) -> tuple[int, int]:
    """Number of a shard, from 1, and number of shards: ``2/8`` -> (2, 8); None -> (1, 1).

    :raises ConfigError: not of this form.
    """
    if text is None:
        return 1, 1
    first, _, second = text.partition("/")
    count = whole_number(second, 1, 10**6)
    number = None if count is None else whole_number(first, 1, count)
    if number is None or count is None:
        raise ConfigError(
            f"--shard is '{text[:60]}'; it must be i/n with i from 1 to n",
            "example: the second of eight is --shard 2/8",
        )
    return number, count
