"""Locks on slides, by which concurrent runs on one output share the work."""

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

_POLL = 1.0  # seconds between checks of other runs' locks

Work = Callable[[Progress, Job], Row]


class Elsewhere(enum.Enum):
    """Why a slide was not processed: another run is processing it, or has finished it."""

    BUSY = enum.auto()
    DONE = enum.auto()


def settings_of(config: TileConfig) -> str:
    """The settings that concurrent runs on one output must share, as JSON."""
    folders = (config.annotations, config.roi, config.from_coords)
    return json.dumps([config.affecting(), config.layout, [Path(name).name if name else None for name in folders]])


def shard_of(entries: Sequence[Entry], shard: tuple[int, int]) -> tuple[Entry, ...]:
    """The slides of a shard: every n-th in the order of ids, which depends only on the list of slides.

    :param shard: (number of the shard from 1, number of shards n).
    """
    number, count = shard
    return tuple(sorted(entries, key=lambda entry: entry.slide_id)[number - 1 :: count])


def exclusively(progress: Progress, work: Work, job: Job) -> Row | Elsewhere:
    """Process a slide, unless another process is processing it or has finished it since this run began."""
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
    """The results of all jobs; slides locked by other processes come last, after their locks are released."""
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
    """The lock file of a slide, named by a hash, since an id may be as long as file names can be."""
    return out / f".{hashlib.sha256(slide_id.encode()).hexdigest()[:32]}.lock"


def _released(waiting: Mapping[str, Lock], reporter: Reporter) -> list[str]:
    """Wait until at least one lock is released; returns the slides of all that are."""
    owners = {owner for lock in waiting.values() if (owner := lock.owner())}
    if owners:
        more = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
        reporter.note(f"waiting for {len(waiting)} slides that another run is processing ({min(owners)}{more})")
    while waiting:
        released = [key for key, lock in waiting.items() if lock.take()]
        for key in released:
            waiting[key].release()
        if released:
            return released
        time.sleep(_POLL)
    return []
