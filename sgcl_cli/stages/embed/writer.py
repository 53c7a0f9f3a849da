"""Writing of features files: rows arrive in any order and from several bags, and are written in the order of each bag."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.artefacts.results import Failure
from sgcl_cli.engine.loader import Failed, Missing
from sgcl_cli.engine.readers import WorkerLostError
from sgcl_cli.errors import ArtefactError, SgclError, WriteError
from sgcl_cli.progress import Task
from sgcl_cli.stages.embed.bags import Bag

Rows = NDArray[np.float32]
_CHECKPOINT_ROWS = 8192
_CHECKPOINT_SECONDS = 30.0


class FeatureFiles:
    """The unfinished features files of a run; a context manager.

    :param writer: creates the writer of a bag's file.
    :param attributes: attributes of a bag's file, besides those that its rows determine.
    :param root: folder to which the paths of failures are relative.
    :ivar failures: bags that could not be embedded.
    :ivar interrupted: bags whose reading process died; they may be tried once more.
    """

    def __init__(
        self,
        bags: Sequence[Bag],
        writer: Callable[[Bag], FeatureWriter],
        attributes: Callable[[Bag], dict[str, Any]],
        root: Path,
        bar: Task,
    ) -> None:
        self._bags = sorted(bags, key=lambda bag: bag.start)
        self._starts = np.array([bag.start for bag in self._bags if bag.count], np.int64)
        self._filled = [bag for bag in self._bags if bag.count]
        self._make, self._attributes, self._root, self._bar = writer, attributes, root, bar
        self._open: dict[str, _Growing] = {}
        self._refused: set[str] = set()
        self.failures: list[Failure] = []
        self.interrupted: list[Bag] = []

    def __enter__(self) -> Self:
        for bag in self._bags:
            if not bag.count:
                self._advance(bag)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for growing in self._open.values():
            with contextlib.suppress(ArtefactError):
                growing.writer.checkpoint()
            growing.writer.__exit__(kind, error, trace)

    def wanted(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which patches belong to bags that have not failed, bool (B,)."""
        if not self._refused:
            return np.ones(len(index), np.bool_)
        gone = np.array([bag.slide_id in self._refused for bag in self._filled])
        return ~gone[self._of(index)]

    def take(self, index: NDArray[np.int64], features: Rows) -> None:
        """Add the features (B, D) of patches; rows that are written already are ignored."""
        owners = self._of(index)
        for owner in np.unique(owners).tolist():
            bag, mine = self._filled[owner], owners == owner
            if bag.slide_id not in self._refused:
                growing, rows = self._growing(bag), index[mine] - bag.start
                further = rows >= growing.writer.position  # after an interruption the first batch is encoded as a whole
                growing.waiting.update(zip(rows[further].tolist(), features[mine][further], strict=True))
                self._advance(bag)

    def miss(self, missing: Missing) -> None:
        """Leave out a patch that could not be read, or fail its bag."""
        bag = self._filled[int(self._of(np.array([missing.index]))[0])]
        if bag.slide_id in self._refused:
            return
        if not bag.tolerant:
            self._refuse(bag, missing.error)
            return
        growing, row = self._growing(bag), missing.index - bag.start
        if row >= growing.writer.position:
            growing.waiting[row] = missing.error
            self._advance(bag)

    def fail(self, failed: Failed) -> None:
        """Fail a bag that cannot be read; where its process died it may be tried once more."""
        bag = self._filled[int(self._of(failed.index[:1])[0])]
        if isinstance(failed.error, WorkerLostError) and bag not in self.interrupted:
            self.interrupted.append(bag)
        else:
            self._refuse(bag, failed.error)

    def position(self, bag: Bag) -> int:
        """Number of rows of a bag that are written or left out."""
        return self._open[bag.slide_id].writer.position if bag.slide_id in self._open else 0

    def _of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, index, side="right") - 1

    def _growing(self, bag: Bag) -> _Growing:
        if bag.slide_id not in self._open:
            self._open[bag.slide_id] = _Growing(self._make(bag).__enter__())
        return self._open[bag.slide_id]

    def _advance(self, bag: Bag) -> None:
        """Write the rows that come next, and finish the file after the last one.

        :raises WriteError: the disk is full or cannot be written to, which ends the run.
        """
        growing = self._growing(bag)
        try:
            self._bar.advance(growing.write())
            if growing.writer.position < bag.count:
                return
            self._finish(bag, growing)
        except WriteError:
            raise
        except ArtefactError as error:
            self._refuse(bag, error)
        else:
            del self._open[bag.slide_id]

    def _finish(self, bag: Bag, growing: _Growing) -> None:
        writer = growing.writer
        if bag.count and not writer.done:
            first = next(iter(writer.lost.values()))
            raise ArtefactError(f"none of {bag.count} patches or images can be read; first: {first}", growing.hint)
        kept = np.delete(np.arange(bag.count), [*writer.lost])
        columns = {
            name: None
            if value is None
            else (value[kept] if isinstance(value, np.ndarray) else [value[i] for i in kept])
            for name, value in bag.columns.items()
        }
        writer.finish(columns, self._attributes(bag), bag.geometry)
        writer.__exit__(None, None, None)

    def _refuse(self, bag: Bag, error: SgclError) -> None:
        self._refused.add(bag.slide_id)
        if growing := self._open.pop(bag.slide_id, None):
            growing.writer.__exit__(None, None, None)
        path = os.path.relpath(bag.path, self._root) if bag.path.is_relative_to(self._root) else bag.path.name
        self.failures.append(Failure(bag.slide_id, path, error.message, error.hint))


class _Growing:
    """An unfinished file, and rows that wait for earlier ones: features (D,), or the error of a patch that cannot be read."""

    def __init__(self, writer: FeatureWriter) -> None:
        self.writer = writer
        self.waiting: dict[int, Rows | SgclError] = {}
        self.hint = ""
        self._unsaved, self._saved_at = 0, time.monotonic()

    def write(self) -> int:
        """Write the rows that come next; returns their number."""
        before = self.writer.position
        run: list[Rows] = []
        while (row := self.waiting.pop(self.writer.position + len(run), None)) is not None:
            if isinstance(row, SgclError):
                self._append(run)
                run = []
                self.writer.lose(row.message)
                self.hint = self.hint or row.hint
            else:
                run.append(row)
        self._append(run)
        settled = self.writer.position - before
        self._unsaved += settled
        if self._unsaved and (
            self._unsaved >= _CHECKPOINT_ROWS or time.monotonic() - self._saved_at >= _CHECKPOINT_SECONDS
        ):
            self.writer.checkpoint()
            self._unsaved, self._saved_at = 0, time.monotonic()
        return settled

    def _append(self, run: list[Rows]) -> None:
        if run:
            self.writer.append(np.stack(run))
