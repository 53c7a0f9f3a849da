"""Label-efficiency curves: a model refitted on nested subsets of the training patients, with repeats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.data.splits import Fold, inner_split
from sgcl_cli.probe.scores.reported import rows_per_patient

SHARES = (0.01, 0.1, 1.0)
REPEATS = 5


@dataclass(frozen=True)
class Point:
    """One share of one repeat: the fold with fewer training patients; None, with the reason, if the share is left out."""

    share: float
    repeat: int
    fold: Fold | None
    patients: int
    reason: str = ""


def points(
    fold: Fold,
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    *,
    classes: Sequence[str],
    shares: Sequence[float] = SHARES,
    repeats: int = REPEATS,
    validation: float = 0.2,
    seed: int = 0,
) -> Iterator[Point]:
    """Nested shares of the training patients of a fold, with unchanged test rows.

    A share counts training and validation patients together, since choosing settings uses labels too; the inner validation
    is split off as in the fold itself (without one, settings are the defaults). Each repeat has one random order of the
    patients, stratified so that every prefix has about the class proportions of the whole. A share without a patient of
    some class is left out. The share 1 is the unchanged fold, once.
    """
    fitted = fold.fitted
    for repeat in range(repeats):
        order = _order(labels[fitted], patients[fitted], np.random.default_rng([seed, 3, *fold.name.encode(), repeat]))
        for share in sorted(shares):
            if share >= 1:
                if repeat == 0:
                    yield Point(share, repeat, fold, len(order))
                continue
            chosen = order[: round(share * len(order))]
            rows = fitted[np.isin(patients[fitted], chosen)]
            absent = np.setdiff1d(labels[fitted], labels[rows])
            if len(absent):
                reason = (
                    f"{share:.3g} of {len(order)} patients includes no patient of class '{classes[int(absent[0])]}'"
                )
                yield Point(share, repeat, None, len(chosen), reason)
                continue
            words = np.random.SeedSequence([seed, 4, repeat]).generate_state(1)
            train, held_out = inner_split(ids, labels, patients, rows, share=validation, seed=int(words[0]))
            yield Point(share, repeat, Fold(fold.name, train, held_out, fold.test), len(chosen))


def _order(labels: NDArray[np.int64], patients: NDArray[np.str_], generator: np.random.Generator) -> NDArray[np.str_]:
    """Patients sorted by (rank within their class + 1/2) / patients of that class; ranks are random, ties broken at random.

    The class of a patient is that of most of its rows.
    """
    names = np.unique(patients)
    _, counts = rows_per_patient(patients, labels, int(labels.max()) + 1)
    stratum = counts.argmax(1)
    place = np.empty(len(names))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        place[members] = (generator.permutation(len(members)) + 0.5) / len(members)
    return names[np.lexsort((generator.random(len(names)), place))]
