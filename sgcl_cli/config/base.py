"""Base classes of settings: declaration with default, help and range; resolving, checking and comparing values."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import shlex
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from sgcl_cli.errors import ConfigError


@dataclass(frozen=True)
class Meta:
    """Help, range and role of a setting, stored in the metadata of its dataclass field.

    :ivar help: text on help pages.
    :ivar low: smallest allowed value; None for no bound.
    :ivar high: largest allowed value.
    :ivar above: exclusive lower bound.
    :ivar below: exclusive upper bound.
    :ivar affects: whether the setting changes the result and so enters the artefact's id.
    :ivar argument: a positional argument of the command line instead of an option.
    :ivar panel: title of its group on help pages.
    """

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
_MOST_WHOLE, _MOST = 10**9, 1e12  # upper bounds of settings that declare none
_MOST_DIGITS = 25
_SHOWN = 60  # most characters of a value in a message


def flag(name: str) -> str:
    """The command-line spelling of a field: ``patch_size`` -> ``--patch-size``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings that are checked against their ranges and choices when they are made.

    :raises ConfigError: a value out of its range or not among its choices.
    """

    def __post_init__(self) -> None:
        for name, meta, kind in describe(type(self)):
            _check(name, getattr(self, name), meta, kind)


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Settings that every command has.

    :ivar table: name of the command and of its TOML table.
    :ivar recipes: named sets of settings.
    :ivar recipe_field: the setting that names the recipe.
    """

    table: ClassVar[str] = ""
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    recipe_field: ClassVar[str] = "recipe"

    out: str = option(REQUIRED, "Output folder.", affects=False)
    seed: int = option(0, "Random seed.", low=0, high=2**31 - 1, panel="Run")
    device: str = option(
        "auto", "Device: cpu, cuda, cuda:N, or auto, which uses CUDA if available.", affects=False, panel="Run"
    )
    threads: int | None = option(
        None,
        "CPU threads of the main process; default: all cores.",
        low=1,
        high=4096,
        affects=False,
        panel="Run",
    )
    dry_run: bool = option(False, "Show what would be done; write nothing.", affects=False, panel="Run")
    overwrite: bool = option(
        False, "Start over: replace outputs, including those made with other settings.", affects=False, panel="Run"
    )

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Build from layers in ascending precedence, all above the recipe; ``None`` and absent mean "not set".

        :raises ConfigError: a setting is missing, unknown, of the wrong type or out of range.
        """
        known = {name: (meta, kind) for name, meta, kind in describe(cls)}
        values: dict[str, Any] = {}
        given = (layer.get(cls.recipe_field) for layer in reversed(layers))
        named = next((name for name in given if name is not None), None)
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
                raise ConfigError(f"{spelled} is missing", f"add it, or set {spec.name} in [{cls.table}] of --config")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {spec.name: _plain(getattr(self, spec.name)) for spec in dataclasses.fields(self)}

    def command_line(self) -> str:
        """The command that reproduces the result, with all settings that differ from their defaults.

        Paths are relative to the working folder, so that reports do not reveal the folders of a machine.
        """
        arguments: list[str] = []
        options: list[str] = []
        recipe = self.recipes.get(str(getattr(self, self.recipe_field, None)), {})
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.name in ("dry_run", "overwrite", "device", "threads", "workers", "shard", "dask"):
                continue
            if value == spec.default == recipe.get(spec.name, value):
                continue
            if spec.metadata["meta"].argument:
                arguments += _spelled(value)
            elif isinstance(value, bool):
                options.append(flag(spec.name) if value else flag("no_" + spec.name))
            else:
                options += [flag(spec.name), *_spelled(value)]
        return shlex.join(["sgcl", self.table, *arguments, *options])

    def affecting(self) -> dict[str, Any]:
        """The settings that change the result, as JSON values; they enter the artefact's id."""
        return {name: _plain(getattr(self, name)) for name, meta, _ in describe(type(self)) if meta.affects}


def describe(kind: type[Options]) -> list[tuple[str, Meta, Any]]:
    """Name, description and resolved type of each setting of a class."""
    hints = get_type_hints(kind)
    return [(spec.name, spec.metadata["meta"], hints[spec.name]) for spec in dataclasses.fields(kind)]


