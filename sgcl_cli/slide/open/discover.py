"""Discovery of slides and their ids.

Slides are given as files, found in folders, or listed in a table. Ids are assigned on the full list before any slide is opened:
the file's stem, slide_id of the table, or the relative path.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from sgcl_cli.artefacts import names, store
from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.config import choices
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.slide.numbers import decimal
from sgcl_cli.slide.open.files import is_folder
from sgcl_cli.slide.tissue.tissue import Choice, Ink

# https://openslide.org/formats/
EXTENSIONS = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi")
_COLUMNS = ("path", "slide_id", "mpp", "tissue", "ink", "min_area", "max_hole")  # of a table
_SHOWN = 5

IdFrom = choices.IdFrom


@dataclass(frozen=True)
class Entry:
    """One slide of the cohort; fields from ``mpp`` on, but for ``further``, are None unless the table gives them.

    :ivar slide_id: name of the slide in every output.
    :ivar path: the file.
    :ivar name: path relative to the folder or table that names the slide, as written to records.
    :ivar mpp: resolution of level 0, µm per pixel.
    :ivar further: the other files of the DICOM series in the same folder.
    :ivar tissue: preset of tissue detection.
    :ivar ink: whether ink is detected.
    :ivar min_area: smallest piece of tissue, µm².
    :ivar max_hole: largest hole that is filled, µm².
    """

    slide_id: str
    path: Path
    name: str
    mpp: float | None = None
    further: tuple[Path, ...] = ()
    tissue: Choice | None = None
    ink: Ink | None = None
    min_area: float | None = None
    max_hole: float | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Settings that the table gives for this slide, by column; None for an empty cell."""
        return {name: getattr(self, name) for name in ("mpp", "tissue", "ink", "min_area", "max_hole")}


@dataclass(frozen=True)
class FoundSlides:
    """The slides of a cohort.

    :ivar passed_over: one line with the number of files that were skipped, by kind; "" if there are none.
    :ivar unused: one line with the columns of the table that have no meaning here; "" if there are none.
    """

    entries: tuple[Entry, ...]
    passed_over: str
    unused: str = ""


def discover(
    inputs: Sequence[Path],
    table: Path | None,
    id_from: IdFrom,
    series_of: Callable[[list[Path]], list[str | None]],
) -> FoundSlides:
    """All slides in files, folders and a table, each once, with their ids.

    :param series_of: returns the SeriesInstanceUID of each file, None for a file that is not a DICOM slide.
    :raises ConfigError: a path does not exist, no slide is found, ids collide or are invalid, the table is invalid.
    """
    passed: Counter[str] = Counter()
    entries = [entry for given in inputs for entry in _from_path(given, id_from, passed)]
    unused = ""
    if table is not None:
        rows = _rows(table)
        entries += _from_rows(rows, table, id_from)
        unused = _unused(rows)
    entries = _one_per_series(_once(entries, passed), series_of, passed)
    if not entries:
        raise ConfigError(
            "no slides found" + (f"; {_summary(passed)}" if passed.total() else ""),
            "give slide files, folders that hold some, or --list; looked for " + " ".join(EXTENSIONS),
        )
    for entry in entries:
        _check_id(entry)
    _check_collisions(entries)
    return FoundSlides(tuple(entries), _summary(passed) if passed.total() else "", unused)


def _from_path(given: Path, id_from: IdFrom, passed: Counter[str]) -> Iterator[Entry]:
    if is_folder(given):
        yield _named(given, Path(given.name), id_from)
    elif given.is_dir():
        for path in _walk(given, passed):
            yield _named(path, path.relative_to(given), id_from)
    elif given.exists():
        yield _named(given, Path(given.name), id_from)
    else:
        raise ConfigError(f"no such file or folder: {given}", "check the path")


def _named(path: Path, relative: Path, id_from: IdFrom) -> Entry:
    stem = path.stem.removesuffix(".ome") if is_folder(path) else path.stem
    slide_id = stem if id_from == "stem" else "__".join(relative.parts)
    return Entry(slide_id, path, relative.as_posix())


def _walk(folder: Path, passed: Counter[str]) -> Iterator[Path]:
    """Files with a slide's extension, sorted; links are followed, but no folder is entered twice."""

    def closed(_: OSError) -> None:
        passed["unreadable folder"] += 1

    entered: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=closed):
        here = Path(root)
        status = here.stat()
        node = status.st_dev, status.st_ino
        if node in entered or _is_our_output(here):
            passed["folder entered before" if node in entered else "output of sgcl"] += 1
            folders.clear()
            continue
        entered.add(node)
        passed["hidden"] += sum(name.startswith(".") for name in [*folders, *files])
        shown = sorted(name for name in folders if not name.startswith("."))
        yield from (here / name for name in shown if is_folder(here / name))
        folders[:] = [name for name in shown if not is_folder(here / name)]
        for name in sorted(files):
            path = here / name
            if name.startswith("."):
                continue
            if _is_mask(path, files):
                passed["mask beside its slide"] += 1
            elif path.suffix.lower() in EXTENSIONS:
                yield path
            else:
                passed[path.suffix.lower() or "without extension"] += 1


def _is_mask(path: Path, files: Sequence[str]) -> bool:
    """Whether a file has the name of a mask of a slide in the same folder: ``a_mask.tif`` beside ``a.svs``."""
    owner = path.stem.removesuffix("_mask")
    return (
        owner != path.stem
        and path.suffix.lower() in (".tif", ".tiff")
        and any(Path(name).stem == owner and Path(name).suffix.lower() in EXTENSIONS for name in files)
    )


