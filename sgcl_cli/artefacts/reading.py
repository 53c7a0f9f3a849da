"""Reading of untrusted files: checks of the file type and of parsed values, and the reasons why a file cannot be read.

Only regular files are opened, and numbers and strings are checked before use. Errors of the operating system are distinguished
from damage, so that users do not delete a file that is only in use by another program.
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
LONGEST_REASON = 200  # most characters of a library's message
_MOST_DIGITS = 25
_LOCKS = "close the program that has it open; on a network drive set HDF5_USE_FILE_LOCKING=FALSE; do not delete it"
_DRIVE = "the file itself may be intact: check the disk or the network drive, and run the command again"
_REASONS = {
    errno.EAGAIN: ("is in use by another program, or its file system refuses locks", _LOCKS),
    errno.ENOLCK: ("cannot be locked on this file system", _LOCKS),
    errno.ENOSYS: ("cannot be locked on this file system", _LOCKS),
    errno.ENOTSUP: ("cannot be locked on this file system", _LOCKS),
    errno.EACCES: ("cannot be read: permission denied", "ask its owner for permission to read it"),
    errno.EPERM: ("cannot be read: operation not permitted", "ask its owner for permission to read it"),
    errno.EMFILE: ("cannot be opened: this process has too many files open", "raise the limit with ulimit -n"),
    errno.ENFILE: ("cannot be opened: this machine has too many files open", "close other programs, and try again"),
    errno.EIO: ("cannot be read: the disk reports an input/output error", _DRIVE),
    errno.ESTALE: ("cannot be read: the network drive lost it (stale file handle)", _DRIVE),
    errno.ENOMEM: ("cannot be read: there is not enough memory", "close other programs, or use a larger machine"),
}
# Exceptions that can be raised while a value of unexpected form is interpreted.
MISTAKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, AssertionError)


def plain(path: str | Path) -> Path:
    """Return the path of a regular file, so that opening it neither blocks nor reads without end.

    :raises OSError: absent, or a folder, FIFO, device or socket.
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
    """Error number of the operating system, also if a library gives it only in its message."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    if "No space left" in str(error):
        return errno.ENOSPC
    found = re.search(r"errno = (\d+)", str(error))
    return None if found is None else int(found[1])


def unreadable(path: str | Path, error: BaseException, what: str, remedy: str) -> ArtefactError:
    """The error for a file that cannot be read: the reason of the operating system, or else a damaged file.

    :param what: the expected format, such as "HDF5" or "a table".
    :param remedy: hint for a damaged file.
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
    reason = f" ({str(error)[:LONGEST_REASON]})" if str(error) else ""
    return ArtefactError(f"{path} cannot be opened as {what}: damaged, cut off, or another format{reason}", remedy)


@contextlib.contextmanager
def understood(path: str | Path, remedy: str) -> Iterator[None]:
    """Context for code that interprets the content of a file.

    :raises ArtefactError: the content does not have the form that the code expects.
    """
    try:
        yield
    except MISTAKEN as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtefactError(f"{path} has an unexpected content: {what[:LONGEST_REASON]}", remedy) from error


# Text.


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, with integers of up to 25 digits.

    :raises ValueError: not JSON, nested too deeply, or an integer that is too long.
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
    """Parse the rows of a table.

    :raises ValueError: a cell is too long or contains a null character.
    """
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(str(error)) from error


# Values.


@dataclass(frozen=True)
class Expected:
    """A condition on a value.

    :ivar words: description for messages.
    :ivar holds: whether a value meets it.
    """

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
    """A list of values of one kind, with at most ``most`` or exactly ``count`` of them."""

    def holds(value: Any) -> bool:
        right = isinstance(value, list | tuple) and (count is None or len(value) == count)
        return right and (most is None or len(value) <= most) and all(map(kind.holds, value))

    return Expected(f"a list{'' if count is None else f' of {count}'}, each {kind.words}", holds)


def one_of(*choices: Any) -> Expected:
    """One of several strings."""
    return Expected(f"one of {', '.join(map(str, choices))}", lambda value: isinstance(value, str) and value in choices)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Expected("a string", lambda value: isinstance(value, str))
TEXTS = listed(TEXT)
MAPPING = Expected("a table", lambda value: isinstance(value, dict))


def typed(
    value: Any, kinds: Mapping[str, Expected], where: str, remedy: str, needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check the entries of a table of plain values; absent and null entries are not checked.

    :param kinds: name of an entry -> its condition.
    :param where: description of the table for messages.
    :param needed: entries that must not be absent.
    :returns: ``value``.
    :raises ArtefactError: not a table, or an entry is missing or does not meet its condition.
    """
    if not isinstance(value, dict):
        raise ArtefactError(f"{where} is {_described(value)}, not a table of values", remedy)
    for name in needed:
        if value.get(name) is None:
            raise ArtefactError(f"{where} has no {name}", remedy)
    for name, kind in kinds.items():
        entry = value.get(name)
        if entry is not None and not kind.holds(entry):
            raise ArtefactError(f"{where}: {name} is {_described(entry)}, not {kind.words}", remedy)
    return value


def is_valid_text(text: str) -> bool:
    """Whether a string can be encoded as UTF-8; strings from JSON and file names may contain lone surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts(value: Any, where: str, remedy: str) -> tuple[str, ...]:
    """Check a list of strings that can be encoded as UTF-8.

    :raises ArtefactError: not such a list.
    """
    if not TEXTS.holds(value) or not all(map(is_valid_text, value)):
        raise ArtefactError(f"{where} is {_described(value)}, not a list of strings", remedy)
    return tuple(value)


def json_in(attributes: Mapping[str, Any], name: str, path: Path) -> Any:
    """Parse JSON in an attribute of a file.

    :raises ArtefactError: not a string, or not JSON.
    """
    text = attributes.get(name)
    try:
        return parse_json(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ArtefactError(f"{path}: the attribute '{name}' is not valid JSON: {error}", DAMAGED) from error


def texts_in(attributes: Mapping[str, Any], name: str, path: Path) -> tuple[str, ...]:
    """Parse a list of strings in an attribute of a file; empty if absent.

    :raises ArtefactError: not a list of strings.
    """
    if name not in attributes:
        return ()
    return texts(json_in(attributes, name, path), f"{path}: '{name}'", DAMAGED)


def _described(value: Any) -> str:
    try:
        shown = repr(value)
    except (RecursionError, ValueError):
        shown = type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
