from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import run as stage
from sgcl_cli.stages.tile import tile
from tests.stages.tile.made import (
    SETTINGS,
    config,
    rows_of,
    tree,
    write_slide,
)

WORK = """
import os, time
from sgcl_cli.stages.tile.slide import tile_slide


def work(progress, job):
    if job.entry.slide_id == "abort":
        os.abort()
    if job.entry.slide_id == "hang":
        time.sleep(600)
    return tile_slide(progress, job)
"""


@pytest.fixture
def work_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "treacherous_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(folder)
    import treacherous_work

    yield treacherous_work
    del sys.modules["treacherous_work"]


def test_writes_everything_the_next_stages_and_people_need(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    write_slide(tmp_path / "in" / "deep" / "b.tif", seed=1)
    out = tmp_path / "out"
    outcome = tile(config(out, tmp_path / "in"), Silent())
    index = PatchIndex.open(out, pixels=True)
    assert index.slide_ids == ("a", "b") and len(index) == outcome.data["patches"] > 40
    for name in ("thumbnails/a.jpg", "overlays/a.jpg", "contours/a.geojson"):
        assert (out / name).stat().st_size > 100
    assert json.loads((out / "contours" / "b.geojson").read_text())["type"] == "FeatureCollection"
    rows = rows_of(out / "slides.csv")
    assert [(row["slide_id"], row["path"], int(row["patches"])) for row in rows] == [
        ("a", "a.tif", len(index.files[0])),
        ("b", "deep/b.tif", len(index.files[1])),
    ]
    assert float(rows[0]["seconds"]) > 0 and float(rows[0]["peak_mib"]) > 0
    assert rows_of(out / "failures.csv") == []
    run = json.loads((out / "run.json").read_text())
    assert run["id"] == index.id and set(run["inputs"]) == {"a.tif", "deep/b.tif"}
    assert not [name for name in tree(out) if ".tmp" in name]


def test_a_bad_slide_is_recorded_and_the_rest_goes_on(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "good.tif")
    write_slide(folder / "no resolution.tif", mpp=None)
    write_slide(folder / "coarse.tif", mpp=4.0)
    write_slide(folder / "small.tif", side=32)
    write_slide(folder / "blank.tif", tissue=False)
    (folder / "empty.svs").touch()
    (folder / "text.svs").write_text("no slide")
    (folder / "[red]<script>.svs").write_text("no slide")
    whole = write_slide(folder / "cut.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "picture.png").touch()
    outcome = tile(config(tmp_path / "out", folder), Silent())
    reasons = {failure.slide_id: failure.reason for failure in outcome.failures}
    assert set(reasons) == {"no resolution", "coarse", "small", "empty", "text", "[red]<script>", "cut"}
    assert "records no resolution" in reasons["no resolution"]
    assert "asked for 2" in reasons["coarse"]
    assert "64 x 64 level-0 pixels, the slide has 32 x 32" in reasons["small"]
    assert "not a slide" in reasons["text"]
    assert all(failure.hint for failure in outcome.failures) and outcome.total == 9
    assert {row["slide_id"]: row["reason"] for row in rows_of(tmp_path / "out" / "failures.csv")} == reasons
    rows = {row["slide_id"]: row for row in rows_of(tmp_path / "out" / "slides.csv")}
    assert set(rows) == {"good", "blank"} and rows["blank"]["reason"] == "no tissue found"
    blank = PatchFile.open(tmp_path / "out" / "patches" / "blank.h5")
    assert len(blank) == 0 and blank.reason == "no tissue found"
    assert sorted(path.name for path in (tmp_path / "out" / "patches").iterdir()) == ["blank.h5", "good.h5"]


def test_output_that_cannot_be_written_stops_the_run(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "patches").write_text("a file")
    with pytest.raises(ArtefactError, match="cannot write"):
        tile(config(tmp_path / "out", path), Silent())


def test_full_disk_stops_the_run_and_leaves_nothing_half_written(tmp_path, inline, monkeypatch):
    path = write_slide(tmp_path / "a.tif")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match="disk is full"):
        tile(config(tmp_path / "out", path), Silent())
    assert tree(tmp_path / "out") == {}


def test_two_slides_of_one_name_are_refused_before_work(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")
    write_slide(tmp_path / "in" / "deep" / "a.tif")
    with pytest.raises(ConfigError, match="slides of one name"):
        tile(config(tmp_path / "out", tmp_path / "in"), Silent())
    assert not (tmp_path / "out").exists()
    outcome = tile(config(tmp_path / "out", tmp_path / "in", id_from="path"), Silent())
    assert [row["slide_id"] for row in outcome.data["slides"]] == ["a.tif", "deep__a.tif"]


@pytest.mark.parametrize(
    "slide_id", ["two words", "ünï-côdé 组织", "-rf", "=1+1", "x" * 200, "é" * 100, "a.b.c", "%41?#"]
)
def test_odd_ids_name_their_files(tmp_path, inline, slide_id):
    write_slide(tmp_path / "a.tif")
    table = tmp_path / "slides.csv"
    table.write_text(f"path,slide_id\na.tif,{slide_id}\n", encoding="utf-8")
    for skipped in (0, 1):
        outcome = tile(config(tmp_path / "out", list=str(table)), Silent())
        assert outcome.data["skipped"] == skipped and outcome.failures == []
    assert PatchIndex.open(tmp_path / "out").slide_ids == (slide_id,)
    for name in (f"overlays/{slide_id}.jpg", f"thumbnails/{slide_id}.jpg", f"contours/{slide_id}.geojson"):
        assert (tmp_path / "out" / name).exists()
    assert [row["slide_id"].removeprefix("'") for row in rows_of(tmp_path / "out" / "slides.csv")] == [slide_id]


def test_a_folder_that_may_only_be_read_stops_the_run(tmp_path, inline, monkeypatch):
    path = write_slide(tmp_path / "a.tif")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ArtefactError, match="cannot write .*: Read-only file system") as caught:
        tile(config(tmp_path / "out", path), Silent())
    assert "--out" in caught.value.hint and caught.value.exit_code == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_slide_that_may_not_be_read_fails_saying_so(tmp_path, inline):
    write_slide(tmp_path / "in" / "good.tif")
    write_slide(tmp_path / "in" / "closed.tif").chmod(0)
    (failure,) = tile(config(tmp_path / "out", tmp_path / "in"), Silent()).failures
    assert failure.slide_id == "closed" and "Permission denied" in failure.reason


@pytest.mark.slow  # waits twice for a slide that hangs
def test_a_reader_that_crashes_or_hangs_costs_its_slide_only(tmp_path, work_module):
    for name in ("abort", "fine", "hang"):
        write_slide(tmp_path / "in" / f"{name}.tif")
    settings = config(tmp_path / "out", tmp_path / "in", workers=2, slide_timeout=4.0)
    outcome = tile(settings, Silent(), work_module.work)
    reasons = {failure.slide_id: failure.reason for failure in outcome.failures}
    assert set(reasons) == {"abort", "hang"}
    assert "aborted" in reasons["abort"] and "longer than 4 s" in reasons["hang"]
    assert PatchIndex.open(tmp_path / "out", pixels=True).slide_ids == ("fine",)
    assert not [name for name in tree(tmp_path / "out") if ".tmp" in name]


def test_killed_at_any_moment_the_same_command_goes_on(tmp_path):
    for number in range(6):
        write_slide(tmp_path / "in" / f"{number}.tif", seed=number)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from sgcl_cli.config import TileConfig\n"
        "from sgcl_cli.progress import Silent\n"
        "from sgcl_cli.stages.tile import tile\n"
        "if __name__ == '__main__':\n"
        f"    settings = {SETTINGS!r} | {{'slides': [sys.argv[1]], 'out': sys.argv[2], 'workers': 1}}\n"
        "    print(tile(TileConfig.resolve(settings), Silent()).data['skipped'])\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(stage.__file__).parents[3]), *sys.path])}
    killed = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("patches/*.h5"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    time.sleep(0.5)
    done = list((tmp_path / "out").glob("patches/*.h5"))
    assert 2 <= len(done) < 6
    for path in done:
        assert len(PatchFile.open(path)) > 20
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(again.stdout) >= len(done)
    assert not [name for name in tree(tmp_path / "out") if ".tmp" in name]
    tile(config(tmp_path / "whole", tmp_path / "in"), Silent())
    assert PatchIndex.open(tmp_path / "out").id == PatchIndex.open(tmp_path / "whole").id


def test_sigterm_stops_the_command_and_the_same_command_completes_it(tmp_path, inline):
    for seed in range(4):
        write_slide(tmp_path / "in" / f"{seed}.tif", seed=seed)
    out = tmp_path / "out"
    words = ["tile", str(tmp_path / "in"), "--out", str(out), "--mpp", "2", "--patch-size", "64", "--workers", "1"]
    command = [sys.executable, "-m", "sgcl_cli", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(stage.__file__).parents[3]), *sys.path])}
    stopped = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(out.glob("patches/[!.]*.h5")) and time.monotonic() < end:
        time.sleep(0.01)
    stopped.terminate()
    said = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 143 and "run the same command again to continue" in said and "Traceback" not in said
    assert 1 <= len(list(out.glob("patches/[!.]*.h5"))) < 4 and not (out / "run.json").exists()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    tile(config(tmp_path / "whole", tmp_path / "in"), Silent())
    one, two = tree(tmp_path / "whole"), tree(out)
    assert set(one) == set(two)
    for name in one:
        assert one[name] == two[name] or name in ("index.html", "run.json", "slides.csv"), name


@pytest.mark.slow
def test_real_folder_of_vendor_files(tmp_path, real_data):
    outcome = tile(
        TileConfig.resolve({"slides": [real_data / "vendor"], "out": tmp_path / "out", "workers": 2}), Silent()
    )
    assert [row["slide_id"] for row in outcome.data["slides"]] == ["cmu-1-small-region"]
    reasons = {failure.path: failure.reason for failure in outcome.failures}
    assert len(reasons) == 19
    assert "no resolution" in reasons["tcga-cr-7395-01a-01-ts1.svs"]
    assert "0.9872 µm/px" in reasons["whole-slide-packer-example.tif"]
    assert "not a slide" in reasons["broken.svs"]
    assert "no resolution" in reasons["kidney-48-5.tif"]
    assert not any(str(real_data) in reason for reason in reasons.values())
    assert not [name for name in tree(tmp_path / "out") if ".tmp" in name]
