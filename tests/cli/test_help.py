from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from sgcl_cli.cli.app import run
from sgcl_cli.cli.help import BASICS, PLACEHOLDERS, grouped, setting_row
from sgcl_cli.cli.options import common_rows
from sgcl_cli.config import COMMANDS, Config, describe, flag

KINDS = {kind.table: kind for kind in COMMANDS}


def page(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def flowing(text: str) -> str:
    """A page without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [[], *([name] for name in KINDS), *([name, "--help-all"] for name in KINDS)])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(
    words: list[str], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page(words if "--help-all" in words else [*words, "--help"], capsys, monkeypatch, width)
    examples = [line for line in text.splitlines() if "sgcl" in line]
    assert [line for line in text.splitlines() if len(line) > width and line not in examples] == []
    assert "…" not in text and "<bool>" not in text


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_text_is_shown_whole(
    kind: type[Config], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets such as [tile] and slide_id,label[,patient_id] are no markup."""
    text = flowing(page([kind.table, "--help-all"], capsys, monkeypatch))
    for name, meta, _ in describe(kind):
        assert flowing(meta.help) in text, name
        assert (name.upper() if meta.argument else flag(name)) in text
    for row in common_rows(kind):
        assert flowing(f"{row.term} {row.text}") in text
    assert f"TOML file with a table [{kind.table}]; flags take precedence over it." in text


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_first_page_is_short_and_says_how_to_go_on(
    kind: type[Config], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page([kind.table, "--help"], capsys, monkeypatch)
    assert len(text.splitlines()) <= 42
    assert f"Example: sgcl {kind.table}" in text
    count = len(fields(kind)) + len(common_rows(kind))
    assert f"sgcl {kind.table} --help-all lists all {count} arguments and options." in flowing(text)
    for name in BASICS[kind.table]:
        assert flowing(setting_row(kind, name).text) in flowing(text)
    required = [spec.name for spec in fields(kind) if setting_row(kind, spec.name).term in text.splitlines()[0]]
    assert {"out", *(name for name, meta, _ in describe(kind) if meta.argument)} <= {*required}


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_groups_hold_every_setting_once(kind: type[Config]) -> None:
    groups = grouped(kind)
    listed = [*BASICS[kind.table], *(name for names in groups.values() for name in names)]
    assert sorted(listed) == sorted(spec.name for spec in fields(kind))
    assert 7 <= len(BASICS[kind.table]) <= 10
    assert [*groups][-1] == "Run"


def test_placeholders_are_of_settings_that_exist() -> None:
    assert {*PLACEHOLDERS} - {spec.name for kind in COMMANDS for spec in fields(kind)} == {"config"}


def test_terms_say_what_is_typed() -> None:
    tile, pretrain = KINDS["tile"], KINDS["pretrain"]
    assert setting_row(tile, "coords_only").term == "--coords-only"
    assert setting_row(pretrain, "expansion").term == "--expansion, --no-expansion"
    assert setting_row(pretrain, "expansion").text.endswith("(on by default)")
    assert setting_row(tile, "slide_timeout").text.endswith("(default: 3600)")
    assert setting_row(tile, "id_from").term == "--id-from stem|path"
    bank = setting_row(pretrain, "bank_start")
    assert bank.term == "--bank-start CHOICE" and bank.text.endswith("(one of random, encoded; default: encoded)")


def test_the_root_page_lists_the_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(["--help"], capsys, monkeypatch)
    assert [name for name in re.findall(r"^  (\w+)  ", text, re.MULTILINE) if name in KINDS] == [*KINDS]
    assert "--install-completion" in text


@pytest.mark.parametrize(
    ("words", "last", "found"),
    [
        ("sgcl pre", 1, ["pretrain", "predict"]),
        ("sgcl embed --inp", 2, ["--input-size"]),
        ("sgcl embed --layout ", 3, ["sgcl", "clam", "trident"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(words: str, last: int, found: list[str]) -> None:
    environment = {**os.environ, "_SGCL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(last)}
    done = subprocess.run([sys.executable, "-m", "sgcl_cli"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, found, "")