def whole_number(text: str, low: int, high: int) -> int | None:
    """Parse an integer in decimal digits; None if the text is something else or out of range."""
    digits = text.strip()
    if not digits.isdecimal() or len(digits) > _MOST_DIGITS or not low <= int(digits) <= high:
        return None
    return int(digits)


def failures_allowed(rule: str, total: int) -> int:
    """The number of slides out of ``total`` that may fail under a rule such as ``3`` or ``2%``.

    :raises ConfigError: the rule is neither a count nor a percentage.
    """
    text = rule.strip()
    try:
        number = float(text.removesuffix("%")) if text.endswith("%") else whole_number(text, 0, _MOST_WHOLE)
    except ValueError:
        number = None
    if number is None or number < 0 or not math.isfinite(number) or (text.endswith("%") and number > 100):
        raise ConfigError(f"--allow-failures {_shown(rule)} is neither a count nor a percentage", "examples: 3, 2%")
    return math.floor(total * number / 100) if text.endswith("%") else int(number)


def relative(path: str) -> str:
    """An absolute path as relative to the working folder; other strings are returned unchanged."""
    return os.path.relpath(path) if Path(path).is_absolute() else path


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two resolved configs, one phrase per setting: ``--mpp was 0.5, is 0.25``.

    A setting that is absent from one of them counts as None, so that outputs of earlier releases remain valid.
    """
    names = [*now, *(name for name in stored if name not in now)]
    return [
        f"{flag(name)} was {stored.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in names
        if stored.get(name) != now.get(name)
    ]


def _spelled(value: Any) -> list[str]:
    return [relative(str(item)) for item in (value if isinstance(value, tuple) else (value,))]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def accepted_type(kind: Any) -> Any:
    """The type of a setting's values, None aside: ``int | None`` -> ``int``."""
    return next(alternative for alternative in _alternatives(kind) if alternative is not type(None))


def _coerce(name: str, value: Any, kind: Any) -> Any:
    base = accepted_type(kind)
    if get_origin(base) is Literal:
        return value
    if get_origin(base) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str | Path) for item in value):
            raise ConfigError(f"{flag(name)} takes a list of strings, not {_shown(value)}")
        return tuple(str(item) for item in value)
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{flag(name)} is {_shown(value)}", f"give a number of at most {_MOST:g}") from error
    if base is str and isinstance(value, Path):
        return str(value)
    if not isinstance(value, base) or (isinstance(value, bool) and base is not bool):
        raise ConfigError(f"{flag(name)} takes {_described(base)}, not {_shown(value)}")
    return value


def _described(base: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[base]


def _check(name: str, value: Any, meta: Meta, kind: Any) -> None:
    if value is None:
        return
    for alternative in _alternatives(kind):
        if get_origin(alternative) is Literal and value not in get_args(alternative):
            choices = ", ".join(map(str, get_args(alternative)))
            raise ConfigError(f"{flag(name)} is {_shown(repr(value))}", f"choose one of: {choices}")
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str):
            _check_text(name, text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{flag(name)} is {value}", "give a finite number")
    most = _MOST_WHOLE if isinstance(value, int) else _MOST
    high = meta.high if meta.high is not None or meta.below is not None else most
    bounds = (
        (meta.low is not None and value < meta.low, f"at least {meta.low}"),
        (high is not None and value > high, f"at most {high}"),
        (meta.above is not None and value <= meta.above, f"greater than {meta.above}"),
        (meta.below is not None and value >= meta.below, f"smaller than {meta.below}"),
    )
    for broken, rule in bounds:
        if broken:
            raise ConfigError(f"{flag(name)} is {_shown(value)}; it must be {rule}", f"{meta.help}")


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise ConfigError(f"{flag(name)} is empty", "give a value, or leave it out")
    if "\0" in text:
        raise ConfigError(f"{flag(name)} contains a null character", "paths and names cannot contain one")


def _shown(value: Any) -> str:
    """A value shortened for a message."""
    if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
        return "a number of more than 25 digits"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value
