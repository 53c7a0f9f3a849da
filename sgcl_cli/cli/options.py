"""A config dataclass becomes command-line options; an SgclError becomes one line and an exit code."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from sgcl_cli.config import Config, Meta, describe, flag

COMMON = ("config", "print_config", "json", "quiet")


def options_of(kind: type[Config], body: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[..., None]:
    """A function with one typer parameter per config field, which calls ``body(door options, flags that were given)``.

    Every default is None, "not given", so that TOML and recipes can stand below the flags; the help shows the real one.
    """
    defaults = {spec.name: spec.default for spec in fields(kind)}
    parameters = [_parameter(name, meta, hint, defaults[name]) for name, meta, hint in describe(kind)]
    parameters += [
        _common("config", str | None, "--config", f"TOML file with a table [{kind.table}]; flags win over it."),
        _common("print_config", bool, "--print-config", "Print the resolved settings as TOML and stop."),
        _common("json", bool, "--json", "Print the result as JSON on stdout."),
        _common("quiet", bool, "--quiet", "No progress and no closing table; warnings and errors stay."),
    ]

    def command(**given: Any) -> None:
        body(
            {name: given.pop(name) for name in COMMON},
            {key: value for key, value in given.items() if value is not None},
        )

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def repeated(arguments: Sequence[str], name: str) -> list[str]:
    """``NAME A B`` as ``NAME A NAME B``: an option takes what follows it up to the next option."""
    found: list[str] = []
    taking = False
    for argument in arguments:
        if argument.startswith("-"):
            taking = argument == name
        elif taking and found[-1] != name:
            found.append(name)
        found.append(argument)
    return found


def as_toml(config: Config) -> str:
    """The resolved settings as a TOML table that --config reads back."""
    lines = [f"[{config.table}]"]
    for name, value in config.as_dict().items():
        if value is not None:
            lines.append(f"{name.replace('_', '-')} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _parameter(name: str, meta: Meta, hint: Any, default: Any) -> inspect.Parameter:
    kind = _accepted(hint)
    if meta.argument:
        info: Any = typer.Argument(help=meta.help, metavar=name.upper(), show_default=False)
    else:
        names = f"{flag(name)}/--no-{name.replace('_', '-')}" if kind is bool else flag(name)
        info = typer.Option(names, help=_help(meta, default), show_default=False, rich_help_panel=meta.panel)
    return _keyword(name, kind | None, info, None)


def _help(meta: Meta, default: Any) -> str:
    if default in (MISSING, None):
        return meta.help
    shown = {True: "on", False: "off"}.get(default, default) if isinstance(default, bool) else default
    return f"{meta.help} (default: {shown})"


def _accepted(hint: Any) -> Any:
    alternatives = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    base = next(kind for kind in alternatives if kind is not type(None))
    if get_origin(base) is tuple:
        return list[str]
    return base if get_origin(base) is Literal or base in (int, float, str, bool) else str


def _common(name: str, kind: Any, names: str, help: str) -> inspect.Parameter:
    info = typer.Option(names, help=help, show_default=False, rich_help_panel="Run")
    return _keyword(name, kind, info, False if kind is bool else None)


def _keyword(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
