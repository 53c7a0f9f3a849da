"""What a person sees, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgcl_cli.artefacts.results import Failure, Matrix, Outcome
from sgcl_cli.cli import console
from sgcl_cli.cli.console import Terminal, shown
from sgcl_cli.errors import SgclError


def closed(outcome: Outcome, *, as_json: bool = False, quiet: bool = False) -> None:
    Terminal(quiet=quiet).close(outcome, as_json=as_json)


def test_control_characters_are_escaped() -> None:
    assert shown("a\x1b[31mb\rc\u202e") == "a\\x1b[31mb\\rc\\u202e"
    assert shown("µ 漢\n\t") == "µ 漢\n\t"


def test_markup_is_shown_as_it_is(capsys) -> None:
    Terminal().warn("slide [/red] and [bold]x")
    assert capsys.readouterr().err == "warning: slide [/red] and [bold]x\n"


def test_an_error_and_its_hint_are_two_lines(capsys) -> None:
    Terminal(quiet=True).error(SgclError("it failed", "try again"))
    Terminal().error(SgclError("it failed"))
    assert capsys.readouterr() == ("", "error: it failed\n  hint: try again\nerror: it failed\n")


def test_quiet_leaves_warnings_alone(capsys) -> None:
    terminal = Terminal(quiet=True)
    terminal.note("a note")
    terminal.warn("a warning")
    closed(Outcome("tile", Path("out"), [("slides", "2")]), quiet=True)
    assert capsys.readouterr() == ("", "warning: a warning\n")


def test_the_closing_table_and_matrix(capsys) -> None:
    matrix = Matrix("model", ["auroc"], [("linear", ["0.9"])], ["a note below"])
    closed(Outcome("evaluate", Path("out"), [("slides", "2"), ("seconds", "10")], matrix=matrix))
    out, err = capsys.readouterr()
    words = [line.split() for line in out.splitlines() if line.strip()]
    assert words == [["slides", "2"], ["seconds", "10"], ["model", "auroc"], ["linear", "0.9"], ["a", "note", "below"]]
    assert err == ""


def test_json_alone_is_on_standard_output(capsys) -> None:
    outcome = Outcome("tile", Path("out"), [("slides", "2")], failures=[Failure("a", "a.svs", "cut off", "copy it")])
    closed(outcome, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == outcome.as_dict()
    assert err == "1 failed:\n  a.svs: cut off (copy it)\n"


@pytest.mark.parametrize("count", [20, 23])
def test_twenty_failures_are_listed(capsys, count: int) -> None:
    closed(Outcome("tile", Path("out"), [], failures=[Failure(f"s{n}", "", "why") for n in range(count)]))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"{count} failed:", "  s0: why"] and lines[20] == "  s19: why"
    assert lines[21:] == ([] if count == 20 else ["  and 3 more, see failures.csv"])


def test_lines_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    with Terminal().task("tiling", 3, "slides") as task:
        task.advance(2)
        task.update(total=4, note="a.svs")
    assert capsys.readouterr().err == "tiling: 2/3 slides, 0 s\ntiling: 2/4 slides, 0 s, a.svs\n"
