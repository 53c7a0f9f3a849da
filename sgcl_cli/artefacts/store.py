"""The laws of every artefact: whole or absent, checked against one schema, never trusting what a file claims.

Files are written under a temporary name in their own folder, flushed to disk, checked, and renamed: a file that has its
final name is complete. HDF5 files follow a ``Schema``; the check at write, the check at read and docs/artefacts.md come from it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from sgcl_cli.artefacts import hdf5, reading
from sgcl_cli.errors import ArtefactError, LabelError, WriteError

TEXT = "text"
MAKE_AGAIN = "make it again with the command that wrote it, or get it again"
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # of a text, as HDF5 stores it
_BLOCK = 2**26  # bytes
_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT,
)  # fmt: skip
_NOT_OURS = (ConnectionError, ChildProcessError, InterruptedError, TimeoutError)
_DAY = 86_400.0  # seconds
_DEPTH = 4  # folders: TRIDENT's trees are the deepest
_TEMPORARY = re.compile(r"^\..+\..+-\d+\.tmp$")  # see temporary_name
_HEAP, _END = b"GCOL\x01\0\0\0", 2**20
_LARGEST_INFLATION = 1100  # deflate cannot expand its input further than about 1032 times


@dataclass(frozen=True)
class Column:
    """One dataset: its dtypes (the first is written by default), its shape in numbers and symbols, its meaning."""

    name: str
    dtypes: tuple[str, ...]
    shape: tuple[str | int, ...]
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Attribute:
    """One attribute of the file's root."""

    name: str
    kind: type
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Schema:
    """An HDF5 artefact: name, version, columns and root attributes."""

    name: str
    version: int
    columns: tuple[Column, ...]
    attributes: tuple[Attribute, ...]

    @property
    def format(self) -> str:
        """What stands in the root attribute ``format``, for example ``sgcl.patches/1``."""
        return f"{self.name}/{self.version}"

    def check(self, file: h5py.File, path: Path) -> None:
        """Refuse a file that breaks the schema.

        :raises ArtefactError: another format or version, a missing or ill-shaped column, a missing attribute.
        """
        attributes = attributes_of(file, path)
        found = attributes.get("format")
        if found != self.format:
            what = f"its format is {found!r}" if found is not None else "it has no format"
            raise ArtefactError(
                f"{path} is not {self.format}: {what}", "give a file that this version of sgcl wrote, or make it again"
            )
        for attribute in self.attributes:
            if attribute.name not in attributes:
                if attribute.required:
                    raise ArtefactError(f"{path} lacks the attribute '{attribute.name}'", "make the file again")
                continue
            words, kinds = _KINDS[attribute.kind]
            value = attributes[attribute.name]
            if not isinstance(value, kinds) or not (attribute.kind is str or math.isfinite(cast(float, value))):
                raise ArtefactError(f"{path}: the attribute '{attribute.name}' is not {words}", "make the file again")
        sizes: dict[str, int] = {}
        for column in self.columns:
            if column.name in file:
                _check_column(column, file[column.name], sizes, path)
            elif column.required:
                raise ArtefactError(f"{path} lacks the dataset '{column.name}'", "make the file again")


_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    str: ("text", (str,)),
    np.integer: ("a whole number", (np.integer,)),
    np.floating: ("a number", (np.floating, np.integer)),
}


def _check_column(column: Column, data: Any, sizes: dict[str, int], path: Path) -> None:
    where = f"{path}: dataset '{column.name}'"
    if not isinstance(data, h5py.Dataset):
        raise ArtefactError(f"{where} is not a dataset", "make the file again")
    dtype = TEXT if h5py.check_string_dtype(data.dtype) else data.dtype.name
    if dtype not in column.dtypes:
        raise ArtefactError(f"{where} is {dtype}, not {' or '.join(column.dtypes)}", "make the file again")
    expected = "(" + ", ".join(map(str, column.shape)) + ")"
    if data.ndim != len(column.shape):
        raise ArtefactError(f"{where} has shape {data.shape}, not {expected}", "make the file again")
    for length, symbol in zip(data.shape, column.shape, strict=True):
        if isinstance(symbol, int):
            right = length == symbol
        else:
            base, _, plus = symbol.partition("+")
            right = sizes.setdefault(base, length - int(plus or 0)) + int(plus or 0) == length
        if not right:
            raise ArtefactError(f"{where} has shape {data.shape}, not {expected}", "make the file again")


