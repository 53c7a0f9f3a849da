"""The pages of docs/ name every option."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sgcl_cli.config import EmbedConfig, EvaluateConfig, PretrainConfig, TileConfig, flag

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", [TileConfig, PretrainConfig, EmbedConfig, EvaluateConfig])
def test_every_option_is_in_the_docs(kind: type) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = set(re.findall(r"--[a-z0-9]+(?:-[a-z0-9]+)*", text))
    options = {flag(spec.name) for spec in fields(kind) if not spec.metadata["meta"].argument}
    assert sorted(options - named) == []
