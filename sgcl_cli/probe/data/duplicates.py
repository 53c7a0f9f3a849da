"""Duplicate slides: a slide, or a part of it, under two names could be on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.probe.data.audit import Audit

NEARLY_EQUAL = 1e-2
EQUAL = 1e-6
MUCH_SHARED = 0.5
SOME_SHARED = 0.05
_FEWEST = 3
_BLOCK = 512
_COMMON = 5  # a row that more files share is background

Slide = tuple[str, str, FeatureFile]


def audit_duplicates(slides: Sequence[Slide], audit: Audit) -> None:
    """Find slides with the same identity, with equal or nearly equal features, or with shared rows.

    The same slide (or half of its rows) in two patients is an error, in one patient a warning. Sharing 5 % of the rows, or nearly
    equal features (means closer than ``NEARLY_EQUAL`` times the usual distance between slides), is a warning.

    :param slides: (slide id, patient id or "" where unknown or several, its features).
    """
    known: set[tuple[str, str]] = set()
    seen: dict[str, Slide] = {}
    for slide in slides:
        identity = str((slide[2].attributes or {}).get("source_identity", ""))
        other = seen.setdefault(identity, slide) if identity else slide
        if other is not slide:
            known.add((other[0], slide[0]))
            _record(other, slide, "are the same slide under two names", audit)
    for first, second, shared in _sharing_pairs(slides):
        if (first[0], second[0]) in known or (shared >= 1 and len(first[2]) == len(second[2])):
            continue
        known.add((first[0], second[0]))
        message = f"{100 * shared:.0f} % of the rows"
        if shared >= MUCH_SHARED:
            _record(first, second, f"share {message}: parts of the same slide under two names", audit)
        else:
            audit.warn("twins", f"'{first[0]}' and '{second[0]}' share {message}: do they overlap?")
    for first, second, apart in _close_pairs(slides):
        if (first[0], second[0]) in known:
            continue
        if apart <= EQUAL and len(first[2]) == len(second[2]):
            _record(first, second, "have equal features: the same slide under two names", audit)
        else:
            audit.warn("twins", f"'{first[0]}' and '{second[0]}' have nearly equal features: the same slide twice?")


def _record(first: Slide, second: Slide, what: str, audit: Audit) -> None:
    message = f"'{first[0]}' and '{second[0]}' {what}"
    if first[1] == second[1] and first[1]:
        audit.warn("twins", message)
    else:
        audit.error("twins", message, "keep one of them")


def _sharing_pairs(slides: Sequence[Slide]) -> list[tuple[Slide, Slide, float]]:
    """Pairs that share at least 5 % of the distinct rows of the smaller slide, with that share."""
    hashes = [np.unique(_row_hashes(slide[2].features)) for slide in slides]
    every = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.uint64)
    owner = np.repeat(np.arange(len(hashes)), [len(one) for one in hashes])
    order = np.argsort(every, kind="stable")
    _, start, count = np.unique(every[order], return_index=True, return_counts=True)
    shared: dict[tuple[int, int], int] = {}
    for many in range(2, _COMMON + 1):
        owners = owner[order[start[count == many, None] + np.arange(many)]]
        for i, j in combinations(range(many), 2):
            pairs, times = np.unique(owners[:, [i, j]], axis=0, return_counts=True)
            for (one, other), rows in zip(pairs.tolist(), times.tolist(), strict=True):
                shared[one, other] = shared.get((one, other), 0) + rows
    found = []
    for (one, other), rows in sorted(shared.items()):
        share = rows / min(len(hashes[one]), len(hashes[other]))
        if share >= SOME_SHARED and rows > 1:
            found.append((slides[one], slides[other], share))
    return found


def _row_hashes(features: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Hash of each row (N,): its bits times odd random numbers, summed modulo 2^64."""
    odd = np.random.default_rng(0).integers(0, 2**63, features.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty(len(features), dtype=np.uint64)
    for start in range(0, len(features), _BLOCK):
        block = np.ascontiguousarray(features[start : start + _BLOCK])
        bits = block.view(f"u{block.dtype.itemsize}").astype(np.uint64)
        found[start : start + _BLOCK] = (bits * odd).sum(1, dtype=np.uint64)
    return found


def _close_pairs(slides: Sequence[Slide]) -> list[tuple[Slide, Slide, float]]:
    """Pairs with mean features closer than ``NEARLY_EQUAL`` times the median distance to the cohort mean, with the ratio."""
    filled = [slide for slide in slides if len(slide[2])]
    if len(filled) < _FEWEST:
        return []
    means = np.stack([slide[2].features.mean(axis=0, dtype=np.float64) for slide in filled])
    means -= means.mean(axis=0)
    squares = (means**2).sum(1)
    usual = float(np.median(np.sqrt(squares)))
    if usual == 0:
        return []
    pairs = []
    for start in range(0, len(means), _BLOCK):
        rough = squares[start : start + _BLOCK, None] + squares - 2 * means[start : start + _BLOCK] @ means.T
        for i, j in np.argwhere(rough <= 2 * (NEARLY_EQUAL * usual) ** 2).tolist():
            apart = float(np.linalg.norm(means[start + i] - means[j])) / usual
            if start + i < j and apart <= NEARLY_EQUAL:
                pairs.append((filled[start + i], filled[j], apart))
    return pairs
