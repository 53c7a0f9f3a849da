"""Terminal output: progress bars, notes, warnings and errors on stderr; the closing table or JSON on stdout.

Markup is disabled everywhere, so that a slide named ``[/red]`` is shown by this name.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sgcl_cli.errors import ArtefactError, SgclError

if TYPE_CHECKING:
    from sgcl_cli.artefacts.results import Failure, Matrix, Outcome
    from sgcl_cli.progress import Task

LINE_EVERY = 30.0
_GAP = 2  # columns between those of a table
_SPACES = "\n\t"
_MOST_FAILURES = 20  # groups of failures that are listed
_NAMED_FAILURES = 5  # slides named per group
_ASCII = str.maketrans({"µ": "u", "²": "2", "±": "+-", "×": "x", "…": "...", "–": "-"})


def prepare_streams() -> None:
    """Make standard input, output and error safe to use.

    Closed streams are opened on /dev/null; otherwise the next file that is opened would take their number, and messages of
    libraries would be written into it. Characters that the encoding of a stream lacks are escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def ascii_only() -> bool:
    """Whether standard output has an encoding other than UTF-8, which may lack characters."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8"


def spelled(text: str) -> str:
    """A string for people, with units such as µm² spelled in ASCII where standard output may lack their characters."""
    return text.translate(_ASCII) if ascii_only() else text


def drop_output() -> None:
    """Discard all further standard output, for example after its reader has closed the pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_plain(text: str) -> None:
    """Print on standard output.

    :raises ArtefactError: standard output cannot be written.
    """
    with _printing():
        print(text, flush=True)


def finish_output() -> None:
    """Flush standard output; a closed pipe, as left by ``head``, is not an error.

    :raises ArtefactError: standard output cannot be written, for example on a full disk.
    """
    with _printing():
        sys.stdout.flush()


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        drop_output()
    except OSError as error:
        drop_output()
        raise ArtefactError(
            f"cannot write to standard output: {error.strerror}",
            "the output of the command is complete; only this table is missing",
        ) from error


class _Console(Console):
    """A console that raises on a broken pipe instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def shown(text: str) -> str:
    """A string with control characters escaped, so that it cannot control the terminal."""
    plain = spelled(text)
    return "".join(c if c.isprintable() or c in _SPACES else c.encode("unicode_escape").decode() for c in plain)


class Terminal:
    """The reporter of the command line: progress bars on a terminal, one line every 30 s elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.errors = _Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self.results = _Console(markup=False, highlight=False, soft_wrap=True)
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
        """A progress bar, or progress lines without a terminal."""
        if not self.quiet and self.errors.is_terminal:
            return _Bar(self, name, total, unit)
        return _Lines(self, name, total, unit)

    def note(self, message: str) -> None:
        """Print one line, unless quiet."""
        if not self.quiet:
            self._tell(Text(shown(message)))

    def warn(self, message: str) -> None:
        """Print one line of warning, even if quiet."""
        self._tell(Text("warning: ", style="yellow") + Text(shown(message)))

    def error(self, error: SgclError) -> None:
        """Print an error on one line and its hint on another."""
        self._tell(Text("error: ", style="bold red") + Text(shown(error.message)))
        if error.hint:
            self._tell(Text("  hint: ", style="cyan") + Text(shown(error.hint)))

    def _tell(self, text: Text) -> None:
        """Print on stderr; failures to do so are ignored."""
        with contextlib.suppress(OSError, ValueError):
            self.errors.print(text)

    def close(self, outcome: Outcome, *, as_json: bool) -> None:
        """Print the closing table, or the result as JSON, and the failures.

        :raises ArtefactError: standard output cannot be written.
        """
        try:
            with _printing():
                if as_json:
                    print_plain(json.dumps(outcome.as_dict(), indent=2, ensure_ascii=ascii_only(), default=str))
                elif not self.quiet:
                    if outcome.headline:
                        self.results.print(_table(outcome))
                    for number, matrix in enumerate(filter(None, (outcome.matrix, *outcome.further))):
                        if number:
                            self.results.print()
                        self._show(matrix)
        finally:
            self._failed(outcome)

    def _show(self, matrix: Matrix) -> None:
        self.results.print(_matrix(matrix if _width(matrix) <= self.results.width else _turned(matrix)))
        for note in matrix.notes:
            self.results.print(Text(shown(note)))

    def _failed(self, outcome: Outcome) -> None:
        if not outcome.failures:
            return
        self._tell(Text(f"{len(outcome.failures)} failed:", style="bold red"))
        groups = grouped_failures(outcome.failures)
        for group in groups[:_MOST_FAILURES]:
            self._tell(Text(shown(_failure_lines(group))))
        left = sum(map(len, groups[_MOST_FAILURES:]))
        if left:
            self._tell(Text(f"  and {left} more, see failures.csv"))

    def _enter(self) -> Progress:
        self._open += 1
        if self._open == 1:
            self._progress.start()
        return self._progress

    def _leave(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._progress.stop()


def grouped_failures(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Failures grouped by their hint, or by their reason if they have none."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        key = (failure.hint, "" if failure.hint else _bare_reason(failure))
        groups.setdefault(key, []).append(failure)
    return [*groups.values()]


def _failure_lines(group: Sequence[Failure]) -> str:
    """A group of failures on one or two lines: the reason of the first, the hint, and the slides."""
    first = group[0]
    remedy = f" ({first.hint})" if first.hint else ""
    if len(group) == 1:
        name = _name(first)
        return f"  {'' if name in first.reason else f'{name}: '}{first.reason}{remedy}"
    reasons = {_bare_reason(failure) for failure in group}
    similar = "" if len(reasons) == 1 else ", or similar"
    names = ", ".join(_name(failure) for failure in group[:_NAMED_FAILURES])
    more = f" and {len(group) - _NAMED_FAILURES} more" if len(group) > _NAMED_FAILURES else ""
    return f"  {len(group)} with: {_bare_reason(first)}{similar}{remedy}\n    {names}{more}"


def _name(failure: Failure) -> str:
    return failure.path or failure.slide_id


def _bare_reason(failure: Failure) -> str:
    """A reason without the slide's name at its beginning."""
    return failure.reason.removeprefix(_name(failure)).lstrip(": ")


def _table(outcome: Outcome) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in outcome.headline:
        table.add_row(Text(shown(name), style="bold"), Text(shown(value)))
    return table


def _width(matrix: Matrix) -> int:
    """Columns of a terminal that a matrix takes without wrapping."""
    lines = [(matrix.corner, *matrix.columns), *((name, *cells) for name, cells in matrix.rows)]
    longest = [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*lines, strict=True)]
    return sum(longest) + _GAP * len(longest)


def _turned(matrix: Matrix) -> Matrix:
    """A matrix with rows and columns exchanged, if that makes it narrower."""
    rows = [(name, [cells[i] for _, cells in matrix.rows]) for i, name in enumerate(matrix.columns)]
    turned = replace(matrix, columns=[name for name, _ in matrix.rows], rows=rows)
    return turned if _width(turned) < _width(matrix) else matrix


def _matrix(matrix: Matrix) -> Table:
    below = any("\n" in cell for _, cells in matrix.rows for cell in cells)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, int(below), 0), header_style="")
    for name in (matrix.corner, *matrix.columns):
        table.add_column(Text(shown(name), style="dim"), overflow="fold")
    for name, cells in matrix.rows:
        table.add_row(Text(shown(name), style="bold"), *(Text(shown(cell)) for cell in cells))
    return table


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
