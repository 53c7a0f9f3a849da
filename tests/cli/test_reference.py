"""docs/commands.md, which is made from the settings."""

from __future__ import annotations

import re
from pathlib import Path

from sgcl_cli.cli import reference

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_is_the_one_that_make_docs_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.page()


def test_cells_hold_no_markup_of_their_own() -> None:
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    for row in rows:
        assert row.count("|") == 3, "a bar would end the cell"
        text = row.split("|")[2]
        assert "<" not in text and not re.search(r"(?<!\\)\[", text), "the beginning of a tag or a link"
