"""The user's labels.csv: slide_id,label[,patient_id][,site][,split], or time and event instead of a label.

Ids are strings and keep leading zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sgcl_cli.artefacts import names as checked_names
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.slide_ids import Names
from sgcl_cli.errors import LabelError

SPLITS = ("train", "val", "test")
_EVENTS = {"1": 1, "0": 0, "true": 1, "false": 0, "yes": 1, "no": 0, "1.0": 1, "0.0": 0}
_MISSING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null")


@dataclass(frozen=True)
class LabelRow:
    """Label of one slide.

    :ivar slide_id: the slide.
    :ivar label: the target as a string; None if no target column was requested.
    :ivar patient_id: the slide id by default.
    :ivar site: None if unknown.
    :ivar split: train, val or test; None if not given.
    :ivar time: time to event or censoring, not negative; None if not requested.
    :ivar event: 1 for an event, 0 for censored; None if not requested.
    """

    slide_id: str
    label: str | None
    patient_id: str
    site: str | None
    split: str | None
    time: float | None = None
    event: int | None = None


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read, in lower case; ``target``, or ``time`` and ``event``, may be None."""

    slide_id: str = "slide_id"
    target: str | None = "label"
    time: str | None = None
    event: str | None = None

    @property
    def needed(self) -> list[str]:
        """The required columns."""
        return [name for name in (self.slide_id, self.target, self.time, self.event) if name is not None]


@dataclass(frozen=True)
class Labels:
    """A table of labels, sorted by slide id.

    :ivar path: the file.
    :ivar rows: one per slide.
    :ivar has_patients: whether the table has the column patient_id.
    :ivar warnings: messages about the table.
    :ivar without_patient: slides with an empty patient_id, if the table has this column.
    """

    path: Path
    rows: tuple[LabelRow, ...]
    has_patients: bool
    warnings: tuple[str, ...]
    without_patient: tuple[str, ...] = ()

    def by_slide(self) -> dict[str, LabelRow]:
        """The rows by slide id."""
        return {row.slide_id: row for row in self.rows}


def read_labels(path: str | Path, columns: Columns = Columns(), known: Iterable[str] = ()) -> Labels:
    """Read and check a table of labels.

    Identical rows are merged with a warning.

    :param columns: the columns to read besides patient_id, site and split; patch-level evaluation reads only these.
    :param known: slide ids to which names in the table are matched, see ``slide_ids``.
    :raises LabelError: unreadable, a missing column, an empty id or label, an invalid time or event, an unknown split, or
        different rows for one slide.
    """
    path = Path(path)
    table = store.read_table(path, columns.needed)
    if not table:
        raise LabelError(f"the table {path} has no rows", "give one row per slide: slide_id,label")
    names = Names.of(known, [cells[columns.slide_id] for cells in table])
    rows: dict[str, LabelRow] = {}
    twice: list[str] = []
    for number, cells in enumerate(table, 2):
        row = _row(cells, columns, names, f"{path}, row {number}")
        before = rows.setdefault(row.slide_id, row)
        if before is row:
            continue
        if before != row:
            raise LabelError(
                f"{path}, row {number}: slide '{row.slide_id}' has two rows with different entries",
                "keep one row per slide",
            )
        twice.append(row.slide_id)
    warnings = []
    if twice:
        warnings.append(f"{path.name}: {len(twice)} repeated rows were merged, first '{twice[0]}'")
    if names.floats:
        warnings.append(
            f"{path.name}: {columns.slide_id} has numbers with an appended '.0', as written by spreadsheets; it is ignored"
        )
    has_patients = "patient_id" in table[0]
    bare = [cells for cells in table if has_patients and not _known(cells["patient_id"])]
    return Labels(
        path=path,
        rows=tuple(rows[key] for key in sorted(rows)),
        has_patients=has_patients,
        warnings=tuple(warnings),
        without_patient=tuple(sorted({names.slide(cells[columns.slide_id]) for cells in bare})),
    )


def _row(cells: dict[str, str], columns: Columns, names: Names, where: str) -> LabelRow:
    slide_id = names.slide(cells[columns.slide_id])
    if not slide_id:
        raise LabelError(f"{where} has no {columns.slide_id}", "fill it in or remove the row")
    if reason := checked_names.fault(slide_id):
        raise LabelError(
            f"{where}: the {columns.slide_id} '{checked_names.shown(slide_id)}' {reason}", "give the slide's id"
        )
    for name in columns.needed:
        if not cells[name]:
            raise LabelError(f"{where}: slide '{slide_id}' has no {name}", "fill it in or remove the row")
    if columns.target is not None and not _known(cells[columns.target]):
        raise LabelError(
            f"{where}: {columns.target} of slide '{slide_id}' is '{cells[columns.target]}', which means a missing value",
            "fill it in or remove the row; a class needs another name",
        )
    split = cells.get("split", "").lower() or None
    if split is not None and split not in SPLITS:
        raise LabelError(f"{where}: split is '{split}'", f"use one of {', '.join(SPLITS)}, or leave it empty")
    return LabelRow(
        slide_id=slide_id,
        label=None if columns.target is None else cells[columns.target],
        patient_id=_known(cells.get("patient_id", "")) or slide_id,
        site=cells.get("site") or None,
        split=split,
        time=None if columns.time is None else _time(cells[columns.time], where, columns.time),
        event=None if columns.event is None else _event(cells[columns.event], where, columns.event),
    )


def _known(text: str) -> str:
    """The cell, or "" if it denotes a missing value."""
    return "" if text.lower() in _MISSING else text


def _time(text: str, where: str, column: str) -> float:
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not math.isfinite(time) or time < 0:
        raise LabelError(f"{where}: {column} is '{text}'", "give a number that is not negative")
    return time


def _event(text: str, where: str, column: str) -> int:
    if text.lower() not in _EVENTS:
        raise LabelError(f"{where}: {column} is '{text}'", "give 1 for an event, 0 for censored")
    return _EVENTS[text.lower()]
