"""Claims on slides: of several runs on one output one at a time works on a slide, and one of them finishes it."""

from __future__ import annotations

import enum
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sgcl_cli.artefacts.lock import Lock, held
from sgcl_cli.config import TileConfig
from sgcl_cli.engine.pool import Progress, Result
from sgcl_cli.progress import Reporter
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.tile.job import Job, Row, patches_path

_POLL = 1.0  # seconds between looks at the locks of others

Work = Callable[[Progress, Job], Row]


class Elsewhere(enum.Enum):
    """Why a slide was not worked on here."""

    BUSY = enum.auto()
    DONE = enum.auto()


def settings_of(config: TileConfig) -> str:
    """What runs that write to one output at the same time must have in common, as text."""
    folders = (config.annotations, config.roi, config.from_coords)
    return json.dumps([config.affecting(), config.layout, [Path(name).name if name else None for name in folders]])


def shard_of(entries: Sequence[Entry], shard: tuple[int, int]) -> tuple[Entry, ...]:
    """Every n-th slide in order of ids: the split depends on the list of slides alone, not on what is done.

    :param shard: (number from 1, of how many).
    """
    number, count = shard
    return tuple(sorted(entries, key=lambda entry: entry.slide_id)[number - 1 :: count])


def exclusively(progress: Progress, work: Work, job: Job) -> Row | Elsewhere:
    """Do the work on a slide, unless another process is at it or has done it since this run began."""
    out = Path(job.config.out)
    with held(lock_path(out, job.entry.slide_id)) as mine:
        if not mine:
            return Elsewhere.BUSY
        if patches_path(job.config, job.entry.slide_id).exists():
            return Elsewhere.DONE
        return work(progress, job)


def claimed(
    run: Callable[[Mapping[str, Job]], Iterator[Result[Row | Elsewhere]]],
    jobs: Mapping[str, Job],
    reporter: Reporter,
) -> Iterator[Result[Row | Elsewhere]]:
    """The results of all jobs; those that other processes are busy with come last, when these have let go of them."""
    free, waiting = dict(jobs), dict[str, Lock]()
    while free:
        for result in run(free):
            if result.value is Elsewhere.BUSY:
                waiting.setdefault(result.key, Lock(lock_path(Path(jobs[result.key].config.out), result.key)))
            else:
                waiting.pop(result.key, None)
                yield result
        free = {key: jobs[key] for key in _released(waiting, reporter)}


def lock_path(out: Path, slide_id: str) -> Path:
    """The lock of a slide; its name is a hash, as ids may be as long as a file's name can be."""
    return out / f".{hashlib.sha256(slide_id.encode()).hexdigest()[:32]}.lock"


def _released(waiting: Mapping[str, Lock], reporter: Reporter) -> list[str]:
    """Those that nobody is busy with any more; waits for the first of them."""
    owners = {owner for lock in waiting.values() if (owner := lock.owner())}
    if owners:
        more = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
        reporter.note(f"waiting for {len(waiting)} slides that another run works on ({min(owners)}{more})")
    while waiting:
        released = [key for key, lock in waiting.items() if lock.take()]
        for key in released:
            waiting[key].release()
        if released:
            return released
        time.sleep(_POLL)
    return []
