"""The protocol of the study, read from study.toml: rows of the table in the order in which they run."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sgcl_cli.config import PretrainConfig
from sgcl_cli.errors import ConfigError

Group = Literal["main", "transductive", "ablation"]

DEFAULT = Path(__file__).with_name("study.toml")
_VERSION = 1  # of the results; a change makes all rows run again
_DRAWN = ("random:",)  # encoders that depend on the seed


@dataclass(frozen=True)
class Row:
    """A row of the table: an existing encoder, settings of a pretraining, or the encoder of another row with other input.

    :ivar of: the row that gives the encoder and the settings.
    :ivar norms, shrunk: changes of that encoder, see feeding.py.
    :ivar against: the row of the paired comparison; None for no comparison.
    """

    name: str
    group: Group = "main"
    encoder: str | None = None
    pretrain: Mapping[str, Any] = field(default_factory=dict, hash=False)
    purity: bool = False
    of: str | None = None
    norms: bool = False
    shrunk: bool = False
    against: str | None = None

    @property
    def pretrains(self) -> bool:
        """Whether the row includes a pretraining."""
        return self.encoder is None and self.of is None

    @property
    def seeded(self) -> bool:
        """Whether seeds give different encoders."""
        return self.encoder is None or self.encoder.startswith(_DRAWN)


@dataclass(frozen=True)
class Job:
    """One row under one seed."""

    row: Row
    seed: int

    @property
    def scored_on_test(self) -> bool:
        """Whether the row is scored on held-out data: all but ablations."""
        return self.row.group != "ablation"

    @property
    def scored_on_development(self) -> bool:
        """Whether the row is scored on development data: all but encoders pretrained on the hold-out."""
        return self.row.group != "transductive"

    def settings(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the pretraining: those of the size, overridden by those of the row."""
        return {**common, **self.row.pretrain, "seed": self.seed}

    def key(self, common: Mapping[str, Any], corpus: str, sets: Mapping[str, str], tasks: Sequence[str]) -> str:
        """A hash of everything that affects the result; the name of the row and its position in the table do not.

        :param corpus: id of the patches for pretraining. :param sets: ids of the labelled sets. :param tasks: names of the tasks.
        """
        if self.row.encoder is None:
            made: Any = PretrainConfig.resolve({"patches": "-", "out": "-", **self.settings(common)}).affecting()
            made["corpus"] = corpus
            if self.row.of is not None:
                made["fed"] = {"norms": self.row.norms, "shrunk": self.row.shrunk}
        else:
            made = {"encoder": self.row.encoder, "seed": self.seed if self.row.seeded else 0}
        scored = [self.scored_on_test, self.scored_on_development]
        text = json.dumps([_VERSION, made, dict(sets), [*tasks], scored, self.row.purity], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Study:
    """A protocol at a size.

    :ivar data: the table [data].
    :ivar pretrain: settings of every pretraining.
    :ivar rows: the chosen rows.
    :ivar known: all rows by name.
    :ivar tasks: names of the tasks; empty for all.
    """

    size: str
    data: Mapping[str, Any]
    pretrain: Mapping[str, Any]
    rows: tuple[Row, ...]
    seeds: int
    known: Mapping[str, Row] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    def jobs(self) -> list[Job]:
        """Every main row once, then again under each further seed, then the transductive rows and the ablations."""
        main = [row for row in self.rows if row.group == "main"]
        further = [row for row in main if row.seeded]
        jobs = [Job(row, 0) for row in main]
        jobs += [Job(row, seed) for seed in range(1, self.seeds) for row in further]
        return jobs + [Job(row, 0) for group in ("transductive", "ablation") for row in self.rows if row.group == group]

    def base(self, job: Job) -> Job:
        """The job that gives the encoder: the job itself, or that of the row named by ``of``."""
        return job if job.row.of is None else Job(self.known[job.row.of], job.seed)


def load(path: Path, size: str, only: Sequence[str] = ()) -> Study:
    """Read a protocol.

    :param only: names of rows; empty for those of the size.
    :raises ConfigError: no such size or row, or an invalid row.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    sizes = content["sizes"]
    if size not in sizes:
        raise ConfigError(f"{path} has no size '{size}'; it has {', '.join(sizes)}")
    chosen = sizes[size]
    rows = [Row(**entry) for entry in content["rows"]]
    by_name = {row.name: row for row in rows}
    for row in rows:
        if bool(row.encoder) + bool(row.pretrain) + bool(row.of) != 1:
            raise ConfigError(f"row '{row.name}' of {path} needs one of encoder, pretrain and of")
        for word, other in (("against", row.against), ("of", row.of)):
            if other is not None and other not in by_name:
                raise ConfigError(f"row '{row.name}' of {path} is {word} '{other}', which is no row")
        if row.of is not None and not by_name[row.of].pretrain:
            raise ConfigError(f"row '{row.name}' of {path} is of '{row.of}', which is not pretrained")
    names = [*(only or chosen.get("rows", [row.name for row in rows]))]
    unknown = sorted({*names} - {row.name for row in rows})
    if unknown:
        raise ConfigError(f"{path} has no row '{unknown[0]}'")
    data = dict(content["data"])
    data["tasks"] = content.get("tasks", [])
    if isinstance(chosen.get("corpus"), str):
        data["corpus"] = chosen["corpus"]
    elif "corpus" in chosen:
        data["corpus"] = [slide for slide in data["corpus"] if Path(slide["path"]).stem in chosen["corpus"]]
    settled = {row.name: replace(row, pretrain=dict((by_name[row.of] if row.of else row).pretrain)) for row in rows}
    kept = tuple(row for row in settled.values() if row.name in names)
    return Study(size, data, chosen["pretrain"], kept, int(chosen["seeds"]), settled, tuple(chosen.get("tasks", ())))
