from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import parts
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tables, tile
from tests.stages.tile.made import (
    config,
    rows_of,
    tree,
    without_measures,
    write_slide,
)


def test_shards_give_what_one_run_gives(tmp_path, inline):
    folder = tmp_path / "in"
    for number in range(5):
        write_slide(folder / f"{number}.tif", seed=number)
    (folder / "bad.tif").write_text("no slide")
    tile(config(tmp_path / "whole", folder), Silent())
    outcomes = [tile(config(tmp_path / "out", folder, shard=f"{number}/4"), Silent()) for number in (3, 1, 4, 2)]
    assert [[row["slide_id"] for row in outcome.data["slides"]] for outcome in outcomes] == [
        ["2"],
        ["0", "4"],
        ["3"],
        ["1"],
    ]
    assert [outcome.total for outcome in outcomes] == [1, 2, 1, 2]
    assert [len(outcome.failures) for outcome in outcomes] == [0, 0, 0, 1]
    whole, shards = tmp_path / "whole", tmp_path / "out"
    assert without_measures(rows_of(shards / "slides.csv")) == without_measures(rows_of(whole / "slides.csv"))
    assert all(float(row["seconds"]) > 0 and float(row["peak_mib"]) > 0 for row in rows_of(shards / "slides.csv"))
    assert rows_of(shards / "failures.csv") == rows_of(whole / "failures.csv")
    runs = [json.loads((where / "run.json").read_text()) for where in (whole, shards)]
    assert runs[0]["id"] == runs[1]["id"] == PatchIndex.open(shards).id and runs[0]["inputs"] == runs[1]["inputs"]
    assert runs[0]["result"]["failures"] == runs[1]["result"]["failures"]
    assert sorted(part["shard"] for part in runs[1]["parts"]) == [[1, 4], [2, 4], [3, 4], [4, 4]]
    page = (shards / "index.html").read_text()
    assert page.count('<article class="slide"') == 6 and "--shard" not in page
    assert set(tree(shards)) == set(tree(whole))


def test_a_shard_runs_again_and_an_empty_one_is_complete(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "b.tif")
    (folder / "a.tif").write_text("not copied yet")
    failing = tile(config(tmp_path / "out", folder, shard="1/3"), Silent())
    assert len(failing.failures) == failing.total == 1
    for shard in ("2/3", "3/3"):
        outcome = tile(config(tmp_path / "out", folder, shard=shard), Silent())
        assert outcome.failures == [] and outcome.total == (1 if shard == "2/3" else 0)
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "failures.csv")] == ["a"]
    write_slide(folder / "a.tif")
    tile(config(tmp_path / "out", folder, shard="1/3"), Silent())
    assert rows_of(tmp_path / "out" / "failures.csv") == []
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "slides.csv")] == ["a", "b"]


def test_tables_tell_what_all_runs_made_and_a_run_replaces_what_it_said_before(tmp_path, inline):
    for name in "ab":
        write_slide(tmp_path / name / f"{name}.tif")
        (tmp_path / name / f"bad_{name}.tif").write_text("no slide")
        tile(config(tmp_path / "out", tmp_path / name), Silent())

    def told() -> list[list[str]]:
        return [[row["slide_id"] for row in rows_of(tmp_path / "out" / f"{of}.csv")] for of in ("slides", "failures")]

    assert told() == [["a", "b"], ["bad_a", "bad_b"]]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["id"] == PatchIndex.open(tmp_path / "out").id
    (tmp_path / "a" / "bad_a.tif").unlink()
    tile(config(tmp_path / "out", tmp_path / "a"), Silent())
    assert told() == [["a", "b"], ["bad_b"]]


def test_whoever_writes_the_tables_takes_in_all_who_wait(tmp_path, inline, monkeypatch):
    folder = tmp_path / "in"
    for name in "ab":
        write_slide(folder / f"{name}.tif")
        (folder / f"bad_{name}.tif").write_text("no slide")
    announce, written = parts.announce, []

    def announce_and_let_another_go_first(out: Path, part: Any) -> None:
        announce(out, part)
        if part.shard == (1, 2):
            tile(config(out, folder, shard="2/2"), Silent())

    write_page = tables.write_page
    monkeypatch.setattr(parts, "announce", announce_and_let_another_go_first)
    monkeypatch.setattr(
        tables, "write_page", lambda *given, **named: (written.append(given), write_page(*given, **named))
    )
    tile(config(tmp_path / "out", folder, shard="1/2"), Silent())
    assert len(written) == 1
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "slides.csv")] == ["a", "b"]
    assert [row["slide_id"] for row in rows_of(tmp_path / "out" / "failures.csv")] == ["bad_a", "bad_b"]
    assert not [name for name in tree(tmp_path / "out") if name.startswith(".")]
