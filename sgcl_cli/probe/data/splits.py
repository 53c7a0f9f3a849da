"""Divisions of the rows into training, validation and test, in which all rows of a patient are on one side.

Every function takes parallel arrays, one entry per row (a slide or a patch): ``ids`` (str, used only for sorting),
``labels`` (class numbers) and ``patients`` (str). The result does not depend on the order of the rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.errors import LabelError

Rows = NDArray[np.int64]
ATTEMPTS = 20
FOLDS = 5
FEWEST_IN_A_FOLD = 4
NOBODY: Rows = np.array([], dtype=np.int64)
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Fold:
    """One division as ascending row numbers; ``validation`` is empty if there are too few patients."""

    name: str
    train: Rows
    validation: Rows
    test: Rows

    @property
    def fitted(self) -> Rows:
        """All rows that a model of this fold may use: training and validation."""
        return np.sort(np.concatenate([self.train, self.validation]))


@dataclass
class Plan:
    """The folds.

    :ivar warnings: shortcomings of the folds, for the report.
    :ivar repeats: whether the folds are repeated divisions of all patients, so that several may report a patient.
    """

    folds: list[Fold]
    warnings: list[str] = field(default_factory=list)
    repeats: bool = False


def patients_per_class(labels: NDArray[np.int64], patients: NDArray[np.str_]) -> dict[int, int]:
    """The number of patients with at least one row, for each class."""
    return {int(c): len(np.unique(patients[labels == c])) for c in np.unique(labels)}


def folds_for(patients: int, fewest: int = FEWEST_IN_A_FOLD) -> int:
    """The number of folds, 2 to 5, that leaves at least ``fewest`` patients (of the rarest class) in each."""
    return max(2, min(FOLDS, patients // fewest))


def cross_validation(
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    *,
    classes: Sequence[str],
    folds: int = FOLDS,
    validation: float = 0.2,
    seed: int = 0,
) -> Plan:
    """Patient-grouped, stratified, disjoint folds, each with an inner validation split taken from its training part.

    :param classes: names of the classes, for messages.
    :param validation: share of the training rows that is used to choose settings, approximately.
    :raises LabelError: a class has fewer patients than folds, or no division has every class on both sides.
    """
    counts = patients_per_class(labels, patients)
    rarest = min(counts, key=lambda c: (counts[c], c))
    if counts[rarest] < 2:
        alike = _spelt_alike(classes[rarest], [classes[c] for c in counts if c != rarest])
        raise LabelError(
            f"class '{classes[rarest]}' has {counts[rarest]} patient: it cannot be both fitted and reported",
            f"is it '{alike}', misspelt?"
            if alike
            else "add patients of that class, merge it with another class, or give a split column",
        )
    if counts[rarest] < folds:
        raise LabelError(
            f"class '{classes[rarest]}' has {counts[rarest]} patients, fewer than {folds} folds",
            f"use --folds {counts[rarest]}, or add patients of that class",
        )
    order = np.lexsort((labels, ids, patients))
    plan = Plan([])
    for number in range(folds, 1, -1):
        parts = _best_partition(labels[order], patients[order], number, seed)
        if parts is not None:
            break
        plan.warnings.append(f"no {number} folds have every class on both sides; trying {number - 1}")
    else:
        raise LabelError(
            "no division by patient has every class on both sides",
            "too few patients hold more than one class; add patients or merge classes",
        )
    rows = ids, labels, patients
    for index, part in enumerate(parts):
        test = np.sort(order[part])
        rest = np.setdiff1d(np.arange(len(labels)), test)
        fold = Fold(str(index + 1), rest, NOBODY, test)
        plan.folds.append(with_validation(fold, index, *rows, share=validation, seed=seed))
    return finished(plan, labels, patients, classes)


def _spelt_alike(name: str, others: Sequence[str]) -> str | None:
    """A class with a nearly equal name: other case or a typing error."""
    found = get_close_matches(name.casefold(), [other.casefold() for other in others if not other.isdecimal()], 1, 0.8)
    return next((other for other in others if found and other.casefold() == found[0]), None)


def given(
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    splits: NDArray[np.str_],
    *,
    classes: Sequence[str],
    validation: float = 0.2,
    seed: int = 0,
) -> Plan:
    """The division of a split column; without ``val`` rows, validation is taken from the training rows.

    :param splits: train, val or test for each row.
    :raises LabelError: an unknown or missing split, no training or test rows, a patient in two splits, a class that
        is reported but never fitted.
    """
    names = np.array([SPLIT_NAMES.get(value.strip().lower(), "") for value in splits])
    if (names == "").any():
        row = int(np.flatnonzero(names == "")[0])
        raise LabelError(
            f"split of '{ids[row]}' is '{splits[row]}'", "every row of the split column is one of train, val, test"
        )
    parts = {name: np.flatnonzero(names == name) for name in ("train", "val", "test")}
    for name in ("train", "test"):
        if not len(parts[name]):
            raise LabelError(f"no row has split '{name}'", "give train and test rows, or leave the split column out")
    for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
        shared = np.intersect1d(patients[parts[first]], patients[parts[second]])
        if len(shared):
            raise LabelError(
                f"{_listed(shared)} {'is' if len(shared) == 1 else 'are'} in both '{first}' and '{second}'",
                "a patient belongs to one split",
            )
    fold = Fold("test", parts["train"], parts["val"], parts["test"])
    missing = unfitted(fold, labels, classes)
    if missing is not None:
        raise LabelError(f"class '{missing}' is in 'test' and not in 'train'", "every class needs training rows")
    plan = Plan([with_validation(fold, 0, ids, labels, patients, share=validation, seed=seed)])
    return finished(plan, labels, patients, classes)


def by_site(
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    sites: NDArray[np.str_],
    *,
    classes: Sequence[str],
    validation: float = 0.2,
    seed: int = 0,
) -> Plan:
    """Leave each site out once, as the test rows of models fitted on the others; validation is taken from those, by patient.

    :param sites: the site of each row.
    :raises LabelError: a row without a site, fewer than two sites, a patient at two sites, or a class at one site only.
    """
    if (sites == "").any():
        raise LabelError(
            f"'{ids[int(np.flatnonzero(sites == '')[0])]}' has no site",
            "leaving sites out needs one for every row: fill the column site in",
        )
    names = np.unique(sites)
    if len(names) < 2:
        raise LabelError(f"there is one site only: '{names[0]}'", "leave --cv site out, or give the column site")
    plan = Plan([])
    for index, name in enumerate(names.tolist()):
        test, rest = np.flatnonzero(sites == name), np.flatnonzero(sites != name)
        shared = np.intersect1d(patients[test], patients[rest])
        if len(shared):
            raise LabelError(
                f"slides of {_listed(shared)} are at several sites, one of them '{name}'", "a patient has one site"
            )
        fold = Fold(name, rest, NOBODY, test)
        missing = unfitted(fold, labels, classes)
        if missing is not None:
            raise LabelError(
                f"class '{missing}' is at site '{name}' only",
                "without that site it cannot be fitted: leave --cv site out, or merge classes",
            )
        plan.folds.append(with_validation(fold, index, ids, labels, patients, share=validation, seed=seed))
    return finished(plan, labels, patients, classes)


def bins_of(values: NDArray[np.float64], patients: NDArray[np.str_], bins: int = 4) -> NDArray[np.int64]:
    """Class numbers (n,) to stratify measurements by: quantiles of the patients' means, the same for all rows of a patient."""
    _, number = np.unique(patients, return_inverse=True)
    means = np.bincount(number, values) / np.bincount(number)
    edges = np.unique(np.quantile(means, np.arange(1, bins) / bins))
    found: NDArray[np.int64] = np.searchsorted(edges, means, side="right")[number].astype(np.int64)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def unfitted(fold: Fold, labels: NDArray[np.int64], classes: Sequence[str]) -> str | None:
    """The first class in the test rows that is absent from the training rows; None if there is none."""
    missing = np.setdiff1d(labels[fold.test], labels[fold.train])
    return classes[int(missing[0])] if len(missing) else None


