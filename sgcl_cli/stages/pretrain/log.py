"""metrics.jsonl of a pretraining run: one line for each step, epoch and refit, consistent with the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import reading, store
from sgcl_cli.errors import ArtefactError


@dataclass
class Tally:
    """Means over the steps of an epoch, each over the steps that have the number.

    :ivar sums: by name.
    :ivar counts: by name.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, numbers: Mapping[str, float | None]) -> None:
        """Add the numbers of one step; None is skipped."""
        for name, value in numbers.items():
            if value is not None:
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The mean of each number."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}

    def content(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {"sums": self.sums, "counts": self.counts}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Tally:
        """From a checkpoint."""
        return cls(dict(content["sums"]), dict(content["counts"]))


class MetricsLog:
    """The lines of metrics.jsonl, one for each step, epoch and refit. They are kept in memory until ``flush``, which precedes the
    next checkpoint.

    :param writes: whether anything is written at all.
    :raises ArtefactError: metrics.jsonl is a folder, FIFO or device.
    """

    def __init__(self, out: Path, *, writes: bool) -> None:
        self.path = out / "metrics.jsonl"
        if writes and self.path.exists() and not self.path.is_file():
            raise ArtefactError(f"{self.path} is not a regular file", "remove it, or use another --out")
        self._writes = writes
        self._lines: list[str] = []
        self._written: set[tuple[str, int]] = set()

    def write(self, entry: dict[str, Any]) -> None:
        """Add a line, unless an interrupted run wrote it already; it has "step", the number of steps done."""
        if self._writes and _what(entry) not in self._written:
            self._lines.append(json.dumps(entry, allow_nan=False))

    def flush(self) -> None:
        """Append the waiting lines to the file."""
        if not self._writes:
            return
        with store.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in self._lines)
        self._lines.clear()

    def summaries(self) -> list[dict[str, Any]]:
        """The means of each epoch in the file, in order."""
        return [entry["summary"] for _, entry in self._entries() if isinstance(entry.get("summary"), dict)]

    def trim(self, step: int) -> None:
        """Drop the lines that an interrupted run wrote after its checkpoint, since those steps are repeated.

        Lines of the checkpoint's own step are kept, and not written again.
        """
        if not self._writes or not self.path.exists():
            return
        kept = dict[tuple[str, int], str]()
        for line, entry in self._entries():
            if entry["step"] > step:
                break
            kept.setdefault(_what(entry), line + "\n")
        self._written = set(kept)
        store.write_text(self.path, "".join(kept.values()))

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The lines before the first damaged one."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                entry = reading.parse_json(line)
            except ValueError:
                return
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                return
            yield line, entry


def _what(entry: Mapping[str, Any]) -> tuple[str, int]:
    """What a line is about: a step, the epoch that ended with it, or the clusters fitted after it."""
    return next((name for name in ("summary", "clusters") if name in entry), "step"), entry["step"]