def _is_our_output(folder: Path) -> bool:
    record = folder / "run.json"
    if not record.is_file():
        return False
    try:
        content = store.read_json(record)
    except ArtefactError:
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith("sgcl.")


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        return store.read_table(table, ["path"])
    except LabelError as error:
        raise ConfigError(error.message, error.hint) from error


def _unused(rows: Sequence[Mapping[str, str]]) -> str:
    """A line with the columns that have no meaning here, among which may be a misspelled one; "" if there are none."""
    names = [name for name in (rows[0] if rows else ()) if name not in _COLUMNS]
    return f"--list: unused columns {listed(names, _SHOWN)}; known are {', '.join(_COLUMNS)}" if names else ""


def _from_rows(rows: Sequence[Mapping[str, str]], table: Path, id_from: IdFrom) -> list[Entry]:
    """Entries of the rows of a table; paths may be relative to its folder."""
    entries: list[Entry] = []
    seen: dict[Path, int] = {}
    for number, row in enumerate(rows, 2):
        if not row["path"]:
            raise ConfigError(f"{table}, row {number} has no path", "each row names a slide in column path")
        path = table.parent / row["path"]
        if path.is_dir() and not is_folder(path):
            raise ConfigError(
                f"{table}, row {number} names the folder {row['path']}",
                "a row names one file, of a DICOM series any one; folders are given beside --list",
            )
        resolved = path.absolute()
        if resolved in seen:
            raise ConfigError(
                f"{table}, rows {seen[resolved]} and {number} name the same slide {row['path']}", "remove one of them"
            )
        seen[resolved] = number
        named = _named(path, Path(row["path"]) if not Path(row["path"]).is_absolute() else Path(path.name), id_from)
        where = f"{table}, row {number}"
        entries.append(
            replace(
                named,
                slide_id=row.get("slide_id") or named.slide_id,
                mpp=_table_number(row, "mpp", where, "a positive number of µm per pixel", above_zero=True),
                tissue=_table_choice(row, "tissue", get_args(Choice), where),
                ink=_table_choice(row, "ink", get_args(Ink), where),
                min_area=_table_number(row, "min_area", where, "a number of µm² from 0"),
                max_hole=_table_number(row, "max_hole", where, "a number of µm² from 0"),
            )
        )
    return entries


def _table_number(row: Mapping[str, str], column: str, where: str, what: str, above_zero: bool = False) -> float | None:
    text = row.get(column, "")
    if not text:
        return None
    value = decimal(text)
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        raise ConfigError(
            f"{where}: {column} is '{text}'", f"give {what}, without thousands separators, or leave the cell empty"
        )
    return value


def _table_choice(row: Mapping[str, str], column: str, choices: Sequence[str], where: str) -> Any:
    """One of the choices; None for an empty cell."""
    text = row.get(column, "")
    if text and text.lower() not in choices:
        raise ConfigError(
            f"{where}: {column} is '{text}'", f"choose one of {', '.join(choices)}, or leave the cell empty"
        )
    return text.lower() or None


def _once(entries: list[Entry], passed: Counter[str]) -> list[Entry]:
    """Each path once. The last mention is used, so a row of the table overrides a folder; links with other names are separate."""
    last = {entry.path.absolute(): entry for entry in entries}
    passed["named twice"] += len(entries) - len(last)
    return list(last.values())


def _one_per_series(
    entries: list[Entry], series_of: Callable[[list[Path]], list[str | None]], passed: Counter[str]
) -> list[Entry]:
    """One entry per DICOM series in a folder, with the first file that is given; OpenSlide finds the others by itself."""
    dicom = [entry.path for entry in entries if entry.path.suffix.lower() == ".dcm"]
    named = {path.absolute() for path in dicom}
    beside = [path for path in _beside(dicom) if path.absolute() not in named]
    if len(dicom) + len(beside) < 2:
        return entries
    series = dict(zip([*dicom, *beside], series_of([*dicom, *beside]), strict=True))
    kept: dict[tuple[Path, str], Entry] = {}
    for entry in entries:
        uid = series.get(entry.path)
        key = (entry.path.parent.resolve(), uid) if uid is not None else (entry.path, "")
        if key in kept:
            passed["further file of a DICOM series"] += 1
            kept[key] = replace(kept[key], further=(*kept[key].further, entry.path))
        else:
            kept[key] = entry
    for path in beside:
        key = (path.parent.resolve(), series[path] or "")
        if key in kept:
            kept[key] = replace(kept[key], further=(*kept[key].further, path))
    return list(kept.values())


def _beside(paths: Sequence[Path]) -> list[Path]:
    """All DICOM files in the folders of ``paths``, without hidden ones."""
    folders = sorted({path.parent for path in paths})
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == ".dcm" and not path.name.startswith(".") and path.is_file()
    ]


def _check_id(entry: Entry) -> None:
    reason = names.fault(entry.slide_id)
    if reason:
        raise ConfigError(
            f"the slide id '{names.shown(entry.slide_id)}' {reason}", "name the slide with --list, column slide_id"
        )


def _check_collisions(entries: Sequence[Entry]) -> None:
    """Refuse ids that differ only in case or Unicode composition, which some file systems do not distinguish."""
    clashes = names.shared((names.folded(entry.slide_id), entry) for entry in entries)
    if clashes:
        pairs = "; ".join(" and ".join(str(entry.path) for entry in group) for group in clashes[:_SHOWN])
        more = f"; and {len(clashes) - _SHOWN} more" if len(clashes) > _SHOWN else ""
        raise ConfigError(
            f"slides of one name: {pairs}{more}", "use --id-from path, or give slide_id in a table with --list"
        )


def _summary(passed: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()) if count)
    return f"passed over {passed.total()} ({kinds})"
