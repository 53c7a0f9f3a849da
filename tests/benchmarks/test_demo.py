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
