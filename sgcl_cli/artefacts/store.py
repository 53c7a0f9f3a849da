"""Atomic writing and checked reading of artefacts: HDF5, JSON and CSV.

Files are written with a temporary name in their folder, flushed to disk, checked, and renamed, so that a file with its final
name is complete. HDF5 files follow a ``Schema``, from which the checks at writing and reading and docs/artefacts.md derive. Sizes
that a file claims are not trusted.
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

from sgcl_cli.artefacts import reading
from sgcl_cli.errors import ArtefactError, LabelError, WriteError

TEXT = "text"
MAKE_AGAIN = "make it again with the command that wrote it, or get it again"
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # to a string, as stored by HDF5
_BLOCK = 2**26  # bytes
_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT,
)  # fmt: skip
_NOT_OURS = (
    ConnectionError,
    ChildProcessError,
    InterruptedError,
    TimeoutError,
)  # OSErrors that do not concern the file
_DAY = 86_400.0  # seconds
_DEPTH = 4  # levels of folders; TRIDENT's trees are the deepest
_TEMPORARY = re.compile(r"^\..+\..+-\d+\.tmp$")  # see temporary_name
_HEAP, _END = b"GCOL\x01\0\0\0", 2**20  # signature of a global heap; bytes searched at each end of a file
_LARGEST_INFLATION = 1100  # deflate expands its input by at most about 1032


@dataclass(frozen=True)
class Column:
    """A dataset of a schema.

    :ivar name: name of the dataset.
    :ivar dtypes: allowed data types; the first is written by default.
    :ivar shape: sizes as numbers, symbols ("N") or symbols plus a number ("N+1").
    :ivar meaning: description.
    :ivar required: whether it must be present.
    """

    name: str
    dtypes: tuple[str, ...]
    shape: tuple[str | int, ...]
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Attribute:
    """A root attribute of a schema.

    :ivar name: name of the attribute.
    :ivar kind: str, np.integer or np.floating.
    :ivar meaning: description.
    :ivar required: whether it must be present.
    """

    name: str
    kind: type
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Schema:
    """Schema of an HDF5 artefact: name, version, datasets and root attributes."""

    name: str
    version: int
    columns: tuple[Column, ...]
    attributes: tuple[Attribute, ...]

    @property
    def format(self) -> str:
        """Value of the root attribute ``format``, for example ``sgcl.patches/1``."""
        return f"{self.name}/{self.version}"

    def check(self, file: h5py.File, path: Path) -> None:
        """Check that a file follows the schema.

        :raises ArtefactError: another format or version, a missing or invalid dataset or attribute.
        """
        attributes = attributes_of(file, path)
        found = attributes.get("format")
        if found != self.format:
            what = f"its format is {found!r}" if found is not None else "it has no format"
            raise ArtefactError(
                f"{path} is not {self.format}: {what}", "give a file written by this version of sgcl, or make it again"
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
    str: ("a string", (str,)),
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
    """Open an HDF5 file for reading, after checks for damage and forged sizes and, if given, of its schema.

    :raises ArtefactError: missing, damaged, with links to other files, with claimed sizes beyond that of the file, or not
        following the schema.
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
            raise ArtefactError(f"{path} does not fit into memory", "use a larger machine") from error
        except (OSError, RuntimeError, *reading.MISTAKEN) as error:
            if reading.code_of(error) is not None:
                raise reading.unreadable(path, error, "HDF5", MAKE_AGAIN) from error
            reason = str(error)[: reading.LONGEST_REASON]
            raise ArtefactError(f"{path} is damaged: {reason}", MAKE_AGAIN) from error