def with_validation(
    fold: Fold,
    number: int,
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    *,
    share: float,
    seed: int,
) -> Fold:
    """The fold; if it has no validation rows, with that share of its training rows as validation.

    :param number: index of the fold in its plan, part of the random stream.
    """
    if len(fold.validation):
        return fold
    train, chosen = inner_split(ids, labels, patients, fold.train, share=share, seed=_stream(seed, 1, number))
    return replace(fold, train=train, validation=chosen)


def finished(plan: Plan, labels: NDArray[np.int64], patients: NDArray[np.str_], classes: Sequence[str]) -> Plan:
    """The plan with warnings added, checked by ``verify``."""
    _warn_about_folds(plan, labels, classes)
    verify(plan.folds, patients, repeats=plan.repeats)
    return plan


def inner_split(
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    rows: Rows,
    *,
    share: float,
    seed: int,
) -> tuple[Rows, Rows]:
    """Divide ``rows`` into training and validation, by patient and stratified.

    Training keeps every class; the only patient of a class stays in training. Validation is empty if no patient is left
    for it.

    :returns: row numbers of training and of validation, each ascending.
    """
    rows = rows[np.lexsort((labels[rows], ids[rows], patients[rows]))]
    own_labels, own_patients = labels[rows], patients[rows]
    counts = patients_per_class(own_labels, own_patients)
    last = [c for c, count in counts.items() if count == 1]
    bound = np.isin(own_patients, own_patients[np.isin(own_labels, last)])
    free = np.flatnonzero(~bound)
    whole = np.sort(rows), NOBODY
    if len(np.unique(own_patients[free])) < 2:
        return whole
    mirrored = share > 0.5
    number = max(2, round(1 / (1 - share if mirrored else share)))
    free_counts = patients_per_class(own_labels[free], own_patients[free])
    number = min(number, max(2, min(free_counts.values())))
    wanted = {c for c, count in counts.items() if count > 1}
    fallback: tuple[Rows, Rows] | None = None
    for parts in _partitions(own_labels[free], own_patients[free], number, seed):
        for part in parts:
            inside = np.zeros(len(rows), dtype=bool)
            inside[free[part]] = True
            if mirrored:
                inside = ~inside & ~bound
            kept = set(own_labels[~inside].tolist())
            if not inside.any() or kept != set(counts):
                continue
            pair = np.sort(rows[~inside]), np.sort(rows[inside])
            if set(own_labels[inside].tolist()) >= wanted:
                return pair
            fallback = fallback or pair
    return fallback or whole


