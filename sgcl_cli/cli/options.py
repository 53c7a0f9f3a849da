"""Command-line options derived from a config dataclass, one per field, and the options common to all commands."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_origin

import typer

from sgcl_cli.cli.help import HelpEntry
from sgcl_cli.config import Config, Meta, accepted_type, describe, flag

_COMMON: dict[str, tuple[Any, str]] = {
    "config": (str | None, "TOML file with a table [{table}]; flags take precedence over it."),
    "print_config": (bool, "Print the resolved settings as TOML and exit."),
    "json": (bool, "Print the result as JSON on stdout."),
    "quiet": (bool, "Print no progress and no closing table, only warnings and errors."),
}
COMMON = tuple(_COMMON)


def options_of(
    kind: type[Config],
    body: Callable[[dict[str, Any], dict[str, Any]], None],
    show_all: Callable[[], None],
) -> Callable[..., None]:
    """A function with one typer parameter per config field that calls ``body(common options, given settings)``.

    Every default is None, which means "not given", so that values from TOML and recipes apply; the help shows the actual default.

    :param show_all: prints the page of --help-all.
    """
    parameters = [_parameter(name, meta, hint) for name, meta, hint in describe(kind)]
    parameters += [_common(kind, name) for name in COMMON]
    parameters.append(_help_all(show_all))

    def command(**given: Any) -> None:
        given.pop("help_all")
        body(
            {name: given.pop(name) for name in COMMON},
            {key: value for key, value in given.items() if value is not None},
        )

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def common_rows(kind: type[Config]) -> list[HelpEntry]:
    """The entries of a help page for the options that are not settings."""
    rows = []
    for name, (accepted, text) in _COMMON.items():
        rows.append(HelpEntry(flag(name) + ("" if accepted is bool else " FILE"), text.format(table=kind.table)))
    return [*rows, HelpEntry("--help, --help-all", "Show the basic options, or all options, and exit.")]


def repeated(arguments: Sequence[str], name: str) -> list[str]:
    """Arguments with ``NAME A B`` rewritten as ``NAME A NAME B``, so that an option takes all values up to the next one."""
    found: list[str] = []
    taking = False
    for argument in arguments:
        if argument.startswith("-"):
            taking = argument == name
        elif taking and found[-1] != name:
            found.append(name)
        found.append(argument)
    return found


def as_toml(config: Config, *, ascii_only: bool = False) -> str:
    """The resolved settings as a TOML table, as read by --config.

    :param ascii_only: escape all other characters.
    """
    lines = [f"[{config.table}]"]
    for name, value in config.as_dict().items():
        if value is not None:
            lines.append(f"{name.replace('_', '-')} = {_toml(value)}")
    text = "\n".join(lines)
    return _escaped(text) if ascii_only else text


def _escaped(text: str) -> str:
    return "".join(c if c.isascii() else f"\\u{ord(c):04x}" if ord(c) < 2**16 else f"\\U{ord(c):08x}" for c in text)


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _parameter(name: str, meta: Meta, hint: Any) -> inspect.Parameter:
    kind = _accepted(hint)
    if meta.argument:
        info: Any = typer.Argument(help=meta.help, metavar=name.upper(), show_default=False)
    else:
        names = f"{flag(name)}/--no-{name.replace('_', '-')}" if kind is bool else flag(name)
        info = typer.Option(names, help=meta.help, show_default=False)
    return _keyword(name, kind | None, info, None)


def _accepted(hint: Any) -> Any:
    base = accepted_type(hint)
    if get_origin(base) is tuple:
        return list[str]
    return base if get_origin(base) is Literal or base in (int, float, str, bool) else str


def _common(kind: type[Config], name: str) -> inspect.Parameter:
    accepted, text = _COMMON[name]
    info = typer.Option(flag(name), help=text.format(table=kind.table), show_default=False)
    return _keyword(name, accepted, info, False if accepted is bool else None)


def _help_all(show_all: Callable[[], None]) -> inspect.Parameter:
    def callback(wanted: bool) -> None:
        if wanted:
            show_all()
            raise typer.Exit

    info = typer.Option("--help-all", help="Show all options and exit.", callback=callback, is_eager=True)
    return _keyword("help_all", bool, info, False)


def _keyword(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