def _refuse_endless(path: Path) -> None:
    """Check the heaps of strings at both ends of a file: HDF5 does not return from a heap with an entry of length 0.

    Files of sgcl have their heaps at the beginning. Source: HDF5 File Format Specification, global heap.
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
    """Check the entries of a heap: index, references, reserved, length and data; index 0 is free space, including its header."""
    at, size = 16, int.from_bytes(data[8:16], "little")
    while at + 16 <= min(size, len(data)):
        index, length = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 8 : at + 16], "little")
        step = length if index == 0 else 16 + (length + 7) // 8 * 8
        if not 16 <= step <= size - at:
            raise ArtefactError(f"{path} is damaged: a string in it has a length of {length}", MAKE_AGAIN)
        at += step


def _refuse_deceit(file: h5py.File, path: Path, file_size: int) -> None:
    """Check every object of a file once, also if groups contain each other."""
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ArtefactError(f"{path}: '{name}' is a link", "links in HDF5 files are refused")
            member = group[name]
            if isinstance(member, h5py.Group):
                groups.append(member)
            elif isinstance(member, h5py.Dataset):
                _refuse_claims(member, name, path, file_size)


def _refuse_claims(data: h5py.Dataset, name: str, path: Path, file_size: int) -> None:
    if data.is_virtual or data.external:
        raise ArtefactError(f"{path}: '{name}' has its data in other files", "such datasets are refused")
    claimed, stored = math.prod(data.shape or (0,)) * data.dtype.itemsize, data.id.get_storage_size()
    limit = stored if data.chunks is None else stored * _LARGEST_INFLATION
    if stored > file_size or claimed > limit:
        raise ArtefactError(
            f"{path}: '{name}' claims {claimed} bytes, but {stored} are stored",
            "the file is damaged or forged",
        )


def attributes_of(holder: Any, path: Path) -> dict[str, Any]:
    """The attributes of a group or dataset: numbers, arrays of numbers and single strings.

    Others are left out: arrays of strings, which could all refer to one long string, and values of variable length that are not
    strings, because HDF5 2.0 crashes while reading one with a damaged type.

    :raises ArtefactError: strings that are together longer than the file.
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
            raise ArtefactError(f"{path}: its attributes claim more bytes than the file has", MAKE_AGAIN)
        if not isinstance(value, h5py.Empty):
            found[name] = value
    return found


def texts_of(data: h5py.Dataset, path: Path) -> list[str]:
    """Read a column of strings, after a check of their lengths, since many could refer to one long string.

    :raises ArtefactError: not strings, or together longer than the file.
    """
    kind = h5py.check_string_dtype(data.dtype)
    if kind is None or data.ndim != 1:
        raise ArtefactError(f"{path}: '{data.name}' is {data.dtype} {data.shape}, not strings (N,)", MAKE_AGAIN)
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


def fill(file: h5py.File, schema: Schema, columns: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write columns and root attributes to an open file; those that are None are left out."""
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
    """A string that can be encoded as UTF-8: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def verify(path: Path, schema: Schema) -> None:
    """Check a file that was just written; a failure is a bug or a fault of the disk."""
    with opened(path, schema):
        pass


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``, otherwise removed.

    :raises WriteError: the folder is not writable, or the disk is full.
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
        with contextlib.suppress(NotADirectoryError):  # a parent is a file, as reported by writing()
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Translate errors of the operating system while ``path`` is written.

    :raises WriteError: disk full, no permission, not a folder, name too long, file too large, a failing disk.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 and torch raise RuntimeError for some
        code = reading.code_of(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise WriteError(
                f"the disk is full while writing {path}",
                "free space and run the same command again; finished files are kept",
            ) from error
        if code == errno.EFBIG:
            raise WriteError(
                f"{path} is larger than the system allows a file to be",
                "check ulimit -f and the largest file size of the file system",
            ) from error
        if code in _REFUSALS:
            raise WriteError(
                f"cannot write {path}: {os.strerror(code)}", "choose a writable folder with --out"
            ) from error
        if code is None or isinstance(error, _NOT_OURS):
            raise
        raise WriteError(
            f"cannot write {path}: {os.strerror(code)}",
            "check the disk or the network drive, and run the same command again; finished files are kept",
        ) from error


def temporary_name(path: Path) -> Path:
    """Temporary name of ``path``: hidden, in the same folder, with the host and process id."""
    name = path.name.encode()[-100:].decode(errors="ignore")
    return path.with_name(f".{name}.{socket.gethostname()}-{os.getpid()}.tmp")


def sweep(out: str | Path) -> None:
    """Remove the temporary files of dead processes from an output folder and its subfolders.

    Whether processes of other hosts are alive is unknown, so their files are removed after a day without a change.
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
    """Identity of an artefact: a hash of its format, the settings that affect it and the ids of its sources."""
    text = json.dumps([kind, dict(config), list(sources)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) atomically.

    File names that are not UTF-8 are escaped; JSON reads them back.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    :raises ArtefactError: missing, not JSON, nested too deeply, or with numbers that are too long.
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
    """Write a table atomically. None is an empty cell; text that a spreadsheet would run as a formula gets an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_text(path, buffer.getvalue())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a table written by ``write_csv``; cells are strings.

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
    """Read a user's table, separated by commas, semicolons or tabs, with or without a byte-order mark.

    :returns: one mapping per non-empty row: column names in lower case, cells as strings, both stripped.
    :raises LabelError: missing, not text, without a header or a required column, or with a row of another length.
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
                "quote cells that contain the separator",
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
