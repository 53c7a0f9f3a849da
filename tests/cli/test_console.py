from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.artefacts.results import Failure, Matrix, Outcome
from sgcl_cli.cli.console import Terminal, grouped_failures

RESOLUTION = "give it with --slide-mpp"


def closing(failures: list[Failure], capsys: pytest.CaptureFixture[str]) -> list[str]:
    Terminal().close(Outcome("tile", Path("out"), [], len(failures), failures), as_json=False)
    return capsys.readouterr().err.splitlines()


def without_resolution(name: str) -> Failure:
    return Failure(name, f"{name}.tif", f"{name}.tif records no resolution", RESOLUTION)


def test_failures_of_one_kind_are_one_entry(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [
        *map(without_resolution, "abcdefg"),
        Failure("z", "z.svs", "level 0 is 2 µm/px, asked for 1", "use --mpp"),
    ]
    failures.insert(1, Failure("y", "sub/y.svs", "sub/y.svs cannot be read", ""))
    assert closing(failures, capsys) == [
        "9 failed:",
        "  7 with: records no resolution (give it with --slide-mpp)",
        "    a.tif, b.tif, c.tif, d.tif, e.tif and 2 more",
        "  sub/y.svs cannot be read",
        "  z.svs: level 0 is 2 µm/px, asked for 1 (use --mpp)",
    ]


def test_one_remedy_for_different_reasons_is_one_entry(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [
        Failure(name, f"{name}.dcm", f"the slide has {name} pixels", "smaller patches") for name in ("16", "50")
    ]
    assert closing(failures, capsys)[1:] == [
        "  2 with: the slide has 16 pixels, or similar (smaller patches)",
        "    16.dcm, 50.dcm",
    ]


def test_different_failures_without_a_remedy_stay_apart() -> None:
    failures = [Failure(name, "", reason) for name, reason in (("a", "cold"), ("b", "warm"), ("c", "c: cold"))]
    assert [[failure.slide_id for failure in group] for group in grouped_failures(failures)] == [["a", "c"], ["b"]]


def test_a_long_list_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [Failure(f"s{n}", "", f"reason {n}") for n in range(25)]
    lines = closing(failures, capsys)
    assert lines[0] == "25 failed:" and len(lines) == 22 and lines[-1] == "  and 5 more, see failures.csv"


def printed(matrices: list[Matrix], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "40")
    first, *further = matrices
    outcome = Outcome("evaluate", Path("out"), [], matrix=first, further=further)
    Terminal().close(outcome, as_json=False)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_matrices_stand_below_each_other(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Matrix("model", ["normal", "tumour"], [("kNN", ["3", "10"]), ("Linear", ["4", "9"])], ["of 13 slides"])
    scores = Matrix("AUROC", ["1 %"], [("kNN", ["0.5\n0.4 to 0.6"]), ("Linear", ["–"])])
    assert printed([counts, scores], capsys, monkeypatch) == [
        "model   normal  tumour",
        "kNN     3       10",
        "Linear  4       9",
        "of 13 slides",
        "",
        "AUROC   1 %",
        "",
        "kNN     0.5",
        "        0.4 to 0.6",
        "",
        "Linear  –",
    ]


def test_a_wide_matrix_is_turned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"class {number}" for number in range(6)]
    wide = Matrix("model", names, [("kNN", [*"012345"]), ("Linear", [*"678901"])])
    lines = printed([wide], capsys, monkeypatch)
    assert lines[0] == "model    kNN  Linear" and lines[1] == "class 0  0    6" and len(lines) == 7
