"""What a person sees: bars, notes, warnings and errors on stderr; the closing table or JSON on stdout.

Markup is off everywhere: a slide named ``[/red]`` is shown as it is called.
"""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sgcl_cli.errors import SgclError

if TYPE_CHECKING:
    from sgcl_cli.artefacts.results import Outcome
    from sgcl_cli.progress import Task

LINE_EVERY = 30.0
_MOST_FAILURES = 20


class Terminal:
    """The reporter of the command line: bars on a terminal, one line every 30 s elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self.results = Console(markup=False, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.errors,
            transient=True,
        )
        self._open = 0

    def task(self, name: str, total: int | None, unit: str) -> Task:
        """A bar, or lines where there is no terminal."""
        if not self.quiet and self.errors.is_terminal:
            return _Bar(self, name, total, unit)
        return _Lines(self, name, total, unit)

    def note(self, message: str) -> None:
        """One line that may be left out."""
        if not self.quiet:
            self.errors.print(message)

    def warn(self, message: str) -> None:
        """One line that must be seen."""
        self.errors.print(Text("warning: ", style="yellow") + Text(message))

    def error(self, error: SgclError) -> None:
        """An error as one line, and its hint as another."""
        self.errors.print(Text("error: ", style="bold red") + Text(error.message))
        if error.hint:
            self.errors.print(Text("  hint: ", style="cyan") + Text(error.hint))

    def close(self, outcome: Outcome, *, as_json: bool) -> None:
        """The closing table with the failures below it, or the result as JSON."""
        if as_json:
            print(json.dumps(outcome.as_dict(), indent=2, ensure_ascii=False, default=str))
        elif not self.quiet:
            table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for name, value in outcome.headline:
                table.add_row(Text(name, style="bold"), Text(value))
            self.results.print(table)
        if outcome.failures:
            self.errors.print(Text(f"{len(outcome.failures)} failed:", style="bold red"))
            for failure in outcome.failures[:_MOST_FAILURES]:
                remedy = f" ({failure.hint})" if failure.hint else ""
                name = failure.path or failure.slide_id
                named = "" if name in failure.reason else f"{name}: "
                self.errors.print(Text(f"  {named}{failure.reason}{remedy}"))
            if len(outcome.failures) > _MOST_FAILURES:
                self.errors.print(f"  and {len(outcome.failures) - _MOST_FAILURES} more, see failures.csv")

    def _enter(self) -> Progress:
        self._open += 1
        if self._open == 1:
            self._progress.start()
        return self._progress

    def _leave(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._progress.stop()


class _Bar:
    def __init__(self, terminal: Terminal, name: str, total: int | None, unit: str) -> None:
        self._terminal = terminal
        self._id = terminal._progress.add_task(name, total=total, unit=unit, note="")

    def advance(self, units: int = 1) -> None:
        self._terminal._progress.advance(self._id, units)

    def update(self, *, total: int | None = None, note: str | None = None) -> None:
        fields: dict[str, Any] = {} if note is None else {"note": note}
        if total is not None:
            fields["total"] = total
        self._terminal._progress.update(self._id, **fields)

    def __enter__(self) -> _Bar:
        self._terminal._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal._progress.remove_task(self._id)
        self._terminal._leave()


class _Lines:
    def __init__(self, terminal: Terminal, name: str, total: int | None, unit: str) -> None:
        self._terminal, self._name, self._total, self._unit = terminal, name, total, unit
        self._done, self._note = 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, units: int = 1) -> None:
        self._done += units
        if time.monotonic() - self._last >= LINE_EVERY:
            self._print()

    def update(self, *, total: int | None = None, note: str | None = None) -> None:
        self._total = total if total is not None else self._total
        self._note = note if note is not None else self._note

    def _print(self) -> None:
        self._last = time.monotonic()
        of = f"/{self._total}" if self._total is not None else ""
        note = f", {self._note}" if self._note else ""
        self._terminal.note(f"{self._name}: {self._done}{of} {self._unit}, {self._last - self._start:.0f} s{note}")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print()
