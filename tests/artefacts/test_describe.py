from __future__ import annotations

from pathlib import Path

from sgcl_cli.artefacts.describe import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_schemas_say() -> None:
    assert (DOCS / "artefacts.md").read_text() == page(), "run: make docs"
