"""Interface by which a stage reports progress, notes and warnings, independent of how they are shown.

A stage takes a ``Reporter``. The command line passes one that draws progress bars (cli/console.py); the default in Python is
``Silent``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol


class Task(Protocol):
    """A progress bar: advanced by whole units, closed when its ``with`` block is left."""

    def advance(self, units: int = 1) -> None: ...

    def update(self, *, total: int | None = None, note: str | None = None) -> None: ...

    def __enter__(self) -> Task: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Reporter(Protocol):
    """Receives the progress bars, notes and warnings of a stage."""

    def task(self, name: str, total: int | None, unit: str) -> Task: ...

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...


class _SilentTask:
    def advance(self, units: int = 1) -> None:
        pass

    def update(self, *, total: int | None = None, note: str | None = None) -> None:
        pass

    def __enter__(self) -> _SilentTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Silent:
    """A reporter that shows nothing and collects the warnings, for use from Python and in tests."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def task(self, name: str, total: int | None, unit: str) -> Task:
        return _SilentTask()

    def note(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)
