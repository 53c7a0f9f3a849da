"""What is left of a run's words where nobody hears them: closed and full streams, readers that go, odd names, no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sgcl_cli.cli.console import shown

# sgcl tile, whose stage says something and returns; the real one takes seconds.
PROGRAM = """
import os, sys, types
from pathlib import Path
from sgcl_cli.artefacts.results import Failure, Outcome
ODD = "\\u00b5\\u00e9\\U0001f52c"
def stage(config, reporter):
    reporter.note("a note")
    reporter.warn("a warning " + os.environ.get("SAID", ""))
    opened = open(os.path.join(config.out, "result"), "w")
    if not os.environ.get("FULL"):
        os.write(2, b"a library's word\\n")
    opened.write("whole")
    opened.close()
    rows = [("slides", "1 \\u2026 \\udcff"), *((f"row {n}", "x" * 100) for n in range(int(os.environ.get("ROWS", "1"))))]
    return Outcome("tile", Path(config.out), rows, 1, [Failure("a", ODD, "why")], data={"name": "\\udcff"})
sys.modules["sgcl_cli.stages.tile"] = types.SimpleNamespace(tile=stage)
from sgcl_cli.cli.app import main
main()
"""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "tile", "x", "--out", str(out), "--allow-failures", "1", *more]


def run(out: Path, shell: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command(out, *more)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    return subprocess.run(
        words,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("shell", ["2>&-", ">&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_and_full_streams_cost_nothing(tmp_path: Path, shell: str) -> None:
    done = run(tmp_path, shell, FULL="1" if "full" in shell else "")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result").read_text() == "whole"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_reader_that_goes_is_no_failure(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = run(tmp_path, "| head -n 1", *more, ROWS="5000")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr and "Broken" not in done.stderr


@pytest.mark.parametrize("more", [(), ("--json",), ("--print-config",)])
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = run(tmp_path, "> /dev/full", *more)
    assert done.returncode == 1
    assert "error: cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


ASCII = [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]


@pytest.mark.parametrize("locale", ASCII)
def test_micrometres_are_spelled_in_ascii_where_the_stream_lacks_them(tmp_path: Path, locale: dict[str, str]) -> None:
    helped = run(tmp_path, "", "--help", **locale)
    assert helped.returncode == 0 and "um per pixel." in helped.stdout and "\\x" not in helped.stdout, helped.stderr
    refused = run(tmp_path, "", "--mpp", "0", **locale)
    assert (
        refused.returncode == 2
        and refused.stderr.splitlines()[-1] == "  hint: Resolution of the patches, um per pixel."
    )
    listed = subprocess.run(
        [sys.executable, "-m", "sgcl_cli", "encoders"], capture_output=True, text=True, env={**os.environ, **locale}
    )
    assert listed.returncode == 0 and "0.5 um/px" in listed.stdout, listed.stderr


@pytest.mark.parametrize("locale", [*ASCII, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-8"}])
def test_data_is_read_back_in_any_encoding(tmp_path: Path, locale: dict[str, str]) -> None:
    name = "µé\U0001f52c"
    assert json.loads(run(tmp_path, "", "--json", **locale).stdout)["failures"][0]["path"] == name
    if "LC_ALL" in locale:  # where Python does not decode such an argument either
        return
    printed = run(tmp_path, "", "--print-config", "--label-names", name, "--annotations", "a", **locale).stdout
    assert tomllib.loads(printed)["tile"]["label-names"] == name


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_odd_names_are_told_in_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    done = run(tmp_path, "", **locale)
    assert done.returncode == 0 and "\\udcff" in done.stdout, done.stderr
    told = run(tmp_path, "", "--json", **locale)
    assert json.loads(told.stdout)["name"] == "\udcff"


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path) -> None:
    assert shown("a\x1b[31mb\x07\r\n\tc\u202e") == "a\\x1b[31mb\\x07\\r\n\tc\\u202e"
    done = run(tmp_path, "", SAID="\x1b[2J")
    assert "\x1b[2J" not in done.stderr and "\\x1b[2J" in done.stderr


def test_a_working_folder_that_is_gone_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    words = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$@"'
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-c", words, "bash", *command(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: the working folder does not exist any more")
