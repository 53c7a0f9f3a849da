"""What a stage returns and what it leaves as a record: outcome, failures, run.json."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from sgcl_cli import __version__
from sgcl_cli.artefacts import reading, store
from sgcl_cli.config import Config
from sgcl_cli.errors import ConfigError

FAILURE_COLUMNS = ("slide_id", "path", "reason", "hint")


@dataclass(frozen=True)
class Failure:
    """One slide that could not be used: its id, its path relative to the input root, why, and what to do."""

    slide_id: str
    path: str
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class Matrix:
    """A table for the terminal: what its rows are, the columns' names, rows of a name and a cell a column, and notes.

    Names and cells may have several lines.
    """

    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What a stage did: the closing table's rows, the failures, and the result for machines.

    :ivar headline: (name, value) pairs of the closing table; ``matrix`` is printed below them.
    :ivar total: slides that were asked for, by which --allow-failures is judged.
    :ivar data: the result as JSON values, printed by --json.
    :ivar told: whether another process of the same run tells the user.
    """

    stage: str
    out: Path
    headline: list[tuple[str, str]]
    total: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    told: bool = False
    matrix: Matrix | None = None

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "stage": self.stage,
            "out": str(self.out),
            "failures": [asdict(failure) for failure in self.failures],
            "warnings": self.warnings,
            **self.data,
        }


def check_free(out: Path, stage: str) -> None:
    """See that a folder is there for a stage to write to: --overwrite is for results of its own.

    :raises ConfigError: it is a file, or holds the output of another stage.
    :raises ArtefactError: its run.json cannot be read.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file", "give a folder")
    run = out / "run.json"
    if not run.exists():
        return
    other = read_run(out).get("stage")
    if other != stage:
        raise ConfigError(
            f"{out} holds the output of {f'sgcl {other}' if other else 'something else'}", "choose another --out"
        )


_RUN = {
    **dict.fromkeys(("stage", "id", "format"), reading.TEXT),
    **dict.fromkeys(("config", "affecting", "inputs", "result", "versions"), reading.MAPPING),
    "parts": reading.listed(reading.MAPPING),
}


def read_run(out: Path) -> dict[str, Any]:
    """The content of run.json; its known entries are of the right types.

    :raises ArtefactError: it is missing, not JSON, or something else.
    """
    path = out / "run.json"
    return reading.typed(store.read_json(path), _RUN, str(path), "remove it if no run of sgcl wrote it")


def understood(out: Path) -> AbstractContextManager[None]:
    """A stretch that takes apart what run.json and the tables beside it say.

    :raises ArtefactError: they are not what a run of sgcl writes.
    """
    return reading.understood(out / "run.json", "use --overwrite, or another --out")


class RunRecord:
    """Collects what run.json says: argv, versions, resolved config, input ids, counts, failures, seconds, peak memory."""

    def __init__(self, stage: str, config: Config) -> None:
        self.stage = stage
        self.config = config
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Wall time since the record was begun."""
        return time.perf_counter() - self._start

    def write(
        self, out: str | Path, *, artefact: str, inputs: Mapping[str, str], outcome: Outcome, **further: Any
    ) -> None:
        """Write run.json, the last file of a stage.

        :param artefact: the id of what the stage wrote.
        :param inputs: names of the inputs and their ids.
        :param further: what else the stage records, JSON values.
        """
        store.write_json(
            Path(out) / "run.json",
            {
                "format": "sgcl.run/1",
                "stage": self.stage,
                "id": artefact,
                "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "versions": versions(),
                "config": self.config.as_dict(),
                "affecting": self.config.affecting(),
                "inputs": dict(inputs),
                "result": outcome.as_dict(),
                "seconds": round(self.seconds(), 3),
                "peak_memory_mib": peak_memory_mib(),
                **further,
            },
        )


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that decide numbers, where installed."""
    found = {"sgcl": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "openslide-bin", "opencv-python-headless", "h5py", "simplejpeg", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> dict[str, float]:
    """Largest resident size so far of this process and of its largest finished child, MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1),
        "largest_worker": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit, 1),
    }


def write_failures(out: str | Path, failures: list[Failure]) -> None:
    """Write failures.csv; with its header alone when nothing failed."""
    store.write_csv(Path(out) / "failures.csv", FAILURE_COLUMNS, [asdict(failure) for failure in failures])