def verify(folds: Sequence[Fold], patients: NDArray[np.str_], *, repeats: bool = False) -> None:
    """Check that no patient is on two sides and no fold is empty.

    :param repeats: whether several folds may report a patient.
    :raises LabelError: a patient is on two sides of a fold or, without ``repeats``, reported twice, or a fold is empty.
    """
    reported: set[str] = set()
    for fold in folds:
        sides = [set(patients[rows].tolist()) for rows in (fold.train, fold.validation, fold.test)]
        if not sides[0] or not sides[2]:
            raise LabelError(f"fold {fold.name} is empty", "use fewer folds")
        shared = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2]) | (sides[2] & reported)
        if shared:
            raise LabelError(
                f"{_listed(sorted(shared))} would be on two sides of fold {fold.name}",
                "all slides of a patient belong to one side: correct the split, or patient_id",
            )
        reported |= set() if repeats else sides[2]


def _best_partition(labels: NDArray[np.int64], patients: NDArray[np.str_], number: int, seed: int) -> list[Rows] | None:
    """The first partition with every class in each part; else one with every class in each complement; else None."""
    every = set(labels.tolist())
    fallback: list[Rows] | None = None
    for parts in _partitions(labels, patients, number, _stream(seed, 0, number)):
        if any(len(part) == 0 for part in parts):
            continue
        if any(set(np.delete(labels, part).tolist()) != every for part in parts):
            continue
        if all(set(labels[part].tolist()) == every for part in parts):
            return parts
        fallback = fallback or parts
    return fallback


def _partitions(labels: NDArray[np.int64], patients: NDArray[np.str_], number: int, seed: int) -> Iterator[list[Rows]]:
    """Up to 20 seeded partitions by scikit-learn's StratifiedGroupKFold."""
    if len(np.unique(patients)) < number or np.bincount(labels).max() < number:
        return
    for attempt in range(ATTEMPTS):
        folder = StratifiedGroupKFold(number, shuffle=True, random_state=_stream(seed, attempt))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            parts = [test.astype(np.int64) for _, test in folder.split(labels, labels, patients)]
        yield parts


def _warn_about_folds(plan: Plan, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Add warnings about folds without validation, and about classes that a fold does not report."""
    without = [fold.name for fold in plan.folds if not len(fold.validation)]
    if without:
        plan.warnings.append(
            f"fold {', '.join(without)}: too few patients for a validation split; its settings are the defaults"
        )
    for number, name in enumerate(classes):
        lacking = [
            fold.name for fold in plan.folds if len(fold.test) and number in labels and number not in labels[fold.test]
        ]
        if lacking:
            plan.warnings.append(f"fold {', '.join(lacking)}: no test row of class '{name}'")


def _stream(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _listed(patients: Sequence[str] | NDArray[np.str_]) -> str:
    return f"patient{'s' if len(patients) > 1 else ''} {listed(list(patients), 3)}"