@contextlib.contextmanager
def opened(path: str | Path, schema: Schema | None = None) -> Iterator[h5py.File]:
    """An HDF5 file for reading, after the checks for damage and deceit and, where given, of its schema.

    :raises ArtefactError: missing, damaged, with links out of the file, with claims beyond its size, or against the schema.
    """
    path = Path(path)
    try:
        _refuse_endless(reading.plain(path))
        file = h5py.File(path, "r")
    except OSError as error:
        raise reading.unreadable(path, error, "HDF5", MAKE_AGAIN) from error
    with file:
        try:
            _refuse_deceit(file, path, path.stat().st_size)
            if schema is not None:
                schema.check(file, path)
            yield file
        except MemoryError as error:
            raise ArtefactError(f"{path} holds more than fits into memory", "use a larger machine") from error
        except (OSError, RuntimeError, *reading.MISTAKEN) as error:
            if reading.code_of(error) is not None:
                raise reading.unreadable(path, error, "HDF5", MAKE_AGAIN) from error
            said = str(error)[: reading.LONGEST_REASON]
            raise ArtefactError(f"{path} is damaged: {said}", MAKE_AGAIN) from error


def _refuse_endless(path: Path) -> None:
    """Look through the heaps of texts at both ends of a file: HDF5 never comes back from one with an entry without length.

    Files of ours have their heaps at the beginning. Source: HDF5 File Format Specification, global heap.
    """
    with path.open("rb") as file:
        ends = [file.read(_END)]
        size = file.seek(0, os.SEEK_END)
        if size > _END:
            file.seek(max(_END, size - _END))
            ends.append(file.read(_END))
    for data in ends:
        start = data.find(_HEAP)
        while start >= 0:
            _walk_heap(data[start:], path)
            start = data.find(_HEAP, start + 1)


def _walk_heap(data: bytes, path: Path) -> None:
    """Entries are of two numbers, a reserved one and a length; number 0 is what is left free, whose length counts all of it."""
    at, size = 16, int.from_bytes(data[8:16], "little")
    while at + 16 <= min(size, len(data)):
        index, length = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 8 : at + 16], "little")
        step = length if index == 0 else 16 + (length + 7) // 8 * 8
        if not 16 <= step <= size - at:
            raise ArtefactError(f"{path} is damaged: a text in it has a length of {length}", MAKE_AGAIN)
        at += step


def _refuse_deceit(file: h5py.File, path: Path, file_size: int) -> None:
    """Look at every object once, also where groups hold each other."""
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ArtefactError(f"{path}: '{name}' is a link to elsewhere", "links in HDF5 files are refused")
            member = group[name]
            if isinstance(member, h5py.Group):
                groups.append(member)
            elif isinstance(member, h5py.Dataset):
                _refuse_claims(member, name, path, file_size)


def _refuse_claims(data: h5py.Dataset, name: str, path: Path, file_size: int) -> None:
    if data.is_virtual or data.external:
        raise ArtefactError(f"{path}: '{name}' keeps its data in other files", "such datasets are refused")
    claimed, stored = math.prod(data.shape or (0,)) * data.dtype.itemsize, data.id.get_storage_size()
    limit = stored if data.chunks is None else stored * _LARGEST_INFLATION
    if stored > file_size or claimed > limit:
        raise ArtefactError(
            f"{path}: '{name}' claims {claimed} bytes where {stored} are stored",
            "the file is damaged or forged",
        )


def attributes_of(holder: Any, path: Path) -> dict[str, Any]:
    """The attributes of a group or dataset: numbers, arrays of numbers and single texts.

    Others are left out: arrays of texts, all of which could be one long text, and values of variable length that are no texts;
    HDF5 2.0 crashes while it reads one whose kind is damaged.

    :raises ArtefactError: texts that are together longer than the file.
    """
    found: dict[str, Any] = {}
    room = path.stat().st_size
    for name in holder.attrs:
        stored = holder.attrs.get_id(name)
        if stored.dtype.hasobject and (stored.shape != () or h5py.check_string_dtype(stored.dtype) is None):
            continue
        if math.prod(stored.shape or (0,) if stored.shape != () else ()) * stored.dtype.itemsize > room:
            raise ArtefactError(f"{path}: the attribute '{name}' claims more than the file has", MAKE_AGAIN)
        value = holder.attrs[name]
        room -= len(value) if isinstance(value, str) else 0
        if room < 0:
            raise ArtefactError(f"{path}: its attributes claim more text than the file has", MAKE_AGAIN)
        if not isinstance(value, h5py.Empty):
            found[name] = value
    return found


