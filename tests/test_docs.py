"""The pages of docs/ name every option."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from sgcl_cli.cli.app import run
from sgcl_cli.config import EmbedConfig, EvaluateConfig, PredictConfig, PretrainConfig, TileConfig, flag

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", [TileConfig, PretrainConfig, EmbedConfig, EvaluateConfig, PredictConfig])
def test_every_option_is_in_the_docs(kind: type) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = set(re.findall(r"--[a-z0-9]+(?:-[a-z0-9]+)*", text))
    options = {flag(spec.name) for spec in fields(kind) if not spec.metadata["meta"].argument}
    assert sorted(options - named) == []


def test_the_site_has_each_page() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def commands(text: str) -> list[list[str]]:
    """The sgcl commands in the fenced sh blocks of a page, as words, without comments."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["sgcl"] and {"encoders", "--help"}.isdisjoint(words):
                found.append(words[1:])
    return found


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_accepted(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        assert run([*words, "--print-config"]) == 0, f"{' '.join(words)}\n{capsys.readouterr().err}"


def test_the_check_finds_commands() -> None:
    assert len(commands((ROOT / "README.md").read_text(encoding="utf-8"))) >= 4
    text = "```sh\nsgcl tile a \\\n  --out b  # why\nmake demo\n```\n```text\nsgcl tile\n```"
    assert commands(text) == [["tile", "a", "--out", "b"]]
    assert run(["tile", "a", "--out", "b", "--no-such-option", "--print-config"]) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
