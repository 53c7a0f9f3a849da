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
        0, "Seed, as every command has it; nothing here is random.", low=0, high=2**31 - 1, affects=False, panel="Run"
    )
    slides: tuple[str, ...] = option(
        (), "Slides, or folders that are searched for slides.", affects=False, argument=True
    )
    list: str | None = option(
        None,
        "Table of slides, a CSV file with the column path, and any of slide_id, mpp, tissue, ink, min_area, max_hole.",
        affects=False,
    )
    id_from: IdFrom = option("stem", "Where slide ids come from: the file's stem, or its relative path.", affects=False)

    tissue: StainChoice = option(
        "auto", "Stain by which tissue is told: he, ihc, faint or unstained, or auto by each slide.", panel="Tissue"
    )
    ink: Ink = option(
        "auto",
        "Whether pen marks are looked for and left out; off where a slide has none and dense tissue is taken for some.",
        panel="Tissue",
    )
    min_area: float = option(20_000.0, "Least area of a piece of tissue, µm².", low=0, panel="Tissue")
    max_hole: float = option(6_000.0, "Largest area of a hole that counts as tissue, µm².", low=0, panel="Tissue")

    mpp: float = option(0.5, "Resolution of the patches, µm per pixel.", low=0.001, high=100, panel="Patches")
    patch_size: int = option(256, "Side of a patch in pixels at --mpp.", low=16, high=8192, panel="Patches")
    overlap: int = option(0, "Overlap of neighbouring patches in pixels at --mpp.", low=0, panel="Patches")
    min_tissue: float = option(0.5, "Least share of a patch that is tissue.", low=0, high=1, panel="Patches")
    slide_mpp: float | None = option(
        None, "Resolution of level 0 where a slide records none, µm per pixel.", low=0.001, high=100, panel="Patches"
    )
    allow_upsample: bool = option(False, "Accept slides coarser than --mpp by more than 7 %.", panel="Patches")
    coords_only: bool = option(False, "Store coordinates without pixels.", panel="Patches")
    jpeg_quality: int = option(90, "JPEG quality of the stored patches.", low=1, high=100, panel="Patches")
    lossless: bool = option(
        False, "Copy the JPEG bytes of native tiles; --mpp and --patch-size must be theirs.", panel="Patches"
    )

    layout: Layout = option(
        "sgcl",
        "Where patches lie and for whose readers: patches/ID.h5, the same in pixels of a level for CLAM, or TRIDENT's tree.",
        affects=False,
        panel="Patches",
    )

    annotations: str | None = option(
        None,
        "Folder of annotations named by slide_id: QuPath's .geojson, ASAP's .xml, a table x,y,name,radius_px as .csv, "
        "or mask images as .png or .tif.",
        affects=False,
        panel="Annotations",
    )
    annotations_origin: AnnotationsOrigin | None = option(
        None,
        "Where annotations count from on slides with openslide.bounds-*: the slide's own corner, or that of the scanned part, "
        "as in QuPath; default: bounds for .geojson, slide for the rest.",
        panel="Annotations",
    )
    label_rule: LabelRule = option(
        "majority",
        "Label of a patch: the class that covers most of it (majority), however little (any), or all of it (pure).",
        panel="Annotations",
    )
    label_names: str | None = option(
        None,
        "Classes in the order of their labels, a,b,c; others do not count. Default: all classes, sorted.",
        affects=False,
        panel="Annotations",
    )
    mask_mpp: float | None = option(
        None,
        "Resolution of mask images, µm per pixel; default: they are as large as their slides.",
        low=0.001,
        high=1000,
        panel="Annotations",
    )
    mask_values: str | None = option(
        None,
        "Classes of a mask's values, 255=tumour,0=other; default: each value above 0 is one.",
        panel="Annotations",
    )
    roi: str | None = option(
        None, "Folder of .geojson named by slide_id: where patches may lie.", affects=False, panel="Annotations"
    )
    roi_origin: AnnotationsOrigin | None = option(None, "The same for --roi; default: bounds.", panel="Annotations")
    roi_mode: Literal["restrict", "replace"] = option(
        "restrict", "Whether --roi restricts the tissue that is found, or replaces it.", panel="Annotations"
    )

    from_coords: str | None = option(
        None,
        "Folder of CLAM's or TRIDENT's coordinate files: just those patches are read.",
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
        "Do only part i of n of the slides, i/n with i from 1, so that machines share them.",
        affects=False,
        panel="Run",
    )
    dask: str | None = option(
        None, "Address of a dask scheduler whose workers do the slides, tcp://host:port.", affects=False, panel="Run"
    )
    slide_timeout: float = option(
        3600.0, "Seconds after which a slide is given up.", above=0, high=1e6, affects=False, panel="Run"
    )
    allow_failures: str = option(
        "0", "Failed slides, as N or P%, up to which the exit code stays 0.", affects=False, panel="Run"
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
                raise ConfigError(f"{flag(name)} says how annotations are read", "give their folder with --annotations")
        if self.roi is None and self.roi_origin is not None:
            raise ConfigError("--roi-origin says how regions of interest are read", "give their folder with --roi")
        if self.lossless and (self.overlap or self.coords_only):
            raise ConfigError(
                "--lossless copies whole native tiles",
                f"leave out {'--overlap' if self.overlap else '--coords-only'}, or --lossless",
            )
        if self.from_coords is not None:
            self._check_from_coords()
        parse_shard(self.shard)
        failures_allowed(self.allow_failures, 100)
        parse_shard(self.shard)

    def _check_from_coords(self) -> None:
        """What --from-coords settles by itself."""
        for spec in fields(self):
            name = spec.name
            if name in ("overlap", "min_tissue", "roi", "roi_mode") and getattr(self, name) != spec.default:
                raise ConfigError(
                    f"{flag(name)} chooses patches, and --from-coords has them chosen", "leave one of them out"
                )


def parse_shard(text: str | None) -> tuple[int, int]:
    """The number of a shard, from 1, and of how many: ``2/8`` -> (2, 8); without any, the one of one.

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