def texts_of(data: h5py.Dataset, path: Path) -> list[str]:
    """A column of texts, after a look at their lengths: many could refer to one long text.

    :raises ArtefactError: they are not texts, or together longer than the file.
    """
    kind = h5py.check_string_dtype(data.dtype)
    if kind is None or data.ndim != 1:
        raise ArtefactError(f"{path}: '{data.name}' is {data.dtype} {data.shape}, not texts (N,)", MAKE_AGAIN)
    if kind.length is not None or not data.size:
        return list(data.asstr()[:])
    room = path.stat().st_size
    offset = data.id.get_offset()
    if offset is not None and data.file.id.get_create_plist().get_sizes()[0] == 8:
        lengths = np.fromfile(path, _REFERENCE, data.size, offset=offset)["length"]
        if int(lengths.sum(dtype=np.uint64)) > room:
            raise ArtefactError(f"{path}: '{data.name}' claims more text than the file has", MAKE_AGAIN)
        return list(data.asstr()[:])
    found: list[str] = []
    step = max(1, _BLOCK // max(1, room))
    for start in range(0, data.size, step):
        found.extend(data.asstr()[start : start + step])
        room -= sum(map(len, found[start:]))
        if room < 0:
            raise ArtefactError(f"{path}: '{data.name}' claims more text than the file has", MAKE_AGAIN)
    return found


def write_h5(path: str | Path, schema: Schema, columns: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write one HDF5 artefact, whole or not at all. Columns are contiguous; see ``atomic`` for the errors."""
    with atomic(path) as temporary:
        with hdf5.created(temporary) as file:
            fill(file, schema, columns, attributes)
        verify(temporary, schema)


def fill(file: h5py.File, schema: Schema, columns: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Put columns and root attributes into an open file."""
    root = file.attrs
    root["format"] = schema.format
    for name, value in attributes.items():
        if value is not None:
            root[name] = escaped(value) if isinstance(value, str) else value
    known = {column.name: column for column in schema.columns}
    for name, value in columns.items():
        if value is None:
            continue
        if known[name].dtypes == (TEXT,):
            file.create_dataset(name, data=np.asarray(value, dtype=object), dtype=h5py.string_dtype())
        else:
            array = np.asarray(value)
            dtype = array.dtype if array.dtype.name in known[name].dtypes else np.dtype(known[name].dtypes[0])
            file.create_dataset(name, data=array.astype(dtype, copy=False))


def escaped(text: str) -> str:
    """A text as UTF-8 can hold it: of a name of a file that is not UTF-8 the odd bytes as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def verify(path: Path, schema: Schema) -> None:
    """Check a file just written; a failure here is a defect of ours or of the disk."""
    with opened(path, schema):
        pass


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on a clean exit it is flushed to disk and takes the final name, else it is removed.

    :raises WriteError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(NotADirectoryError):  # a file where a folder should be, which writing() has reported
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Translate what the operating system says about writing ``path``.

    :raises WriteError: disk full, no permission, not a folder, name too long, file too large, a failing disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # a RuntimeError is how HDF5 and torch tell of some
        code = reading.code_of(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise WriteError(
                f"the disk is full while writing {path}",
                "free space and run the same command again; what is finished stays",
            ) from error
        if code == errno.EFBIG:
            raise WriteError(
                f"{path} is larger than the system allows a file to be",
                "see ulimit -f, and whether the file system takes files of this size",
            ) from error
        if code in _REFUSALS:
            raise WriteError(
                f"cannot write {path}: {os.strerror(code)}", "choose a folder that you may write to with --out"
            ) from error
        if code is None or isinstance(error, _NOT_OURS):
            raise
        raise WriteError(
            f"cannot write {path}: {os.strerror(code)}",
            "look at the disk or the network drive, and run the same command again; what is finished stays",
        ) from error


def temporary_name(path: Path) -> Path:
    """Where ``path`` is written before it has its name: hidden, in the same folder, told apart by host and process."""
    name = path.name.encode()[-100:].decode(errors="ignore")
    return path.with_name(f".{name}.{socket.gethostname()}-{os.getpid()}.tmp")


def sweep(out: str | Path) -> None:
    """Remove the temporary files that dead processes left in an output, wherever in it they are.

    Of another host nobody can tell whether its processes live, so its files go when they have not changed for a day.
    """
    mark, yesterday = f".{socket.gethostname()}-", time.time() - _DAY
    for leftover in _temporary(Path(out)):
        _, found, process = leftover.name.removesuffix(".tmp").rpartition(mark)
        with contextlib.suppress(OSError):
            if found and process.isdecimal():
                gone = len(process) > 9 or not _alive(int(process))
            else:
                gone = leftover.stat().st_mtime < yesterday
            if gone:
                leftover.unlink()


def _temporary(out: Path) -> Iterator[Path]:
    for depth in range(_DEPTH):
        yield from (path for path in out.glob("*/" * depth + ".*.tmp") if _TEMPORARY.search(path.name))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def artefact_id(kind: str, config: Mapping[str, Any], sources: Sequence[str]) -> str:
    """The identity of an artefact: a hash of its format, the settings that affect it and the ids of its sources."""
    text = json.dumps([kind, dict(config), list(sources)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a whole file, as hexadecimal text."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all.

    Names of files that are not UTF-8 are written as escapes, which JSON reads back.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a binary file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    :raises ArtefactError: missing, not JSON, too deep, or with numbers that are too long.
    """
    try:
        text = reading.plain(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise reading.unreadable(path, error, "JSON", MAKE_AGAIN) from error
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path} is not readable JSON: {error}", MAKE_AGAIN) from error
    try:
        return reading.parse_json(text)
    except ValueError as error:
        raise ArtefactError(f"{path} is not readable JSON: {error}", MAKE_AGAIN) from error


_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; None is empty. Text that a spreadsheet would run as a formula is quoted with an apostrophe; no number is."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_text(path, buffer.getvalue())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a table that ``write_csv`` wrote: cells as text, the case of names kept.

    :raises ArtefactError: missing, or not such a table.
    """
    try:
        header, *rows = reading.parse_csv(reading.plain(path).read_text(encoding="utf-8")) or [[]]
    except OSError as error:
        raise reading.unreadable(path, error, "a table", MAKE_AGAIN) from error
    except ValueError as error:
        raise ArtefactError(f"cannot read {path}: {error}", "make it again") from error
    if any(len(row) != len(header) for row in rows):
        raise ArtefactError(f"{path} has rows of another length than its header", "the file is damaged; make it again")
    return [dict(zip(header, map(_unquoted, row), strict=True)) for row in rows]


def read_table(path: str | Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a user's table: comma, semicolon or tab separated, with or without a byte-order mark; all cells are text.

    Returns one mapping per non-empty row, header names stripped and in lower case, cells stripped.

    :raises LabelError: missing, not text, without header or a required column, or with a row of another length.
    """
    try:
        text = reading.plain(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelError(f"cannot read the table {path}: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"the table {path} is not UTF-8 text", "save it as CSV UTF-8") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in reading.parse_csv(text, delimiter) if any(cell.strip() for cell in line)]
    except ValueError as error:
        raise LabelError(
            f"the table {path} cannot be read: {error}", "save it as CSV UTF-8, with short cells"
        ) from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    for name in required:
        if name not in header:
            found = ", ".join(header) or "an empty file"
            raise LabelError(
                f"the table {path} has no column '{name}' (found: {found})",
                f"its first line must name: {', '.join(required)}",
            )
    if len(set(header)) < len(header):
        raise LabelError(f"the table {path} names a column twice: {', '.join(header)}", "rename one of them")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise LabelError(
                f"{path}, row {number} has {len(line)} cells, the header has {len(header)}",
                "quote cells that hold the separator",
            )
        rows.append({name: _unquoted(cell.strip()) for name, cell in zip(header, line, strict=True)})
    return rows


def _cell(value: Any) -> Any:
    runs = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return "'" + value if runs and not _NUMBER.fullmatch(value) else value


def _unquoted(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("=", "+", "-", "@") else cell


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
