"""Records of several runs on one output folder, from which the tables of the folder are written.

A run writes its record, a small hidden file, before it waits for the lock on the tables. The run that writes the tables includes
all records in the folder, stores them in run.json and removes the files; a run with a stored record is done. The records of all
shards of one command count; running a shard again replaces its record.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import reading, store
from sgcl_cli.artefacts.results import Failure, read_run
from sgcl_cli.errors import ArtefactError

_PATTERN = ".part-*.json"


@dataclass(frozen=True)
class Part:
    """Record of one run.

    :ivar cohort: hash of the requested slides, the same for all shards of a command.
    :ivar shard: (number from 1, number of shards).
    :ivar failures: slides that failed.
    :ivar warnings: messages of the run.
    :ivar seconds: wall time.
    :ivar measured: artefact id -> seconds and MiB of its processing; written to slides.csv, not to run.json.
    :ivar token: unique to this run.
    """

    cohort: str
    shard: tuple[int, int]
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    measured: dict[str, list[float | None]] = field(default_factory=dict)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def supersedes(self, other: Part) -> bool:
        """Whether the other record is of the same command, and of the same shard or another number of shards."""
        return self.cohort == other.cohort and (self.shard == other.shard or self.shard[1] != other.shard[1])

    def as_record(self) -> dict[str, Any]:
        """JSON values for run.json."""
        return {key: value for key, value in asdict(self).items() if key != "measured"}

    @classmethod
    def of(cls, value: Any) -> Part | None:
        """Build a record from JSON values; None if they are not valid."""
        try:
            number, count = value["shard"]
            return cls(
                cohort=str(value["cohort"]),
                shard=(int(number), int(count)),
                failures=tuple(Failure(**failure) for failure in value["failures"]),
                warnings=tuple(map(str, value["warnings"])),
                seconds=float(value["seconds"]),
                measured=dict(value.get("measured", {})),
                token=str(value["token"]),
            )
        except reading.MISTAKEN:
            return None


def cohort_of(asked: Sequence[Any]) -> str:
    """Hash of the request of a command, given as JSON values."""
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def announce(out: Path, part: Part) -> None:
    """Write the file of a record, replacing that of an earlier run of the same shard."""
    number, count = part.shard
    store.write_json(out / f".part-{part.cohort}-{number}-of-{count}.json", asdict(part))


def recorded(out: Path) -> list[Part]:
    """Records in run.json; none if it is missing or invalid."""
    try:
        return _known(read_run(out).get("parts", []))
    except ArtefactError:
        return []


@dataclass(frozen=True)
class Gathered:
    """All records that count.

    :ivar parts: the records, the caller's last.
    :ivar files: their files, to be removed once the records are in run.json.
    """

    parts: list[Part]
    files: list[Path]

    def clear(self) -> None:
        """Remove the files."""
        for path in self.files:
            path.unlink(missing_ok=True)


def gather(out: Path, mine: Part, slide_ids: Collection[str]) -> Gathered:
    """Collect the records of all runs, without the failures that others recorded for the slides of ``mine``.

    :param mine: the record of this run.
    :param slide_ids: the slides of this run.
    """
    files = sorted(out.glob(_PATTERN))
    parts: dict[tuple[str, tuple[int, int]], Part] = {}
    for part in [*recorded(out), *_known(_contents(files))]:
        if not mine.supersedes(part):
            others = tuple(failure for failure in part.failures if failure.slide_id not in slide_ids)
            parts[part.cohort, part.shard] = replace(part, failures=others)
    return Gathered([*parts.values(), mine], files)


def _contents(files: Iterable[Path]) -> list[Any]:
    contents = []
    for path in files:
        try:
            contents.append(store.read_json(path))
        except ArtefactError:
            continue
    return contents


def _known(values: Iterable[Any]) -> list[Part]:
    return [part for part in map(Part.of, values) if part is not None]
