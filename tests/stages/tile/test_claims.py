from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sgcl_cli.artefacts.lock import Lock, held
from sgcl_cli.engine.pool import Progress, Result
from sgcl_cli.progress import Silent
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile.claims import Elsewhere, claimed, exclusively, lock_path, settings_of, shard_of
from sgcl_cli.stages.tile.job import Job, Row, patches_path

MakeJob = Callable[..., Job]
MakeRow = Callable[..., Row]


def test_shards_divide_the_slides_by_their_ids() -> None:
    entries = [Entry(name, Path(name), name) for name in ("d", "a", "c", "e", "b")]
    shards = [[entry.slide_id for entry in shard_of(entries, (number, 2))] for number in (1, 2)]
    assert shards == [["a", "c", "e"], ["b", "d"]]
    assert shard_of(entries[::-1], (2, 2)) == shard_of(entries, (2, 2))


def test_runs_side_by_side_need_the_same_settings_not_the_same_paths(make_job: MakeJob) -> None:
    config = make_job(roi="one/roi").config
    assert settings_of(replace(config, roi="other/roi", workers=9)) == settings_of(config)
    assert settings_of(replace(config, roi="one/regions")) != settings_of(config)
    assert settings_of(replace(config, mpp=1.0)) != settings_of(config)


def test_locks_have_names_of_any_ids(tmp_path: Path) -> None:
    names = {lock_path(tmp_path, slide_id).name for slide_id in ("a", "b", "x" * 250)}
    assert len(names) == 3 and all(len(name) == 38 and name.endswith(".lock") for name in names)


def test_a_slide_is_worked_on_once(make_job: MakeJob, make_row: MakeRow) -> None:
    job = make_job()
    out = Path(job.config.out)
    seen: list[bool] = []

    def work(progress: Progress, job: Job) -> Row:
        seen.append(Lock(lock_path(out, "a")).owner() != "")
        return make_row()

    assert exclusively(Progress(0), work, job) == make_row() and seen == [True]
    with held(lock_path(out, "a")):
        assert exclusively(Progress(0), work, job) is Elsewhere.BUSY
    made = patches_path(job.config, "a")
    made.parent.mkdir(parents=True)
    made.touch()
    assert exclusively(Progress(0), work, job) is Elsewhere.DONE and seen == [True]


def test_slides_of_other_runs_come_last(make_job: MakeJob, make_row: MakeRow) -> None:
    jobs = {name: make_job(name) for name in ("a", "b")}
    asked: list[list[str]] = []

    def run(free: Mapping[str, Job]) -> Iterator[Result[Row | Elsewhere]]:
        asked.append([*free])
        for name in free:
            busy = name == "a" and len(asked) == 1
            yield Result(name, Elsewhere.BUSY if busy else make_row(name))

    found = [result.key for result in claimed(run, jobs, Silent())]
    assert asked == [["a", "b"], ["a"]] and found == ["b", "a"]
