"""Duplicate slides: the same slide under two names would be on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.probe.data.audit import Audit

NEARLY_EQUAL = 1e-2
EQUAL = 1e-6
_FEWEST = 3
_BLOCK = 512

Slide = tuple[str, str, FeatureFile]


def audit_duplicates(slides: Sequence[Slide], audit: Audit) -> None:
    """Find slides of one identity, of equal features, and of nearly equal ones.

    The same slide for two patients is an error, for one patient a warning; nearly equal features (their means lie
    closer than a hundredth of the usual distance between slides) are a warning.

    :param slides: (slide id, patient id or "" where unknown, its features).
    """
    known: set[tuple[str, str]] = set()
    seen: dict[str, Slide] = {}
    for slide in slides:
        identity = str((slide[2].attributes or {}).get("source_identity", ""))
        other = seen.setdefault(identity, slide) if identity else slide
        if other is not slide:
            known.add((other[0], slide[0]))
            _record(other, slide, "are the same slide under two names", audit)
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


def _close_pairs(slides: Sequence[Slide]) -> list[tuple[Slide, Slide, float]]:
    """Pairs whose mean features lie closer than ``NEARLY_EQUAL`` times the median distance to the cohort's mean."""
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
