from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import demo


def test_files_count_once_and_links_as_themselves(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    (tmp_path / "inner" / "b").write_bytes(bytes(500_000))
    os.link(tmp_path / "a", tmp_path / "inner" / "same")
    assert demo.size_mb(tmp_path) == 3.5
    outside = tmp_path / "inner" / "link"
    outside.symlink_to(tmp_path / "a")
    assert demo.size_mb(tmp_path / "inner") == pytest.approx(3.5, abs=1e-3)


def test_each_part_of_a_command_is_timed() -> None:
    script = "echo before; echo '== one'; sleep 0.2; echo more; echo '== two: more'"
    (first, seconds), (second, _) = demo.timed(["bash", "-c", script], dict(os.environ))
    assert (first, second) == ("one", "two: more") and seconds >= 0.2


def test_a_failure_shows_what_the_command_printed() -> None:
    with pytest.raises(SystemExit, match="(?s)== one.*no such slide.*ended with 3"):
        demo.timed(["bash", "-c", "echo '== one'; echo no such slide >&2; exit 3"], dict(os.environ))


def test_the_figures_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "demo.sh"
    script.write_text('echo "== slides"\nmkdir "$1" && head -c 4000000 /dev/zero > "$1/slide"\necho "== sgcl tile"\n')
    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "library").write_bytes(bytes(7_000_000))
    monkeypatch.setattr(demo, "DEMO", script)
    monkeypatch.setattr(demo.sys, "prefix", str(environment))
    demo.measure(tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"environment {environment}: 7 MB" and printed[-1] == "output: 4 MB"
    assert [line.split("s  ")[1] for line in printed[2:4]] == ["slides", "sgcl tile"]
    assert "CPU s" in printed[4]
