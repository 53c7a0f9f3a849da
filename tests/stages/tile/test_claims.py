from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgcl_cli.artefacts.lock import Lock
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import ConfigError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile import claims, tile
from sgcl_cli.stages.tile import run as stage
from sgcl_cli.stages.tile.claims import lock_path
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.slide import tile_slide
from tests.stages.tile.made import (
    SETTINGS,
    config,
    rows_of,
    tree,
    without_measures,
    write_slide,
)


def test_a_slide_that_another_run_works_on_comes_last_and_is_not_done_twice(tmp_path, inline, monkeypatch):
    for name in "abc":
        write_slide(tmp_path / "in" / f"{name}.tif")
    out, done = tmp_path / "out", []
    elsewhere = {name: Lock(lock_path(out, name)) for name in "ab"}
    for lock in elsewhere.values():
        assert lock.take()

    def work(progress: Progress, job: Job) -> Row:
        done.append(job.entry.slide_id)
        return tile_slide(progress, job)

    def others_finish(_: float) -> None:
        if len(elsewhere) == 2:
            tile_slide(Progress(0), Job(Entry("a", tmp_path / "in" / "a.tif", "a.tif"), config(out)))
            elsewhere.pop("a").release()
        else:
            elsewhere.pop("b").release()

    monkeypatch.setattr(claims.time, "sleep", others_finish)
    outcome = tile(config(out, tmp_path / "in"), Silent(), work)
    assert done == ["c", "b"] and outcome.data["skipped"] == 1
    assert [row["slide_id"] for row in rows_of(out / "slides.csv")] == ["a", "b", "c"]


def test_a_slide_that_failed_here_counts_where_another_run_made_it(tmp_path, inline):
    write_slide(tmp_path / "in" / "a.tif")

    def work(progress: Progress, job: Job) -> Row:
        tile_slide(progress, job)
        raise SlideError("the file server did not answer")

    outcome = tile(config(tmp_path / "out", tmp_path / "in"), Silent(), work)
    assert outcome.failures == [] and outcome.data["skipped"] == 1
    assert rows_of(tmp_path / "out" / "failures.csv") == []


def test_runs_of_other_settings_at_the_same_time_are_refused(tmp_path, inline):
    for name in "ab":
        write_slide(tmp_path / "in" / f"{name}.tif")

    def work(progress: Progress, job: Job) -> Row:
        with pytest.raises(ConfigError, match="another run with other settings writes to"):
            tile(config(tmp_path / "out", tmp_path / "in" / "b.tif", mpp=4.0, overwrite=True), Silent(), tile_slide)
        return tile_slide(progress, job)

    outcome = tile(config(tmp_path / "out", tmp_path / "in"), Silent(), work)
    assert outcome.total == 2 and outcome.failures == []


def test_a_lock_left_by_a_dead_process_holds_nobody_up(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif")
    lock = lock_path(tmp_path / "out", "a")
    program = (
        f"import os; from pathlib import Path; from sgcl_cli.artefacts.lock import Lock; "
        f"lock = Lock(Path({str(lock)!r})); lock.take(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program])
    assert lock.exists()
    started = time.monotonic()
    outcome = tile(config(tmp_path / "out", path), Silent())
    assert outcome.failures == [] and time.monotonic() - started < 60
    assert not lock.exists()


COUNTED_WORK = """
from pathlib import Path
from sgcl_cli.stages.tile.slide import tile_slide


def work(progress, job):
    with Path(job.config.out).with_name("begun").open("a") as log:
        log.write(job.entry.slide_id + "\\n")
    return tile_slide(progress, job)


if __name__ == "__main__":
    import sys
    import counted_work
    from sgcl_cli.config import TileConfig
    from sgcl_cli.stages.tile import tile
    outcome = tile(TileConfig.resolve(eval(sys.argv[1])), work=counted_work.work)
    print(len(outcome.data["slides"]), len(outcome.failures))
"""


def test_two_runs_at_the_same_time_share_the_work(tmp_path, inline):
    for number in range(6):
        write_slide(tmp_path / "in" / f"{number}.tif", seed=number)
    (tmp_path / "counted_work.py").write_text(COUNTED_WORK)
    settings = SETTINGS | {"slides": [str(tmp_path / "in")], "out": str(tmp_path / "out"), "workers": 1}
    path = os.pathsep.join([str(Path(stage.__file__).parents[3]), str(tmp_path), *sys.path])
    command = [sys.executable, str(tmp_path / "counted_work.py"), repr(settings)]
    runs = [
        subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate()[0] for run in runs] == ["6 0\n", "6 0\n"]
    assert sorted((tmp_path / "begun").read_text().split()) == [str(number) for number in range(6)]
    tile(config(tmp_path / "whole", tmp_path / "in"), Silent())
    one, two = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert set(one) == set(two)
    for name in one:
        assert one[name] == two[name] or name in ("index.html", "run.json", "slides.csv"), name
    tables = [without_measures(rows_of(tmp_path / name / "slides.csv")) for name in ("whole", "out")]
    assert tables[0] == tables[1]
