"""The page docs/commands.md, made from the settings: ``python -m sgcl_cli.cli.reference > docs/commands.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sgcl_cli.cli.help import BASICS, grouped, setting_row
from sgcl_cli.cli.options import common_rows
from sgcl_cli.config import COMMANDS


def page() -> str:
    """The page as Markdown, with a table of options for each group of each command."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "Made from the settings by `make docs`. Options that are on by default are turned off by `--no-NAME`."
    for kind in COMMANDS:
        yield from ("", f"## sgcl {kind.table}")
        for title, names in {"Basics": [*BASICS[kind.table]], **grouped(kind)}.items():
            rows = [setting_row(kind, name) for name in names]
            rows += common_rows(kind) if title == "Run" else []
            yield from ("", f"**{title}**", "", "| option | what it does |", "|---|---|")
            for row in rows:
                yield f"| `{row.term.replace('|', ' or ')}` | {_cell(row.text)} |"


def _cell(text: str) -> str:
    """Text escaped for a table cell, where a bar would end the cell, ``<`` begin markup, and ``[`` a link."""
    return text.replace("|", " or ").replace("<", "&lt;").replace("[", "\\[")


if __name__ == "__main__":
    sys.stdout.buffer.write(page().encode())
