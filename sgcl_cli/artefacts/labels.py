"""labels.csv, brought by the user: slide_id,label[,patient_id][,site][,split]. Ids are text: a leading zero stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sgcl_cli.artefacts import store
from sgcl_cli.errors import LabelError

SPLITS = ("train", "val", "test")
_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi", ".dcm", ".h5", ".pt", ".npy",
)  # fmt: skip


@dataclass(frozen=True)
class LabelRow:
    """One slide's label. ``label`` is None where the table gives the patient alone; ``patient_id`` defaults to the slide."""

    slide_id: str
    label: str | None
    patient_id: str
    site: str | None
    split: str | None


@dataclass(frozen=True)
class Labels:
    """The table, sorted by slide id, with what its reader should know."""

    path: Path
    rows: tuple[LabelRow, ...]
    has_patients: bool
    warnings: tuple[str, ...]

    def by_slide(self) -> dict[str, LabelRow]:
        """The rows by slide id."""
        return {row.slide_id: row for row in self.rows}


def plain_id(text: str) -> str:
    """A slide id without a file suffix that tables often carry: ``007.svs`` -> ``007``."""
    lower = text.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix) and len(text) > len(suffix):
            return text[: -len(suffix)]
    return text


def read_labels(path: str | Path, target: str = "label", *, need_target: bool = True) -> Labels:
    """Read and check a table of labels.

    Equal rows that stand twice are merged with a warning.

    :param target: the column that holds the label.
    :param need_target: whether that column must be there; patch-level evaluation only takes patients, sites and splits.
    :raises LabelError: unreadable, a missing column, an empty id or label, an unknown split, one slide with two different rows.
    """
    path = Path(path)
    column = target.strip().lower()
    table = store.read_table(path, ["slide_id", *([column] if need_target else [])])
    if not table:
        raise LabelError(f"the table {path} has no rows", "give one row a slide: slide_id,label")
    rows: dict[str, LabelRow] = {}
    twice: list[str] = []
    for number, cells in enumerate(table, 2):
        row = _row(cells, column, path, number, need_target)
        known = rows.setdefault(row.slide_id, row)
        if known is row:
            continue
        if known != row:
            raise LabelError(
                f"{path}, row {number}: slide '{row.slide_id}' stands twice with different entries",
                "keep one row a slide",
            )
        twice.append(row.slide_id)
    warnings = []
    if twice:
        warnings.append(f"{path.name}: {len(twice)} rows stand twice and were merged, first '{twice[0]}'")
    return Labels(
        path=path,
        rows=tuple(rows[key] for key in sorted(rows)),
        has_patients="patient_id" in table[0],
        warnings=tuple(warnings),
    )


def _row(cells: dict[str, str], column: str, path: Path, number: int, need_target: bool) -> LabelRow:
    slide_id = plain_id(cells["slide_id"])
    if not slide_id:
        raise LabelError(f"{path}, row {number} has no slide_id", "fill it in or remove the row")
    label = cells.get(column) or None
    if label is None and need_target:
        raise LabelError(f"{path}, row {number}: slide '{slide_id}' has no {column}", "fill it in or remove the row")
    split = cells.get("split", "").lower() or None
    if split is not None and split not in SPLITS:
        raise LabelError(
            f"{path}, row {number}: split is '{split}'", f"use one of {', '.join(SPLITS)}, or leave it empty"
        )
    return LabelRow(
        slide_id=slide_id,
        label=label,
        patient_id=cells.get("patient_id") or slide_id,
        site=cells.get("site") or None,
        split=split,
    )
