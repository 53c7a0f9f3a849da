"""Files from outside, read without trust: what may be opened, what its content may be, and why it cannot be read.

Only regular files are opened, numbers and texts are checked before they are used, and an error of the operating system is
distinguished from damage, so that nobody deletes a file that another program has open.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgcl_cli.errors import ArtefactError, UnavailableError

DAMAGED = "the file is damaged; make it again"
LONGEST_REASON = 200  # characters of what another library says
_MOST_DIGITS = 25
_LOCKS = "close the program that has it open; on a network drive set HDF5_USE_FILE_LOCKING=FALSE; do not delete it"
_DRIVE = "the file itself may be whole: look at the disk or the network drive, and run the command again"
_REASONS = {
    errno.EAGAIN: ("is in use by another program, or its file system refuses locks", _LOCKS),
    errno.ENOLCK: ("cannot be locked on this file system", _LOCKS),
    errno.ENOSYS: ("cannot be locked on this file system", _LOCKS),
    errno.ENOTSUP: ("cannot be locked on this file system", _LOCKS),
    errno.EACCES: ("cannot be read: permission denied", "ask its owner for the right to read it"),
    errno.EPERM: ("cannot be read: operation not permitted", "ask its owner for the right to read it"),
    errno.EMFILE: ("cannot be opened: this process has too many files open", "raise the limit with ulimit -n"),
    errno.ENFILE: ("cannot be opened: this machine has too many files open", "close other programs, and try again"),
    errno.EIO: ("cannot be read: the disk reports an input/output error", _DRIVE),
    errno.ESTALE: ("cannot be read: the network drive lost it (stale file handle)", _DRIVE),
    errno.ENOMEM: ("cannot be read: there is not enough memory", "close other programs, or use a larger machine"),
}
# What the interpretation of a foreign value can raise where it is not of the form that was expected.
MISTAKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, AssertionError)


def plain(path: str | Path) -> Path:
    """A path that is a file with content, so that opening it neither waits for a writer nor reads for ever.

    :raises OSError: it is absent, a folder, FIFO, device or socket.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a null byte
        raise OSError(errno.EINVAL, str(error)) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file")
    if not stat.S_ISREG(mode):
        what = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(mode), "a device")
        raise OSError(errno.EINVAL, f"it is {what}, not a file")
    return path


def code_of(error: BaseException) -> int | None:
    """The system's error number, also where a library gives it only in its message."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    if "No space left" in str(error):
        return errno.ENOSPC
    told = re.search(r"errno = (\d+)", str(error))
    return None if told is None else int(told[1])


def unreadable(path: str | Path, error: BaseException, what: str, remedy: str) -> ArtefactError:
    """Why a file cannot be read: what the system says, else that it is not of the kind that was expected.

    :param what: this kind, in words. :param remedy: what to do about a file that is damaged.
    """
    code = code_of(error)
    if code == errno.ENOENT:
        return ArtefactError(f"no such file: {path}", "check the path")
    if code in _REASONS:
        reason, hint = _REASONS[code]
        return UnavailableError(f"{path} {reason}", hint)
    if code in (errno.EINVAL, errno.EISDIR) and isinstance(error, OSError) and error.strerror:
        return ArtefactError(f"{path} cannot be read: {error.strerror}", "give a file")
    if code is not None:
        return UnavailableError(f"{path} cannot be read: {os.strerror(code)}", _DRIVE)
    said = f" ({str(error)[:LONGEST_REASON]})" if str(error) else ""
    return ArtefactError(f"{path} cannot be opened as {what}: damaged, cut off, or another format{said}", remedy)


@contextlib.contextmanager
def understood(path: str | Path, remedy: str) -> Iterator[None]:
    """A stretch that takes apart what a file holds.

    :raises ArtefactError: the content is not of the form that the stretch expects.
    """
    try:
        yield
    except MISTAKEN as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtefactError(f"{path} does not hold what it should: {what[:LONGEST_REASON]}", remedy) from error


# Text.


def parse_json(text: str | bytes) -> Any:
    """JSON as plain values, whole numbers of up to 25 digits.

    :raises ValueError: not JSON, too deep, or a number that is too long.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def parse_csv(text: str, delimiter: str = ",") -> list[list[str]]:
    """The rows of a table.

    :raises ValueError: a cell that is too long, or has a null character.
    """
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(str(error)) from error


# Values.


@dataclass(frozen=True)
class Expected:
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def number(low: float, high: float) -> Expected:
    """A finite number, both bounds included."""
    return Expected(f"a number from {low:g} to {high:g}", lambda value: _is_number(value) and low <= value <= high)


def whole(low: int, high: int) -> Expected:
    """A whole number, both bounds included."""
    return Expected(
        f"a whole number from {low} to {high}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def listed(kind: Expected, most: int | None = None, count: int | None = None) -> Expected:
    """A list of values of a kind, of at most ``most`` or of just ``count`` of them."""

    def holds(value: Any) -> bool:
        right = isinstance(value, list | tuple) and (count is None or len(value) == count)
        return right and (most is None or len(value) <= most) and all(map(kind.holds, value))

    return Expected(f"a list{'' if count is None else f' of {count}'}, each {kind.words}", holds)


def one_of(*choices: Any) -> Expected:
    """One of several texts."""
    return Expected(f"one of {', '.join(map(str, choices))}", lambda value: isinstance(value, str) and value in choices)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Expected("text", lambda value: isinstance(value, str))
TEXTS = listed(TEXT)
MAPPING = Expected("a table", lambda value: isinstance(value, dict))


def typed(
    value: Any, kinds: Mapping[str, Expected], where: str, remedy: str, needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A table of plain values whose known entries are of their kinds; those that are absent or null are not looked at.

    :param needed: entries that must be there.
    :raises ArtefactError: it is none.
    """
    if not isinstance(value, dict):
        raise ArtefactError(f"{where} is {_spoken(value)}, not a table of values", remedy)
    for name in needed:
        if value.get(name) is None:
            raise ArtefactError(f"{where} has no {name}", remedy)
    for name, kind in kinds.items():
        entry = value.get(name)
        if entry is not None and not kind.holds(entry):
            raise ArtefactError(f"{where}: {name} is {_spoken(entry)}, not {kind.words}", remedy)
    return value


def is_valid_text(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON and names of files may hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts(value: Any, where: str, remedy: str) -> tuple[str, ...]:
    """A list of texts that can be written and drawn.

    :raises ArtefactError: it is not one.
    """
    if not TEXTS.holds(value) or not all(map(is_valid_text, value)):
        raise ArtefactError(f"{where} is {_spoken(value)}, not a list of texts", remedy)
    return tuple(value)


def json_in(attributes: Mapping[str, Any], name: str, path: Path) -> Any:
    """The JSON in an attribute of a file.

    :raises ArtefactError: it is no text, or not JSON.
    """
    text = attributes.get(name)
    try:
        return parse_json(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ArtefactError(f"{path}: the attribute '{name}' is not valid JSON: {error}", DAMAGED) from error


def texts_in(attributes: Mapping[str, Any], name: str, path: Path) -> tuple[str, ...]:
    """The list of texts in an attribute of a file; none where it is absent.

    :raises ArtefactError: it is something else.
    """
    if name not in attributes:
        return ()
    return texts(json_in(attributes, name, path), f"{path}: '{name}'", DAMAGED)


def _spoken(value: Any) -> str:
    try:
        said = repr(value)
    except (RecursionError, ValueError):
        said = type(value).__name__
    return said if len(said) <= 60 else f"{said[:57]}..."
