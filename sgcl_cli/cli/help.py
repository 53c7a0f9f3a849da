"""Help pages: --help shows the basic options of a command and an example, --help-all all options in groups.

Pages are made from the settings and wrapped to the width of the terminal, without cutting words. Markup is disabled, so that
brackets are shown.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.text import Text

from sgcl_cli.cli.console import spelled
from sgcl_cli.config import Config, Meta, accepted_type, describe, flag

WIDEST = 100
_TERM, _INDENT = 26, 2

BASICS = {
    "tile": ("slides", "out", "mpp", "patch_size", "coords_only", "annotations", "list", "workers", "dry_run"),
    "pretrain": ("patches", "out", "encoder", "recipe", "epochs", "batch", "probe", "device", "dry_run"),
    "embed": ("patches", "out", "encoder", "slides", "weights", "layout", "also", "map", "device"),
    "evaluate": ("features", "out", "labels", "target", "level", "train", "test", "compare", "models", "folds"),
    "predict": ("result", "features", "out", "models", "use", "patches", "slides", "dry_run"),
}
RUN = "Run"
_NAMES = {
    "FOLDER": ("out", "annotations", "roi", "from_coords", "patches", "train", "test", "dense", "result"),
    "FILE": ("list", "labels", "weights", "groups", "probe_groups", "config", "init", "splits"),
    "COLUMN": ("target", "id", "time", "event"),
    "NAME": ("encoder", "arch", "recipe", "device", "layer", "dense_layer"),
    "R,G,B": ("mean", "std"),
    "A,B,...": ("also", "models", "label_names", "finetune_shares", "finetune_lr"),
    "VALUE=NAME,...": ("mask_values",),
    "I/N": ("shard",),
    "ADDRESS": ("dask",),
    "N or P%": ("allow_failures",),
    "ID:X,Y": ("query",),
    "RUN": ("finetune",),
    "labels|FOLDER": ("probe",),
    "mean|FOLDER": ("slide_embedding",),
    "FOLDER ...": ("compare",),
}
PLACEHOLDERS = {name: metavar for metavar, names in _NAMES.items() for name in names} | {"slides": "FOLDER"}


@dataclass(frozen=True)
class HelpEntry:
    """An entry of a help page.

    :ivar term: option, argument or command as typed.
    :ivar text: description.
    """

    term: str
    text: str


@dataclass(frozen=True)
class HelpSection:
    """Entries under a title; the title may be empty."""

    title: str
    rows: Sequence[HelpEntry]


@dataclass(frozen=True)
class HelpPage:
    """A help page.

    :ivar usage: pattern of the command line.
    :ivar summary: description of the command, one paragraph.
    :ivar sections: groups of entries.
    :ivar closing: lines at the end, not wrapped.
    """

    usage: str
    summary: str
    sections: Sequence[HelpSection]
    closing: Sequence[str] = ()

    def render(self, width: int) -> Text:
        """The page for a terminal of ``width`` columns."""
        page = Text()
        page.append("Usage: ", style="yellow").append(f"{self.usage}\n\n")
        page.append(textwrap.fill(self.summary, width) + "\n")
        for section in self.sections:
            page.append("\n")
            if section.title:
                page.append(f"{section.title}\n", style="bold")
            for row in section.rows:
                _append_row(page, row, width)
        if self.closing:
            page.append("\n")
        for line in self.closing:
            page.append(f"{line}\n")
        return page


def show(page: HelpPage) -> None:
    """Print a page on standard output."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    Console(markup=False, highlight=False, soft_wrap=True).print(page.render(width), end="")


def command_page(
    kind: type[Config], summary: str, example: str, common: Sequence[HelpEntry], *, everything: bool
) -> HelpPage:
    """The help page of a command.

    :param common: options that are not settings, such as --json; listed with those of the run.
    :param everything: list every option, not only the basic ones.
    """
    name = kind.table
    rows = {field: setting_row(kind, field) for field, _, _ in describe(kind)}
    basics = HelpSection("", [rows[field] for field in BASICS[name]])
    if everything:
        sections = [basics, *_groups(kind, common)]
        closing = ["An option --NAME that is on by default is turned off by --no-NAME.", "", f"Example: {example}"]
    else:
        sections = [basics]
        count = len(rows) + len(common)
        closing = [f"Example: {example}", "", f"sgcl {name} --help-all lists all {count} arguments and options."]
    return HelpPage(_usage(kind), summary, sections, closing)


def setting_row(kind: type[Config], name: str) -> HelpEntry:
    """The entry of one setting: option, description, choices and default."""
    meta, hint = next((meta, hint) for field, meta, hint in describe(kind) if field == name)
    default = next(spec.default for spec in fields(kind) if spec.name == name)
    choices = _choices(hint)
    term = _term(name, meta, hint, default)
    notes = []
    if choices and term.endswith("CHOICE"):
        notes.append(f"one of {', '.join(choices)}")
    if not isinstance(default, bool) and default not in (MISSING, None, ()):
        notes.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
    elif default is True:
        notes.append("on by default")
    return HelpEntry(term, meta.help + (f" ({'; '.join(notes)})" if notes else ""))


def grouped(kind: type[Config]) -> dict[str, list[str]]:
    """The settings other than the basic ones, by the title of their group; the group of the run is last."""
    found: dict[str, list[str]] = {}
    for name, meta, _ in describe(kind):
        if name not in BASICS[kind.table]:
            found.setdefault("Further options" if meta.panel == "Options" else meta.panel, []).append(name)
    return {title: found[title] for title in sorted(found, key=lambda title: title == RUN)}


def _groups(kind: type[Config], common: Sequence[HelpEntry]) -> Iterable[HelpSection]:
    for title, names in grouped(kind).items():
        rows = [setting_row(kind, name) for name in names]
        yield HelpSection(title, [*rows, *common] if title == RUN else rows)


def _usage(kind: type[Config]) -> str:
    defaults = {spec.name: spec.default for spec in fields(kind)}
    arguments, options = [], []
    for name, meta, hint in describe(kind):
        term, required = _term(name, meta, hint, defaults[name]), defaults[name] is MISSING
        if meta.argument:
            word = term + ("..." if defaults[name] == () else "")
            arguments.append(word if required else f"[{word}]")
        elif required:
            options.append(term)
    return " ".join(["sgcl", kind.table, *arguments, *options, "[OPTIONS]"])


def _term(name: str, meta: Meta, hint: Any, default: Any) -> str:
    if meta.argument:
        return name.upper()
    if isinstance(default, bool):
        return flag(name) if not default else f"{flag(name)}, {flag('no_' + name)}"
    choices = "|".join(_choices(hint))
    base = accepted_type(hint)
    metavar = choices or {int: "N", float: "X"}.get(base) or PLACEHOLDERS.get(name, "TEXT")
    term = f"{flag(name)} {metavar}"
    return f"{flag(name)} CHOICE" if choices and len(term) > _TERM else term


def _choices(hint: Any) -> tuple[str, ...]:
    base = accepted_type(hint)
    return tuple(map(str, get_args(base))) if get_origin(base) is Literal else ()


def _append_row(page: Text, row: HelpEntry, width: int) -> None:
    """Add an entry: term and text side by side, or below each other if the term is too long."""
    indent = _INDENT + _TERM + 2
    lines = textwrap.wrap(spelled(row.text), max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
    page.append(" " * _INDENT).append(row.term, style="bold cyan")
    if len(row.term) <= _TERM and lines:
        page.append(" " * (indent - _INDENT - len(row.term)) + lines.pop(0))
    page.append("\n")
    for line in lines:
        page.append(f"{' ' * indent}{line}\n")
