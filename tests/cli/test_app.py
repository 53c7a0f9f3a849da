from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sgcl_cli import __version__
from sgcl_cli.artefacts.results import Outcome
from sgcl_cli.cli.app import app, run
from sgcl_cli.config import COMMANDS as CONFIGS
from sgcl_cli.errors import ElsewhereError, Interrupted

COMMANDS = [kind.table for kind in CONFIGS]


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sgcl_cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("processes", "said"),
    [("1", "at exit\nfinalised\n"), ("", "at exit\nfinalised\n"), ("x", "at exit\nfinalised\n"), ("2", "at exit\n")],
)
def test_one_of_several_processes_ends_before_python_is_taken_down(processes: str, said: str) -> None:
    """What ran at exit still runs; objects that live until Python ends are not freed, and the exit code is kept."""
    program = (
        "import atexit, sys\n"
        "class Late:\n    def __del__(self, write=sys.stdout.write): write('finalised\\n')\n"
        "late = Late(); atexit.register(print, 'at exit')\n"
        "from sgcl_cli.cli import app; app.run = lambda arguments: 143\n"
        "app.main()"
    )
    environment = {**os.environ, "WORLD_SIZE": processes}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (143, said)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"sgcl {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = next(command for command in app.registered_commands if command.name == name)
    assert command.epilog is not None
    words = command.epilog.removeprefix("Example: sgcl ").split()
    assert run([*words, "--print-config"]) == 0
    assert name in tomllib.loads(capsys.readouterr().out)


def test_printed_config_reads_back(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tile", "a slide.svs", "--out", "o", "--mpp", "0.25", "--coords-only", "--print-config"]
    assert run(words) == 0
    first = capsys.readouterr().out
    path = tmp_path / "c.toml"
    path.write_text(first)
    assert run(["tile", "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert tomllib.loads(first)["tile"]["mpp"] == 0.25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tile", "--nonsense"], "No such option"),
        (["tile", "x", "--out", "o", "--mpp", "fast"], "--mpp"),
        (["tile", "x", "--out", "o", "--mpp", "0"], "--mpp is 0.0; it must be at least 0.001"),
        (["tile", "x", "--out", "o", "--mpp", "-1"], "--mpp is -1.0"),
        (["tile", "x", "--out", "o", "--mpp", "nan"], "--mpp is nan"),
        (["tile", "x"], "--out is missing"),
        (["pretrain", "--out", "o"], "PATCHES is missing"),
        (["tile", "x", "--out", "o", "--overlap", "256"], "--overlap 256 is not smaller"),
        (["tile", "x", "--out", "o", "--config", "absent.toml"], "cannot read absent.toml"),
        (["nothing"], "No such command"),
    ],
)
def test_usage_errors_are_one_line_a_hint_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert lines[0].startswith("error: ") and message in lines[0]
    assert len(lines) == 2 and re.match(r"  hint: \S", lines[1])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import sgcl_cli.stages.pretrain

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sgcl_cli.stages.pretrain, "pretrain", broken)
    with pytest.raises(ZeroDivisionError):
        run(["pretrain", "p", "--out", "o"])


@pytest.mark.parametrize(
    ("signal_", "code"), [(KeyboardInterrupt(), 130), (Interrupted(15), 143), (Interrupted(2), 130)]
)
def test_signals_become_exit_codes(
    signal_: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sgcl_cli.stages.pretrain

    def interrupted(*_: object) -> None:
        raise signal_

    monkeypatch.setattr(sgcl_cli.stages.pretrain, "pretrain", interrupted)
    assert run(["pretrain", "p", "--out", "o"]) == code
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "code"),
    [(ElsewhereError(), 1), (Interrupted(15, reported=True), 143), (Outcome("pretrain", Path(), [], reported=True), 0)],
)
def test_only_one_process_of_a_run_speaks(
    ending: object, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sgcl_cli.stages.pretrain

    def ended(*_: object) -> object:
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr(sgcl_cli.stages.pretrain, "pretrain", ended)
    assert run(["pretrain", "p", "--out", "o", "--json"]) == code
    assert capsys.readouterr() == ("", "")
