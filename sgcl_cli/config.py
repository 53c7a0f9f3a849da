"""Every setting, once: default, help and range; the command line, TOML files and run.json come from these tables.

A value is resolved as default < recipe < TOML < flag. Fields with ``affects=True`` enter the artefact's id, so outputs made under
different values are never mixed; the others (worker counts, devices, folders) may change between runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import shlex
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from sgcl_cli.errors import ConfigError


@dataclass(frozen=True)
class Meta:
    """What a field's option says and allows; carried in the dataclass field's metadata."""

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    affects: bool = True
    argument: bool = False
    panel: str = "Options"


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    affects: bool = True,
    argument: bool = False,
    panel: str = "Options",
) -> Any:
    """Declare a setting. ``low``/``high`` are inclusive bounds, ``above``/``below`` exclusive ones."""
    meta = Meta(help, low, high, above, below, affects, argument, panel)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"meta": meta})
    return dataclasses.field(default=default, metadata={"meta": meta})


REQUIRED = dataclasses.MISSING


def flag(name: str) -> str:
    """The command-line spelling of a field: ``patch_size`` -> ``--patch-size``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every command takes."""

    table: ClassVar[str] = ""
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    out: str = option(REQUIRED, "Folder to write to.", affects=False)
    seed: int = option(0, "Seed of everything random.", low=0, high=2**31 - 1, panel="Run")
    device: str = option(
        "auto", "auto, cpu, cuda or cuda:N; auto takes CUDA where there is one.", affects=False, panel="Run"
    )
    threads: int | None = option(
        None, "CPU threads for computing in the main process; default: all cores.", low=1, affects=False, panel="Run"
    )
    dry_run: bool = option(False, "Say what would be done, write nothing.", affects=False, panel="Run")
    overwrite: bool = option(
        False, "Start again: replace outputs, also those made under other settings.", affects=False, panel="Run"
    )

    def __post_init__(self) -> None:
        for name, meta, kind in describe(type(self)):
            _check(name, getattr(self, name), meta, kind)

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Build from layers of lowest to highest precedence; ``None`` and absent mean "not set". A recipe stands below them.

        :raises ConfigError: a missing, unknown, ill-typed or out-of-range setting.
        """
        known = {name: (meta, kind) for name, meta, kind in describe(cls)}
        values: dict[str, Any] = {}
        named = next((layer["recipe"] for layer in reversed(layers) if layer.get("recipe") is not None), None)
        for layer in (cls.recipes.get(str(named), {}), *layers):
            for key, value in layer.items():
                name = key.replace("-", "_")
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
                    raise ConfigError(f"unknown setting '{key}' for {cls.table}", hint)
                if value is not None:
                    values[name] = _coerce(name, value, known[name][1])
        for spec in dataclasses.fields(cls):
            required = spec.default is dataclasses.MISSING
            if required and spec.name not in values:
                spelled = spec.name.upper() if known[spec.name][0].argument else flag(spec.name)
                raise ConfigError(f"{spelled} is missing", f"give it, or set {spec.name} in [{cls.table}] of --config")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {spec.name: _plain(getattr(self, spec.name)) for spec in dataclasses.fields(self)}

    def command_line(self) -> str:
        """The command that gives the same result, with the settings that are not at their default."""
        arguments: list[str] = []
        options: list[str] = []
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.name in ("dry_run", "overwrite", "device", "threads", "workers") or value == spec.default:
                continue
            if spec.metadata["meta"].argument:
                arguments += [*value] if isinstance(value, tuple) else [str(value)]
            elif isinstance(value, bool):
                options.append(flag(spec.name) if value else flag("no_" + spec.name))
            else:
                options += [flag(spec.name), str(value)]
        return shlex.join(["sgcl", self.table, *arguments, *options])

    def affecting(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values; these enter the artefact's id."""
        return {name: _plain(getattr(self, name)) for name, meta, _ in describe(type(self)) if meta.affects}


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
    list: str | None = option(None, "Table of slides, CSV with columns path[,slide_id][,mpp].", affects=False)
    id_from: Literal["stem", "path"] = option(
        "stem", "Where slide ids come from: the file's stem, or its relative path.", affects=False
    )

    mpp: float = option(0.5, "Resolution of the patches, um per pixel.", above=0, high=100, panel="Patches")
    patch_size: int = option(256, "Side of a patch in pixels at --mpp.", low=16, high=8192, panel="Patches")
    overlap: int = option(0, "Overlap of neighbouring patches in pixels at --mpp.", low=0, panel="Patches")
    min_tissue: float = option(0.5, "Least share of a patch that is tissue.", low=0, high=1, panel="Patches")
    slide_mpp: float | None = option(
        None, "Resolution of level 0 where a slide records none, um per pixel.", above=0, high=100, panel="Patches"
    )
    allow_upsample: bool = option(False, "Accept slides coarser than --mpp by more than 5 %.", panel="Patches")
    coords_only: bool = option(False, "Store coordinates without pixels.", panel="Patches")
    jpeg_quality: int = option(90, "JPEG quality of the stored patches.", low=1, high=100, panel="Patches")
    lossless: bool = option(
        False, "Copy the JPEG bytes of native tiles; --mpp and --patch-size must be theirs.", panel="Patches"
    )

    annotations: str | None = option(
        None,
        "Folder of annotations named by slide_id: QuPath's .geojson, ASAP's .xml, a table x,y,name,radius_px as .csv, "
        "or mask images as .png or .tif.",
        affects=False,
        panel="Annotations",
    )
    label_rule: Literal["majority", "any", "pure"] = option(
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
        "Resolution of mask images, um per pixel; default: they are as large as their slides.",
        above=0,
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
    roi_mode: Literal["restrict", "replace"] = option(
        "restrict", "Whether --roi restricts the tissue that is found, or replaces it.", panel="Annotations"
    )

    workers: int | None = option(
        None, "Worker processes, the total CPU budget; default: all cores.", low=1, affects=False, panel="Run"
    )
    slide_timeout: float = option(
        3600.0, "Seconds after which a slide is given up.", above=0, affects=False, panel="Run"
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
        for name in ("label_names", "mask_mpp", "mask_values"):
            if self.annotations is None and getattr(self, name) is not None:
                raise ConfigError(f"{flag(name)} says how annotations are read", "give their folder with --annotations")
        if self.lossless and (self.overlap or self.coords_only):
            raise ConfigError(
                "--lossless copies whole native tiles",
                f"leave out {'--overlap' if self.overlap else '--coords-only'}, or --lossless",
            )
        failures_allowed(self.allow_failures, 100)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Config):
    """Settings of ``sgcl pretrain``; the defaults are those of the published recipe (docs/method.md)."""

    table: ClassVar[str] = "pretrain"

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgcl": {},
        "sgcl-moco": {"base": "moco"},
        "sslp": {"weight_inner": 0.0, "ranking": "v"},
        "npid": {"weight_spatial": 0.0, "weight_inner": 0.0},
        "npid-inner": {"weight_spatial": 0.0},
        "moco": {"base": "moco", "weight_spatial": 0.0, "weight_inner": 0.0},
        "sgcl-paper": {
            "encoder": "resnet18",
            "epochs": 100,
            "batch": 128,
            "lr": 0.015,
            "uniform_negatives": 65_536,
            "neighbours": 4_096,
            "clusters": 1_000,
            "negatives": 4_096,
            "ramp_epochs": 10.0,
        },
    }

    patches: str = option(REQUIRED, "Folder that sgcl tile wrote.", affects=False, argument=True)
    recipe: Literal["sgcl", "sgcl-moco", "sslp", "npid", "npid-inner", "moco", "sgcl-paper"] = option(
        "sgcl", "Named settings, below what TOML and flags say; --print-config shows them.", affects=False
    )
    encoder: Literal["resnet18", "resnet34", "resnet50"] = option("resnet18", "Architecture of the encoder.")
    epochs: int = option(100, "Passes over the patches.", low=1, panel="Optimisation")
    batch: int = option(128, "Patches in a batch.", low=2, panel="Optimisation")
    lr: float = option(0.015, "Learning rate at the start; cosine to 0.", above=0, panel="Optimisation")
    momentum: float = option(0.9, "Momentum of SGD.", low=0, below=1, panel="Optimisation")
    weight_decay: float = option(1e-4, "Weight decay of SGD.", low=0, panel="Optimisation")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Arithmetic of the encoder; auto is bf16 on CUDA, fp32 on CPU.", panel="Optimisation"
    )

    view: int | None = option(
        None, "Side of the global view in pixels; default 224 for patches of 256, in proportion.", low=16, panel="Views"
    )
    corner: int | None = option(
        None, "Side of a corner view in pixels; default 96 for patches of 256, in proportion.", low=8, panel="Views"
    )
    crop_low: float = option(0.2, "Smallest area of the global crop.", above=0, high=1, panel="Views")
    crop_high: float = option(1.0, "Largest area of the global crop.", above=0, high=1, panel="Views")
    corner_crop_low: float = option(0.2, "Smallest area of a quarter's crop.", above=0, high=1, panel="Views")
    corner_crop_high: float = option(0.56, "Largest area of a quarter's crop.", above=0, high=1, panel="Views")
    grayscale: float = option(0.2, "Probability of losing colour.", low=0, high=1, panel="Views")
    brightness: float = option(0.4, "Strength of the brightness jitter.", low=0, high=1, panel="Views")
    contrast: float = option(0.4, "Strength of the contrast jitter.", low=0, high=1, panel="Views")
    saturation: float = option(0.4, "Strength of the saturation jitter.", low=0, high=1, panel="Views")
    hue: float = option(0.4, "Strength of the hue jitter, in turns.", low=0, high=0.5, panel="Views")
    flip: float = option(0.5, "Probability of a horizontal flip.", low=0, high=1, panel="Views")

    base: Literal["npid", "moco"] = option(
        "npid", "Where the self term's keys come from: the bank, or a momentum encoder and a queue.", panel="Objective"
    )
    queue: int | None = option(
        None, "Keys in MoCo's queue; default min(65536, N / 2), a multiple of the batch.", low=1, panel="Objective"
    )
    key_momentum: float = option(0.999, "Momentum of MoCo's key encoder.", low=0, high=1, panel="Objective")
    projection: int = option(128, "Dimensions of the projected embedding v.", low=2, panel="Objective")
    temperature: float = option(0.2, "tau of the self and inner terms.", above=0, panel="Objective")
    spatial_temperature: float = option(0.07, "T of the spatial term.", above=0, panel="Objective")
    radius: float = option(3.0, "R: spatial neighbours lie nearer than this many patches.", above=0, panel="Objective")
    auxiliary: int = option(1, "a: auxiliary anchors for propagation.", low=0, panel="Objective")
    neighbours: int | None = option(
        None,
        "k: nearest bank entries considered for propagation; default min(4096, 0.6 % of N).",
        low=1,
        panel="Objective",
    )
    clusters: int | None = option(None, "Clusters of a k-means run; default from N.", low=2, panel="Objective")
    clusterings: int = option(3, "C: independent k-means runs that must agree.", low=1, panel="Objective")
    agreement: Literal["all", "any"] = option("all", "How many clusterings must agree.", panel="Objective")
    uniform_negatives: int | None = option(
        None, "K: uniform negatives of the self term; default min(65536, N - 1).", low=1, panel="Objective"
    )
    negatives: int = option(4096, "Draws of semi-hard negatives.", low=1, panel="Objective")
    negative_law: Literal["beta", "hardest", "uniform"] = option(
        "beta", "Law of the negatives' ranks within the top share.", panel="Objective"
    )
    beta_a: float = option(5.0, "First parameter of the Beta law.", above=0, panel="Objective")
    beta_b: float = option(15.0, "Second parameter of the Beta law.", above=0, panel="Objective")
    top_share: float = option(
        0.2, "Share of all patches, most similar first, that negatives come from.", above=0, high=1, panel="Objective"
    )
    ranking: Literal["h", "v"] = option("h", "Space in which negatives are ranked.", panel="Objective")
    pool: int = option(
        65_536, "Bank rows on which ranks are estimated; exact when N is not larger.", low=2, panel="Objective"
    )
    weight_self: float = option(1.0, "Weight of the self term.", low=0, panel="Objective")
    weight_spatial: float = option(1.0, "Weight of the spatial term.", low=0, panel="Objective")
    weight_inner: float = option(1.0, "Weight of the inner term.", low=0, panel="Objective")
    ramp_epochs: float | None = option(
        None,
        "Epochs over which the spatial term is ramped up; default min(10, 20 % of the epochs).",
        low=0,
        panel="Objective",
    )
    expansion: bool = option(True, "Take spatial neighbours as positives.", panel="Objective")
    propagation: bool = option(True, "Take look-alikes on any slide as positives.", panel="Objective")
    bank_momentum: float | None = option(
        None, "Share of the new row when a bank moves; default 0.5, and 1 for moco.", above=0, high=1, panel="Objective"
    )
    bank_dtype: Literal["float32", "bfloat16"] = option(
        "float32", "How banks are stored; bfloat16 halves them, for very large corpora.", panel="Objective"
    )
    as_released: bool = option(
        False, "Follow the published code where it departs from its equations.", panel="Objective"
    )

    workers: int | None = option(
        None, "Processes that decode patches; default: from the cores.", low=0, affects=False, panel="Run"
    )
    checkpoint_minutes: float = option(
        10.0, "Minutes between checkpoints, besides the one after each epoch.", above=0, affects=False, panel="Run"
    )
    grace: float = option(
        25.0, "Seconds after a SIGTERM in which a checkpoint may be written.", low=0, affects=False, panel="Run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in (("crop_low", "crop_high"), ("corner_crop_low", "corner_crop_high")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{flag(low)} {getattr(self, low)} is above {flag(high)} {getattr(self, high)}")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """Settings of ``sgcl embed``."""

    table: ClassVar[str] = "embed"

    seed: int = option(
        0, "Seed, as every command has it; nothing here is random.", low=0, high=2**31 - 1, affects=False, panel="Run"
    )
    patches: str = option(
        REQUIRED, "Folder that sgcl tile wrote, or a folder of class folders of images.", affects=False, argument=True
    )
    encoder: str = option(
        REQUIRED, "Folder that sgcl pretrain wrote, or its encoder.safetensors or a checkpoint.", affects=False
    )
    groups: str | None = option(
        None, "Table name,group for a folder of images: the patient of each image, say.", affects=False
    )
    batch: int = option(256, "Patches in a batch.", low=1, affects=False)
    dtype: Literal["float16", "float32"] = option("float16", "How features are stored.")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Arithmetic of the encoder; auto is bf16 on CUDA, fp32 on CPU."
    )
    workers: int | None = option(
        None, "Processes that decode patches; default: from the cores.", low=0, affects=False, panel="Run"
    )
    allow_failures: str = option(
        "0", "Failed slides, as N or P%, up to which the exit code stays 0.", affects=False, panel="Run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        failures_allowed(self.allow_failures, 100)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of ``sgcl evaluate``."""

    table: ClassVar[str] = "evaluate"

    features: str | None = option(None, "Folder of features.", affects=False, argument=True)
    labels: str | None = option(None, "Table slide_id,label[,patient_id][,site][,split].", affects=False, panel="Data")
    train: str | None = option(None, "Features to fit on; goes with --test.", affects=False, panel="Data")
    test: str | None = option(None, "Features to report on; goes with --train.", affects=False, panel="Data")
    target: str = option("label", "Column of --labels that holds the target.", panel="Data")
    level: Literal["auto", "slide", "patch"] = option("auto", "What is predicted: slides or patches.", panel="Data")
    task: Literal["auto", "binary", "multiclass"] = option("auto", "Kind of target.", panel="Data")
    allow_missing: bool = option(
        False, "Go on where more than 5 % of the labelled slides have no features.", panel="Data"
    )

    folds: int = option(5, "Folds of the patient-grouped cross-validation.", low=2, high=50, panel="Protocol")
    validation: float = option(
        0.2, "Share of the training patients kept for choosing settings.", above=0, below=1, panel="Protocol"
    )
    knn_k: int = option(20, "Neighbours of the kNN probe.", low=1, panel="Protocol")
    knn_temperature: float = option(0.07, "Temperature of the kNN probe's votes.", above=0, panel="Protocol")
    mil_epochs: int = option(60, "Most epochs of the attention model.", low=1, panel="Protocol")
    mil_patience: int = option(12, "Epochs without a better validation loss before it stops.", low=1, panel="Protocol")
    mil_lr: float = option(3e-4, "Learning rate of the attention model.", above=0, panel="Protocol")
    mil_hidden: int = option(128, "Width of the attention model.", low=1, panel="Protocol")
    mil_dropout: float = option(0.25, "Dropout of the attention model.", low=0, below=1, panel="Protocol")
    bootstrap: int = option(2000, "Resamples of the patients for intervals; 0 for none.", low=0, panel="Protocol")
    confidence: float = option(0.95, "Coverage of the intervals.", above=0, below=1, panel="Protocol")

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = self.train is not None or self.test is not None
        if pair and (self.train is None or self.test is None):
            raise ConfigError("--train and --test go together", "give both, or FEATURES with --labels")
        if pair == (self.features is not None):
            raise ConfigError(
                "give either FEATURES [--labels] or --train A --test B",
                "example: sgcl evaluate features/ --labels labels.csv --out results/",
            )


def describe(kind: type[Config]) -> list[tuple[str, Meta, Any]]:
    """Each field of a config class with its description and resolved type."""
    hints = get_type_hints(kind)
    return [(spec.name, spec.metadata["meta"], hints[spec.name]) for spec in dataclasses.fields(kind)]


def load_toml(path: str | Path, table: str) -> dict[str, Any]:
    """The settings of one command in a TOML file with the tables [tile] [pretrain] [embed] [evaluate].

    :raises ConfigError: the file is missing, not TOML, or has a table of another name.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "give an existing TOML file to --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "example: [tile] then mpp = 0.5") from error
    tables = [kind.table for kind in (TileConfig, PretrainConfig, EmbedConfig, EvaluateConfig)]
    for key, value in content.items():
        if key not in tables or not isinstance(value, dict):
            near = difflib.get_close_matches(key, tables, n=1)
            hint = (
                f"did you mean [{near[0]}]?"
                if near
                else "settings stand in tables: " + ", ".join(f"[{t}]" for t in tables)
            )
            raise ConfigError(f"unknown table or key '{key}' in {path}", hint)
    settings: dict[str, Any] = content.get(table, {})
    return settings


def failures_allowed(rule: str, total: int) -> int:
    """How many of ``total`` slides may fail under a rule such as ``3`` or ``2%``.

    :raises ConfigError: the rule is neither.
    """
    text = rule.strip()
    try:
        number = float(text.removesuffix("%")) if text.endswith("%") else int(text)
    except ValueError:
        number = -1
    if number < 0 or not math.isfinite(number) or (text.endswith("%") and number > 100):
        raise ConfigError(f"--allow-failures {rule} is neither a count nor a percentage", "examples: 3, 2%")
    return math.floor(total * number / 100) if text.endswith("%") else int(number)


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two resolved configs, one phrase a field: ``--mpp was 0.5, is 0.25``."""
    names = [*now, *(name for name in stored if name not in now)]
    return [
        f"{flag(name)} was {stored.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in names
        if stored.get(name, "absent") != now.get(name, "absent")
    ]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _coerce(name: str, value: Any, kind: Any) -> Any:
    base = next(alternative for alternative in _alternatives(kind) if alternative is not type(None))
    if get_origin(base) is Literal:
        return value
    if get_origin(base) is tuple:
        if isinstance(value, str) or not all(isinstance(item, str | Path) for item in value):
            raise ConfigError(f"{flag(name)} takes a list of texts, not {value!r}")
        return tuple(str(item) for item in value)
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if base is str and isinstance(value, Path):
        return str(value)
    if not isinstance(value, base) or (isinstance(value, bool) and base is not bool):
        raise ConfigError(f"{flag(name)} takes {_spoken(base)}, not {value!r}")
    return value


def _spoken(base: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[base]


def _check(name: str, value: Any, meta: Meta, kind: Any) -> None:
    if value is None:
        return
    for alternative in _alternatives(kind):
        if get_origin(alternative) is Literal and value not in get_args(alternative):
            choices = ", ".join(map(str, get_args(alternative)))
            raise ConfigError(f"{flag(name)} is {value!r}", f"choose one of: {choices}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{flag(name)} is {value}", "give a finite number")
    bounds = (
        (meta.low is not None and value < meta.low, f"at least {meta.low}"),
        (meta.high is not None and value > meta.high, f"at most {meta.high}"),
        (meta.above is not None and value <= meta.above, f"greater than {meta.above}"),
        (meta.below is not None and value >= meta.below, f"smaller than {meta.below}"),
    )
    for broken, rule in bounds:
        if broken:
            raise ConfigError(f"{flag(name)} is {value}; it must be {rule}", f"{meta.help}")


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value
