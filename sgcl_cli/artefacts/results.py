"""Results of stages: the outcome they return, and their record in run.json and failures.csv."""

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
    """A slide that could not be used.

    :ivar slide_id: the slide.
    :ivar path: its path, relative to the input folder.
    :ivar reason: why.
    :ivar hint: what to do; may be empty.
    """

    slide_id: str
    path: str
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class Matrix:
    """A table for the terminal; names and cells may have several lines.

    :ivar corner: heading of the column of row names.
    :ivar columns: headings of the other columns.
    :ivar rows: (name, cells), with one cell per column.
    :ivar notes: lines below the table.
    """

    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """Outcome of a stage.

    :ivar stage: name of the command.
    :ivar out: output folder.
    :ivar headline: (name, value) pairs of the closing table.
    :ivar total: number of requested slides, to which --allow-failures refers.
    :ivar failures: slides that failed.
    :ivar warnings: messages of the run.
    :ivar data: result as JSON values, printed by --json.
    :ivar reported: whether another process of the same run has informed the user.
    :ivar matrix: table printed below the headline; None for none.
    :ivar further: tables printed below that one.
    """

    stage: str
    out: Path
    headline: list[tuple[str, str]]
    total: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    reported: bool = False
    matrix: Matrix | None = None
    further: Sequence[Matrix] = ()

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
    """Check that a stage may write to a folder; outputs of other stages are never overwritten.

    :raises ConfigError: the path is a file, or the folder contains the output of another stage.
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
    """Read run.json and check the types of its known entries.

    :raises ArtefactError: missing, not JSON, or with invalid entries.
    """
    path = out / "run.json"
    return reading.typed(store.read_json(path), _RUN, str(path), "remove it if it was not written by sgcl")


def understood(out: Path) -> AbstractContextManager[None]:
    """Context for code that interprets run.json and the tables beside it.

    :raises ArtefactError: their content does not have the expected form.
    """
    return reading.understood(out / "run.json", "use --overwrite, or another --out")


class RunRecord:
    """Collects the content of run.json: argv, versions, resolved config, input ids, outcome, seconds, peak memory."""

    def __init__(self, stage: str, config: Config) -> None:
        self.stage = stage
        self.config = config
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Wall time since the record was created."""
        return time.perf_counter() - self._start

    def write(
        self, out: str | Path, *, artefact: str, inputs: Mapping[str, str], outcome: Outcome, **further: Any
    ) -> None:
        """Write run.json, the last file of a stage.

        :param out: output folder.
        :param artefact: id of the output.
        :param inputs: name of an input -> its id.
        :param outcome: the result.
        :param further: additional entries, JSON values.
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
    """Versions of this package, Python and the installed libraries that affect results."""
    found = {"sgcl": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "openslide-bin", "opencv-python-headless", "h5py", "simplejpeg", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib() -> dict[str, float]:
    """Peak resident memory of this process and of its largest finished child, MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1),
        "largest_worker": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit, 1),
    }


def write_failures(out: str | Path, failures: list[Failure]) -> None:
    """Write failures.csv; without failures only its header."""
    store.write_csv(Path(out) / "failures.csv", FAILURE_COLUMNS, [asdict(failure) for failure in failures])
