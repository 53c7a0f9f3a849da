"""Split files: read in three formats; written and hashed in the first.

- splits.csv of ``sgcl evaluate``: slide_id, patient_id, fold, split; one row per slide and fold;
- CLAM: columns train, val, test that list slide ids, one file per repetition (splits_0.csv), or a folder of them;
- plain: slide_id, split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.slide_ids import Names
from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.errors import LabelError
from sgcl_cli.probe.data.splits import SPLIT_NAMES, Fold, Plan, finished, unfitted, with_validation

FORMAT = "sgcl.splits/1"
Sides = dict[tuple[str, str], str]
ANYBODY = ""


@dataclass(frozen=True)
class SplitFile:
    """The content of a split file.

    :ivar kind: the format, for messages.
    :ivar folds: for each fold, the side (train, val, test) of each (slide id, patient id). The patient is ``ANYBODY`` if the
        whole slide is on one side; the patients in a folder of images may be on several.
    """

    kind: str
    folds: dict[str, Sides]


def read(path: str | Path, known: Iterable[str] = ()) -> SplitFile:
    """Read a file of any of the three formats, or a folder of CLAM's.

    :param known: slide ids to match the names in the file with; see ``slide_ids``.
    :raises LabelError: no such file, none of the three formats, an unknown split, a slide on two sides of a fold.
    """
    path, known = Path(path), frozenset(known)
    if path.is_dir():
        files = sorted(path.glob("splits_*.csv"), key=lambda file: (len(file.stem), file.stem))
        files = [file for file in files if re.fullmatch(r"splits_\d+", file.stem)]
        if not files:
            raise LabelError(
                f"{path} has no splits_0.csv", "give a split file, or CLAM's folder of splits_0.csv and on"
            )
        return SplitFile("CLAM's", {_clam_name(file): _clam(file, store.read_table(file, []), known) for file in files})
    rows = store.read_table(path, [])
    columns = set(rows[0]) if rows else set()
    if {"slide_id", "fold", "split"} <= columns:
        return SplitFile("ours", _ours(path, rows, known))
    if {"slide_id", "split"} <= columns:
        sides: Sides = {}
        names = Names.of(known, [row["slide_id"] for row in rows])
        for row in rows:
            _add(sides, (names.slide(row["slide_id"]), ANYBODY), row["split"], path)
        return SplitFile("a split column", {"test": sides})
    if {"train", "test"} <= columns:
        return SplitFile("CLAM's", {_clam_name(path): _clam(path, rows, known)})
    raise LabelError(
        f"{path} is no split file: its columns are {', '.join(sorted(columns)) or 'none'}",
        "give slide_id,fold,split (ours), slide_id,split, or CLAM's train,val,test",
    )


def plan_from(
    file: SplitFile,
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    *,
    classes: Sequence[str],
    validation: float = 0.2,
    seed: int = 0,
) -> Plan:
    """The folds of the file; in folds without val slides, validation is taken from the training rows.

    If several folds report a patient, the plan is marked as repeated.

    :param ids: the slide of each row (n,). :param labels, patients: (n,).
    :raises LabelError: a fold without training or test rows, a patient on two sides, validation
        equal to test, a class that is reported and never fitted.
    """
    plan = Plan([])
    known = set(ids.tolist())
    named = {slide for sides in file.folds.values() for slide, _ in sides}
    unmatched = {
        "slides of the split file have no features or label": named - known,
        "slides are in no split": known - named,
    }
    for what, names in unmatched.items():
        if names:
            plan.warnings.append(f"{len(names)} {what}, first '{min(names)}'")
    for index, (name, sides) in enumerate(file.folds.items()):
        of_rows = zip(ids.tolist(), patients.tolist(), strict=True)
        side_of_row = np.array([sides.get((slide, ANYBODY)) or sides.get((slide, who), "") for slide, who in of_rows])
        fold = Fold(name, *(np.flatnonzero(side_of_row == side) for side in ("train", "val", "test")))
        for side, rows in (("train", fold.train), ("val", fold.validation), ("test", fold.test)):
            meant = sorted({slide for (slide, _), one in sides.items() if one == side})
            if not len(rows) and (meant or side != "val"):
                raise LabelError(
                    f"fold {name} has no '{side}' slide that is labelled and embedded: the split file names "
                    f"{listed(meant, 2) or 'none'}, the slides are {listed(sorted(known), 2) or 'none'}",
                    "slide ids must be the same",
                )
        same = len(fold.validation) and {s for s, side in sides.items() if side == "val"} == {
            s for s, side in sides.items() if side == "test"
        }
        if same:
            raise LabelError(f"fold {name}: validation equals test", "settings would be chosen on what is reported")
        missing = unfitted(fold, labels, classes)
        if missing is not None:
            raise LabelError(
                f"fold {name}: class '{missing}' is in 'test' and not in 'train'", "every class needs training rows"
            )
        plan.folds.append(with_validation(fold, index, ids, labels, patients, share=validation, seed=seed))
    _note_repeats(plan, patients)
    return finished(plan, labels, patients, classes)


def rows_of(plan: Plan, ids: NDArray[np.str_], patients: NDArray[np.str_]) -> list[dict[str, str]]:
    """The plan as rows of splits.csv, one per slide and fold, in the order of folds and slide ids."""
    rows = []
    for fold in plan.folds:
        for split, members in (("train", fold.train), ("val", fold.validation), ("test", fold.test)):
            pairs = sorted(set(zip(ids[members].tolist(), patients[members].tolist(), strict=True)))
            rows += [{"slide_id": s, "patient_id": p, "fold": fold.name, "split": split} for s, p in pairs]
    return rows


def identity(plan: Plan, ids: NDArray[np.str_], patients: NDArray[np.str_]) -> str:
    """Hash of the division: equal for equal folds, whatever the order of rows and the source."""
    rows = ["\t".join(row.values()) for row in rows_of(plan, ids, patients)]
    return store.artefact_id(FORMAT, {}, sorted(rows))


def _ours(path: Path, rows: Sequence[dict[str, str]], known: frozenset[str]) -> dict[str, Sides]:
    names = Names.of(known, [row["slide_id"] for row in rows])
    several: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        several.setdefault((row["fold"], row["slide_id"]), set()).add(row["split"])
    folds: dict[str, Sides] = {}
    for row in rows:
        apart = len(several[row["fold"], row["slide_id"]]) > 1
        key = (names.slide(row["slide_id"]), row.get("patient_id", ANYBODY) if apart else ANYBODY)
        _add(folds.setdefault(row["fold"], {}), key, row["split"], path)
    return folds


def _clam(path: Path, rows: Sequence[dict[str, str]], known: frozenset[str]) -> Sides:
    if not rows or not {"train", "test"} <= set(rows[0]):
        raise LabelError(
            f"{path} has no columns train and test", "CLAM's split files list slide ids under train,val,test"
        )
    if {row["train"].lower() for row in rows} <= {"true", "false"}:
        raise LabelError(f"{path} is CLAM's table of true and false", "give splits_N.csv, not splits_N_bool.csv")
    sides: Sides = {}
    cells = [(row[column], column) for row in rows for column in ("train", "val", "test") if row.get(column)]
    names = Names.of(known, [cell for cell, _ in cells])
    for cell, column in cells:
        _add(sides, (names.slide(cell), ANYBODY), column, path)
    return sides


def _clam_name(path: Path) -> str:
    found = re.search(r"(\d+)$", path.stem)
    return str(int(found[1]) + 1) if found else "test"


def _add(sides: Sides, key: tuple[str, str], split: str, path: Path) -> None:
    slide, side = key[0], SPLIT_NAMES.get(split.strip().lower())
    if side is None:
        raise LabelError(f"{path}: split of '{slide}' is '{split}'", "every split is one of train, val, test")
    known = sides.setdefault(key, side)
    if known != side:
        raise LabelError(f"{path}: slide '{slide}' is in both '{known}' and '{side}'", "a slide has one side")


def _note_repeats(plan: Plan, patients: NDArray[np.str_]) -> None:
    """Mark plans with folds that share reported patients, as CLAM's do: it draws every split from all patients."""
    of_folds = [np.unique(patients[fold.test]) for fold in plan.folds]
    names, counts = np.unique(np.concatenate(of_folds), return_counts=True)
    if counts.max(initial=0) > 1:
        plan.repeats = True
        plan.warnings.append(
            f"{(counts > 1).sum()} of {len(names)} reported patients are reported by several of the {len(plan.folds)} divisions, "
            "which are repetitions, not folds: intervals draw each patient once for all of them, and the spread over folds is "
            "that of divisions that share patients"
        )
