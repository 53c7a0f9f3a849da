"""All files of a slide, and its identity, which is computed from them.

MIRAX stores pixels in a folder beside the .mrxs file, which may be identical for many slides; VMS and VMU of Hamamatsu list image
files beside them. A DICOM series is found by its UID (``discover``).
Sources: https://openslide.org/formats/mirax/ and https://openslide.org/formats/hamamatsu/.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from sgcl_cli.artefacts import reading
from sgcl_cli.errors import SlideError

_MIB = 2**20
_LARGEST_TABLE = 2**20  # bytes
_ZARR = ".zarr"
_DESCRIBING = (
    ".zattrs",
    ".zgroup",
    ".zarray",
    ".zmetadata",
    "zarr.json",
)  # files of metadata in a Zarr folder; the others are chunks


def is_folder(path: Path) -> bool:
    """Whether a slide is a folder, as OME-Zarr is."""
    return path.suffix.lower() == _ZARR and path.is_dir()


def companions(path: Path) -> tuple[Path, ...]:
    """The other files of a MIRAX, VMS or VMU slide, sorted: existing ones for MIRAX, all that are listed for VMS and VMU."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return tuple(sorted(file for file in folder.rglob("*") if file.is_file())) if folder.is_dir() else ()
    if suffix in (".vms", ".vmu"):
        return tuple(sorted({path.parent / name for name in _named_in(path)}))
    return ()


def identity(path: Path, further: Sequence[Path] = ()) -> str:
    """The identity of a slide, ``<bytes>-<hex>``: its size, and the sha256 of its first and last MiB.

    Of a slide with several files, the total size and the sha256 of the identities of all files, with the names of those listed by
    ``companions``. Of a folder (OME-Zarr), the total size and the sha256 of names and sizes of all files and of the metadata.

    :param further: the other files of a DICOM series.
    :raises SlideError: a file cannot be read.
    """
    if is_folder(path):
        return _of_folder(path)
    implied = companions(path)
    if not further and not implied:
        return _of_file(path)
    parts = sorted(_of_file(part) for part in (path, *further))
    parts += [f"{file.relative_to(path.parent)} {_of_file(file) if file.exists() else '0-absent'}" for file in implied]
    total = sum(int(part.rpartition(" ")[2].partition("-")[0]) for part in parts)
    return f"{total}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"


def _of_file(path: Path) -> str:
    try:
        with reading.plain(path).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(stream.read(_MIB))
            stream.seek(max(0, size - _MIB))
            digest.update(stream.read(_MIB))
    except OSError as error:
        raise SlideError(
            f"{path.name} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    return f"{size}-{digest.hexdigest()}"


def _of_folder(path: Path) -> str:
    digest, total = hashlib.sha256(), 0
    try:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            size = file.stat().st_size
            total += size
            digest.update(f"{file.relative_to(path).as_posix()} {size}\n".encode())
            if file.name in _DESCRIBING:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise SlideError(
            f"{path.name} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    return f"{total}-{digest.hexdigest()}"


def check_readable(path: Path) -> None:
    """Check that a file exists and that permissions allow to read it.

    :raises SlideError: it cannot be opened.
    """
    if is_folder(path):
        return
    try:
        with reading.plain(path).open("rb"):
            pass
    except OSError as error:
        raise SlideError(
            f"{path.name} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error


def _named_in(path: Path) -> list[str]:
    """File names among the values of lines ``key=value``, without those that lead out of the folder."""
    try:
        with reading.plain(path).open("rb") as stream:
            lines = stream.read(_LARGEST_TABLE).decode("latin-1").splitlines()
    except OSError:
        return []
    values = (line.partition("=")[2].strip() for line in lines if _is_file_key(line.partition("=")[0]))
    return [value for value in values if value and "/" not in value and "\\" not in value and value not in (".", "..")]


def _is_file_key(key: str) -> bool:
    """``ImageFile``, ``ImageFile(1,0)``, ``MapFile``, ``OptimisationFile``, ``MacroImage``."""
    plain = key.strip().lower().partition("(")[0]
    return plain.endswith("file") or plain == "macroimage"
