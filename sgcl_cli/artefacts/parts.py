"""What each of several runs says about one output folder, so that the tables of the folder can tell the whole.

A run leaves its part, a small hidden file, before it waits for its turn to write the tables. Whoever writes them takes in all
parts that lie there, records them in run.json and removes the files; a run that finds its part recorded is done. The parts of
one command that is split into shards stand side by side; running it again replaces them one by one.
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
    """What one run says.

    :ivar cohort: what it was asked for, the same for all shards of a command.
    :ivar shard: (number from 1, of how many).
    :ivar measured: by artefact id, seconds and MiB that making it took; goes to slides.csv, not to run.json.
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
        """Whether the other part is of the same command, and the same shard or another division into shards."""
        return self.cohort == other.cohort and (self.shard == other.shard or self.shard[1] != other.shard[1])

    def as_record(self) -> dict[str, Any]:
        """What run.json keeps."""
        return {key: value for key, value in asdict(self).items() if key != "measured"}

    @classmethod
    def of(cls, value: Any) -> Part | None:
        """The part that JSON values describe; None where they describe none."""
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
    """A short name of what was asked for, from JSON values."""
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def announce(out: Path, part: Part) -> None:
    """Leave the part's file, in place of that of an earlier run of the same shard."""
    number, count = part.shard
    store.write_json(out / f".part-{part.cohort}-{number}-of-{count}.json", asdict(part))


def recorded(out: Path) -> list[Part]:
    """The parts in run.json; none where it is missing or of another kind."""
    try:
        return _known(read_run(out).get("parts", []))
    except ArtefactError:
        return []


@dataclass(frozen=True)
class Gathered:
    """All parts that count, the own one last, and the files that hold nothing else once they are in run.json."""

    parts: list[Part]
    files: list[Path]

    def clear(self) -> None:
        """Remove the files."""
        for path in self.files:
            path.unlink(missing_ok=True)


def gather(out: Path, mine: Part, slide_ids: Collection[str]) -> Gathered:
    """Everybody's part. On its own slides a run alone has a say.

    :param slide_ids: the slides of my part.
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
